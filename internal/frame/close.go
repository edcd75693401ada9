package frame

import (
	"errors"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Close ends the connection within the time given, whatever the peer does. It
// sends the one close frame with code and reason, cut to fit, waits for the
// peer's and for the end of the stream, discarding what comes, and then kills
// the connection. With code 0 there is no close frame but the answer to one
// that the peer sent already. A second call returns at once.
//
// A Receive that is under way goes on and sees the peer's close frame; no later
// one succeeds.
func (c *Conn) Close(code uint16, reason string, within time.Duration) {
	if !c.closing.CompareAndSwap(false, true) {
		return
	}
	defer c.o.Kill()
	o := &c.out
	o.mu.Lock()
	if code != 0 {
		o.close(code, reason)
	}
	goodbye := o.closing
	o.mu.Unlock()
	if !goodbye {
		return
	}
	defer time.AfterFunc(within, c.o.Kill).Stop()
	if err := c.settle(); err != nil && !errors.Is(err, ErrClosing) {
		return
	}
	c.drain()
}

// drain reads until the stream ends. A reset, which closing with bytes unread
// would cause, could overtake our close frame.
func (c *Conn) drain() {
	o := &c.out
	o.mu.Lock()
	for !c.reading.CompareAndSwap(false, true) {
		o.cond.Wait()
	}
	o.mu.Unlock()
	c.in.detach()
	var err error
	for err == nil {
		_, err = c.read()
	}
	var closed *CloseError
	var refused *wire.CodeError
	if !errors.As(err, &closed) && !errors.As(err, &refused) {
		return // the stream has ended
	}
	for err = nil; err == nil; {
		_, err = c.stream.Read(c.in.buf)
	}
}
