package limpettest_test

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
)

const upgradeHead = "HTTP/1.1 101 Switching Protocols\r\n\r\n"

// Effects count what a fault has done, and not that it was injected.
func TestEffects(t *testing.T) {
	type effects = map[limpettest.Kind]int
	up := func(client, _ net.Conn) { io.WriteString(client, "GET / HTTP/1.1\r\n\r\n") }
	down := func(_, server net.Conn) { io.WriteString(server, upgradeHead+"\x81\x02ab") }
	for _, tc := range []struct {
		fault    limpettest.Fault
		talk     func(client, server net.Conn)
		want     effects
		midFrame int
	}{
		{limpettest.Clean(), up, effects{}, 0},
		{limpettest.CutAfterBytes(limpettest.Up, 5), up, effects{limpettest.KindCut: 1}, 0},
		{limpettest.CutAfterBytes(limpettest.Up, 500), up, effects{}, 0},
		{limpettest.ResetAfterBytes(limpettest.Down, 3).Upgraded(), down, effects{limpettest.KindReset: 1}, 1},
		{limpettest.ResetAfterBytes(limpettest.Down, 1).Upgraded(), down, effects{limpettest.KindReset: 1}, 1},
		{limpettest.CutAfterFrames(limpettest.Down, 1), down, effects{limpettest.KindCut: 1}, 0},
		{limpettest.CloseWith(1001, "", 1), down, effects{limpettest.KindCloseWith: 1}, 0},
		{limpettest.BlackHole(limpettest.Up), up, effects{limpettest.KindBlackHole: 1}, 0},
		{limpettest.BlackHole(limpettest.Down), up, effects{}, 0},
		{limpettest.Stall(time.Second).AfterBytes(limpettest.Up, 0), up, effects{limpettest.KindStall: 1}, 0},
		{limpettest.Stall(time.Second).AfterBytes(limpettest.Up, 500), up, effects{}, 0},
		{limpettest.Stall(time.Second), up, effects{limpettest.KindStall: 1}, 0},
		{limpettest.All(limpettest.CutAfterBytes(limpettest.Up, 5), limpettest.ResetAfterBytes(limpettest.Up, 5)), up, effects{limpettest.KindCut: 1}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := limpettest.NewNetwork(nil)
			n.Inject(tc.fault)
			client, server := pair(t, n)
			tc.talk(client, server)
			got := n.Effects()
			assert.Equal(t, got.ByKind, tc.want)
			assert.Equal(t, got.MidFrame, tc.midFrame)
			n.Close()
			if t.Failed() {
				t.Logf("after %v", tc.fault)
			}
		})
	}
}

// What happens to dials counts too, and a network remembers as many as it is asked to.
func TestEffectsOfDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := limpettest.NewNetwork(&limpettest.NetworkOptions{Dials: 4})
		n.Inject(limpettest.Refuse(3), limpettest.RefuseUpgrade(503, nil), limpettest.RefuseUpgrade(503, nil))
		for range 100 {
			if c, err := n.DialContext(t.Context(), "tcp", "127.0.0.1:1"); err == nil {
				t.Error("the network does not listen")
				c.Close()
			}
		}
		assert.Equal(t, n.Effects().ByKind[limpettest.KindRefuse], 3)
		if d := len(n.Dials()); d < 4 || d > 8 {
			t.Errorf("%d dials are remembered, want 4 to 8", d)
		}
		n.Close()
	})
}
