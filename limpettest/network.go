package limpettest

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// NetworkOptions configures a Network. The zero value, or nil, is a network without
// latency.
type NetworkOptions struct {
	// Buffer bounds the bytes in flight in each direction of a connection.
	// Defaults to 64 KiB.
	Buffer int

	// Backlog bounds the connections of a listener that wait for Accept. Further
	// dials block. Defaults to 128.
	Backlog int

	// Up is the latency from client to server. Defaults to none.
	Up time.Duration

	// Down is the latency from server to client. Defaults to none.
	Down time.Duration

	// Dials is how many dials the network remembers at least: see Network.Dials.
	// Defaults to 32,768.
	Dials int

	// Capture makes the network keep the WebSocket messages: see Network.Captured.
	Capture bool
}

// Network is an in-memory network of stream connections that behave like TCP:
// bounded buffers, deadlines, FIN, RST, half-open connections. All waiting is
// durably blocking in the sense of testing/synctest, so virtual time advances
// when all goroutines wait. Code in a bubble must use a Network made in it.
//
// A Network is safe for concurrent use. Faults act on its connections: see
// Inject, Each and Strike.
type Network struct {
	buffer, backlog int
	up, down        time.Duration
	capture         bool
	seq             atomic.Uint64 // of captured messages
	effects         [KindAll]atomic.Int64
	midFrame        atomic.Int64
	maxDials        int
	done            chan struct{} // closed by Close
	once            sync.Once

	mu        sync.Mutex
	closed    bool
	listeners map[string]*listener
	links     map[*link]struct{} // open, or with captured messages
	port      int                // assigned last
	dials     []Dial
	dialled   int // dials
	script    []Fault
	each      func(dial int) Fault
}

// Dial is a dial that was made.
type Dial struct {
	At    time.Time // when it began
	Addr  string    // address dialled
	Fault Fault     // the fault of this dial; Refuse(n) shows as Refuse(1)
}

// NewNetwork returns a network without listeners; o may be nil.
func NewNetwork(o *NetworkOptions) *Network {
	var opt NetworkOptions
	if o != nil {
		opt = *o
	}
	return &Network{
		buffer:    max(cmp.Or(opt.Buffer, 64<<10), 1),
		backlog:   max(cmp.Or(opt.Backlog, 128), 1),
		up:        opt.Up,
		down:      opt.Down,
		capture:   opt.Capture,
		maxDials:  2 * max(cmp.Or(opt.Dials, 1<<15), 1),
		done:      make(chan struct{}),
		listeners: map[string]*listener{},
		links:     map[*link]struct{}{},
		port:      40000,
	}
}

// Listen makes addr, a "host:port", reachable for dials. Port 0 chooses a free port.
// The host may be any name; names are not resolved. The error is a *net.OpError
// if addr is in use or the network is closed.
func (n *Network) Listen(addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == "0" {
		n.port++
		port = strconv.Itoa(n.port)
	}
	l := &listener{
		net:   n,
		key:   net.JoinHostPort(host, port),
		queue: make(chan *conn, n.backlog),
		done:  make(chan struct{}),
	}
	l.addr = tcpAddr(l.key)
	switch {
	case n.closed:
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	case n.listeners[l.key] != nil:
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: l.addr, Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	n.listeners[l.key] = l
	return l, nil
}

// tcpAddr returns key as an address. A host that is a name becomes 127.0.0.1.
func tcpAddr(key string) *net.TCPAddr {
	host, port, _ := net.SplitHostPort(key) // key was split before
	p, _ := strconv.Atoi(port)              // a named port becomes 0
	ip := net.ParseIP(host)
	if ip == nil {
		ip = net.IPv4(127, 0, 0, 1)
	}
	return &net.TCPAddr{IP: ip, Port: p}
}

// DialContext connects to a listener, as net.Dialer.DialContext does. ctx bounds
// the dial only. If there is no listener, the error is ECONNREFUSED.
func (n *Network) DialContext(ctx context.Context, _, addr string) (net.Conn, error) {
	c, err := n.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (n *Network) dial(ctx context.Context, addr string) (*conn, error) {
	id, f := n.deal(addr)
	remote := tcpAddr(addr)
	fail := func(err error) (*conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: remote, Err: err}
	}
	var faults []Fault
	answered := false
	for _, f := range f.flat() {
		switch {
		case f.kind == KindRefuse:
			n.count(f.kind)
			return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
		case f.kind == KindStall && f.when.unit == unitNone:
			if f.d > 0 {
				n.count(f.kind)
			}
			if err := n.sleep(ctx, f.d); err != nil {
				return fail(err)
			}
		case f.kind != KindClean:
			answered = answered || f.kind == KindRefuseUpgrade
			faults = append(faults, f)
		}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}

	n.mu.Lock()
	ln := n.listeners[addr]
	if n.closed || ln == nil {
		closed := n.closed
		n.mu.Unlock()
		if closed {
			return fail(net.ErrClosed)
		}
		return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	l := newLink(n, id, addr, faults)
	n.links[l] = struct{}{}
	n.port++
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: n.port}
	n.mu.Unlock()

	client, server := l.client(local, remote), l.server(remote, local)
	l.mu.Lock()
	l.serverClosed = answered // there is no server: the network answers
	l.strike()
	l.mu.Unlock()
	if answered {
		return client, nil
	}
	if err := ln.offer(ctx, server); err != nil {
		client.abort()
		server.abort()
		return fail(err)
	}
	return client, nil
}

// sleep also ends when the network is closed: net/http does not cancel a dial that
// is no longer needed, and at the end of a bubble no goroutine may wait.
func (n *Network) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.done:
		return net.ErrClosed
	}
}

// deal counts a dial and takes its fault from the script, or else from Each.
func (n *Network) deal(addr string) (int, Fault) {
	n.mu.Lock()
	n.dialled++
	id, each := n.dialled, n.each
	f, scripted := n.next()
	n.mu.Unlock()
	if !scripted && each != nil {
		f = each(id)
	}
	n.mu.Lock()
	if len(n.dials) == n.maxDials {
		n.dials = slices.Delete(n.dials, 0, n.maxDials/2)
	}
	n.dials = append(n.dials, Dial{time.Now(), addr, f})
	n.mu.Unlock()
	return id, f
}

// next takes the fault of one dial from the script.
func (n *Network) next() (f Fault, ok bool) {
	for len(n.script) > 0 {
		f = n.script[0]
		if f.kind != KindRefuse {
			n.script = n.script[1:]
			return f, true
		}
		if f.n > 1 {
			n.script[0].n--
		} else {
			n.script = n.script[1:]
		}
		if f.n > 0 {
			return Refuse(1), true
		}
	}
	return Fault{}, false
}

// HTTPClient returns a client that dials in n. It uses no proxy and no keep-alive,
// and accepts at most 64 KiB of response headers.
func (n *Network) HTTPClient() *http.Client { return httpClient(n.DialContext) }

func httpClient(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:            dial,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}}
}

// Inject appends faults to the script. Each dial takes the next fault of the script.
func (n *Network) Inject(faults ...Fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.script = append(n.script, faults...)
}

// Each sets the policy for dials that find the script empty. policy is called with
// the number of the dial, from 1, possibly concurrently. Nil means no faults.
func (n *Network) Each(policy func(dial int) Fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.each = policy
}

// Script returns the faults that have not been taken yet.
func (n *Network) Script() Script {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.script)
}

// Dials returns the dials so far, refused ones included. Of a large number it
// returns at least the latest NetworkOptions.Dials.
func (n *Network) Dials() []Dial {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.dials)
}

// Strike applies f to every connection that is open now. Counts begin with the
// connection, so a count that has already been reached takes effect at once.
// Refusals and Clean have no effect.
func (n *Network) Strike(f Fault) { n.strike(f, "") }

// strike applies f to the open connections to addr; empty means all.
func (n *Network) strike(f Fault, addr string) {
	for _, l := range n.all() {
		l.mu.Lock()
		if !l.ended && (addr == "" || addr == l.addr) {
			for _, f := range f.flat() {
				if f.kind != KindRefuse && f.kind != KindRefuseUpgrade {
					l.rules = append(l.rules, f)
				}
			}
			l.strike()
		}
		l.mu.Unlock()
		n.sweep(l)
	}
}

// CutAll ends every open connection with FIN in both directions.
func (n *Network) CutAll() { n.Strike(Fault{kind: KindCut}) }

// ResetAll ends every open connection with RST in both directions.
func (n *Network) ResetAll() { n.Strike(Fault{kind: KindReset}) }

// Conns returns how many connections are open: established, and neither cut nor
// reset nor closed at both ends. Half-open connections count.
func (n *Network) Conns() int {
	open := 0
	for _, l := range n.all() {
		l.mu.Lock()
		if !l.ended {
			open++
		}
		l.mu.Unlock()
	}
	return open
}

// all returns the links in the order of their dials.
func (n *Network) all() []*link {
	n.mu.Lock()
	defer n.mu.Unlock()
	links := make([]*link, 0, len(n.links))
	for l := range n.links {
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b *link) int { return cmp.Compare(a.id, b.id) })
	return links
}

// sweep forgets l if it has ended, unless its messages must be kept.
func (n *Network) sweep(l *link) {
	if n.capture {
		return
	}
	l.mu.Lock()
	ended := l.ended
	l.mu.Unlock()
	if ended {
		n.mu.Lock()
		delete(n.links, l)
		n.mu.Unlock()
	}
}

// Close closes the listeners and resets the connections. Dials, including those in
// progress, fail with net.ErrClosed or ECONNREFUSED. Close may be called more than
// once.
func (n *Network) Close() {
	n.once.Do(func() { close(n.done) })
	n.mu.Lock()
	n.closed = true
	listeners := make([]*listener, 0, len(n.listeners))
	for _, l := range n.listeners {
		listeners = append(listeners, l)
	}
	n.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close() // it never fails
	}
	n.ResetAll()
}

// String describes n for test logs.
func (n *Network) String() string {
	return fmt.Sprintf("network with %d open connections, %d dials", n.Conns(), len(n.Dials()))
}
