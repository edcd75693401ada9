package main

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// mark is a fault that ended or refused a connection.
type mark struct {
	kind kind
	from time.Time // of a black hole: when bytes began to vanish; otherwise at
	at   time.Time // when it happened
}

// proxy forwards connections between the client and the server, on real loopback
// sockets, and applies a list of faults: each connection takes the next one. When the
// list is empty the proxy is transparent. A fault whose connection ended before it
// returns to the front of the list, so that only faults that happened are counted.
type proxy struct {
	ln     net.Listener
	target string

	mu       sync.Mutex // leaf
	plan     []fault
	inFlight int // faults taken by a connection
	marks    []mark
	conns    map[net.Conn]struct{}
	closed   bool
	done     chan struct{} // closed when every fault has happened
	wg       sync.WaitGroup
}

// startProxy listens on a free port of 127.0.0.1 and passes connections on to
// target, a host:port.
func startProxy(target string, plan []fault) (*proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{ln: ln, target: target, plan: plan, conns: map[net.Conn]struct{}{}, done: make(chan struct{})}
	if len(plan) == 0 {
		close(p.done)
	}
	p.wg.Add(1)
	go p.accept()
	return p, nil
}

func (p *proxy) addr() string { return p.ln.Addr().String() }

// close ends the proxy and every connection. It returns when its goroutines
// have ended.
func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.ln.Close()
	p.wg.Wait()
}

// happened returns the faults so far.
func (p *proxy) happened() []mark {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]mark(nil), p.marks...)
}

func (p *proxy) accept() {
	defer p.wg.Done()
	for {
		c, err := p.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			<-time.After(10 * time.Millisecond) // out of descriptors, or the like
			continue
		}
		f := p.take()
		if f != nil && f.kind == refuse {
			abort(c)
			p.happen(f, time.Now())
			continue
		}
		l := &link{p: p, client: c.(*net.TCPConn), fault: f, over: make(chan struct{})}
		if !p.track(c) {
			c.Close()
			return
		}
		p.wg.Add(1)
		go l.run()
	}
}

// take removes the next fault from the list; of a series of refusals, one.
func (p *proxy) take() *fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.plan) == 0 {
		return nil
	}
	f := p.plan[0]
	if f.kind == refuse && f.dials > 1 {
		p.plan[0].dials--
	} else {
		p.plan = p.plan[1:]
	}
	p.inFlight++
	return &f
}

// putBack returns a fault that did not happen.
func (p *proxy) putBack(f *fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plan = append([]fault{*f}, p.plan...)
	p.inFlight--
}

// happen records that f has happened, and that it began at from.
func (p *proxy) happen(f *fault, from time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.marks = append(p.marks, mark{f.kind, from, time.Now()})
	p.inFlight--
	if len(p.plan) == 0 && p.inFlight == 0 {
		close(p.done)
	}
}

// track remembers c for close. It reports false when the proxy is closed.
func (p *proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// abort closes c with RST.
func abort(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	c.Close()
}

// link is one connection through the proxy: a pump in each direction.
type link struct {
	p              *proxy
	client, server *net.TCPConn
	over           chan struct{} // closed when both pumps have ended

	mu      sync.Mutex // leaf
	fault   *fault     // nil: none, or it has happened
	swallow bool       // read and forward nothing
	hole    time.Time  // when a black hole began
	armed   bool       // a reset may happen in the chosen direction
	any     bool       // a reset may happen in either direction
	up      stream     // what the client sends
	down    stream
}

func (l *link) run() {
	defer l.p.wg.Done()
	defer l.p.forget(l.client)
	defer l.client.Close()
	s, err := net.Dial("tcp", l.p.target)
	if err != nil {
		abort(l.client)
		l.leave()
		return
	}
	l.server = s.(*net.TCPConn)
	defer l.server.Close()
	if !l.p.track(s) {
		l.leave()
		return
	}
	defer l.p.forget(s)

	var pumps sync.WaitGroup
	pumps.Go(func() { l.pump(l.server, l.client, &l.up) })
	pumps.Go(func() { l.pump(l.client, l.server, &l.down) })
	pumps.Wait()
	close(l.over)
	l.leave()
}

// leave returns an unused fault to the list.
func (l *link) leave() {
	l.mu.Lock()
	f := l.fault
	l.fault = nil
	l.mu.Unlock()
	if f != nil {
		l.p.putBack(f)
	}
}

// pump forwards one direction until its source ends.
func (l *link) pump(dst, src *net.TCPConn, dir *stream) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		pass, act := l.look(dir, buf[:n])
		if len(pass) > 0 {
			if _, err := dst.Write(pass); err != nil {
				src.Close()
				return
			}
		}
		if act != nil {
			act()
			continue
		}
		if err != nil {
			l.ended(dst, src, dir, err)
			return
		}
	}
}

// look follows data and decides how much of it passes. It returns what to do after
// that, if the fault happens here.
func (l *link) look(dir *stream, data []byte) (pass []byte, act func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.swallow {
		return nil, nil
	}
	for i, b := range data {
		wasOpen := dir.open()
		dir.step(b)
		f := l.fault
		if f == nil {
			continue
		}
		if dir == &l.down && !wasOpen && dir.open() && f.answer == 0 {
			l.plan(f)
		}
		switch {
		case f.kind == cut && f.answer > 0 && dir == &l.down && dir.bytes == f.answer:
			return data[:i+1], l.cut
		case f.kind == reset && l.armed && (l.any || f.up == (dir == &l.up)) && dir.within(f.inside):
			l.swallow = true
			return data[:i+1], l.reset
		}
	}
	return data, nil
}

// armedFor is how long a reset waits for a frame in its direction.
const armedFor = time.Second

// plan starts the timer of the fault. The caller holds l.mu.
func (l *link) plan(f *fault) {
	l.p.wg.Add(1)
	go func() {
		defer l.p.wg.Done()
		t := time.NewTimer(f.after)
		defer t.Stop()
		select {
		case <-l.over:
			return
		case <-t.C:
		}
		switch f.kind {
		case cut:
			l.cut()
		case blackhole:
			l.mu.Lock()
			l.swallow, l.hole = true, time.Now() // recorded when the client gives up
			l.mu.Unlock()
		case reset:
			l.mu.Lock()
			l.armed = true
			l.mu.Unlock()
			t.Reset(armedFor) // an idle direction must not save the connection
			select {
			case <-l.over:
			case <-t.C:
				l.mu.Lock()
				l.any = true
				l.mu.Unlock()
			}
		}
	}()
}

// strike records the fault, unless it has happened already, and stops the traffic.
func (l *link) strike() bool {
	l.mu.Lock()
	f, from := l.fault, l.hole
	l.fault = nil
	l.swallow = true
	l.mu.Unlock()
	if f == nil {
		return false
	}
	if from.IsZero() {
		from = time.Now()
	}
	l.p.happen(f, from)
	return true
}

// cut ends both directions with FIN. For a second it reads and discards what still
// arrives: closing with unread bytes would cause a reset.
func (l *link) cut() {
	if !l.strike() {
		return
	}
	limit := time.Now().Add(time.Second)
	for _, c := range []*net.TCPConn{l.client, l.server} {
		_ = c.CloseWrite()
		_ = c.SetReadDeadline(limit)
	}
}

// reset ends both directions with RST.
func (l *link) reset() {
	if l.strike() {
		abort(l.client)
		abort(l.server)
	}
}

// ended forwards the end of src, unless the fault has stopped the traffic.
func (l *link) ended(dst, src *net.TCPConn, dir *stream, err error) {
	l.mu.Lock()
	swallow, f := l.swallow, l.fault
	l.mu.Unlock()
	switch {
	case !swallow && errors.Is(err, io.EOF):
		_ = dst.CloseWrite()
	case !swallow:
		abort(dst)
	case f != nil && f.kind == blackhole && dir == &l.up:
		l.strike() // the client gave up; the server must detect that by itself
		src.Close()
	}
}
