package limpettest

import (
	"context"
	"net"
	"os"
	"sync"
	"syscall"
)

// listener is a net.Listener on a Network.
type listener struct {
	net   *Network
	key   string // "host:port"
	addr  *net.TCPAddr
	queue chan *conn
	done  chan struct{}
	once  sync.Once
}

// offer queues c for Accept. It blocks while the backlog is full.
func (l *listener) offer(ctx context.Context, c *conn) error {
	select {
	case <-l.done:
		return os.NewSyscallError("connect", syscall.ECONNREFUSED)
	default:
	}
	select {
	case l.queue <- c:
		select {
		case <-l.done: // Close may already have emptied the queue
			l.drain()
		default:
		}
		return nil
	case <-l.done:
		return os.NewSyscallError("connect", syscall.ECONNREFUSED)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
	default:
		select {
		case c := <-l.queue:
			return c, nil
		case <-l.done:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
}

// Close stops listening and resets the connections that were not accepted.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.key)
		l.net.mu.Unlock()
		close(l.done)
		l.drain()
	})
	return nil
}

// drain resets the queued connections.
func (l *listener) drain() {
	for {
		select {
		case c := <-l.queue:
			c.abort()
		default:
			return
		}
	}
}

func (l *listener) Addr() net.Addr { return l.addr }
