package test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// The tests of ReconnectNow and NetworkChanged: in every phase the client finds out soon
// whether its connection works.

// lookDialect is rawDialect with a way to ping.
type lookDialect struct {
	rawDialect
	ping   wire.Ping
	limits wire.ConnectionLimits
}

func (d lookDialect) Traits() wire.Traits {
	t := d.rawDialect.Traits()
	t.Ping, t.Connection = d.ping, d.limits
	return t
}

// pongServer answers WebSocket pings while it is not deaf, and counts them.
type pongServer struct {
	deaf  atomic.Bool
	pings atomic.Int32
}

func (s *pongServer) talk(nc net.Conn) {
	for {
		first, payload, err := readClientFrame(nc)
		if err != nil {
			return
		}
		if first&0xf != 9 {
			continue
		}
		if s.pings.Add(1); !s.deaf.Load() {
			nc.Write(rawFrame(0x8a, payload))
		}
	}
}

// readClientFrame reads a short frame of a client.
func readClientFrame(r io.Reader) (first byte, payload string, err error) {
	header := make([]byte, 6)
	if _, err := io.ReadFull(r, header); err != nil {
		return 0, "", err
	}
	b := make([]byte, header[1]&0x7f)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, "", err
	}
	for i := range b {
		b[i] ^= header[2+i%4]
	}
	return header[0], string(b), nil
}

// noHeartbeats come once in a year.
var noHeartbeats = limpet.Heartbeat{Interval: 365 * 24 * time.Hour}

// hourly is a backoff in which nothing happens by itself.
var hourly = limpet.Backoff{First: time.Hour, Initial: time.Hour, Max: time.Hour}

var lookCalls = map[string]func(*limpet.Client){"ReconnectNow": (*limpet.Client).ReconnectNow, "NetworkChanged": (*limpet.Client).NetworkChanged}

// Ready on a path that is gone: the connection is lost after three seconds, and the next
// attempt starts at once. A peer that is there keeps its connection, also if only it sends
// heartbeats.
func TestLookFindsADeadConnection(t *testing.T) {
	for name, look := range lookCalls {
		for _, how := range []wire.Ping{wire.PingControl, wire.PingNone} {
			for _, plain := range bothFrameLayers() {
				synctest.Test(t, func(t *testing.T) {
					s := &pongServer{}
					host := limpettest.NewHandler(t, rawServer(s.talk), nil)
					c, err := limpet.Dial(t.Context(), host.URL(), options(&limpet.Options{
						HTTPClient: host.HTTPClient(), Dialect: lookDialect{ping: how}, Heartbeat: noHeartbeats, PlainFrames: plain,
						Backoff: hourly}))
					assert.NoError(t, err)
					defer closeAndWait(t, c)
					look(c)
					time.Sleep(time.Minute)
					if st := c.State(); st.Generation != 1 || st.Phase != limpet.Ready || s.pings.Load() != 1 {
						t.Fatalf("%s, ping %v: %d pings, %+v", name, how, s.pings.Load(), st)
					}
					s.deaf.Store(true)
					look(c)
					at := time.Now()
					st, err := c.WaitState(within(t, 10*time.Minute), func(s limpet.State) bool { return s.Phase != limpet.Ready || s.Generation == 2 })
					assert.NoError(t, err)
					if took := time.Since(at); took != 3*time.Second || !errors.Is(st.Cause, limpet.ErrHeartbeat) || limpet.ClassOf(st.Cause) != limpet.ClassTimeout {
						t.Errorf("%s, ping %v: lost after %v, want 3 s: %v", name, how, took, st.Cause)
					}
					st, err = c.WaitState(within(t, 10*time.Minute), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 })
					assert.NoError(t, err)
					if took := time.Since(at); took > 3*time.Second+100*time.Millisecond || st.Attempt != 1 {
						t.Errorf("%s, ping %v: ready again after %v with %d failures, want 3 s and 1", name, how, took, st.Attempt)
					}
				})
			}
		}
	}
}

// A probe in the protocol's own language.
func TestLookPingsInTheProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pings := make(chan bool, 1000)
		s := newScriptedServer(t, func(p *scriptedConn) {
			p.sendFrames(append([]native.Frame{p.welcome()}, p.confirmations()...)...)
			for frames := p.read(); frames != nil; frames = p.read() {
				for _, f := range frames {
					if f.Type == native.TypePing {
						pings <- true
						p.sendFrames(native.Frame{Type: native.TypePong, N: f.N})
					}
				}
			}
		})
		c, _ := s.start(limpet.Options{Heartbeat: noHeartbeats})
		assert.NoError(t, c.WaitReady(within(t, 10*time.Minute)))
		synctest.Wait()
		for range 100 {
			c.ReconnectNow()
		}
		time.Sleep(5 * time.Second)
		if n, st := len(pings), c.State(); n < 1 || n > 2 || st.Generation != 1 || st.Phase != limpet.Ready { // a call after the first ping costs another
			t.Errorf("%d pings for 100 calls, want 1 or 2: %+v", n, st)
		}
	})
}

// Calls that never end cost a ping a second, and the last of them counts.
func TestManyLooksCostOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &pongServer{}
		host := limpettest.NewHandler(t, rawServer(s.talk), nil)
		c, err := limpet.Dial(t.Context(), host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: lookDialect{}, Heartbeat: noHeartbeats}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		for range 1000 {
			c.ReconnectNow()
			c.NetworkChanged()
			time.Sleep(10 * time.Millisecond)
		}
		if n := s.pings.Load(); n < 10 || n > 11 {
			t.Errorf("%d pings in ten seconds", n)
		}
		s.deaf.Store(true)
		c.NetworkChanged() // less than a second after the last ping, which was answered
		time.Sleep(4100 * time.Millisecond)
		if g := c.State().Generation; g != 2 {
			t.Errorf("connection %d: the last call was lost", g)
		}
	})
}

// A ping that waits for the limit of the server has not been left without an answer.
func TestProbeWaitsForTheLimitOfTheServer(t *testing.T) {
	for _, how := range []wire.Ping{wire.PingControl, wire.PingNone} {
		synctest.Test(t, func(t *testing.T) {
			s := &pongServer{}
			host := limpettest.NewHandler(t, rawServer(s.talk), nil)
			c, err := limpet.Dial(t.Context(), host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Heartbeat: noHeartbeats,
				Dialect: lookDialect{ping: how, limits: wire.ConnectionLimits{Messages: 5, Per: time.Minute}}}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			for range 60 {
				c.ReconnectNow()
				time.Sleep(time.Second)
			}
			if n, st := s.pings.Load(), c.State(); n < 2 || n > 5 || st.Generation != 1 {
				t.Errorf("ping %v: %d pings in a minute, connection %d: %v", how, n, st.Generation, st.Cause)
			}
			s.deaf.Store(true)
			c.ReconnectNow()
			time.Sleep(40 * time.Second)
			if g := c.State().Generation; g != 2 {
				t.Errorf("ping %v: connection %d", how, g)
			}
		})
	}
}

// An attempt that hangs gives way to another one after a second. The caller cannot keep a
// slow server from answering: each time, an attempt has twice as long.
func TestLookGivesUpAnAttemptThatHangs(t *testing.T) {
	for name, look := range lookCalls {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			srv.Inject(limpettest.Stall(time.Hour))
			began := time.Now()
			c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient(), Backoff: hourly}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			time.Sleep(200 * time.Millisecond)
			look(c)
			assert.NoError(t, c.WaitReady(within(t, 10*time.Minute)))
			if took := time.Since(began); took < time.Second || took > 1200*time.Millisecond {
				t.Errorf("%s: ready after %v, want about 1 s", name, took)
			}
			st := c.Stats()
			if cause := c.State().Cause; st.FailedAttempts.Of(limpet.ClassTimeout) != 1 || !strings.Contains(cause.Error(), name) {
				t.Errorf("%s: %v, cause %v", name, st.FailedAttempts, cause)
			}
		})
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			srv.Network.Each(func(int) limpettest.Fault { return limpettest.Stall(5 * time.Second) })
			began := time.Now()
			c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			for c.State().Phase != limpet.Ready && time.Since(began) < time.Minute {
				look(c)
				time.Sleep(10 * time.Millisecond)
			}
			if took, n := time.Since(began), c.Stats().Attempts; took > 13*time.Second || n != 4 {
				t.Errorf("%s: ready after %v and %d attempts, want 1+2+4+5 s and 4", name, took, n)
			}
		})
	}
}

// An attempt that has just begun is not given up: the call finds it still young. The answer
// of the server counts.
func TestLookKeepsAnAttemptThatIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Inject(limpettest.Stall(900 * time.Millisecond))
		c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		for range 80 {
			c.ReconnectNow()
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		if st := c.Stats(); st.Attempts != 1 || c.State().Generation != 1 {
			t.Errorf("%d attempts, %+v", st.Attempts, c.State())
		}
	})
}

// A handshake that hangs gives way to another attempt as well.
func TestLookGivesUpAHandshakeThatHangs(t *testing.T) {
	for name, look := range lookCalls {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			srv.Inject(limpettest.BlackHole(limpettest.Both).AfterBytes(limpettest.Up, 1).Upgraded())
			began := time.Now()
			c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient(), Backoff: hourly}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			synctest.Wait()
			if p := c.State().Phase; p != limpet.Handshaking {
				t.Fatalf("phase %v: the test proves nothing", p)
			}
			look(c)
			assert.NoError(t, c.WaitReady(within(t, 10*time.Minute)))
			if took, st := time.Since(began), c.State(); took < time.Second || took > 1200*time.Millisecond || !errors.Is(st.Cause, limpet.ErrHeartbeat) {
				t.Errorf("%s: ready after %v: %v", name, took, st.Cause)
			}
		})
	}
}

// The events of a network that comes back are a burst: of the attempts that they bring
// forward, the first starts at once and the next ones at least ten seconds apart. The last
// event counts as well. A user who presses a button does not wait.
func TestNetworkChangesComeInBursts(t *testing.T) {
	start := func(t *testing.T) (*limpettest.Host, *limpet.Client) {
		host := limpettest.NewHandler(t, http.NotFoundHandler(), nil)
		host.Stop()
		c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawDialect{},
			Backoff: hourly}))
		assert.NoError(t, err)
		t.Cleanup(func() { closeAndWait(t, c) })
		return host, c
	}
	synctest.Test(t, func(t *testing.T) {
		host, c := start(t)
		time.Sleep(time.Second)
		began := time.Now()
		for range 150 {
			c.NetworkChanged()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		var at []time.Duration
		for _, d := range host.Network.Dials()[1:] {
			at = append(at, d.At.Sub(began))
		}
		assert.Equal(t, at, []time.Duration{0, 10 * time.Second, 20 * time.Second})
	})
	synctest.Test(t, func(t *testing.T) {
		host, c := start(t)
		time.Sleep(time.Second)
		c.NetworkChanged()
		time.Sleep(time.Second)
		c.ReconnectNow()
		synctest.Wait()
		if n := len(host.Network.Dials()); n != 3 {
			t.Errorf("%d attempts, want 3", n)
		}
	})
}

// No look makes an attempt before the time that a server has named.
func TestLookRespectsTheSlot(t *testing.T) {
	for name, look := range lookCalls {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			srv.Inject(limpettest.RefuseUpgrade(503, http.Header{"Retry-After": {"60"}}))
			began := time.Now()
			c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			for c.State().Phase != limpet.Ready {
				look(c)
				time.Sleep(500 * time.Millisecond)
			}
			if took := time.Since(began); took < time.Minute || took > 61*time.Second {
				t.Errorf("%s: ready after %v, want a minute", name, took)
			}
		})
	}
}

// A big message that moves is a sign of life: the ping waits behind it.
func TestProbeDuringASlowWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Network: &limpettest.NetworkOptions{Buffer: 1024, Up: 500 * time.Millisecond}})
		c := dial(t, srv, &limpet.Options{Heartbeat: noHeartbeats})
		sent := make(chan error)
		go func() {
			_, err := c.Send(context.Background(), "a", make([]byte, 64<<10), nil)
			sent <- err
		}()
		time.Sleep(2 * time.Second)
		for range 20 {
			c.ReconnectNow()
			time.Sleep(time.Second)
		}
		assert.NoError(t, <-sent)
		if g := c.State().Generation; g != 1 {
			t.Errorf("connection %d: %v", g, c.State().Cause)
		}
	})
}
