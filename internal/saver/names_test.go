package saver

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/wire"
)

// subscription is what a Saver knows of one, and the store that it saves to.
type subscription struct {
	*Saver
	over, unprocessed atomic.Bool
	offset            atomic.Uint64 // committed
	saved             atomic.Uint64
	hangs             bool // Save returns when its context ends
}

func newSubscription(name string) *subscription {
	s := new(subscription)
	s.Saver = New(Config{
		Store: s, Name: name,
		Current: func() Committed {
			return Committed{Position: wire.Position{Epoch: "e", Offset: s.offset.Load()}, Number: s.offset.Load()}
		},
		Over:      s.over.Load,
		Processed: func() bool { return !s.unprocessed.Load() },
		Failed:    func(error, time.Duration) {},
	}, wire.Position{Epoch: "e"})
	return s
}

// Load implements cursor.Store.
func (s *subscription) Load(context.Context, string) (cursor.Cursor, error) {
	return cursor.Cursor{}, nil
}

// Save implements cursor.Store.
func (s *subscription) Save(ctx context.Context, _ string, c cursor.Cursor) error {
	if s.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	s.saved.Store(c.Position.Offset)
	return nil
}

// A name has one subscription at a time: from the start of Load until it has ended.
func TestNameIsTakenOnce(t *testing.T) {
	var n Names
	reserve := func(when string, wantBefore *Saver, wantFree bool) {
		t.Helper()
		if before, free := n.Reserve("a"); before != wantBefore || free != wantFree {
			t.Errorf("%s: free is %v, before %p; want %v, %p", when, free, before, wantFree, wantBefore)
		}
	}
	first, second := newSubscription("a"), newSubscription("a")
	reserve("at first", nil, true)
	reserve("while the cursor is loaded", nil, false)
	n.Set("a", nil)
	reserve("after a Load that failed", nil, true)
	n.Set("a", first.Saver)
	reserve("in use", nil, false)
	first.over.Store(true)
	reserve("after the end", first.Saver, true)
	reserve("while the cursor is loaded again", nil, false)
	n.Set("a", first.Saver)
	reserve("after another Load that failed", first.Saver, true)
	n.Set("a", second.Saver)
	reserve("in use again", nil, false)
	if before, free := n.Reserve("b"); before != nil || !free {
		t.Error("another name is not free")
	}
}

// The names of subscriptions that have ended are forgotten, unless something is left to save.
func TestEndedNamesAreForgotten(t *testing.T) {
	var n Names
	add := func(name string) *subscription {
		if _, free := n.Reserve(name); !free {
			t.Fatalf("%s is not free", name)
		}
		s := newSubscription(name)
		n.Set(name, s.Saver)
		return s
	}
	open, unprocessed, unsaved := add("open"), add("unprocessed"), add("unsaved")
	unprocessed.over.Store(true)
	unprocessed.unprocessed.Store(true)
	unsaved.over.Store(true)
	unsaved.offset.Store(7)
	n.Reserve("loading")
	for i := range 10_000 {
		add(fmt.Sprint(i)).over.Store(true)
		if len(n.inUse) > 100 {
			t.Fatalf("%d names after %d subscriptions", len(n.inUse), i+1)
		}
	}
	for _, s := range []*subscription{open, unprocessed, unsaved} {
		if n.inUse[s.Name] != s.Saver {
			t.Errorf("%s is forgotten", s.Name)
		}
	}
	if _, used := n.inUse["loading"]; !used {
		t.Error("a name is free while its cursor is loaded")
	}
}

// Finish saves what is not saved. A store that hangs holds it up for a bounded time, and no
// other save.
func TestFinishSaves(t *testing.T) {
	for _, closed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var n Names
			all := make(map[string]*subscription)
			for _, name := range []string{"saved", "unsaved", "hangs"} {
				n.Reserve(name)
				all[name] = newSubscription(name)
				n.Set(name, all[name].Saver)
			}
			n.Reserve("loading")
			all["unsaved"].offset.Store(7)
			all["hangs"].offset.Store(8)
			all["hangs"].hangs = true
			began := time.Now()
			n.Finish(closed)
			if took := time.Since(began); took != SaveTimeout {
				t.Errorf("closed %v: finished after %v", closed, took)
			}
			if got := all["unsaved"].saved.Load(); got != 7 {
				t.Errorf("closed %v: %d is saved, want 7", closed, got)
			}
			time.Sleep(time.Second) // a save that has failed is not tried again at once
			for name, s := range all {
				s.offset.Store(9)
				s.hangs = false
				s.Notice()
				synctest.Wait()
				if saves := s.saved.Load() == 9; saves == closed {
					t.Errorf("closed %v: %s saves after the end: %v", closed, name, saves)
				}
			}
		})
	}
}

// A store that ignores its context does not hold up the end.
func TestFinishIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := newSubscription("a")
		s.Store = stubborn{s, release}
		s.offset.Store(7)
		var n Names
		n.Reserve("a")
		n.Set("a", s.Saver)
		began := time.Now()
		n.Finish(true)
		if took := time.Since(began); took != MaxLastSave {
			t.Errorf("finished after %v", took)
		}
		close(release)
	})
}

// stubborn is a store whose Save ignores its context.
type stubborn struct {
	*subscription
	release chan struct{}
}

// Save implements cursor.Store.
func (s stubborn) Save(context.Context, string, cursor.Cursor) error {
	<-s.release
	return nil
}
