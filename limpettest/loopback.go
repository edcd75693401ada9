package limpettest

import (
	"context"
	"io"
	"net"
	"sync"
)

// loopback forwards the connections of a real port of 127.0.0.1 to a network, where
// faults act on them. It forwards FIN and RST too.
type loopback struct {
	net    *Network
	addr   string
	ln     net.Listener
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newLoopback(n *Network, addr string) (*loopback, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &loopback{net: n, addr: addr, ln: ln}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.wg.Go(b.accept)
	return b, nil
}

func (b *loopback) accept() {
	for {
		outer, err := b.ln.Accept()
		if err != nil {
			return // closed
		}
		b.wg.Go(func() { b.carry(outer.(*net.TCPConn)) })
	}
}

// carry connects outer to the network until both directions have ended.
func (b *loopback) carry(outer *net.TCPConn) {
	inner, err := b.net.dial(b.ctx, b.addr)
	if err != nil {
		abortTCP(outer)
		return
	}
	stop := context.AfterFunc(b.ctx, func() { abortTCP(outer); inner.abort() })
	defer stop()
	var up sync.WaitGroup
	up.Go(func() {
		if _, err := io.Copy(writer{inner}, outer); err != nil {
			inner.abort()
			abortTCP(outer)
			return
		}
		_ = inner.CloseWrite() // it fails only if inner is closed
	})
	if _, err := io.Copy(writer{outer}, inner); err != nil {
		abortTCP(outer)
		inner.abort()
	}
	_ = outer.CloseWrite()
	up.Wait()
	_ = inner.Close()
	_ = outer.Close()
}

// writer hides all methods except Write, so that io.Copy uses no optimisation.
type writer struct{ io.Writer }

// abortTCP closes c with RST.
func abortTCP(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

func (b *loopback) close() {
	_ = b.ln.Close()
	b.cancel()
	b.wg.Wait()
}
