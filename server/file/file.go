// Package file keeps the sessions, the messages and the ids of a server in files.
//
//	store, err := file.Open("/var/lib/feed", nil)
//	...
//	defer store.Close() // after the server: once Server.Close has returned
//	s, err := server.New(&server.Options{Store: store})
//
// A directory belongs to one process. When Commit returns nil, the change is on the disk: fdatasync
// on Linux, F_FULLFSYNC on macOS, FlushFileBuffers on Windows. Changes that are committed at the same
// time share one sync. docs/operating.md says how such a server is run and backed up.
package file

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/limpet-go/limpet/internal/directory"
	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/server"
)

// Options are the options of Open. The zero value is good for most programs.
type Options struct {
	// Retention bounds the messages that are kept, which are also in memory.
	Retention server.Retention

	// MaxSessions bounds the sessions, whose records are also in memory. Defaults to 100,000.
	MaxSessions int

	// MaxIDs bounds the message ids, which are also in memory. Defaults to 262,144.
	MaxIDs int

	// SegmentSize is the size of a file in bytes, which is reserved when the file is created. 0 is
	// 16 MiB; else from 64 KiB to 1 GiB. The files take twice what is kept and five files, about. A Commit that
	// is bigger gets a bigger file. Another size counts from the next file on.
	SegmentSize int64
}

const (
	defaultSegment = 16 << 20
	minSegment     = 64 << 10
)

// Errors of Open and of the Store. Compare them with errors.Is.
var (
	// ErrUncertain means that writing has failed, and that it is not known whether a change was kept: only Open, in
	// a new process, can tell. The store refuses everything but to read messages.
	ErrUncertain = errors.New("server/file: it is not known what was kept; restart the server on this directory")

	// ErrCorrupt means that a file was damaged, and not by a crash.
	ErrCorrupt = errors.New("server/file: damaged; restore a backup, or move the files away with Quarantine, which returns what can be read")

	// ErrInUse means that another process or another Store uses the directory.
	ErrInUse = errors.New("server/file: in use by another server; end that one, or give each server a directory of its own")

	// ErrFormat means that a newer version of limpet has written the files.
	ErrFormat = errors.New("server/file: written in a newer format; use the version of limpet that wrote it, or a later one")

	// ErrForeign means that the directory holds something that limpet has not written.
	ErrForeign = errors.New("server/file: not a directory of a server of limpet; use one that holds nothing else")

	// ErrFull means that the file system has no room left. The Commit that fails with it is done once there is
	// room, before any later one, unless the process ends before: then it is not done.
	ErrFull = errors.New("server/file: its file system is full; make room")

	// ErrReadOnly means that this process may not write the files, or not read them.
	ErrReadOnly = errors.New("server/file: not accessible; make it writable for this user")

	// ErrClosed means that the store was closed.
	ErrClosed = errors.New("server/file: closed; open it again")
)

var format = segment.Format{Magic: "limpetsv", Version: 1, Corrupt: ErrCorrupt, Foreign: ErrForeign, Newer: ErrFormat}

// Open opens the store in a directory, and creates the directory with the mode 0700 if it does not
// exist; o may be nil. It takes an exclusive lock, which Close or the end of the process releases, and
// reads all that is there. The directory must be on a local file system, and hold nothing else; names
// that begin with a dot do not count. Files have the mode 0600: they hold the messages and the keys of
// the sessions, and are not encrypted.
//
// A Commit that a crash interrupted is taken back. Whatever else is wrong is an error that wraps
// ErrInUse, ErrCorrupt, ErrFormat, ErrForeign, ErrFull or ErrReadOnly, or what the operating
// system reports; the files stay as they are.
func Open(dir string, o *Options) (*Store, error) {
	opt, err := o.checked()
	if err != nil {
		return nil, err
	}
	path := dir
	if dir != "" {
		if path, err = filepath.Abs(dir); err != nil {
			return nil, failure("open", dir, err)
		}
	}
	system, err := segment.OpenFolder(path)
	if err != nil {
		return nil, failure("open", path, err)
	}
	s, err := openOn(system, path, opt)
	if err != nil {
		return nil, failure("open", path, errors.Join(err, system.Close()))
	}
	return s, nil
}

// checked returns the options with their defaults.
func (o *Options) checked() (opt Options, err error) {
	if o != nil {
		opt = *o
	}
	if opt.Retention.Count == 0 {
		opt.Retention.Count = 100_000
	}
	if opt.Retention.Bytes == 0 {
		opt.Retention.Bytes = 64 << 20
	}
	if opt.MaxSessions <= 0 {
		opt.MaxSessions = 100_000
	}
	if opt.MaxIDs <= 0 {
		opt.MaxIDs = 1 << 18
	}
	if opt.SegmentSize == 0 {
		opt.SegmentSize = defaultSegment
	}
	if opt.SegmentSize < minSegment || opt.SegmentSize > segment.MaxRecord {
		return opt, fmt.Errorf("server/file: Options.SegmentSize is %d; use 0, or %d to %d", opt.SegmentSize, minSegment, segment.MaxRecord)
	}
	opt.SegmentSize = int64(segment.Padded(int(opt.SegmentSize)))
	return opt, nil
}

// failure says what failed, and wraps the sentinel of a fault of the file system.
func failure(op, path string, err error) error {
	var sentinel error
	switch {
	case errors.Is(err, directory.ErrInUse):
		sentinel = ErrInUse
	case errors.Is(err, directory.ErrKind), errors.Is(err, syscall.ENOTDIR):
		sentinel = ErrForeign
	case directory.IsFull(err):
		sentinel = ErrFull
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		sentinel = ErrReadOnly
	}
	if sentinel != nil && !errors.Is(err, sentinel) {
		err = fmt.Errorf("%w (%w)", sentinel, err)
	}
	return fmt.Errorf("%w (%s %s)", err, op, path)
}
