package file_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/segment"
	outboxfile "github.com/limpet-go/limpet/outbox/file"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/file"
	"github.com/limpet-go/limpet/wire"
)

func open(t *testing.T, dir string) *file.Store {
	t.Helper()
	s, err := file.Open(dir, &file.Options{SegmentSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// add commits message n.
func add(t *testing.T, s *file.Store, n byte) error {
	t.Helper()
	_, err := s.Commit(t.Context(), &server.Change{Who: "who", Keep: time.Hour,
		Entries: []server.Entry{{ID: wire.ID{n}, Topic: "t", Payload: fmt.Appendf(make([]byte, 0, 20<<10), "message %d%20000d", n, 0), Time: time.Now()}}})
	return err
}

// filled returns a directory with messages 1 to 9, which need several files.
func filled(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "a", "b")
	s := open(t, dir)
	for n := byte(1); n < 10; n++ {
		if err := add(t, s, n); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

// contents returns the names and bytes of all files of a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		all[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// refused opens a directory, which must fail and change nothing in its files.
func refused(t *testing.T, dir string, want error) {
	t.Helper()
	before := contents(t, dir)
	s, err := file.Open(dir, nil)
	if !errors.Is(err, want) {
		t.Errorf("Open: %v, want %v", err, want)
	}
	if err == nil {
		_ = s.Close()
	}
	after := contents(t, dir)
	for name, data := range before {
		if after[name] != data {
			t.Errorf("%s was changed", name)
		}
	}
}

// Only the owner can read what is there, and the directory is created with its parents.
func TestModes(t *testing.T) {
	dir := filled(t)
	files := 0
	err := filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
		info, statErr := d.Info()
		if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v", path, info.Mode())
		}
		files++
		return errors.Join(err, statErr)
	})
	if err != nil || files < 5 {
		t.Error(files, err)
	}
}

// A directory has one user, and is free once it was closed.
func TestInUse(t *testing.T) {
	dir := filled(t)
	s := open(t, dir)
	if _, err := file.Open(dir, nil); !errors.Is(err, file.ErrInUse) {
		t.Errorf("a second store: %v", err)
	}
	if _, _, err := file.Quarantine(dir); !errors.Is(err, file.ErrInUse) {
		t.Errorf("Quarantine: %v", err)
	}
	if err := errors.Join(add(t, s, 10), s.Close()); err != nil {
		t.Error(err)
	}
	if err := add(t, s, 11); !errors.Is(err, file.ErrClosed) {
		t.Errorf("Commit: %v", err)
	}
	if v := open(t, dir).View(); v.Head != 10 {
		t.Errorf("head %d", v.Head)
	}
}

// A directory with something else is refused. Links and special files are neither followed nor opened.
func TestForeign(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(path string) error{
		"a file": func(path string) error { return os.WriteFile(filepath.Join(path, "notes.txt"), []byte("x"), 0o600) },
		"another file with our name": func(path string) error {
			return os.WriteFile(filepath.Join(path, segment.Name(99)), []byte("x"), 0o600)
		},
		"a folder":             func(path string) error { return os.Mkdir(filepath.Join(path, "x"), 0o700) },
		"a link with our name": func(path string) error { return os.Symlink(outside, filepath.Join(path, segment.Name(99))) },
		"a link in place of the lock": func(path string) error {
			return errors.Join(os.Remove(filepath.Join(path, "lock")), os.Symlink(outside, filepath.Join(path, "lock")))
		},
		"a link in place of the folder": func(path string) error {
			return errors.Join(os.Rename(path, path+".moved"), os.Symlink(path+".moved", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filled(t)
			if err := make(dir); err != nil {
				t.Skipf("NOT TESTED here: %v", err)
			}
			refused(t, dir, file.ErrForeign)
		})
	}
	refused(t, outside, file.ErrForeign)
	if _, err := file.Open("", nil); !errors.Is(err, file.ErrForeign) {
		t.Error(err)
	}
	if data, err := os.ReadFile(outside); string(data) != "precious" {
		t.Errorf("the file outside is %q now, %v", data, err)
	}
}

// The directory of an outbox is not that of a server, and files of a newer format stay as they are.
func TestOtherFormats(t *testing.T) {
	other := t.TempDir()
	o, err := outboxfile.Open(other, &outboxfile.Options{SegmentSize: 64 << 10})
	if err == nil {
		err = o.Close()
	}
	ofOutbox, readErr := os.ReadFile(filepath.Join(other, segment.Name(1)))
	if err = errors.Join(err, readErr); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		changed func(data []byte) []byte
		want    error
	}{
		"a newer version": {func(data []byte) []byte { copy(data[8:], "\x02\x00\x00\x00"); clear(data[108:112]); return data }, file.ErrFormat},
		"a flipped bit":   {func(data []byte) []byte { data[8] ^= 2; return data }, file.ErrCorrupt},
		"an outbox":       {func([]byte) []byte { return ofOutbox }, file.ErrForeign},
		"zeros":           {func(data []byte) []byte { clear(data); return data }, file.ErrCorrupt},
		"shorter":         {func(data []byte) []byte { return data[:len(data)/2] }, file.ErrCorrupt},
	} {
		dir := filled(t)
		names, err := filepath.Glob(filepath.Join(dir, "*.log"))
		if err != nil || len(names) < 2 {
			t.Fatal(names, err)
		}
		newest := names[len(names)-1]
		data, err := os.ReadFile(newest)
		if err == nil {
			err = os.WriteFile(newest, row.changed(data), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		refused(t, dir, row.want)
	}
}

// A user who may not write the files gets ErrReadOnly. What root sees is in TestReadOnly.
func TestNoPermission(t *testing.T) {
	if runtime.GOOS == "windows" || os.Geteuid() == 0 {
		t.Skip("NOT TESTED here: this user may read and write everything")
	}
	dir := filled(t)
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o700)
	refused(t, dir, file.ErrReadOnly)
}

// Quarantine moves damaged files away, unchanged, and returns the messages in whole records.
func TestQuarantine(t *testing.T) {
	dir := filled(t)
	first := filepath.Join(dir, segment.Name(1))
	data, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	data[25<<10] ^= 1 // in message 2
	if err := os.WriteFile(first, data, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, file.ErrCorrupt)
	folder, entries, err := file.Quarantine(dir)
	if err != nil || filepath.Dir(folder) != dir || len(entries) != 8 {
		t.Fatalf("%d messages in %q, %v", len(entries), folder, err)
	}
	for i, e := range entries {
		want := byte(i + 1)
		if i > 0 {
			want++
		}
		if e.ID != (wire.ID{want}) || e.Offset != uint64(want) || e.Topic != "t" || len(e.Payload) < 20000 {
			t.Errorf("message %d: id %v at %d", i, e.ID, e.Offset)
		}
	}
	if moved, err := os.ReadFile(filepath.Join(folder, segment.Name(1))); err != nil || string(moved) != string(data) {
		t.Error("the damaged file was changed", err)
	}
	if folder, entries, err := file.Quarantine(dir); folder != "" || entries != nil || err != nil {
		t.Errorf("nothing to move: %q, %d messages, %v", folder, len(entries), err)
	}
	s := open(t, dir)
	if v := s.View(); v.Head != 0 {
		t.Errorf("head %d of a new store", v.Head)
	}
	if err := errors.Join(add(t, s, 1), s.Close()); err != nil {
		t.Fatal(err)
	}
	if next, entries, err := file.Quarantine(dir); err != nil || next == folder || len(entries) != 1 {
		t.Errorf("%q, %d messages, %v", next, len(entries), err)
	}
	if _, _, err := file.Quarantine(""); err == nil {
		t.Error("no directory")
	}
}
