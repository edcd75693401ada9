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

// NetworkOptions is how a Network behaves. The zero value, or nil, is a fast
// network with buffers of 64 KiB.
type NetworkOptions struct {
	Buffer  int           // bytes in flight per direction, at least 1; 0: 64 KiB
	Backlog int           // connections waiting for Accept per listener; 0: 128. Further dials wait
	Up      time.Duration // latency from client to server
	Down    time.Duration // latency from server to client
	Tap     bool          // keep the WebSocket messages: see Tapped
}

// Network is an in-memory network of stream connections with the manners of
// TCP: bounded buffers, deadlines, FIN, RST, half-open connections. All waiting
// is durably blocking in the sense of testing/synctest, so virtual time moves
// while everybody waits. Everything in a bubble must use a Network made in it.
//
// A Network is safe for concurrent use. Faults act on its connections: see
// Inject, Each and Strike.
type Network struct {
	buffer, backlog int
	up, down        time.Duration
	tap             bool
	seq             atomic.Uint64
	done            chan struct{} // closed by Close
	once            sync.Once

	mu        sync.Mutex
	closed    bool
	listeners map[string]*listener
	links     map[*link]struct{} // open, or with tapped messages
	port      int
	dials     []Dial
	count     int
	script    []Fault
	each      func(dial int) Fault
}

// Dial is a dial that happened.
type Dial struct {
	At    time.Time
	Addr  string
	Fault Fault // what it was dealt; a Refuse(n) shows as Refuse(1)
}

// maxDials bounds what Dials remembers: the latest.
const maxDials = 1 << 16

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
		tap:       opt.Tap,
		done:      make(chan struct{}),
		listeners: map[string]*listener{},
		links:     map[*link]struct{}{},
		port:      40000,
	}
}

// Listen makes addr, a "host:port", reachable for dials. Port 0 chooses a port.
// The host is a name like any other: nothing is resolved.
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

// tcpAddr is key as an address; a host that is a name becomes 127.0.0.1.
func tcpAddr(key string) *net.TCPAddr {
	host, port, _ := net.SplitHostPort(key) // key was split before
	p, _ := strconv.Atoi(port)              // a named port becomes 0
	ip := net.ParseIP(host)
	if ip == nil {
		ip = net.IPv4(127, 0, 0, 1)
	}
	return &net.TCPAddr{IP: ip, Port: p}
}

// DialContext connects to a listener, as net.Dialer.DialContext does. ctx
// bounds the dial only. Nobody listening is ECONNREFUSED.
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
			return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
		case f.kind == KindStall && f.when.unit == unitNone:
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
	l.serverClosed = answered // nobody is there: the network answers
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

// sleep also ends with the network: net/http does not cancel a dial that nobody
// wants any more, and at the end of a bubble nothing may be left waiting.
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
	n.count++
	id, each := n.count, n.each
	f, scripted := n.next()
	n.mu.Unlock()
	if !scripted && each != nil {
		f = each(id)
	}
	n.mu.Lock()
	if len(n.dials) == maxDials {
		n.dials = slices.Delete(n.dials, 0, maxDials/2)
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

// HTTPClient returns a client whose connections are made in n: no proxy, no
// kept-alive connections, response headers of 64 KiB at most, redirects as
// http.Client follows them.
func (n *Network) HTTPClient() *http.Client { return httpClient(n.DialContext) }

func httpClient(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:            dial,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}}
}

// Inject appends faults to the script: each next dial takes one, in order.
func (n *Network) Inject(faults ...Fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.script = append(n.script, faults...)
}

// Each sets the policy for dials that find the script empty: policy gets the
// number of the dial, from 1, and may be called concurrently. Nil means no
// faults.
func (n *Network) Each(policy func(dial int) Fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.each = policy
}

// Script returns the faults that no dial has taken yet.
func (n *Network) Script() Script {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.script)
}

// Dials returns the dials so far, the latest 32,768 at least, refused ones
// included.
func (n *Network) Dials() []Dial {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.dials)
}

// Strike puts f on every connection that is open now. Counts are those of the
// connection, so a count that has passed already acts at once. Refusals and
// Clean do nothing.
func (n *Network) Strike(f Fault) { n.strike(f, "") }

// strike puts f on the open connections to addr; empty means all.
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

// Conns is how many connections are open: made, and neither cut nor reset nor
// closed at both ends. Half-open connections count.
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

// sweep forgets l if it has ended and nothing tapped must be kept.
func (n *Network) sweep(l *link) {
	if n.tap {
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

// Close closes the listeners and resets the connections; dials, also those under
// way, fail with net.ErrClosed or ECONNREFUSED.
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

// String names n for test logs.
func (n *Network) String() string {
	return fmt.Sprintf("network with %d open connections, %d dials", n.Conns(), len(n.Dials()))
}
