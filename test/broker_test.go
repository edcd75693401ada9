package test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"nhooyr.io/websocket"
)

// brokerDialect is the language of a message broker: each message of a subscription
// waits for an acknowledgement or a release, and the broker sends no more than a few
// without one, over all subscriptions of a connection.
type brokerDialect struct{ release, unsubscribe bool }

func (brokerDialect) Name() string                             { return "broker" }
func (brokerDialect) CheckTopic(wire.Use, string) error        { return nil }
func (brokerDialect) Attempt(a *wire.Attempt) error            { a.Dial = true; return nil }
func (brokerDialect) Open(wire.Resume) (wire.Codec, error)     { return brokerCodec{}, nil }
func (brokerDialect) Verdict(wire.Failure) (none wire.Verdict) { return none }

func (d brokerDialect) Traits() wire.Traits {
	return wire.Traits{ByKey: true, Unsubscribe: d.unsubscribe, Processed: wire.ProcessedEach, Release: d.release, Ping: wire.PingControl}
}

type brokerCodec struct{}

func (brokerCodec) Start(*wire.Frames) error { return nil }

func (brokerCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	for _, op := range ops {
		switch op.Kind {
		case wire.OpSubscribe:
			out.Append(wire.Text, fmt.Appendf(nil, "sub %d %s", op.Key, op.Topic))
		case wire.OpUnsubscribe:
			out.Append(wire.Text, fmt.Appendf(nil, "unsub %d", op.Key))
		case wire.OpAck:
			out.Append(wire.Text, fmt.Appendf(nil, "ack %d %s", op.Key, op.Position.Tag))
		case wire.OpRelease:
			out.Append(wire.Text, fmt.Appendf(nil, "nack %d %s", op.Key, op.Position.Tag))
		}
	}
	return nil
}

// Decode reads "KEY TAG TEXT".
func (brokerCodec) Decode(f wire.Frame, out *wire.Events) error {
	e := out.Append(wire.EventData)
	var text string
	fmt.Sscan(string(f.Data), &e.Key, &e.Position.Tag, &text)
	e.Message.Payload = []byte(text)
	return nil
}

// broker is a server that speaks it. Each topic is a queue of texts.
type broker struct {
	host     *limpettest.Host
	prefetch int

	mu      sync.Mutex
	changed sync.Cond
	queues  map[string][]string
	subs    map[string]string // key to topic
	open    map[string]string // tag to "topic text"
	tags    int
	acked   []string
	nacked  []string
	faults  []string // what a client must not do
	heard   []string
}

func newBroker(t *testing.T, prefetch int) *broker {
	b := &broker{prefetch: prefetch, queues: map[string][]string{}}
	b.changed.L = &b.mu
	b.host = limpettest.NewHandler(t, http.HandlerFunc(b.serve), nil)
	return b
}

func (b *broker) put(topic string, texts ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queues[topic] = append(b.queues[topic], texts...)
	b.changed.Broadcast()
}

func (b *broker) serve(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	b.mu.Lock()
	b.subs, b.open = map[string]string{}, map[string]string{}
	b.mu.Unlock()
	ended := false
	var writer sync.WaitGroup
	writer.Go(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for !ended {
			text := b.next()
			if text == "" {
				b.changed.Wait()
				continue
			}
			b.mu.Unlock()
			ws.Write(context.Background(), websocket.MessageText, []byte(text))
			b.mu.Lock()
		}
	})
	for {
		_, data, err := ws.Read(context.Background())
		b.mu.Lock()
		if err != nil {
			for _, open := range b.open { // delivered again
				topic, text, _ := strings.Cut(open, " ")
				b.queues[topic] = append([]string{text}, b.queues[topic]...)
			}
			ended = true
		} else {
			b.hear(string(data))
		}
		b.changed.Broadcast()
		b.mu.Unlock()
		if err != nil {
			writer.Wait()
			return
		}
	}
}

// next returns the next delivery, empty if there is none; mu is held.
func (b *broker) next() string {
	keys := make([]string, 0, len(b.subs))
	for key := range b.subs {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		topic := b.subs[key]
		if q := b.queues[topic]; len(q) > 0 && len(b.open) < b.prefetch {
			b.queues[topic] = q[1:]
			b.tags++
			tag := fmt.Sprintf("t%d", b.tags)
			b.open[tag] = topic + " " + q[0]
			return key + " " + tag + " " + q[0]
		}
	}
	return ""
}

// hear handles a frame of the client; mu is held.
func (b *broker) hear(text string) {
	b.heard = append(b.heard, text)
	w := strings.Fields(text)
	switch w[0] {
	case "sub":
		b.subs[w[1]] = w[2]
	case "unsub":
		delete(b.subs, w[1])
	case "ack", "nack":
		open, ok := b.open[w[2]]
		if !ok {
			b.faults = append(b.faults, text+": not open")
			return
		}
		delete(b.open, w[2])
		topic, body, _ := strings.Cut(open, " ")
		if w[0] == "ack" {
			b.acked = append(b.acked, body)
			return
		}
		b.nacked = append(b.nacked, body)
		b.queues[topic] = append([]string{body}, b.queues[topic]...)
	}
}

func (b *broker) client(t *testing.T, d brokerDialect) *limpet.Client {
	c, err := limpet.New(b.host.URL(), options(&limpet.Options{HTTPClient: b.host.HTTPClient(), Dialect: d}))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// check demands what was acknowledged, what was released, and what is open.
func (b *broker) check(t *testing.T, acked, nacked string, open int) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.Sort(b.nacked)
	if got := strings.Join(b.acked, " "); got != acked {
		t.Errorf("acknowledged %q, want %q", got, acked)
	}
	if got := strings.Join(b.nacked, " "); got != nacked {
		t.Errorf("released %q, want %q", got, nacked)
	}
	if len(b.open) != open {
		t.Errorf("open: %v, want %d", b.open, open)
	}
	if len(b.faults) > 0 {
		t.Errorf("faults: %q\nheard %q", b.faults, b.heard)
	}
}

// A subscription that is closed gives back what it has not processed: the message in
// hand is acknowledged when its loop body ends, the others are released, and then
// the subscription ends at the server. No other subscription starves.
func TestCloseReleasesWhatWaits(t *testing.T) {
	for _, release := range []bool{true, false} { // or the server cannot take back
		t.Run(fmt.Sprint(release), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker(t, 5)
				b.put("a", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8")
				c := b.client(t, brokerDialect{release: release, unsubscribe: true})
				s, err := c.Subscribe(t.Context(), "a", nil)
				assert.NoError(t, err)
				body := make(chan struct{})
				go func() {
					for range s.Messages(context.Background()) {
						<-body // the first is in hand
					}
				}()
				synctest.Wait()
				b.check(t, "", "", 5)
				s.Close()
				time.Sleep(time.Second)
				b.check(t, "", "", 5) // the server waits for the message in hand
				close(body)
				time.Sleep(time.Second)
				b.mu.Lock()
				if len(b.open) > 0 || len(b.subs) > 0 || len(b.faults) > 0 {
					t.Errorf("open %v, subscribed %v, %q", b.open, b.subs, b.faults)
				}
				if release && (strings.Join(b.acked, " ") != "a1" || len(b.queues["a"]) != 7) {
					t.Errorf("acknowledged %q, %q are left", b.acked, b.queues["a"])
				}
				if !release && (len(b.acked) < 5 || len(b.acked)+len(b.queues["a"]) != 8) {
					t.Errorf("acknowledged %q, %q are left", b.acked, b.queues["a"])
				}
				b.mu.Unlock()
				b.put("b", "b1", "b2", "b3", "b4", "b5", "b6")
				other, err := c.Subscribe(t.Context(), "b", nil)
				assert.NoError(t, err)
				if got := payloads(collect(t, other, 6)); got != "b1 b2 b3 b4 b5 b6" {
					t.Error(got)
				}
			})
		})
	}
}

// A consumer that never finishes delays the end by 10 seconds at most. What it held
// is released, and its late acknowledgement does not count.
func TestCloseDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 2)
		b.put("a", "a1", "a2", "a3")
		c := b.client(t, brokerDialect{release: true, unsubscribe: true})
		s, err := c.Subscribe(t.Context(), "a", &limpet.SubscribeOptions{ManualAck: true})
		assert.NoError(t, err)
		ms := takeUnacked(t, s, 2)
		ms[0].Ack()
		synctest.Wait()
		s.Close()
		time.Sleep(9 * time.Second)
		b.check(t, "a1", "", 2)
		time.Sleep(2 * time.Second)
		ms[1].Ack()
		time.Sleep(time.Minute)
		b.mu.Lock()
		defer b.mu.Unlock()
		if left := len(b.queues["a"]); strings.Join(b.acked, " ") != "a1" || len(b.open) > 0 || left != 2 || len(b.faults) > 0 {
			t.Errorf("acknowledged %q, open %v, %d left, %q", b.acked, b.open, left, b.faults)
		}
	})
}

// takeUnacked takes n messages and acknowledges none.
func takeUnacked(t *testing.T, s *limpet.Subscription, n int) (ms []limpet.Message) {
	t.Helper()
	for m, err := range s.Messages(t.Context()) {
		assert.NoError(t, err)
		if ms = append(ms, m); len(ms) == n {
			break
		}
	}
	return ms
}

// What still comes for a closed subscription that the client cannot end at the server
// is acknowledged at once. To release it would bring it back for ever.
func TestWhatComesAfterCloseStarvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 3)
		c := b.client(t, brokerDialect{release: true})
		s, err := c.Subscribe(t.Context(), "a", nil)
		assert.NoError(t, err)
		synctest.Wait()
		s.Close()
		time.Sleep(time.Minute)
		b.put("a", "a1", "a2", "a3", "a4", "a5")
		time.Sleep(time.Second)
		b.check(t, "a1 a2 a3 a4 a5", "", 0)
	})
}

// Nack gives a message back: the server delivers it again. It is neither acknowledged
// nor does it take a place among the messages that a consumer may hold.
func TestNack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, 2)
		b.put("a", "a1", "a2", "a3")
		c := b.client(t, brokerDialect{release: true, unsubscribe: true})
		s, err := c.Subscribe(t.Context(), "a", &limpet.SubscribeOptions{ManualAck: true, Delivery: limpet.Delivery{Buffer: 2}})
		assert.NoError(t, err)
		var got []string
		for m, err := range s.Messages(t.Context()) {
			assert.NoError(t, err)
			if got = append(got, string(m.Payload)); len(got) == 1 {
				m.Nack()
				m.Nack()
				m.Ack() // the first counts
			} else {
				m.Ack()
				m.Nack()
			}
			if len(got) == 4 {
				break
			}
		}
		time.Sleep(time.Second)
		slices.Sort(got)
		if text := strings.Join(got, " "); text != "a1 a1 a2 a3" {
			t.Error(text)
		}
		b.mu.Lock()
		slices.Sort(b.acked)
		b.mu.Unlock()
		b.check(t, "a1 a2 a3", "a1", 0)
		if st := s.Stats(); st.Delivered != 4 || st.Unacked != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// What the overflow policy drops is acknowledged: the server sends what follows.
func TestDroppedMessagesAreAcknowledged(t *testing.T) {
	for _, policy := range []limpet.Overflow{limpet.DropOldest, limpet.DropNewest} {
		synctest.Test(t, func(t *testing.T) {
			b := newBroker(t, 3)
			b.put("a", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8")
			c := b.client(t, brokerDialect{release: true, unsubscribe: true})
			s, err := c.Subscribe(t.Context(), "a", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 2, Overflow: policy}})
			assert.NoError(t, err)
			time.Sleep(time.Second)
			if st := s.Stats(); st.Received != 8 || st.Dropped != 6 || st.Waiting != 2 {
				t.Errorf("%v: %+v", policy, st)
			}
			want := map[limpet.Overflow]string{limpet.DropOldest: "a1 a2 a3 a4 a5 a6", limpet.DropNewest: "a3 a4 a5 a6 a7 a8"}[policy]
			b.check(t, want, "", 2)
			collect(t, s, 3) // two messages and a gap
			time.Sleep(time.Second)
			b.mu.Lock()
			defer b.mu.Unlock()
			if len(b.open) != 0 || len(b.acked) != 8 || len(b.faults) > 0 {
				t.Errorf("%v: open %v, acknowledged %q, %q", policy, b.open, b.acked, b.faults)
			}
		})
	}
}

// A consumer that has left its loop body, by break, holds up no end.
func TestBreakHoldsUpNoShutdown(t *testing.T) {
	for _, batches := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newBroker(t, 5)
			b.put("a", "a1")
			c := b.client(t, brokerDialect{release: true, unsubscribe: true})
			s, err := c.Subscribe(t.Context(), "a", nil)
			assert.NoError(t, err)
			if batches {
				for range s.Batches(t.Context()) {
					break
				}
			} else {
				for range s.Messages(t.Context()) {
					break
				}
			}
			began := time.Now()
			if err := c.Shutdown(within(t, time.Minute)); err != nil || time.Since(began) > time.Second {
				t.Errorf("batches %v: Shutdown took %v: %v", batches, time.Since(began), err)
			}
		})
	}
}

// A broker waits for an acknowledgement of each message that it sends, also of one that was
// received before. It gets that once the message was processed, and takes a copy back if the
// consumer gives the message back.
func TestDuplicatesAreAcknowledged(t *testing.T) {
	for _, row := range []struct{ how, want string }{
		{"process", "ack t2; ack t3; ack t4"},
		{"give back", "ack t3; ack t4; nack t2"},
		{"close", "nack t2; nack t3; nack t4; unsub"},
	} {
		synctest.Test(t, func(t *testing.T) {
			words := map[wire.OpKind]string{wire.OpAck: "ack ", wire.OpRelease: "nack ", wire.OpUnsubscribe: "unsub"}
			traits := wire.Traits{ByKey: true, Processed: wire.ProcessedEach, Release: true, Unsubscribe: true, DedupWindow: 10}
			d := flexDialect{traits: traits, encode: func(op wire.Op, out *wire.Frames) error {
				if words[op.Kind] == "" {
					return nil
				}
				out.Append(wire.Text, []byte(words[op.Kind]+op.Position.Tag))
				return errNoFrame
			}}
			message := func(tag string, id byte) wire.Event {
				return wire.Event{Kind: wire.EventData, Key: 1, Position: wire.Position{Tag: tag}, Message: wire.Message{ID: wire.ID{id}, Payload: []byte{id}}}
			}
			srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
				hear()
				hear()
				if conn == 1 {
					say(eventText(message("t1", '1')))
					return
				}
				say(eventText(message("t2", '1')))
				say(eventText(message("t3", '2')))
				time.Sleep(3 * time.Second)
				say(eventText(message("t4", '2')))
			})
			c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
			assert.NoError(t, err)
			t.Cleanup(func() { closeAndWait(t, c) })
			s, err := c.Subscribe(t.Context(), "a", &limpet.SubscribeOptions{ManualAck: true})
			assert.NoError(t, err)
			held := takeUnacked(t, s, 1)[0]
			srv.host.Network.CutAll()
			if m := takeUnacked(t, s, 1)[0]; m.Kind != limpet.Reset {
				t.Fatalf("%s: %+v", row.how, m)
			}
			time.Sleep(time.Second)
			if text := srv.all(); strings.Contains(text, "ack") {
				t.Fatalf("%s: the server heard too early\n%s", row.how, text)
			}
			switch row.how {
			case "process":
				held.Ack()
				takeUnacked(t, s, 1)[0].Ack()
			case "give back":
				held.Nack()
				takeUnacked(t, s, 1)[0].Ack()
			case "close":
				time.Sleep(5 * time.Second)
				s.Close()
			}
			time.Sleep(20 * time.Second)
			_, heard, _ := strings.Cut(srv.all(), "subscribe a\n/\nopen \"\"\nsubscribe a\n")
			lines := strings.Split(heard, "\n")
			slices.Sort(lines)
			if text := strings.Join(lines, "; "); text != row.want {
				t.Errorf("%s: heard %q, want %q", row.how, text, row.want)
			}
			if n := s.Stats().Duplicates; n != 2 {
				t.Errorf("%s: %d duplicates, want 2", row.how, n)
			}
		})
	}
}
