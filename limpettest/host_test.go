package limpettest_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/limpettest"
)

// hijackEcho upgrades and sends back what it gets until the connection ends.
func hijackEcho(w http.ResponseWriter, _ *http.Request) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, upgradeAnswer); err != nil {
		return
	}
	_, _ = io.Copy(c, rw)
}

// upgrade dials host and upgrades by hand.
func upgrade(t *testing.T, host *limpettest.Host) (net.Conn, error) {
	t.Helper()
	dial := host.Network.DialContext
	if strings.HasPrefix(t.Name(), "TestLoopback") {
		dial = (&net.Dialer{}).DialContext
	}
	c, err := dial(t.Context(), "tcp", host.Addr())
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(c, upgradeRequest)
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, len(upgradeAnswer)))
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func TestHostOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := limpettest.NewHandler(t, http.HandlerFunc(hijackEcho), nil)
		if !strings.HasPrefix(host.URL(), "ws://127.0.0.1:") || !strings.HasPrefix(host.HTTPURL(), "http://127.0.0.1:") {
			t.Errorf("URLs %s and %s", host.URL(), host.HTTPURL())
		}
		c, err := upgrade(t, host)
		if err != nil {
			t.Fatal(err)
		}
		mustWrite(t, c, "hello")
		mustRead(t, c, "hello")
		host.Stop()
		host.Stop()
		wantReadErr(t, c, syscall.ECONNRESET)
		time.Sleep(30 * time.Minute)
		if _, err := upgrade(t, host); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("during the outage: %v, want ECONNREFUSED", err)
		}
		host.Start()
		host.Start()
		if c, err = upgrade(t, host); err != nil {
			t.Fatal(err)
		}
		host.Restart()
		wantReadErr(t, c, syscall.ECONNRESET)
		if _, err = upgrade(t, host); err != nil {
			t.Fatal(err)
		}
		// The last connection is left open: the cleanup ends it, and its handler,
		// inside the bubble.
	})
}

func TestTwoHostsOnOneNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := limpettest.NewNetwork(nil)
		var hosts []*limpettest.Host
		for _, name := range []string{"a", "b", "c"} {
			hosts = append(hosts, limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if name == "c" {
					hijackEcho(w, r)
				}
				_, _ = io.WriteString(w, name)
			}), &limpettest.HostOptions{On: n, Addr: name + ".example:80"}))
		}
		kept, err := upgrade(t, hosts[2])
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b"} {
			resp, err := n.HTTPClient().Get("http://" + name + ".example/")
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if string(body) != name {
				t.Errorf("host %s answered %q", name, body)
			}
		}
		hosts[0].Stop()
		mustWrite(t, kept, "an outage of one host is none of another")
		mustRead(t, kept, "an outage of one host is none of another")
	})
}

// net/http continues a dial that is no longer needed. It must not outlive the
// bubble.
func TestHostEndsStalledDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := limpettest.NewHandler(t, http.NotFoundHandler(), nil)
		host.Inject(limpettest.Stall(time.Hour))
		client := host.HTTPClient()
		client.Timeout = time.Second
		var ne net.Error
		if _, err := client.Get(host.HTTPURL()); !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%v, want a timeout", err)
		}
	})
}

// A host closes the network that it has made, and no other.
func TestHostEnds(t *testing.T) {
	shared := limpettest.NewNetwork(nil)
	var own *limpettest.Network
	t.Run("hosts", func(t *testing.T) {
		own = limpettest.NewHandler(t, http.NotFoundHandler(), nil).Network
		limpettest.NewHandler(t, http.NotFoundHandler(), &limpettest.HostOptions{On: shared})
	})
	for n, want := range map[*limpettest.Network]error{own: net.ErrClosed, shared: syscall.ECONNREFUSED} {
		if _, err := n.DialContext(t.Context(), "tcp", "127.0.0.1:40001"); !errors.Is(err, want) {
			t.Errorf("dial after the end: %v, want %v", err, want)
		}
	}
}

// On a loopback host real sockets see the same faults.
func TestLoopback(t *testing.T) {
	host := limpettest.NewHandler(t, http.HandlerFunc(hijackEcho), &limpettest.HostOptions{Loopback: true})
	host.Inject(
		limpettest.Refuse(1),
		limpettest.CutAfterFrames(limpettest.Down, 1),
		limpettest.ResetAfterFrames(limpettest.Down, 1),
		limpettest.CloseWith(1012, "", 1),
		limpettest.RefuseUpgrade(503, nil),
	)
	if _, err := upgrade(t, host); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("refused dial: %v", err)
	}
	for _, want := range []struct {
		data string
		err  error
	}{{"", nil}, {"", syscall.ECONNRESET}, {"\x88\x02\x03\xf4", nil}} {
		c, err := upgrade(t, host)
		if err != nil {
			t.Fatal(err)
		}
		frame := text(limpettest.Down, "one") // echoed as it is
		mustWrite(t, c, frame)
		got, err := io.ReadAll(c)
		if !errors.Is(err, want.err) || err == nil && string(got) != frame+want.data {
			t.Errorf("%q, %v; want %q, %v", got, err, frame+want.data, want.err)
		}
		_ = c.Close()
	}
	resp, err := host.HTTPClient().Get(host.HTTPURL())
	if err != nil || resp.StatusCode != 503 {
		t.Errorf("%v, %v; want 503", resp, err)
	} else {
		_ = resp.Body.Close()
	}
	c, err := upgrade(t, host)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, c, "ping\n")
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "ping\n" {
		t.Errorf("%q, %v", line, err)
	}
	// Left open: the cleanup must not wait for us.
}
