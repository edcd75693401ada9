package socket

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// stream is the byte stream of an upgraded connection, whoever makes frames of
// it: every received byte is a sign of life, and closing the socket below
// releases whatever waits.
type stream struct {
	io.ReadWriteCloser
	raw     net.Conn // the socket below TLS, nil if the transport did not tell
	secure  bool     // there is TLS above it
	epoch   time.Time
	read    atomic.Int64 // when bytes were last received, ns since epoch
	wrote   atomic.Int64 // when bytes were last accepted by the socket
	message atomic.Int64 // while a message is being received: when its payload last grew; else 0
	ended   atomic.Bool  // a read failed
	whole   *whole       // on the plain path

	interrupt time.Duration // deadline of a write to a TCP socket, since epoch; of whoever writes
}

func newStream(rwc io.ReadWriteCloser, nc net.Conn) *stream {
	s := &stream{ReadWriteCloser: rwc, raw: nc, epoch: time.Now()}
	if t, ok := nc.(*tls.Conn); ok {
		s.raw, s.secure = t.NetConn(), true
	}
	s.read.Store(1)
	s.wrote.Store(1)
	return s
}

func (s *stream) now() int64 { return int64(time.Since(s.epoch)) + 1 }

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ReadWriteCloser.Read(p)
	if n > 0 {
		s.read.Store(s.now())
		if s.whole != nil {
			s.whole.follow(p[:n])
		}
		return n, nil // an error is told again
	}
	if err != nil {
		s.ended.Store(true)
	}
	return n, err
}

// writeStep is how much is written without a look at how it goes: on a link of
// 8 kbit/s a step takes half of stallTimeout.
const writeStep = 8 << 10

// Write shows progress while it lasts. A write to a TCP socket is one system
// call that is interrupted within a second while the peer is slow; elsewhere it
// goes out in steps, since TLS does not survive an interrupted write.
func (s *stream) Write(p []byte) (n int, err error) {
	tcp, _ := s.raw.(*net.TCPConn)
	if s.secure {
		tcp = nil
	}
	for first := true; (n < len(p) || first) && err == nil; first = false {
		step := p[n:]
		if tcp == nil {
			step = step[:min(len(step), writeStep)]
		} else if now := time.Duration(s.now()); now > s.interrupt-time.Second/2 {
			s.interrupt = now + time.Second
			tcp.SetWriteDeadline(s.epoch.Add(s.interrupt))
		}
		var m int
		m, err = s.ReadWriteCloser.Write(step)
		n += m
		if m > 0 {
			s.wrote.Store(s.now())
		}
		if tcp != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			err, s.interrupt = nil, 0
		}
	}
	return n, err
}

// unfinished says that the payload of an unfinished message has grown, or that
// no message is unfinished any more.
func (s *stream) unfinished(grew bool) {
	if grew {
		s.message.Store(s.now())
	} else {
		s.message.Store(0)
	}
}

// kill closes the socket itself: tls.Conn.Close may wait for a stalled write.
func (s *stream) kill() {
	if s.raw != nil {
		s.raw.Close()
	}
	s.ReadWriteCloser.Close()
}

// lent is a stream as the library sees it. Without stream it is closed, which
// the library may keep in its pools for as long as it likes.
type lent struct{ stream *stream }

func (l *lent) Read(p []byte) (int, error) {
	if l.stream == nil {
		return 0, net.ErrClosed
	}
	return l.stream.Read(p)
}

func (l *lent) Write(p []byte) (int, error) {
	if l.stream == nil {
		return 0, net.ErrClosed
	}
	return l.stream.Write(p)
}

func (l *lent) Close() error {
	if l.stream == nil {
		return nil
	}
	return l.stream.Close()
}
