package server_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// The record of a session stays in the store for as long as its connection lives, however long
// the client publishes nothing.
func TestSessionInUseDoesNotExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{SessionTTL: time.Second, Heartbeat: time.Minute, Store: server.NewMemoryStore(nil)})
		c := r.connect(native.Binary)
		w := c.hello(native.Hello{CN: 1})
		for range 240 {
			time.Sleep(time.Minute)
			c.send(native.Frame{Type: native.TypePing, N: 1})
			c.next(native.TypePong)
		}
		c.send(msg(1, idOf(1), "t", "x"))
		c.acked(1)
		c.ws.CloseNow()
		synctest.Wait()
		c = r.connect(native.Binary)
		if w = c.hello(resume(w, 2, 2, 1)); !w.Res || w.Ack != 1 {
			t.Fatalf("welcome %+v", w)
		}
	})
}

// A server whose view of the store lags finds the session of a client that comes from
// another server: no record, and an old one, are looked at again after Sync.
func TestRecordIsJudgedAfterSync(t *testing.T) {
	for name, old := range map[string]bool{"no record": false, "an old record": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &laggingStore{Store: server.NewMemoryStore(nil)}
				r := newRig(t, &server.Options{Store: store})
				c := r.connect(native.JSON)
				w := c.hello(native.Hello{CN: 1})
				c.ws.CloseNow()
				synctest.Wait()
				if old {
					store.record, store.version, _ = store.Store.Load(t.Context(), w.SID)
				}
				c = r.connect(native.JSON)
				w = c.hello(resume(w, 2, 1, 0))
				c.send(native.Frame{Type: native.TypePing, N: 1}) // the key before is over
				c.next(native.TypePong)
				c.ws.CloseNow()
				synctest.Wait()
				store.lags.Store(true)
				if w = r.connect(native.JSON).hello(resume(w, 3, 1, 0)); !w.Res {
					t.Fatal("not resumed")
				}
			})
		})
	}
}

// laggingStore shows an old record, or none, until Sync.
type laggingStore struct {
	server.Store
	lags    atomic.Bool
	record  []byte
	version uint64
}

func (s *laggingStore) Load(ctx context.Context, session string) ([]byte, uint64, error) {
	if s.lags.Load() {
		return s.record, s.version, nil
	}
	return s.Store.Load(ctx, session)
}

func (s *laggingStore) Sync(ctx context.Context) error {
	s.lags.Store(false)
	return s.Store.Sync(ctx)
}

func (s *laggingStore) View() server.View {
	v := s.Store.View()
	if s.lags.Load() {
		v.Head = 0
	}
	return v
}

// Messages of one batch are in the log in their order. A position that a server does not see yet
// is looked at again after Sync, and so is the newest one.
func TestPositionIsJudgedAfterSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &laggingStore{Store: server.NewMemoryStore(nil)}
		r := newRig(t, &server.Options{Store: store})
		c := r.connect(native.JSON)
		c.hello(native.Hello{CN: 1})
		c.send(msg(1, idOf(1), "t", "1"), msg(2, idOf(2), "t", "2"), msg(3, idOf(3), "t", "3"))
		c.acked(3)
		var held [4]*server.Entry
		if n, _, err := store.Read(t.Context(), 1, held[:]); n != 3 || err != nil || held[0].ID != idOf(1) || held[1].ID != idOf(2) || held[2].ID != idOf(3) {
			t.Fatalf("%d entries, %v", n, err)
		}
		v := store.View()
		for ch, from := range map[uint64]native.From{1: native.FromResume, 2: native.FromNew} {
			store.lags.Store(true)
			tag := idOf(3)
			c.send(native.Frame{Type: native.TypeSub, Sub: &native.Sub{Ch: ch, Topic: "t", From: from, Epoch: v.Epoch, O: 3, Tag: tag[:], Cr: native.Credit{N: 9, B: 9}}})
			if ok := c.next(native.TypeSubOK).SubOK; ok.O != 3 || ok.Rec != (from == native.FromResume) {
				t.Fatalf("subok %+v", ok)
			}
		}
	})
}
