// Package socket makes WebSocket connections and records when their peers last
// gave a sign of life. It dials, through a proxy where there is one, and leaves
// the frames to internal/frame or to the WebSocket library.
package socket

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/frame"
	"github.com/limpet-go/limpet/wire"
)

// Conn is one WebSocket connection: frames above a byte stream that records
// when bytes came and went. Its reader, its writer and its owner use disjoint
// methods. Kill may be called from any goroutine.
type Conn struct {
	frames
	Subprotocol   string
	LibraryFrames bool // the frames are the library's
	Fallback      bool // the stream below them is carried by plain HTTP requests

	stream *stream
	ctx    context.Context // with the library's frames; ends with Kill, so that the library never waits longer
	cancel context.CancelFunc
	onKill func()
	killed atomic.Bool
	text   frame.Text // of the message that SendPart writes
}

// frames reads and writes messages. *frame.Conn implements it with frames of
// our own (docs/decisions/0004), libraryFrames with those of the library.
type frames interface {
	// Receive blocks until data messages have come and returns all that are at
	// hand. They are valid until the next call. idle makes it hold little
	// memory while it waits: nothing is expected soon. Only the reader's
	// goroutine may call it.
	Receive(idle bool) ([]wire.Frame, error)

	// Send writes messages, the big ones in fragments, so that a ping of the
	// peer can be answered in between. Only the writer's goroutine may call it.
	Send(frames []wire.Frame) error

	// SendPart writes a part of a message in fragments: see Conn.SendPart.
	SendPart(t wire.FrameType, p []byte, first, last bool) error

	// Ping asks the peer for a sign of life. It may block until that comes.
	Ping() error

	// Close sends a close frame with code and closes the connection, within
	// timeout whatever the peer does. With code 0 it sends only the answer to
	// the peer's close frame, if one came. No other goroutine may be writing.
	Close(code uint16, reason string, timeout time.Duration)
}

// LastRead is when the peer last gave a sign of life. A message whose payload
// does not grow is none, however many empty frames it is cut into.
func (c *Conn) LastRead() time.Time {
	at := c.stream.lastRead.Load()
	if growth := c.stream.lastGrowth.Load(); growth != 0 {
		at = min(at, growth)
	}
	return c.stream.epoch.Add(time.Duration(at))
}

// Receiving reports whether a message is incomplete: nothing else can come before
// its end.
func (c *Conn) Receiving() bool { return c.stream.lastGrowth.Load() != 0 }

// ExpectPong makes FirstPong that of the ping which follows.
func (c *Conn) ExpectPong() { c.stream.firstPong.Store(0) }

// FirstPong is when the first pong since ExpectPong came; zero before it. Later ones answer
// no ping.
func (c *Conn) FirstPong() time.Time {
	at := c.stream.firstPong.Load()
	if at == 0 {
		return time.Time{}
	}
	return c.stream.epoch.Add(time.Duration(at))
}

// Pings is how many pings of the peer have come. Each is answered with a pong, which is
// not among what Send writes.
func (c *Conn) Pings() uint64 { return c.stream.pings.Load() }

// LastWrote is when the socket last accepted bytes.
func (c *Conn) LastWrote() time.Time {
	return c.stream.epoch.Add(time.Duration(c.stream.lastWrite.Load()))
}

// Kill releases everything that waits on the connection, and never waits for
// the peer. A second call does nothing.
func (c *Conn) Kill() {
	if c.killed.Swap(true) {
		return
	}
	if c.cancel != nil {
		c.cancel()
	}
	c.onKill()
	c.stream.kill()
}
