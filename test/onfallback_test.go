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
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

var fallbackFlag = flag.Bool("fallback", false, "run the tests of limpet.v1 that can over plain HTTP requests: see refusedUpgrades")

// refusedUpgrades are the tests whose upgrades were refused because of the flag -fallback, so
// that their clients went on with plain requests.
var refusedUpgrades struct {
	sync.Mutex
	tests map[string]bool
}

// onFallback gives a client whose server may speak the fallback a path that refuses its upgrades.
// A test that wants the fallback itself has a path of its own.
func onFallback(o *limpet.Options) {
	test := callingTest()
	if o.Fallback || o.HTTPClient == nil || notOnFallback[test] != "" || o.Dialect != nil && !o.Dialect.Traits().Fallback {
		return
	}
	transport, ok := o.HTTPClient.Transport.(*http.Transport)
	if !ok || transport == nil {
		return
	}
	client := *o.HTTPClient
	client.Transport = refusingUpgrades(transport, test)
	o.HTTPClient, o.Fallback = &client, true
}

// callingTest returns the name of the test that runs on this goroutine.
func callingTest() string {
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(1, callers)])
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		name, _, _ := strings.Cut(f.Function[strings.LastIndex(f.Function, "/")+1:], "[")
		if parts := strings.Split(name, "."); len(parts) > 1 && strings.HasPrefix(parts[1], "Test") {
			return parts[1]
		}
	}
	return ""
}

// withRefusals has the transports that refusingUpgrades has returned, by what they were made of:
// clients that share a transport share a governor.
var withRefusals sync.Map

// refusingUpgrades returns a transport like t on whose connections upgrades are refused.
func refusingUpgrades(t *http.Transport, test string) *http.Transport {
	if known, ok := withRefusals.Load(t); ok {
		return known.(*http.Transport)
	}
	own, dial := t.Clone(), t.DialContext
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
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
	withRefusals.Store(t, own)
	withRefusals.Store(own, own)
	return own
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
var notOnFallback = map[string]string{
	"TestControlFramesBeforeABacklog": slowOnRequests, // a subscription was live after 5 to 7 s
	"TestProbeDuringASlowWrite":       slowOnRequests, // the probe had no answer within 3 s
	"TestSlowDownlinkIsNoLoss":        slowOnRequests, // one connection more
	"TestSlowUplinkIsNoLoss":          slowOnRequests, // 78 s for bytes that need 10 s

	"TestFailedHandshakeIsNoOutage": countsUpgrades,
	"TestFailuresByClass":           countsUpgrades,
	"TestOldestOutlivesItsSession":  countsUpgrades,
	"TestVerdictThatFails":          countsUpgrades,

	"TestADayOfFaults":                   takesLong,
	"TestADayOfFaultsNoticesLeaks":       takesLong,
	"TestDrainAndShutdown":               takesLong,
	"TestEndDuringARotation":             takesLong,
	"TestManySubscriptionsAreBackInTime": takesLong,
	"TestNothingElseEndsAClient":         takesLong,
	"TestPeerTextHoldsNoSecret":          takesLong,
}

const (
	slowOnRequests = "on a slow link requests take longer than the frames of a WebSocket, or lose a connection"
	countsUpgrades = "it counts attempts that fail, or says how the upgrade fails"
	takesLong      = "it takes long"
)

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

// If the helper ignored -fallback, the run would test WebSocket connections again.
func TestFallbackFlagIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dial(t, limpettest.NewServer(t, nil), nil)
		if got := c.State().Transport; (got == limpet.TransportHTTP) != *fallbackFlag {
			t.Errorf("the transport is %s with -fallback=%v", got, *fallbackFlag)
		}
	})
}
