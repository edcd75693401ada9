// Package socket makes WebSocket connections and says when their peers last
// gave a sign of life. It dials, through a proxy where there is one, and leaves
// the frames to internal/frame or to the WebSocket library.
package socket

import (
	"context"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Conn is one WebSocket connection: a socket, and the byte stream below it,
// which says when bytes came and went. Its reader, its writer and its owner
// use disjoint methods; Kill is for everybody.
type Conn struct {
	frames
	Subprotocol   string
	LibraryFrames bool
	stream        *stream
	ctx           context.Context // on the plain path; ends with Kill: the library must never wait for longer
	cancel        context.CancelFunc
	onKill        func()
}

// frames reads and writes messages. There are two: *frame.Conn, whose frames are
// our own, and plain, whose frames are those of the library.
type frames interface {
	// Receive blocks until data messages have come, all that are at hand. They
	// are valid until the next call. While nothing is expected soon, idle makes
	// it hold little memory. The reader's goroutine only.
	Receive(idle bool) ([]wire.Frame, error)

	// Send writes messages, the big ones in fragments, so that a ping of the
	// peer can be answered in between. The writer's goroutine only.
	Send(frames []wire.Frame) error

	// Ping asks the peer for a sign of life. It may block until that comes.
	Ping() error

	// Close says goodbye with code and closes, within timeout whatever the peer
	// does. With code 0 it says nothing but the answer to a goodbye of the
	// peer's. Nobody else may be writing.
	Close(code uint16, reason string, timeout time.Duration)
}

// LastRead is when the peer last gave a sign of life. A message whose payload
// does not grow is none, however many empty frames it is cut into.
func (k *Conn) LastRead() time.Time {
	at := k.stream.read.Load()
	if m := k.stream.message.Load(); m != 0 {
		at = min(at, m)
	}
	return k.stream.epoch.Add(time.Duration(at))
}

func (k *Conn) LastWrote() time.Time {
	return k.stream.epoch.Add(time.Duration(k.stream.wrote.Load()))
}

// Kill ends everything that waits on the connection. It does not block on the
// peer.
func (k *Conn) Kill() {
	if k.cancel != nil {
		k.cancel()
	}
	k.onKill()
	k.stream.kill()
}
