package test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/limpet-go/limpet"
)

var fallbackFlag = flag.Bool("fallback", false, "run the tests of limpet.v1 that can over plain HTTP requests: see refusedUpgrades")

// refusedUpgrades are the tests whose upgrades were refused because of the flag -fallback, so
// that their clients went on with plain requests.
var refusedUpgrades struct {
	sync.Mutex
	tests map[string]bool
}

// onFallback makes a client of limpet.v1 on a network in memory begin with an upgrade that the
// path refuses. Other clients stay as they are.
func onFallback(o *limpet.Options) {
	if o.Dialect != nil || o.HTTPClient == nil || o.Fallback {
		return
	}
	transport, ok := o.HTTPClient.Transport.(*http.Transport)
	if !ok || transport == nil || transport.DialContext == nil {
		return
	}
	test := callingTest()
	if reason := notOnFallback[test]; reason != "" {
		return
	}
	own := transport.Clone()
	dial := transport.DialContext
	own.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &narrowConn{Conn: nc, refused: func() {
			refusedUpgrades.Lock()
			defer refusedUpgrades.Unlock()
			if refusedUpgrades.tests == nil {
				refusedUpgrades.tests = map[string]bool{}
			}
			refusedUpgrades.tests[test] = true
		}}, nil
	}
	client := *o.HTTPClient
	client.Transport = own
	o.HTTPClient, o.Fallback = &client, true
}

// callingTest is the name of the test function that calls.
func callingTest() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		_, name, _ := strings.Cut(f.Function, "/test.")
		if name, _, _ = strings.Cut(name, "."); strings.HasPrefix(name, "Test") {
			return name
		}
		if !more {
			return ""
		}
	}
}

// narrowConn answers an upgrade request itself, with a refusal.
type narrowConn struct {
	net.Conn
	refused func()
	answer  *bytes.Reader // in place of what the server would say
}

const refusedHere = "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

func (c *narrowConn) Write(p []byte) (int, error) {
	head, _, _ := bytes.Cut(p, []byte("\r\n\r\n"))
	if c.answer == nil && bytes.Contains(head, []byte("\r\nUpgrade: websocket")) {
		c.refused()
		c.answer = bytes.NewReader([]byte(refusedHere))
		c.Conn.Close()
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *narrowConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n == 0 && err != nil && c.answer != nil {
		if n, _ = c.answer.Read(p); n > 0 {
			return n, nil
		}
		return 0, io.EOF
	}
	return n, err
}

// notOnFallback are the tests that do not run with the flag -fallback, each with its reason.
var notOnFallback = map[string]string{}

// TestMain says at the end how many tests ran over plain requests.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if *fallbackFlag {
		refusedUpgrades.Lock()
		fmt.Printf("over plain requests: %d tests; %d are left out\n", len(refusedUpgrades.tests), len(notOnFallback))
		refusedUpgrades.Unlock()
	}
	os.Exit(code)
}
