// Package test holds the scenarios: what a program sees of limpet, through the
// public API only, while networks, servers and consumers misbehave.
package test

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

var plainFlag = flag.Bool("plain", false, "run every test on the frames of the WebSocket library")

// options makes a client of a test obey the flags -plain and -fallback. Every call of limpet.New
// and limpet.Dial in a test passes its options through here; internal/repo checks it.
func options(o *limpet.Options) *limpet.Options {
	if o == nil {
		o = new(limpet.Options)
	}
	o.PlainFrames = o.PlainFrames || *plainFlag
	if *fallbackFlag {
		onFallback(o)
	}
	return o
}

// bothFrameLayers are the values of Options.PlainFrames that a test of both frame
// layers goes through: with -plain there is only one.
func bothFrameLayers() []bool {
	if *plainFlag {
		return []bool{true}
	}
	return []bool{false, true}
}

// reduced is full, or less with the race detector: a trial takes several times as long then, and
// a race shows in a smaller one too.
func reduced[T any](full, less T) T {
	if raceEnabled {
		return less
	}
	return full
}

// closeAndWait ends c and waits for its goroutines, which a synctest bubble must
// not outlive.
func closeAndWait(t testing.TB, c *limpet.Client) {
	t.Helper()
	c.Close()
	<-c.Done()
}

// dial returns a client of srv that is ready, and closes it when the test ends.
func dial(t testing.TB, srv *limpettest.Server, o *limpet.Options) *limpet.Client {
	t.Helper()
	var opts limpet.Options
	if o != nil {
		opts = *o
	}
	opts.HTTPClient = srv.HTTPClient()
	c, err := limpet.Dial(context.Background(), srv.URL(), options(&opts))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// subscribeLive subscribes and waits until the server has confirmed it.
func subscribeLive(t testing.TB, c *limpet.Client, topic string, o *limpet.SubscribeOptions) *limpet.Subscription {
	t.Helper()
	s, err := c.Subscribe(context.Background(), topic, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WaitLive(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s
}

// collect takes the next n messages of any kind: data, gaps and resets.
func collect(t testing.TB, s *limpet.Subscription, n int) []limpet.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var ms []limpet.Message
	for m, err := range s.Messages(ctx) {
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", len(ms), n, err)
		}
		if ms = append(ms, m); len(ms) == n {
			m.Ack()
			break
		}
	}
	return ms
}

// publish has the server itself publish each payload to topic.
func publish(t testing.TB, srv *limpettest.Server, topic string, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if _, err := srv.Server.Publish(context.Background(), topic, []byte(p), nil); err != nil {
			t.Fatal(err)
		}
	}
}

// numbers are the payloads "from" to "to", in digits.
func numbers(from, to int) []string {
	var ps []string
	for i := from; i <= to; i++ {
		ps = append(ps, fmt.Sprint(i))
	}
	return ps
}

// payloads joins the payloads of ms; a gap and a reset show as what they are.
func payloads(ms []limpet.Message) string {
	var ps []string
	for _, m := range ms {
		switch m.Kind {
		case limpet.Gap:
			ps = append(ps, fmt.Sprintf("gap(%d,%d]", m.Loss.After.Offset, m.Loss.To.Offset))
		case limpet.Reset:
			ps = append(ps, "reset")
		default:
			ps = append(ps, string(m.Payload))
		}
	}
	return strings.Join(ps, " ")
}

// observer is a limpet.Observer.
type observer func(limpet.Event)

func (f observer) Observe(e limpet.Event) { f(e) }

// If a client ignored -plain, the plain run would test limpet's own frames again.
func TestPlainFlagIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dial(t, limpettest.NewServer(t, nil), nil)
		got := c.Stats().PlainFrames
		if got != *plainFlag {
			t.Errorf("PlainFrames is %v with -plain=%v", got, *plainFlag)
		}
		t.Logf("frame layer: %s", map[bool]string{false: "limpet", true: "library"}[got])
	})
}
