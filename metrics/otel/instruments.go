package limpetotel

import (
	"errors"

	"go.opentelemetry.io/otel/metric"
)

// instruments are the counters and gauges. What means something as a sum over clients is an
// up-down counter, and what does not is a gauge.
type instruments struct {
	state, transport, attempts, disconnects, resumes, outages              metric.Int64Observable
	received, delivered, dropped, conflated, waiting, waitingSize, unacked metric.Int64Observable
	memory, memoryLimit                                                    metric.Int64Observable
	discarded, losses, missed, subscriptions, live, failed                 metric.Int64Observable
	subStates, malformed, unrequested, io                                  metric.Int64Observable
	published, resent, outcomes, window, windowSize                        metric.Int64Observable
	uptime, nextAttempt, unavailable, outage, pingRTT, silence             metric.Float64Observable
	oldestPending, pace                                                    metric.Float64Observable
	serverConnections, serverSessions, serverSubscriptions                 metric.Int64Observable
	serverIDs, serverRefused, serverClosed, serverUplink                   metric.Int64Observable
	serverDelivered, serverLosses, serverFirst, serverHead                 metric.Int64Observable
}

// newInstruments returns the instruments also as a list.
func newInstruments(meter metric.Meter) (*instruments, []metric.Observable, error) {
	f := &factory{meter: meter}
	i := &instruments{
		state:       f.upDown("limpet.connection.state", "{client}", "1 for the phase that the client is in, 0 for the others."),
		transport:   f.upDown("limpet.connection.transport", "{client}", "1 for what carries the connection that is ready, 0 for the others; http is plain requests."),
		attempts:    f.counter("limpet.connect.attempts", "{attempt}", "Finished attempts to connect: ok, or the class of the error."),
		disconnects: f.counter("limpet.disconnects", "{disconnect}", "Lost connections, by the class of the error."),
		resumes:     f.counter("limpet.resumes", "{connection}", "Connections that became ready, by whether the server still knew the session."),
		uptime:      f.seconds("limpet.connection.uptime", "How long the connection has been ready; 0 without one."),
		nextAttempt: f.seconds("limpet.connect.next_attempt", "How long until the next attempt; 0 if the client does not wait for one."),
		outages:     f.counter("limpet.outages", "{outage}", "Outages, from the loss of a connection until everything that was live is live again."),
		unavailable: f.secondsCounter("limpet.unavailable.time", "How long outages lasted together, with the one that lasts."),
		outage:      f.seconds("limpet.outage.current_duration", "How long the outage that lasts now has lasted; 0 without one."),
		pingRTT:     f.seconds("limpet.heartbeat.last_rtt", "How long the last ping took."),
		pace:        f.floatGauge("limpet.send.pace", "{message}/s", "How many messages a second the client takes the server to allow; it sends four fifths at most. 0 without a limit."),
		silence:     f.seconds("limpet.silence", "Time since the last received message."),

		received:      f.counter("limpet.received.messages", "{message}", "Messages from the server, without duplicates. It is the sum of delivered, dropped, conflated and waiting."),
		delivered:     f.counter("limpet.delivered.messages", "{message}", "Messages handed to consumers."),
		dropped:       f.counter("limpet.dropped.messages", "{message}", "Messages dropped by an overflow policy, or by closing."),
		conflated:     f.counter("limpet.conflated.messages", "{message}", "Messages replaced by a newer one of their key."),
		waiting:       f.upDown("limpet.waiting.messages", "{message}", "Messages that wait for a consumer."),
		waitingSize:   f.upDown("limpet.waiting.size", "By", "Payload bytes of the messages that wait for a consumer."),
		memory:        f.upDown("limpet.memory.usage", "By", "Bytes of Options.Memory in use: what waits in queues, and what servers may still send."),
		memoryLimit:   f.upDown("limpet.memory.limit", "By", "Bytes that all queues may take together: Options.Memory."),
		unacked:       f.upDown("limpet.unacked.messages", "{message}", "Delivered messages that their consumers have not acknowledged."),
		discarded:     f.counter("limpet.discarded.messages", "{message}", "Messages received again, or of an earlier subscription."),
		losses:        f.counter("limpet.gaps", "{gap}", "Gaps and resets in the streams."),
		missed:        f.counter("limpet.missed.messages", "{message}", "Messages missing in gaps and resets, as far as known."),
		subscriptions: f.upDown("limpet.subscription.count", "{subscription}", "Subscriptions."),
		live:          f.upDown("limpet.subscription.live", "{subscription}", "Subscriptions that the server serves."),
		subStates:     f.upDown("limpet.subscription.states", "{subscription}", "Subscriptions in each state: pending, live, recovering, and ended with messages that wait for a consumer."),
		failed:        f.counter("limpet.subscription.failures", "{subscription}", "Subscriptions that ended with an error while the client went on."),
		malformed:     f.counter("limpet.malformed.messages", "{message}", "Received messages that the dialect could not read or place."),
		unrequested:   f.counter("limpet.unrequested.messages", "{message}", "Received messages for topics that the client never subscribed to."),
		io:            f.counter("limpet.network.io", "By", "Payload bytes of WebSocket messages."),

		published:     f.counter("limpet.published.messages", "{message}", "Messages that Publish admitted."),
		resent:        f.counter("limpet.resent.messages", "{message}", "Times that a message was sent again."),
		outcomes:      f.counter("limpet.publish.outcomes", "{message}", "Messages by outcome."),
		window:        f.upDown("limpet.window.messages", "{message}", "Messages in the send window."),
		windowSize:    f.upDown("limpet.window.size", "By", "Payload bytes of the messages in the send window."),
		oldestPending: f.seconds("limpet.publish.oldest_pending", "How long the oldest message without an outcome has waited for it."),

		serverConnections:   f.upDown("limpet.server.connection.count", "{connection}", "Connections, before and after the welcome."),
		serverSessions:      f.upDown("limpet.server.session.count", "{session}", "Sessions, those without a connection included."),
		serverSubscriptions: f.upDown("limpet.server.subscription.count", "{subscription}", "Live subscriptions."),
		serverIDs:           f.upDown("limpet.server.remembered_id.count", "{id}", "Message ids remembered to recognise duplicates."),
		serverRefused:       f.counter("limpet.server.refused.connections", "{connection}", "Refused connections, before the welcome, by reason."),
		serverClosed:        f.counter("limpet.server.closed.connections", "{connection}", "Connections that the server closed: a newer one took over, the peer was silent, the peer did not read."),
		serverUplink:        f.counter("limpet.server.uplink.messages", "{message}", "Messages from clients, by what became of them."),
		serverDelivered:     f.counter("limpet.server.delivered.messages", "{message}", "Messages sent to subscriptions."),
		serverLosses:        f.counter("limpet.server.gaps", "{gap}", "Gaps and resets sent to subscriptions."),
		serverFirst:         f.gauge("limpet.server.log.first_offset", "{offset}", "Offset of the oldest message in the log."),
		serverHead:          f.gauge("limpet.server.log.head_offset", "{offset}", "Offset of the newest message in the log."),
	}
	return i, f.all, errors.Join(f.errs...)
}

// factory makes instruments.
type factory struct {
	meter metric.Meter
	all   []metric.Observable
	errs  []error
}

func (f *factory) counter(name, unit, help string) metric.Int64Observable {
	i, err := f.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(help))
	f.add(i, err)
	return i
}

func (f *factory) upDown(name, unit, help string) metric.Int64Observable {
	i, err := f.meter.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(help))
	f.add(i, err)
	return i
}

func (f *factory) gauge(name, unit, help string) metric.Int64Observable {
	i, err := f.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(help))
	f.add(i, err)
	return i
}

func (f *factory) seconds(name, help string) metric.Float64Observable {
	return f.floatGauge(name, "s", help)
}

func (f *factory) floatGauge(name, unit, help string) metric.Float64Observable {
	i, err := f.meter.Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(help))
	f.add(i, err)
	return i
}

func (f *factory) secondsCounter(name, help string) metric.Float64Observable {
	i, err := f.meter.Float64ObservableCounter(name, metric.WithUnit("s"), metric.WithDescription(help))
	f.add(i, err)
	return i
}

func (f *factory) add(i metric.Observable, err error) {
	f.all = append(f.all, i)
	if err != nil {
		f.errs = append(f.errs, err)
	}
}
