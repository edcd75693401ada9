package main

import (
	"net"
	"sync"
)

// relay is a TCP address that leads to another one, which can change, or to nowhere.
type relay struct {
	ln net.Listener

	mu     sync.Mutex // leaf
	to     string
	frozen bool // what arrives is lost
	conns  map[net.Conn]bool
}

func newRelay(to string) (*relay, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{ln: ln, to: to, conns: map[net.Conn]bool{}}
	go r.accept()
	return r, nil
}

func (r *relay) addr() string { return r.ln.Addr().String() }

func (r *relay) accept() {
	for {
		in, err := r.ln.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		to := r.to
		r.mu.Unlock()
		out, err := net.Dial("tcp", to)
		if err != nil {
			in.Close()
			continue
		}
		r.mu.Lock()
		r.conns[in], r.conns[out] = true, true
		r.mu.Unlock()
		go r.copy(in, out)
		go r.copy(out, in)
	}
}

// copy forwards until one side ends.
func (r *relay) copy(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		frozen := r.frozen
		r.mu.Unlock()
		if n > 0 && !frozen {
			if _, failed := to.Write(buf[:n]); failed != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// freeze loses everything from now on.
func (r *relay) freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frozen = true
}

// mend breaks all connections, and nothing is lost any more.
func (r *relay) mend() {
	r.mu.Lock()
	to := r.to
	r.frozen = false
	r.mu.Unlock()
	r.lead(to)
}

// lead breaks all connections; new ones lead to an address.
func (r *relay) lead(to string) {
	r.mu.Lock()
	conns := r.conns
	r.to, r.conns = to, map[net.Conn]bool{}
	r.mu.Unlock()
	for c := range conns {
		c.Close()
	}
}

func (r *relay) close() {
	r.ln.Close()
	r.lead("")
}
