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
		nc = guardConn(name, nc)
		if !s.add(nc) {
			cancel()
			closeSocket(nc)
			return nil, net.ErrClosed
		}
		return nc, nil
	}
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
