package test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// With KeepTrying what the tables call permanent is waited for at the cap, from
// the first failure on.
func TestKeepTryingWaitsAtTheCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFailingServer(t, func(int) *failure { return &failure{status: 404} })
		s.start(t, limpet.Options{Backoff: limpet.Backoff{Max: 30 * time.Second, KeepTrying: true}})
		time.Sleep(10 * time.Minute)
		for made := s.made(); len(made) > 1; made = made[1:] {
			if wait := made[1].Sub(made[0]); wait < 15*time.Second {
				t.Errorf("an attempt %v after the last one, want 15 s or more", wait)
			}
		}
	})
}

// The rule of ten minutes needs five failures in a row as well, with nothing in
// between that is not permanent.
func TestFiveInARowEndAClient(t *testing.T) {
	notFound, busy, odd := &failure{status: 404}, &failure{status: 503}, &failure{code: 4200}
	for name, tc := range map[string]struct {
		pause    time.Duration // between two attempts
		failures []*failure    // after the first Ready, again and again; nil: ready for a minute
		closes   int           // the code with which a ready connection ends; 0: none
		attempts int           // at the end of the client; 0: it does not end
	}{
		"few in a long time":    {20 * time.Minute, []*failure{notFound}, 0, 5},
		"interrupted by 503":    {5 * time.Minute, []*failure{notFound, notFound, notFound, notFound, busy}, 0, 0},
		"by the dialect":        {5 * time.Minute, []*failure{notFound, notFound, notFound, notFound, odd}, 0, 0},
		"by a time":             {5 * time.Minute, []*failure{notFound, notFound, notFound, notFound, {status: 404, header: http.Header{"Retry-After": {"1"}}}}, 0, 0},
		"by a Ready":            {5 * time.Minute, []*failure{notFound, notFound, notFound, notFound, nil}, 0, 0},
		"by a Ready alone":      {5 * time.Minute, []*failure{nil}, 1008, 0},
		"after an interruption": {5 * time.Minute, []*failure{notFound, busy, notFound, notFound, notFound, notFound, notFound}, 0, 7},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newFailingServer(t, func(n int) *failure {
					if n == 1 {
						return nil
					}
					return tc.failures[(n-2)%len(tc.failures)]
				})
				s.afterwards = func(p *scriptedConn) {
					if tc.closes == 0 {
						time.Sleep(time.Minute)
					} else {
						time.Sleep(time.Second) // less than StableAfter: Ready alone is progress
						p.ws.Close(websocket.StatusCode(tc.closes), "")
					}
					p.ws.CloseNow()
				}
				c := s.start(t, limpet.Options{Backoff: limpet.Backoff{First: tc.pause, Initial: tc.pause, Max: tc.pause}})
				time.Sleep(12 * time.Hour)
				ended, made := c.State().Phase == limpet.Ended, len(s.made())-1
				if ended != (tc.attempts > 0) || ended && made != tc.attempts || made < tc.attempts {
					t.Errorf("ended %v after %d attempts, want %d: %v", ended, made, tc.attempts, c.Err())
				}
			})
		})
	}
}

// verdictRecorder keeps the last failure that the dialect was asked about.
type verdictRecorder struct {
	wire.Dialect
	last chan wire.Failure
}

func (d verdictRecorder) Verdict(f wire.Failure) wire.Verdict {
	select {
	case <-d.last:
	default:
	}
	d.last <- f
	return d.Dialect.Verdict(f)
}

// A fatal error frame decides, whatever follows it: the first of several, and soon.
// The close code is kept beside its code.
func TestFatalErrorFrameDecides(t *testing.T) {
	for name, then := range map[string]func(p *scriptedConn){
		"close 1012": func(p *scriptedConn) { p.ws.Close(1012, "restart") },
		"close 4200": func(p *scriptedConn) { p.ws.Close(4200, "") },
		"cut":        func(p *scriptedConn) { p.ws.CloseNow() },
		"violation":  func(p *scriptedConn) { p.sendText("{") },
		"silence":    func(*scriptedConn) {},
		"another":    func(p *scriptedConn) { p.sendText(fatalOverload) },
		"another and close 4200": func(p *scriptedConn) {
			p.sendText(fatalOverload)
			p.ws.Close(4200, "")
		},
		"others without end": func(p *scriptedConn) {
			for range 200 {
				<-time.After(fatalCloseTime / 2)
				p.sendText(fatalOverload)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScriptedServer(t, func(p *scriptedConn) {
					p.sendFrames(p.welcome())
					p.sendText(fatalForbidden)
					then(p)
				})
				d := verdictRecorder{native.New(nil), make(chan wire.Failure, 1)}
				c, _ := s.start(limpet.Options{Dialect: d, Heartbeat: rareHeartbeats})
				began := time.Now()
				select {
				case <-c.Done():
				case <-time.After(time.Minute):
					t.Fatalf("the client has not ended: %v", c.State().Cause)
				}
				if took := time.Since(began); took > fatalCloseTime+100*time.Millisecond {
					t.Errorf("ended %v after the frame, want %v at most", took, fatalCloseTime)
				}
				var p *limpet.PermanentError
				if !errors.As(c.Err(), &p) || p.Class != limpet.ClassAuth {
					t.Errorf("ended with %v", c.Err())
				}
				f, code := <-d.last, uint16(0)
				fmt.Sscanf(name[max(0, strings.Index(name, "close")):], "close %d", &code)
				if f.Code != 2 || f.CloseCode != code {
					t.Errorf("code %d and close code %d, want 2 and %d", f.Code, f.CloseCode, code)
				}
			})
		})
	}
}

// What one endpoint refused before a connection was ready elsewhere does not count when that one
// refuses the client later.
func TestRefusalBeforeAReadyConnectionIsForgotten(t *testing.T) {
	for tried := false; !tried; { // until the client begins with the one that refuses
		synctest.Test(t, func(t *testing.T) {
			a := newGate(t, nil, func(p *scriptedConn) { p.sendFrames(p.welcome()) }, func(n int, w http.ResponseWriter) bool {
				if n == 1 {
					w.WriteHeader(http.StatusForbidden)
				}
				return n == 1
			})
			b := newGate(t, a, func(p *scriptedConn) {
				p.sendFrames(p.welcome())
				time.Sleep(time.Hour)
				p.ws.Close(1003, "")
			}, func(int, http.ResponseWriter) bool { return false })
			c, _ := a.start(limpet.Options{Heartbeat: rareHeartbeats, Endpoints: []string{b.host.URL()}})
			waitFor(t, c, 1)
			if tried = len(a.asked()) == 1; !tried {
				return
			}
			time.Sleep(time.Hour + time.Minute)
			if st := c.State(); st.Phase != limpet.Ready || len(a.asked()) != 2 {
				t.Errorf("%s after %d requests at the one that refused: %v", st.Phase, len(a.asked()), st.Cause)
			}
		})
	}
}
