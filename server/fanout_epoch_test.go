package server_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// replaceable is a store whose log can be replaced.
type replaceable struct {
	server.Store

	mu      sync.Mutex
	log     server.Store
	epoch   string
	changed chan struct{}
}

func newReplaceable(epoch string, log server.Store) *replaceable {
	return &replaceable{Store: server.NewMemoryStore(nil), log: log, epoch: epoch, changed: make(chan struct{})}
}

func (s *replaceable) current() (server.Store, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log, s.epoch
}

// lag puts log in the place of what there is, and wakes no reader.
func (s *replaceable) lag(log server.Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = log
}

// replace puts log in the place of what there is.
func (s *replaceable) replace(epoch string, log server.Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log, s.epoch = log, epoch
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *replaceable) Read(ctx context.Context, from uint64, dst []*server.Entry) (int, uint64, error) {
	log, _ := s.current()
	return log.Read(ctx, from, dst)
}

func (s *replaceable) Tag(ctx context.Context, offset uint64) ([]byte, bool, error) {
	log, _ := s.current()
	return log.Tag(ctx, offset)
}

func (s *replaceable) View() server.View {
	log, epoch := s.current()
	v := log.View()
	v.Epoch, v.NoRewind = epoch, false
	return v
}

func (s *replaceable) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// logOf is a log of topic t with the ids given.
func logOf(t *testing.T, keep server.Retention, ids ...uint64) *server.MemoryStore {
	t.Helper()
	s := memoryStore(keep)
	for _, id := range ids {
		if _, err := s.Commit(context.Background(), &server.Change{Entries: []server.Entry{{ID: idOf(id), Topic: "t"}}}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// A new epoch gives each subscription a reset and all that the new log holds, whether it was
// at the end, had no credit, or read the log.
func TestNewEpochAndFeeds(t *testing.T) {
	for _, limit := range []int{0, 1000} {
		both(t, func(t *testing.T, enc native.Encoding) {
			store := newReplaceable("e1", logOf(t, server.Retention{}, 1, 2, 3, 4, 5))
			r := newRig(t, &server.Options{Store: store})
			r.srv.LimitFeeds(limit, 1<<20)
			c := r.live(enc, 100, "t", "none")
			c.send(sub(3, "*", native.FromFirst, 1)) // it is behind, without credit
			c.next(native.TypeSubOK)
			c.wantMsg(3, 0, 1)
			synctest.Wait()
			grow, began := []uint64{11, 12}, time.Now()
			store.replace("e2", logOf(t, server.Retention{}, grow...))
			c.send(credit(3, 100, 1<<20))
			position := map[uint64]uint64{}
			for resets, messages := 0, 0; resets < 3 || messages < 4; {
				switch f, err := c.read(); {
				case err != nil:
					t.Fatal(err)
				case f.Type == native.TypeReset:
					resets++
					position[f.Reset.Ch] = f.Reset.O
					if f.Reset.Why != native.ResetEpoch || f.Reset.Epoch != "e2" || f.Reset.O != 0 {
						t.Fatalf("reset %+v", f.Reset)
					}
				case f.Type == native.TypeMsg:
					p, reset := position[f.Msg.Ch]
					if !reset && f.Msg.Ch == 3 && messages == 0 {
						continue // of the old log: the credit may come first
					}
					if messages++; f.Msg.P != p || f.Msg.S != p+1 || f.Msg.ID != idOf(10+f.Msg.S) {
						t.Fatalf("message %+v behind %d", f.Msg, p)
					}
					position[f.Msg.Ch] = f.Msg.S
				}
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("the resets came after %v, want at once", took)
			}
			store.replace("e2", logOf(t, server.Retention{}, append(grow, 13)...))
			for range 2 {
				if m := c.next(native.TypeMsg).Msg; m.S != 3 || m.P != 2 {
					t.Fatalf("message %d behind %d", m.S, m.P)
				}
			}
			c.quiet()
		})
	}
}

// A new epoch wakes the connections at once.
func TestNewEpochWakes(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		store := newReplaceable("e1", logOf(t, server.Retention{}, 1, 2))
		r := newRig(t, &server.Options{Store: store})
		c := r.live(enc, 9, "t")
		c.quiet()
		began := time.Now()
		store.replace("e2", logOf(t, server.Retention{}, 1, 2))
		c.next(native.TypeReset)
		c.wantMsg(1, 0, 1)
		if took := time.Since(began); took != 0 {
			t.Errorf("the reset came after %v, want at once", took)
		}
	})
}

// A log that is shorter than it was has been rewound, also if nothing of it is left to compare.
func TestShorterLogWithoutEntries(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		log := logOf(t, server.Retention{Age: time.Second}, 1, 2, 3)
		time.Sleep(2 * time.Second)
		store := newReplaceable("e", log)
		r := newRig(t, &server.Options{Store: store})
		c := r.live(enc, 9, "t")
		c.quiet()
		store.replace("e", logOf(t, server.Retention{}, 1))
		c.wantClose(native.CloseBackendUnavailable)
	})
}

// shortStore reads at most a few entries at a time, as a store does that reads in blocks.
type shortStore struct {
	server.Store
	most int
}

func (s *shortStore) Read(ctx context.Context, from uint64, dst []*server.Entry) (int, uint64, error) {
	return s.Store.Read(ctx, from, dst[:min(len(dst), s.most)])
}

// A read may return less than the log has: what follows is read at once, also behind an entry
// that the follower has already.
func TestShortReads(t *testing.T) {
	for most := 1; most <= 3; most++ {
		both(t, func(t *testing.T, enc native.Encoding) {
			log := newReplaceable("e", logOf(t, server.Retention{}, 1, 2, 3, 4, 5))
			r := newRig(t, &server.Options{Store: &shortStore{log, most}})
			c := r.live(enc, 99, "t")
			ids := []uint64{1, 2, 3, 4, 5}
			for _, n := range []uint64{1, 5, 2} {
				before := uint64(len(ids))
				for i := range n {
					ids = append(ids, before+i+1)
				}
				log.replace("e", logOf(t, server.Retention{}, ids...))
				for i := range n {
					c.wantMsg(1, before+i, before+i+1)
				}
				c.quiet()
			}
			log.replace("e2", logOf(t, server.Retention{}, ids[:3]...))
			if f := c.next(native.TypeReset).Reset; f.Epoch != "e2" {
				t.Fatalf("reset %+v", f)
			}
			for i := range uint64(3) {
				c.wantMsg(1, i, i+1)
			}
			synctest.Wait()
			log.replace("e2", logOf(t, server.Retention{}, ids[:6]...))
			for i := range uint64(3) {
				c.wantMsg(1, 3+i, 4+i)
			}
		})
	}
}
