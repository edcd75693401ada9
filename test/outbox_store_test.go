package test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/server"
)

// faultyStore is an outbox whose commits can take time, fail and hang, and which can crash: what
// was Lazy is lost then.
type faultyStore struct {
	mu      sync.Mutex
	now     outbox.Store                 // with all changes
	durable outbox.Store                 // with those that a crash does not lose
	lazy    []*outbox.Change             // that durable lacks
	before  func(c *outbox.Change) error // called for each commit, without a lock
	commits int
	syncs   int // commits that are not Lazy
	crashed bool
}

func newFaultyStore() *faultyStore {
	return &faultyStore{now: outbox.Memory(), durable: outbox.Memory()}
}

func (s *faultyStore) Load(ctx context.Context) (*outbox.Content, error) { return s.now.Load(ctx) }

func (s *faultyStore) Commit(ctx context.Context, c *outbox.Change) error {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	if before != nil {
		if err := before(c); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.crashed {
		return outbox.ErrClosed
	}
	s.commits++
	if err := s.now.Commit(ctx, c); err != nil {
		return err
	}
	if s.lazy = append(s.lazy, cloneChange(c)); c.Lazy {
		return nil
	}
	s.syncs++
	return s.sync()
}

// sync makes everything durable; mu is held.
func (s *faultyStore) sync() error {
	for _, c := range s.lazy {
		if err := s.durable.Commit(context.Background(), c); err != nil {
			return err
		}
	}
	s.lazy = nil
	return nil
}

// cloneChange is what a store may keep of c.
func cloneChange(c *outbox.Change) *outbox.Change {
	d := *c
	d.Messages = append([]outbox.Message(nil), c.Messages...)
	for i := range d.Messages {
		d.Messages[i].Payload = append([]byte(nil), d.Messages[i].Payload...)
	}
	return &d
}

// fault makes f be called before each commit; nil: nothing is.
func (s *faultyStore) fault(f func(c *outbox.Change) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

// crash is the end of the process: nothing more is kept. It returns the store that the next one
// finds. lost says that what was Lazy is lost.
func (s *faultyStore) crash(lost bool) *faultyStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !lost {
		if err := s.sync(); err != nil {
			panic(err)
		}
	}
	s.crashed = true
	next := &faultyStore{now: outbox.Memory(), durable: outbox.Memory()}
	c, err := s.durable.Load(context.Background())
	if err != nil {
		panic(err)
	}
	for _, to := range []outbox.Store{next.now, next.durable} {
		if err := fillStore(to, c); err != nil {
			panic(err)
		}
	}
	return next
}

// fillStore makes an empty store hold c.
func fillStore(to outbox.Store, c *outbox.Content) error {
	const atOnce = 256 // memory that a store then keeps
	for lo := uint64(1); lo <= c.Through; lo += atOnce {
		hi := min(c.Through, lo+atOnce-1)
		change := &outbox.Change{Settled: []outbox.Range{{Lo: lo, Hi: hi}}}
		for seq := lo; seq <= hi; seq++ {
			m := outbox.Message{Seq: seq}
			if seq == c.Through {
				m.ID = c.Tag
			}
			change.Messages = append(change.Messages, m)
		}
		if err := to.Commit(context.Background(), change); err != nil {
			return err
		}
	}
	change := &outbox.Change{State: c.State}
	for _, m := range c.Messages {
		one := []outbox.Range{{Lo: m.Seq, Hi: m.Seq}}
		switch {
		case m.Settled:
			change.Settled = append(change.Settled, one...)
		case m.Void:
			change.Void = append(change.Void, one...)
		}
		change.Messages = append(change.Messages, m)
	}
	return to.Commit(context.Background(), change)
}

func (s *faultyStore) content(t testing.TB) *outbox.Content {
	t.Helper()
	c, err := s.now.Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *faultyStore) counts() (commits, syncs int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commits, s.syncs
}

// start returns a client of srv on store, which need not be ready.
func start(t testing.TB, srv *limpettest.Server, store outbox.Store, o limpet.Options) *limpet.Client {
	t.Helper()
	o.HTTPClient, o.Outbox = srv.HTTPClient(), store
	c, err := limpet.New(srv.URL(), options(&o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// publishAll publishes each payload to topic.
func publishAll(t testing.TB, c *limpet.Client, topic string, payloads ...string) (rs []*limpet.Receipt) {
	t.Helper()
	for _, p := range payloads {
		r, err := c.Publish(context.Background(), topic, []byte(p), nil)
		if err != nil {
			t.Fatal(err)
		}
		rs = append(rs, r)
	}
	return rs
}

// pendingOf returns the payloads-free view of Receipts: how many there are.
func pendingOf(c *limpet.Client) (n int) {
	for range c.Receipts() {
		n++
	}
	return n
}

// flushed waits until every message of c has its outcome.
func flushed(t testing.TB, c *limpet.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := c.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// logged returns the payloads in the log of srv.
func logged(t testing.TB, srv *limpettest.Server) (payloads []string) {
	t.Helper()
	buf := make([]*server.Entry, 256)
	for from := uint64(1); ; {
		n, _, err := srv.Log.Read(from, buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return payloads
		}
		for _, e := range buf[:n] {
			payloads = append(payloads, string(e.Payload))
		}
		from = buf[n-1].Offset + 1
	}
}

var errDisk = errors.New("no space left on device")

// failing is a fault that fails every commit of messages.
func failing(c *outbox.Change) error {
	if len(c.Messages) > 0 {
		return fmt.Errorf("write: %w", errDisk)
	}
	return nil
}
