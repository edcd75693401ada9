package interop

import (
	"context"
	"crypto/tls"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
)

// observer is a function as a limpet.Observer.
type observer func(limpet.Event)

func (f observer) Observe(e limpet.Event) { f(e) }

// idleLimit is after what time without traffic the proxies of these tests end a connection. The
// shortest interval that a client learns, 5 s, must be below it.
const idleLimit = 7 * time.Second

// testIdle connects two clients through a proxy that ends idle connections after idleLimit. One
// has heartbeats that are more frequent and keeps its first connection. The other one learns
// after two losses that it needs them, and keeps its third.
func testIdle(t *testing.T, url string, config *tls.Config) {
	shortened := make(chan limpet.HeartbeatShortened, 10)
	frequent := newClient(t, url, config, limpet.Options{Heartbeat: limpet.Heartbeat{Interval: 2 * time.Second}})
	learns := newClient(t, url, config, limpet.Options{Heartbeat: limpet.Heartbeat{Interval: 10 * time.Minute}, Observer: observer(func(e limpet.Event) {
		if s, ok := e.(limpet.HeartbeatShortened); ok {
			shortened <- s
		}
	})})
	ready(t, learns, 3)
	select {
	case s := <-shortened:
		if s.Interval < 5*time.Second || s.Interval >= idleLimit {
			t.Errorf("%+v", s)
		}
	case <-time.After(patience):
		t.Fatal("HeartbeatShortened was not reported")
	}
	ctx, cancel := context.WithTimeout(t.Context(), idleLimit+2*time.Second)
	defer cancel()
	st, err := learns.WaitState(ctx, func(s limpet.State) bool { return s.Phase != limpet.Ready || s.Generation != 3 })
	if err == nil {
		t.Errorf("the third connection ended: %+v", st)
	}
	if st := frequent.State(); st.Phase != limpet.Ready || st.Generation != 1 {
		t.Errorf("in spite of its heartbeats the first connection ended: %+v", st)
	}
}

func TestNginxIdle(t *testing.T) {
	t.Parallel()
	a := startBackend(t, "", newSharedLog())
	n := startNginx(t, []string{a.addr}, "proxy_read_timeout 75s", "proxy_read_timeout 7s", "proxy_send_timeout 75s", "proxy_send_timeout 7s")
	testIdle(t, n.url, n.config)
}

func TestHAProxyIdle(t *testing.T) {
	t.Parallel()
	a := startBackend(t, "", newSharedLog())
	h := newHAProxy(t, []string{a.addr}, "timeout tunnel 75s", "timeout tunnel 7s")
	h.start(t)
	testIdle(t, h.url, h.config)
}
