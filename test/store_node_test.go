package test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/limpet-go/limpet/server"
)

// sharedStore is a store that servers share, over a network that fails.
type sharedStore struct {
	*server.MemoryStore
	t *testing.T

	mu      sync.Mutex
	rnd     *rand.Rand
	calm    bool                // no faults any more
	records map[string][][]byte // all that were committed, by session
	late    sync.WaitGroup      // Commits that are done after their answer
	faults  map[string]int      // that took effect
}

func newSharedStore(t *testing.T, seed uint64) *sharedStore {
	return &sharedStore{
		MemoryStore: server.NewMemoryStore(nil), t: t, rnd: rand.New(rand.NewPCG(seed, 3)),
		records: map[string][][]byte{}, faults: map[string]int{},
	}
}

// draw returns one of n numbers, and when to go on.
func (c *sharedStore) draw(n int) (int, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calm {
		return n - 1, 0
	}
	return c.rnd.IntN(n), time.Duration(c.rnd.IntN(200)) * time.Millisecond
}

// count counts a fault.
func (c *sharedStore) count(fault string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[fault]++
}

// do commits.
func (c *sharedStore) do(change *server.Change) (server.Committed, error) {
	copied := *change
	copied.Entries = slices.Clone(change.Entries)
	done, err := c.MemoryStore.Commit(context.Background(), &copied)
	if err == nil && change.Session != "" && change.Record != nil {
		c.mu.Lock()
		c.records[change.Session] = append(c.records[change.Session], slices.Clone(change.Record))
		c.mu.Unlock()
	}
	return done, err
}

// settle ends the faults.
func (c *sharedStore) settle() {
	c.mu.Lock()
	c.calm = true
	c.mu.Unlock()
	c.late.Wait()
}

// purge removes the records of all sessions, or makes older ones of them.
func (c *sharedStore) purge(older bool) {
	c.mu.Lock()
	all := map[string][]byte{}
	for sid, records := range c.records {
		all[sid] = nil
		if older {
			all[sid] = records[c.rnd.IntN(len(records))]
		}
	}
	c.mu.Unlock()
	for sid, record := range all {
		_, version, _ := c.MemoryStore.Load(context.Background(), sid)
		if version != 0 {
			_, _ = c.MemoryStore.Commit(context.Background(), &server.Change{Session: sid, Version: version, Record: record, TTL: time.Hour})
		}
	}
}

var errUnknown = errors.New("no answer from the store")

// storeNode is the store as one server has it. What it reads lags behind.
type storeNode struct {
	*sharedStore
	stop chan struct{}

	mu      sync.Mutex
	head    uint64
	changed chan struct{}
	synced  time.Time
}

func newStoreNode(c *sharedStore) *storeNode {
	n := &storeNode{sharedStore: c, changed: make(chan struct{}), stop: make(chan struct{})}
	go func() {
		tick := time.NewTicker(70 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				n.see()
			case <-n.stop:
				return
			}
		}
	}()
	return n
}

// see reads what is new.
func (n *storeNode) see() {
	head := n.MemoryStore.View().Head
	n.mu.Lock()
	defer n.mu.Unlock()
	if head > n.head {
		n.head = head
		close(n.changed)
		n.changed = make(chan struct{})
	}
}

// Commit meets a fault now and then.
func (n *storeNode) Commit(ctx context.Context, change *server.Change) (server.Committed, error) {
	kind, wait := n.draw(16)
	copied := *change
	copied.Record, copied.Entries = slices.Clone(change.Record), slices.Clone(change.Entries)
	change = &copied
	switch kind {
	case 0, 1: // late
		<-time.After(wait)
		return n.do(change)
	case 2: // lost before
		n.count("lost before")
		<-time.After(wait)
		return server.Committed{}, errUnknown
	case 3: // lost after
		_, err := n.do(change)
		if err == nil {
			n.count("lost after")
		}
		<-time.After(wait)
		return server.Committed{}, errUnknown
	case 4: // done, if ever, after the answer
		n.late.Go(func() {
			<-time.After(wait)
			if _, err := n.do(change); err == nil {
				n.count("late")
			}
		})
		return server.Committed{}, errUnknown
	case 5: // twice
		done, err := n.do(change)
		if err == nil {
			n.count("twice")
			if _, again := n.do(change); again == nil && change.Record != nil {
				n.t.Error("the same Commit was done twice")
			}
		}
		return done, err
	case 6:
		n.count("conflict")
		return server.Committed{}, server.ErrConflict
	}
	return n.do(change)
}

// Load may return the record before the newest one, but not after Sync.
func (n *storeNode) Load(ctx context.Context, sid string) ([]byte, uint64, error) {
	kind, wait := n.draw(8)
	<-time.After(wait / 10)
	data, version, err := n.MemoryStore.Load(ctx, sid)
	n.mu.Lock()
	fresh := time.Since(n.synced) < time.Second
	n.mu.Unlock()
	n.sharedStore.mu.Lock()
	all := n.records[sid]
	n.sharedStore.mu.Unlock()
	if kind < 4 && !fresh && len(all) > 1 && version != 0 {
		n.count("stale")
		return all[len(all)-2], version - 1, nil
	}
	return data, version, err
}

func (n *storeNode) Sync(ctx context.Context) error {
	_, wait := n.draw(2)
	<-time.After(wait / 10)
	n.see()
	n.mu.Lock()
	n.synced = time.Now()
	n.mu.Unlock()
	return nil
}

func (n *storeNode) View() server.View {
	v := n.MemoryStore.View()
	n.mu.Lock()
	v.Head, v.NoRewind = n.head, false
	n.mu.Unlock()
	return v
}

func (n *storeNode) Read(ctx context.Context, from uint64, dst []*server.Entry) (int, uint64, error) {
	head := n.View().Head
	read, first, err := n.MemoryStore.Read(ctx, from, dst)
	for read > 0 && dst[read-1].Offset > head {
		read--
	}
	return read, first, err
}

func (n *storeNode) Tag(ctx context.Context, offset uint64) ([]byte, bool, error) {
	if kind, _ := n.draw(3); kind == 0 {
		n.count("tag")
		return nil, false, errUnknown
	}
	if offset > n.View().Head {
		return nil, false, nil
	}
	return n.MemoryStore.Tag(ctx, offset)
}

func (n *storeNode) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}
