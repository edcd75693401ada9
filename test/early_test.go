package test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// front is a reference server behind a handler that sees the upgrade requests first.
type front struct {
	*limpettest.Host
	server *server.Server

	mu     sync.Mutex
	hellos []string // the header of each request; "" without one
}

// newFront returns a front on a network whose bytes take rtt to the server and back. do may
// answer request n, counted from 1, and then returns true.
func newFront(t *testing.T, rtt time.Duration, o *server.Options, do func(f *front, n int, w http.ResponseWriter, r *http.Request) bool) *front {
	t.Helper()
	srv, err := server.New(o)
	assert.NoError(t, err)
	f := &front{server: srv}
	f.Host = limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.hellos = append(f.hellos, r.Header.Get(native.HelloHeader))
		n := len(f.hellos)
		f.mu.Unlock()
		if do == nil || !do(f, n, w, r) {
			srv.ServeHTTP(w, r)
		}
	}), &limpettest.HostOptions{Network: &limpettest.NetworkOptions{Up: rtt / 2, Down: rtt / 2, Capture: true}})
	t.Cleanup(func() { srv.Close() })
	return f
}

// announced says for each request so far whether it had the header: "-+" for two, of which the
// second had it.
func (f *front) announced() (marks string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.hellos {
		marks += map[bool]string{false: "-", true: "+"}[h != ""]
	}
	return marks
}

// client returns a client that is ready, and comes back without a wait.
func (f *front) client(t *testing.T, o limpet.Options) *limpet.Client {
	t.Helper()
	o.HTTPClient, o.Backoff.First = f.HTTPClient(), -1
	c, err := limpet.Dial(t.Context(), f.URL(), options(&o))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

func (f *front) publish(t *testing.T, topic string, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		_, err := f.server.Publish(t.Context(), topic, []byte(p), nil)
		assert.NoError(t, err)
	}
}

// frames are the frames that the client has sent on the connection of the last dial.
func (f *front) frames(t *testing.T, enc native.Encoding) (sent []native.Frame) {
	t.Helper()
	captured := f.Network.Captured()
	last := 0
	for _, m := range captured {
		last = max(last, m.Conn)
	}
	for _, m := range captured {
		if m.Conn != last || m.Direction != limpettest.Up {
			continue
		}
		var err error
		sent, err = native.Decode(sent, enc, native.FromClient, m.Data, native.DefaultLimits)
		assert.NoError(t, err)
	}
	return sent
}

// numbers are the connection numbers of the HELLO frames so far, in binary.
func (f *front) numbers(t *testing.T) (all []uint64) {
	t.Helper()
	for _, m := range f.Network.Captured() {
		if m.Direction != limpettest.Up {
			continue
		}
		frames, err := native.Decode(nil, native.Binary, native.FromClient, m.Data, native.DefaultLimits)
		assert.NoError(t, err)
		for i := range frames {
			if frames[i].Type == native.TypeHello {
				all = append(all, frames[i].Hello.CN)
			}
		}
	}
	return all
}

func waitConnection(t *testing.T, c *limpet.Client, generation uint64) limpet.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	st, err := c.WaitState(ctx, func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == generation })
	assert.NoError(t, err)
	return st
}

// eachWire runs f with both encodings, on both frame layers.
func eachWire(t *testing.T, f func(t *testing.T, o limpet.Options, enc native.Encoding)) {
	for _, enc := range []native.Encoding{native.Binary, native.JSON} {
		for _, plain := range bothFrameLayers() {
			t.Run(fmt.Sprint(native.Subprotocol(enc), " plain ", plain), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f(t, limpet.Options{PlainFrames: plain, Dialect: native.New(&native.Options{Encoding: enc})}, enc)
				})
			})
		}
	}
}

// A client that resumes is ready one round trip earlier if the server takes the HELLO of the
// upgrade request, and what it has missed comes with the answer. If the header is removed on the
// way, everything is the same, one round trip later.
func TestResumeInTheFirstFlight(t *testing.T) {
	const rtt = 200 * time.Millisecond
	eachWire(t, func(t *testing.T, o limpet.Options, enc native.Encoding) {
		took := map[bool]time.Duration{}
		for _, strip := range []bool{true, false} {
			f := newFront(t, rtt, nil, func(_ *front, _ int, _ http.ResponseWriter, r *http.Request) bool {
				if strip {
					r.Header.Del(native.HelloHeader)
				}
				return false
			})
			var began time.Time
			o.Observer = observer(func(e limpet.Event) {
				if s, ok := e.(limpet.StateChanged); ok && s.State.Phase == limpet.Connecting {
					began = s.State.Since
				}
			})
			c := f.client(t, o)
			s := subscribeLive(t, c, "a/*", nil)
			f.publish(t, "a/1", "1")
			assert.Equal(t, payloads(collect(t, s, 1)), "1")
			f.Network.CutAll()
			f.publish(t, "a/1", "2", "3")
			assert.Equal(t, payloads(collect(t, s, 2)), "2 3")
			synctest.Wait()
			took[strip] = time.Since(began)
			st := waitConnection(t, c, 2)
			if !st.Resumed || st.Since.Sub(began) != took[strip] {
				t.Errorf("stripped %v: ready after %v, and the messages after %v; resumed %v", strip, st.Since.Sub(began), took[strip], st.Resumed)
			}
			receipt, err := c.Send(t.Context(), "a/2", []byte("4"), nil)
			assert.NoError(t, err)
			if m := collect(t, s, 1)[0]; string(m.Payload) != "4" || receipt.Outcome != limpet.Acked {
				t.Errorf("%q, %+v", m.Payload, receipt)
			}
			assert.Equal(t, f.announced(), "-+")
			header, err := base64.RawURLEncoding.DecodeString(f.hellos[1])
			assert.NoError(t, err)
			said, err := native.Append(nil, enc, f.frames(t, enc)[:1])
			assert.NoError(t, err)
			assert.Equal(t, string(header), string(said))
			assert.Equal(t, f.server.Stats().Subscriptions, 1)
			assert.Equal(t, len(limpettest.CheckFrames(f.Network.Captured())), 0)
		}
		if saved := took[true] - took[false]; saved != rtt || took[false] >= 2*rtt {
			t.Errorf("resumed within %v, and within %v without the header: %v less, want %v", took[false], took[true], saved, rtt)
		}
	})
}

// What changes between the attempt and the connection follows HELLO.
func TestChangesAfterTheAnnouncement(t *testing.T) {
	eachWire(t, func(t *testing.T, o limpet.Options, enc native.Encoding) {
		f := newFront(t, time.Second, nil, nil)
		c := f.client(t, o)
		closed := subscribeLive(t, c, "closed", nil)
		slow := subscribeLive(t, c, "slow", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.Block, Buffer: 4}})
		f.publish(t, "slow", numbers(1, 10)...)
		time.Sleep(5 * time.Second)
		f.Network.CutAll()
		_, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Connecting })
		assert.NoError(t, err)
		time.Sleep(700 * time.Millisecond) // the request has arrived, its answer has not
		assert.Equal(t, f.announced(), "-+")
		closed.Close()
		added, err := c.Subscribe(t.Context(), "added", nil)
		assert.NoError(t, err)
		receipt, err := c.Publish(t.Context(), "added", []byte("p"), nil)
		assert.NoError(t, err)
		assert.Equal(t, payloads(collect(t, slow, 4)), "1 2 3 4")
		if st := c.State(); st.Phase != limpet.Connecting {
			t.Fatalf("%+v", st)
		}
		assert.Equal(t, payloads(collect(t, slow, 6)), "5 6 7 8 9 10")
		assert.NoError(t, added.WaitLive(t.Context()))
		outcome, err := receipt.Wait(t.Context())
		if outcome.Outcome != limpet.Acked || err != nil {
			t.Errorf("%+v, %v", outcome, err)
		}
		f.publish(t, "added", "q")
		assert.Equal(t, payloads(collect(t, added, 2)), "p q")
		time.Sleep(5 * time.Second)
		assert.Equal(t, f.server.Stats().Subscriptions, 2)
		var order []string
		for _, fr := range f.frames(t, enc) {
			switch fr.Type {
			case native.TypeHello:
				order = append(order, fmt.Sprintf("hello of %d", len(fr.Hello.Subs)))
			case native.TypeUnsub:
				order = append(order, fmt.Sprint("unsub ", fr.Unsub.Ch))
			case native.TypeSub:
				order = append(order, "sub "+fr.Sub.Topic)
			}
		}
		assert.Equal(t, strings.Join(order, ", "), "hello of 2, unsub 1, sub added")
		assert.Equal(t, c.Stats().Connections, 2)
		assert.Equal(t, len(limpettest.CheckFrames(f.Network.Captured())), 0)
	})
}

// An attempt that may have reached the server has used its connection number. The next one
// announces nothing: it may be the announcement that the path does not let through.
func TestAnnouncedInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFront(t, 0, nil, func(_ *front, n int, w http.ResponseWriter, _ *http.Request) bool {
			if n != 2 {
				return false
			}
			nc, _, err := w.(http.Hijacker).Hijack()
			assert.NoError(t, err)
			nc.Close()
			return true
		})
		c := f.client(t, limpet.Options{})
		s := subscribeLive(t, c, "a", nil)
		f.Network.CutAll()
		waitConnection(t, c, 2)
		f.publish(t, "a", "1")
		assert.Equal(t, payloads(collect(t, s, 1)), "1")
		assert.Equal(t, f.announced(), "-+-")
		f.Network.Inject(limpettest.Refuse(2)) // says nothing about the path
		f.Network.CutAll()
		if st := waitConnection(t, c, 3); !st.Resumed {
			t.Errorf("%+v", st)
		}
		assert.Equal(t, f.announced(), "-+-+")
		synctest.Wait()
		if got := f.numbers(t); !slices.Equal(got, []uint64{1, 3, 6}) {
			t.Errorf("connection numbers %v", got)
		}
		f.publish(t, "a", "2")
		assert.Equal(t, payloads(collect(t, s, 1)), "2")
	})
}

// A subscription that an attempt has announced in vain, and that finds no place in the next HELLO, is
// asked for as any other.
func TestNotAnnouncedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFront(t, 0, nil, func(_ *front, n int, w http.ResponseWriter, _ *http.Request) bool {
			if n == 2 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return n == 2
		})
		c := f.client(t, limpet.Options{})
		s := subscribeLive(t, c, "a", nil)
		f.Network.CutAll()
		_, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Waiting && s.Attempt == 2 })
		assert.NoError(t, err)
		for i := range 40 {
			_, err := c.Subscribe(t.Context(), strings.Repeat("x", 240)+fmt.Sprint("/", i), &limpet.SubscribeOptions{Priority: 1})
			assert.NoError(t, err)
		}
		waitConnection(t, c, 2)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // before a request counts as unanswered
		defer cancel()
		assert.NoError(t, s.WaitLive(ctx))
		f.publish(t, "a", "1")
		assert.Equal(t, payloads(collect(t, s, 1)), "1")
		synctest.Wait()
		if n := len(f.frames(t, native.Binary)[0].Hello.Subs); n == 0 || n >= 40 {
			t.Errorf("HELLO has %d subscriptions", n)
		}
	})
}

// A proxy may send a request twice. The server knows the number of the second one already, or even a
// higher one; the client comes back with one above that.
func TestRequestThatArrivesTwice(t *testing.T) {
	for _, ahead := range []uint64{0, 5} {
		synctest.Test(t, func(t *testing.T) {
			f := newFront(t, 0, nil, func(f *front, n int, _ http.ResponseWriter, r *http.Request) bool {
				if n != 2 {
					return false
				}
				first := r.Clone(t.Context())
				frames := []native.Frame{{Type: native.TypeHello, Hello: native.HelloOf(r.Header, native.Binary)}}
				frames[0].Hello.CN += ahead
				data, err := native.Append(nil, native.Binary, frames)
				assert.NoError(t, err)
				first.Header.Set(native.HelloHeader, base64.RawURLEncoding.EncodeToString(data))
				nc, err := f.Network.DialContext(t.Context(), "tcp", r.Host)
				assert.NoError(t, err)
				t.Cleanup(func() { nc.Close() })
				assert.NoError(t, first.Write(nc))
				_, err = nc.Read(make([]byte, 1<<10))
				assert.NoError(t, err)
				time.Sleep(time.Millisecond) // the server has taken it
				return false
			})
			c := f.client(t, limpet.Options{})
			s := subscribeLive(t, c, "a", nil)
			f.Network.CutAll()
			f.publish(t, "a", "1")
			if st := waitConnection(t, c, 3); !st.Resumed {
				t.Errorf("%+v", st)
			}
			assert.Equal(t, payloads(collect(t, s, 1)), "1")
			assert.Equal(t, f.announced(), "-++-") // the second and the third are one
			_, err := c.Send(t.Context(), "a", []byte("2"), nil)
			assert.NoError(t, err)
			assert.Equal(t, payloads(collect(t, s, 1)), "2")
		})
	}
}

// Credentials of HELLO decide also when it is announced, and once for each connection. No hook
// sees the header.
func TestAnnouncedCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		f := newFront(t, 0, &server.Options{Hooks: server.Hooks{
			Authenticate: func(_ context.Context, r *http.Request, token string) (server.Principal, error) {
				asked = append(asked, token+r.Header.Get(native.HelloHeader))
				if token == "t2" {
					return server.Principal{}, &server.Error{Code: native.CloseAuthInvalid}
				}
				return server.Principal{ID: "p"}, nil
			},
		}}, nil)
		calls := 0
		c := f.client(t, limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			calls++
			return limpet.Credential{Token: limpet.Secret(fmt.Sprint("t", calls))}, nil
		}})
		f.Network.CutAll()
		if st := waitConnection(t, c, 3); !st.Resumed { // the second was refused
			t.Errorf("%+v", st)
		}
		f.Network.CutAll()
		waitConnection(t, c, 4)
		assert.Equal(t, strings.Join(asked, " "), "t1 t2 t3 t4")
		assert.Equal(t, f.announced(), "-+-+")
	})
}

// A connection that replaces one in use announces nothing: the positions still move. Nor does one
// that begins a session.
func TestNothingIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFront(t, 0, nil, nil)
		c := f.client(t, limpet.Options{})
		s := subscribeLive(t, c, "a", nil)
		f.server.Drain(nil)
		waitConnection(t, c, 2)
		assert.Equal(t, f.announced(), "--")
		f.Network.CutAll()
		waitConnection(t, c, 3)
		assert.Equal(t, f.announced(), "--+")
		f.Network.Strike(limpettest.CloseWith(4401, "", 0)) // the session is unknown
		if st := waitConnection(t, c, 4); st.Resumed {
			t.Errorf("%+v", st)
		}
		assert.Equal(t, f.announced(), "--+-")
		f.publish(t, "a", "1")
		assert.Equal(t, payloads(collect(t, s, 1)), "1")
	})
}
