// Package directory opens a directory of files for one user at a time. It follows no symbolic
// links and opens no special files: links lead elsewhere, and special files block.
package directory

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Errors of Open, for errors.Is.
var (
	ErrInUse = errors.New("directory is in use")
	ErrKind  = errors.New("symbolic links and special files are refused; use a directory of its own")
)

// LockFile is the name of the file that is locked. It stays.
const LockFile = "lock"

// Directory is an open directory, whose lock it holds.
type Directory struct {
	*os.Root
	lock io.Closer
	path string
}

// Open creates the directory with the mode 0700 if it does not exist, and takes its lock, which the
// end of the process releases. The path is absolute.
func Open(path string) (*Directory, error) {
	if path == "" {
		return nil, fmt.Errorf("%w (its path is empty)", ErrKind)
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(path, 0o700); err == nil {
			err = syncParent(path)
		}
		if err == nil {
			info, err = os.Lstat(path)
		}
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%w (the path is no directory)", ErrKind)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	d := &Directory{root, nil, path}
	if err := d.RefuseSpecial(LockFile); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	if d.lock, err = lock(root); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return d, nil
}

// RefuseSpecial returns an error that wraps ErrKind if file is there and is no regular file.
func (d *Directory) RefuseSpecial(file string) error {
	info, err := d.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w (%s is no regular file)", ErrKind, file)
	}
	return nil
}

// Sync makes the names in the directory durable, where the system can.
func (d *Directory) Sync() error {
	f, err := d.Open(".") // the process may have changed its directory
	if err != nil {
		return err
	}
	return errors.Join(syncNames(f), f.Close())
}

// Replaced reports whether the directory was removed, or another has its path.
func (d *Directory) Replaced() bool {
	now, err := os.Lstat(d.path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	opened, err := d.Stat(".")
	return err == nil && !os.SameFile(now, opened)
}

// Close releases the lock.
func (d *Directory) Close() error { return errors.Join(d.lock.Close(), d.Root.Close()) }

// syncParent makes the name of a new directory durable.
func syncParent(path string) error {
	f, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(syncNames(f), f.Close())
}
