package redis_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-go/limpet/gateway/redis"
	client "github.com/redis/go-redis/v9"
)

// engine is a process of redis-server.
type engine struct {
	t    testing.TB
	dir  string
	port int
	args []string // a first one without a dash is a file
	cmd  *exec.Cmd
	out  bytes.Buffer // of a process that has ended

	once   sync.Once
	client *client.Client
}

// start starts a Redis on a free port of loopback. It ends with the test.
func start(t testing.TB, args ...string) *engine {
	t.Helper()
	e := &engine{t: t, dir: t.TempDir(), args: args}
	for range 5 {
		e.port = freePort(t)
		if e.run() {
			t.Cleanup(e.kill)
			return e
		}
	}
	t.Fatalf("redis-server does not start: %s", e.out.String())
	return nil
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// run starts the process and reports whether it answers within ten seconds.
func (e *engine) run() bool {
	e.t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		e.t.Fatal("redis-server is missing: run gateway/install.sh")
	}
	e.out.Reset()
	log, err := os.Create(filepath.Join(e.dir, fmt.Sprint("log.", time.Now().UnixNano())))
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	args := []string{"--port", fmt.Sprint(e.port), "--bind", "127.0.0.1", "--dir", e.dir, "--daemonize", "no"}
	if len(e.args) > 0 && e.args[0][0] != '-' {
		args = append(e.args[:1:1], append(args, e.args[1:]...)...)
	} else {
		args = append(append(args, "--save", ""), e.args...)
	}
	e.cmd = exec.Command(binary, args...)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = e.cmd.Wait(); close(ended) }()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for {
		conn, err := net.DialTimeout("tcp", e.addr(), time.Second)
		if err == nil {
			_ = conn.SetDeadline(time.Now().Add(time.Second))
			_, _ = conn.Write([]byte("PING\r\n"))
			reply := make([]byte, 8)
			n, _ := conn.Read(reply)
			_ = conn.Close()
			if n > 0 && !bytes.HasPrefix(reply, []byte("-LOADING")) {
				return true
			}
		}
		select {
		case <-ended:
			text, _ := os.ReadFile(log.Name())
			e.out.Write(text)
			return false
		case <-deadline.C:
			e.kill()
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// kill ends the process as a crash does.
func (e *engine) kill() {
	if e.cmd != nil {
		_ = e.cmd.Process.Signal(syscall.SIGCONT)
		_ = e.cmd.Process.Kill()
		for i := 0; i < 1000 && e.cmd.Process.Signal(syscall.Signal(0)) == nil; i++ { // until the goroutine of run has seen the end
			<-time.After(5 * time.Millisecond)
		}
		e.cmd = nil
	}
}

// again starts the process again in its directory.
func (e *engine) again() {
	e.t.Helper()
	if !e.run() {
		e.t.Fatalf("redis-server does not start again: %s", e.out.String())
	}
}

func (e *engine) addr() string { return fmt.Sprintf("127.0.0.1:%d", e.port) }
func (e *engine) url() string  { return "redis://" + e.addr() }

// admin returns a client that no Store uses.
func (e *engine) admin() *client.Client {
	e.once.Do(func() {
		e.client = client.NewClient(&client.Options{Addr: e.addr(), Protocol: 2, DisableIdentity: true, ReadTimeout: 30 * time.Second})
		e.t.Cleanup(func() { _ = e.client.Close() })
	})
	return e.client
}

// do runs a command.
func (e *engine) do(args ...any) any {
	e.t.Helper()
	v, err := e.admin().Do(context.Background(), args...).Result()
	if err != nil {
		e.t.Fatalf("%v: %v", args, err)
	}
	return v
}

// open opens a Store, which is closed at the end.
func open(t *testing.T, url string, o *redis.Options) *redis.Store {
	t.Helper()
	s, err := redis.Open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// eventually waits until f returns true, for at most the time.
func eventually(t *testing.T, what string, most time.Duration, f func() bool) {
	t.Helper()
	deadline := time.NewTimer(most)
	defer deadline.Stop()
	for !f() {
		select {
		case <-deadline.C:
			t.Fatalf("not in %v: %s", most, what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}
