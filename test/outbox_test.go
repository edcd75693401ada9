package test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// A process that has crashed before it had a connection has lost nothing: the next one sends what
// was published, in order, before what it publishes itself.
func TestOutboxSurvivesACrash(t *testing.T) {
	for _, lost := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			srv.Stop()
			store := newFaultyStore()
			c := start(t, srv, store, limpet.Options{})
			first := publishAll(t, c, "a", numbers(1, 5)...)
			next := store.crash(lost)
			closeAndWait(t, c)
			for _, r := range first {
				if ack, err := r.Wait(context.Background()); ack.Outcome != limpet.Stored || !errors.Is(err, limpet.ErrStored) || limpet.SafeToRetry(err) {
					t.Errorf("after the crash: %v, %v", ack.Outcome, err)
				}
			}
			again := start(t, srv, next, limpet.Options{})
			kept := slices.Collect(again.Receipts())
			srv.Start()
			publishAll(t, again, "a", numbers(6, 7)...)
			flushed(t, again)
			if got := strings.Join(logged(t, srv), " "); got != "1 2 3 4 5 6 7" {
				t.Errorf("the server has %s", got)
			}
			for i, r := range kept {
				if ack, err := r.Wait(context.Background()); ack.ID != first[i].ID() || ack.Outcome != limpet.Acked || err != nil {
					t.Errorf("message %d: %v, %v", i, ack, err)
				}
			}
			if st := again.Stats(); len(kept) != 5 || st.Published != 7 || st.Acked != 7 || st.Window != 0 {
				t.Errorf("%d receipts, %+v", len(kept), st)
			}
			next.settled(t)
		})
	}
}

// settled fails unless every message has its outcome.
func (s *faultyStore) settled(t testing.TB) {
	t.Helper()
	time.Sleep(time.Second) // what may be lost is kept a little later
	for _, m := range s.content(t).Messages {
		if !m.Settled && !m.Void { // the server has still to learn of a void one
			t.Errorf("the outbox holds message %d", m.Seq)
		}
	}
}

// A client whose connection broke before the acks came, and whose process crashed, resumes the
// session: nothing is sent again that the server has.
func TestOutboxResumesTheSession(t *testing.T) {
	for _, lost := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			store := newFaultyStore()
			c := start(t, srv, store, limpet.Options{})
			publishAll(t, c, "a", numbers(1, 3)...)
			flushed(t, c)
			session := srv.Server.Stats().Sessions
			srv.Network.Strike(limpettest.BlackHole(limpettest.Down)) // acks are lost
			publishAll(t, c, "a", numbers(4, 6)...)
			time.Sleep(time.Second)
			next := store.crash(lost)
			srv.Network.ResetAll()
			closeAndWait(t, c)
			again := start(t, srv, next, limpet.Options{})
			publishAll(t, again, "a", "7")
			flushed(t, again)
			if got := strings.Join(logged(t, srv), " "); got != "1 2 3 4 5 6 7" {
				t.Errorf("the server has %s", got)
			}
			st := again.Stats()
			if now := srv.Server.Stats().Sessions; st.Resumes != 1 || st.Resent != 0 || now != session {
				t.Errorf("%d of %d connections resumed, %d messages sent again, %d sessions", st.Resumes, st.Connections, st.Resent, now)
			}
			next.settled(t)
		})
	}
}

// Many publishers share the commits, a batch is one, and Publish does not return before its own.
func TestOutboxGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Stop()
		store := newFaultyStore()
		c := start(t, srv, store, limpet.Options{})
		store.fault(func(*outbox.Change) error {
			time.Sleep(10 * time.Millisecond)
			return nil
		})
		commits, _ := store.counts()
		began := time.Now()
		var returned atomic.Int32
		for range 100 {
			go func() {
				if _, err := c.Publish(context.Background(), "a", []byte("x"), nil); err != nil {
					t.Error(err)
				}
				returned.Add(1)
			}()
		}
		time.Sleep(9 * time.Millisecond)
		if n := returned.Load(); n > 0 {
			t.Errorf("%d calls returned before the first commit", n)
		}
		time.Sleep(20 * time.Millisecond)
		after, _ := store.counts()
		if n := returned.Load(); n != 100 || after-commits > 2 {
			t.Errorf("after %v %d calls have returned, after %d commits", time.Since(began), n, after-commits)
		}
		batch := make([]limpet.Outgoing, 50)
		for i := range batch {
			batch[i].Topic = "a"
		}
		if _, err := c.PublishBatch(context.Background(), batch); err != nil {
			t.Error(err)
		}
		if now, _ := store.counts(); now != after+1 {
			t.Errorf("a batch took %d commits", now-after)
		}
	})
}

// Before a message is in a commit, ctx takes it back; then Publish returns what the commit does.
func TestOutboxContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Stop()
		store := newFaultyStore()
		c := start(t, srv, store, limpet.Options{})
		hang := make(chan struct{})
		store.fault(func(*outbox.Change) error {
			<-hang
			return nil
		})
		ctx, cancel := context.WithCancel(context.Background())
		results := make(chan error, 2)
		go func() {
			_, err := c.Publish(ctx, "a", []byte("in the commit"), nil)
			results <- err
		}()
		synctest.Wait()
		go func() {
			_, err := c.Publish(ctx, "a", []byte("behind it"), nil)
			results <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-results; !errors.Is(err, context.Canceled) || !limpet.SafeToRetry(err) {
			t.Errorf("behind the commit: %v", err)
		}
		synctest.Wait()
		if len(results) > 0 {
			t.Errorf("a call returned before the commit that has its message: %v", <-results)
		}
		close(hang)
		if err := <-results; err != nil {
			t.Errorf("in the commit: %v", err)
		}
		if n, st := pendingOf(c), c.Stats(); n != 1 || st.Window != 1 || st.Published != 1 {
			t.Errorf("%d receipts, %+v", n, st)
		}
	})
}

// After a commit that failed nothing of it is sent, and its numbers are used again.
func TestOutboxCommitFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		store := newFaultyStore()
		var reported []limpet.CallbackFailed
		c := start(t, srv, store, limpet.Options{Observer: observer(func(e limpet.Event) {
			if f, ok := e.(limpet.CallbackFailed); ok {
				reported = append(reported, f)
			}
		})})
		publishAll(t, c, "a", "1")
		store.fault(failing)
		for range 3 {
			_, err := c.Publish(context.Background(), "a", []byte("lost"), nil)
			var e *limpet.Error
			if !errors.Is(err, limpet.ErrOutbox) || !errors.Is(err, errDisk) || !errors.As(err, &e) || e.Field != "Options.Outbox" || !limpet.SafeToRetry(err) {
				t.Fatalf("with a full disk: %v", err)
			}
		}
		store.fault(nil)
		publishAll(t, c, "a", "2")
		flushed(t, c)
		if got := strings.Join(logged(t, srv), " "); got != "1 2" {
			t.Errorf("the server has %s", got)
		}
		synctest.Wait()
		if st := c.Stats(); len(reported) != 1 || st.Window != 0 || st.Published != 2 {
			t.Errorf("%d reports, %+v", len(reported), st)
		}
	})
}

// If it is not known whether a change was kept, the client ends: only a restart can tell.
func TestOutboxUncertain(t *testing.T) {
	for name, fault := range map[string]func(*outbox.Change) error{
		"uncertain": func(*outbox.Change) error { return fmt.Errorf("sync: %w", outbox.ErrUncertain) },
		"panic":     func(*outbox.Change) error { panic("a defect") },
		"closed":    func(*outbox.Change) error { return outbox.ErrClosed },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				srv.Stop()
				store := newFaultyStore()
				c := start(t, srv, store, limpet.Options{})
				kept := publishAll(t, c, "a", "1")
				store.fault(fault)
				_, err := c.Publish(context.Background(), "a", []byte("2"), nil)
				if !errors.Is(err, limpet.ErrOutbox) || limpet.SafeToRetry(err) != (name == "closed") {
					t.Errorf("Publish: %v", err)
				}
				<-c.Done()
				var p *limpet.PermanentError
				if !errors.As(c.Err(), &p) || !errors.Is(p, limpet.ErrOutbox) || p.Class != limpet.ClassLocal {
					t.Errorf("the client ended with %v", c.Err())
				}
				if o := kept[0].Outcome(); o != limpet.Stored {
					t.Errorf("the message that was kept: %v", o)
				}
			})
		})
	}
}

// A store that hangs holds up those who publish, and neither Close nor, for long, the end.
func TestOutboxHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		store := newFaultyStore()
		c := start(t, srv, store, limpet.Options{})
		publishAll(t, c, "a", "1")
		flushed(t, c)
		hang := make(chan struct{})
		defer close(hang)
		store.fault(func(*outbox.Change) error {
			<-hang
			return nil
		})
		results := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := c.Publish(context.Background(), "a", []byte("2"), nil)
				results <- err
			}()
			synctest.Wait()
		}
		began := time.Now()
		c.Close()
		if took := time.Since(began); took > 0 {
			t.Errorf("Close took %v", took)
		}
		if err := <-results; !errors.Is(err, limpet.ErrClosed) || time.Since(began) > 0 {
			t.Errorf("the message that waits: %v after %v", err, time.Since(began))
		}
		<-c.Done()
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("Done took %v", took)
		}
		if err := <-results; !errors.Is(err, outbox.ErrUncertain) || limpet.SafeToRetry(err) {
			t.Errorf("the message in the commit: %v", err)
		}
	})
}

// What cannot be loaded is an error of New, which names the option.
func TestOutboxThatCannotBeLoaded(t *testing.T) {
	state := func(b ...byte) outbox.Store {
		m := outbox.Memory()
		if err := m.Commit(context.Background(), &outbox.Change{State: b}); err != nil {
			t.Fatal(err)
		}
		return m
	}
	for name, row := range map[string]struct {
		store outbox.Store
		want  error
	}{
		"newer":   {state(2, 0), outbox.ErrFormat},
		"damaged": {state(1, 200), outbox.ErrCorrupt},
		"in use":  {loading{err: outbox.ErrInUse}, outbox.ErrInUse},
		"panics":  {loading{}, limpet.ErrPanic},
		"holes":   {loading{content: &outbox.Content{Through: 3, Messages: []outbox.Message{{Seq: 5}}}}, outbox.ErrCorrupt},
		"foreign": {state(append([]byte{1, 7}, "graphql\x00\x00\x00\x00\x00"...)...), outbox.ErrForeign},
	} {
		_, err := limpet.New("ws://localhost:1", options(&limpet.Options{Outbox: row.store}))
		var e *limpet.Error
		if !errors.Is(err, row.want) || !errors.Is(err, limpet.ErrOutbox) || !errors.As(err, &e) || e.Op != "New" || e.Field != "Options.Outbox" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// loading is a store that loads content, or fails.
type loading struct {
	content *outbox.Content
	err     error
}

func (l loading) Load(context.Context) (*outbox.Content, error) {
	if l.content == nil && l.err == nil {
		panic("a defect")
	}
	return l.content, l.err
}

func (l loading) Commit(context.Context, *outbox.Change) error { return nil }

// An outcome that says no is durable before it is reported, and nothing is sent before that.
func TestOutboxRejectionIsDurableFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			OnPublish: func(_ context.Context, _ server.Principal, m server.Message) error {
				if string(m.Payload) == "no" {
					return &server.Error{Code: native.CodeForbidden}
				}
				return nil
			},
		}}})
		store := newFaultyStore()
		c := start(t, srv, store, limpet.Options{})
		publishAll(t, c, "a", "yes")
		flushed(t, c)
		time.Sleep(time.Second)
		gate := make(chan struct{})
		store.fault(func(c *outbox.Change) error {
			if len(c.Settled) > 0 && !c.Lazy {
				<-gate
			}
			return nil
		})
		no := publishAll(t, c, "a", "no")[0]
		time.Sleep(time.Second)
		if o := no.Outcome(); o != limpet.Pending {
			t.Errorf("before the rejection is durable: %v", o)
		}
		crashed := store.crash(true)
		srv.Network.ResetAll()
		close(gate)
		closeAndWait(t, c)
		if o := no.Outcome(); o != limpet.Stored {
			t.Errorf("after a crash: %v", o)
		}
		srv.Inject(limpettest.Refuse(1)) // so that nothing is sent before the receipts are taken
		again := start(t, srv, crashed, limpet.Options{})
		kept := slices.Collect(again.Receipts())
		flushed(t, again)
		if len(kept) != 1 || kept[0].Outcome() != limpet.Rejected || fmt.Sprint(logged(t, srv)) != "[yes]" {
			t.Errorf("%d receipts, the server has %v", len(kept), logged(t, srv))
		}
	})
}
