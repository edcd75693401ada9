package jetstream_test

import (
	"bytes"
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

// program returns where nats-server is: where gateway/install.sh builds it, or on the PATH.
func program(t testing.TB) string {
	t.Helper()
	const built = "../servers/bin/nats-server"
	if _, err := os.Stat(built); err == nil {
		return built
	}
	path, err := exec.LookPath("nats-server")
	if err != nil {
		t.Fatal("nats-server is missing: run gateway/install.sh")
	}
	return path
}

// process is a nats-server.
type process struct {
	t      testing.TB
	name   string
	dir    string // of its files
	config string
	url    string
	cmd    *exec.Cmd
	out    *bytes.Buffer
	ended  chan struct{}
}

// freePorts returns ports of the loopback that are free now.
func freePorts(t testing.TB, n int) (ports []int) {
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
func newProcess(t testing.TB, name string, port int, extra string) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{t: t, name: name, dir: filepath.Join(dir, "files"), config: filepath.Join(dir, "conf"), url: fmt.Sprintf("nats://127.0.0.1:%d", port)}
	text := fmt.Sprintf("server_name: %s\nlisten: \"127.0.0.1:%d\"\n%s\n", name, port, extra)
	text = strings.ReplaceAll(text, "FILES", p.dir)
	if err := os.WriteFile(p.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// start starts the server, and waits until it accepts connections.
func (p *process) start() *process {
	p.t.Helper()
	cmd, out, ended := exec.Command(program(p.t), "-c", p.config), &bytes.Buffer{}, make(chan struct{})
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.cmd, p.out, p.ended = cmd, out, ended
	go func() {
		_ = cmd.Wait() // killed
		close(ended)
	}()
	eventually(p.t, time.Minute, "a server accepts connections", func() bool {
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
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
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
func single(t testing.TB) *process {
	t.Helper()
	return newProcess(t, "a", freePorts(t, 1)[0], "jetstream { store_dir: \"FILES\", max_mem: 256MB, "+limits+" }").start()
}

// cluster starts three servers, and returns them with the URLs of all.
func cluster(t testing.TB) (all []*process, urls string) {
	t.Helper()
	ports := freePorts(t, 6)
	var routes, list []string
	for _, port := range ports[3:] {
		routes = append(routes, fmt.Sprintf("\"nats://127.0.0.1:%d\"", port))
	}
	for i, name := range []string{"a", "b", "c"} {
		extra := fmt.Sprintf("jetstream { store_dir: \"FILES\", max_file: 1GB, %s }\ncluster { name: test, listen: \"127.0.0.1:%d\", routes: [%s] }",
			limits, ports[3+i], strings.Join(routes, ", "))
		all = append(all, newProcess(t, name, ports[i], extra))
		list = append(list, all[i].url)
	}
	for _, p := range all {
		p.start()
	}
	return all, strings.Join(list, ",")
}

// open opens a store, which the end of the test closes. A cluster that has just started may need longer than Options.Timeout.
func open(t testing.TB, urls string, o *jetstream.Options) (s *jetstream.Store) {
	t.Helper()
	eventually(t, time.Minute, "Open", func() bool {
		var err error
		if s, err = jetstream.Open(t.Context(), urls, o); err != nil && !is(err, jetstream.ErrUnreachable) {
			t.Fatalf("Open: %v", err)
		}
		return err == nil
	})
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
