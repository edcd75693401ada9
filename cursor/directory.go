package cursor

import (
	"errors"
	"io"
	"os"

	"github.com/limpet-go/limpet/internal/directory"
)

// folder is a disk in a real directory.
type folder struct{ *directory.Directory }

// openFolder creates path, which is absolute or empty, if it does not exist, and locks it.
func openFolder(path string) (disk, error) {
	d, err := directory.Open(path)
	if err != nil {
		return nil, err
	}
	return folder{d}, nil
}

func (d folder) read(file string, limit int) ([]byte, error) {
	if err := d.RefuseSpecial(file); err != nil {
		return nil, err
	}
	f, err := d.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, int64(limit)))
}

func (d folder) write(file string, data []byte) error {
	f, err := d.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (d folder) rename(from, to string) error {
	if err := d.RefuseSpecial(to); err != nil {
		return err
	}
	return d.Rename(from, to)
}

func (d folder) remove(file string) error { return d.Remove(file) }
func (d folder) sync() error              { return d.Sync() }
func (d folder) close() error             { return d.Close() }
func (d folder) replaced() bool           { return d.Replaced() }
