package limpetotel_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/metrics/internal/scene"
	"github.com/limpet-go/limpet/wire"
)

// Attempts, outages and what depends on the connection.
func TestConnectionValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, reader := newReader(t)
		srv, c := newOrders(t, limpet.Options{Histograms: true, Limits: wire.ConnectionLimits{Messages: 1000}})
		assert.NoError(t, m.AddClient("orders", c))
		scene.Subscribe(t, c, "prices", nil)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		collect(t, reader).check(t, page{
			"limpet.connection.state limpet.client=orders state=ready":   1,
			"limpet.connection.state limpet.client=orders state=waiting": 0,
			"limpet.connect.attempts limpet.client=orders result=ok":     1,
			"limpet.connect.attempts limpet.client=orders result=dial":   1,
			"limpet.connect.attempts limpet.client=orders result=auth":   1,
			"limpet.connect.attempts limpet.client=orders result=tls":    0,
			"limpet.disconnects error.type=network limpet.client=orders": 0,
			"limpet.resumes limpet.client=orders verdict=fresh":          1,
			"limpet.resumes limpet.client=orders verdict=resumed":        0,
			"limpet.connection.uptime limpet.client=orders":              time.Since(c.Stats().ConnectedSince).Seconds(),
			"limpet.outages limpet.client=orders":                        0,
			"limpet.subscription.count limpet.client=orders":             1,
			"limpet.subscription.live limpet.client=orders":              1,
		})

		srv.Stop()
		synctest.Wait()
		began := time.Now()
		time.Sleep(10 * time.Second)
		_, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Waiting })
		assert.NoError(t, err)
		synctest.Wait()
		lasted := time.Since(began).Seconds()
		next := time.Until(c.State().NextAttempt).Seconds()
		if next <= 0 {
			t.Errorf("next attempt in %v s", next)
		}
		collect(t, reader).check(t, page{
			"limpet.connection.state limpet.client=orders state=ready":   0,
			"limpet.connection.state limpet.client=orders state=waiting": 1,
			"limpet.connection.uptime limpet.client=orders":              0,
			"limpet.connect.next_attempt limpet.client=orders":           next,
			"limpet.disconnects error.type=network limpet.client=orders": 1,
			"limpet.outages limpet.client=orders":                        1,
			"limpet.outage.current_duration limpet.client=orders":        lasted,
			"limpet.unavailable.time limpet.client=orders":               lasted,
			"limpet.subscription.count limpet.client=orders":             1,
			"limpet.subscription.live limpet.client=orders":              0,

			"limpet.subscription.states limpet.client=orders state=live":       0,
			"limpet.subscription.states limpet.client=orders state=recovering": 1,
		})

		srv.Start()
		_, err = c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready })
		assert.NoError(t, err)
		time.Sleep(time.Minute)
		synctest.Wait()
		st, p := c.Stats(), collect(t, reader)
		p.check(t, page{
			"limpet.connection.state limpet.client=orders state=ready":             1,
			"limpet.connect.attempts limpet.client=orders result=ok":               2,
			"limpet.connect.attempts limpet.client=orders result=auth":             1,
			"limpet.connect.attempts limpet.client=orders result=dial":             float64(st.Attempts - 3),
			"limpet.connect.next_attempt limpet.client=orders":                     0,
			"limpet.resumes limpet.client=orders verdict=fresh":                    1,
			"limpet.resumes limpet.client=orders verdict=resumed":                  1,
			"limpet.outages limpet.client=orders":                                  1,
			"limpet.outage.current_duration limpet.client=orders":                  0,
			"limpet.unavailable.time limpet.client=orders":                         st.OutageTime.Seconds(),
			"limpet.outage.duration.n limpet.client=orders":                        1,
			"limpet.outage.duration.sum limpet.client=orders":                      st.OutageTime.Seconds(),
			"limpet.connection.duration.n limpet.client=orders":                    1,
			"limpet.subscription.live limpet.client=orders":                        1,
			"limpet.heartbeat.last_rtt limpet.client=orders":                       0.04,
			"limpet.heartbeat.rtt.n limpet.client=orders":                          float64(c.Histograms().Ping.Count),
			"limpet.heartbeat.rtt.sum limpet.client=orders":                        float64(c.Histograms().Ping.Count) * 0.04,
			"limpet.send.pace limpet.client=orders":                                1000,
			"limpet.silence limpet.client=orders":                                  st.Silence.Seconds(),
			"limpet.network.io limpet.client=orders network.io.direction=receive":  float64(st.BytesRead),
			"limpet.network.io limpet.client=orders network.io.direction=transmit": float64(st.BytesWritten),
		})
		if st.Attempts < 5 || st.OutageTime.Seconds() <= lasted || st.Silence < time.Minute || c.Histograms().Ping.Count < 2 || st.BytesRead == 0 || st.BytesRead == st.BytesWritten {
			t.Errorf("the test shows too little: %+v", st)
		}
	})
}

// What was received is what was delivered, was dropped and waits.
func TestMessageValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, reader := newReader(t)
		srv, c := newOrders(t, limpet.Options{Histograms: true})
		assert.NoError(t, m.AddClient("orders", c))
		assert.NoError(t, m.AddClient("feed", scene.NewFeed(t)))
		prices := scene.Subscribe(t, c, "prices", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 4, Overflow: limpet.DropOldest}})
		jobs := scene.Subscribe(t, c, "jobs", &limpet.SubscribeOptions{ManualAck: true})
		scene.Publish(t, srv, "prices", 10)
		scene.Publish(t, srv, "jobs", 2)
		scene.Take(t, jobs, 2)
		time.Sleep(time.Second)
		scene.Take(t, prices, 2) // what was dropped, and a message
		synctest.Wait()
		p := collect(t, reader)
		p.check(t, page{
			"limpet.received.messages limpet.client=orders":                12,
			"limpet.delivered.messages limpet.client=orders":               3,
			"limpet.dropped.messages limpet.client=orders reason=overflow": 6,
			"limpet.dropped.messages limpet.client=orders reason=closed":   0,
			"limpet.conflated.messages limpet.client=orders":               0,
			"limpet.waiting.messages limpet.client=orders":                 3,
			"limpet.waiting.size limpet.client=orders":                     15,
			"limpet.memory.usage limpet.client=orders":                     float64(c.Stats().Memory),
			"limpet.memory.limit limpet.client=orders":                     64 << 20,
			"limpet.unacked.messages limpet.client=orders":                 3, // a break acknowledges nothing
			"limpet.silence limpet.client=orders":                          c.Stats().Silence.Seconds(),
			"limpet.delivery.lag.n limpet.client=orders":                   float64(c.Histograms().Delivery.Count),
			"limpet.delivery.lag.sum limpet.client=orders":                 c.Histograms().Delivery.SumSeconds,

			"limpet.received.messages limpet.client=feed":                       5,
			"limpet.source.lag.n limpet.client=feed":                            4, // the last of a read counts with the next take
			"limpet.source.lag.sum limpet.client=feed":                          240,
			"limpet.delivered.messages limpet.client=feed":                      5,
			"limpet.dropped.messages limpet.client=feed reason=overflow":        0,
			"limpet.waiting.messages limpet.client=feed":                        0,
			"limpet.discarded.messages limpet.client=feed reason=duplicate":     1,
			"limpet.discarded.messages limpet.client=feed reason=earlier":       0,
			"limpet.gaps kind=gap limpet.client=feed":                           2,
			"limpet.gaps kind=reset limpet.client=feed":                         1,
			"limpet.missed.messages limpet.client=feed":                         5,
			"limpet.malformed.messages limpet.client=feed":                      1,
			"limpet.unrequested.messages limpet.client=feed":                    1,
			"limpet.network.io limpet.client=feed network.io.direction=receive": 6*6 + 7 + 3,
		})
		if h := c.Histograms().Delivery; h.Count == 0 || h.Sum < 900*time.Millisecond || c.Stats().Silence < 900*time.Millisecond {
			t.Errorf("the test shows too little: %+v, silence %v", h, c.Stats().Silence)
		}
	})
}

// Outcomes, the window and what the server made of the messages.
func TestPublishValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, reader := newReader(t)
		srv, c := newOrders(t, limpet.Options{Histograms: true})
		assert.NoError(t, m.AddClient("orders", c))
		assert.NoError(t, m.AddServer("orders", srv.Server))
		scene.Subscribe(t, c, "orders", nil)
		for i := range 5 {
			topic := "orders"
			if i > 2 {
				topic = "refused"
			}
			if _, err := c.Send(t.Context(), topic, []byte("123"), nil); (err != nil) != (i > 2) {
				t.Fatal(topic, err)
			}
		}
		srv.Stop()
		synctest.Wait()
		_, err := c.Publish(t.Context(), "orders", []byte("1234"), &limpet.PublishOptions{TTL: time.Second})
		assert.NoError(t, err)
		time.Sleep(3 * time.Second)
		_, err = c.Publish(t.Context(), "orders", []byte("12"), nil)
		assert.NoError(t, err)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		p := collect(t, reader)
		p.check(t, page{
			"limpet.published.messages limpet.client=orders":                                7,
			"limpet.publish.outcomes limpet.client=orders outcome=acked":                    3,
			"limpet.publish.outcomes limpet.client=orders outcome=rejected":                 2,
			"limpet.publish.outcomes limpet.client=orders outcome=expired":                  1,
			"limpet.publish.outcomes limpet.client=orders outcome=written":                  0,
			"limpet.publish.outcomes limpet.client=orders outcome=unsent":                   0,
			"limpet.publish.outcomes limpet.client=orders outcome=unknown":                  0,
			"limpet.publish.outcomes limpet.client=orders outcome=stored":                   0,
			"limpet.window.messages limpet.client=orders":                                   1,
			"limpet.window.size limpet.client=orders":                                       2,
			"limpet.publish.oldest_pending limpet.client=orders":                            2,
			"limpet.publish.duration.n limpet.client=orders":                                6,
			"limpet.publish.duration.sum limpet.client=orders":                              c.Histograms().Publish.SumSeconds,
			"limpet.server.connection.count limpet.server=orders state=ready":               0,
			"limpet.server.connection.count limpet.server=orders state=handshaking":         0,
			"limpet.server.session.count limpet.server=orders":                              1,
			"limpet.server.subscription.count limpet.server=orders":                         0,
			"limpet.server.refused.connections limpet.server=orders reason=unauthenticated": 1,
			"limpet.server.refused.connections limpet.server=orders reason=busy":            0,
			"limpet.server.refused.connections limpet.server=orders reason=origin":          0,
			"limpet.server.refused.connections limpet.server=orders reason=request":         0,
			"limpet.server.refused.connections limpet.server=orders reason=no_hello":        0,
		})

		srv.Start()
		assert.NoError(t, c.Flush(t.Context()))
		time.Sleep(time.Second)
		synctest.Wait()
		st, got, p := c.Stats(), srv.Server.Stats(), collect(t, reader)
		p.check(t, page{
			"limpet.publish.outcomes limpet.client=orders outcome=acked":              4,
			"limpet.resent.messages limpet.client=orders":                             float64(st.Resent),
			"limpet.window.messages limpet.client=orders":                             0,
			"limpet.publish.oldest_pending limpet.client=orders":                      0,
			"limpet.publish.duration.n limpet.client=orders":                          7,
			"limpet.server.connection.count limpet.server=orders state=ready":         1,
			"limpet.server.subscription.count limpet.server=orders":                   1,
			"limpet.server.remembered_id.count limpet.server=orders":                  float64(got.IDs),
			"limpet.server.uplink.messages limpet.server=orders result=accepted":      4,
			"limpet.server.uplink.messages limpet.server=orders result=rejected":      2,
			"limpet.server.uplink.messages limpet.server=orders result=duplicate":     0,
			"limpet.server.uplink.messages limpet.server=orders result=given_up":      float64(got.UplinkGaps),
			"limpet.server.delivered.messages limpet.server=orders":                   4,
			"limpet.server.closed.connections limpet.server=orders reason=superseded": 0,
			"limpet.server.closed.connections limpet.server=orders reason=dead":       0,
			"limpet.server.closed.connections limpet.server=orders reason=slow":       0,
			"limpet.server.gaps kind=gap limpet.server=orders":                        0,
			"limpet.server.gaps kind=reset limpet.server=orders":                      0,
			"limpet.server.log.first_offset limpet.server=orders":                     1,
			"limpet.server.log.head_offset limpet.server=orders":                      4,
		})
		if got.IDs < 4 || c.Histograms().Publish.Sum < 5*40*time.Millisecond {
			t.Errorf("the test shows too little: %+v, %+v", got, c.Histograms().Publish)
		}
	})
}

// A client on the fallback counts as one over plain requests.
func TestTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, reader := newReader(t)
		client, end := scene.OnFallback(t)
		assert.NoError(t, m.AddClient("a", client))
		collect(t, reader).check(t, page{
			"limpet.connection.transport limpet.client=a transport=websocket": 0,
			"limpet.connection.transport limpet.client=a transport=http":      1,
		})
		end()
		collect(t, reader).check(t, page{
			"limpet.connection.transport limpet.client=a transport=websocket": 0,
			"limpet.connection.transport limpet.client=a transport=http":      0,
		})
	})
}
