package test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

func TestTenThousandSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		subs := make([]*limpet.Subscription, 10_000)
		for i := range subs {
			s, err := c.Subscribe(context.Background(), fmt.Sprint("t/", i), nil)
			if err != nil {
				t.Fatal(err)
			}
			subs[i] = s
		}
		check := func(payload string) {
			for _, s := range subs {
				if err := s.WaitLive(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			for i := 0; i < len(subs); i += 100 {
				publish(t, srv, fmt.Sprint("t/", i), payload)
			}
			for i := 0; i < len(subs); i += 100 {
				if got := payloads(collect(t, subs[i], 1)); got != payload {
					t.Fatalf("subscription %d: %q", i, got)
				}
			}
		}
		check("1")
		srv.Network.CutAll()
		check("2")
		if err := c.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// A consumer that publishes must not hang, however small the window.
func TestReentrance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		observed := make(chan limpet.Event, 1000)
		c := dial(t, srv, &limpet.Options{Window: limpet.Window{Messages: 4}, Observer: observer(func(e limpet.Event) { observed <- e })})
		s := subscribeLive(t, c, "ping", nil)
		back := subscribeLive(t, c, "pong", nil)
		go func() {
			for i := range 50 {
				c.Publish(context.Background(), "ping", []byte(fmt.Sprint(i)), nil)
				if i%10 == 5 {
					srv.Network.CutAll()
				}
			}
		}()
		go func() {
			for m, err := range s.Messages(context.Background()) {
				if err != nil {
					return
				}
				if _, err := c.Send(context.Background(), "pong", m.Payload, nil); err != nil {
					return
				}
			}
		}()
		if got := payloads(collect(t, back, 50)); got != strings.Join(numbers(0, 49), " ") {
			t.Errorf("got %q", got)
		}
		if len(observed) == 0 {
			t.Error("the observer saw nothing")
		}
	})
}

func TestStoppedConsumerHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The log of the server is in this process, too: a short one, so that
		// the heap shows what the client holds.
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Retention: server.Retention{Count: 100}}})
		c := dial(t, srv, nil)
		const bytes, rounds = 256 << 10, 3600
		stopped := subscribeLive(t, c, "slow", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 1 << 20, Bytes: bytes}})
		other := subscribeLive(t, c, "fast", nil)
		body := strings.Repeat("x", 1000)
		before := limpettest.HeapInUse()
		for i := range rounds {
			publish(t, srv, "slow", body)
			publish(t, srv, "fast", fmt.Sprint(i))
			if got := collect(t, other, 1); payloads(got) != fmt.Sprint(i) {
				t.Fatalf("round %d: %q", i, payloads(got))
			}
			time.Sleep(time.Second)
		}
		if grown := limpettest.HeapInUse() - before; grown > bytes+2<<20 {
			t.Errorf("heap grew by %d bytes", grown)
		}
		st := stopped.Stats()
		if held := int(st.Waiting) * len(body); held < bytes-len(body) || held > bytes+len(body) || st.Dropped != 0 {
			t.Errorf("%d bytes wait, %d allowed; %+v", held, bytes, st)
		}
		if g := c.State().Generation; g != 1 {
			t.Errorf("reconnected %d times", g-1)
		}
		// What the log has forgotten meanwhile is a gap; nothing is silent.
		next, lost := uint64(1), uint64(0)
		for m, err := range stopped.Messages(context.Background()) {
			if err != nil {
				t.Fatal(err)
			}
			if m.Kind == limpet.Gap {
				lost += (m.Loss.To.Offset - m.Loss.After.Offset) / 2
				next = m.Loss.To.Offset + 1 + m.Loss.To.Offset%2
				continue
			}
			if m.Position.Offset != next {
				t.Fatalf("offset %d, want %d", m.Position.Offset, next)
			}
			if next += 2; next > 2*rounds {
				break
			}
		}
		if got := stopped.Stats().Delivered + lost; got < rounds-1 || got > rounds+1 {
			t.Errorf("%d delivered and lost of %d", got, rounds)
		}
	})
}

// TestLimitsOfTheServer: what the server announces in its welcome bounds what the client
// sends: frames of several messages, payloads and headers.
func TestLimitsOfTheServer(t *testing.T) {
	const batch, payload = 2000, 1000
	for _, encoding := range []string{"base64", "text", "escapes"} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			var largest, frames int
			srv := newScriptedServer(t, func(p *scriptedConn) {
				w := p.welcome()
				w.Welcome.Cr = native.Credit{N: 1000, B: 1 << 20}
				w.Welcome.Lim = &native.Limits{Batch: batch, Payload: payload, Headers: 2, HeaderSize: 50}
				p.sendFrames(append([]native.Frame{w}, p.confirmations()...)...)
				for {
					_, data, err := p.ws.Read(p.ctx)
					if err != nil {
						return
					}
					got, _ := native.Decode(nil, native.JSON, native.FromClient, data, native.DefaultLimits)
					var last uint64
					for i := range got {
						if got[i].Type == native.TypeMsg {
							last = got[i].Msg.S
						}
					}
					mu.Lock()
					if frames++; len(got) > 1 {
						largest = max(largest, len(data))
					}
					mu.Unlock()
					if last > 0 {
						p.sendFrames(native.Frame{Type: native.TypeAck, Ack: &native.Ack{To: last, HasTo: true}})
					}
				}
			})
			c, _ := srv.start(limpet.Options{})
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			ms := make([]limpet.Outgoing, 500)
			for i := range ms {
				body := strings.Repeat(map[string]string{"base64": "\xff\x00", "text": "ab", "escapes": "\"\x01"}[encoding], 50)
				ms[i] = limpet.Outgoing{Topic: "a", Payload: []byte(body)}
			}
			if _, err := c.PublishBatch(ctx, ms); err != nil {
				t.Fatal(err)
			}
			header := func(n, size int) *limpet.PublishOptions {
				h := map[string]string{}
				for i := range n {
					h[fmt.Sprint(i)] = strings.Repeat("v", size)
				}
				return &limpet.PublishOptions{Header: h}
			}
			for name, m := range map[string]struct {
				size    int
				options *limpet.PublishOptions
				fits    bool
			}{
				"a large payload": {payload, nil, true}, "too large a payload": {payload + 1, nil, false},
				"two headers": {1, header(2, 10), true}, "three headers": {1, header(3, 1), false}, "long headers": {1, header(2, 30), false},
			} {
				r, err := c.Publish(ctx, "a", make([]byte, m.size), m.options)
				if err != nil {
					t.Fatal(err)
				}
				if ack, err := r.Wait(ctx); m.fits != (err == nil) || !m.fits && (ack.Outcome != limpet.Rejected || !errors.Is(err, limpet.ErrTooBig)) {
					t.Errorf("%s: %v, %v", name, ack.Outcome, err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if largest > batch || largest < batch/4 || frames < 50 || frames > 400 {
				t.Errorf("%s: %d frames, the largest of several messages has %d bytes", encoding, frames, largest)
			}
			if n := c.Stats().Connections; n != 1 {
				t.Errorf("%d connections: %v", n, c.State().Cause)
			}
		})
	}
}

// Options.Limits replaces what the dialect knows, each limit apart.
func TestLimitsOfTheOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 5)
		language := g.language(wire.ConnectionLimits{Messages: 1000, Burst: 900, Subscriptions: 20})
		c := g.client(t, language, limpet.Options{Limits: wire.ConnectionLimits{Messages: 5, Age: time.Hour}})
		subs := subscribeAll(t, c, 20)
		allLive(t, subs, 1, 6*time.Second)
		g.check(t, 1)
		if _, err := c.Subscribe(t.Context(), "one more", nil); !errors.Is(err, limpet.ErrTooManySubscriptions) {
			t.Errorf("the limit of the dialect: %v", err)
		}
		time.Sleep(time.Hour)
		allLive(t, subs, 2, 6*time.Second)
		g.check(t, 2)
	})
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 1000)
		c := g.client(t, g.language(wire.ConnectionLimits{Messages: 10, Subscriptions: 20}), limpet.Options{Limits: wire.ConnectionLimits{Subscriptions: 3}})
		subscribeAll(t, c, 3)
		if _, err := c.Subscribe(t.Context(), "one more", nil); !errors.Is(err, limpet.ErrTooManySubscriptions) {
			t.Errorf("the limit of the options: %v", err)
		}
	})
	_, err := limpet.New("wss://a.example", options(&limpet.Options{Limits: wire.ConnectionLimits{Age: time.Second}}))
	if err == nil || !strings.Contains(err.Error(), "Options.Limits.Age: is 1s; use 0, or 1m0s to") {
		t.Errorf("an age of a second: %v", err)
	}
}

// carrying notes the subscriptions that each handshake carries.
type carrying struct {
	wire.Dialect
	subs *[][]string
}

func (c carrying) Open(r wire.Resume) (wire.Codec, error) {
	var topics []string
	for _, s := range r.Subs {
		topics = append(topics, s.Topic)
	}
	*c.subs = append(*c.subs, topics)
	return c.Dialect.Open(r)
}

// The server is asked first for what matters most, in the handshake and after it, on every
// connection.
func TestPriority(t *testing.T) {
	priorities := map[string]int{"low": -1, "usual": 0, "high": 7, "highest": 8}
	subscribeAll := func(t *testing.T, c *limpet.Client, many int) (subs []*limpet.Subscription) {
		for i := range many {
			for _, name := range []string{"low", "usual", "highest", "high"} {
				s, err := c.Subscribe(t.Context(), fmt.Sprintf("%s/%03d", name, i), &limpet.SubscribeOptions{Priority: priorities[name]})
				if err != nil {
					t.Fatal(err)
				}
				subs = append(subs, s)
			}
		}
		return subs
	}
	var want []string
	for _, name := range []string{"highest", "high", "usual", "low"} {
		for i := range 100 {
			want = append(want, fmt.Sprintf("%s/%03d", name, i))
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var carried [][]string
		srv := limpettest.NewServer(t, nil)
		srv.Inject(limpettest.Stall(time.Second), limpettest.Clean())
		c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient(), Dialect: carrying{native.New(nil), &carried}}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeAndWait(t, c) })
		subs := subscribeAll(t, c, 100)
		allLive(t, subs, 1, 2*time.Second)
		srv.Network.CutAll()
		allLive(t, subs, 2, 2*time.Second)
		for i, topics := range carried {
			if len(topics) < 50 || !slices.Equal(topics, want[:len(topics)]) {
				t.Errorf("connection %d carries %d: %q", i, len(topics), topics)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 1000)
		g.host.Inject(limpettest.Stall(time.Second), limpettest.Clean())
		c := g.client(t, g.language(wire.ConnectionLimits{}), limpet.Options{})
		subs := subscribeAll(t, c, 100)
		allLive(t, subs, 1, 2*time.Second)
		g.host.Network.CutAll()
		allLive(t, subs, 2, 2*time.Second)
		var sent []string
		for _, l := range g.sent("sub ") {
			sent = append(sent, strings.TrimPrefix(l.text, "sub "))
		}
		if len(sent) != 800 || !slices.Equal(sent[:400], want) || !slices.Equal(sent[400:], want) {
			t.Errorf("%d requests: %q", len(sent), sent)
		}
	})
}
