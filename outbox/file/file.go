// Package file keeps the outbox of a client in files.
//
//	store, err := file.Open("/var/lib/sensor/outbox", nil)
//	...
//	defer store.Close() // after the client: once Client.Done is closed
//
// A directory belongs to one client. When Commit returns nil, the change is on the disk: fdatasync
// on Linux, F_FULLFSYNC on macOS, FlushFileBuffers on Windows. docs/outbox.md says what is durable
// when, what each error means, and what to do.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/limpet-go/limpet/internal/directory"
	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/outbox"
)

// Options are the options of Open. The zero value is good for most programs.
type Options struct {
	// SegmentSize is the size of a file in bytes, which is reserved when the file is created. 0 is
	// 16 MiB; else from 64 KiB to 1 GiB. At least two files exist once the first is full. A change
	// that is bigger gets a bigger file. Another size counts from the next file on.
	SegmentSize int64
}

const (
	defaultSegment = 16 << 20
	minSegment     = 64 << 10
	maxLazy        = 16 << 10 // bytes of changes that are not synced yet
	maxBuffer      = 4 << 20  // bytes that stay allocated for records
)

// Store is an outbox.Store in a directory. Create one with Open. It is safe for concurrent use; calls
// wait for each other.
type Store struct {
	mu      sync.Mutex // held during a call, also while it reads and writes files: only calls take it
	path    string
	files   segment.Files
	ledger  ledger
	current *newest
	record  []byte // the changes that are not synced yet, after room for their frame
	refused error  // why the store does nothing more
}

// newest is the segment to which records are added.
type newest struct {
	segment.Header
	file   segment.Handle
	end    int64 // of the records that are durable
	failed bool  // a sync failed: it is not synced again
}

// Open opens the outbox in a directory, and creates the directory with the mode 0700 if it does not
// exist; o may be nil. It takes an exclusive lock, which Close or the end of the process releases, and
// reads all that is there. The directory must be on a local file system, and hold nothing else; names
// that begin with a dot do not count. Files have the mode 0600: they hold the messages and the key of
// the session, and are not encrypted.
//
// A change that a crash interrupted is taken back. Whatever else is wrong is an error that wraps
// outbox.ErrInUse, ErrCorrupt, ErrFormat, ErrForeign, ErrFull or ErrReadOnly, or what the operating
// system reports; the files of the messages stay as they are. See Quarantine for a damaged outbox.
func Open(dir string, o *Options) (*Store, error) {
	if o == nil {
		o = &Options{}
	}
	size := o.SegmentSize
	if size == 0 {
		size = defaultSegment
	}
	if size < minSegment || size > segment.MaxRecord {
		return nil, fmt.Errorf("outbox: Options.SegmentSize is %d; use 0, or %d to %d", size, minSegment, segment.MaxRecord)
	}
	path := dir
	if dir != "" {
		var err error
		if path, err = filepath.Abs(dir); err != nil {
			return nil, failure("open", dir, err)
		}
	}
	system, err := segment.OpenFolder(path)
	if err != nil {
		return nil, failure("open", path, err)
	}
	s, err := openOn(system, path, int64(segment.Padded(int(size))))
	if err != nil {
		return nil, failure("open", path, errors.Join(err, system.Close()))
	}
	return s, nil
}

// openOn opens the outbox on a system, which the caller closes after an error.
func openOn(system segment.System, path string, size int64) (*Store, error) {
	s := &Store{path: path, files: filesOn(system, size), record: make([]byte, segment.FrameSize)}
	if err := s.recover(); err != nil {
		if s.current != nil {
			err = errors.Join(err, s.current.file.Close())
		}
		return nil, err
	}
	return s, nil
}

// Load implements outbox.Store. It may be called again, and then returns the content as it is then.
func (s *Store) Load(ctx context.Context) (*outbox.Content, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused != nil {
		return nil, s.refused
	}
	k, err := s.content()
	if err != nil {
		return nil, failure("load", s.path, err)
	}
	return k, nil
}

// Commit implements outbox.Store. A change that is Lazy is written, but not synced, unless 16 KiB wait: a crash of the process
// does not lose it, one of the machine may. ctx does not end a write that has begun.
//
// An error that wraps outbox.ErrFull, or any other that does not wrap ErrUncertain, left nothing of the
// change. After a sync that failed, the store continues in a new file, and never syncs the old one
// again. If that fails as well, or the directory was removed or replaced meanwhile, the error wraps
// outbox.ErrUncertain, and so do those of all later calls.
func (s *Store) Commit(ctx context.Context, c *outbox.Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused != nil {
		return s.refused
	}
	if err := s.ledger.check(c); err != nil {
		return err
	}
	if len(c.Removed) > 0 && s.current.Version < 2 { // a version of limpet that cannot read it must not take it for damage
		if err := s.rotate(false, 0); err != nil {
			return failure("commit", s.path, err)
		}
	}
	c, err := s.commit(c)
	if err != nil {
		return failure("commit", s.path, err)
	}
	s.ledger.apply(c, s.current.Number)
	return nil
}

// Close makes lazy changes durable, and releases the lock. Load and Commit return outbox.ErrClosed from
// then on. Close may be called more than once. Call it after Client.Done.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(s.refused, outbox.ErrClosed) {
		return nil
	}
	var err error
	if s.refused == nil {
		err = s.end()
	}
	s.refused = outbox.ErrClosed
	if err = errors.Join(err, s.current.file.Close(), s.files.Close()); err != nil {
		return failure("close", s.path, err)
	}
	return nil
}

// commit writes a change, and returns it with its numbers in the log. After an error nothing of it is kept, unless the store
// refuses all further calls.
func (s *Store) commit(c *outbox.Change) (inLog *outbox.Change, err error) {
	inLog = s.ledger.inLog(c)
	record := appendChange(s.record, inLog)
	if len(record) > segment.MaxRecord {
		return nil, fmt.Errorf("outbox: a change of %d bytes, at most %d", len(record), segment.MaxRecord)
	}
	if size := int64(segment.Padded(len(record))); s.current.end+size+segment.FrameSize > s.current.Size {
		if err := s.rotate(false, size); err != nil {
			return nil, err
		}
		inLog = s.ledger.inLog(c)
		record = appendChange(s.record, inLog)
	}
	s.record = record[:len(s.record)]
	at := s.current
	whole := at.Finish(record, segment.Changes, at.end)
	if n, err := at.file.WriteAt(whole, at.end); err != nil {
		return nil, s.undo(n, err)
	}
	if c.Lazy && len(record) < maxLazy { // the next record repeats it
		s.record = record
		return inLog, nil
	}
	return inLog, s.sync(int64(len(whole)))
}

// flush makes lazy changes durable.
func (s *Store) flush() error {
	if len(s.record) == segment.FrameSize {
		return nil
	}
	whole := s.current.Finish(s.record, segment.Changes, s.current.end)
	if n, err := s.current.file.WriteAt(whole, s.current.end); err != nil {
		return s.undo(n, err)
	}
	return s.sync(int64(len(whole)))
}

// sync makes the record at the end of the segment durable.
func (s *Store) sync(size int64) error {
	at := s.current
	if err := at.file.Sync(); err != nil {
		at.failed = true
		return s.cutOff(err)
	}
	if !s.files.Present(segment.Name(at.Number), at.file) {
		return s.refuse(errRemoved)
	}
	at.end += size
	s.record = s.record[:segment.FrameSize]
	if cap(s.record) > maxBuffer {
		s.record = make([]byte, segment.FrameSize)
	}
	return nil
}

var errRemoved = errors.New("the directory, or a file in it, was removed or replaced while it was in use")

// undo takes back a write of which n bytes were written, and keeps the lazy changes before it, over which it
// was written.
func (s *Store) undo(n int, cause error) error {
	if n == 0 {
		return cause
	}
	at := s.current
	var kept []byte
	if len(s.record) > segment.FrameSize {
		kept = at.Finish(s.record, segment.Changes, at.end)
	}
	_, err := at.file.WriteAt(append(kept, make([]byte, segment.FrameSize)...), at.end)
	if err == nil {
		err = at.file.Sync()
	}
	if err != nil {
		at.failed = true
		return s.cutOff(cause)
	}
	at.end += int64(len(kept))
	s.record = s.record[:segment.FrameSize]
	return cause
}

// cutOff leaves a segment whose last record may be durable or not, and returns why.
func (s *Store) cutOff(cause error) error {
	if err := s.rotate(true, 0); err != nil {
		return s.refuse(errors.Join(cause, err))
	}
	return cause
}

// refuse ends the store, and returns the error that all calls return from now on.
func (s *Store) refuse(cause error) error {
	if s.refused == nil {
		s.refused = fmt.Errorf("%w (%w)", outbox.ErrUncertain, cause)
	}
	return s.refused
}

// end writes the lazy changes and a mark after them, so that damage to the last record is noticed. The mark is not written before the
// changes are durable: a loss of power may keep what was written last, and a mark behind a torn record would be damage.
func (s *Store) end() error {
	at := s.current
	if at.failed {
		return nil
	}
	end := at.end
	add := func(b []byte) error {
		if _, err := at.file.WriteAt(b, end); err != nil {
			return err
		}
		end += int64(len(b))
		return at.file.Sync()
	}
	if len(s.record) > segment.FrameSize {
		if err := add(at.Finish(s.record, segment.Changes, end)); err != nil {
			return err
		}
	}
	return add(at.Finish(make([]byte, segment.FrameSize), segment.Closed, end))
}

// failure says what failed, and wraps the sentinel of a fault of the file system.
func failure(op, path string, err error) error {
	var sentinel error
	switch {
	case errors.Is(err, directory.ErrInUse):
		sentinel = outbox.ErrInUse
	case errors.Is(err, directory.ErrKind), errors.Is(err, syscall.ENOTDIR):
		sentinel = outbox.ErrForeign
	case directory.IsFull(err):
		sentinel = outbox.ErrFull
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		sentinel = outbox.ErrReadOnly
	}
	if sentinel != nil && !errors.Is(err, sentinel) {
		err = fmt.Errorf("%w (%w)", sentinel, err)
	}
	return fmt.Errorf("%w (%s %s)", err, op, path)
}
