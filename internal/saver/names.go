package saver

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// Names are the names that the subscriptions of one client save with. The zero value has
// none. Its lock is a leaf.
type Names struct {
	mu         sync.Mutex
	inUse      map[string]*Saver // nil while the cursor is loaded
	sweepAbove int               // that many names, they are swept
}

// Reserve takes name. If a subscription had it that has ended, before saves for that one.
// It reports false if the name is not free.
func (n *Names) Reserve(name string) (before *Saver, free bool) {
	n.sweep()
	n.mu.Lock()
	before, used := n.inUse[name]
	n.mu.Unlock()
	if used && (before == nil || !before.Over()) {
		return nil, false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if now, still := n.inUse[name]; now != before || still != used {
		return nil, false // another call was faster
	}
	if n.inUse == nil {
		n.inUse = make(map[string]*Saver)
	}
	n.inUse[name] = nil
	return before, true
}

// sweep forgets the subscriptions that have ended and have nothing left to save, once
// there are many names.
func (n *Names) sweep() {
	n.mu.Lock()
	var all map[string]*Saver
	if len(n.inUse) > n.sweepAbove {
		all = maps.Clone(n.inUse)
	}
	n.mu.Unlock()
	if all == nil {
		return
	}
	maps.DeleteFunc(all, func(_ string, s *Saver) bool { return s == nil || !s.Over() || !s.Processed() || !s.Settled() })
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, s := range all {
		if n.inUse[name] == s {
			delete(n.inUse, name)
		}
	}
	n.sweepAbove = 64 + 2*len(n.inUse)
}

// Set makes s the one that saves with name, or frees the name if s is nil.
func (n *Names) Set(name string, s *Saver) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s == nil {
		delete(n.inUse, name)
		return
	}
	n.inUse[name] = s
}

// Finish saves what is not saved yet, within MaxLastSave. With closed, nothing is saved
// after it.
func (n *Names) Finish(closed bool) {
	n.mu.Lock()
	savers := slices.Collect(maps.Values(n.inUse))
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), MaxLastSave)
	defer cancel()
	var all sync.WaitGroup
	for _, s := range savers {
		if s != nil && (closed || !s.Settled()) {
			all.Go(func() {
				if closed {
					s.Retire(ctx)
				} else {
					s.Flush(ctx)
				}
			})
		}
	}
	all.Wait()
}
