package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
)

// sockets are those that one attempt to connect has opened. The end of the
// attempt closes them: net/http detaches a dial from the context of the request
// that needs it, so a stage that stalls would keep its socket and its goroutines
// for ever.
type sockets struct {
	ctx   context.Context // of the attempt
	dials *atomic.Int32   // calls of the caller's dial functions in progress, of earlier attempts too

	reused bool // the transport opens and closes sockets as it likes: those that it closes are forgotten

	mu    sync.Mutex
	ended bool
	open  map[net.Conn]struct{}
}

// maxDials is how many calls of dial functions may be in progress. A function that
// ignores its context may never return, and its goroutine and socket cannot be ended.
const maxDials = 8

// HangingError means that too many calls of a dial function have not returned.
type HangingError struct{ Where string }

func (e *HangingError) Error() string {
	return fmt.Sprintf("%s: %d earlier calls have not returned although their attempts have ended; return when the context ends, or use Transport.DialContext", e.Where, maxDials)
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// dialer returns dial, which belongs to the caller of the client, with what an
// attempt needs: it ends with the attempt, its panics are errors, and its sockets
// are known.
func (s *sockets) dialer(name string, dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (nc net.Conn, err error) {
		defer recoverPanic(name, &err)
		if s.dials.Add(1); s.dials.Load() > maxDials {
			s.dials.Add(-1)
			return nil, &HangingError{name}
		}
		defer s.dials.Add(-1)
		ctx, cancel := context.WithCancel(ctx)
		defer context.AfterFunc(s.ctx, cancel)()
		nc, err = dial(ctx, network, addr)
		switch {
		case err != nil:
			cancel()
			return nil, checked(err)
		case nc == nil:
			cancel()
			return nil, errors.New(name + " returned neither a connection nor an error")
		}
		nc = s.forgetting(guardConn(name, nc))
		if !s.add(nc) {
			cancel()
			closeSocket(nc)
			return nil, net.ErrClosed
		}
		return nc, nil
	}
}

// forgetting returns nc with a Close that takes it out, where sockets are reused. net/http
// must see a *tls.Conn as what it is: such sockets stay until the end.
func (s *sockets) forgetting(nc net.Conn) net.Conn {
	if _, layered := nc.(interface{ NetConn() net.Conn }); !s.reused || layered {
		return nc
	}
	return &forgottenConn{nc, s}
}

// forgottenConn is a connection that its sockets forget when it is closed.
type forgottenConn struct {
	net.Conn
	sockets *sockets
}

func (f *forgottenConn) Close() error {
	f.sockets.mu.Lock()
	delete(f.sockets.open, f) // of a nil map nothing
	f.sockets.mu.Unlock()
	return f.Conn.Close()
}

func (s *sockets) add(nc net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.open[nc] = struct{}{}
	}
	return !s.ended
}

// release takes the socket below nc out: it outlives the attempt. It reports
// false if the attempt has ended, and the socket with it.
func (s *sockets) release(nc net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range maxLayers {
		if nc == nil || s.ended {
			break
		}
		if _, known := nc.(*guardedConn); known || reflect.TypeOf(nc).Comparable() {
			delete(s.open, nc)
		}
		nc = below(nc)
	}
	return !s.ended
}

// close closes every socket of the attempt, and those that a dial still brings.
func (s *sockets) close() {
	s.mu.Lock()
	open := s.open
	s.open, s.ended = nil, true
	s.mu.Unlock()
	for nc := range open {
		closeSocket(nc)
	}
}

// closeSocket closes nc and never waits for the peer: tls.Conn.Close may wait for
// a stalled write, but not once the socket below it is closed.
func closeSocket(nc net.Conn) {
	if socket, layers := innermost(nc); layers > 0 {
		socket.Close()
	}
	nc.Close()
}

// maxLayers bounds the walk down a connection: the caller's type may name itself as
// what carries it.
const maxLayers = 8

// innermost returns the connection below every layer of TLS that nc has, and how
// many there are.
func innermost(nc net.Conn) (socket net.Conn, layers int) {
	for next := below(nc); next != nil && layers < maxLayers; next = below(nc) {
		nc = next
		layers++
	}
	return nc, layers
}

// below returns the connection that carries nc; nil if there is none. crypto/tls
// and other implementations of TLS have this method.
func below(nc net.Conn) net.Conn {
	layer, ok := nc.(interface{ NetConn() net.Conn })
	if !ok {
		return nil
	}
	return layer.NetConn()
}
