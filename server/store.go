package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// Store keeps what outlives a server: the records of sessions, the log, and the ids
// of messages. Several servers may share one: then a client can resume its session at
// any of them. All rules of the protocol are in this package; a store keeps bytes and
// has one operation that changes anything, Commit, which is atomic.
//
// An implementation must be safe for concurrent use. Package storetest has what a
// store owes, as tests. After an error the connection ends with 4203 and the client
// comes back. A panic counts as an error.
type Store interface {
	// Load returns the record of a session and its version; version 0 means that
	// there is none. What it returns may be older than the newest Commit, which the
	// next Commit finds out, but after Sync it may not be older than that. The record
	// must not be changed.
	Load(ctx context.Context, session string) (record []byte, version uint64, err error)

	// Commit does all of c or nothing of it: see Change. It owns c.Entries from then on;
	// c and c.Record are the caller's again when it returns, so it keeps copies. When it returns no error, all must be as durable
	// as the store can make it: acknowledgements follow.
	//
	// The errors that mean that nothing was done, in this order: ErrConflict; ErrFull;
	// *KnownError; ErrForgotten. After any other error it is unknown whether c was or
	// will be done, but it is never done after another Commit for the same version.
	Commit(ctx context.Context, c *Change) (Committed, error)

	// Known returns those of ids that have an outcome, in any order. It may miss the newest
	// ones: Commit decides. It saves a message that is known the call of OnPublish.
	Known(ctx context.Context, who string, ids []wire.ID) ([]KnownID, error)

	// Sync returns once Load, Read, View and Tag show everything that any server
	// has committed before the call.
	Sync(ctx context.Context) error

	// Read fills dst with entries in order, beginning with the first one at or
	// after from, and returns how many it has read. It also returns the offset of
	// the oldest entry held at that moment; if that is greater than from, the
	// entries in between are gone. Read does not wait for new entries. It may return fewer
	// entries than there are, but at least one if View shows one at or after from.
	Read(ctx context.Context, from uint64, dst []*Entry) (n int, first uint64, err error)

	// View returns the bounds of the log as far as Read can read it. It must not
	// block: it is called before every write to a client. Within an epoch Head does
	// not fall and an entry stays the same, unless the log has lost its newest
	// entries: connections with subscriptions then end with 4203, and resume.
	View() View

	// Tag returns the tag of the entry at offset, and false if it is certain that no
	// entry is held there; an error if that is not known. The tag must be the 16 bytes
	// of Entry.ID.
	Tag(ctx context.Context, offset uint64) (tag []byte, held bool, err error)

	// Changed returns a channel that is closed once View or Read shows more than at the
	// time of the call.
	Changed() <-chan struct{}
}

// Change is what one Commit does: if the version of the session's record is Version and
// none of the ids is known, append Entries in their order, remember their ids and those
// of Refused for Keep, and store Record under a new, greater version.
type Change struct {
	// Session is the id of the session. Empty means a message of the program, which
	// has no record: Version, Record, TTL and Bound do not count.
	Session string

	// Version is that of the record that Record replaces; 0 means that there is none.
	Version uint64

	// Record is the new record, at most 64 KiB; nil removes it.
	Record []byte

	// TTL is how long the record must be kept if it is not replaced.
	TTL time.Duration

	// Bound means that a connection has the session. A store that has no room for all
	// records drops others first.
	Bound bool

	// Who is the principal of the session. Ids are known for each principal by itself.
	Who string

	// Entries are messages that are accepted, in the order of the log. Their ids are
	// different.
	Entries []Entry

	// Refused are messages of which the refusal is final.
	Refused []Refusal

	// Keep is how long the ids must be remembered.
	Keep time.Duration

	// Oldest is when the first of the messages may have been accepted before, in a session
	// that is gone; zero: none of them was. Those that are refused count too, also where
	// Refused does not have them: "rejected" would be untrue. If the store no longer knows all ids of
	// messages that were accepted since, it returns ErrForgotten.
	Oldest time.Time
}

// Refusal is a message that was refused for good: its id has an outcome, too.
type Refusal struct {
	ID   wire.ID
	Hash uint64 // as Entry.Hash
	Code uint64 // docs/protocol.md, section 7
}

// Committed is what a Commit has done.
type Committed struct {
	Version uint64 // of the record
	Offset  uint64 // of the last of Change.Entries; 0 if there are none
}

// KnownID is a message id that has an outcome.
type KnownID struct {
	ID     wire.ID
	Hash   uint64 // of the message that had it first; 0: not known
	Code   uint64 // of its refusal; 0: it was accepted
	Offset uint64 // of its entry; 0: refused, or not known
}

// KnownError is the error of a Commit with ids that have an outcome: all of them.
type KnownError struct{ IDs []KnownID }

// Error says how many ids are known.
func (e *KnownError) Error() string {
	return fmt.Sprintf("server: %d message ids are known to the store", len(e.IDs))
}

// Errors of Store.Commit.
var (
	// ErrConflict: the version of the record is another one.
	ErrConflict = errors.New("server: the record of the session has another version")

	// ErrFull: the store has no room for one more session.
	ErrFull = errors.New("server: the store has no room for one more session")

	// ErrForgotten: the store no longer knows all ids since Change.Oldest.
	ErrForgotten = errors.New("server: the store no longer knows all ids of that time")
)

// HashOf returns Entry.Hash for a topic and a payload, never 0. It never changes, so a store may
// keep it. It tells a mistake from a repetition: who makes two messages with the same hash on
// purpose deceives only themselves, because ids are known for each principal by itself.
func HashOf(topic string, payload []byte) uint64 {
	return max(mix(mix(uint64(len(topic)), topic), payload), 1)
}

// mix adds data to a hash: each eight bytes with a multiplication of which both halves count.
func mix[T string | []byte](h uint64, data T) uint64 {
	const a, b = 0x9e3779b97f4a7c15, 0xd6e8feb86659fd93
	n := uint64(len(data))
	for ; len(data) >= 8; data = data[8:] {
		_ = data[7] // one load for the eight
		word := uint64(data[0]) | uint64(data[1])<<8 | uint64(data[2])<<16 | uint64(data[3])<<24 |
			uint64(data[4])<<32 | uint64(data[5])<<40 | uint64(data[6])<<48 | uint64(data[7])<<56
		hi, lo := bits.Mul64(h^word^a, b)
		h = hi ^ lo
	}
	rest := uint64(0)
	for i := range len(data) {
		rest |= uint64(data[i]) << (8 * i)
	}
	hi, lo := bits.Mul64(h^rest^a, n^b)
	return hi ^ lo
}

// checkView returns what is wrong with the constant parts of a view.
func checkView(v View) error {
	switch {
	case v.Epoch == "" || len(v.Epoch) > 255 || !utf8.ValidString(v.Epoch):
		return fmt.Errorf("server: View.Epoch %q must be 1 to 255 bytes of UTF-8", v.Epoch)
	case len(v.Base) > 16:
		return fmt.Errorf("server: View.Base has %d bytes; at most 16 fit into a frame", len(v.Base))
	}
	return nil
}

// safely turns panics of a store into errors. Those of Read, View, Tag and Changed are
// recovered by their callers.
type safely struct {
	Store
	log *slog.Logger
}

func (s safely) Load(ctx context.Context, session string) (record []byte, version uint64, err error) {
	defer recovered(s.log, &err)
	return s.Store.Load(ctx, session)
}

func (s safely) Commit(ctx context.Context, c *Change) (done Committed, err error) {
	defer recovered(s.log, &err)
	return s.Store.Commit(ctx, c)
}

func (s safely) Known(ctx context.Context, who string, ids []wire.ID) (known []KnownID, err error) {
	defer recovered(s.log, &err)
	return s.Store.Known(ctx, who, ids)
}

func (s safely) Sync(ctx context.Context) (err error) {
	defer recovered(s.log, &err)
	return s.Store.Sync(ctx)
}
