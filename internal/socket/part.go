package socket

import (
	"errors"

	"github.com/limpet-go/limpet/internal/frame"
	"github.com/limpet-go/limpet/wire"
)

// Part is a part of a message that is sent piece by piece.
type Part struct {
	Type        wire.FrameType
	Data        []byte
	First, Last bool // it begins the message, it ends the message
}

// ErrNotText means that a text is not UTF-8. The part in which that shows was not written.
var ErrNotText = errors.New("text is not UTF-8")

// SendPart writes a part of a message and returns when the stream has accepted it. Between
// two parts only control frames may be written. Only the writer's goroutine may call it,
// and Send not before the last part.
func (c *Conn) SendPart(p Part) error {
	if p.First {
		c.text = frame.Text{}
	}
	if p.Type == wire.Text && !c.text.Valid(p.Data, p.Last) {
		return ErrNotText
	}
	return c.frames.SendPart(p.Type, p.Data, p.First, p.Last)
}
