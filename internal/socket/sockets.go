package socket

import (
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"runtime/debug"
	"sync"
)

// sockets are those that one attempt to connect has opened. The end of the
// attempt closes them: net/http detaches a dial from the context of the request
// that needs it, so a stage that stalls would keep its socket and its goroutines
// for ever.
type sockets struct {
	ctx context.Context // of the attempt

	mu    sync.Mutex
	ended bool
	open  map[net.Conn]struct{}
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// dialer returns dial, which belongs to the caller of the client, with what an
// attempt needs: it ends with the attempt, its panics are errors, and its sockets
// are known.
func (s *sockets) dialer(name string, dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (nc net.Conn, err error) {
		defer recoverPanic(name, &err)
		ctx, cancel := context.WithCancel(ctx)
		defer context.AfterFunc(s.ctx, cancel)()
		nc, err = dial(ctx, network, addr)
		switch {
		case err != nil:
			cancel()
			return nil, err
		case nc == nil:
			cancel()
			return nil, errors.New(name + " returned neither a connection nor an error")
		case !canCompare(nc):
			nc = &opaque{nc}
		}
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
	for ; nc != nil && !s.ended; nc = below(nc) {
		if canCompare(nc) {
			delete(s.open, nc)
		}
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

// innermost returns the connection below every layer of TLS that nc has, and how
// many there are.
func innermost(nc net.Conn) (socket net.Conn, layers int) {
	for next := below(nc); next != nil; next = below(nc) {
		nc = next
		layers++
	}
	return nc, layers
}

// opaque is a connection whose own type cannot be compared.
type opaque struct{ net.Conn }

func canCompare(nc net.Conn) bool { return reflect.ValueOf(nc).Comparable() }

// below returns the connection that carries nc; nil if there is none. crypto/tls
// and other implementations of TLS have this method.
func below(nc net.Conn) net.Conn {
	layer, ok := nc.(interface{ NetConn() net.Conn })
	if !ok {
		return nil
	}
	return layer.NetConn()
}

// Panic is a panic of a function that belongs to the caller of the client.
type Panic struct {
	Where string // the function
	Value any
	Stack []byte
}

func (p *Panic) Error() string { return p.Where + " panicked" }

// recoverPanic makes a panic the error of the function that defers it. net/http
// calls most of the caller's functions on goroutines of its own, where a panic
// would end the process.
func recoverPanic(where string, err *error) {
	if p := recover(); p != nil {
		*err = &Panic{where, p, debug.Stack()}
	}
}

// guardedBody is an upgraded connection as the caller's transport wrapped it.
type guardedBody struct{ body io.ReadWriteCloser }

func (g guardedBody) Read(p []byte) (n int, err error) {
	defer recoverPanic("the response body of Options.HTTPClient", &err)
	return g.body.Read(p)
}

func (g guardedBody) Write(p []byte) (n int, err error) {
	defer recoverPanic("the response body of Options.HTTPClient", &err)
	return g.body.Write(p)
}

func (g guardedBody) Close() (err error) {
	defer recoverPanic("the response body of Options.HTTPClient", &err)
	return g.body.Close()
}
