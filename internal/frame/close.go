package frame

import (
	"errors"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Close ends the connection within the given time, whatever the peer does. It sends
// a close frame with code and reason, which is cut to fit, then waits for the
// peer's close frame and for the end of the stream, discards what arrives, and
// kills the connection. A server does not wait for the end of the stream once both have
// sent a close frame (RFC 6455, section 7.1.1). With code 0 it sends no close frame, except as the answer
// to one that the peer has already sent. A second call returns at once.
//
// A Receive in progress continues and sees the peer's close frame. A later Receive
// fails.
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

// drain reads until the stream ends. Closing with unread bytes would cause a reset,
// which could overtake the close frame.
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
	switch {
	case !errors.As(err, &closed) && !errors.As(err, &refused):
		return // the stream has ended
	case closed != nil && c.o.Server:
		return
	}
	for err = nil; err == nil; {
		_, err = c.stream.Read(c.in.buf)
	}
}
