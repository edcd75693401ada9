package test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// No credential comes back in an error, an event or a log line, wherever the peer
// repeats it, and if it repeats only the beginning.
func TestPeerTextHoldsNoSecret(t *testing.T) {
	const token = "canary-token-0123456789"
	for _, cut := range []int{len(token), 12} {
		said := "bad token " + token[:cut]
		for name, fault := range map[string]limpettest.Fault{
			"close reason":                 limpettest.CloseWith(4200, said, 0),
			"close reason without a table": limpettest.CloseWith(3001, said, 0),
			"final close reason":           limpettest.CloseWith(4003, said, 0),
		} {
			t.Run(fmt.Sprint(name, cut), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := limpettest.NewServer(t, nil)
					var log, events lockedBuffer
					c := dial(t, srv, &limpet.Options{
						Logger:   slog.New(slog.NewTextHandler(&log, nil)),
						Observer: observer(func(e limpet.Event) { fmt.Fprintf(&events, "%+v\n", e) }),
						Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
							return limpet.Credential{Token: token}, nil
						}})
					srv.Network.Strike(fault)
					st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
					assert.NoError(t, err)
					synctest.Wait()
					text := fmt.Sprintf("%+v %v %s %s", st, st.Cause, log.String(), events.String())
					if !strings.Contains(text, "bad token") || strings.Contains(text, token[:6]) {
						t.Errorf("%s", text)
					}
				})
			})
		}
	}
}

// noticeDialect takes each message as what its first letter says, with the rest
// as the peer's explanation.
type noticeDialect struct{ rawDialect }

func (noticeDialect) Traits() wire.Traits {
	return wire.Traits{ByKey: true, Holes: wire.HolesFault, StartSubs: 1, Confirms: true, Ping: wire.PingNone, Publish: true, Acks: true}
}

func (d noticeDialect) Open(wire.Resume) (wire.Codec, error) { return new(noticeCodec), nil }

type noticeCodec struct{ rawCodec }

func (*noticeCodec) Decode(f wire.Frame, out *wire.Events) error {
	switch text := string(f.Data[1:]); f.Data[0] {
	case 'n':
		out.Append(wire.EventError).Reason = text
	case 'f':
		ev := out.Append(wire.EventError)
		ev.Fatal, ev.Code, ev.Reason = true, 4200, text
	case 's':
		ev := out.Append(wire.EventUnsubscribed)
		ev.Key, ev.Code, ev.Reason = 1, 403, text
	case 'r':
		out.Append(wire.EventAck).Ack = &wire.Ack{To: 1, Rejects: []wire.Reject{{Seq: 1, Code: 403, Reason: text}}}
	case 'd':
		return errors.New(text)
	}
	return nil
}

func TestFramesOfThePeerHoldNoSecret(t *testing.T) {
	for kind, want := range map[string]int{"n": 1, "f": 1, "s": 1, "r": 1, "d": 1} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				send := make(chan string, 1)
				host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
					select {
					case text := <-send:
						nc.Write(rawFrame(0x81, text))
					case <-time.After(time.Minute):
					}
					drain(nc)
				}), nil)
				var log, events lockedBuffer
				c, err := limpet.Dial(t.Context(), host.URL()+"/?ticket=canary-q", options(&limpet.Options{
					Dialect: noticeDialect{}, HTTPClient: host.HTTPClient(), Header: http.Header{"Authorization": {"Bearer canary-h"}},
					Logger:   slog.New(slog.NewTextHandler(&log, nil)),
					Observer: observer(func(e limpet.Event) { fmt.Fprintf(&events, "%+v\n", e) }),
				}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				s, err := c.Subscribe(t.Context(), "a", &limpet.SubscribeOptions{Token: "canary-s"})
				assert.NoError(t, err)
				receipt, err := c.Publish(t.Context(), "a", nil, nil)
				assert.NoError(t, err)
				synctest.Wait() // it is sent
				send <- kind + "refused: canary-q canary-h canary-s"
				time.Sleep(30 * time.Second)
				synctest.Wait()
				_, rejected := receipt.Wait(cancelled())
				text := fmt.Sprintf("%+v %v %s %s", c.State(), errors.Join(s.State().Err, rejected), log.String(), events.String())
				if strings.Count(text, "refused: [secret] [secret] [secret]") < want || strings.Contains(text, "canary") {
					t.Errorf("%s", text)
				}
			})
		})
	}
}

// The URL, whose query may hold a ticket, is not repeated for a 101 that is not an
// upgrade, and the failure shows at once.
func TestBad101(t *testing.T) {
	const head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
	for name, tc := range map[string]struct {
		rest  string
		final bool
	}{
		"no Connection":            {"\r\n", true},
		"wrong accept key":         {"Connection: Upgrade\r\nSec-WebSocket-Accept: canary-q\r\n\r\n", true},
		"Connection: close":        {"Connection: Upgrade, close\r\n\r\n", false},
		"Connection: close, twice": {"Connection: Upgrade\r\nConnection: close\r\n\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			assert.NoLeaks(t)
			l := listen(t, func(_ int, nc net.Conn) { answerUpgrade(nc, func(string) string { return head + tc.rest }) })
			var log lockedBuffer
			at := time.Now()
			c, err := limpet.New("ws://"+l.addr+"/?ticket=canary-q", options(&limpet.Options{Dialect: rawDialect{}, Logger: slog.New(slog.NewTextHandler(&log, nil))}))
			assert.NoError(t, err)
			st, err := c.WaitState(realContext(t), func(s limpet.State) bool { return s.Cause != nil })
			assert.NoError(t, err)
			if took := time.Since(at); took > 2*time.Second {
				t.Errorf("after %v", took)
			}
			if (st.Phase == limpet.Ended) != tc.final && (c.WaitReady(cancelled()) == nil) {
				t.Errorf("phase %v: %v", st.Phase, st.Cause)
			}
			closeAndWait(t, c)
			var p *limpet.PermanentError
			if errors.As(c.Err(), &p) != tc.final || limpet.ClassOf(st.Cause) != limpet.ClassNotWebSocket {
				t.Errorf("class %q, %v: %v", limpet.ClassOf(st.Cause), st.Cause, c.Err())
			}
			if text := fmt.Sprintf("%+v %s", st.Cause, log.String()); strings.Contains(text, "canary") {
				t.Errorf("%s", text)
			}
		})
	}
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// lockedBuffer is a buffer that goroutines share.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A peer may escape what it repeats, as JSON, HTML and URLs do.
func TestEscapedSecretIsNotRepeated(t *testing.T) {
	const token = `canary/ab+cd=&"e\f`
	for _, echo := range []string{
		token, `canary\/ab+cd=&\"e\\f`, `canary/ab+cd\u003d\u0026\u0022e\u005cf`, `canary/ab&#43;cd=&amp;&#34;e\f`, `canary&#x2F;ab+cd=&amp;&quot;e\f`,
		`canary%2fab%2bcd%3d%26%22e%5cf`, `canary%2Fab+cd=&"e\f`, `canary\x2fab\x2bcd=&"e\f`,
	} {
		synctest.Test(t, func(t *testing.T) {
			host := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprintf(w, "bad <b> &lt;word&gt; %s, 100%% sorry, %s", echo, echo)
			}), nil)
			_, err := limpet.Dial(t.Context(), host.URL(), options(&limpet.Options{Dialect: rawDialect{}, HTTPClient: host.HTTPClient(),
				Header: http.Header{"Authorization": {"Bearer " + token}}}))
			if text := fmt.Sprint(err); !strings.Contains(text, "bad <b> &lt;word&gt; [secret], 100% sorry, [secret]") {
				t.Errorf("%s: %s", echo, text)
			}
		})
	}
}

// changingDialect changes the attempt before the dial.
type changingDialect struct {
	rawDialect
	change func(*wire.Attempt)
	steps  bool // it makes a request first
}

func (d changingDialect) Attempt(a *wire.Attempt) error {
	d.change(a)
	a.Dial = !d.steps
	return nil
}

// What a dialect puts into the path or before the host of its URL is a credential, and
// so are the cookies of the jar.
func TestSecretOfADialectIsNotRepeated(t *testing.T) {
	for echo, change := range map[string]func(*wire.Attempt){
		"canary-0123456789": func(a *wire.Attempt) { a.URL += "/ws/canary-0123456789" },
		"canary-password":   func(a *wire.Attempt) { a.URL = strings.Replace(a.URL, "://", "://me:canary-password@", 1) },
		"canary-cookie":     func(*wire.Attempt) {},
	} {
		synctest.Test(t, func(t *testing.T) {
			host := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.SetCookie(w, &http.Cookie{Name: "sid", Value: "canary-cookie"})
				w.WriteHeader(http.StatusServiceUnavailable)
				fmt.Fprintf(w, "bad word %s, sorry: %v %v", echo, r.URL, r.Header["Cookie"])
			}), nil)
			client := host.HTTPClient()
			client.Jar, _ = cookiejar.New(nil)
			c, err := limpet.New(host.URL(), options(&limpet.Options{Dialect: changingDialect{change: change}, HTTPClient: client}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Attempt == 2 && s.Phase == limpet.Waiting })
			assert.NoError(t, err)
			if text := fmt.Sprint(st.Cause); !strings.Contains(text, "bad word [secret], sorry") || strings.Contains(text, "canary") {
				t.Errorf("%s", text)
			}
		})
	}
}

// The key of a session is a credential.
func TestSessionKeyIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := []byte("canary-key-0123")
		s := newScriptedServer(t, func(p *scriptedConn) {
			w := p.welcome()
			w.Welcome.Key = key
			p.sendFrames(w)
			p.ws.Close(4200, fmt.Sprintf("no key %s, %s", key, base64.RawURLEncoding.EncodeToString(key)))
		})
		c, _ := s.start(limpet.Options{})
		st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
		if text := fmt.Sprint(st.Cause); err != nil || !strings.Contains(text, "no key [secret], [secret]") {
			t.Errorf("%s, %v", text, err)
		}
	})
}

// spellingDialect cannot encode a subscription and repeats its token.
type spellingDialect struct{ wire.Dialect }

func (d spellingDialect) Open(r wire.Resume) (wire.Codec, error) {
	c, err := d.Dialect.Open(r)
	return spellingCodec{c}, err
}

type spellingCodec struct{ wire.Codec }

func (c spellingCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	for i, op := range ops {
		if op.Subscribe != nil {
			return errors.Join(c.Codec.Encode(ops[:i], out), &wire.OpError{Index: i, Err: errors.New("cannot spell " + op.Subscribe.Token)})
		}
	}
	return c.Codec.Encode(ops, out)
}

func TestErrorOfEncodeHoldsNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dial(t, limpettest.NewServer(t, nil), &limpet.Options{Dialect: spellingDialect{native.New(nil)}})
		s, err := c.Subscribe(t.Context(), "a", &limpet.SubscribeOptions{Token: "canary-s"})
		assert.NoError(t, err)
		if text := fmt.Sprint(s.WaitLive(t.Context())); !strings.Contains(text, "cannot spell [secret]") {
			t.Errorf("%s", text)
		}
	})
}

// However many subscriptions have tokens, the credentials of the connection are not shown.
func TestManyTokensHideNoTicketLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ticket string
		g := newGate(t, nil, func(p *scriptedConn) {
			p.sendFrames(p.welcome())
			p.sendFrames(p.confirmations()...)
		}, func(n int, w http.ResponseWriter) bool {
			if n == 1 {
				return false
			}
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprintf(w, "no node for %s", ticket)
			return true
		})
		tickets := 0
		c, _ := g.start(limpet.Options{Heartbeat: rareHeartbeats, Ticket: func(context.Context, limpet.AttemptInfo) (url.Values, error) {
			tickets++
			ticket = fmt.Sprintf("canary-%d", tickets)
			return url.Values{"t": {ticket}}, nil
		}})
		waitFor(t, c, 1)
		for i := range 300 {
			_, err := c.Subscribe(t.Context(), fmt.Sprint("topic", i), &limpet.SubscribeOptions{Token: limpet.Secret(fmt.Sprintf("own-token-%d", i))})
			assert.NoError(t, err)
		}
		g.host.Network.CutAll()
		st, err := c.WaitState(withinAnHour(t), func(s limpet.State) bool { return limpet.ClassOf(s.Cause) == limpet.ClassHTTP })
		if text := fmt.Sprint(st.Cause); err != nil || !strings.Contains(text, "no node") || strings.Contains(text, "canary") {
			t.Errorf("%v, %v", st.Cause, err)
		}
	})
}
