// Package outbox defines where a client keeps the messages that it has to send, so that they
// outlive the process. [Memory] keeps them in memory, for tests; package outbox/file keeps them
// in files. outboxtest.Run tries any other implementation.
package outbox

import (
	"context"
	"errors"
	"time"
)

// Store keeps the messages of one client that have no outcome yet, and the state with which the
// client continues its session. One client uses a Store at a time, and calls one method at a
// time: limpet.New refuses a Store that another client of the process has, with ErrInUse, if it is equal (==) to it.
// A Store must not change, nor keep after a call has returned, what it is given.
type Store interface {
	// Load returns what is kept. A client calls it once, in limpet.New, before anything else. It may be
	// called again, as outboxtest does, and then returns what is kept by then. The caller may change
	// what it gets.
	Load(ctx context.Context) (*Content, error)

	// Commit makes a change, all of it or nothing. When it returns nil, a crash of the process or
	// of the machine loses nothing of this change and of those before it; a change that is Lazy
	// may still be lost until a later one that is not.
	//
	// After an error nothing of the change is kept, now or after a restart, and the client may go
	// on with other changes, unless the error wraps ErrUncertain. It is an error if the numbers of
	// the messages do not follow those that are there. ctx ends with the client; a call whose ctx has
	// ended before it begins keeps nothing.
	Commit(ctx context.Context, c *Change) error
}

// Content is what a Store keeps. The zero value is that of a new one.
type Content struct {
	State    []byte    // the last one committed; nil: none
	Through  uint64    // the messages up to this number are settled; 0: none
	Tag      ID        // the ID of message Through; zero if Through is 0
	Messages []Message // the others: their numbers are Through+1 and so on, without a gap
}

// Change is what a client commits at once. Its parts are applied in the order of the fields.
type Change struct {
	// Reset forgets all messages, and begins their numbers at 1.
	Reset bool

	// Messages are added. The Seq of the first is one more than the highest so far, and the
	// others follow without a gap.
	Messages []Message

	// Sent is from when on messages may have been sent.
	Sent Sent

	// Void are messages that have an outcome, but whose numbers the server has still to learn. Of
	// them only Seq and ID are kept, and Void is set.
	Void []Range

	// Settled are messages that are no longer needed. While one before it is, Seq and ID are kept,
	// and Settled is set.
	Settled []Range

	// Removed are messages that were never sent and are no longer needed: nothing is kept of them, and the
	// numbers of the messages behind them go down, so that there is no gap. All numbers in a change are those before that.
	// Numbers up to Through, and those that there are not, count for nothing.
	Removed []Range

	// State replaces the state, unless it is nil; an empty one counts. It has a few hundred bytes, and holds the key
	// of the session: whoever can read it can take over the session.
	State []byte

	// Lazy is whether the change may be lost in a crash. A crash before it is durable costs
	// messages that are sent again, and no promise.
	Lazy bool
}

// Sent says that messages up to Seq may have been sent at Time or later. It does not change
// those that may have been sent earlier. The zero value changes nothing.
type Sent struct {
	Seq  uint64
	Time time.Time
}

// Range is the numbers Lo to Hi, both included.
type Range struct{ Lo, Hi uint64 }

// ID is the id of a message: a UUID.
type ID = [16]byte

// Message is a message as it is kept.
type Message struct {
	Seq     uint64
	ID      ID
	Topic   string
	Payload []byte
	Type    string            // content type
	Header  map[string]string // application headers
	Added   time.Time         // when it was published, by the wall clock
	TTL     time.Duration     // from Added on; 0: it does not expire
	Sent    time.Time         // from when on it may have been sent; zero: it was not
	Resend  uint8             // the value of limpet.PublishOptions.Resend
	Void    bool
	Settled bool
}

// Errors of stores. Compare them with errors.Is.
var (
	// ErrUncertain means that a change may be kept or not: only Load, after a restart, can tell.
	// The store refuses all further changes.
	ErrUncertain = errors.New("outbox: it is not known whether the change was kept; restart the client on this outbox")

	// ErrCorrupt means that what is kept was damaged, and not by a crash.
	ErrCorrupt = errors.New("outbox: damaged; move it away with file.Quarantine, which returns what can be read, or repair it")

	// ErrInUse means that another process, another Store or another client uses this one: a client has it until its Done is
	// closed. Commit returns it if the numbers of the messages do not follow those that are there.
	ErrInUse = errors.New("outbox: in use by another client; end that one, or give each client a directory of its own")

	// ErrFormat means that a newer version of limpet has written it.
	ErrFormat = errors.New("outbox: written in a newer format; use the version of limpet that wrote it, or a later one")

	// ErrForeign means that it holds something that limpet has not written.
	ErrForeign = errors.New("outbox: not an outbox of limpet; use a directory that holds nothing else")

	// ErrFull means that the file system has no room left. A change that fails with it is not kept, and
	// a later one may succeed.
	ErrFull = errors.New("outbox: its file system is full; make room")

	// ErrReadOnly means that this process may not write it, or not read it.
	ErrReadOnly = errors.New("outbox: not accessible; make it writable for this user")

	// ErrClosed means that the store was closed.
	ErrClosed = errors.New("outbox: closed; open it again")
)
