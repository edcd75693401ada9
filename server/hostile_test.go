package server_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// A message that no client can read would end every connection that it is sent on,
// again after each resume.
func TestPublishRefusesPoison(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1})
		c.send(sub(1, "t", native.FromFirst, 10))
		c.next(native.TypeSubOK)
		for _, o := range []*server.PublishOptions{
			{Type: "\xff"}, {Header: map[string]string{"\xff": ""}}, {Header: map[string]string{"k": "\xff"}}, {TTL: -1},
		} {
			if _, err := r.srv.Publish(context.Background(), "t", nil, o); !errors.Is(err, server.ErrMessage) {
				t.Errorf("%+v: %v", o, err)
			}
		}
		if _, err := r.srv.Publish(context.Background(), "t", nil, &server.PublishOptions{Type: strings.Repeat("x", native.MaxHeaderSize+1)}); !errors.Is(err, server.ErrTooBig) {
			t.Errorf("long type: %v", err)
		}
		if _, err := r.srv.Publish(context.Background(), "t", []byte("fine"), nil); err != nil {
			t.Fatal(err)
		}
		if m := c.next(native.TypeMsg).Msg; string(m.Payload) != "fine" {
			t.Errorf("got %q", m.Payload)
		}
	})
}

// panicky is a log of the user with a bug.
type panicky struct {
	server.Log
	inAppend, inRead atomic.Bool
}

func (l *panicky) Append(ctx context.Context, e server.Entry) (uint64, error) {
	if l.inAppend.Load() {
		panic("append")
	}
	return l.Log.Append(ctx, e)
}

func (l *panicky) Read(from uint64, dst []*server.Entry) (int, uint64, error) {
	if l.inRead.Load() {
		panic("read")
	}
	return l.Log.Read(from, dst)
}

// A log that panics costs the connection, not the process, the session or the id.
func TestLogPanics(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		log := &panicky{Log: server.NewMemoryLog(server.Retention{})}
		r := newRig(t, &server.Options{Log: log})
		c := r.connect(enc)
		w := c.hello(native.Hello{CN: 1})
		log.inAppend.Store(true)
		c.publish(1, "t", "x")
		c.wantClose(native.CloseBackendUnavailable)
		if _, err := r.srv.Publish(context.Background(), "t", nil, &server.PublishOptions{ID: idOf(2)}); err == nil {
			t.Error("published into a panic")
		}
		log.inAppend.Store(false)
		if _, err := r.srv.Publish(context.Background(), "t", nil, &server.PublishOptions{ID: idOf(2)}); err != nil {
			t.Error(err)
		}

		c = r.connect(enc)
		w = c.hello(resume(w, 2, 1, 1))
		if !w.Res || w.Ack != 0 {
			t.Fatalf("welcome %+v", w)
		}
		c.send(aged(1, idOf(1), 50))
		c.acked(1)
		log.inRead.Store(true)
		c.send(sub(1, "t", native.FromFirst, 10))
		c.wantClose(native.CloseBackendUnavailable)
		log.inRead.Store(false)
		c = r.connect(enc)
		if w = c.hello(resume(w, 3, 2, 1)); !w.Res || w.Ack != 1 {
			t.Fatalf("welcome %+v", w)
		}
	})
}

// A hook that ends its goroutine, as t.FailNow does, leaves nothing behind.
func TestHookExits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var exit atomic.Bool
		exit.Store(true)
		r := newRig(t, &server.Options{Hooks: server.Hooks{OnPublish: func(context.Context, server.Principal, server.Message) error {
			if exit.Load() {
				runtime.Goexit()
			}
			return nil
		}}})
		c := r.connect(native.JSON)
		w := c.hello(native.Hello{CN: 1})
		c.publish(1, "t", "x")
		c.closed()
		exit.Store(false)
		c = r.connect(native.JSON)
		c.hello(resume(w, 2, 1, 1))
		c.send(aged(1, idOf(1), 50))
		c.acked(1)
	})
}

// stepping is a log whose every read takes a while.
type stepping struct{ server.Log }

func (l stepping) Read(from uint64, dst []*server.Entry) (int, uint64, error) {
	<-time.After(50 * time.Millisecond)
	return l.Log.Read(from, dst)
}

// A client whose subscriptions cause long searches does not delay Close.
func TestCloseDuringSearches(t *testing.T) {
	for _, from := range []native.From{native.FromLast, native.FromFirst} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, &server.Options{Log: stepping{server.NewMemoryLog(server.Retention{})}})
			for range 100 * 256 {
				r.srv.Publish(context.Background(), "t", nil, nil)
			}
			c := r.connect(native.Binary)
			c.hello(native.Hello{CN: 1})
			for ch := range uint64(500) {
				c.send(native.Frame{Type: native.TypeSub, Sub: &native.Sub{Ch: ch + 1, Topic: "nothing", From: from, N: 1 << 60, Cr: native.Credit{N: 1, B: 1}}})
			}
			synctest.Wait()
			time.Sleep(time.Second)
			start := time.Now()
			r.srv.Close()
			if st := r.srv.Stats(); st.Conns != 0 {
				t.Errorf("from %d: %d connections %v after Close", from, st.Conns, time.Since(start))
			}
		})
	}
}

// slyLog changes its epoch between two calls of one round of the writer.
type slyLog struct {
	server.Log
	later   server.Log
	changed atomic.Bool
	arm     atomic.Int64 // the number of the call of Read, from now on, that comes from later
}

func (l *slyLog) now() server.Log {
	if l.changed.Load() {
		return l.later
	}
	return l.Log
}
func (l *slyLog) View() server.View { return l.now().View() }
func (l *slyLog) Read(from uint64, dst []*server.Entry) (int, uint64, error) {
	if l.arm.Add(-1) == 0 {
		l.changed.Store(true)
	}
	return l.now().Read(from, dst)
}
func (l *slyLog) Tag(o uint64) ([]byte, bool) { return l.now().Tag(o) }

// Entries of a new epoch are never delivered under the numbers of the old one.
func TestEpochChangesWithinARead(t *testing.T) {
	for _, x := range []struct{ reads, feeds int }{
		{1, 0}, {1, 1000}, // within a read of the follower
		{2, 0}, // of the subscription
	} {
		synctest.Test(t, func(t *testing.T) {
			log := &slyLog{Log: server.NewMemoryLog(server.Retention{}), later: server.NewMemoryLog(server.Retention{})}
			r := newRig(t, &server.Options{Log: log})
			r.srv.LimitFeeds(x.feeds, 1<<20)
			c := r.connect(native.JSON)
			c.hello(native.Hello{CN: 1})
			c.send(sub(1, "t", native.FromNew, 10))
			c.next(native.TypeSubOK)
			for n := range uint64(3) {
				log.later.Append(context.Background(), server.Entry{ID: idOf(n + 1), Topic: "t"})
			}
			log.arm.Store(int64(x.reads))
			log.Log.Append(context.Background(), server.Entry{ID: idOf(9), Topic: "t"}) // wakes
			began := time.Now()
			if f := c.next(native.TypeReset).Reset; f.Epoch != log.later.View().Epoch || f.O != 0 || time.Since(began) > time.Second {
				t.Fatalf("after %v, reset %+v", time.Since(began), f)
			}
			for n := range uint64(3) {
				if m := c.next(native.TypeMsg).Msg; m.S != n+1 || m.P != n || m.ID != idOf(n+1) {
					t.Fatalf("msg %+v", m)
				}
			}
		})
	}
}

// Over TLS a page of the same host must have come over TLS too: a page over plain
// HTTP may have been written by an attacker in the network.
func TestOriginOverTLS(t *testing.T) {
	srv, err := server.New(&server.Options{Hosts: []string{"feed.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	web := httptest.NewTLSServer(srv)
	defer web.Close()
	for origin, want := range map[string]int{
		"https://feed.example.com": 101, "https://feed.example.com:443": 101,
		"http://feed.example.com": 403, "http://feed.example.com:443": 403,
	} {
		req := upgradeTo("feed.example.com", token, origin)
		req.URL.Scheme, req.URL.Host = "https", web.Listener.Addr().String()
		res, err := web.Client().Transport.(*http.Transport).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("origin %s: %d, want %d", origin, res.StatusCode, want)
		}
	}
}

// A client that can guess the ids of another cannot have its messages dropped as
// repetitions, and a client that may not publish cannot make the server forget ids.
func TestIDsOfOthers(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, &server.Options{MaxIDs: 4, Hooks: server.Hooks{
			Authenticate: func(_ context.Context, _ *http.Request, token string) (server.Principal, error) {
				return server.Principal{ID: token}, nil
			},
			Authorize: func(who server.Principal, _ server.Verb, topic string) error {
				if who.ID == "mallory" && topic != "junk" {
					return errors.New("no")
				}
				return nil
			},
		}})
		mallory, ann := r.connect(enc), r.connect(enc)
		mallory.hello(native.Hello{CN: 1, Tok: "mallory"})
		ann.hello(native.Hello{CN: 1, Tok: "ann"})
		mallory.send(msg(1, idOf(1), "junk", "x"))
		mallory.acked(1)
		ann.send(msg(1, idOf(1), "orders", "mine"), msg(2, idOf(2), "orders", "mine"))
		if nak, _ := ann.acked(2); len(nak) > 0 {
			t.Fatalf("rejections %v", nak)
		}
		if offset, err := r.srv.Publish(context.Background(), "orders", nil, &server.PublishOptions{ID: idOf(1)}); err != nil || offset != 4 {
			t.Errorf("publish under another's id: %d, %v", offset, err)
		}
		for s := range uint64(10) {
			mallory.send(msg(s+2, idOf(s+100), "orders", "x"))
		}
		mallory.reached(11)
		ann.send(msg(3, idOf(2), "orders", "mine"))
		ann.acked(3)
		if st := r.srv.Stats(); st.Head != 4 || st.Accepted != 3 || st.Duplicates != 1 {
			t.Errorf("head %d, %d accepted, %d duplicates", st.Head, st.Accepted, st.Duplicates)
		}
	})
}

// A client that repeats a rejected message and does not read costs a bounded amount
// of memory: a rejection waits once, however often it is asked for.
func TestRejectionsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{WriteTimeout: time.Hour, Hooks: server.Hooks{OnPublish: func(context.Context, server.Principal, server.Message) error {
			return errors.New("no")
		}}})
		c := r.connect(native.Binary)
		c.hello(native.Hello{CN: 1})
		var batch []native.Frame
		for s := uint64(1); s <= 15; s++ {
			batch = append(batch, msg(s, idOf(s), "t", ""))
		}
		c.send(batch...)
		for range 40 { // the same 15 again
			batch = append(batch, batch[:15]...)
		}
		synctest.Wait()
		before := limpettest.HeapInUse()
		const rounds = 500
		for i := range rounds {
			c.send(batch...)
			if i%100 == 0 {
				c.send(native.Frame{Type: native.TypePong})
			}
		}
		synctest.Wait()
		if grown := limpettest.HeapInUse() - before; grown > 1<<20 {
			t.Errorf("heap grew by %d KiB", grown>>10)
		}
		if n := r.srv.Stats().Duplicates; n < rounds*600 {
			t.Fatalf("%d duplicates were read", n)
		}
		r.network.CutAll()
	})
}
