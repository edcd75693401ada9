package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

// saves is a store in memory that counts, and that a test can break.
type saves struct {
	cursor.Store
	mu      sync.Mutex
	offsets []uint64
	before  func(ctx context.Context) error // of each save; nil: nothing
}

func newSaves() *saves { return &saves{Store: cursor.Memory()} }

func (s *saves) Save(ctx context.Context, name string, c cursor.Cursor) error {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	if before != nil {
		if err := before(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.offsets = append(s.offsets, c.Position.Offset)
	s.mu.Unlock()
	return s.Store.Save(ctx, name, c)
}

// says makes every save from now on call before.
func (s *saves) says(before func(ctx context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}

// saved are the offsets of the saves so far.
func (s *saves) saved() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Trim(fmt.Sprint(s.offsets), "[]")
}

// offset is that of the cursor that a restart would find.
func (s *saves) offset(t testing.TB) uint64 {
	t.Helper()
	c, err := s.Load(t.Context(), "name")
	if err != nil {
		t.Fatal(err)
	}
	return c.Position.Offset
}

// consumers process n messages each in their way.
var consumers = map[string]struct {
	options limpet.SubscribeOptions
	take    func(t *testing.T, s *limpet.Subscription, n int) string
}{
	"Messages": {take: func(t *testing.T, s *limpet.Subscription, n int) string { return payloads(process(t, s, n)) }},
	"Batches":  {take: takeBatches},
	"C": {take: func(_ *testing.T, s *limpet.Subscription, n int) string {
		var ms []limpet.Message
		for range n {
			ms = append(ms, <-s.C())
		}
		ms[n-1].Ack()
		return payloads(ms)
	}},
	"ManualAck": {options: limpet.SubscribeOptions{ManualAck: true}, take: func(t *testing.T, s *limpet.Subscription, n int) string {
		ms := collect(t, s, n)
		for _, i := range rand.Perm(n) {
			ms[i].Ack()
		}
		return payloads(ms)
	}},
	"Latest": {options: limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.Latest,
		Key: func(m limpet.Message) string { return m.ID.String() }}}, take: func(t *testing.T, s *limpet.Subscription, n int) string {
		return payloads(process(t, s, n))
	}},
}

// process takes n messages, each in a loop body that ends.
func process(t *testing.T, s *limpet.Subscription, n int) (ms []limpet.Message) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for m, err := range s.Messages(ctx) {
		if err != nil {
			break
		}
		if ms = append(ms, m); len(ms) == n {
			cancel()
		}
	}
	return ms
}

func takeBatches(t *testing.T, s *limpet.Subscription, n int) string {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ms []limpet.Message
	for batch, err := range s.Batches(ctx) {
		if err != nil {
			break
		}
		if ms = append(ms, batch...); len(ms) >= n {
			cancel()
		}
	}
	return payloads(ms)
}

// A restart goes on after the last message that was processed, whichever way it was
// consumed. Nothing of it waits for the end of the client.
func TestCursorResumesExactly(t *testing.T) {
	for name, row := range consumers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				store := newSaves()
				next := 1
				for round := range 4 {
					o := row.options
					o.Cursor, o.Name = store, "name"
					c := dial(t, srv, nil)
					s := subscribeLive(t, c, "q", &o)
					publish(t, srv, "q", numbers(round*10+1, round*10+10)...)
					synctest.Wait()
					n := 5
					if name == "Batches" {
						n = int(s.Stats().Waiting)
					}
					if got, want := row.take(t, s, n), strings.Join(numbers(next, next+n-1), " "); got != want {
						t.Fatalf("got %s, want %s", got, want)
					}
					synctest.Wait()
					if want := s.Committed().Offset; want == 0 || store.offset(t) != want {
						t.Errorf("saved %d, committed %d", store.offset(t), want)
					}
					closeAndWait(t, c)
					next += n
				}
			})
		})
	}
}

// Until a position is saved for it, a name stands for where its stream began: what came
// before the first save is not skipped.
func TestCursorBeginsWithTheSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		store := newSaves()
		o := &limpet.SubscribeOptions{Cursor: store, Name: "name"}
		publish(t, srv, "q", "before")
		c := dial(t, srv, nil)
		subscribeLive(t, c, "q", o)
		synctest.Wait()
		if got := store.saved(); got != "1" {
			t.Errorf("saved %q before the first message", got)
		}
		publish(t, srv, "q", "1", "2")
		closeAndWait(t, c) // as if it had crashed: nothing was processed
		publish(t, srv, "q", "3")
		s := subscribeLive(t, dial(t, srv, nil), "q", o)
		if got := payloads(process(t, s, 3)); got != "1 2 3" {
			t.Errorf("got %s", got)
		}
	})
}

// From counts only while the store has nothing.
func TestCursorComesBeforeFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		publish(t, srv, "q", numbers(1, 5)...)
		o := &limpet.SubscribeOptions{From: limpet.FromFirst, Cursor: cursor.Memory(), Name: "name"}
		for _, want := range []string{"1 2", "3 4"} {
			c := dial(t, srv, nil)
			if got := payloads(process(t, subscribeLive(t, c, "q", o), 2)); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			closeAndWait(t, c)
		}
	})
}

// A cursor of a log that is gone gives a Reset.
func TestCursorOfAnotherEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		store := newSaves()
		o := &limpet.SubscribeOptions{Cursor: store, Name: "name"}
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "q", o)
		publish(t, srv, "q", numbers(1, 5)...)
		process(t, s, 5)
		closeAndWait(t, c)
		srv.Reboot(server.NewMemoryLog(server.Retention{}))
		publish(t, srv, "q", "new")
		c = dial(t, srv, nil)
		s = subscribeLive(t, c, "q", o)
		publish(t, srv, "q", "newer")
		if got := payloads(process(t, s, 3)); got != "reset new newer" {
			t.Errorf("got %s", got)
		}
		closeAndWait(t, c)
		if got := store.offset(t); got != 2 {
			t.Errorf("then saved %d", got)
		}
	})
}

// cursor.Every saves once per n messages, or d after the first of them, and at the end.
func TestCursorPace(t *testing.T) {
	for _, row := range []struct {
		name string
		n    int
		d    time.Duration
		want string // 12 messages, one a second
		end  string
	}{
		{"each", 1, 0, "0 1 2 3 4 5 6 7 8 9 10 11 12", "0 1 2 3 4 5 6 7 8 9 10 11 12"},
		{"by count", 5, 0, "0 5 10", "0 5 10 12"},
		{"by time", 0, 3500 * time.Millisecond, "0 4 8 12", "0 4 8 12"},
		{"by both", 3, time.Minute, "0 3 6 9 12", "0 3 6 9 12"},
		{"by none before the end", 100, time.Hour, "0", "0 12"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				store := newSaves()
				c := dial(t, srv, nil)
				s := subscribeLive(t, c, "q", &limpet.SubscribeOptions{Cursor: cursor.Every(store, row.n, row.d), Name: "name"})
				synctest.Wait()
				for _, p := range numbers(1, 12) {
					publish(t, srv, "q", p)
					process(t, s, 1)
					time.Sleep(time.Second)
				}
				synctest.Wait()
				if got := store.saved(); got != row.want {
					t.Errorf("saved %s, want %s", got, row.want)
				}
				closeAndWait(t, c)
				if got := store.saved(); got != row.end {
					t.Errorf("at the end %s, want %s", got, row.end)
				}
			})
		})
	}
}

// What a pace holds back is saved when the subscription is closed.
func TestCursorPaceEndsWithTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		store := newSaves()
		s := subscribeLive(t, dial(t, srv, nil), "q", &limpet.SubscribeOptions{Cursor: cursor.Every(store, 1000, time.Hour), Name: "name"})
		synctest.Wait() // the beginning is saved
		publish(t, srv, "q", numbers(1, 3)...)
		process(t, s, 3)
		synctest.Wait()
		if got := store.offset(t); got != 0 {
			t.Errorf("saved %d before the end", got)
		}
		s.Close()
		synctest.Wait()
		if got := store.offset(t); got != 3 {
			t.Errorf("saved %d", got)
		}
	})
}

// One save runs at a time, and the newest position counts: a slow store costs no more
// saves than it has time for, and delays nothing.
func TestCursorSavesCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		store := newSaves()
		running := 0
		store.says(func(context.Context) error {
			if running++; running > 1 {
				t.Error("two saves at once")
			}
			time.Sleep(time.Second)
			running--
			return nil
		})
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "q", &limpet.SubscribeOptions{Cursor: store, Name: "name"})
		time.Sleep(2 * time.Second)
		publish(t, srv, "q", numbers(1, 100)...)
		began := time.Now()
		process(t, s, 100)
		if took := time.Since(began); took > 0 {
			t.Errorf("messages waited %v for the store", took)
		}
		c.Shutdown(t.Context())
		if got := store.saved(); !strings.HasSuffix(got, " 100") || len(strings.Fields(got)) > 3 {
			t.Errorf("saved %s", got)
		}
	})
}

// A name belongs to one subscription at a time. A closed one hands it over: its position
// first, and nothing after it.
func TestCursorNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		store := newSaves()
		c := dial(t, srv, nil)
		o := &limpet.SubscribeOptions{Cursor: store, Name: "name"}
		s := subscribeLive(t, c, "q", o)
		_, err := c.Subscribe(t.Context(), "other", o)
		if !errors.Is(err, limpet.ErrDuplicate) || !strings.Contains(fmt.Sprint(err), "SubscribeOptions.Name") {
			t.Errorf("the same name: %v", err)
		}
		synctest.Wait()
		store.says(func(context.Context) error { time.Sleep(time.Second); return nil })
		publish(t, srv, "q", numbers(1, 4)...)
		var late limpet.Message
		for m := range s.Messages(t.Context()) {
			if late = m; string(m.Payload) == "3" {
				break
			}
			synctest.Wait() // the store saves the position of 1 when 2 is committed
		}
		s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.Subscribe(ctx, "q", o); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while the store works: %v", err)
		}
		s = subscribeLive(t, c, "q", o)
		late.Ack() // too late: the next subscription gets it again
		time.Sleep(time.Minute)
		if got := store.saved(); got != "0 1 2" {
			t.Errorf("saved %s after an acknowledgement that came too late", got)
		}
		if got := payloads(process(t, s, 2)); got != "3 4" {
			t.Errorf("got %s", got)
		}
		time.Sleep(time.Minute)
		if got := store.saved(); got != "0 1 2 4" && got != "0 1 2 3 4" {
			t.Errorf("saved %s", got)
		}
	})
}

// Closed subscriptions leave nothing behind: a client may use any number of names.
func TestCursorNamesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		store := cursor.Memory()
		c := dial(t, srv, nil)
		var collected atomic.Int32
		const n = 200
		for i := range n {
			s := subscribeLive(t, c, "q", &limpet.SubscribeOptions{Cursor: store, Name: fmt.Sprint(i)})
			runtime.AddCleanup(s, func(struct{}) { collected.Add(1) }, struct{}{})
			s.Close()
			synctest.Wait()
		}
		for range 5 {
			runtime.GC()
			time.Sleep(time.Second)
		}
		if got := collected.Load(); got < n-100 {
			t.Errorf("%d of %d subscriptions were collected", got, n)
		}
	})
}
