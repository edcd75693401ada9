// Package cursor keeps the position of a subscription across restarts of the process.
//
// A client is given a store with SubscribeOptions.Cursor and a name with
// SubscribeOptions.Name. It loads the cursor of that name when it subscribes, and saves
// the committed position after messages were processed:
//
//	store := cursor.File("/var/lib/quakes")
//	defer store.Close() // after the client: once Client.Done is closed
//	sub, err := client.Subscribe(ctx, "quakes", &limpet.SubscribeOptions{Cursor: store, Name: "map"})
//
// What was processed after the last save is delivered again after a crash. Nothing is
// skipped once the first save has ended. examples/consumer is a whole program.
//
// If the effect of a message is in a database, one transaction can commit both the effect
// and the position; then nothing is processed twice. examples/sqlcursor has such a Store.
package cursor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// Store keeps cursors by name. Implementations are safe for concurrent use. The client
// makes one call of Save for a name at a time. Load and Save should return when ctx ends: a
// Load that does not is given up. cursortest.Run tries a Store.
type Store interface {
	// Load returns the cursor that was saved last under a name, or the zero Cursor if
	// none was. It must not return a cursor that may be damaged: see ErrCorrupt.
	Load(ctx context.Context, name string) (Cursor, error)

	// Save replaces the cursor of a name. After an error, Load returns the new cursor
	// or the one before. The client tries again later. Save runs while consumers go on:
	// the position is the committed one when the call began.
	Save(ctx context.Context, name string, c Cursor) error
}

// Cursor is what a Store keeps: a position, and the feed to which it belongs. Epoch and Tag
// of the position may hold any bytes; Position.MarshalText and UnmarshalText make text of it
// for a column or a file.
type Cursor struct {
	Feed     Feed
	Position wire.Position
}

// Feed says to what a position belongs. A position means nothing elsewhere.
type Feed struct {
	Dialect string // the name of the dialect
	Host    string // of the URL, with the port if the URL names one
	Topic   string // as in Subscribe
}

// IsZero reports whether c is the zero Cursor: nothing was saved.
func (c Cursor) IsZero() bool { return c == Cursor{} }

// Check returns an error that wraps ErrOtherFeed if c does not belong to feed. A position
// with an Epoch is good on every host: the server compares the epoch. Without one, the
// host must be the same, but for its case, a dot at the end of its name, and port 80 or 443
// where the other names no port.
func (c Cursor) Check(feed Feed) error {
	different := ""
	switch {
	case c.Feed.Dialect != feed.Dialect:
		different = "dialect"
	case c.Feed.Topic != feed.Topic:
		different = "topic"
	case plainHost(c.Feed.Host) != plainHost(feed.Host) && c.Position.Epoch == "":
		different = "host"
	default:
		return nil
	}
	return fmt.Errorf("%w (its %s is another one)", ErrOtherFeed, different)
}

// plainHost returns the one spelling of a host. Both default ports are none, since a Feed
// does not say whether its URL is that of ws or of wss.
func plainHost(host string) string {
	host = strings.ToLower(host)
	for _, port := range []string{":80", ":443"} {
		host = strings.TrimSuffix(host, port)
	}
	return strings.TrimSuffix(host, ".")
}

// Errors of stores and of Cursor.Check, for errors.Is.
var (
	// ErrLocked means that another store uses the directory, in this process or in
	// another.
	ErrLocked = errors.New("directory of cursors is in use; use one store for each directory, and share it")
	// ErrCorrupt means that a saved cursor is damaged or was written by something else.
	ErrCorrupt = errors.New("saved cursor is damaged; restore it, or remove it to start as SubscribeOptions.From says")
	// ErrOtherFeed means that a cursor was saved for another dialect, topic or host.
	ErrOtherFeed = errors.New("saved cursor belongs to another feed; use another name")
	// ErrName means that a name is not allowed: see CheckName.
	ErrName = errors.New("name of a cursor must be UTF-8 of 1 to 255 bytes without control characters")
	// ErrReadOnly means that the directory or its file system cannot be written or read
	// by this process.
	ErrReadOnly = errors.New("directory of cursors is not accessible; make it writable")
	// ErrFull means that the file system has no room left.
	ErrFull = errors.New("file system of cursors is full; make room")
	// ErrDirectory means that the path is not a directory, or that it or a file in it is a
	// symbolic link or a special file.
	ErrDirectory = errors.New("no directory of cursors: symbolic links and special files are refused; use a directory of its own")
	// ErrTooBig means that a cursor has more than 64 KiB.
	ErrTooBig = errors.New("cursor is too big to be saved; shorten the topic or the name, or use another store")
	// ErrClosed means that the store was closed.
	ErrClosed = errors.New("store of cursors is closed; close it after the client")
)

const maxName = 255 // bytes

// CheckName returns an error that wraps ErrName if name is not UTF-8 of 1 to 255 bytes
// without control characters.
func CheckName(name string) error {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return ErrName
	}
	return nil
}

// Memory returns a Store that keeps cursors as long as the process lives. It is for tests,
// and for subscriptions that are closed and opened again.
func Memory() Store { return &memory{saved: make(map[string]Cursor)} }

type memory struct {
	mu    sync.Mutex
	saved map[string]Cursor
}

func (m *memory) Load(_ context.Context, name string) (Cursor, error) {
	if err := CheckName(name); err != nil {
		return Cursor{}, failure("load", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saved[name], nil
}

func (m *memory) Save(_ context.Context, name string, c Cursor) error {
	if err := CheckName(name); err != nil {
		return failure("save", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.saved[name] = c
	return nil
}

// Paced is a Store that says how often the client should save.
type Paced interface {
	Store

	// Pace returns after how many messages, and how long after a message was processed,
	// the client saves; 0 means that this does not count.
	Pace() (messages int, interval time.Duration)
}

// Every returns store with a slower pace: the client saves once n messages were processed
// since the last save, or d after the first of them, whichever comes first, and at the
// end. With n = 0 only d counts, with d = 0 only n; the client refuses a store for which
// neither does. Without Every it saves whenever the save before has ended. After a crash
// at most what Every holds back is delivered again.
//
// Every only says what it wants. The client paces its calls; it must be given what Every
// returned, not a Store that wraps it.
func Every(store Store, n int, d time.Duration) Store { return every{store, n, d} }

type every struct {
	Store
	messages int
	interval time.Duration
}

func (e every) Pace() (messages int, interval time.Duration) { return e.messages, e.interval }
