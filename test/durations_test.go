package test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// The tests of the table of durations in docs/reconnect.md, section 4.

var rareHeartbeats = limpet.Heartbeat{Interval: time.Hour} // scripted servers answer no ping

// The delay of a goaway counts from its arrival, not from the loss.
func TestGoAwayCountsFromItsArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(t, func(p *scriptedConn) {
			p.sendFrames(p.welcome())
			p.sendFrames(native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: 4300, After: 60_000}})
			time.Sleep(20 * time.Second)
			p.ws.CloseNow()
		})
		c, _ := s.start(limpet.Options{Heartbeat: rareHeartbeats})
		st, _ := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Phase == limpet.Waiting })
		if wait := time.Until(st.NextAttempt); wait < 39*time.Second || wait > 44*time.Second {
			t.Errorf("lost 20 s after the goaway: the next attempt is in %v, want 40 s to 44 s", wait)
		}
	})
}

// A connection that works when the delay of a goaway is over is left for another one.
func TestGoAwayWithADelayIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked, came time.Time
		s := newScriptedServer(t, func(p *scriptedConn) {
			p.sendFrames(p.welcome())
			if p.number > 1 {
				came = time.Now()
				return
			}
			asked = time.Now()
			p.sendFrames(native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: 4300, After: 60_000, Spread: 30_000}})
		})
		c, _ := s.start(limpet.Options{Heartbeat: rareHeartbeats})
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if wait := came.Sub(asked); wait < time.Minute || wait > 91*time.Second {
			t.Errorf("the next connection was ready %v after the goaway, want 1m0s to 1m31s", wait)
		}
		if _, conns := s.seen(); conns != 2 || c.State().Phase != limpet.Ready || c.Stats().Outages != 0 {
			t.Errorf("%d connections, %v, %d outages; want 2, Ready, 0", conns, c.State(), c.Stats().Outages)
		}
	})
}

// A server that takes 15, 25 or 55 seconds to welcome is reached.
func TestPatienceWithTheHandshakeGrows(t *testing.T) {
	for _, takes := range []time.Duration{15 * time.Second, 25 * time.Second, 55 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s := newScriptedServer(t, func(p *scriptedConn) {
				time.Sleep(takes)
				p.sendFrames(p.welcome())
			})
			c, _ := s.start(limpet.Options{Heartbeat: rareHeartbeats})
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			if err := c.WaitReady(ctx); err != nil {
				_, conns := s.seen()
				t.Errorf("a welcome after %v: %d connections, %v", takes, conns, err)
			}
		})
	}
}

// A client that was welcomed gives the next handshake ten seconds again.
func TestPatienceWithTheHandshakeStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var held time.Duration
		s := newScriptedServer(t, func(p *scriptedConn) {
			began := time.Now()
			switch p.number {
			case 1, 2: // each raises the bound
				p.read()
			case 3:
				p.sendFrames(p.welcome())
			case 4:
				p.read()
				held = time.Since(began)
			}
			p.ws.CloseNow()
		})
		c, _ := s.start(limpet.Options{Heartbeat: rareHeartbeats})
		time.Sleep(5 * time.Minute)
		if c.Stats().Connections < 1 || held < 9*time.Second || held > 12*time.Second {
			t.Errorf("after %d connections the handshake had %v, want 10 s", c.Stats().Connections, held)
		}
	})
}

// A balancer that cuts every connection after 20 seconds: each delivered a
// message, so each proved that the server works, and the waits stay short. A
// server that repeats one message proves nothing.
func TestReceivedMessagesProveAConnection(t *testing.T) {
	for _, repeats := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newScriptedServer(t, func(p *scriptedConn) {
				p.sendFrames(append([]native.Frame{p.welcome()}, p.confirmations()...)...)
				switch at := p.hello.Subs[0].O; {
				case !repeats || at == 0:
					p.sendFrames(dataFrame(at+1, at, "new"))
				default:
					p.sendFrames(dataFrame(at, at-1, "again"))
				}
				time.Sleep(20 * time.Second)
				p.ws.CloseNow()
			})
			c, sub := s.start(limpet.Options{Heartbeat: rareHeartbeats})
			go func() {
				for range sub.C() {
				}
			}()
			time.Sleep(time.Hour)
			_, conns := s.seen()
			if !repeats && conns < 170 || repeats && conns > 130 {
				t.Errorf("repeats=%v: %d connections in an hour", repeats, conns)
			}
			closeAndWait(t, c)
		})
	}
}

// A subscription that has ended has proved its connection all the same.
func TestShortSubscriptionProvesAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		for range 20 {
			if err := c.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			s := subscribeLive(t, c, "a", nil)
			publish(t, srv, "a", "x")
			collect(t, s, 1)
			s.Close()
			time.Sleep(20 * time.Second)
			srv.Network.ResetAll()
			synctest.Wait()
			if n := c.State().Attempt; n > 1 {
				t.Fatalf("%d failures in a row", n)
			}
		}
	})
}

// beatingDialect is a language whose server announces its own heartbeats.
type beatingDialect struct {
	retryNowDialect
	interval time.Duration
}

type beatingCodec struct {
	wire.Codec
	interval time.Duration
}

func (d beatingDialect) Open(r wire.Resume) (wire.Codec, error) {
	c, err := d.toyDialect.Open(r)
	return beatingCodec{c, d.interval}, err
}

func (c beatingCodec) Decode(f wire.Frame, out *wire.Events) error {
	if string(f.Data) == "ready" {
		out.Append(wire.EventReady).Ready = &wire.Ready{Heartbeat: c.interval}
		return nil
	}
	return c.Codec.Decode(f, out)
}

// Where only the server sends heartbeats its interval counts, up or down.
func TestHeartbeatOfAPeerThatTakesNoPing(t *testing.T) {
	for _, tc := range []struct {
		announced, beats time.Duration
		least, most      int // connections in an hour
	}{
		{time.Minute, time.Minute, 1, 1},
		{time.Minute, 2 * time.Minute, 1, 1},
		{time.Minute, 4 * time.Minute, 20, 25},
		{10 * time.Second, time.Minute, 50, 145},
		{1 << 60, 2 * time.Hour, 1, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := newToyServer(t, func(_ int, say func(string), _ func() string) {
				say("ready")
				for range 100 {
					time.Sleep(tc.beats)
					say("beat x")
				}
			})
			d := beatingDialect{retryNowDialect{newToyDialect()}, tc.announced}
			d.traits.Ping = wire.PingNone
			c, err := limpet.Dial(context.Background(), srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			if n := int(c.Stats().Connections); n < tc.least || n > tc.most {
				t.Errorf("announced %v, beats every %v: %d connections in an hour, want %d to %d", tc.announced, tc.beats, n, tc.least, tc.most)
			}
			closeAndWait(t, c)
			time.Sleep(300 * time.Hour)
		})
	}
}

// The time in a fatal error frame counts from its arrival, not from the close
// that follows.
func TestRetryOfAFatalError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(t, func(p *scriptedConn) {
			p.sendFrames(p.welcome())
			p.sendText(`{"t":"err","code":7,"fatal":true,"retry":40000}`)
		})
		at := time.Now().Add(time.Millisecond) // the stall of the first dial
		c, _ := s.start(limpet.Options{Heartbeat: rareHeartbeats})
		st, _ := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Phase == limpet.Waiting })
		if wait := st.NextAttempt.Sub(at); wait < 40*time.Second || wait > 44*time.Second {
			t.Errorf("the next attempt comes %v after the frame, want 40 to 44 s", wait)
		}
		if held := time.Since(at); held < 900*time.Millisecond {
			t.Errorf("the connection was held for %v after the frame: the test proves nothing", held)
		}
	})
}

// Credentials that live for 45 s: each was taken, so none is a second refusal.
func TestWelcomeForgetsARefusedCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFailingServer(t, func(int) *failure { return nil })
		s.afterwards = func(p *scriptedConn) {
			time.Sleep(45 * time.Second)
			p.ws.Close(4100, "")
		}
		c := s.start(t, withAuth)
		time.Sleep(time.Hour)
		if n := len(s.made()); c.State().Phase == limpet.Ended || n < 70 || n > 82 {
			t.Errorf("%d attempts in an hour: %v", n, c.Err())
		}
	})
}

// A refused credential is replaced at once, whatever the backoff: nothing is wrong with
// the server.
func TestRefusedCredentialIsReplacedAtOnce(t *testing.T) {
	for _, refusal := range []*failure{{status: 401}, {code: 4100}, {code: 1008}} {
		synctest.Test(t, func(t *testing.T) {
			s := newFailingServer(t, func(n int) *failure {
				if n == 1 {
					return refusal
				}
				return nil
			})
			o := withAuth
			o.Backoff = limpet.Backoff{First: 10 * time.Minute, Initial: 10 * time.Minute, Max: 10 * time.Minute}
			c := s.start(t, o)
			if err := c.WaitReady(context.Background()); err != nil {
				t.Fatal(err)
			}
			if made := s.made(); len(made) != 2 || made[1].Sub(made[0]) > 200*time.Millisecond {
				t.Errorf("%+v: attempts at %v", *refusal, made)
			}
		})
	}
}

// A server that takes each credential and then refuses it is not hammered.
func TestRefusedAfterEachWelcomeIsNoHammer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFailingServer(t, func(int) *failure { return nil })
		s.afterwards = func(p *scriptedConn) { p.ws.Close(4100, "") }
		c := s.start(t, withAuth)
		time.Sleep(time.Hour)
		if n := len(s.made()); c.State().Phase == limpet.Ended || n < 60 || n > 300 {
			t.Errorf("%d attempts in an hour: %v", n, c.Err())
		}
	})
}
