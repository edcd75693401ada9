package cursor_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/cursor/cursortest"
	"github.com/limpet-go/limpet/wire"
)

func TestStores(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) cursor.Store{
		"File":   func(t *testing.T) cursor.Store { return file(t, t.TempDir()) },
		"Memory": func(*testing.T) cursor.Store { return cursor.Memory() },
		"Every":  func(*testing.T) cursor.Store { return cursor.Every(cursor.Memory(), 1, 0) },
	} {
		t.Run(name, func(t *testing.T) { cursortest.Run(t, open) })
	}
}

func file(t *testing.T, dir string) *cursor.FileStore {
	s := cursor.File(dir)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

var (
	feed  = cursor.Feed{Dialect: "d", Host: "h", Topic: "t"}
	saved = cursor.Cursor{Feed: feed, Position: wire.Position{Offset: 7, Tag: "x"}}
)

func save(t *testing.T, s cursor.Store, name string) {
	t.Helper()
	if err := s.Save(t.Context(), name, saved); err != nil {
		t.Fatal(err)
	}
}

// A directory that does not exist is created, and only its owner can read it. What was saved is
// there for the next store, and the leavings of a crash do no harm.
func TestFileSurvives(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := file(t, dir)
	save(t, s, "name")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dir, only(t, dir)} {
		info, err := os.Stat(p)
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", p, info.Mode(), err)
		}
	}
	if err := os.WriteFile(only(t, dir)+".tmp", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	next := file(t, dir)
	if c, err := next.Load(t.Context(), "name"); err != nil || c != saved {
		t.Errorf("%+v, %v", c, err)
	}
	save(t, next, "name")
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := s.Load(t.Context(), "name"); !errors.Is(err, cursor.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// only returns the path of the only cursor in dir.
func only(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.cursor"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	return files[0]
}

func TestFileIsLocked(t *testing.T) {
	dir := t.TempDir()
	first, second := file(t, dir), file(t, dir)
	save(t, first, "name")
	for range 2 {
		if _, err := second.Load(t.Context(), "other"); !errors.Is(err, cursor.ErrLocked) {
			t.Errorf("Load: %v", err)
		}
		if err := second.Save(t.Context(), "name", saved); !errors.Is(err, cursor.ErrLocked) {
			t.Errorf("Save: %v", err)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	save(t, second, "name")
}

// Whatever happened to the file, Load finds out.
func TestFileIsDamaged(t *testing.T) {
	dir := t.TempDir()
	s := file(t, dir)
	save(t, s, "name")
	path := only(t, dir)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]byte{"empty": {}, "longer": append(append([]byte{}, whole...), '\n'), "huge": make([]byte, 1<<20)}
	for i := range whole {
		flipped := append([]byte{}, whole...)
		flipped[i] ^= 1
		rows["flipped at "+strings.Repeat("i", i)] = flipped
		rows["cut at "+strings.Repeat("i", i)] = whole[:i]
	}
	for name, data := range rows {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := s.Load(t.Context(), "name"); !errors.Is(err, cursor.ErrCorrupt) || !c.IsZero() {
			t.Fatalf("%s: %+v, %v", name, c, err)
		}
	}
	save(t, s, "name") // replaces it
	if c, err := s.Load(t.Context(), "name"); err != nil || c != saved {
		t.Errorf("%+v, %v", c, err)
	}
	save(t, s, "other")
	if err := os.WriteFile(path, mustRead(t, otherThan(t, dir, path)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), "name"); !errors.Is(err, cursor.ErrCorrupt) {
		t.Errorf("the file of another name: %v", err)
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func otherThan(t *testing.T, dir, path string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.cursor"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f != path {
			return f
		}
	}
	t.Fatal("no other file")
	return ""
}

// Links lead elsewhere, and special files block: neither is followed or opened.
func TestFileRefusesLinks(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := file(t, dir)
	save(t, s, "name")
	path := only(t, dir)
	link(t, outside, path)
	if _, err := s.Load(t.Context(), "name"); !errors.Is(err, cursor.ErrDirectory) {
		t.Errorf("Load through a link: %v", err)
	}
	if err := s.Save(t.Context(), "name", saved); !errors.Is(err, cursor.ErrDirectory) {
		t.Errorf("Save through a link: %v", err)
	}
	link(t, outside, path+".tmp")
	save(t, s, "other")
	link(t, t.TempDir(), filepath.Join(dir, "dir"))
	link(t, outside, filepath.Join(t.TempDir(), "lock"))
	locked := t.TempDir()
	link(t, outside, filepath.Join(locked, "lock"))
	for _, row := range []string{filepath.Join(dir, "dir"), outside, filepath.Join(outside, "below"), locked} {
		if _, err := file(t, row).Load(t.Context(), "name"); !errors.Is(err, cursor.ErrDirectory) {
			t.Errorf("%s: %v", row, err)
		}
	}
	if got := string(mustRead(t, outside)); got != "precious" {
		t.Errorf("the file outside is %q now", got)
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	_ = os.Remove(path)
	if err := os.Symlink(to, path); err != nil {
		t.Skipf("NOT TESTED here, where symbolic links cannot be made: %v", err)
	}
}

// A directory that was removed or replaced while the store is open is used again.
func TestDirectoryIsReplaced(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, dir string){
		"removed": func(t *testing.T, dir string) {},
		"created again": func(t *testing.T, dir string) {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Error(err)
			}
		},
		"restored": func(t *testing.T, dir string) {
			if err := os.Rename(dir+".copy", dir); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dir")
			at := func(offset uint64) cursor.Cursor { return cursor.Cursor{Position: wire.Position{Offset: offset}} }
			copied := cursor.File(dir + ".copy")
			if err := errors.Join(copied.Save(t.Context(), "name", at(5)), copied.Close()); err != nil {
				t.Fatal(err)
			}
			store := file(t, dir)
			if err := store.Save(t.Context(), "name", at(7)); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Skipf("NOT TESTED here, where a directory in use cannot be removed: %v", err)
			}
			replace(t, dir)
			want := cursor.Cursor{}
			if name == "restored" {
				want = at(5)
			}
			if c, err := store.Load(t.Context(), "name"); c != want || err != nil {
				t.Errorf("loaded %v, %v", c, err)
			}
			if err := store.Save(t.Context(), "name", at(8)); err != nil {
				t.Error(err)
			}
			if err := file(t, dir).Save(t.Context(), "name", at(9)); !errors.Is(err, cursor.ErrLocked) {
				t.Errorf("a second store: %v", err)
			}
			if c, err := store.Load(t.Context(), "name"); c != at(8) || err != nil {
				t.Errorf("then loaded %v, %v", c, err)
			}
		})
	}
}

func TestFileThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
	if os.WriteFile(filepath.Join(dir, "try"), nil, 0o600) == nil {
		t.Skip("this user may write everywhere; TestDiskFaults has the error")
	}
	if _, err := file(t, dir).Load(t.Context(), "name"); !errors.Is(err, cursor.ErrReadOnly) {
		t.Errorf("got %v", err)
	}
}

func TestNames(t *testing.T) {
	for name, good := range map[string]bool{
		"a": true, "a/b": true, "../a": true, "ä ö": true, strings.Repeat("n", 255): true,
		"": false, "a\x00b": false, "a\nb": false, "\x7f": false, "\xff": false, strings.Repeat("n", 256): false, strings.Repeat("n", 4<<10): false,
	} {
		if err := cursor.CheckName(name); (err == nil) != good || err != nil && !errors.Is(err, cursor.ErrName) {
			t.Errorf("%q: %v", name, err)
		}
		for _, s := range []cursor.Store{cursor.Memory(), file(t, t.TempDir())} {
			_, err := s.Load(t.Context(), name)
			if both := errors.Join(err, s.Save(t.Context(), name, saved)); (both == nil) != good || !good && !errors.Is(both, cursor.ErrName) {
				t.Errorf("%T, %q: %v", s, name, both)
			}
			if err != nil && len(err.Error()) > 2000 {
				t.Errorf("%T: %d bytes of error", s, len(err.Error()))
			}
		}
	}
}

func TestCheck(t *testing.T) {
	for _, row := range []struct {
		name     string
		feed     cursor.Feed
		position wire.Position
		same     bool
	}{
		{"the same", feed, saved.Position, true},
		{"another dialect", cursor.Feed{Dialect: "D", Host: "h", Topic: "t"}, saved.Position, false},
		{"another topic", cursor.Feed{Dialect: "d", Host: "h", Topic: "T"}, saved.Position, false},
		{"another host", cursor.Feed{Dialect: "d", Host: "i", Topic: "t"}, saved.Position, false},
		{"another port", cursor.Feed{Dialect: "d", Host: "h:8443", Topic: "t"}, saved.Position, false},
		{"the same host in capitals", cursor.Feed{Dialect: "d", Host: "H", Topic: "t"}, saved.Position, true},
		{"the port of wss", cursor.Feed{Dialect: "d", Host: "h:443", Topic: "t"}, saved.Position, true},
		{"the port of ws, and a dot", cursor.Feed{Dialect: "d", Host: "h.:80", Topic: "t"}, saved.Position, true},
		{"another host of the same log", cursor.Feed{Dialect: "d", Host: "i", Topic: "t"}, wire.Position{Epoch: "e", Offset: 1}, true},
		{"another topic of the same log", cursor.Feed{Dialect: "d", Host: "h", Topic: "T"}, wire.Position{Epoch: "e", Offset: 1}, false},
	} {
		err := cursor.Cursor{Feed: row.feed, Position: row.position}.Check(feed)
		if (err == nil) != row.same || err != nil && !errors.Is(err, cursor.ErrOtherFeed) {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

func TestLimitsOfFile(t *testing.T) {
	s := file(t, t.TempDir())
	big := cursor.Cursor{Feed: feed, Position: wire.Position{Tag: strings.Repeat("t", 64<<10)}}
	if err := s.Save(t.Context(), "name", big); !errors.Is(err, cursor.ErrTooBig) {
		t.Errorf("too big: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Save(ctx, "name", saved); !errors.Is(err, context.Canceled) {
		t.Errorf("ctx has ended: %v", err)
	}
	if c, err := s.Load(t.Context(), "name"); err != nil || !c.IsZero() {
		t.Errorf("%+v, %v", c, err)
	}
	if n, d := cursor.Every(s, 3, time.Second).(cursor.Paced).Pace(); n != 3 || d != time.Second {
		t.Errorf("pace %d, %v", n, d)
	}
}
