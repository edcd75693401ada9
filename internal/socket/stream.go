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
	lastRead   atomic.Int64          // when bytes were last received, in ns since epoch
	lastWrite  atomic.Int64          // when the socket last accepted bytes
	firstPong  atomic.Int64          // when the first pong since ExpectPong came; 0: none
	pings      atomic.Uint64         // of the peer, so far
	lastGrowth atomic.Int64          // while a message is incomplete: when its payload last grew; else 0
	readFailed atomic.Bool           // nothing more will come
	writeError atomic.Pointer[error] // why nothing more can be sent
	counter    *messageCounter       // with the library's frames only

	// Of whoever writes.
	writeDeadline time.Duration // of a TCP socket, since epoch
	writeStep     int           // bytes written at once to any other stream
	whole         bool          // or all of them: it tells wrote itself what has gone

	// Of a stream that takes bytes before they are sent; else nil.
	flush     func(within time.Duration) // waits until they are
	closeSoon func()                     // closes it then, and does not wait
}

// newStream returns rwc, which nc carries, as a stream. direct means that nothing
// but TLS is between the two.
func newStream(rwc io.ReadWriteCloser, nc net.Conn, direct bool) *stream {
	s := &stream{ReadWriteCloser: rwc, epoch: time.Now(), writeStep: maxWriteStep / 4}
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
			if grew := s.counter.count(p[:n], s.pinged); grew && s.lastGrowth.Load() != 0 {
				s.messageGrew(true)
			}
		}
		return n, nil // the next read returns the error again
	}
	if err != nil {
		s.readFailed.Store(true)
	}
	return n, err
}

// While a write waits, progress is recorded about every progressTime: the loop takes it
// for a sign of life.
const (
	progressTime = 200 * time.Millisecond
	maxWriteStep = 8 << 10 // bytes of one step
	minWriteStep = 512
)

// Write records progress while it lasts. A write to a TCP socket is one system
// call, which a deadline interrupts within progressTime while the peer is slow.
// Other streams are written in steps, short ones if the peer is slow: TLS does not
// survive an interrupted write, and a body that a transport has wrapped may hide why
// one failed.
func (s *stream) Write(p []byte) (n int, err error) {
	tcp := s.tcp
	for first := true; (n < len(p) || first) && err == nil; first = false {
		step, began := p[n:], time.Duration(s.sinceEpoch())
		if tcp == nil && !s.whole {
			step = step[:min(len(step), s.writeStep)]
		} else if tcp != nil && began > s.writeDeadline-progressTime/2 {
			s.writeDeadline = began + progressTime
			tcp.SetWriteDeadline(s.epoch.Add(s.writeDeadline))
		}
		var m int
		m, err = s.ReadWriteCloser.Write(step)
		n += m
		if m > 0 {
			now := s.sinceEpoch()
			s.lastWrite.Store(now)
			switch took := time.Duration(now) - began; {
			case took > progressTime:
				s.writeStep = max(s.writeStep/2, minWriteStep)
			case took < progressTime/4:
				s.writeStep = min(2*s.writeStep, maxWriteStep)
			}
		}
		if err != nil && tcp != nil && isTimeout(err) {
			err, s.writeDeadline = nil, 0
		}
	}
	if err != nil {
		s.writeError.Store(&err)
	}
	return n, err
}

// isOfWrite reports whether err comes from a write that has failed.
func (s *stream) isOfWrite(err error) bool {
	failed := s.writeError.Load()
	return failed != nil && errors.Is(err, *failed)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// wrote records that bytes have gone below the stream, of one that is whole.
func (s *stream) wrote() { s.lastWrite.Store(s.sinceEpoch()) }

// messageGrew records that the payload of an incomplete message has grown or,
// with false, that no message is incomplete any more.
func (s *stream) messageGrew(incomplete bool) {
	if incomplete {
		s.lastGrowth.Store(s.sinceEpoch())
	} else {
		s.lastGrowth.Store(0)
	}
}

// ponged records that a pong has come.
func (s *stream) ponged() { s.firstPong.CompareAndSwap(0, s.sinceEpoch()) }

// pinged counts a ping of the peer.
func (s *stream) pinged() { s.pings.Add(1) }

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
	if d.stream.closeSoon != nil {
		d.stream.closeSoon() // the library closes as soon as it has written a close frame
		return nil
	}
	return d.stream.Close()
}
