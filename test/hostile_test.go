package test

import (
	"context"
	"errors"
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
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// A violation ends the connection with the right code, applies nothing of a
// bad batch, and the client resumes.
func TestViolations(t *testing.T) {
	for name, tc := range map[string]struct {
		code websocket.StatusCode
		bad  func(p *scriptedConn)
	}{
		"not JSON": {4001, func(p *scriptedConn) { p.sendText("{") }},
		"bad batch": {4001, func(p *scriptedConn) {
			p.sendText(`[{"t":"msg","ch":1,"s":4,"p":3,"id":"01980f0e-0000-7000-8000-000000000000","d":"never"},{"t":"msg"}]`)
		}},
		"binary in JSON": {4001, func(p *scriptedConn) { p.ws.Write(p.ctx, websocket.MessageBinary, []byte("{}")) }},
		"not UTF-8":      {1007, func(p *scriptedConn) { p.sendText("{\"t\":\"x-\xff\"}") }},
		"unknown type":   {4000, func(p *scriptedConn) { p.sendText(`{"t":"surprise"}`) }},
		"client's frame": {4000, func(p *scriptedConn) { p.sendText(`{"t":"hello","cn":1}`) }},
		"too big":        {1009, func(p *scriptedConn) { p.sendText(`{"t":"x-big","d":"` + strings.Repeat("x", 70<<10) + `"}`) }},
		"second welcome": {4000, func(p *scriptedConn) { p.sendFrames(p.welcome()) }},
		"hole":           {4000, func(p *scriptedConn) { p.sendFrames(dataFrame(9, 8, "never")) }},
		"gap that does not fit": {4000, func(p *scriptedConn) {
			p.sendFrames(native.Frame{Type: native.TypeGap, Gap: &native.Gap{Ch: 1, P: 7, To: 9, Tag: []byte("x")}})
		}},
		"second subok": {4000, func(p *scriptedConn) { p.sendFrames(p.confirmations()...) }},
		"ack of nothing": {4000, func(p *scriptedConn) {
			p.sendFrames(native.Frame{Type: native.TypeAck, Ack: &native.Ack{To: 5, HasTo: true}})
		}},
		"sack of nothing": {4000, func(p *scriptedConn) {
			p.sendFrames(native.Frame{Type: native.TypeAck, Ack: &native.Ack{X: []wire.Range{{Lo: 2, Hi: 1 << 60}}}})
		}},
		"more than the credit": {4204, func(p *scriptedConn) {
			for i := uint64(4); i < 30; i++ {
				p.sendFrames(dataFrame(i, i-1, fmt.Sprint(i)))
			}
		}},
		"gaps without end": {4000, func(p *scriptedConn) {
			for i := range uint64(100) {
				p.sendFrames(native.Frame{Type: native.TypeGap, Gap: &native.Gap{Ch: 1, P: 3 + i, To: 4 + i, Tag: []byte("x")}},
					native.Frame{Type: native.TypeReset, Reset: &native.Reset{Ch: 1, Epoch: "e", O: 4 + i, Tag: []byte("x")}})
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScriptedServer(t, func(p *scriptedConn) {
					p.sendFrames(append([]native.Frame{p.welcome()}, p.confirmations()...)...)
					if p.number == 1 {
						p.sendFrames(dataFrame(1, 0, "1"), dataFrame(2, 1, "2"), dataFrame(3, 2, "3"))
						tc.bad(p)
						return
					}
					at := p.hello.Subs[0].O
					p.sendFrames(dataFrame(at+1, at, "after"))
				})
				c, sub := s.start(limpet.Options{ReadLimit: 64 << 10})
				st, _ := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Cause != nil })
				if limpet.ClassOf(st.Cause) != limpet.ClassProtocol {
					t.Errorf("cause %v of class %q", st.Cause, limpet.ClassOf(st.Cause))
				}
				var got []string
				for m, err := range sub.Messages(context.Background()) {
					if err != nil {
						t.Fatal(err)
					}
					if m.Kind == limpet.Data {
						got = append(got, string(m.Payload))
					}
					if string(m.Payload) == "after" {
						break
					}
				}
				if strings.Join(got[:3], " ") != "1 2 3" || strings.Contains(strings.Join(got, " "), "never") {
					t.Errorf("delivered %q", got)
				}
				if closes, _ := s.seen(); len(closes) == 0 || closes[0] != tc.code {
					t.Errorf("client closed with %v, want %d", closes, tc.code)
				}
			})
		})
	}
}

// A server that breaks its language on every connection may be mended: the
// client was ready each time, so it does not end. It does not hammer either.
func TestViolationsAfterReadyEndNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(t, func(p *scriptedConn) {
			p.sendFrames(append([]native.Frame{p.welcome()}, p.confirmations()...)...)
			p.sendText("{")
		})
		c, _ := s.start(limpet.Options{})
		time.Sleep(time.Hour)
		st := c.State()
		if st.Phase == limpet.Ended || limpet.ClassOf(st.Cause) != limpet.ClassProtocol {
			t.Errorf("%v: %v", st.Phase, st.Cause)
		}
		if _, conns := s.seen(); conns < 60 || conns > 150 {
			t.Errorf("%d connections in an hour", conns)
		}
	})
}

// Before the first Ready, only violations in a row end a client. A failure of
// another kind in between begins the count again.
func TestViolationsInARow(t *testing.T) {
	for _, between := range []int{502, 0} {
		synctest.Test(t, func(t *testing.T) {
			s := newFailingServer(t, func(n int) *failure {
				switch {
				case n > 12:
					return nil
				case n%2 == 1 || between == 0:
					return &failure{code: 1002}
				}
				return &failure{status: between}
			})
			c := s.start(t, limpet.Options{})
			err := c.WaitReady(t.Context())
			if n := len(s.made()); between != 0 && err != nil || between == 0 && n != 3 {
				t.Errorf("%d in between: %d attempts, %v", between, n, err)
			}
		})
	}
}

func TestHandshakeViolations(t *testing.T) {
	for name, talk := range map[string]func(p *scriptedConn){
		"another's welcome": func(p *scriptedConn) {
			w := p.welcome()
			w.Welcome.CN++
			p.sendFrames(w)
		},
		"message before welcome": func(p *scriptedConn) { p.sendFrames(dataFrame(1, 0, "never")) },
		"resumed a stranger": func(p *scriptedConn) {
			w := p.welcome()
			w.Welcome.Res = true
			p.sendFrames(w)
		},
		"ack beyond what was sent": func(p *scriptedConn) {
			w := p.welcome()
			w.Welcome.Ack = 99
			p.sendFrames(w, native.Frame{Type: native.TypeAck, Ack: &native.Ack{To: 99, HasTo: true}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScriptedServer(t, talk)
				c, sub := s.start(limpet.Options{})
				time.Sleep(10 * time.Minute)
				ended := name != "ack beyond what was sent" // which comes after the welcome
				if st := c.State(); (st.Phase == limpet.Ended) != ended || limpet.ClassOf(st.Cause) != limpet.ClassProtocol || sub.Stats().Received != 0 {
					t.Errorf("%v: %v, %+v", st.Phase, st.Cause, sub.Stats())
				}
				closes, _ := s.seen()
				for _, code := range closes {
					if code != 4000 {
						t.Errorf("client closed with %d", code)
					}
				}
			})
		})
	}
}

func TestSilentAfterUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(t, func(*scriptedConn) {})
		c, _ := s.start(limpet.Options{})
		at := time.Now()
		st, _ := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Cause != nil })
		if took := time.Since(at); took > 10*time.Second+time.Millisecond || st.Attempt != 1 {
			t.Errorf("after %v: %+v", took, st)
		}
	})
}

func TestNoSubprotocolIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if ws, err := websocket.Accept(w, r, nil); err == nil {
				ws.Read(context.Background())
				ws.CloseNow()
			}
		}), nil)
		_, err := limpet.Dial(context.Background(), h.URL(), options(&limpet.Options{HTTPClient: h.HTTPClient()}))
		if !errors.Is(err, limpet.ErrSubprotocol) {
			t.Errorf("%v", err)
		}
	})
}

// The same message again, or an older one, is dropped and counted.
func TestRepeatsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(t, func(p *scriptedConn) {
			p.sendFrames(append([]native.Frame{p.welcome()}, p.confirmations()...)...)
			p.sendFrames(dataFrame(1, 0, "1"), dataFrame(2, 1, "2"), dataFrame(2, 1, "2"), dataFrame(1, 0, "1"), dataFrame(3, 2, "3"))
		})
		_, sub := s.start(limpet.Options{})
		if got := payloads(collect(t, sub, 3)); got != "1 2 3" {
			t.Errorf("%q", got)
		}
		if st := sub.Stats(); st.Duplicates != 2 || st.Received != 3 {
			t.Errorf("%+v", st)
		}
	})
}

// One refused subscription leaves the others alone; a refusal that is not
// final is asked again.
func TestRefusedSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		s := newScriptedServer(t, func(p *scriptedConn) {
			p.sendFrames(p.welcome())
			p.sendFrames(native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: 1, Code: native.CodeForbidden, Msg: "not \x1b[31myours"}})
			for f := p.read(); f != nil; f = p.read() {
				for _, f := range f {
					if f.Sub == nil {
						continue
					}
					if asked++; asked < 4 {
						p.sendFrames(native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: f.Sub.Ch, Code: native.CodeRateLimited, Retry: 5000}})
					} else {
						p.sendFrames(native.Frame{Type: native.TypeSubOK, SubOK: &native.SubOK{Ch: f.Sub.Ch, Epoch: "e"}})
					}
				}
			}
		})
		c, sub := s.start(limpet.Options{})
		err := sub.WaitLive(context.Background())
		if !errors.Is(err, limpet.ErrRejected) || sub.State().Phase != limpet.SubEnded || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q", err)
		}
		at := time.Now()
		other, _ := c.Subscribe(context.Background(), "b", nil)
		if err := other.WaitLive(context.Background()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(at); took < 15*time.Second {
			t.Errorf("live after %v, the server wanted three pauses of 5 s", took)
		}
	})
}

// Whatever pause a server asks for, the client neither panics nor turns the
// pause into none.
func TestAbsurdRetryOfASubscription(t *testing.T) {
	for _, retry := range []uint64{1, 1 << 53, 1 << 62, 1<<64 - 1} {
		t.Run(fmt.Sprint(retry), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var count atomic.Int64
				s := newScriptedServer(t, func(p *scriptedConn) {
					p.sendFrames(p.welcome())
					for {
						count.Add(1)
						p.sendFrames(native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: 1, Code: native.CodeRateLimited, Retry: retry}})
						for f := p.read(); ; f = p.read() {
							if f == nil {
								return
							}
							if f[0].Sub != nil {
								break
							}
						}
					}
				})
				s.start(limpet.Options{})
				time.Sleep(10 * time.Second)
				asked := count.Load()
				if asked < 1 || asked > 100 {
					t.Errorf("asked %d times in ten seconds", asked)
				}
				if retry > 1 && asked != 1 {
					t.Errorf("asked %d times although the server wants a pause of ages", asked)
				}
			})
		})
	}
}

func TestAbsurdRetryOfAConnection(t *testing.T) {
	for _, retry := range []uint64{1 << 53, 1 << 62, 1<<64 - 1} {
		t.Run(fmt.Sprint(retry), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScriptedServer(t, func(p *scriptedConn) {
					p.sendFrames(p.welcome())
					p.sendFrames(native.Frame{Type: native.TypeErr, Err: &native.Err{Code: 4200, Retry: retry, Fatal: true}})
				})
				c, _ := s.start(limpet.Options{})
				st, _ := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Phase == limpet.Waiting })
				if wait := time.Until(st.NextAttempt); wait < 10*time.Minute || wait > 20*time.Minute {
					t.Errorf("the next attempt is in %v", wait)
				}
			})
		})
	}
}
