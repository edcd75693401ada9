package redis_test

import (
	"bytes"
	"net"
	"sync"
	"testing"
)

// proxy is a TCP address that leads to an engine, to another one later, or to nowhere.
type proxy struct {
	ln net.Listener

	mu     sync.Mutex
	to     string
	frozen bool   // everything is lost
	lose   []byte // answers with this text are lost
	from   []byte // replaced by into in what the engine sends
	into   []byte
	conns  map[net.Conn]bool
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln, to: to, conns: map[net.Conn]bool{}}
	go p.accept()
	t.Cleanup(func() { _ = ln.Close(); p.lead("") })
	return p
}

func (p *proxy) addr() string { return p.ln.Addr().String() }
func (p *proxy) port() string { _, port, _ := net.SplitHostPort(p.addr()); return port }

func (p *proxy) accept() {
	for {
		in, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		to := p.to
		p.mu.Unlock()
		out, err := net.Dial("tcp", to)
		if to == "" || err != nil {
			_ = in.Close()
			continue
		}
		p.mu.Lock()
		p.conns[in], p.conns[out] = true, true
		p.mu.Unlock()
		go p.copy(in, out, false)
		go p.copy(out, in, true)
	}
}

// copy forwards until one side ends. What is frozen is read and lost.
func (p *proxy) copy(from, to net.Conn, answers bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		frozen, data := p.frozen || answers && p.lose != nil && bytes.Contains(buf[:n], p.lose), buf[:n]
		if answers && p.from != nil {
			data = bytes.ReplaceAll(data, p.from, p.into)
		}
		p.mu.Unlock()
		if !frozen && n > 0 {
			if _, failed := to.Write(data); failed != nil {
				err = failed
			}
		}
		if err != nil {
			_ = from.Close()
			_ = to.Close()
			return
		}
	}
}

// lead breaks all connections; new ones lead to an address.
func (p *proxy) lead(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

// freeze loses everything from now on.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = true
}

// loseAnswers loses answers with a text, or none.
func (p *proxy) loseAnswers(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = nil
	if text != "" {
		p.lose = []byte(text)
	}
}
