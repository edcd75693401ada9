package test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/file"
)

// openDir opens an outbox on disk.
func openDir(t *testing.T, dir string) *file.Store {
	t.Helper()
	s, err := file.Open(dir, &file.Options{SegmentSize: 64 << 10})
	assert.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// copiedOutbox is a client with messages 1 to 3 acked, and a copy of its directory from that time.
func copiedOutbox(t *testing.T, srv *limpettest.Server) (c *limpet.Client, copied *file.Store) {
	t.Helper()
	dir := t.TempDir()
	c = start(t, srv, openDir(t, filepath.Join(dir, "first")), limpet.Options{})
	if _, err := file.Open(filepath.Join(dir, "first"), nil); !errors.Is(err, outbox.ErrInUse) {
		t.Errorf("the same directory again: %v", err)
	}
	publishAll(t, c, "a", numbers(1, 3)...)
	flushed(t, c)
	time.Sleep(time.Second) // the acks are in the outbox
	assert.NoError(t, os.CopyFS(filepath.Join(dir, "second"), os.DirFS(filepath.Join(dir, "first"))))
	return c, openDir(t, filepath.Join(dir, "second"))
}

// A second client on a copy of a directory whose owner has gone on since: it learns that it is older
// than its session, and publishes in a session of its own. The first one goes on.
func TestOutboxCopyIsOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		first, copied := copiedOutbox(t, srv)
		publishAll(t, first, "a", numbers(4, 6)...)
		flushed(t, first)
		second := start(t, srv, copied, limpet.Options{})
		publishAll(t, second, "a", "x")
		flushed(t, second)
		if st := second.State(); !errors.Is(st.Cause, limpet.ErrRolledBack) || second.Stats().Resumes != 0 {
			t.Errorf("the second client: %+v", st)
		}
		publishAll(t, first, "a", "7")
		flushed(t, first)
		if got := strings.Join(logged(t, srv), " "); got != "1 2 3 4 5 6 x 7" || first.Err() != nil {
			t.Errorf("the server has %s; the first client: %v", got, first.Err())
		}
	})
}

// A second client on a copy that is as new as the original takes the session over. The first one ends with
// ErrSuperseded, and what it has published since waits in its outbox.
func TestOutboxCopyTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		first, copied := copiedOutbox(t, srv)
		srv.Network.Strike(limpettest.BlackHole(limpettest.Up))
		late := publishAll(t, first, "a", "late")[0]
		second := start(t, srv, copied, limpet.Options{})
		publishAll(t, second, "a", numbers(4, 5)...)
		flushed(t, second)
		<-first.Done()
		ack, err := late.Wait(context.Background())
		if !errors.Is(first.Err(), limpet.ErrSuperseded) || ack.Outcome != limpet.Stored || !errors.Is(err, limpet.ErrStored) {
			t.Errorf("the first client: %v; its message: %v, %v", first.Err(), ack.Outcome, err)
		}
		if got := strings.Join(logged(t, srv), " "); got != "1 2 3 4 5" || second.Stats().Resumes != 1 {
			t.Errorf("%d resumed, the server has %s", second.Stats().Resumes, got)
		}
	})
}

// A backup from before the session was resumed has an old key. The client ends with the refusal of the server,
// and what it has published waits in its outbox.
func TestOutboxBackupIsOlderThanTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		first, copied := copiedOutbox(t, srv)
		srv.Network.ResetAll()
		time.Sleep(20 * time.Second) // the key before is valid for a while
		publishAll(t, first, "a", numbers(4, 6)...)
		flushed(t, first)
		closeAndWait(t, first)
		second := start(t, srv, copied, limpet.Options{})
		kept := publishAll(t, second, "a", "x")[0]
		<-second.Done()
		var permanent *limpet.PermanentError
		var code *limpet.Error
		if err := second.Err(); !errors.As(err, &permanent) || !errors.As(err, &code) || code.Code != 4003 {
			t.Errorf("the client ended with %v", err)
		}
		content, err := copied.Load(context.Background())
		assert.NoError(t, err)
		if n := len(content.Messages); kept.Outcome() != limpet.Stored || n != 1 || string(content.Messages[0].Payload) != "x" {
			t.Errorf("the message is %v, the outbox has %d", kept.Outcome(), n)
		}
		if got := strings.Join(logged(t, srv), " "); got != "1 2 3 4 5 6" {
			t.Errorf("the server has %s", got)
		}
	})
}
