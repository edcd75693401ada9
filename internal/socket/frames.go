package socket

import (
	"time"

	"github.com/limpet-go/limpet/internal/frame"
	"github.com/limpet-go/limpet/wire"
)

// tapped is a socket on frames of our own: the library dialled and checked the
// handshake, then let the stream go (docs/decisions/0004).
type tapped struct {
	frames *frame.Conn
}

func newTapped(k *Conn, limit int64, start func(func()) bool) *tapped {
	return &tapped{frame.New(k.stream, frame.Options{
		ReadLimit: limit, Kill: k.Kill, Go: start, Grew: k.stream.unfinished,
	})}
}

func (t *tapped) Receive(rest bool) ([]wire.Frame, error) {
	if rest {
		return t.frames.Wait()
	}
	return t.frames.Read()
}

func (t *tapped) Send(frames []wire.Frame) error { return t.frames.Write(frames) }

// Ping does not wait for the answer: whatever is received is a sign of life.
func (t *tapped) Ping() error { return t.frames.Ping() }

func (t *tapped) Close(code uint16, reason string, timeout time.Duration) {
	t.frames.Close(code, reason, timeout)
}
