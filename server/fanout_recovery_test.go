package server_test

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// faultyStore does at each call what the test wants.
type faultyStore struct {
	server.Store
	fault atomic.Pointer[func(call string) error]
}

func (s *faultyStore) set(fault func(call string) error) { s.fault.Store(&fault) }

func (s *faultyStore) call(name string) error {
	if f := s.fault.Load(); f != nil && *f != nil {
		return (*f)(name)
	}
	return nil
}

func (s *faultyStore) Read(ctx context.Context, from uint64, dst []*server.Entry) (int, uint64, error) {
	if err := s.call("Read"); err != nil {
		return 0, 0, err
	}
	return s.Store.Read(ctx, from, dst)
}

func (s *faultyStore) View() server.View {
	s.call("View")
	return s.Store.View()
}

func (s *faultyStore) Tag(ctx context.Context, offset uint64) ([]byte, bool, error) {
	if err := s.call("Tag"); err != nil {
		return nil, false, err
	}
	return s.Store.Tag(ctx, offset)
}

func (s *faultyStore) Changed() <-chan struct{} {
	s.call("Changed")
	return s.Store.Changed()
}

// at is a position of a client.
func at(ch uint64, topic, epoch string, o uint64) native.Sub {
	id := idOf(o)
	return native.Sub{Ch: ch, Topic: topic, From: native.FromResume, Epoch: epoch, O: o, Tag: id[:], Cr: native.Credit{N: 1 << 20, B: 1 << 30}}
}

// When the log cannot be followed, connections with subscriptions end with 4203, others
// stay, and whoever comes back goes on where it was.
func TestFollowerFails(t *testing.T) {
	for name, fault := range map[string]func(call string) error{
		"Read fails": func(call string) error {
			if call == "Read" {
				return errDisk
			}
			return nil
		},
		"Read panics": func(call string) error {
			if call == "Read" {
				panic("read")
			}
			return nil
		},
		"Read ends the goroutine": func(call string) error {
			if call == "Read" {
				runtime.Goexit()
			}
			return nil
		},
		"View panics": func(call string) error {
			if call == "View" {
				panic("view")
			}
			return nil
		},
		"Changed panics": func(call string) error {
			if call == "Changed" {
				panic("changed")
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, enc native.Encoding) {
				store := &faultyStore{Store: server.NewMemoryStore(nil)}
				r := newRig(t, &server.Options{Store: store})
				with, quiet, without := r.live(enc, 9, "t"), r.live(enc, 9, "none"), r.live(enc, 9)
				publish := func(o uint64) {
					t.Helper()
					if _, err := r.srv.Publish(context.Background(), "t", nil, &server.PublishOptions{ID: idOf(o)}); err != nil {
						t.Fatal(err)
					}
				}
				publish(1)
				with.wantMsg(1, 0, 1)
				synctest.Wait()
				began := time.Now()
				store.set(fault)
				publish(2)
				with.wantClose(native.CloseBackendUnavailable)
				quiet.wantClose(native.CloseBackendUnavailable)
				if took := time.Since(began); took != 0 {
					t.Errorf("they ended after %v, want at once", took)
				}
				store.set(nil)
				without.quiet()
				publish(3)
				with = r.connect(enc)
				with.hello(native.Hello{CN: 1, Subs: []native.Sub{at(1, "t", store.View().Epoch, 1)}})
				with.next(native.TypeSubOK)
				with.wantMsg(1, 1, 2)
				with.wantMsg(1, 2, 3)
				publish(4)
				with.wantMsg(1, 3, 4)
				if n, _, _ := r.srv.Following(); n != 1 {
					t.Errorf("%d followers", n)
				}
			})
		})
	}
}

// A follower that cannot begin ends the connections that wait for it, and the next one is tried.
func TestFollowerCannotBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &faultyStore{Store: server.NewMemoryStore(nil)}
		r := newRig(t, &server.Options{Store: store})
		r.publish("t")
		calls := 0
		store.set(func(call string) error {
			if call == "Tag" {
				if calls++; calls == 2 { // the first one is that of the subscribe
					return errDisk
				}
			}
			return nil
		})
		c := r.live(native.JSON, 9, "t")
		c.wantClose(native.CloseBackendUnavailable)
		c = r.live(native.JSON, 9, "t")
		r.publish("t")
		c.wantMsg(1, 1, 2)
	})
}

// A call of the store that does not return ends the connections: their clients must not wait
// for messages while heartbeats arrive. Those that come next are served.
func TestFollowerIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &faultyStore{Store: server.NewMemoryStore(nil)}
		var out bytes.Buffer
		r := newRig(t, &server.Options{Store: store, Heartbeat: time.Second, Logger: slog.New(slog.NewTextHandler(&out, nil))})
		c := r.live(native.JSON, 9, "t")
		synctest.Wait()
		release := make(chan struct{})
		var once atomic.Bool
		store.set(func(call string) error {
			if call == "Read" && !once.Swap(true) {
				<-release
			}
			return nil
		})
		began := time.Now()
		r.publish("t")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c.wantClose(native.CloseBackendUnavailable)
		}()
		for alive := true; alive; {
			select {
			case <-ended:
				alive = false
			case <-time.After(time.Second):
				c.ws.Write(context.Background(), websocket.MessageText, []byte(`{"t":"ping"}`)) // it may have ended
			}
		}
		if took := time.Since(began); took < 2500*time.Millisecond || took > 4*time.Second {
			t.Errorf("ended after %v, want 2.5 heartbeats and at most one more", took)
		}
		d := r.live(native.JSON, 9, "t")
		r.publish("t")
		d.wantMsg(1, 1, 2)
		close(release)
		d.quiet()
		if n, _, _ := r.srv.Following(); n != 1 {
			t.Errorf("%d followers", n)
		}
		if !strings.Contains(out.String(), "2.5 heartbeats") {
			t.Errorf("the log does not say why: %s", out.String())
		}
	})
}

// A log that has lost or replaced its newest entries under the same epoch ends the
// connections: their clients come back with their positions, and each gets the verdict that is
// right for it.
func TestFollowerFindsARewind(t *testing.T) {
	for _, tc := range []struct {
		name string
		ids  []uint64 // of the log that takes the place of 1, 2, 3
		keep server.Retention
		why  native.ResetWhy
		ends bool
	}{
		{name: "it goes on", ids: []uint64{1, 2, 3, 4}},
		{name: "it is the same", ids: []uint64{1, 2, 3}},
		{name: "the newest is gone", ids: []uint64{1, 2}, ends: true, why: native.ResetAhead},
		{name: "it is empty", ends: true, why: native.ResetAhead},
		{name: "the newest is another", ids: []uint64{1, 2, 9}, ends: true, why: native.ResetDiverged},
		{name: "another, and more", ids: []uint64{1, 2, 9, 10}, ends: true, why: native.ResetDiverged},
		{name: "trimmed up to the newest", ids: []uint64{1, 2, 3, 4}, keep: server.Retention{Count: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			both(t, func(t *testing.T, enc native.Encoding) {
				store := newReplaceable("e", logOf(t, server.Retention{}, 1, 2))
				r := newRig(t, &server.Options{Store: store})
				c := r.live(enc, 9, "t")
				store.replace("e", logOf(t, server.Retention{}, 1, 2, 3))
				c.wantMsg(1, 2, 3)
				synctest.Wait()
				store.replace("e", logOf(t, tc.keep, tc.ids...))
				if !tc.ends {
					if len(tc.ids) > 3 {
						c.wantMsg(1, 3, 4)
					}
					c.quiet()
					return
				}
				c.wantClose(native.CloseBackendUnavailable)
				c = r.connect(enc)
				c.hello(native.Hello{CN: 1, Subs: []native.Sub{at(1, "t", "e", 3)}})
				if got := c.next(native.TypeReset).Reset; got.Why != tc.why {
					t.Errorf("reset %+v, want why %v", got, tc.why)
				}
				for i, id := range tc.ids {
					if m := c.next(native.TypeMsg).Msg; m.ID != idOf(id) || m.S != uint64(i+1) {
						t.Errorf("message %d with id %x", m.S, m.ID)
					}
				}
			})
		})
	}
}

// What the log has removed is not sent either before the follower has seen that it is gone.
func TestRemovedBeforeTheFollowerLooks(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		store := newReplaceable("e", logOf(t, server.Retention{}))
		r := newRig(t, &server.Options{Store: store})
		c := r.live(enc, 0, "t")
		store.replace("e", logOf(t, server.Retention{}, 1, 2, 3))
		c.quiet()
		store.lag(logOf(t, server.Retention{Count: 1}, 1, 2, 3))
		c.send(credit(1, 9, 1<<20))
		if g := c.next(native.TypeGap).Gap; g.P != 0 || g.To != 2 || g.Why != native.GapExpired {
			t.Fatalf("gap %+v", g)
		}
		c.wantMsg(1, 2, 3)
	})
}

// When entries are gone before the follower could read them, no subscription knows whether one
// of them matched: each gets a gap.
func TestFollowerMissesEntries(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		store := newReplaceable("e", logOf(t, server.Retention{}, 1, 2))
		r := newRig(t, &server.Options{Store: store})
		c := r.live(enc, 9, "t", "none")
		synctest.Wait()
		store.replace("e", logOf(t, server.Retention{Count: 2}, 1, 2, 3, 4, 5, 6))
		gaps, messages := 0, 0
		for gaps < 2 || messages < 2 {
			switch f, err := c.read(); {
			case err != nil:
				t.Fatal(err)
			case f.Type == native.TypeGap:
				if gaps++; f.Gap.P != 2 || f.Gap.To != 4 {
					t.Fatalf("gap %+v", f.Gap)
				}
			case f.Type == native.TypeMsg:
				if messages++; f.Msg.Ch != 1 || f.Msg.S != uint64(4+messages) {
					t.Fatalf("message %+v", f.Msg)
				}
			}
		}
		c.quiet()
	})
}

// Close ends the follower, also one whose store does not return, within its bound.
func TestCloseEndsTheFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &faultyStore{Store: server.NewMemoryStore(nil)}
		r := newRig(t, &server.Options{Store: store})
		r.live(native.JSON, 9, "t")
		synctest.Wait()
		release := make(chan struct{})
		store.set(func(call string) error {
			if call == "Read" {
				<-release
			}
			return nil
		})
		r.publish("t")
		synctest.Wait()
		began := time.Now()
		r.srv.Close()
		if took := time.Since(began); took != 100*time.Millisecond {
			t.Errorf("Close took %v", took)
		}
		close(release)
		synctest.Wait()
		if n, _, _ := r.srv.Following(); n != 0 {
			t.Errorf("%d followers", n)
		}
	})
}

// A subscription that reads a view of the log older than that of the follower reads the rest
// once the log shows it.
func TestViewThatLags(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		all := []uint64{1, 2, 3, 4, 5, 6}
		store := newReplaceable("e", logOf(t, server.Retention{}, all...))
		r := newRig(t, &server.Options{Store: store})
		r.live(enc, 9, "none")
		synctest.Wait()
		store.lag(logOf(t, server.Retention{}, all[:4]...))
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1, Subs: []native.Sub{at(1, "t", "e", 3)}})
		c.next(native.TypeSubOK)
		c.wantMsg(1, 3, 4)
		c.quiet()
		store.replace("e", logOf(t, server.Retention{}, all...))
		c.wantMsg(1, 4, 5)
		c.wantMsg(1, 5, 6)
		c.quiet()
	})
}
