// Package frame implements RFC 6455 frames over a byte stream that has already been
// upgraded, for the client's side or the server's: strict in what it accepts, bounded in
// memory and time whatever the peer does. What a client writes is masked.
//
// One goroutine reads and one writes messages; Ping and Close may be called from
// any goroutine. The reader never writes: the pongs that it owes wait in a bounded
// queue for the active writer, or for a goroutine that writes them. No lock is held
// while the stream is read or written.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// The opcodes of RFC 6455, section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa

	finBit   = 0x80
	rsvBits  = 0x70
	maskBit  = 0x80
	control  = 0x8 // of an opcode
	length16 = 126
	length64 = 127

	maxControl = 125 // bytes of payload of a control frame
	maxHeader  = 14  // bytes of a frame header
)

// The close codes that this package sends by itself (RFC 6455, section 7.4.1).
const (
	codeProtocol = 1002
	codeNoStatus = 1005 // never on the wire: stands for a close frame without a code
	codeInvalid  = 1007
	codePolicy   = 1008
	codeTooBig   = 1009
	codeInternal = 1011
)

// Sizes in bytes, and the lengths of batches.
const (
	maxReason     = maxControl - 2
	maxPongs      = 4 << 10  // pongs that wait to be written
	fragment      = 32 << 10 // one fragment of a long message: control frames pass between two
	writeSize     = 64 << 10 // messages are joined up to this size
	minUnit       = 4 << 10  // in place of both for a slow peer
	windowSize    = 64 << 10 // read buffer while there is traffic
	parkedSize    = 512      // read buffer while there is little traffic
	windowBatch   = 256      // messages that one Receive returns from the large buffer
	parkedBatch   = 3        // messages that one Receive returns from the small buffer
	keptMessage   = 1 << 20  // a larger buffer for joined messages is not reused
	controlBudget = 1000     // frames without data, within controlWindow
)

// CloseError is the close frame of the peer. Code is 1005 if the frame has none.
type CloseError struct {
	Code   uint16
	Reason string
}

// Error returns the code and the reason.
func (e *CloseError) Error() string {
	return fmt.Sprintf("peer closed with %d %q", e.Code, e.Reason)
}

// CloseCodeError is the close frame of the peer if its code is one that no close frame may
// carry. It wraps a *wire.CodeError, which has the code of the answer.
type CloseCodeError struct {
	Code   uint16
	Reason string
}

// Error returns the code.
func (e *CloseCodeError) Error() string {
	return fmt.Sprintf("peer closed with %d, a code that no close frame may carry (RFC 6455, section 7.4)", e.Code)
}

// Unwrap returns the violation.
func (e *CloseCodeError) Unwrap() error { return refuse(codeProtocol, "close code not allowed") }

// ErrClosing is returned by Receive and Send once this side closes.
var ErrClosing = errors.New("connection is closing")

// Options configure a Conn.
type Options struct {
	// Server makes this the server's side: it reads masked frames, writes frames without a
	// mask, does not check that text is UTF-8, which is left to the protocol above, and is the
	// one that closes the connection after the close frames.
	Server bool

	// ReadLimit bounds one received message, its fragments together, in bytes.
	ReadLimit int64

	// Kill closes the connection at once, whatever the peer does, and makes
	// every Read and Write of the stream return. It may be called more than
	// once and from any goroutine. Required.
	Kill func()

	// Go runs f on a goroutine, or returns false if no goroutine may be started
	// any more. Defaults to a go statement.
	Go func(f func()) bool

	// Grew is called on the reader's goroutine before it waits for the stream:
	// with true if the payload of an unfinished message has grown, with false
	// once no message is unfinished. Optional.
	Grew func(unfinished bool)

	// Ponged is called on the reader's goroutine when a pong has come, Pinged when a ping
	// has, which is answered. Both are optional.
	Ponged, Pinged func()
}

// Conn is one side of a WebSocket connection. Receive may be called by one
// goroutine at a time, Send by one at a time; Ping and Close may be called by any.
type Conn struct {
	stream io.ReadWriter
	o      Options

	reading atomic.Bool // a goroutine is inside read, or is Close
	closing atomic.Bool // Close was called
	closed  atomic.Bool // the close frame of the peer has come
	in      input
	out     output
}

// New returns a Conn over stream, which must deliver nothing but frames.
func New(stream io.ReadWriter, o Options) *Conn {
	if o.Go == nil {
		o.Go = func(f func()) bool { go f(); return true }
	}
	c := &Conn{stream: stream, o: o}
	c.out.cond.L = &c.out.mu
	c.out.unit, c.out.masks, c.in.server = writeSize, !o.Server, o.Server
	c.in.park()
	c.in.smallReads = parkAfter
	return c
}

// Closed reports whether a valid close frame of the peer has come.
func (c *Conn) Closed() bool { return c.closed.Load() }

// refuse returns the error for a violation by the peer.
func refuse(code uint16, reason string) error {
	return &wire.CodeError{Code: code, Reason: reason}
}

// ParseClose reads the payload of a close frame (RFC 6455, section 5.5.1). Its error is a
// *CloseError if the payload is valid, a *CloseCodeError if only the code is not, or else a
// *wire.CodeError.
func ParseClose(p []byte) error {
	switch {
	case len(p) == 0:
		return &CloseError{Code: codeNoStatus}
	case len(p) == 1:
		return refuse(codeProtocol, "close frame with a payload of one byte")
	}
	code, reason := binary.BigEndian.Uint16(p), p[2:]
	if !onWire(code) {
		return &CloseCodeError{code, string(reason)}
	}
	if !utf8.Valid(reason) {
		return refuse(codeInvalid, "close reason is not UTF-8")
	}
	return &CloseError{code, string(reason)}
}

// onWire reports whether a close frame may carry code: one that is registered with
// IANA, or one of the two private ranges.
func onWire(code uint16) bool {
	switch {
	case code == 1004, code == codeNoStatus, code == 1006:
		return false
	case code >= 1000 && code <= 1014, code >= 3000 && code <= 4999:
		return true
	}
	return false
}

// CloseReason makes s fit into a close frame: valid UTF-8 of at most 123 bytes, cut
// at a character boundary.
func CloseReason(s string) string {
	if len(s) > maxReason+utf8.UTFMax {
		s = s[:maxReason+utf8.UTFMax]
	}
	valid := make([]byte, 0, maxReason)
	for _, r := range s {
		if len(valid)+utf8.RuneLen(r) > maxReason {
			break
		}
		valid = utf8.AppendRune(valid, r)
	}
	return string(valid)
}
