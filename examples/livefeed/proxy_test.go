package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
)

const (
	patience = 10 * time.Second // for what must happen
	reqHead  = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	okHead   = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
)

// frame returns an unmasked binary frame with n bytes of payload.
func frame(n int) []byte {
	b := []byte{0x82}
	switch {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, bytes.Repeat([]byte{0x82}, n)...)
}

// whole reports how many whole frames b holds and how many bytes are left over.
func whole(b []byte) (frames, rest int) {
	for {
		n := frameSize(b)
		if n == 0 || n > len(b) {
			return frames, len(b)
		}
		frames, b = frames+1, b[n:]
	}
}

// wasReset reports whether err is the error of a reset. Windows has another number
// for it, so there any error except a clean end counts.
func wasReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || runtime.GOOS == "windows" && err != nil && !errors.Is(err, io.EOF)
}

// echoServer answers a request head with 101, then sends back what it receives. The
// test gets its connections too, when they begin and when they have ended.
func echoServer(t *testing.T) (addr string, conns, ended <-chan *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	ch, over := make(chan *net.TCPConn, 100), make(chan *net.TCPConn, 100)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			ch <- c.(*net.TCPConn)
			go func() {
				if _, err := io.ReadFull(c, make([]byte, len(reqHead))); err != nil {
					c.Close()
					return
				}
				_, _ = io.WriteString(c, okHead)
				_, _ = io.Copy(c, c)
				c.Close()
				over <- c.(*net.TCPConn)
			}()
		}
	}()
	return ln.Addr().String(), ch, over
}

func proxyFor(t *testing.T, target string, plan ...fault) *proxy {
	t.Helper()
	p, err := startProxy(target, plan)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

// dial connects and sends the request head.
func dial(t *testing.T, p *proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, reqHead); err != nil {
		t.Fatal(err)
	}
	return c
}

var firstFrame = frame(9)

// upgrade reads the head of the answer and sends a frame, whose echo starts the timer
// of the fault. The echo may be the last thing to arrive, or be lost.
func upgrade(t *testing.T, c net.Conn) {
	t.Helper()
	head := make([]byte, len(okHead))
	if _, err := io.ReadFull(c, head); err != nil || string(head) != okHead {
		t.Fatalf("answer %q, %v", head, err)
	}
	if _, err := c.Write(firstFrame); err != nil {
		t.Fatal(err)
	}
}

func awaitDone(t *testing.T, p *proxy, want ...kind) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatal("the faults did not all happen")
	}
	var got []kind
	for _, m := range p.happened() {
		got = append(got, m.kind)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("faults %v, want %v", got, want)
	}
}

func TestProxyTransparent(t *testing.T) {
	addr, _, _ := echoServer(t)
	p := proxyFor(t, addr)
	c := dial(t, p)
	upgrade(t, c)
	sent := append(append(frame(0), frame(200)...), frame(100_000)...)
	go func() {
		_, _ = c.Write(sent)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if want := append(slices.Clone(firstFrame), sent...); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back of %d, %v", len(got), len(want), err)
	}
	awaitDone(t, p)
}

func TestProxyCut(t *testing.T) {
	addr, conns, ended := echoServer(t)
	p := proxyFor(t, addr, fault{kind: cut})
	c := dial(t, p)
	upgrade(t, c)
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("client: %v, want a clean end", err)
	}
	awaitDone(t, p, cut)
	<-conns
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the server did not see the end")
	}
}

func TestProxyCutsAnswer(t *testing.T) {
	addr, _, _ := echoServer(t)
	p := proxyFor(t, addr, fault{kind: cut, answer: 20})
	got, err := io.ReadAll(dial(t, p))
	if err != nil || string(got) != okHead[:20] {
		t.Errorf("%q, %v; want the first 20 bytes and a clean end", got, err)
	}
	awaitDone(t, p, cut)
}

// A reset must leave the receiver with a part of a frame.
func TestProxyReset(t *testing.T) {
	for _, up := range []bool{false, true} {
		for _, inside := range []float64{0, 0.5, 0.999} {
			addr, conns, ended := echoServer(t)
			p := proxyFor(t, addr, fault{kind: reset, up: up, inside: inside})
			c := dial(t, p)
			upgrade(t, c)
			wrote := make(chan error, 1)
			go func() {
				for i := 0; ; i++ {
					if _, err := c.Write(frame(10 + i%300)); err != nil {
						wrote <- err
						return
					}
				}
			}()
			got, err := io.ReadAll(c)
			// A socket reports its error once, to the reader or to the writer.
			if werr := <-wrote; !wasReset(err) && !wasReset(werr) {
				t.Errorf("up %v, inside %v: the client got %v and %v, want a reset", up, inside, err, werr)
			}
			// What reached the client is exact unless the reset was in the other direction.
			if _, rest := whole(got); !up && rest == 0 {
				t.Errorf("inside %v: the stream of %d bytes ends between two frames", inside, len(got))
			}
			awaitDone(t, p, reset)
			(<-conns).Close()
			<-ended
		}
	}
}

// Nothing passes, neither end notices, and the fault counts when the client leaves.
func TestProxyBlackhole(t *testing.T) {
	addr, conns, ended := echoServer(t)
	p := proxyFor(t, addr, fault{kind: blackhole})
	c := dial(t, p)
	upgrade(t, c)
	<-conns
	for tries := 0; ; tries++ {
		if tries == 1000 {
			t.Fatal("the connection still echoes")
		}
		if _, err := c.Write(frame(5)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := io.ReadFull(c, make([]byte, 7)); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("the client saw the end: %v", err)
			}
			break
		}
	}
	if n := len(p.happened()); n != 0 {
		t.Errorf("%d faults counted before the client gave up", n)
	}
	c.Close()
	awaitDone(t, p, blackhole)
	select {
	case <-ended:
		t.Error("the server saw the end")
	case <-time.After(50 * time.Millisecond): // a slow machine can only hide the fault
	}
}

func TestProxyRefuse(t *testing.T) {
	addr, _, _ := echoServer(t)
	p := proxyFor(t, addr, fault{kind: refuse, dials: 2})
	for range 2 {
		c, err := net.Dial("tcp", p.addr())
		if err != nil {
			continue // the reset was faster than the dial
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); !wasReset(err) {
			t.Errorf("a refused dial reads %v, want a reset", err)
		}
		c.Close()
	}
	awaitDone(t, p, refuse, refuse)
	upgrade(t, dial(t, p))
}

// A fault whose connection ended before it is kept for the next one.
func TestProxyKeepsUnusedFault(t *testing.T) {
	addr, _, _ := echoServer(t)
	p := proxyFor(t, addr, fault{kind: cut, after: time.Hour}, fault{kind: refuse, dials: 1})
	c := dial(t, p)
	upgrade(t, c)
	c.Close()
	deadline := time.Now().Add(patience)
	for {
		p.mu.Lock()
		n := len(p.plan)
		if n == 2 {
			p.plan[0].after = 0
		}
		p.mu.Unlock()
		if n == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the fault did not come back")
		}
		runtime.Gosched()
	}
	if len(p.happened()) != 0 {
		t.Error("a fault that did not happen was counted")
	}
	upgrade(t, dial(t, p))
	deadline = time.Now().Add(patience)
	for len(p.happened()) == 0 && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if c, err := net.Dial("tcp", p.addr()); err == nil {
		c.Close()
	}
	awaitDone(t, p, cut, refuse)
}

func TestStreamKnowsItsPlace(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	masked := append([]byte{0x81, 0x80 | 5, 1, 2, 3, 4}, "hello"...)
	sizes := []int{}
	var in []byte
	for range 50 {
		f := frame([]int{0, 1, 125, 126, 127, 65535, 65536}[r.IntN(7)])
		if r.IntN(4) == 0 {
			f = masked
		}
		sizes, in = append(sizes, len(f)), append(in, f...)
	}
	var s stream
	for _, b := range []byte(okHead) {
		s.step(b)
	}
	first := frame(3)
	for _, b := range first {
		if s.open() {
			t.Fatal("open before the first frame's end")
		}
		s.step(b)
	}
	if !s.open() {
		t.Fatal("not open after the first frame")
	}
	pos, n := 0, 0
	for i, b := range in {
		s.step(b)
		if pos++; pos == sizes[n] {
			pos, n = 0, n+1
		}
		if s.pos != pos {
			t.Fatalf("byte %d: at %d of the frame, want %d", i, s.pos, pos)
		}
		if s.within(0) && pos == 0 {
			t.Fatalf("byte %d: inside a frame at its end", i)
		}
	}

	var other stream
	for _, b := range append([]byte("HTTP/1.1 503 Service Unavailable\r\n\r\n"), frame(1)...) {
		other.step(b)
	}
	if other.open() {
		t.Error("a 503 counts as open")
	}
}

func TestSchedule(t *testing.T) {
	for _, l := range levels {
		for seed := uint64(1); seed <= 50; seed++ {
			plan := schedule(l, seed)
			var counts [kinds]int
			for i, f := range plan {
				counts[f.kind]++
				if f.kind == refuse && (i == 0 || plan[i-1].kind == refuse || f.dials < 1) {
					t.Errorf("%s, seed %d: fault %d is a refusal that nothing makes the client dial for", l.name, seed, i)
				}
				if f.kind != refuse && (f.after < minLife || f.after > l.life) {
					t.Errorf("%s, seed %d: fault %d after %v", l.name, seed, i, f.after)
				}
			}
			if counts != l.counts {
				t.Errorf("%s, seed %d: %v faults, want %v", l.name, seed, counts, l.counts)
			}
			if n := counts[cut] + counts[reset] + counts[blackhole]; l.name != "none" && n < minFaults {
				t.Errorf("%s: %d faults end a connection, want %d", l.name, n, minFaults)
			}
			if !slices.Equal(plan, schedule(l, seed)) {
				t.Errorf("%s, seed %d: two plans", l.name, seed)
			}
		}
	}
	if slices.Equal(schedule(levels[2], 1), schedule(levels[2], 2)) {
		t.Error("two seeds, one plan")
	}
}
