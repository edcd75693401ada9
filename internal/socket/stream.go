package socket

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// stream is the byte stream of an upgraded connection, below either frame layer.
// Every received byte is a sign of life, and closing the socket below it releases
// whatever waits.
type stream struct {
	io.ReadWriteCloser
	socket     net.Conn     // below all TLS; nil if the transport did not report it
	tcp        *net.TCPConn // whose writes deadlines may interrupt; nil if there is none
	epoch      time.Time
	lastRead   atomic.Int64    // when bytes were last received, in ns since epoch
	lastWrite  atomic.Int64    // when the socket last accepted bytes
	lastGrowth atomic.Int64    // while a message is incomplete: when its payload last grew; else 0
	readFailed atomic.Bool     // nothing more will come
	counter    *messageCounter // with the library's frames only

	writeDeadline time.Duration // of a TCP socket, since epoch; belongs to whoever writes
}

// newStream returns rwc, which nc carries, as a stream. direct means that nothing
// but TLS is between the two.
func newStream(rwc io.ReadWriteCloser, nc net.Conn, direct bool) *stream {
	s := &stream{ReadWriteCloser: rwc, epoch: time.Now()}
	layers := 0
	if nc != nil {
		s.socket, layers = innermost(nc)
	}
	if direct && layers == 0 {
		s.tcp, _ = nc.(*net.TCPConn)
	}
	s.lastRead.Store(1)
	s.lastWrite.Store(1)
	return s
}

// sinceEpoch is never 0.
func (s *stream) sinceEpoch() int64 { return int64(time.Since(s.epoch)) + 1 }

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ReadWriteCloser.Read(p)
	if n > 0 {
		s.lastRead.Store(s.sinceEpoch())
		if s.counter != nil {
			s.counter.count(p[:n])
		}
		return n, nil // the next read returns the error again
	}
	if err != nil {
		s.readFailed.Store(true)
	}
	return n, err
}

// writeStep is how many bytes are written before progress is recorded: at 8 kbit/s
// that takes 8 s, about half the time after which a write counts as stalled.
const writeStep = 8 << 10

// Write records progress while it lasts. A write to a TCP socket is one system
// call, which a deadline interrupts within a second while the peer is slow.
// Other streams are written in steps: TLS does not survive an interrupted
// write, and a body that a transport has wrapped may hide why one failed.
func (s *stream) Write(p []byte) (n int, err error) {
	tcp := s.tcp
	for first := true; (n < len(p) || first) && err == nil; first = false {
		step := p[n:]
		if tcp == nil {
			step = step[:min(len(step), writeStep)]
		} else if now := time.Duration(s.sinceEpoch()); now > s.writeDeadline-time.Second/2 {
			s.writeDeadline = now + time.Second
			tcp.SetWriteDeadline(s.epoch.Add(s.writeDeadline))
		}
		var m int
		m, err = s.ReadWriteCloser.Write(step)
		n += m
		if m > 0 {
			s.lastWrite.Store(s.sinceEpoch())
		}
		if timeout := net.Error(nil); tcp != nil && errors.As(err, &timeout) && timeout.Timeout() {
			err, s.writeDeadline = nil, 0
		}
	}
	return n, err
}

// messageGrew records that the payload of an incomplete message has grown or,
// with false, that no message is incomplete any more.
func (s *stream) messageGrew(incomplete bool) {
	if incomplete {
		s.lastGrowth.Store(s.sinceEpoch())
	} else {
		s.lastGrowth.Store(0)
	}
}

// kill closes the socket itself first: tls.Conn.Close may wait for a stalled
// write.
func (s *stream) kill() {
	if s.socket != nil {
		s.socket.Close()
	}
	s.ReadWriteCloser.Close()
}

// detachableStream is what the library reads from and writes to. Once detached
// it is closed, so the library may keep it in its pools. Before the upgrade is
// complete nothing can be read: the library would wait for the body of a bad 101.
type detachableStream struct {
	stream   *stream
	upgraded bool
}

func (d *detachableStream) detach() { d.stream = nil }

func (d *detachableStream) Read(p []byte) (int, error) {
	switch {
	case d.stream == nil:
		return 0, net.ErrClosed
	case !d.upgraded:
		return 0, io.EOF
	}
	return d.stream.Read(p)
}

func (d *detachableStream) Write(p []byte) (int, error) {
	if d.stream == nil {
		return 0, net.ErrClosed
	}
	return d.stream.Write(p)
}

func (d *detachableStream) Close() error {
	if d.stream == nil {
		return nil
	}
	return d.stream.Close()
}
