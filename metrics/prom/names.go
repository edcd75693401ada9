package prom

import "github.com/prometheus/client_golang/prometheus"

// names are the metrics.
type names struct {
	all       []*prometheus.Desc
	namespace string

	state, transport, attempts, disconnects, resumes, connected, nextAttempt *prometheus.Desc
	outages, unavailable, outage, pingRTT, pace, silence                     *prometheus.Desc
	received, delivered, dropped, conflated, waiting, waitingBytes           *prometheus.Desc
	memory, memoryLimit                                                      *prometheus.Desc
	unacked, discarded, losses, missed, subscriptions, live, failed          *prometheus.Desc
	subStates                                                                *prometheus.Desc
	malformed, unrequested, bytesRead, bytesWritten                          *prometheus.Desc
	published, resent, outcomes, window, windowBytes, oldestPending          *prometheus.Desc
	delivery, source, publish, ping, connection, outageDuration              *prometheus.Desc
	subOpen, subLive, subWaiting, subReceived, subDropped, subMissed         *prometheus.Desc
	serverConnections, serverSessions, serverSubscriptions, serverIDs        *prometheus.Desc
	serverRefused, serverClosed, serverUplink, serverDelivered               *prometheus.Desc
	serverLosses, serverFirst, serverHead                                    *prometheus.Desc
}

func newNames(namespace string) names {
	n := names{namespace: namespace}

	n.state = n.client("connection_state", "1 for the phase that the client is in, 0 for the others.", "state")
	n.transport = n.client("connection_transport", "1 for what carries the connection that is ready, 0 for the others; http is plain requests.", "transport")
	n.attempts = n.client("connect_attempts_total", "Finished attempts to connect: ok, or the class of the error.", "result")
	n.disconnects = n.client("disconnects_total", "Lost connections, by the class of the error.", "class")
	n.resumes = n.client("resumes_total", "Connections that became ready, by whether the server still knew the session.", "verdict")
	n.connected = n.client("connected_seconds", "How long the connection has been ready; 0 without one.")
	n.nextAttempt = n.client("next_attempt_seconds", "How long until the next attempt; 0 if the client does not wait for one.")
	n.outages = n.client("outages_total", "Outages, from the loss of a connection until everything that was live is live again.")
	n.unavailable = n.client("unavailable_seconds_total", "How long outages lasted together, with the one that lasts.")
	n.outage = n.client("outage_current_seconds", "How long the present outage has lasted; 0 without one.")
	n.pingRTT = n.client("heartbeat_rtt_last_seconds", "How long the last ping took.")
	n.pace = n.client("send_pace_messages_per_second", "How many messages a second the client takes the server to allow; it sends four fifths at most. 0 without a limit.")
	n.silence = n.client("silence_seconds", "Time since the last received message.")

	n.received = n.client("received_messages_total", "Messages from the server, without duplicates. It is the sum of delivered, dropped, conflated and waiting.")
	n.delivered = n.client("delivered_messages_total", "Messages handed to consumers.")
	n.dropped = n.client("dropped_messages_total", "Messages dropped by an overflow policy, or by closing.", "reason")
	n.conflated = n.client("conflated_messages_total", "Messages replaced by a newer one of their key.")
	n.waiting = n.client("waiting_messages", "Messages that wait for a consumer.")
	n.waitingBytes = n.client("waiting_bytes", "Payload bytes of the messages that wait in queues.")
	n.memory = n.client("memory_bytes", "Bytes of Options.Memory in use: what waits in queues, and what servers may still send.")
	n.memoryLimit = n.client("memory_limit_bytes", "Bytes that all queues may take together: Options.Memory.")
	n.unacked = n.client("unacked_messages", "Delivered messages that their consumers have not acknowledged.")
	n.discarded = n.client("discarded_messages_total", "Messages received again, or of an earlier subscription.", "reason")
	n.losses = n.client("gaps_total", "Gaps and resets in the streams.", "kind")
	n.missed = n.client("missed_messages_total", "Messages missing in gaps and resets, as far as known.")
	n.subscriptions = n.client("subscriptions", "Subscriptions.")
	n.live = n.client("live_subscriptions", "Subscriptions that the server serves.")
	n.subStates = n.client("subscription_states", "Subscriptions in each state: pending, live, recovering, and ended with messages that wait for a consumer.", "state")
	n.failed = n.client("failed_subscriptions_total", "Subscriptions that ended with an error while the client went on.")
	n.malformed = n.client("malformed_messages_total", "Received messages that the dialect could not read or place.")
	n.unrequested = n.client("unrequested_messages_total", "Received messages for topics that the client never subscribed to.")
	n.bytesRead = n.client("received_bytes_total", "Payload bytes of received WebSocket messages.")
	n.bytesWritten = n.client("sent_bytes_total", "Payload bytes of written WebSocket messages.")

	n.published = n.client("published_messages_total", "Messages that Publish admitted.")
	n.resent = n.client("resent_messages_total", "Times that a message was sent again.")
	n.outcomes = n.client("publish_outcomes_total", "Messages by outcome.", "outcome")
	n.window = n.client("window_messages", "Messages in the send window.")
	n.windowBytes = n.client("window_bytes", "Payload bytes of the messages in the send window.")
	n.oldestPending = n.client("oldest_pending_seconds", "How long the oldest message without an outcome has waited for it.")

	n.delivery = n.client("delivery_lag_seconds", "From the read of a message to its hand-over to a consumer.")
	n.source = n.client("source_lag_seconds", "From the server's time in a message to its hand-over to a consumer.")
	n.publish = n.client("publish_duration_seconds", "From the admission of a message to its outcome.")
	n.ping = n.client("heartbeat_rtt_seconds", "From a ping to its pong.")
	n.connection = n.client("connection_duration_seconds", "How long connections were ready.")
	n.outageDuration = n.client("outage_seconds", "How long outages lasted.")

	n.subOpen = n.client("subscription_open", "Open subscriptions of this label.", "subscription")
	n.subLive = n.client("subscription_live", "Open subscriptions of this label that the server serves.", "subscription")
	n.subWaiting = n.client("subscription_waiting_messages", "Messages of open subscriptions that wait for a consumer.", "subscription")
	n.subReceived = n.client("subscription_received_messages", "Messages of open subscriptions received. It falls when one closes.", "subscription")
	n.subDropped = n.client("subscription_dropped_messages", "Messages of open subscriptions dropped. It falls when one closes.", "subscription")
	n.subMissed = n.client("subscription_missed_messages", "Messages of open subscriptions missing. It falls when one closes.", "subscription")
	n.addServer()
	return n
}

// addServer adds the names of package server.
func (n *names) addServer() {
	n.serverConnections = n.server("connections", "Connections, before and after the welcome.", "state")
	n.serverSessions = n.server("sessions", "Sessions, those without a connection included.")
	n.serverSubscriptions = n.server("subscriptions", "Live subscriptions.")
	n.serverIDs = n.server("remembered_ids", "Message ids remembered to recognise duplicates.")
	n.serverRefused = n.server("refused_connections_total", "Refused connections, before the welcome, by reason.", "reason")
	n.serverClosed = n.server("closed_connections_total", "Connections that the server closed: a newer one took over, the peer was silent, the peer did not read.", "reason")
	n.serverUplink = n.server("uplink_messages_total", "Messages from clients, by what became of them.", "result")
	n.serverDelivered = n.server("delivered_messages_total", "Messages sent to subscriptions.")
	n.serverLosses = n.server("gaps_total", "Gaps and resets sent to subscriptions.", "kind")
	n.serverFirst = n.server("log_first_offset", "Offset of the oldest message in the log.")
	n.serverHead = n.server("log_head_offset", "Offset of the newest message in the log.")
}

func (n *names) client(name, help string, labels ...string) *prometheus.Desc {
	return n.add(prometheus.BuildFQName(n.namespace, "", name), help, append([]string{"client"}, labels...))
}

func (n *names) server(name, help string, labels ...string) *prometheus.Desc {
	return n.add(prometheus.BuildFQName(n.namespace, "server", name), help, append([]string{"server"}, labels...))
}

func (n *names) add(name, help string, labels []string) *prometheus.Desc {
	d := prometheus.NewDesc(name, help, labels, nil)
	n.all = append(n.all, d)
	return d
}
