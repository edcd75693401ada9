package cursor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// directory is a disk in a real directory, whose lock it holds.
type directory struct {
	root *os.Root
	lock io.Closer
	path string // absolute
}

const lockFile = "lock"

// openDirectory creates path, which is absolute or empty, if it does not exist, and locks it.
func openDirectory(path string) (disk, error) {
	if path == "" {
		return nil, fmt.Errorf("%w (its path is empty)", ErrDirectory)
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
		return nil, ErrDirectory
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	if err := refuseSpecial(root, lockFile); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	lock, err := lockDirectory(root)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &directory{root, lock, path}, nil
}

// refuseSpecial returns an error if file is there and is no regular file.
func refuseSpecial(root *os.Root, file string) error {
	info, err := root.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w (%s is no regular file)", ErrDirectory, file)
	}
	return nil
}

func (d *directory) read(file string, limit int) ([]byte, error) {
	if err := refuseSpecial(d.root, file); err != nil {
		return nil, err
	}
	f, err := d.root.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, int64(limit)))
}

func (d *directory) write(file string, data []byte) error {
	f, err := d.root.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (d *directory) rename(from, to string) error {
	if err := refuseSpecial(d.root, to); err != nil {
		return err
	}
	return d.root.Rename(from, to)
}

func (d *directory) replaced() bool {
	now, err := os.Lstat(d.path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	opened, err := d.root.Stat(".")
	return err == nil && !os.SameFile(now, opened)
}

func (d *directory) remove(file string) error { return d.root.Remove(file) }
func (d *directory) close() error             { return errors.Join(d.lock.Close(), d.root.Close()) }

func (d *directory) sync() error {
	f, err := d.root.Open(".") // the process may have changed its directory
	if err != nil {
		return err
	}
	return errors.Join(syncDirectory(f), f.Close())
}

// syncParent makes the name of a new directory durable.
func syncParent(path string) error {
	f, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(syncDirectory(f), f.Close())
}
