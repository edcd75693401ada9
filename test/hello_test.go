package test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

// slowUplink sends 8 KB per second. Closing it ends a write, as with a socket.
type slowUplink struct {
	net.Conn
	slowed *atomic.Int64 // bytes
	closed context.Context
	close  context.CancelFunc
}

func newSlowUplink(conn net.Conn, slowed *atomic.Int64) slowUplink {
	closed, cancel := context.WithCancel(context.Background())
	return slowUplink{conn, slowed, closed, cancel}
}

func (c slowUplink) Write(p []byte) (int, error) {
	for i := range p {
		if i%80 != 0 {
			continue
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-c.closed.Done():
			return i, net.ErrClosed
		}
	}
	c.slowed.Add(int64(len(p)))
	return c.Conn.Write(p)
}

func (c slowUplink) Close() error {
	c.close()
	return c.Conn.Close()
}

// The handshake must neither exceed what a server reads at once nor what a slow link
// carries in time, however many subscriptions a client has.
func TestHelloIsBounded(t *testing.T) {
	for name, tc := range map[string]struct {
		topic string
		token limpet.Secret
		slow  bool
	}{
		"large tokens":   {topic: "t/%d", token: limpet.Secret(strings.Repeat("x", 2<<10))},
		"largest tokens": {topic: "t/%d", token: limpet.Secret(strings.Repeat("x", 8<<10))},
		"a slow link":    {topic: strings.Repeat("t/%d/", 6) + strings.Repeat("x", 90), slow: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, &limpettest.ServerOptions{Network: &limpettest.NetworkOptions{Capture: true}})
				var slowed atomic.Int64
				o := &limpet.Options{HTTPClient: srv.HTTPClient()}
				if tc.slow {
					o.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
						conn, err := srv.Network.DialContext(ctx, network, addr)
						if err != nil {
							return nil, err
						}
						return newSlowUplink(conn, &slowed), nil
					}}}
				}
				c, err := limpet.New(srv.URL(), options(o))
				if err != nil {
					t.Fatal(err)
				}
				defer closeAndWait(t, c)
				var subs []*limpet.Subscription
				for i := range 250 {
					topic := tc.topic
					topic = strings.ReplaceAll(topic, "%d", fmt.Sprint(i))
					s, err := c.Subscribe(context.Background(), topic, &limpet.SubscribeOptions{Token: tc.token})
					if err != nil {
						t.Fatal(err)
					}
					subs = append(subs, s)
				}
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
				defer cancel()
				for round := range 2 {
					for i, s := range subs {
						if err := s.WaitLive(ctx); err != nil {
							t.Fatalf("round %d, subscription %d: %v; client: %v", round, i, err, c.State())
						}
					}
					publish(t, srv, subs[249].Topic(), fmt.Sprint(round))
					if got := payloads(collect(t, subs[249], 1)); got != fmt.Sprint(round) {
						t.Fatalf("got %q", got)
					}
					srv.Network.CutAll()
					synctest.Wait()
				}
				hellos := 0
				for _, m := range srv.Network.Captured() {
					if m.Direction == limpettest.Up && len(m.Data) > 0 && strings.Contains(string(m.Data[:min(3, len(m.Data))]), "\x0a") {
						hellos++
						if len(m.Data) > 20<<10 {
							t.Errorf("a hello of %d bytes", len(m.Data))
						}
					}
				}
				if hellos < 2 {
					t.Fatalf("%d hellos were captured", hellos)
				}
				if tc.slow && slowed.Load() == 0 {
					t.Fatal("the link was not slow")
				}
				if n := c.Stats().Connections; n > 3 {
					t.Errorf("%d connections", n)
				}
			})
		})
	}
}
