package cursor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/limpet-go/limpet/internal/directory"
)

// FileStore keeps each cursor in a file of its own. Create one with File. It is safe for
// concurrent use.
type FileStore struct {
	dir string

	mu     sync.Mutex
	disk   disk // nil: not open
	closed bool
}

// File returns a store that keeps each cursor in a file in dir. The first call of Load or
// Save creates dir with the mode 0700 if it does not exist, and takes an exclusive lock on
// it; Close releases the lock, and so does the end of the process. Files have the mode
// 0600. A cursor is written to a temporary file, which is synced, takes the name of the
// old file, and then the directory is synced: a crash leaves the old cursor or the new
// one. The directory must be on a local file system. One that was removed or replaced
// meanwhile is created or opened again by the next call.
//
// The lock is flock on Linux, macOS and the BSDs, and a file opened without sharing on
// Windows. On other systems Load and Save return an error that wraps
// errors.ErrUnsupported. On Windows a directory cannot be synced, so after a loss of power
// the old cursor may be back.
//
// Load and Save return errors that wrap ErrLocked, ErrReadOnly, ErrFull, ErrDirectory,
// ErrCorrupt, ErrTooBig, ErrName or ErrClosed, or what the operating system reports. They
// do not end when ctx does: it is checked before they begin.
func File(dir string) *FileStore { return &FileStore{dir: dir} }

// disk is what a FileStore does with its directory.
type disk interface {
	// read returns at most limit bytes of a regular file.
	read(file string, limit int) ([]byte, error)
	// write creates a file, which must not exist, and syncs it.
	write(file string, data []byte) error
	rename(from, to string) error
	remove(file string) error
	// sync makes the names of the directory durable.
	sync() error
	// close releases the lock.
	close() error
	// replaced reports that the directory was removed, or that another has its path.
	replaced() bool
}

// Load implements Store.
func (s *FileStore) Load(ctx context.Context, name string) (Cursor, error) {
	var c Cursor
	err := s.with(ctx, "load", name, func(d disk) error {
		data, err := d.read(fileName(name), maxFile+1)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			c, err = decode(name, data)
		}
		return err
	})
	return c, err
}

// Save implements Store.
func (s *FileStore) Save(ctx context.Context, name string, c Cursor) error {
	return s.with(ctx, "save", name, func(d disk) error {
		data, err := encode(name, c)
		if err != nil {
			return err
		}
		file := fileName(name)
		temporary := file + ".tmp"
		_ = d.remove(temporary) // of a process that crashed
		if err := d.write(temporary, data); err != nil {
			_ = d.remove(temporary)
			return err
		}
		if err := d.rename(temporary, file); err != nil {
			return err
		}
		return d.sync()
	})
}

// Close releases the lock of the directory. Load and Save return ErrClosed from then on.
// Close may be called more than once. Call it after Client.Done.
func (s *FileStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.disk == nil {
		return nil
	}
	err := s.disk.close()
	s.disk = nil
	if err != nil {
		return fmt.Errorf("cursor: close: %w", err)
	}
	return nil
}

// with calls do with the directory, one call at a time.
func (s *FileStore) with(ctx context.Context, op, name string, do func(disk) error) error {
	if err := errors.Join(CheckName(name), ctx.Err()); err != nil {
		return failure(op, name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return failure(op, name, ErrClosed)
	}
	if s.disk != nil && s.disk.replaced() {
		_ = s.disk.close()
		s.disk = nil
	}
	if s.disk == nil {
		if path, err := filepath.Abs(s.dir); err == nil && s.dir != "" {
			s.dir = path // the process may change its directory later
		}
		d, err := openFolder(s.dir)
		if err != nil {
			return failure(op, name, err)
		}
		s.disk = d
	}
	return failure(op, name, do(s.disk))
}

// failure says what failed, and wraps the sentinel of a fault of the file system.
func failure(op, name string, err error) error {
	if err == nil {
		return nil
	}
	sentinel := error(nil)
	switch {
	case errors.Is(err, directory.ErrInUse):
		sentinel = ErrLocked
	case directory.IsFull(err):
		sentinel = ErrFull
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		sentinel = ErrReadOnly
	case errors.Is(err, directory.ErrKind), errors.Is(err, syscall.ENOTDIR):
		sentinel = ErrDirectory
	}
	if sentinel != nil {
		err = fmt.Errorf("%w: %w", sentinel, err)
	}
	if len(name) > maxName {
		name = strings.ToValidUTF8(name[:maxName], "") + "…"
	}
	return fmt.Errorf("cursor: %s %s: %w", op, strconv.QuoteToASCII(name), err)
}

const maxReadable = 40 // bytes of a file's name that can be read

// fileName returns the name of the file for a cursor: what can be read of its name, and a
// hash. It is safe on file systems that ignore case or refuse characters.
func fileName(name string) string {
	readable := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, name[:min(len(name), maxReadable)])
	sum := sha256.Sum256([]byte(name))
	return readable + "-" + hex.EncodeToString(sum[:16]) + ".cursor"
}
