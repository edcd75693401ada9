package test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"sync"
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

// gate is a host whose upgrades answer decides, or the script where answer returns false.
type gate struct {
	*scriptedServer
	answer func(n int, w http.ResponseWriter) bool

	mu    sync.Mutex
	times []time.Time // of the requests
}

// newGate returns a gate on a network of its own, or on that of another one.
func newGate(t *testing.T, on *gate, talk func(*scriptedConn), answer func(n int, w http.ResponseWriter) bool) *gate {
	g := &gate{scriptedServer: &scriptedServer{t: t, talk: talk}, answer: answer}
	o := new(limpettest.HostOptions)
	if on != nil {
		o.On = on.host.Network
	}
	g.host = limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.times = append(g.times, time.Now())
		n := len(g.times)
		g.mu.Unlock()
		if !g.answer(n, w) {
			g.serve(w, r)
		}
	}), o)
	return g
}

// asked returns when the requests came.
func (g *gate) asked() []time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.times)
}

// busy answers 503 with a slot of a minute.
func busy(w http.ResponseWriter) bool {
	w.Header().Set("Retry-After", "60")
	w.WriteHeader(http.StatusServiceUnavailable)
	return true
}

var goAway = native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{Code: 4300}}

// waitFor waits for a connection with a generation that is ready.
func waitFor(t *testing.T, c *limpet.Client, generation uint64) {
	t.Helper()
	_, err := c.WaitState(withinAnHour(t), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation >= generation })
	assert.NoError(t, err)
}

// A slot that the attempt to make the next connection has got holds when the connection in use
// is lost.
func TestSlotOutlivesTheConnectionInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := make(chan struct{})
		g := newGate(t, nil, func(p *scriptedConn) {
			p.sendFrames(p.welcome())
			if p.number == 1 {
				p.sendFrames(goAway)
				<-refused
				time.Sleep(time.Second)
				p.ws.CloseNow()
			}
		}, func(n int, w http.ResponseWriter) bool {
			if n != 2 {
				return false
			}
			defer close(refused)
			return busy(w)
		})
		c, _ := g.start(limpet.Options{Heartbeat: rareHeartbeats})
		waitFor(t, c, 2)
		if at := g.asked(); len(at) != 3 || at[2].Sub(at[1]) < time.Minute {
			t.Errorf("requests at %v; the last one %v after a slot of a minute was given", at, at[len(at)-1].Sub(at[1]))
		}
	})
}

// A slot that the server gives when it ends the connection in use holds for what follows an
// attempt that was in progress then.
func TestSlotOfTheConnectionInUseHolds(t *testing.T) {
	for _, resolver := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var ended time.Time
			var g *gate
			began := make(chan struct{})
			o := limpet.Options{Heartbeat: rareHeartbeats}
			g = newGate(t, nil, func(p *scriptedConn) {
				p.sendFrames(p.welcome())
				if p.number == 1 {
					p.sendFrames(goAway)
					<-began
					time.Sleep(time.Second)
					ended = time.Now()
					p.sendFrames(native.Frame{Type: native.TypeErr, Err: &native.Err{Code: 4200, Fatal: true, Retry: 60_000}})
					p.ws.Close(4200, "")
				}
			}, func(n int, w http.ResponseWriter) bool {
				if n == 2 && !resolver {
					close(began)
					time.Sleep(3 * time.Second)
					w.WriteHeader(http.StatusBadGateway)
					return true
				}
				return false
			})
			if resolver {
				calls := 0
				o.Resolver = func(context.Context) ([]string, error) {
					if calls++; calls == 2 {
						close(began)
						time.Sleep(3 * time.Second)
					}
					return []string{g.host.URL()}, nil
				}
			}
			c, _ := g.start(o)
			waitFor(t, c, 2)
			at := g.asked()
			if last := at[len(at)-1].Sub(ended); last < time.Minute {
				t.Errorf("resolver %v: %d requests, the last one %v after a slot of a minute was given", resolver, len(at), last)
			}
		})
	}
}

// An answer of the Resolver leaves only an endpoint with a slot: that holds. It also holds for an
// endpoint that was not in the list for a while.
func TestSlotOutlivesTheAnswersOfTheResolver(t *testing.T) {
	for name, answers := range map[string]func(a, b string) [][]string{
		"what is left": func(a, b string) [][]string { return [][]string{{a}} },
		"back again":   func(a, b string) [][]string { return [][]string{{b}, {b}, {a, b}, {a}} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				talk := func(p *scriptedConn) { p.sendFrames(p.welcome()) }
				a := newGate(t, nil, talk, func(n int, w http.ResponseWriter) bool { return n == 1 && busy(w) })
				b := newGate(t, a, talk, func(n int, w http.ResponseWriter) bool {
					w.WriteHeader(http.StatusBadGateway)
					return true
				})
				list, calls := answers(a.host.URL(), b.host.URL()), 0
				c, _ := a.start(limpet.Options{Resolver: func(context.Context) ([]string, error) {
					if len(a.asked()) == 0 {
						return []string{a.host.URL(), b.host.URL()}, nil
					}
					urls := list[min(calls, len(list)-1)]
					calls++
					return urls, nil
				}})
				waitFor(t, c, 1)
				if at := a.asked(); len(at) != 2 || at[1].Sub(at[0]) < time.Minute {
					t.Errorf("requests at %v, with a slot of a minute", at)
				}
			})
		})
	}
}

// A token server that names a time is left alone for it, however many endpoints there are: the
// endpoint is not why.
func TestSlotOfTheTokenServerHoldsForEveryEndpoint(t *testing.T) {
	for _, ticket := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3)
			var asked []time.Time
			answer := func() error {
				if asked = append(asked, time.Now()); len(asked) == 1 {
					return &wire.StatusError{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"60"}}}
				}
				return nil
			}
			var o limpet.Options
			if ticket {
				o.Ticket = func(context.Context, limpet.AttemptInfo) (url.Values, error) { return nil, answer() }
			} else {
				o.Auth = func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
					return limpet.Credential{}, answer()
				}
			}
			client := c.start(t, o)
			assert.NoError(t, client.WaitReady(withinAnHour(t)))
			if gap := asked[1].Sub(asked[0]); gap < time.Minute {
				t.Errorf("ticket %v: asked again after %v", ticket, gap)
			}
		})
	}
}

// The same for the attempt to make the next connection.
func TestSlotHoldsForTheNextConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leave := make(chan struct{})
		a := newGate(t, nil, func(p *scriptedConn) { p.sendFrames(p.welcome()) }, func(n int, w http.ResponseWriter) bool { return n == 1 && busy(w) })
		b := newGate(t, a, func(p *scriptedConn) {
			p.sendFrames(p.welcome())
			<-leave
			p.sendFrames(goAway)
		}, func(n int, w http.ResponseWriter) bool {
			if n == 1 {
				w.WriteHeader(http.StatusBadGateway) // so that a is tried as well
			}
			return n == 1
		})
		var left atomic.Bool
		c, _ := a.start(limpet.Options{Heartbeat: rareHeartbeats, Resolver: func(context.Context) ([]string, error) {
			if left.Load() {
				return []string{a.host.URL()}, nil
			}
			return []string{a.host.URL(), b.host.URL()}, nil
		}})
		waitFor(t, c, 1)
		left.Store(true)
		close(leave)
		waitFor(t, c, 2)
		if at := a.asked(); len(at) != 2 || at[1].Sub(at[0]) < time.Minute || len(b.asked()) != 2 {
			t.Errorf("requests at %v and %v, with a slot of a minute", at, b.asked())
		}
	})
}

// A token server that is overloaded says nothing about the host: clients of other credentials
// come at their own pace.
func TestTokenServerIsNotTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		governor, err := limpet.NewGovernor(1000, 1000)
		assert.NoError(t, err)
		for range 40 {
			calls := 0
			client := c.start(t, limpet.Options{Governor: governor, Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				if calls++; calls == 1 {
					return limpet.Credential{}, &wire.StatusError{Status: http.StatusServiceUnavailable}
				}
				return limpet.Credential{}, nil
			}})
			defer client.Close()
		}
		time.Sleep(600 * time.Millisecond)
		if n := len(c.network.Dials()); n != 40 {
			t.Errorf("%d of 40 clients have dialled in 600 ms", n)
		}
	})
}
