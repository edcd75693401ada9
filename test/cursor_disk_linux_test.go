package test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/limpettest"
)

// mount returns a directory with a small file system of its own.
func mount(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("NOT TESTED on a real file system, which only root may mount (%v); cursor.TestDiskFaults has the errors", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes a file until the file system is full.
func fill(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "other")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the file system is not full: %v", err)
	}
	return file
}

// While the file system is full the stream goes on, the old cursor stays, and each failed
// save says why. Once there is room the newest position is saved.
func TestCursorOnFullDisk(t *testing.T) {
	dir := mount(t, "size=64k")
	store := cursor.File(filepath.Join(dir, "cursors"))
	defer store.Close()
	offset := func() uint64 {
		t.Helper()
		c, err := store.Load(t.Context(), "name")
		if err != nil {
			t.Fatal(err)
		}
		return c.Position.Offset
	}
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		var mu sync.Mutex
		var failed []error
		c := dial(t, srv, &limpet.Options{Observer: observer(func(e limpet.Event) {
			if e, ok := e.(limpet.CursorNotSaved); ok {
				mu.Lock()
				failed = append(failed, e.Err)
				mu.Unlock()
			}
		})})
		s := subscribeLive(t, c, "q", &limpet.SubscribeOptions{Cursor: store, Name: "name"})
		next := func(n int) {
			t.Helper()
			publish(t, srv, "q", numbers(n, n)...)
			if got := payloads(process(t, s, 1)); got != numbers(n, n)[0] {
				t.Fatalf("got %s, want %d", got, n)
			}
			synctest.Wait()
		}
		next(1)
		file := fill(t, dir)
		for n := 2; n <= 10; n++ {
			next(n)
			time.Sleep(time.Second)
		}
		mu.Lock()
		if len(failed) == 0 {
			t.Error("no event")
		}
		for _, err := range failed {
			if !errors.Is(err, cursor.ErrFull) || limpet.ClassOf(err) != limpet.ClassLocal || !strings.Contains(err.Error(), "SubscribeOptions.Cursor") {
				t.Errorf("got %v", err)
			}
		}
		mu.Unlock()
		if got := offset(); got != 1 {
			t.Errorf("on the full file system the cursor is at %d", got)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := offset(); got != 10 {
			t.Errorf("then the cursor is at %d", got)
		}
	})
}

// Subscribe says why a directory cannot be used, and with room, or on a file system that
// can be written, it goes on after the old cursor.
func TestCursorWithoutRoomOrPermission(t *testing.T) {
	for _, row := range []struct {
		name          string
		breaks, mends func(t *testing.T, dir string)
		want          error
	}{
		{"full", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "cursors", "lock")); err != nil {
				t.Fatal(err)
			}
			remount(t, dir, 0, "nr_inodes=3")
		}, func(t *testing.T, dir string) { remount(t, dir, 0, "nr_inodes=10") }, cursor.ErrFull},
		{"read-only", func(t *testing.T, dir string) { remount(t, dir, syscall.MS_RDONLY, "") },
			func(t *testing.T, dir string) { remount(t, dir, 0, "") }, cursor.ErrReadOnly},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := mount(t, "size=64k")
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, nil)
				subscribe := func() (*limpet.Subscription, *cursor.FileStore, error) {
					store := cursor.File(filepath.Join(dir, "cursors"))
					s, err := c.Subscribe(t.Context(), "q", &limpet.SubscribeOptions{Cursor: store, Name: "name"})
					synctest.Wait()
					return s, store, err
				}
				end := func(s *limpet.Subscription, store *cursor.FileStore) {
					if s != nil {
						s.Close()
					}
					synctest.Wait()
					if err := store.Close(); err != nil {
						t.Error(err)
					}
				}
				s, store, err := subscribe()
				if err != nil {
					t.Fatal(err)
				}
				publish(t, srv, "q", numbers(1, 5)...)
				process(t, s, 3)
				end(s, store)

				row.breaks(t, dir)
				s, store, err = subscribe()
				if !errors.Is(err, row.want) || limpet.ClassOf(err) != limpet.ClassLocal || !strings.Contains(err.Error(), "SubscribeOptions.Cursor") {
					t.Errorf("got %v", err)
				}
				end(s, store)

				row.mends(t, dir)
				s, store, err = subscribe()
				if err != nil {
					t.Fatal(err)
				}
				if got := payloads(process(t, s, 2)); got != "4 5" {
					t.Errorf("got %s", got)
				}
				end(s, store)
			})
		})
	}
}

func remount(t *testing.T, dir string, flags uintptr, options string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|flags, options); err != nil {
		t.Fatal(err)
	}
}
