package test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// keepsInterval is limpet.v1 without the client's interval in HELLO: what an old
// server knows.
type keepsInterval struct{ wire.Dialect }

func (d keepsInterval) Open(r wire.Resume) (wire.Codec, error) {
	r.Heartbeat = 0
	return d.Dialect.Open(r)
}

const linkRate = 20 << 10 // bytes per second

// slow are networks that carry linkRate in one direction: one that holds a tenth of a
// second of it, and one that holds three seconds.
func slow(dir limpettest.Direction, held time.Duration) *limpettest.NetworkOptions {
	o := &limpettest.NetworkOptions{Buffer: int(linkRate * held / time.Second)}
	if dir&limpettest.Up != 0 {
		o.Up = held
	}
	if dir&limpettest.Down != 0 {
		o.Down = held
	}
	return o
}

// A link whose heartbeat is shorter than what it carries in one write loses no
// connection: bytes that move are life, and what is published is acknowledged in the
// time that its bytes need.
func TestSlowUplinkIsNoLoss(t *testing.T) {
	for _, tc := range []struct {
		name     string
		messages int
		bytes    int
		held     time.Duration
		old      bool
	}{
		{"many small", 1000, 200, 100 * time.Millisecond, false},
		{"many", 200, 1000, 100 * time.Millisecond, false},
		{"each more than the link carries in an interval", 3, 200 << 10, 100 * time.Millisecond, false},
		{"small and large", 40, 17_000, 100 * time.Millisecond, false},
		{"a link that holds three seconds", 200, 1000, 3 * time.Second, false},
		{"large on a link that holds three seconds", 3, 200 << 10, 3 * time.Second, false},
		{"many, to an old server", 200, 1000, 100 * time.Millisecond, true},
		{"large, to an old server", 3, 200 << 10, 100 * time.Millisecond, true},
	} {
		for _, plain := range bothFrameLayers() {
			t.Run(fmt.Sprintf("%s, plain %v", tc.name, plain), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := limpettest.NewServer(t, &limpettest.ServerOptions{Network: slow(limpettest.Up, tc.held)})
					o := &limpet.Options{Heartbeat: limpet.Heartbeat{Interval: time.Second}, PlainFrames: plain}
					if tc.old {
						o.Dialect = keepsInterval{native.New(nil)}
					}
					c := dial(t, srv, o)
					at := time.Now()
					for range tc.messages {
						if _, err := c.Publish(context.Background(), "a", make([]byte, tc.bytes), nil); err != nil {
							t.Fatal(err)
						}
					}
					ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
					defer cancel()
					err := c.Flush(ctx)
					took, need := time.Since(at), time.Duration(tc.messages*(tc.bytes+60))*time.Second/linkRate
					st := c.Stats()
					if err != nil || st.Acked != uint64(tc.messages) || st.Resent > 0 || st.Connections != 1 {
						t.Errorf("after %v: %v, %d of %d acknowledged, %d sent again, %d connections, %v", took, err, st.Acked, tc.messages, st.Resent, st.Connections, c.State().Cause)
					}
					if most := need*5/4 + 2*tc.held + 2*time.Second; took > most {
						t.Errorf("took %v; the bytes need %v", took, need)
					}
				})
			})
		}
	}
}

// The same in the other direction, in which the acknowledgements come too.
func TestSlowDownlinkIsNoLoss(t *testing.T) {
	for _, tc := range []struct {
		name     string
		messages int
		bytes    int
		dirs     limpettest.Direction
		held     time.Duration
		old      bool
	}{
		{"many", 200, 1000, limpettest.Down, 100 * time.Millisecond, false},
		{"large", 3, 200 << 10, limpettest.Down, 100 * time.Millisecond, false},
		{"large, old server", 3, 200 << 10, limpettest.Down, 100 * time.Millisecond, true},
		{"both ways", 200, 1000, limpettest.Both, 100 * time.Millisecond, false},
		{"large, both ways", 3, 200 << 10, limpettest.Both, 100 * time.Millisecond, false},
		{"at 500 bytes a second", 2, 5000, limpettest.Down, 0, false},
	} {
		for _, plain := range bothFrameLayers() {
			t.Run(fmt.Sprintf("%s, plain %v", tc.name, plain), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					network := slow(tc.dirs, tc.held)
					rate := linkRate
					if tc.held == 0 {
						network = &limpettest.NetworkOptions{Buffer: 100, Down: 200 * time.Millisecond}
						rate = 500
					}
					srv := limpettest.NewServer(t, &limpettest.ServerOptions{Network: network})
					o := &limpet.Options{Heartbeat: limpet.Heartbeat{Interval: time.Second}, PlainFrames: plain}
					if tc.old {
						o.Dialect = keepsInterval{native.New(nil)}
					}
					c := dial(t, srv, o)
					s := subscribeLive(t, c, "a", nil)
					at := time.Now()
					for range tc.messages {
						if _, err := srv.Server.Publish(context.Background(), "a", make([]byte, tc.bytes), nil); err != nil {
							t.Fatal(err)
						}
						if tc.dirs&limpettest.Up == 0 {
							continue
						}
						if _, err := c.Publish(context.Background(), "b", make([]byte, tc.bytes), nil); err != nil {
							t.Fatal(err)
						}
					}
					collect(t, s, tc.messages)
					if err := c.Flush(context.Background()); err != nil {
						t.Error(err)
					}
					took, need := time.Since(at), time.Duration(tc.messages*(tc.bytes+60))*time.Second/time.Duration(rate)
					st := c.Stats()
					if st.Connections != 1 || st.Resent > 0 || s.Stats().Gaps+s.Stats().Resets+s.Stats().Duplicates > 0 {
						t.Errorf("after %v: %+v, %+v, %v", took, st, s.Stats(), c.State().Cause)
					}
					if most := need*5/4 + 4*time.Second; took > most {
						t.Errorf("took %v; the bytes need %v", took, need)
					}
				})
			})
		}
	}
}

// What is small and urgent does not wait behind a backlog for longer than one write, and
// that takes half a second at most.
func TestControlFramesBeforeABacklog(t *testing.T) {
	for _, dir := range []limpettest.Direction{limpettest.Up, limpettest.Down} {
		for _, plain := range bothFrameLayers() {
			t.Run(fmt.Sprintf("%v, plain %v", dir, plain), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := limpettest.NewServer(t, &limpettest.ServerOptions{Network: slow(dir, 100*time.Millisecond)})
					c := dial(t, srv, &limpet.Options{PlainFrames: plain})
					feed := subscribeLive(t, c, "feed", nil)
					const backlog = 400
					for range backlog {
						if dir == limpettest.Down {
							publish(t, srv, "feed", string(make([]byte, 1000)))
						} else if _, err := c.Publish(context.Background(), "a", make([]byte, 1000), nil); err != nil {
							t.Fatal(err)
						}
					}
					time.Sleep(5 * time.Second) // both ends have learned how fast the link is
					for i := range 5 {
						at := time.Now()
						subscribeLive(t, c, fmt.Sprint(i), nil)
						if took := time.Since(at); took > 1300*time.Millisecond {
							t.Errorf("a subscription behind a backlog was live after %v", took)
						}
					}
					if dir == limpettest.Down && feed.Stats().Received == backlog || dir == limpettest.Up && c.Stats().Acked == backlog {
						t.Error("there was no backlog")
					}
				})
			})
		}
	}
}

// A server that knows nothing of the client's interval, on a link that holds more than
// the client waits for: the client's patience grows until something gets through.
func TestPatienceWithSilenceGrows(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, &limpettest.ServerOptions{Network: slow(limpettest.Up, 3*time.Second)})
			c := dial(t, srv, &limpet.Options{Dialect: keepsInterval{native.New(nil)}, PlainFrames: plain,
				Heartbeat: limpet.Heartbeat{Interval: time.Second}})
			for range 3 {
				if _, err := c.Publish(context.Background(), "a", make([]byte, 200<<10), nil); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			if err := c.Flush(ctx); err != nil || c.Stats().Acked != 3 {
				t.Errorf("plain %v: %v, %+v, %v", plain, err, c.Stats(), c.State().Cause)
			}
		})
	}
}
