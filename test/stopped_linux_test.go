package test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
)

const stoppedClient = "LIMPET_TEST_STOPPED_CLIENT" // the URL that the child connects to

// TestStoppedClient is the client of TestStoppedProcessKeepsItsConnection, in a process of
// its own.
func TestStoppedClient(t *testing.T) {
	url := os.Getenv(stoppedClient)
	if url == "" {
		t.Skip("is run by TestStoppedProcessKeepsItsConnection")
	}
	c, err := limpet.Dial(t.Context(), url, options(&limpet.Options{Dialect: lookDialect{}, Heartbeat: limpet.Heartbeat{Interval: time.Second}}))
	assert.NoError(t, err)
	defer closeAndWait(t, c)
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until the parent closes it
	fmt.Printf("state %v %d %v\n", c.State().Phase, c.State().Generation, c.State().Cause)
}

// A process that was stopped (SIGSTOP), for longer than its peer may be silent, finds its
// connection as it was, each time: the peer has sent nothing meanwhile because no ping came.
func TestStoppedProcessKeepsItsConnection(t *testing.T) {
	s := &pongServer{}
	var conns atomic.Int32
	host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
		conns.Add(1)
		s.talk(nc)
	}), &limpettest.HostOptions{Loopback: true})
	child := exec.Command(os.Args[0], "-test.run=^TestStoppedClient$", "-test.v", fmt.Sprintf("-plain=%v", *plainFlag))
	child.Env = append(os.Environ(), stoppedClient+"="+host.URL())
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	assert.NoError(t, err)
	out, err := child.StdoutPipe()
	assert.NoError(t, err)
	assert.NoError(t, child.Start())
	defer child.Process.Kill() // it may be stopped
	lines := bufio.NewScanner(out)
	next := func(begin string) string {
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), begin) {
				return lines.Text()
			}
		}
		t.Fatalf("the child ended without %q", begin)
		return ""
	}
	next("ready")
	for range 2 {
		pings := s.pings.Load()
		assert.NoError(t, child.Process.Signal(syscall.SIGSTOP))
		<-time.After(3500 * time.Millisecond)
		assert.NoError(t, child.Process.Signal(syscall.SIGCONT))
		for began := time.Now(); s.pings.Load() == pings && conns.Load() == 1 && time.Since(began) < 10*time.Second; {
			<-time.After(10 * time.Millisecond)
		}
	}
	_ = in.Close()
	if got := next("state"); got != "state ready 1 <nil>" || conns.Load() != 1 {
		t.Errorf("%d connections; the client: %s", conns.Load(), got)
	}
	_ = child.Wait()
}
