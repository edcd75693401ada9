package prom_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/metrics/internal/scene"
	"github.com/limpet-go/limpet/metrics/prom"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// orders is a client of limpet.v1 that has seen most of what can happen, and its server.
type orders struct {
	srv    *limpettest.Server
	client *limpet.Client
	prices *limpet.Subscription
}

// newOrders makes a client whose first attempt is refused by the network and whose second
// one by the server. It keeps 4 of 10 messages and takes 1 of them, leaves one of 2 others
// without an acknowledgement, and publishes 3 messages that are accepted and 2 that are not.
func newOrders(t *testing.T) *orders {
	srv := limpettest.NewServer(t, &limpettest.ServerOptions{
		Network: &limpettest.NetworkOptions{Up: 20 * time.Millisecond, Down: 20 * time.Millisecond},
		Server: &server.Options{Retention: server.Retention{Count: 15}, Hooks: server.Hooks{
			Authenticate: func(_ context.Context, _ *http.Request, token string) (server.Principal, error) {
				if token != "good" {
					return server.Principal{}, errors.New("refused")
				}
				return server.Principal{ID: "me"}, nil
			},
			OnPublish: func(_ context.Context, _ server.Principal, m server.Message) error {
				if m.Topic == "refused" {
					return errors.New("refused")
				}
				return nil
			},
		}},
	})
	srv.Inject(limpettest.Refuse(1))
	o := &orders{srv: srv}
	token := limpet.Secret("bad")
	o.client = scene.Dial(t, srv, limpet.Options{Limits: wire.ConnectionLimits{Messages: 1000}, Histograms: true, Auth: func(_ context.Context, a limpet.AttemptInfo) (limpet.Credential, error) {
		if a.Refresh {
			token = "good"
		}
		return limpet.Credential{Token: token}, nil
	}})
	o.prices = scene.Subscribe(t, o.client, "prices", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 4, Overflow: limpet.DropOldest}})
	jobs := scene.Subscribe(t, o.client, "jobs", &limpet.SubscribeOptions{ManualAck: true})
	scene.Publish(t, srv, "prices", 10)
	scene.Publish(t, srv, "jobs", 2)
	scene.Take(t, jobs, 2)[0].Ack()
	time.Sleep(time.Second)
	scene.Take(t, o.prices, 2) // what was dropped, and a message
	for i := range 5 {
		topic := "orders"
		if i > 2 {
			topic = "refused"
		}
		if _, err := o.client.Send(t.Context(), topic, []byte("123"), nil); (err != nil) != (i > 2) {
			t.Fatal(topic, err)
		}
	}
	return o
}

// Every metric has the right value. Those of limpet_server_ belong to the server of orders.
func TestValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrders(t)
		feed := scene.NewFeed(t)
		c := prom.NewCollector(&prom.Options{Subscription: func(topic string) string { return topic }})
		assert.NoError(t, c.AddClient("orders", o.client))
		assert.NoError(t, c.AddClient("feed", feed))
		assert.NoError(t, c.AddServer("orders", o.srv.Server))
		registry := newRegistry(t, c)

		// An outage in which a message expires, one waits, and the server publishes more
		// than it keeps.
		o.srv.Stop()
		synctest.Wait()
		began := time.Now()
		_, err := o.client.Publish(t.Context(), "orders", []byte("1234"), &limpet.PublishOptions{TTL: time.Second})
		assert.NoError(t, err)
		time.Sleep(3 * time.Second)
		_, err = o.client.Publish(t.Context(), "refused", []byte("12"), nil)
		assert.NoError(t, err)
		scene.Publish(t, o.srv, "prices", 30)
		time.Sleep(7 * time.Second)
		_, err = o.client.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Waiting })
		assert.NoError(t, err)
		synctest.Wait()
		down := gather(t, registry)
		st := o.client.Stats()
		lasted := time.Since(began).Seconds()
		check(t, down, map[string]float64{
			`limpet_connection_state client="orders" state="waiting"`: 1,
			`limpet_connection_state client="feed" state="ready"`:     1,
			`limpet_connected_seconds client="orders"`:                0,
			`limpet_next_attempt_seconds client="orders"`:             time.Until(o.client.State().NextAttempt).Seconds(),
			`limpet_next_attempt_seconds client="feed"`:               0,
			`limpet_outages_total client="orders"`:                    1,
			`limpet_outage_current_seconds client="orders"`:           lasted,
			`limpet_unavailable_seconds_total client="orders"`:        lasted,
			`limpet_outage_seconds_count client="orders"`:             0,
			`limpet_live_subscriptions client="orders"`:               0,

			`limpet_subscription_states client="orders" state="recovering"`: 2,
			`limpet_subscription_states client="orders" state="live"`:       0,
			`limpet_subscription_states client="feed" state="live"`:         1,

			`limpet_live_subscriptions client="feed"`:                 1,
			`limpet_window_messages client="orders"`:                  1,
			`limpet_window_bytes client="orders"`:                     2,
			`limpet_oldest_pending_seconds client="orders"`:           lasted - 3,
			`limpet_server_connections server="orders" state="ready"`: 0,
			`limpet_server_sessions server="orders"`:                  1,
			`limpet_server_subscriptions server="orders"`:             0,

			`limpet_connection_transport client="orders" transport="websocket"`: 0,
			`limpet_connection_transport client="feed" transport="websocket"`:   1,
		})
		if st.Outage.Seconds() != lasted || o.client.State().NextAttempt.IsZero() {
			t.Errorf("the outage has lasted %v s, and is %v", lasted, st.Outage)
		}

		// Three more connections: after the outage, and after two cuts.
		o.srv.Start()
		assert.NoError(t, o.client.WaitReady(t.Context()))
		for range 2 {
			time.Sleep(3 * time.Second)
			before := o.client.State().Generation
			o.srv.Network.CutAll()
			_, err := o.client.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation > before })
			assert.NoError(t, err)
		}
		ready := time.Now()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		up := gather(t, registry)
		st, got := o.client.Stats(), o.srv.Server.Stats()
		h := o.client.Histograms()
		check(t, up, map[string]float64{
			`limpet_connection_state client="orders" state="connecting"`:        0,
			`limpet_connection_state client="orders" state="handshaking"`:       0,
			`limpet_connection_state client="orders" state="ready"`:             1,
			`limpet_connection_state client="orders" state="waiting"`:           0,
			`limpet_connection_state client="orders" state="ended"`:             0,
			`limpet_connection_transport client="orders" transport="websocket"`: 1,
			`limpet_connection_transport client="orders" transport="http"`:      0,
			`limpet_connect_attempts_total client="orders" result="ok"`:         4,
			`limpet_connect_attempts_total client="orders" result="auth"`:       1,
			`limpet_connect_attempts_total client="orders" result="dial"`:       float64(st.Attempts - 5), // 1 before, the others in the outage
			`limpet_disconnects_total class="network" client="orders"`:          3,
			`limpet_resumes_total client="orders" verdict="resumed"`:            3,
			`limpet_resumes_total client="orders" verdict="fresh"`:              1,
			`limpet_connected_seconds client="orders"`:                          time.Since(ready).Seconds(),
			`limpet_next_attempt_seconds client="orders"`:                       0,
			`limpet_outages_total client="orders"`:                              3,
			`limpet_unavailable_seconds_total client="orders"`:                  st.OutageTime.Seconds(),
			`limpet_outage_current_seconds client="orders"`:                     0,
			`limpet_heartbeat_rtt_last_seconds client="orders"`:                 0.04,
			`limpet_send_pace_messages_per_second client="orders"`:              1000,
			`limpet_silence_seconds client="orders"`:                            st.Silence.Seconds(),

			`limpet_received_messages_total client="orders"`:                              10 + 2 + 15,
			`limpet_delivered_messages_total client="orders"`:                             3,
			`limpet_dropped_messages_total client="orders" reason="overflow"`:             6 + 14,
			`limpet_dropped_messages_total client="orders" reason="closed"`:               0,
			`limpet_conflated_messages_total client="orders"`:                             0,
			`limpet_waiting_messages client="orders"`:                                     4,
			`limpet_waiting_bytes client="orders"`:                                        20,
			`limpet_memory_bytes client="orders"`:                                         float64(st.Memory),
			`limpet_memory_limit_bytes client="orders"`:                                   64 << 20,
			`limpet_unacked_messages client="orders"`:                                     2, // a break acknowledges nothing
			`limpet_gaps_total client="orders" kind="gap"`:                                2, // of both subscriptions
			`limpet_gaps_total client="orders" kind="reset"`:                              0,
			`limpet_subscriptions client="orders"`:                                        2,
			`limpet_live_subscriptions client="orders"`:                                   2,
			`limpet_received_bytes_total client="orders"`:                                 float64(st.BytesRead),
			`limpet_sent_bytes_total client="orders"`:                                     float64(st.BytesWritten),
			`limpet_subscription_open client="orders" subscription="jobs"`:                1,
			`limpet_subscription_live client="orders" subscription="prices"`:              1,
			`limpet_subscription_waiting_messages client="orders" subscription="prices"`:  4,
			`limpet_subscription_received_messages client="orders" subscription="prices"`: 25,
			`limpet_subscription_received_messages client="orders" subscription="jobs"`:   2,
			`limpet_subscription_dropped_messages client="orders" subscription="prices"`:  20,

			`limpet_received_messages_total client="feed"`:                            5,
			`limpet_delivered_messages_total client="feed"`:                           5,
			`limpet_discarded_messages_total client="feed" reason="duplicate"`:        1,
			`limpet_discarded_messages_total client="feed" reason="earlier"`:          0,
			`limpet_gaps_total client="feed" kind="gap"`:                              2,
			`limpet_gaps_total client="feed" kind="reset"`:                            1,
			`limpet_missed_messages_total client="feed"`:                              5,
			`limpet_malformed_messages_total client="feed"`:                           1,
			`limpet_unrequested_messages_total client="feed"`:                         1,
			`limpet_received_bytes_total client="feed"`:                               6*6 + 7 + 3,
			`limpet_resumes_total client="feed" verdict="fresh"`:                      1,
			`limpet_subscription_missed_messages client="feed" subscription="feed"`:   5,
			`limpet_subscription_received_messages client="feed" subscription="feed"`: 5,

			`limpet_published_messages_total client="orders"`:                   7,
			`limpet_resent_messages_total client="orders"`:                      float64(st.Resent),
			`limpet_publish_outcomes_total client="orders" outcome="acked"`:     3,
			`limpet_publish_outcomes_total client="orders" outcome="written"`:   0,
			`limpet_publish_outcomes_total client="orders" outcome="rejected"`:  3,
			`limpet_publish_outcomes_total client="orders" outcome="expired"`:   1,
			`limpet_publish_outcomes_total client="orders" outcome="unsent"`:    0,
			`limpet_publish_outcomes_total client="orders" outcome="unknown"`:   0,
			`limpet_publish_outcomes_total client="orders" outcome="stored"`:    0,
			`limpet_window_messages client="orders"`:                            0,
			`limpet_oldest_pending_seconds client="orders"`:                     0,
			`limpet_publish_duration_seconds_count client="orders"`:             7,
			`limpet_publish_duration_seconds_sum client="orders"`:               h.Publish.SumSeconds,
			`limpet_publish_duration_seconds_bucket client="orders" le="0.025"`: 0,
			`limpet_publish_duration_seconds_bucket client="orders" le="0.05"`:  5,
			`limpet_publish_duration_seconds_bucket client="orders" le="3600"`:  7,
			`limpet_delivery_lag_seconds_count client="orders"`:                 3,
			`limpet_delivery_lag_seconds_sum client="orders"`:                   h.Delivery.SumSeconds,
			`limpet_source_lag_seconds_count client="orders"`:                   0, // limpet.v1 has no time
			`limpet_source_lag_seconds_count client="feed"`:                     4, // the last of a read counts with the next take
			`limpet_source_lag_seconds_sum client="feed"`:                       240,
			`limpet_heartbeat_rtt_seconds_count client="orders"`:                float64(h.Ping.Count),
			`limpet_heartbeat_rtt_seconds_sum client="orders"`:                  float64(h.Ping.Count) * 0.04,
			`limpet_connection_duration_seconds_count client="orders"`:          3,
			`limpet_connection_duration_seconds_sum client="orders"`:            h.Connection.SumSeconds,
			`limpet_outage_seconds_count client="orders"`:                       3,
			`limpet_outage_seconds_sum client="orders"`:                         st.OutageTime.Seconds(),

			`limpet_server_connections server="orders" state="handshaking"`:                    0,
			`limpet_server_connections server="orders" state="ready"`:                          1,
			`limpet_server_sessions server="orders"`:                                           1,
			`limpet_server_subscriptions server="orders"`:                                      2,
			`limpet_server_remembered_ids server="orders"`:                                     float64(got.IDs),
			`limpet_server_refused_connections_total reason="busy" server="orders"`:            0,
			`limpet_server_refused_connections_total reason="origin" server="orders"`:          0,
			`limpet_server_refused_connections_total reason="request" server="orders"`:         0,
			`limpet_server_refused_connections_total reason="no_hello" server="orders"`:        0,
			`limpet_server_refused_connections_total reason="unauthenticated" server="orders"`: 1,
			`limpet_server_closed_connections_total reason="superseded" server="orders"`:       0,
			`limpet_server_closed_connections_total reason="dead" server="orders"`:             0,
			`limpet_server_closed_connections_total reason="slow" server="orders"`:             0,
			`limpet_server_uplink_messages_total result="accepted" server="orders"`:            3,
			`limpet_server_uplink_messages_total result="duplicate" server="orders"`:           0,
			`limpet_server_uplink_messages_total result="rejected" server="orders"`:            3,
			`limpet_server_uplink_messages_total result="given_up" server="orders"`:            float64(got.UplinkGaps),
			`limpet_server_delivered_messages_total server="orders"`:                           27,
			`limpet_server_gaps_total kind="gap" server="orders"`:                              2,
			`limpet_server_gaps_total kind="reset" server="orders"`:                            0,
			`limpet_server_log_first_offset server="orders"`:                                   31,
			`limpet_server_log_head_offset server="orders"`:                                    45,
		})
		problems, err := testutil.GatherAndLint(registry)
		assert.NoError(t, err)
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
		for _, n := range described(t, c) {
			switch zero, there := true, false; {
			case n == "limpet_server_closed_connections_total", n == "limpet_resent_messages_total": // TestBlackHole
			case n == "limpet_failed_subscriptions_total": // TestFailedSubscriptions
			case n == "limpet_conflated_messages_total": // TestConflated
			default:
				for _, p := range []page{down, up} {
					for series, v := range p {
						if name(series) == n {
							there, zero = true, zero && v == 0
						}
					}
				}
				if !there || zero {
					t.Errorf("%s: emitted %v, always zero %v", n, there, zero)
				}
			}
		}
		if st.Silence < 2*time.Minute || h.Ping.Count < 5 || h.Delivery.Sum < 900*time.Millisecond || h.Delivery.Sum > time.Second {
			t.Errorf("silent for %v, %d pings, delivery took %v", st.Silence, h.Ping.Count, h.Delivery.Sum)
		}
	})
}

// A connection that loses what the server sends, then one that loses everything, then a
// server that has lost its sessions: what becomes of a message that was sent on each.
func TestBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		client := scene.Dial(t, srv, limpet.Options{})
		c := prom.NewCollector(nil)
		assert.NoError(t, c.AddClient("a", client))
		assert.NoError(t, c.AddServer("a", srv.Server))
		registry := newRegistry(t, c)
		for _, lost := range []limpettest.Direction{limpettest.Down, limpettest.Both} {
			synctest.Wait()
			srv.Network.Strike(limpettest.BlackHole(lost))
			_, err := client.Send(t.Context(), "orders", nil, nil)
			assert.NoError(t, err)
		}
		synctest.Wait()
		check(t, gather(t, registry), map[string]float64{
			`limpet_disconnects_total class="timeout" client="a"`:                   2,
			`limpet_resent_messages_total client="a"`:                               1, // the session knows the other
			`limpet_resumes_total client="a" verdict="resumed"`:                     2,
			`limpet_publish_outcomes_total client="a" outcome="acked"`:              2,
			`limpet_server_uplink_messages_total result="accepted" server="a"`:      2,
			`limpet_server_uplink_messages_total result="duplicate" server="a"`:     0,
			`limpet_server_closed_connections_total reason="superseded" server="a"`: 1,
		})
		srv.Network.Strike(limpettest.BlackHole(limpettest.Down))
		receipt, err := client.Publish(t.Context(), "orders", nil, &limpet.PublishOptions{Resend: limpet.AtLeastOnce})
		assert.NoError(t, err)
		synctest.Wait()
		srv.Reboot(nil)
		c.RemoveServer("a")
		assert.NoError(t, c.AddServer("a", srv.Server))
		_, err = receipt.Wait(t.Context())
		assert.NoError(t, err)
		check(t, gather(t, registry), map[string]float64{
			`limpet_resent_messages_total client="a"`:                           2,
			`limpet_resumes_total client="a" verdict="fresh"`:                   2,
			`limpet_publish_outcomes_total client="a" outcome="acked"`:          3,
			`limpet_server_uplink_messages_total result="accepted" server="a"`:  0,
			`limpet_server_uplink_messages_total result="duplicate" server="a"`: 1,
		})
	})
}

// check compares values. Seconds may differ by a rounding error.
func check(t *testing.T, p page, want map[string]float64) {
	t.Helper()
	for series, w := range want {
		if v := p.value(t, series); v < w-1e-9 || v > w+1e-9 {
			t.Errorf("%s is %v, want %v", series, v, w)
		}
	}
}
