package test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/file"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// openDirectory returns a client of srv on the outbox in dir, and a function that ends both. The close code of each
// failure goes to seen.
func openDirectory(t *testing.T, srv *limpettest.Server, dir string, seen *atomic.Uint32) (c *limpet.Client, end func()) {
	t.Helper()
	store, err := file.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	c = start(t, srv, store, limpet.Options{Verdict: func(f wire.Failure, _ wire.Verdict) wire.Verdict {
		if f.Code != 0 && seen != nil {
			seen.Store(uint32(f.Code))
		}
		return wire.Verdict{}
	}})
	return c, func() {
		closeAndWait(t, c)
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}

// copyDirectory returns a copy of dir, without its lock.
func copyDirectory(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(to, "lock")); err != nil {
		t.Fatal(err)
	}
	return to
}

// wantEach fails unless srv has each payload once, and those that begin with the same letter in order.
func wantEach(t *testing.T, srv *limpettest.Server, payloads ...string) {
	t.Helper()
	has := logged(t, srv)
	got := slices.Clone(has)
	slices.SortStableFunc(got, func(a, b string) int { return strings.Compare(a[:1], b[:1]) })
	if !slices.Equal(got, payloads) {
		t.Errorf("the server has %q, want %q once each", has, payloads)
	}
}

// While one client uses a directory, a second one on it is refused. One on a copy takes the session over: the first
// ends with ErrSuperseded.
func TestOutboxCopiedWhileInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, dir := limpettest.NewServer(t, nil), t.TempDir()
		a, endA := openDirectory(t, srv, dir, nil)
		publishAll(t, a, "a", "o1", "o2", "o3")
		flushed(t, a)
		if _, err := file.Open(dir, nil); !errors.Is(err, outbox.ErrInUse) {
			t.Errorf("a second store: %v", err)
		}
		b, endB := openDirectory(t, srv, copyDirectory(t, dir), nil)
		<-a.Done()
		if err := a.Err(); !errors.Is(err, limpet.ErrSuperseded) && !errors.Is(err, limpet.ErrSessionConflict) {
			t.Errorf("the first client ended with %v", err)
		}
		if _, err := a.Publish(context.Background(), "a", []byte("lost"), nil); err == nil || !limpet.SafeToRetry(err) {
			t.Errorf("a message of a client that has ended: %v", err)
		}
		endA()
		publishAll(t, b, "a", "b1", "b2")
		flushed(t, b)
		if b.Stats().Resumes != 1 {
			t.Errorf("%d connections of the second client resumed", b.Stats().Resumes)
		}
		endB()
		wantEach(t, srv, "b1", "b2", "o1", "o2", "o3")
	})
}

// A directory is copied while messages wait in it. The client that comes first goes on with the session. The other has
// other messages under the same numbers: it is stopped, because its key is no longer that of the session, and keeps
// its messages. Once the session has expired a client on the directory sends them, and the server has each once.
func TestOutboxCopiedWithMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, dir := limpettest.NewServer(t, nil), t.TempDir()
		a, endA := openDirectory(t, srv, dir, nil)
		publishAll(t, a, "a", "o1", "o2", "o3")
		flushed(t, a)
		srv.Stop()
		publishAll(t, a, "a", "o4", "o5")
		copied := copyDirectory(t, dir)
		publishAll(t, a, "a", "a1", "a2")
		endA()
		b, endB := openDirectory(t, srv, copied, nil)
		publishAll(t, b, "a", "b1", "b2", "b3")
		srv.Start()
		flushed(t, b)
		var stopped atomic.Uint32
		a, endA = openDirectory(t, srv, dir, &stopped)
		<-a.Done()
		var failure *limpet.Error
		if err := a.Err(); !errors.Is(err, limpet.ErrNotOwner) || !errors.As(err, &failure) || failure.Code != 4003 || stopped.Load() != 4003 {
			t.Errorf("the client with the old key: %v", err)
		}
		endA()
		endB()
		wantEach(t, srv, "b1", "b2", "b3", "o1", "o2", "o3", "o4", "o5")
		time.Sleep(20 * time.Minute) // the session has expired, the ids are known
		a, endA = openDirectory(t, srv, dir, nil)
		kept := slices.Collect(a.Receipts())
		flushed(t, a)
		for _, r := range kept {
			if ack, err := r.Wait(context.Background()); ack.Outcome != limpet.Acked {
				t.Errorf("a message that was in the outbox: %v, %v", ack.Outcome, err)
			}
		}
		if len(kept) != 4 {
			t.Errorf("%d messages were in the outbox", len(kept))
		}
		endA()
		wantEach(t, srv, "a1", "a2", "b1", "b2", "b3", "o1", "o2", "o3", "o4", "o5")
	})
}

// A directory that was restored from an old backup has numbers that were used since: the server says so with 4402,
// and what the client then publishes goes into a new session (I19).
func TestOutboxOldBackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, dir := limpettest.NewServer(t, nil), t.TempDir()
		c, end := openDirectory(t, srv, dir, nil)
		publishAll(t, c, "a", "o1", "o2", "o3")
		flushed(t, c)
		time.Sleep(time.Second) // what may be lost is kept a little later
		backup := copyDirectory(t, dir)
		publishAll(t, c, "a", "o4", "o5", "o6")
		flushed(t, c)
		end()
		var code atomic.Uint32
		c, end = openDirectory(t, srv, backup, &code)
		rs := publishAll(t, c, "a", "x1", "x2", "x3")
		flushed(t, c)
		for _, r := range rs {
			if ack, err := r.Wait(context.Background()); ack.Outcome != limpet.Acked || ack.Duplicate {
				t.Errorf("after the backup: %+v, %v", ack, err)
			}
		}
		if code.Load() != 4402 || c.Stats().Resumes != 0 {
			t.Errorf("close code %d, %d connections resumed", code.Load(), c.Stats().Resumes)
		}
		end()
		wantEach(t, srv, "o1", "o2", "o3", "o4", "o5", "o6", "x1", "x2", "x3")
	})
}

// Clients that are started again and again on fresh copies of a directory in use keep taking over one session: the
// server ends that with 4007, and the messages are still there.
func TestOutboxCopiedAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			Authenticate: func(context.Context, *http.Request, string) (server.Principal, error) {
				<-time.After(100 * time.Millisecond) // "late" is in the outbox by then
				return server.Principal{}, nil
			}}}})
		c, end := openDirectory(t, srv, dir, nil)
		publishAll(t, c, "a", "o1")
		flushed(t, c)
		var refused *limpet.Client
		for range 6 {
			copied := copyDirectory(t, dir)
			next, endNext := openDirectory(t, srv, copied, nil)
			publishAll(t, next, "a", "late")
			time.Sleep(time.Second)
			if next.Err() != nil {
				refused = next
				endNext()
				dir = copied
				break
			}
			<-c.Done()
			if err := c.Err(); !errors.Is(err, limpet.ErrSuperseded) {
				t.Errorf("the client before: %v", err)
			}
			end()
			c, end, dir = next, endNext, copied
		}
		if refused == nil || !errors.Is(refused.Err(), limpet.ErrSessionConflict) {
			t.Fatal("no client was refused with ErrSessionConflict")
		}
		end()
		time.Sleep(2 * time.Minute) // the conflict is over
		c, end = openDirectory(t, srv, dir, nil)
		kept := slices.Collect(c.Receipts())
		if len(kept) != 1 {
			t.Fatalf("%d messages are in the outbox of the client that was refused", len(kept))
		}
		if ack, err := kept[0].Wait(t.Context()); ack.Outcome != limpet.Acked {
			t.Errorf("%v, %v", ack.Outcome, err)
		}
		end()
	})
}

// A copy that is older than what the server has, because the client went on with it: the client on the copy gets a new
// session, the first one is not disturbed, and the server has each message once.
func TestOutboxCopyOfAClientThatGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			OnPublish: func(context.Context, server.Principal, server.Message) error {
				<-time.After(time.Second) // the directory is copied by then
				return nil
			}}}})
		a, endA := openDirectory(t, srv, dir, nil)
		assert.NoError(t, a.WaitReady(t.Context()))
		publishAll(t, a, "a", "o1", "o2")
		copied := copyDirectory(t, dir) // in which no message is settled
		flushed(t, a)
		publishAll(t, a, "a", "o3")
		flushed(t, a)
		var code atomic.Uint32
		b, endB := openDirectory(t, srv, copied, &code)
		kept := slices.Collect(b.Receipts())
		publishAll(t, b, "a", "b1")
		flushed(t, b)
		for _, r := range kept {
			if ack, err := r.Wait(t.Context()); ack.Outcome != limpet.Acked || !ack.Duplicate {
				t.Errorf("a message that both have: %+v, %v", ack, err)
			}
		}
		publishAll(t, a, "a", "o4")
		flushed(t, a)
		if len(kept) != 2 || code.Load() != 4402 || a.Err() != nil || b.Err() != nil {
			t.Errorf("%d messages in the copy, close code %d; the clients ended with %v and %v", len(kept), code.Load(), a.Err(), b.Err())
		}
		endA()
		endB()
		wantEach(t, srv, "b1", "o1", "o2", "o3", "o4")
	})
}
