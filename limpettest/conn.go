package limpettest

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// conn is one end of a link: a net.Conn.
type conn struct {
	l             *link
	in, out       *half
	local, remote net.Addr
	closed        *bool // a field of l
}

func (l *link) client(local, remote net.Addr) *conn {
	return &conn{l: l, in: &l.down, out: &l.up, local: local, remote: remote, closed: &l.clientClosed}
}

func (l *link) server(local, remote net.Addr) *conn {
	return &conn{l: l, in: &l.up, out: &l.down, local: local, remote: remote, closed: &l.serverClosed}
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.read(p)
	return n, c.wrap("read", err)
}

func (c *conn) read(p []byte) (int, error) {
	l, h := c.l, c.in
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if *c.closed {
			return 0, net.ErrClosed
		}
		if h.readBy.passed() {
			return 0, os.ErrDeadlineExceeded
		}
		if len(p) == 0 {
			return 0, nil
		}
		n, next := h.arrived()
		if n > 0 {
			n = h.take(p, n)
			l.cond.Broadcast()
			return n, nil
		}
		if h.rst {
			return 0, syscall.ECONNRESET
		}
		if h.fin && h.flight() == 0 {
			if h.finAt.IsZero() || !time.Now().Before(h.finAt) {
				return 0, io.EOF
			}
			next = h.finAt
		}
		l.wait(next)
	}
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.write(p)
	return n, c.wrap("write", err)
}

func (c *conn) write(p []byte) (int, error) {
	l, h := c.l, c.out
	l.mu.Lock()
	defer l.mu.Unlock()
	for h.writing {
		if err := c.writeErr(); err != nil {
			return 0, err
		}
		l.wait(time.Time{})
	}
	h.writing = true
	defer func() { h.writing = false; l.cond.Broadcast() }()

	if err := c.writeErr(); err != nil {
		return 0, err
	}
	for n := 0; n < len(p); {
		room := len(p) - n
		if !h.hole {
			room = min(room, h.max-h.flight())
		}
		if room > 0 {
			n += l.transit(h, p[n:n+room])
			l.cond.Broadcast()
			if l.ended && h.gone {
				return len(p), nil // a fault took the rest; the next write fails
			}
			continue
		}
		l.wait(time.Time{})
		if err := c.writeErr(); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// writeErr returns why a write fails, or nil.
func (c *conn) writeErr() error {
	switch h := c.out; {
	case *c.closed:
		return net.ErrClosed
	case h.writeBy.passed():
		return os.ErrDeadlineExceeded
	case h.rst:
		return syscall.ECONNRESET
	case h.gone || h.fin && !h.hole:
		return syscall.EPIPE
	}
	return nil
}

// Close ends both directions. As in TCP (RFC 1122, section 4.2.2.13), it resets the
// connection if received bytes are unread.
func (c *conn) Close() error {
	l := c.l
	l.mu.Lock()
	if *c.closed {
		l.mu.Unlock()
		return c.wrap("close", net.ErrClosed)
	}
	*c.closed = true
	unread := c.in.flight() > 0 && !l.ended
	c.in.buf, c.in.off, c.in.slots = nil, 0, nil
	switch {
	case c.out.hole:
		c.in.hole = true // no answer of this end arrives: the peer's writes vanish
	case unread:
		c.out.rst = true
		c.in.rst, c.in.gone = true, true
	default:
		c.out.end()
		c.in.gone = true
	}
	if l.clientClosed && l.serverClosed {
		l.ended = true
	}
	for _, d := range []*deadline{&c.in.readBy, &c.out.writeBy} {
		l.setDeadline(d, time.Time{})
	}
	l.cond.Broadcast()
	l.mu.Unlock()
	l.net.sweep(l)
	return nil
}

// CloseWrite ends the outgoing direction. The peer reads EOF and may still send.
func (c *conn) CloseWrite() error {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if *c.closed {
		return c.wrap("close", net.ErrClosed)
	}
	c.out.end()
	c.l.cond.Broadcast()
	return nil
}

// abort closes with RST.
func (c *conn) abort() {
	c.l.mu.Lock()
	if !*c.closed && !c.out.hole {
		c.l.reset()
	}
	c.l.mu.Unlock()
	_ = c.Close() // it may be closed already
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	return c.set(t, &c.in.readBy, &c.out.writeBy)
}
func (c *conn) SetReadDeadline(t time.Time) error  { return c.set(t, &c.in.readBy) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.set(t, &c.out.writeBy) }

func (c *conn) set(t time.Time, ds ...*deadline) error {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if *c.closed {
		return c.wrap("set", net.ErrClosed)
	}
	for _, d := range ds {
		c.l.setDeadline(d, t)
	}
	return nil
}

// wrap returns err in the form that package net gives it.
func (c *conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		err = os.NewSyscallError(op, no)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}
