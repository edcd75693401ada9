package server_test

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// A connection that was being upgraded when Shutdown began is asked to leave as the
// others are; Close breaks it.
func TestEndDuringUpgrade(t *testing.T) {
	for _, broken := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			begun, proceed := make(chan struct{}, 1), make(chan struct{})
			r := newRigBehind(t, nil, wrapping(func(w http.ResponseWriter) http.ResponseWriter { return slowHijacker{w, begun, proceed} }))
			connected := make(chan *client)
			go func() { connected <- r.connect(native.JSON) }()
			<-begun
			ended := make(chan error)
			go func() {
				if broken {
					ended <- r.srv.Close()
					return
				}
				ended <- r.srv.Shutdown(context.Background())
			}()
			synctest.Wait()
			close(proceed)
			want := native.CloseGoingAway
			if broken {
				want = -1
			}
			if code, _ := (<-connected).closed(); code != want {
				t.Errorf("broken %v: closed with %d, want %d", broken, code, want)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// A connection that is being upgraded is among all connections, as it is among those before
// WELCOME: the difference is what is ready.
func TestStatsDuringUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, proceed := make(chan struct{}, 1), make(chan struct{})
		r := newRigBehind(t, nil, wrapping(func(w http.ResponseWriter) http.ResponseWriter { return slowHijacker{w, begun, proceed} }))
		connected := make(chan *client)
		go func() { connected <- r.connect(native.JSON) }()
		<-begun
		synctest.Wait()
		if st := r.srv.Stats(); st.Conns != 1 || st.Pending != 1 {
			t.Errorf("in the upgrade: %d connections, %d before WELCOME", st.Conns, st.Pending)
		}
		close(proceed)
		c := <-connected
		if st := r.srv.Stats(); st.Conns != 1 || st.Pending != 1 {
			t.Errorf("before WELCOME: %d connections, %d before WELCOME", st.Conns, st.Pending)
		}
		c.hello(native.Hello{CN: 1})
		synctest.Wait()
		if st := r.srv.Stats(); st.Conns != 1 || st.Pending != 0 {
			t.Errorf("welcomed: %d connections, %d before WELCOME", st.Conns, st.Pending)
		}
	})
}

// slowHijacker announces a Hijack and waits before it does it.
type slowHijacker struct {
	http.ResponseWriter
	begun   chan<- struct{}
	proceed <-chan struct{}
}

func (w slowHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.begun <- struct{}{}
	<-w.proceed
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// A client that gives up messages keeps the outcomes of those behind them.
func TestGivenUpKeepsWhatIsBehind(t *testing.T) {
	for name, tc := range map[string]struct {
		lo, ack uint64
		sack    []wire.Range
		then    uint64 // the ack of the next message
	}{
		"before the first range": {5, 6, []wire.Range{{Lo: 9, Hi: 9}}, 7},
		"up to the second":       {9, 9, nil, 10},
		"between the ranges":     {8, 7, []wire.Range{{Lo: 9, Hi: 9}}, 9},
		"all":                    {12, 11, nil, 12},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, enc native.Encoding) {
				r := newRig(t, nil)
				c := r.connect(enc)
				w := c.hello(native.Hello{CN: 1})
				for s := uint64(1); s <= 3; s++ {
					c.publish(s, "t", "x")
				}
				c.reached(3)
				c.ws.CloseNow()
				synctest.Wait()
				r.srv.Plant(w.SID, idOf, 5, 6, 9)
				c = r.connect(enc)
				w = c.hello(resume(w, 2, tc.lo, 12))
				if w.Ack != tc.ack || !slices.Equal(w.Sack, tc.sack) {
					t.Errorf("welcome ack %d sack %v, want %d and %v", w.Ack, w.Sack, tc.ack, tc.sack)
				}
				c.send(msg(w.Ack+1, idOf(w.Ack+1), "t", "x"))
				c.acked(tc.then)
			})
		})
	}
}

// slowStore takes a moment for each Commit.
type slowStore struct{ *server.MemoryStore }

func (s slowStore) Commit(ctx context.Context, c *server.Change) (server.Committed, error) {
	time.Sleep(100 * time.Millisecond)
	return s.MemoryStore.Commit(ctx, c)
}

// A connection that is superseded counts as one that was alive, also if it has ended before the newer one is in the store.
func TestConflictBeforeTheTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{Store: slowStore{server.NewMemoryStore(nil)}})
		c := r.connect(native.JSON)
		w := c.hello(native.Hello{CN: 1})
		for cn := uint64(2); cn <= 4; cn++ {
			before := c
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				before.wantClose(native.CloseSuperseded)
			}()
			c = r.connect(native.JSON)
			w = c.hello(resume(w, cn, 1, 1))
			<-ended
			time.Sleep(2 * time.Second)
		}
		late := r.connect(native.JSON)
		h := resume(w, 5, 1, 1)
		late.send(native.Frame{Type: native.TypeHello, Hello: &h})
		late.wantClose(native.CloseSessionConflict)
		r.close()
	})
}

// A connection that is superseded while a hook runs counts as one that was alive: its
// client answers the close frame.
func TestConflictDuringHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{Hooks: server.Hooks{OnPublish: func(context.Context, server.Principal, server.Message) error {
			time.Sleep(time.Second)
			return nil
		}}})
		c := r.connect(native.JSON)
		w := c.hello(native.Hello{CN: 1})
		for cn := uint64(2); cn <= 4; cn++ {
			before := c
			before.send(msg(1, idOf(cn), "t", "x"))
			synctest.Wait()
			c = r.connect(native.JSON)
			w = c.hello(resume(w, cn, 1, 1))
			before.wantClose(native.CloseSuperseded)
			time.Sleep(2 * time.Second)
		}
		late := r.connect(native.JSON)
		h := resume(w, 5, 1, 1)
		late.send(native.Frame{Type: native.TypeHello, Hello: &h})
		late.wantClose(native.CloseSessionConflict)
	})
}
