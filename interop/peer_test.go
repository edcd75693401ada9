package interop

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// peer is a server of another library in a process of its own.
type peer struct {
	// URL is where it listens: ws://127.0.0.1:PORT, without a path.
	URL string

	// Addr is the host and port in URL.
	Addr string

	cmd   *exec.Cmd
	stdin io.WriteCloser
	ended chan struct{}
}

// startPeer starts a server and waits until it prints "listening PORT". It fails the
// test if the server does not: install.sh installs what is needed. The test's end
// kills the process.
func startPeer(t *testing.T, command ...string) *peer {
	t.Helper()
	p := &peer{cmd: exec.Command(command[0], command[1:]...), ended: make(chan struct{})}
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		p.stdin, err = p.cmd.StdinPipe()
	}
	p.cmd.Stderr = p.cmd.Stdout
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatalf("%v: %v; run interop/install.sh", command, err)
	}
	listening := make(chan string, 1)
	go func() {
		defer close(p.ended)
		defer p.cmd.Wait()
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if port, ok := strings.CutPrefix(lines.Text(), "listening "); ok {
				listening <- port
				continue
			}
			t.Log("server: " + lines.Text())
		}
	}()
	t.Cleanup(p.Kill)
	select {
	case port := <-listening:
		p.Addr = "127.0.0.1:" + port
		p.URL = "ws://" + p.Addr
	case <-p.ended:
		t.Fatalf("%v ended before it listened; run interop/install.sh", command)
	case <-time.After(time.Minute):
		t.Fatalf("%v does not listen after a minute", command)
	}
	return p
}

// Tell writes a line to the standard input of the server.
func (p *peer) Tell(line string) error {
	_, err := fmt.Fprintln(p.stdin, line)
	return err
}

// Kill ends the process and waits for its end.
func (p *peer) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// link is a TCP forwarder that can cut what passes through it.
type link struct {
	URL string // as that of the peer, through the link

	listener net.Listener
	target   string

	mu    sync.Mutex
	down  bool
	held  chan struct{} // new connections wait for it, if not nil
	conns map[net.Conn]bool
	made  int
}

// newLink forwards to target, a host and port, until the test ends.
func newLink(t *testing.T, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{URL: "ws://" + listener.Addr().String(), listener: listener, target: target, conns: map[net.Conn]bool{}}
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			go l.forward(near)
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		l.Cut(true)
	})
	return l
}

// Cut resets every connection. While down, new ones are reset at once.
func (l *link) Cut(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
	for c := range l.conns {
		reset(c)
	}
	clear(l.conns)
}

// Hold makes new connections wait until release is called.
func (l *link) Hold(t *testing.T) (release func()) {
	held := make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = held
	release = sync.OnceFunc(func() { close(held) })
	t.Cleanup(release)
	return release
}

// Made returns how many connections have been forwarded.
func (l *link) Made() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.made
}

func (l *link) forward(near net.Conn) {
	l.mu.Lock()
	held := l.held
	l.mu.Unlock()
	if held != nil {
		<-held
	}
	far, err := net.Dial("tcp", l.target)
	if err != nil || !l.keep(near, far) {
		reset(near)
		if err == nil {
			reset(far)
		}
		return
	}
	go carry(far, near)
	carry(near, far)
}

// keep reports whether the connection may be forwarded.
func (l *link) keep(near, far net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return false
	}
	l.made++
	l.conns[near], l.conns[far] = true, true
	return true
}

// carry copies until one end is closed, then closes both.
func carry(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	to.Close()
	from.Close()
}

// reset closes c without a FIN: what is under way is lost.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}
