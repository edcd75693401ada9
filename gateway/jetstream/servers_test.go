package jetstream_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/limpet-go/limpet/gateway/jetstream"
)

const program = "../servers/bin/nats-server"

// process is a nats-server.
type process struct {
	t      *testing.T
	name   string
	dir    string // of its files
	config string
	url    string
	cmd    *exec.Cmd
	out    *bytes.Buffer
	ended  chan struct{}
}

// freePorts returns ports of the loopback that are free now.
func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// newProcess writes the configuration of a server that has the lines of extra, too.
func newProcess(t *testing.T, name string, port int, extra string) *process {
	t.Helper()
	if _, err := os.Stat(program); err != nil {
		t.Fatal("nats-server is missing: run gateway/install.sh")
	}
	dir := t.TempDir()
	p := &process{t: t, name: name, dir: filepath.Join(dir, "files"), config: filepath.Join(dir, "conf"), url: fmt.Sprintf("nats://127.0.0.1:%d", port)}
	text := fmt.Sprintf("server_name: %s\nlisten: \"127.0.0.1:%d\"\n%s\n", name, port, extra)
	text = strings.ReplaceAll(text, "DIR", p.dir)
	if err := os.WriteFile(p.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// start starts the server, and waits until it accepts connections.
func (p *process) start() *process {
	p.t.Helper()
	cmd, out, ended := exec.Command(program, "-c", p.config), &bytes.Buffer{}, make(chan struct{})
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.cmd, p.out, p.ended = cmd, out, ended
	go func() {
		_ = cmd.Wait() // killed
		close(ended)
	}()
	eventually(p.t, 20*time.Second, "a server accepts connections", func() bool {
		select {
		case <-ended:
			p.t.Fatalf("%s has ended:\n%s", p.name, out)
		default:
		}
		c, err := net.DialTimeout("tcp", strings.TrimPrefix(p.url, "nats://"), time.Second)
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
	return p
}

// kill ends the process with SIGKILL, if it runs.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
	p.cmd = nil
}

// signal sends a signal, and waits until SIGSTOP has stopped all threads.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
	if s != syscall.SIGSTOP {
		return
	}
	eventually(p.t, 5*time.Second, "a process stops", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		for _, name := range threads {
			text, failed := os.ReadFile(name)
			if _, state, _ := strings.Cut(string(text), ") "); failed == nil && !strings.HasPrefix(state, "T") {
				return false
			}
		}
		return err == nil
	})
}

// eventually waits until ok returns true.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	end, tick := time.After(within), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-end:
			t.Fatalf("not within %v: %s", within, what)
		case <-tick.C:
		}
	}
}

const limits = "limits { batch { max_inflight_per_stream: 1000, max_inflight_total: 5000 } }"

// single starts a server with memory only.
func single(t *testing.T) *process {
	t.Helper()
	return newProcess(t, "a", freePorts(t, 1)[0], "jetstream { store_dir: \"DIR\", max_mem: 256MB, "+limits+" }").start()
}

// cluster starts three servers, and returns them with the URLs of all.
func cluster(t *testing.T) (all []*process, urls string) {
	t.Helper()
	ports := freePorts(t, 6)
	var routes, list []string
	for _, port := range ports[3:] {
		routes = append(routes, fmt.Sprintf("\"nats://127.0.0.1:%d\"", port))
	}
	for i, name := range []string{"a", "b", "c"} {
		extra := fmt.Sprintf("jetstream { store_dir: \"DIR\", max_file: 1GB, %s }\ncluster { name: test, listen: \"127.0.0.1:%d\", routes: [%s] }",
			limits, ports[3+i], strings.Join(routes, ", "))
		all = append(all, newProcess(t, name, ports[i], extra))
		list = append(list, all[i].url)
	}
	for _, p := range all {
		p.start()
	}
	return all, strings.Join(list, ",")
}

// open opens a store, which the end of the test closes.
func open(t *testing.T, urls string, o *jetstream.Options) *jetstream.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := jetstream.Open(ctx, urls, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// connect returns a connection of the test's own.
func connect(t *testing.T, urls string) *nats.Conn {
	t.Helper()
	c, err := nats.Connect(urls, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}
