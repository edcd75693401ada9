package segment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/limpet-go/limpet/internal/directory"
)

// System is what a store does with its directory.
type System interface {
	// Names returns the names of the files that a store may have, in any order.
	Names() ([]string, error)
	// Create creates a file of a size, whose blocks are reserved. It must not exist.
	Create(name string, size int64) (Handle, error)
	OpenFile(name string) (Handle, error)
	// Rename gives a file, which may be open, a name that no file has.
	Rename(from, to string) error
	Remove(name string) error
	// Mkdir creates a folder, which must not exist.
	Mkdir(name string) error
	// Sync makes the names durable.
	Sync() error
	// Present reports whether a file has its name in the directory, and the directory its path.
	Present(name string, h Handle) bool
	Close() error
}

// Handle is an open file. Its WriteAt writes within the size that Create gave it.
type Handle interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes what was written durable. It is never called again after an error.
	Sync() error
	Size() (int64, error)
}

// folder is the system in a real directory.
type folder struct {
	*directory.Directory
	path string // absolute
}

// OpenFolder opens the System in a real directory, as directory.Open does. Folders of Quarantine do not count.
func OpenFolder(path string) (System, error) {
	d, err := directory.Open(path)
	if err != nil {
		return nil, err
	}
	return folder{d, path}, nil
}

func (f folder) Names() ([]string, error) {
	d, err := f.Open(".")
	if err != nil {
		return nil, err
	}
	files, err := d.ReadDir(-1)
	if err = errors.Join(err, d.Close()); err != nil {
		return nil, err
	}
	var names []string
	for _, file := range files {
		name := file.Name()
		switch {
		case name[0] == '.' || name == directory.LockFile || file.IsDir() && strings.HasPrefix(name, QuarantinePrefix):
			continue
		case !file.Type().IsRegular():
			return nil, fmt.Errorf("%w (%s is no regular file)", directory.ErrKind, name)
		}
		names = append(names, name)
	}
	return names, nil
}

func (f folder) Create(name string, size int64) (Handle, error) {
	h, err := f.Directory.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := reserve(h, size); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return fileOf(h)
}

func (f folder) OpenFile(name string) (Handle, error) {
	if err := f.RefuseSpecial(name); err != nil {
		return nil, err
	}
	h, err := f.Directory.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	opened, err := fileOf(h)
	if err != nil {
		return nil, err
	}
	if !f.Present(name, opened) { // a link took its place
		return nil, errors.Join(directory.ErrKind, h.Close())
	}
	return opened, nil
}

func (f folder) Mkdir(name string) error { return f.Directory.Mkdir(name, 0o700) }

func (f folder) Present(name string, h Handle) bool {
	now, err := os.Lstat(f.path + string(os.PathSeparator) + name)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	return os.SameFile(h.(file).opened, now)
}

type file struct {
	*os.File
	opened os.FileInfo
}

func fileOf(h *os.File) (Handle, error) {
	info, err := h.Stat()
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return file{h, info}, nil
}

func (f file) Sync() error { return syncData(f.File) }

func (f file) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// zeros reserves the blocks of a file by writing them.
func zeros(f *os.File, size int64) error {
	chunk := make([]byte, min(size, 1<<20))
	for offset := int64(0); offset < size; offset += int64(len(chunk)) {
		if _, err := f.WriteAt(chunk[:min(size-offset, int64(len(chunk)))], offset); err != nil {
			return err
		}
	}
	return nil
}
