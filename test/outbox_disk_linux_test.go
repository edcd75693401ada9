package test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/file"
)

// withoutPrivileges calls f on a thread with the file permissions of an ordinary user.
func withoutPrivileges(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if runtime.LockOSThread(); os.Geteuid() == 0 { // the thread ends with the goroutine
			_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0)
		}
		f()
	}()
	<-done
}

// A user who may not write the directory, or not read a file in it, gets ErrReadOnly, and with the rights the outbox is as
// it was.
func TestOutboxWithoutPermission(t *testing.T) {
	for name, forbid := range map[string]func(dir string) error{
		"the directory": func(dir string) error { return os.Chmod(dir, 0o500) },
		"a file":        func(dir string) error { return os.Chmod(filepath.Join(dir, "0000000000000001.log"), 0) },
	} {
		dir := t.TempDir()
		for above := dir; len(above) > 1; above = filepath.Dir(above) { // the user below may come this far
			if strings.HasPrefix(above, filepath.Clean(os.TempDir())+"/") {
				_ = os.Chmod(above, 0o711)
			}
		}
		put := func(seq uint64) error {
			s, err := file.Open(dir, nil)
			if err != nil {
				return err
			}
			return errors.Join(s.Commit(t.Context(), &outbox.Change{Messages: []outbox.Message{{Seq: seq}}}), s.Close())
		}
		if err := put(1); err != nil {
			t.Fatal(err)
		}
		if err := forbid(dir); err != nil {
			t.Fatal(err)
		}
		withoutPrivileges(func() {
			if err := put(2); !errors.Is(err, outbox.ErrReadOnly) {
				t.Errorf("%s: %v", name, err)
			}
		})
		if err := errors.Join(os.Chmod(dir, 0o700), os.Chmod(filepath.Join(dir, "0000000000000001.log"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := put(2); err != nil {
			t.Errorf("%s, then: %v", name, err)
		}
	}
}

// On a full file system Publish fails with ErrFull, and a new client still begins. Once there is room, the client goes on. The
// server then has what Publish has confirmed, and nothing else.
func TestOutboxOnAFullDisk(t *testing.T) {
	dir := mount(t, "size=512k")
	at, o := filepath.Join(dir, "outbox"), &file.Options{SegmentSize: 64 << 10}
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Stop()
		var store *file.Store
		var c *limpet.Client
		begin := func() {
			t.Helper()
			var err error
			if store, err = file.Open(at, o); err != nil {
				t.Fatal(err)
			}
			c = start(t, srv, store, limpet.Options{})
		}
		end := func() {
			t.Helper()
			closeAndWait(t, c)
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		}
		var confirmed []string
		publish := func(numbers []string) (failed int) {
			for _, n := range numbers {
				_, err := c.Publish(context.Background(), "a", []byte(n+strings.Repeat("x", 3000)), nil)
				switch {
				case err == nil:
					confirmed = append(confirmed, n)
				case !errors.Is(err, outbox.ErrFull) || !errors.Is(err, limpet.ErrOutbox) || !limpet.SafeToRetry(err):
					t.Errorf("%s: %v", n, err)
				default:
					failed++
				}
				time.Sleep(time.Second)
			}
			return failed
		}
		begin()
		publish(numbers(1, 10))
		other := fill(t, dir)
		if publish(numbers(11, 60)) == 0 {
			t.Error("there was room")
		}
		end()
		begin()
		publish(numbers(61, 62))
		if err := os.Remove(other); err != nil {
			t.Fatal(err)
		}
		if failed := publish(numbers(63, 70)); failed > 0 {
			t.Errorf("%d failed although there was room", failed)
		}
		srv.Start()
		flushed(t, c)
		var got []string
		for _, p := range logged(t, srv) {
			got = append(got, strings.TrimRight(p, "x"))
		}
		if !slices.Equal(got, confirmed) {
			t.Errorf("the server has %v, confirmed were %v", got, confirmed)
		}
		end()
	})
}

// On a file system that is mounted read-only New says ErrReadOnly, and nothing there has changed.
func TestOutboxOnAReadOnlyDisk(t *testing.T) {
	dir := mount(t, "size=1m")
	at := filepath.Join(dir, "outbox")
	o := &file.Options{SegmentSize: 64 << 10}
	s, err := file.Open(at, o)
	if err == nil {
		err = errors.Join(s.Commit(t.Context(), &outbox.Change{Messages: []outbox.Message{{Seq: 1}}}), s.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	remount(t, dir, syscall.MS_RDONLY, "")
	for _, path := range []string{at, filepath.Join(dir, "another")} {
		if _, err := file.Open(path, o); !errors.Is(err, outbox.ErrReadOnly) || !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", path, err)
		}
	}
	remount(t, dir, 0, "")
	if s, err = file.Open(at, o); err != nil {
		t.Fatal(err)
	}
	if k, err := s.Load(t.Context()); err != nil || len(k.Messages) != 1 {
		t.Errorf("%+v, %v", k, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
