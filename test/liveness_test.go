package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

func TestHalfOpenIsNoticedInTime(t *testing.T) {
	for _, dirs := range []limpettest.Direction{limpettest.Both, limpettest.Up, limpettest.Down} {
		t.Run(dirs.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, &limpet.Options{Heartbeat: limpet.Heartbeat{Interval: 10 * time.Second}})
				time.Sleep(time.Minute)
				if g := c.State().Generation; g != 1 {
					t.Fatalf("generation %d before the fault", g)
				}
				srv.Network.Strike(limpettest.BlackHole(dirs))
				at := time.Now()
				s, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Phase != limpet.Ready })
				if err != nil {
					t.Fatal(err)
				}
				// A dead uplink shows when the server gives up on us.
				limit := 25 * time.Second
				if dirs == limpettest.Up {
					limit += 50 * time.Second
				}
				if took := time.Since(at); took > limit {
					t.Errorf("noticed after %v: %v", took, s.Cause)
				}
				if dirs != limpettest.Up && !errors.Is(s.Cause, limpet.ErrHeartbeat) {
					t.Errorf("cause %v", s.Cause)
				}
			})
		})
	}
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
		if took := time.Since(at); took > 16*time.Second || limpet.ClassOf(s.Cause) != limpet.ClassTimeout {
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
		d := retryNowDialect{newToyDialect()}
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

// The peer's pings are answered while it reads nothing, and the connection
// outlives it: the library's own answer has five seconds.
func TestPingsOfAPeerThatReadsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		later := make(chan []byte, 100)
		host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
			for i := range 50 {
				nc.Write(rawFrame(0x89, fmt.Sprintf("%0120d", i)))
			}
			time.Sleep(10 * time.Second)
			nc.SetReadDeadline(time.Now().Add(time.Second))
			b, _ := io.ReadAll(nc)
			later <- b
			nc.SetReadDeadline(time.Time{})
			drain(nc)
		}), &limpettest.HostOptions{Network: &limpettest.NetworkOptions{Buffer: 256}})
		c, err := limpet.Dial(context.Background(), host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawDialect{}}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		s := &hostileServer{}
		s.received.Write(<-later)
		st := c.State()
		if c.Stats().PlainFrames {
			if st.Generation == 1 && st.Phase == limpet.Ready {
				t.Error("the library holds out now; take it out of record 0001")
			}
			return
		}
		pongs := s.sent()
		if len(pongs) < 30 || !strings.Contains(fmt.Sprint(pongs[len(pongs)-1]), "of 120") || st.Generation != 1 || st.Phase != limpet.Ready {
			t.Errorf("%d pongs, %+v", len(pongs), st)
		}
	})
}

// Pings of the wire protocol are answered, but no more than a bound are owed to a
// peer that does not read.
func TestPongsOwedAreBounded(t *testing.T) {
	for _, pings := range []int{50, 5000} {
		synctest.Test(t, func(t *testing.T) {
			var pongs atomic.Int32
			s := newScriptedServer(t, func(p *scriptedConn) {
				p.ws.SetReadLimit(1 << 20)
				p.sendFrames(p.welcome())
				for i := range pings {
					if i == 100 {
						time.Sleep(time.Second) // the pongs so far are one write, which the client does not finish
					}
					p.sendFrames(native.Frame{Type: native.TypePing, N: uint64(i + 1)})
				}
				time.Sleep(10 * time.Second) // less than a stalled write may take
				for frames := p.read(); frames != nil; frames = p.read() {
					for _, f := range frames {
						if f.Type == native.TypePong {
							pongs.Add(1)
						}
					}
				}
			})
			s.host = limpettest.NewHandler(t, http.HandlerFunc(s.serve), &limpettest.HostOptions{Network: &limpettest.NetworkOptions{Buffer: 256}})
			c, _ := s.start(limpet.Options{Heartbeat: rareHeartbeats})
			time.Sleep(20 * time.Second)
			if n := int(pongs.Load()); n < min(pings, 1000) || n > min(pings, 1200) {
				t.Errorf("%d pongs for %d pings", n, pings)
			}
			if n := c.Stats().Connections; n != 1 {
				t.Errorf("%d connections: %v", n, c.State().Cause)
			}
			closeAndWait(t, c)
		})
	}
}

// Empty fragments at a decent pace break no budget. They are no life either.
func TestMessageThatDoesNotGrowIsNoLife(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
				_, err := nc.Write(rawFrame(0x01, "a"))
				for err == nil {
					time.Sleep(time.Second)
					_, err = nc.Write(rawFrame(0x00, ""))
				}
			}), nil)
			c, err := limpet.Dial(context.Background(), host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawDialect{},
				Heartbeat: limpet.Heartbeat{Interval: 10 * time.Second}, PlainFrames: plain}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			at := time.Now()
			st, err := c.WaitState(ctx, func(s limpet.State) bool { return s.Cause != nil })
			if took := time.Since(at); err != nil || !errors.Is(st.Cause, limpet.ErrHeartbeat) || took > 26*time.Second {
				t.Errorf("plain %v: after %v: %v", plain, took, st.Cause)
			}
		})
	}
}

// A long message that grows is life, however long it takes.
func TestMessageThatGrowsIsLife(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
				for b := bin(strings.Repeat("x", 70_000)); len(b) > 0; b = b[min(len(b), 1000):] {
					time.Sleep(5 * time.Second)
					nc.Write(b[:min(len(b), 1000)])
				}
				drain(nc)
			}), nil)
			host.Inject(limpettest.Stall(time.Millisecond)) // so that the subscription is there
			c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawDialect{},
				Heartbeat: limpet.Heartbeat{Interval: 10 * time.Second}, PlainFrames: plain}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			s, err := c.Subscribe(context.Background(), "x", nil)
			if err != nil {
				t.Fatal(err)
			}
			if m := collect(t, s, 1)[0]; len(m.Payload) != 70_002 || c.State().Generation != 1 {
				t.Errorf("plain %v: %d bytes on connection %d", plain, len(m.Payload), c.State().Generation)
			}
		})
	}
}
