package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// work is a hook that needs d and obeys its context.
func work(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("database: %w", ctx.Err())
	case <-time.After(d):
		return nil
	}
}

// A connection that is lost while OnPublish works decides nothing about the message:
// the hook ends its work, and the client learns the outcome when it resumes.
func TestConnectionLostDuringHook(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		var calls, cancelled atomic.Int64
		r := newRig(t, &server.Options{Heartbeat: time.Second, Hooks: server.Hooks{OnPublish: func(ctx context.Context, _ server.Principal, _ server.Message) error {
			calls.Add(1)
			err := work(ctx, 30*time.Second)
			if err != nil {
				cancelled.Add(1)
			}
			return err
		}}})
		c := r.connect(enc)
		w := c.hello(native.Hello{CN: 1})
		c.publish(1, "t", "x")
		time.Sleep(time.Second)
		if calls.Load() != 1 {
			t.Fatal("the hook does not run")
		}
		c.ws.CloseNow() // the next ping of the server fails
		time.Sleep(time.Minute)
		w = r.connect(enc).hello(resume(w, 2, 1, 1))
		if len(w.Out) != 0 || w.Ack != 1 || cancelled.Load() != 0 {
			t.Fatalf("ack %d, rejections %v, %d hooks were cancelled", w.Ack, w.Out, cancelled.Load())
		}
		if head := r.srv.Stats().Head; head != 1 {
			t.Fatalf("head %d, want 1", head)
		}
	})
}

// A client that comes back does not wait for the hook of its lost connection: the
// message has no outcome there and gets one on the new connection.
func TestSupersededDuringHook(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		var calls, cancelled atomic.Int64
		r := newRig(t, &server.Options{Hooks: server.Hooks{OnPublish: func(ctx context.Context, _ server.Principal, _ server.Message) error {
			if calls.Add(1) > 1 {
				return nil
			}
			defer cancelled.Add(1)
			<-ctx.Done()
			return &server.Error{Code: native.CodeForbidden, Reason: "the caller is gone"}
		}}})
		c := r.connect(enc)
		w := c.hello(native.Hello{CN: 1})
		c.publish(1, "t", "x")
		time.Sleep(time.Second)
		d := r.connect(enc)
		w = d.hello(resume(w, 2, 1, 1))
		synctest.Wait()
		if len(w.Out) != 0 || w.Ack != 0 || cancelled.Load() != 1 {
			t.Fatalf("ack %d, rejections %v, %d hooks were cancelled", w.Ack, w.Out, cancelled.Load())
		}
		d.send(aged(1, idOf(1), 1000))
		if nak, _ := d.acked(1); len(nak) != 0 {
			t.Fatalf("rejections %v", nak)
		}
	})
}

// What a hook says after the end of its context, here a minute after its connection, decides nothing: the message is not
// refused for good, and is accepted when it comes again.
func TestHookAfterItsTimeDecidesNothing(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		var calls atomic.Int64
		r := newRig(t, &server.Options{Hooks: server.Hooks{OnPublish: func(ctx context.Context, _ server.Principal, _ server.Message) error {
			if calls.Add(1) > 1 {
				return nil
			}
			<-ctx.Done()
			return &server.Error{Code: native.CodeForbidden, Reason: "the caller is gone"}
		}}})
		c := r.connect(enc)
		w := c.hello(native.Hello{CN: 1})
		c.publish(1, "t", "x")
		synctest.Wait()
		r.network.CutAll()
		time.Sleep(2 * time.Minute)
		d := r.connect(enc)
		w = d.hello(resume(w, 2, 1, 1))
		if len(w.Out) != 0 || w.Ack != 0 {
			t.Fatalf("ack %d, rejections %v", w.Ack, w.Out)
		}
		d.send(aged(1, idOf(1), 1000))
		if nak, _ := d.acked(1); len(nak) != 0 || calls.Load() != 2 {
			t.Fatalf("rejections %v after %d calls", nak, calls.Load())
		}
	})
}

// lockedText is a log that is read while it is written.
type lockedText struct {
	mu   sync.Mutex
	said []byte
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, p...)
	return len(p), nil
}

func (l *lockedText) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.said)
}

// A hook that hangs ends some time after its connection, also if the client never comes back.
// One that ignores its context keeps the place of its connection, and the log says so once.
func TestHookOfLostConnectionIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lockedText
		r := newRig(t, &server.Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), Hooks: server.Hooks{OnPublish: func(ctx context.Context, _ server.Principal, m server.Message) error {
			if m.Topic == "ignores its context" {
				time.Sleep(5 * time.Minute)
			} else {
				<-ctx.Done()
			}
			return ctx.Err()
		}}})
		for _, topic := range []string{"t", "ignores its context"} {
			c := r.connect(native.JSON)
			c.hello(native.Hello{CN: 1})
			c.send(msg(1, idOf(1), topic, "x"), msg(2, idOf(2), topic, "x"), msg(3, idOf(3), topic, "x"))
			synctest.Wait()
			c.ws.CloseNow()
			time.Sleep(4 * time.Minute)
			synctest.Wait()
			said, conns := strings.Count(log.text(), "a hook has not returned"), r.srv.Stats().Conns
			if ignores := topic != "t"; ignores != (said == 1) || ignores != (conns == 1) {
				t.Errorf("topic %q: %d connections, %s", topic, conns, log.text())
			}
			time.Sleep(2 * time.Minute)
			if st := r.srv.Stats(); st.Conns != 0 || st.Rejected != 0 {
				t.Fatalf("topic %q: %d connections, %d rejected", topic, st.Conns, st.Rejected)
			}
		}
	})
}

// The context of the request may end long before the connection: a middleware's
// timeout, a cancelled BaseContext. Hooks do not notice.
func TestRequestContextEnds(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		type key struct{}
		var ended atomic.Bool
		hook := func(ctx context.Context) error {
			if ctx.Value(key{}) != "value" {
				return errors.New("the values of the request are missing")
			}
			return work(ctx, 5*time.Second)
		}
		o := &server.Options{Hooks: server.Hooks{
			Authenticate: func(ctx context.Context, r *http.Request, _ string) (server.Principal, error) {
				return server.Principal{}, errors.Join(hook(ctx), r.Context().Err())
			},
			OnPublish: func(ctx context.Context, _ server.Principal, _ server.Message) error { return hook(ctx) },
		}}
		r := newRigBehind(t, o, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), key{}, "value"), time.Second)
				defer cancel()
				context.AfterFunc(ctx, func() { ended.Store(true) })
				h.ServeHTTP(w, r.WithContext(ctx))
			})
		})
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1})
		if !ended.Load() {
			t.Fatal("the context of the request has not ended")
		}
		c.publish(1, "t", "x")
		if nak, _ := c.acked(1); len(nak) != 0 {
			t.Fatalf("rejections %v", nak)
		}
	})
}

// A timeout within a hook passes. It decides nothing about a message, a subscription
// or a credential, whichever hook reports it.
func TestHookTimesOut(t *testing.T) {
	timeout := fmt.Errorf("database: %w", context.DeadlineExceeded)
	both(t, func(t *testing.T, enc native.Encoding) {
		var fails atomic.Bool
		fail := func() error {
			if fails.Load() {
				return timeout
			}
			return nil
		}
		r := newRig(t, &server.Options{Hooks: server.Hooks{
			Authenticate: func(context.Context, *http.Request, string) (server.Principal, error) {
				return server.Principal{}, fail()
			},
			Authorize: func(server.Principal, server.Verb, string) error { return fail() },
			OnPublish: func(_ context.Context, _ server.Principal, m server.Message) error {
				if m.Topic == "hook" {
					return timeout
				}
				return nil
			},
		}})
		c := r.connect(enc)
		w := c.hello(native.Hello{CN: 1})
		c.publish(1, "hook", "x")
		c.wantClose(native.CloseBackendUnavailable)

		c = r.connect(enc)
		w = c.hello(resume(w, 2, 1, 1))
		if w.Ack != 0 || len(w.Out) != 0 {
			t.Fatalf("ack %d, rejections %v", w.Ack, w.Out)
		}
		fails.Store(true)
		c.send(sub(1, "t", native.FromNew, 1))
		if u := c.next(native.TypeUnsub).Unsub; u.Code != native.CodeUnavailable || u.Retry == 0 {
			t.Fatalf("unsub %+v", u)
		}
		c.send(aged(1, idOf(1), 1))
		c.wantClose(native.CloseBackendUnavailable)

		c = r.connect(enc)
		h := resume(w, 3, 1, 1)
		c.send(native.Frame{Type: native.TypeHello, Hello: &h})
		c.wantClose(native.CloseBackendUnavailable)
		fails.Store(false)

		c = r.connect(enc)
		h.CN = 4
		c.hello(h)
		c.send(aged(1, idOf(1), 1)) // topic t
		if nak, _ := c.acked(1); len(nak) != 0 {
			t.Fatalf("rejections %v", nak)
		}
	})
}

// A hook whose database cannot be reached, or that finds no file descriptor, decides
// nothing. A name that does not exist is a decision, and half a value may be the message.
func TestHookCannotReachItsBackend(t *testing.T) {
	for what, err := range map[string]error{
		"refused":      &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
		"closed":       &net.OpError{Op: "write", Net: "tcp", Err: net.ErrClosed},
		"reset":        fmt.Errorf("query: %w", syscall.ECONNRESET),
		"an HTTP call": &url.Error{Op: "Get", URL: "http://policy", Err: &net.OpError{Op: "read", Err: syscall.EPIPE}},
		"DNS":          &net.DNSError{Err: "server misbehaving", Name: "db", IsTemporary: true},
		"descriptors":  &fs.PathError{Op: "open", Path: "policy", Err: syscall.EMFILE},
		"no answer":    &url.Error{Op: "Post", URL: "http://policy", Err: io.EOF},
		"no TLS":       &url.Error{Op: "Get", URL: "https://policy", Err: errors.New("tls: first record does not look like a TLS handshake")},
		"a closed one": fmt.Errorf("query: %w", net.ErrClosed),
		"no route":     fmt.Errorf("query: %w", syscall.EHOSTUNREACH),
		"a full disk":  &fs.PathError{Op: "write", Path: "audit", Err: syscall.ENOSPC},
		"no such name": &net.DNSError{Err: "no such host", Name: "db", IsNotFound: true},
		"a bad URL":    &url.Error{Op: "parse", URL: "%", Err: url.EscapeError("%")},
		"no such file": &fs.PathError{Op: "open", Path: "policy", Err: syscall.ENOENT},
		"no host":      &url.Error{Op: "Get", URL: "http://db", Err: &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "db", IsNotFound: true}}},
		"half a value": io.ErrUnexpectedEOF, // as of a json.Decoder: the message
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, &server.Options{Hooks: server.Hooks{OnPublish: func(context.Context, server.Principal, server.Message) error { return err }}})
				c := r.connect(native.JSON)
				c.hello(native.Hello{CN: 1})
				c.publish(1, "t", "x")
				switch what {
				case "no such name", "a bad URL", "no such file", "half a value":
					if nak, _ := c.acked(1); len(nak) != 1 || nak[0].Code != native.CodeBadRequest {
						t.Errorf("rejections %v", nak)
					}
				default:
					c.wantClose(native.CloseBackendUnavailable)
				}
			})
		})
	}
}

// An error whose methods panic, as those of a nil *Error do, is a panic of the hook.
func TestHookReturnsANilError(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		var none *server.Error
		var fails atomic.Pointer[string]
		fail := func(hook string) error {
			if at := fails.Load(); at != nil && *at == hook {
				return none
			}
			return nil
		}
		r := newRig(t, &server.Options{Hooks: server.Hooks{
			Authenticate: func(context.Context, *http.Request, string) (server.Principal, error) {
				return server.Principal{}, fail("Authenticate")
			},
			Authorize: func(_ server.Principal, v server.Verb, _ string) error { return fail(v.String()) },
			OnPublish: func(context.Context, server.Principal, server.Message) error { return fail("OnPublish") },
		}})
		at := func(hook string) { fails.Store(&hook) }
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1})
		for seq, hook := range []string{"publish", "OnPublish"} {
			at(hook)
			c.publish(uint64(seq+1), "t", "x")
			if nak, _ := c.acked(uint64(seq + 1)); len(nak) != 1 || nak[0].Code != native.CodeInternal {
				t.Errorf("%s: rejections %v", hook, nak)
			}
		}
		at("subscribe")
		c.send(sub(1, "t", native.FromNew, 1))
		if u := c.next(native.TypeUnsub).Unsub; u.Code != native.CodeInternal {
			t.Errorf("unsub %+v", u)
		}
		at("Authenticate")
		c = r.connect(enc)
		c.send(native.Frame{Type: native.TypeHello, Hello: &native.Hello{CN: 1}})
		c.wantClose(native.CloseInternal)
	})
}

// What an *Error says arrives as it is meant: a time below a millisecond or in the past
// is no refusal for good, and a reason that is not UTF-8 breaks nothing.
func TestErrorOfAHookArrives(t *testing.T) {
	for _, tc := range []struct {
		err    server.Error
		retry  uint64
		reason string
	}{
		{server.Error{Code: native.CodeRateLimited}, 0, ""},
		{server.Error{Code: native.CodeRateLimited, Retry: -time.Second}, 1, ""},
		{server.Error{Code: native.CodeRateLimited, Retry: time.Microsecond}, 1, ""},
		{server.Error{Code: native.CodeRateLimited, Retry: 1500 * time.Microsecond}, 2, ""},
		{server.Error{Code: native.CodeForbidden, Reason: "caf\xe9"}, 0, "caf\ufffd"},
	} {
		both(t, func(t *testing.T, enc native.Encoding) {
			r := newRig(t, &server.Options{Hooks: server.Hooks{
				Authenticate: func(_ context.Context, _ *http.Request, token string) (server.Principal, error) {
					if token == "bad" {
						e := tc.err
						e.Code = native.CloseOverloaded
						return server.Principal{}, &e
					}
					return server.Principal{}, nil
				},
				Authorize: func(server.Principal, server.Verb, string) error { return &tc.err }}})
			c := r.connect(enc)
			c.hello(native.Hello{CN: 1})
			c.send(sub(1, "t", native.FromNew, 1))
			if u := c.next(native.TypeUnsub).Unsub; u.Code != tc.err.Code || u.Retry != tc.retry || u.Msg != tc.reason {
				t.Errorf("%+v: unsub %+v", tc.err, u)
			}
			c = r.connect(enc)
			c.send(native.Frame{Type: native.TypeHello, Hello: &native.Hello{CN: 1, Tok: "bad"}})
			_, err := c.read()
			if tc.retry > 0 {
				_, err = c.read()
			}
			var closed websocket.CloseError
			if !errors.As(err, &closed) || closed.Code != native.CloseOverloaded || closed.Reason != tc.reason {
				t.Errorf("%+v: %v", tc.err, err)
			}
		})
	}
}

// Authenticate that says "not now", in a code inside frames, has not refused the credential.
func TestAuthenticateNotNow(t *testing.T) {
	for code, want := range map[uint64]int{
		native.CodeUnavailable: native.CloseBackendUnavailable, native.CodeRateLimited: native.CloseRateLimited,
		native.CodeInternal: native.CloseInternal, native.CodeForbidden: native.CloseAuthInvalid,
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, &server.Options{Hooks: server.Hooks{Authenticate: func(context.Context, *http.Request, string) (server.Principal, error) {
				return server.Principal{}, &server.Error{Code: code, Retry: time.Minute}
			}}})
			c := r.connect(native.JSON)
			c.send(native.Frame{Type: native.TypeHello, Hello: &native.Hello{CN: 1}})
			frames := c.wantClose(want)
			if now := code != native.CodeForbidden; now != (len(frames) == 1) || now && frames[0].Err.Retry != 60_000 {
				t.Errorf("code %d: %d frames", code, len(frames))
			}
		})
	}
}

// A hook that publishes under the id of its own message does not wait for itself.
func TestHookPublishesUnderItsOwnID(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		var r *rig
		var own error
		r = newRig(t, &server.Options{Hooks: server.Hooks{OnPublish: func(ctx context.Context, _ server.Principal, m server.Message) error {
			_, own = r.srv.Publish(ctx, "audit", nil, &server.PublishOptions{ID: m.ID})
			_, err := r.srv.Publish(ctx, "audit", nil, nil)
			return err
		}}})
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1})
		c.publish(1, "t", "x")
		if nak, _ := c.acked(1); len(nak) != 0 || own == nil || r.srv.Stats().Head != 2 {
			t.Errorf("rejections %v, head %d, publishing under its own id: %v", nak, r.srv.Stats().Head, own)
		}
	})
}

// exitingLog ends the goroutine that reads it.
type exitingLog struct {
	server.Log
	on atomic.Bool
}

func (l *exitingLog) Read(from uint64, dst []*server.Entry) (int, uint64, error) {
	if l.on.Load() {
		runtime.Goexit()
	}
	return l.Log.Read(from, dst)
}

// A log that ends its goroutine ends the connection, and takes no place for ever.
func TestLogEndsItsGoroutine(t *testing.T) {
	for _, from := range []native.From{native.FromFirst, native.FromLast} {
		both(t, func(t *testing.T, enc native.Encoding) {
			log := &exitingLog{Log: server.NewMemoryLog(server.Retention{})}
			r := newRig(t, &server.Options{Log: log})
			if _, err := r.srv.Publish(context.Background(), "t", []byte("x"), nil); err != nil {
				t.Fatal(err)
			}
			log.on.Store(true)
			for range 9 { // more than searches at a time
				c := r.connect(enc)
				c.hello(native.Hello{CN: 1})
				c.send(sub(1, "t", from, 1))
				c.wantClose(native.CloseBackendUnavailable)
			}
			log.on.Store(false)
			c := r.connect(enc)
			c.hello(native.Hello{CN: 1})
			c.send(sub(1, "t", from, 1))
			c.next(native.TypeSubOK)
			c.next(native.TypeMsg)
			synctest.Wait()
			if st := r.srv.Stats(); st.Conns != 1 || st.Subscriptions != 1 {
				t.Errorf("%d connections, %d subscriptions", st.Conns, st.Subscriptions)
			}
		})
	}
}
