package file

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/limpet-go/limpet/internal/directory"
)

// system is what a Store does with its directory.
type system interface {
	// names returns the names of the files that a store may have, in any order.
	names() ([]string, error)
	// create creates a file of a size, whose blocks are reserved. It must not exist.
	create(name string, size int64) (handle, error)
	open(name string) (handle, error)
	// rename gives a file, which may be open, a name that no file has.
	rename(from, to string) error
	remove(name string) error
	// mkdir creates a folder, which must not exist.
	mkdir(name string) error
	// sync makes the names durable.
	sync() error
	// present reports whether a file has its name in the directory, and the directory its path.
	present(name string, h handle) bool
	close() error
}

// handle is an open file. Its WriteAt writes within the size that create gave it.
type handle interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// sync makes what was written durable. It is never called again after an error.
	sync() error
	size() (int64, error)
}

// folder is the system in a real directory.
type folder struct {
	*directory.Directory
	path string // absolute
}

func openFolder(path string) (system, error) {
	d, err := directory.Open(path)
	if err != nil {
		return nil, err
	}
	return folder{d, path}, nil
}

func (f folder) names() ([]string, error) {
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
		case name[0] == '.' || name == directory.LockFile || file.IsDir() && isQuarantine(name):
			continue
		case !file.Type().IsRegular():
			return nil, fmt.Errorf("%w (%s is no regular file)", directory.ErrKind, name)
		}
		names = append(names, name)
	}
	return names, nil
}

func (f folder) create(name string, size int64) (handle, error) {
	h, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := reserve(h, size); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return fileOf(h)
}

func (f folder) open(name string) (handle, error) {
	if err := f.RefuseSpecial(name); err != nil {
		return nil, err
	}
	h, err := f.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	opened, err := fileOf(h)
	if err != nil {
		return nil, err
	}
	if !f.present(name, opened) { // a link took its place
		return nil, errors.Join(directory.ErrKind, h.Close())
	}
	return opened, nil
}

func (f folder) rename(from, to string) error { return f.Rename(from, to) }
func (f folder) remove(name string) error     { return f.Remove(name) }
func (f folder) mkdir(name string) error      { return f.Mkdir(name, 0o700) }
func (f folder) sync() error                  { return f.Sync() }
func (f folder) close() error                 { return f.Close() }

func (f folder) present(name string, h handle) bool {
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

func fileOf(h *os.File) (handle, error) {
	info, err := h.Stat()
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return file{h, info}, nil
}

func (f file) sync() error { return syncData(f.File) }

func (f file) size() (int64, error) {
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
