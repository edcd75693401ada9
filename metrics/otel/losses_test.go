package limpetotel_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/metrics/internal/scene"
	"github.com/limpet-go/limpet/server"
)

// Connections that end in silence, and what is sent again.
func TestBlackHoleValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, reader := newReader(t)
		srv := limpettest.NewServer(t, nil)
		c := scene.Dial(t, srv, limpet.Options{})
		assert.NoError(t, m.AddClient("a", c))
		assert.NoError(t, m.AddServer("a", srv.Server))
		for _, lost := range []limpettest.Direction{limpettest.Down, limpettest.Both} {
			synctest.Wait()
			srv.Network.Strike(limpettest.BlackHole(lost))
			_, err := c.Send(t.Context(), "orders", nil, nil)
			assert.NoError(t, err)
		}
		synctest.Wait()
		collect(t, reader).check(t, page{
			"limpet.disconnects error.type=timeout limpet.client=a":              2,
			"limpet.resent.messages limpet.client=a":                             1, // the session knows the other
			"limpet.resumes limpet.client=a verdict=resumed":                     2,
			"limpet.resumes limpet.client=a verdict=fresh":                       1,
			"limpet.publish.outcomes limpet.client=a outcome=acked":              2,
			"limpet.server.closed.connections limpet.server=a reason=superseded": 1,
			"limpet.server.closed.connections limpet.server=a reason=dead":       float64(srv.Server.Stats().Dead),
		})
		superseded, dead := srv.Server.Stats().Evicted, srv.Server.Stats().Dead

		// The server crashes after it has taken a message and before the client knows.
		srv.Network.Strike(limpettest.BlackHole(limpettest.Down))
		receipt, err := c.Publish(t.Context(), "orders", nil, &limpet.PublishOptions{Resend: limpet.AtLeastOnce})
		assert.NoError(t, err)
		synctest.Wait()
		srv.Reboot(nil)
		m.RemoveServer("a")
		assert.NoError(t, m.AddServer("a", srv.Server))
		_, err = receipt.Wait(t.Context())
		assert.NoError(t, err)
		synctest.Wait()
		collect(t, reader).check(t, page{
			"limpet.resumes limpet.client=a verdict=fresh":                       2,
			"limpet.resent.messages limpet.client=a":                             2,
			"limpet.publish.outcomes limpet.client=a outcome=acked":              3,
			"limpet.server.uplink.messages limpet.server=a result=accepted":      0,
			"limpet.server.uplink.messages limpet.server=a result=duplicate":     1,
			"limpet.server.closed.connections limpet.server=a reason=superseded": 0,
		})

		// The client ends, one message on its way, and the server does not notice.
		srv.Network.Strike(limpettest.BlackHole(limpettest.Both))
		_, err = c.Publish(t.Context(), "orders", nil, nil)
		assert.NoError(t, err)
		synctest.Wait()
		scene.End(c)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		collect(t, reader).check(t, page{
			"limpet.publish.outcomes limpet.client=a outcome=unknown":            1,
			"limpet.publish.outcomes limpet.client=a outcome=unsent":             0,
			"limpet.server.closed.connections limpet.server=a reason=dead":       1,
			"limpet.server.closed.connections limpet.server=a reason=superseded": 0,
			"limpet.server.closed.connections limpet.server=a reason=slow":       0,
		})
		if superseded != 1 || dead > 1 {
			t.Errorf("%d connections superseded, %d dead", superseded, dead)
		}
	})
}

// What the server does not keep is a gap, another log is a reset, and what waits for the
// first connection is unsent if the client ends before.
func TestLossValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, reader := newReader(t)
		keep := server.Retention{Count: 10}
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{
			Server:  &server.Options{Retention: keep},
			Network: &limpettest.NetworkOptions{Up: 20 * time.Millisecond, Down: 20 * time.Millisecond},
		})
		c, err := limpet.New(srv.URL(), &limpet.Options{HTTPClient: srv.HTTPClient()})
		assert.NoError(t, err)
		defer scene.End(c)
		assert.NoError(t, m.AddClient("a", c))
		assert.NoError(t, m.AddServer("a", srv.Server))
		_, err = c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Handshaking })
		assert.NoError(t, err)
		collect(t, reader).check(t, page{
			"limpet.connection.state limpet.client=a state=handshaking":        1,
			"limpet.server.connection.count limpet.server=a state=handshaking": 1,
			"limpet.server.connection.count limpet.server=a state=ready":       0,
		})
		s := scene.Subscribe(t, c, "x", nil)
		scene.Publish(t, srv, "x", 1)
		scene.Take(t, s, 1)
		srv.Stop()
		synctest.Wait()
		scene.Publish(t, srv, "x", 30)
		srv.Start()
		scene.Take(t, s, 11)
		synctest.Wait()
		collect(t, reader).check(t, page{
			"limpet.gaps kind=gap limpet.client=a":             1,
			"limpet.gaps kind=reset limpet.client=a":           0,
			"limpet.received.messages limpet.client=a":         11,
			"limpet.server.gaps kind=gap limpet.server=a":      1,
			"limpet.server.gaps kind=reset limpet.server=a":    0,
			"limpet.server.delivered.messages limpet.server=a": 11,
			"limpet.server.log.first_offset limpet.server=a":   22,
			"limpet.server.log.head_offset limpet.server=a":    31,
		})
		srv.Reboot(server.NewMemoryLog(keep))
		m.RemoveServer("a")
		assert.NoError(t, m.AddServer("a", srv.Server))
		scene.Take(t, s, 1)
		srv.Stop()
		synctest.Wait()
		_, err = c.Publish(t.Context(), "x", []byte("12"), nil)
		assert.NoError(t, err)
		scene.End(c)
		collect(t, reader).check(t, page{
			"limpet.gaps kind=gap limpet.client=a":                   1,
			"limpet.gaps kind=reset limpet.client=a":                 1,
			"limpet.server.gaps kind=gap limpet.server=a":            0,
			"limpet.server.gaps kind=reset limpet.server=a":          1,
			"limpet.publish.outcomes limpet.client=a outcome=unsent": 1,
		})
	})
}
