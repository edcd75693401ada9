package test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"nhooyr.io/websocket"
)

// Close ends everything within 100 ms in every phase, whatever the peer does
// and wherever a consumer stands (docs/protocol.md, invariant I15).
func TestCloseInEveryPhase(t *testing.T) {
	stallInFrame := func(t *testing.T, srv *limpettest.Server, c *limpet.Client) {
		live(t, c, "big", nil)
		srv.Network.Strike(limpettest.Stall(time.Hour).AfterBytes(limpettest.Down, 1))
		publish(t, srv, "big", strings.Repeat("x", 200<<10))
		synctest.Wait()
	}
	for name, tc := range map[string]struct {
		fault limpettest.Fault
		setup func(t *testing.T, srv *limpettest.Server, c *limpet.Client)
	}{
		"dialling":    {limpettest.Stall(time.Hour), nil},
		"upgrading":   {limpettest.BlackHole(limpettest.Down), nil},
		"handshaking": {limpettest.BlackHole(limpettest.Both).AfterFrames(limpettest.Up, 0), nil},
		"waiting":     {limpettest.Refuse(1000), nil},
		"ready":       {limpettest.Clean(), ready},
		"peer stalls": {limpettest.Clean(), stallInFrame},
		"half-open": {limpettest.Clean(), func(t *testing.T, srv *limpettest.Server, c *limpet.Client) {
			ready(t, srv, c)
			srv.Network.Strike(limpettest.BlackHole(limpettest.Both))
		}},
		"stuck writing": {limpettest.Clean(), stuckWriting},
		"C is not read": {limpettest.Clean(), func(t *testing.T, srv *limpettest.Server, c *limpet.Client) {
			s := live(t, c, "a", nil)
			publish(t, srv, "a", "1", "2")
			s.C()
			synctest.Wait()
		}},
	} {
		for _, way := range []string{"Close", "Shutdown", "both"} {
			t.Run(name+"/"+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := limpettest.NewServer(t, &limpettest.ServerOptions{Network: &limpettest.NetworkOptions{Buffer: 4096}})
					srv.Inject(tc.fault)
					c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
					if err != nil {
						t.Fatal(err)
					}
					time.Sleep(50 * time.Millisecond)
					if tc.setup != nil {
						tc.setup(t, srv, c)
					}
					at, limit := time.Now(), 100*time.Millisecond
					if way != "Close" {
						ctx, cancel := context.WithTimeout(context.Background(), time.Second)
						defer cancel()
						limit += time.Second
						if way == "both" {
							time.AfterFunc(time.Millisecond, func() { c.Close() })
						}
						c.Shutdown(ctx)
					} else {
						c.Close()
					}
					if took := time.Since(at); took > limit {
						t.Errorf("%s returned after %v", way, took)
					}
					<-c.Done()
					if took := time.Since(at); took > limit {
						t.Errorf("done after %v", took)
					}
				})
			})
		}
	}
}

func ready(t *testing.T, _ *limpettest.Server, c *limpet.Client) {
	if err := c.WaitReady(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func stuckWriting(t *testing.T, srv *limpettest.Server, c *limpet.Client) {
	ready(t, srv, c)
	srv.Network.Strike(limpettest.Stall(time.Hour).AfterBytes(limpettest.Up, 1))
	for i := range 10 {
		if _, err := c.Publish(context.Background(), fmt.Sprint("a/", i), make([]byte, 100<<10), nil); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
}

// A slow uplink that moves is not dead, at either end.
func TestSlowUplinkSurvives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Network: &limpettest.NetworkOptions{Buffer: 1024, Up: 100 * time.Millisecond}})
		c := dial(t, srv, nil)
		// 1 KiB in 100 ms: 256 KiB take 26 s.
		if _, err := c.Send(context.Background(), "a", make([]byte, 256<<10), nil); err != nil {
			t.Error(err)
		}
		if g := c.State().Generation; g != 1 {
			t.Errorf("%d reconnects: %v", g-1, c.State().Cause)
		}
	})
}

// A write that moves nothing for 15 s is dead.
func TestStalledWriteIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Network: &limpettest.NetworkOptions{Buffer: 4096}})
		c := dial(t, srv, nil)
		stuckWriting(t, srv, c)
		at := time.Now()
		s, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Phase != limpet.Ready })
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(at); took > 16*time.Second || limpet.Class(s.Cause) != limpet.ClassTimeout {
			t.Errorf("after %v: %v", took, s.Cause)
		}
		if err := c.Flush(context.Background()); err != nil {
			t.Error(err)
		}
		if st := c.Stats(); st.Acked != 10 {
			t.Errorf("%+v", st)
		}
	})
}

// WebSocket pings of the peer are answered while a big message goes up a link
// of 8 kbit/s: the library allows a pong five seconds.
func TestPingsAreAnsweredOnASlowUplink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ponged atomic.Int32
		h := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer ws.CloseNow()
			ws.SetReadLimit(1 << 20)
			ctx, cancel := context.WithCancel(context.Background())
			go func() {
				defer cancel()
				for {
					if _, _, err := ws.Read(context.Background()); err != nil {
						return
					}
				}
			}()
			for range 4 {
				time.Sleep(10 * time.Second)
				if ws.Ping(ctx) != nil {
					return
				}
				ponged.Add(1)
			}
			<-ctx.Done()
		}), &limpettest.HostOptions{Network: &limpettest.NetworkOptions{Buffer: 1024, Up: time.Second}})
		d := retryNow{newWords()}
		d.traits.Greeting, d.traits.Ping = false, wire.PingNone
		c, err := limpet.Dial(context.Background(), h.URL(), options(&limpet.Options{HTTPClient: h.HTTPClient(), Dialect: d}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		if _, err := c.Publish(context.Background(), "a", make([]byte, 100<<10), nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(80 * time.Second)
		if st := c.State(); st.Generation != 1 || ponged.Load() != 4 {
			t.Errorf("generation %d, %d pongs: %v", st.Generation, ponged.Load(), st.Cause)
		}
	})
}
