package jetstream_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-go/limpet/gateway/jetstream"
	"github.com/limpet-go/limpet/server"
)

func is(err, target error) bool { return errors.Is(err, target) }

// proxy is a path to a server, which can lose the answer to a Commit.
type proxy struct {
	l    net.Listener
	to   string
	lose atomic.Pointer[func()] // set: the next answer to a Commit is lost; the connection ends after a call of it
	lost atomic.Int64
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, to: strings.TrimPrefix(to, "nats://")}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

func (p *proxy) url() string { return "nats://" + p.l.Addr().String() }

func (p *proxy) serve(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer up.Close()
	var deaf atomic.Pointer[func()]
	go func() {
		defer c.Close()
		var unheard []byte
		buf := make([]byte, 32<<10)
		for {
			n, err := up.Read(buf)
			if err != nil {
				return
			}
			then := deaf.Load()
			if then == nil {
				if _, err := c.Write(buf[:n]); err != nil {
					return
				}
				continue
			}
			if unheard = append(unheard, buf[:n]...); bytes.Contains(unheard, []byte(`"stream":"`)) { // stored: the answer says where
				p.lost.Add(1)
				(*then)()
				return
			}
		}
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if then := p.lose.Load(); then != nil && bytes.Contains(buf[:n], []byte("Limpet-Nonce")) {
			p.lose.Store(nil)
			deaf.Store(then)
		}
		if _, err := up.Write(buf[:n]); err != nil {
			return
		}
	}
}

// A Commit whose answer is lost is found done: with a session by the record, without one by the message.
func TestLostAnswer(t *testing.T) {
	server1 := single(t)
	p := newProxy(t, server1.url)
	s := open(t, p.url(), &jetstream.Options{Log: "answers", Memory: true})
	commits := []*server.Change{
		{Session: "one", Record: []byte("record"), TTL: time.Hour, Who: "who", Keep: time.Hour, Entries: entriesOf(1, 3)},
		{Session: "two", Record: []byte("record"), TTL: time.Hour},
		{Entries: entriesOf(2, 1), Keep: time.Hour},
		{Entries: entriesOf(3, 4), Keep: time.Hour},
	}
	for i, c := range commits {
		then := func() {}
		p.lose.Store(&then)
		done, err := s.Commit(t.Context(), c)
		if err != nil {
			t.Fatalf("Commit %d: %v", i, err)
		}
		if c.Session != "" {
			record, version, err := s.Load(t.Context(), c.Session)
			if err != nil || version != done.Version || string(record) != "record" {
				t.Errorf("Commit %d has returned version %d; the record %q has %d, %v", i, done.Version, record, version, err)
			}
		}
		all := readAll(t, s)
		if n := len(c.Entries); n > 0 && (len(all) == 0 || all[len(all)-1].Offset != done.Offset || all[len(all)-1].ID != c.Entries[n-1].ID) {
			t.Errorf("Commit %d: %+v is not the newest message", i, done)
		}
	}
	if n := len(readAll(t, s)); n != 8 {
		t.Errorf("%d messages, want 8", n)
	}
	if st := s.Stats(); p.lost.Load() != 4 || st.Resolved != 4 || st.Unknown != 0 {
		t.Errorf("%d answers lost, %d resolved, %d unknown", p.lost.Load(), st.Resolved, st.Unknown)
	}
}

// A Commit whose answer is lost, and whose record was replaced since, is found done as well.
func TestLostAnswerAndAnotherCommit(t *testing.T) {
	server1 := single(t)
	p := newProxy(t, server1.url)
	o := &jetstream.Options{Log: "walk", Memory: true}
	s, other := open(t, p.url(), o), open(t, server1.url, o)
	then := func() { // another server takes the session over at once
		_, version, err := other.Load(context.Background(), "one")
		if err == nil {
			_, err = other.Commit(context.Background(), &server.Change{Session: "one", Version: version, Record: []byte("theirs"), TTL: time.Hour})
		}
		if err != nil {
			t.Error(err)
		}
	}
	p.lose.Store(&then)
	c := &server.Change{Session: "one", Record: []byte("mine"), TTL: time.Hour, Who: "who", Keep: time.Hour, Entries: entriesOf(1, 2)}
	done, err := s.Commit(t.Context(), c)
	if err != nil || done.Offset == 0 || s.Stats().Resolved != 1 {
		t.Fatalf("%+v, %v, %+v", done, err, s.Stats())
	}
	if record, version, err := s.Load(t.Context(), "one"); err != nil || string(record) != "theirs" || version <= done.Version {
		t.Errorf("record %q, version %d, %v", record, version, err)
	}
	c.Version, c.Entries = done.Version, entriesOf(2, 1)
	if _, err := s.Commit(t.Context(), c); !is(err, server.ErrConflict) {
		t.Errorf("a Commit after another one: %v", err)
	}
}

func entriesOf(session int, count uint64) (all []server.Entry) {
	for n := range count {
		all = append(all, server.Entry{ID: messageID(session, n+1), Topic: "t", Payload: []byte("x"), Hash: n + 1})
	}
	return all
}

// While the servers do not answer, each call ends within Options.Timeout; when they do again, all goes on.
func TestServersAway(t *testing.T) {
	p := single(t)
	s := open(t, p.url, &jetstream.Options{Log: "away", Memory: true, Timeout: time.Second, RingBytes: 64 << 10})
	for n := range uint64(50) { // older ones are not in memory
		c := &server.Change{Entries: []server.Entry{{ID: messageID(1, n), Topic: "t", Payload: make([]byte, 4<<10)}}, Keep: time.Minute}
		if _, err := s.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGSTOP)
	stopped := true
	defer func() {
		if stopped {
			p.signal(syscall.SIGCONT)
		}
	}()
	calls := map[string]func(context.Context) error{
		"Commit": func(ctx context.Context) error {
			_, err := s.Commit(ctx, &server.Change{Session: "s", Record: []byte("r"), TTL: time.Minute})
			if err != nil && !is(err, jetstream.ErrUnknown) && !is(err, context.Canceled) {
				t.Errorf("Commit: %v", err)
			}
			return err
		},
		"Load": func(ctx context.Context) error { _, _, err := s.Load(ctx, "s"); return err },
		"Sync": s.Sync,
		"Read": func(ctx context.Context) error { _, _, err := s.Read(ctx, 1, make([]*server.Entry, 1)); return err },
		"Tag":  func(ctx context.Context) error { _, _, err := s.Tag(ctx, 1); return err },
	}
	var all sync.WaitGroup
	for name, call := range calls {
		all.Go(func() {
			began := time.Now()
			if err := call(t.Context()); !is(err, jetstream.ErrUnreachable) && !is(err, jetstream.ErrUnknown) || time.Since(began) > 10*time.Second {
				t.Errorf("%s: %v after %v", name, err, time.Since(began))
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := call(ctx); !is(err, context.Canceled) {
				t.Errorf("%s with a context that has ended: %v", name, err)
			}
		})
	}
	all.Wait()
	eventually(t, 15*time.Second, "Health is an error", func() bool { return s.Health() != nil })
	p.signal(syscall.SIGCONT)
	stopped = false
	eventually(t, time.Minute, "Health is nil again", func() bool { return s.Health() == nil })
	for name, call := range calls {
		if name == "Commit" {
			continue // it may have been done
		}
		if err := call(t.Context()); err != nil {
			t.Errorf("%s after the servers are back: %v", name, err)
		}
	}
}

// What is wrong is an error that says what to do, and has no password.
func TestOpenErrors(t *testing.T) {
	const secret = "very-secret"
	plain := single(t)
	users := newProcess(t, "users", freePorts(t, 1)[0], `jetstream { store_dir: "FILES", max_mem: 64MB }
authorization { users = [ { user: some, password: `+secret+`, permissions: { publish: [ "$JS.API.INFO", "$JS.API.STREAM.INFO.>" ], subscribe: "_INBOX.>" } } ] }`).start()
	without := newProcess(t, "none", freePorts(t, 1)[0], "").start()
	at := func(p *process, who string) string { return strings.Replace(p.url, "nats://", "nats://"+who, 1) }
	memory := func(o jetstream.Options) *jetstream.Options {
		o.Memory, o.Timeout = true, 3*time.Second
		return &o
	}
	open(t, plain.url, memory(jetstream.Options{Log: "short", Dedup: time.Minute}))
	for _, c := range []struct {
		name, url string
		o         *jetstream.Options
		want      error
		says      string
	}{
		{"R1 in files", plain.url, &jetstream.Options{Replicas: 1}, nil, "20 ms"},
		{"no cluster", plain.url, &jetstream.Options{Timeout: 3 * time.Second}, jetstream.ErrConfig, "cluster"},
		{"another dedup", plain.url, memory(jetstream.Options{Log: "short"}), jetstream.ErrConfig, "duplicate_window"},
		{"no JetStream", without.url, memory(jetstream.Options{}), jetstream.ErrJetStream, "enable it"},
		{"wrong password", at(users, "some:wrong-"+secret+"@"), memory(jetstream.Options{}), jetstream.ErrDenied, "credentials"},
		{"no rights", at(users, "some:"+secret+"@"), memory(jetstream.Options{}), jetstream.ErrDenied, "STREAM.CREATE"},
		{"no server", fmt.Sprintf("nats://some:%s@127.0.0.1:%d", secret, freePorts(t, 1)[0]), memory(jetstream.Options{}), jetstream.ErrUnreachable, "check"},
		{"a bad URL", "nats://some:" + secret + "@[::1", memory(jetstream.Options{}), nil, "URL 1"},
		{"an old server", oldServer(t), memory(jetstream.Options{}), jetstream.ErrVersion, "2.11.9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			s, err := jetstream.Open(t.Context(), c.url, c.o)
			if err == nil {
				_ = s.Close()
				t.Fatal("no error")
			}
			if c.want != nil && !is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v; want %v with %q", err, c.want, c.says)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("a password: %v", err)
			}
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := jetstream.Open(ctx, "nats://127.0.0.1:1", nil); !is(err, context.DeadlineExceeded) {
		t.Errorf("a context that ends: %v", err)
	}
}

// oldServer says that it is nats-server 2.11.9.
func oldServer(t *testing.T) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprint(c, "INFO {\"server_id\":\"x\",\"version\":\"2.11.9\",\"proto\":1,\"headers\":true,\"max_payload\":1048576}\r\n")
				for r := bufio.NewReader(c); ; {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if strings.HasPrefix(line, "PING") {
						_, _ = io.WriteString(c, "PONG\r\n")
					}
				}
			}()
		}
	}()
	return "nats://" + l.Addr().String()
}

// A server without room says so, and takes nothing.
func TestFull(t *testing.T) {
	p := newProcess(t, "small", freePorts(t, 1)[0], "jetstream { store_dir: \"FILES\", max_mem: 1MB }").start()
	s := open(t, p.url, &jetstream.Options{Log: "small", Memory: true, Timeout: 3 * time.Second})
	commit := func(n uint64, size int) error {
		_, err := s.Commit(t.Context(), &server.Change{Entries: []server.Entry{{ID: messageID(1, n), Topic: "t", Payload: make([]byte, size)}}, Keep: time.Minute})
		return err
	}
	if err := commit(0, 2<<20); !is(err, jetstream.ErrTooBig) {
		t.Errorf("a message above max_payload: %v", err)
	}
	for n := uint64(1); ; n++ {
		err := commit(n, 100<<10)
		if err == nil && n < 100 {
			continue
		}
		if !is(err, jetstream.ErrFull) {
			t.Errorf("message %d: %v", n, err)
		}
		if held := readAll(t, s); uint64(len(held)) != n-1 {
			t.Errorf("%d messages, %d were accepted", len(held), n-1)
		}
		return
	}
}

// A change that the stream would forget too early is refused.
func TestTooLong(t *testing.T) {
	s := open(t, single(t).url, &jetstream.Options{Log: "long", Memory: true, Dedup: time.Minute, Retention: server.Retention{Age: time.Hour}})
	for says, c := range map[string]*server.Change{
		"Retention.Age": {Session: "s", Record: []byte("r"), TTL: 2 * time.Hour},
		"Dedup":         {Entries: entriesOf(1, 1), Keep: time.Hour},
	} {
		if _, err := s.Commit(t.Context(), c); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want one with %q", err, says)
		}
	}
}

// Close ends all goroutines, and all calls after it are ErrClosed.
func TestClose(t *testing.T) {
	p := single(t)
	before := runtime.NumGoroutine()
	s := open(t, p.url, &jetstream.Options{Log: "closed", Memory: true})
	ended := make(chan error, 1)
	p.signal(syscall.SIGSTOP)
	go func() { ended <- s.Sync(context.Background()) }()
	pass(t, 100*time.Millisecond)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	p.signal(syscall.SIGCONT)
	if err := <-ended; !is(err, jetstream.ErrClosed) {
		t.Errorf("Sync during Close: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	_, err := s.Commit(t.Context(), &server.Change{Session: "s", Record: []byte("r")})
	_, _, err2 := s.Load(t.Context(), "s")
	if err3 := s.Sync(t.Context()); !is(err, jetstream.ErrClosed) || !is(err2, jetstream.ErrClosed) || !is(err3, jetstream.ErrClosed) {
		t.Errorf("after Close: %v, %v, %v", err, err2, err3)
	}
	eventually(t, 5*time.Second, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}
