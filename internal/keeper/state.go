// Package keeper decides what a client commits to its outbox next, and what follows when that
// is durable. It knows the store, and neither connections nor receipts.
package keeper

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/wire"
)

// State is what a client needs, besides its messages, to continue after a restart.
type State struct {
	Dialect string       // whose messages they are
	Conn    uint64       // connection numbers up to it may have been used
	Session wire.Session // zero: none that can be resumed
	Clock   time.Time    // the wall clock when it was written
}

// stateVersion is the first byte of an encoded State. Another layout gets the next number.
const stateVersion = 1

// encode returns s as bytes.
func (s *State) encode() []byte {
	b := []byte{stateVersion}
	text := func(t string) { b = append(binary.AppendUvarint(b, uint64(len(t))), t...) }
	text(s.Dialect)
	b = binary.AppendUvarint(b, s.Conn)
	text(s.Session.ID)
	text(string(s.Session.Key))
	b = binary.AppendUvarint(b, s.Session.Epoch)
	return binary.AppendVarint(b, s.Clock.UnixNano())
}

// decode reads what encode has written; nothing is the zero State. The error wraps
// outbox.ErrFormat for a later version, and outbox.ErrCorrupt for anything else.
func decode(b []byte) (s State, err error) {
	if len(b) == 0 {
		return s, nil
	}
	if b[0] != stateVersion {
		return s, fmt.Errorf("%w (state %d, this version of limpet knows %d)", outbox.ErrFormat, b[0], stateVersion)
	}
	b, bad := b[1:], false
	number := func() (n uint64) {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			bad = true
			return 0
		}
		b = b[size:]
		return n
	}
	text := func() string {
		n := number()
		if bad || n > uint64(len(b)) {
			bad = true
			return ""
		}
		t := string(b[:n])
		b = b[n:]
		return t
	}
	s.Dialect, s.Conn, s.Session.ID = text(), number(), text()
	if key := text(); key != "" {
		s.Session.Key = []byte(key)
	}
	s.Session.Epoch = number()
	clock, size := binary.Varint(b)
	if bad || size <= 0 || size != len(b) {
		return State{}, fmt.Errorf("%w: the state of the session cannot be read", outbox.ErrCorrupt)
	}
	s.Clock = time.Unix(0, clock)
	return s, nil
}
