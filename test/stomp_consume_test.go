package test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/stomp"
)

// Nack gives a message back, Close the messages that wait; what a policy drops is
// acknowledged. No subscription starves (rows R4 and S4).
func TestStompNackAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		b.put("/queue/a", "a1", "a2", "a3", "a4", "a5")
		c := b.client(t, stomp.Options{Prefetch: 3}, limpet.Options{})
		s := subscribeLive(t, c, "/queue/a", &limpet.SubscribeOptions{ManualAck: true})
		synctest.Wait()
		if text := b.state(t); text != "acked , nacked , open 3, waiting 2" { // prefetch-count holds the broker back
			t.Error(text)
		}
		ms := takeUnacked(t, s, 3)
		ms[0].Ack()
		ms[1].Nack()
		synctest.Wait()
		if text := b.state(t); text != "acked a1, nacked a2, open 3, waiting 1" {
			t.Error(text)
		}
		assert.NoError(t, s.Close())
		time.Sleep(11 * time.Second) // a3 stays unacknowledged
		b.mu.Lock()
		subs, nacked := len(b.conn.subs), len(b.nacked)
		b.mu.Unlock()
		if subs != 0 || nacked < 4 {
			t.Errorf("%d subscriptions, %d given back", subs, nacked)
		}
		other := subscribeLive(t, c, "/queue/b", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 2}})
		b.put("/queue/b", "b1", "b2", "b3")
		if text := payloads(collect(t, other, 3)); text != "b1 b2 b3" {
			t.Error(text)
		}
		_ = b.state(t)
	})
}

// A subscription that was closed while offline is not asked for again, and starves nothing
// (row R5).
func TestStompCloseWhileOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		b.put("/queue/a", "a1", "a2")
		c := b.client(t, stomp.Options{}, limpet.Options{})
		s := subscribeLive(t, c, "/queue/a", nil)
		other := subscribeLive(t, c, "/queue/b", nil)
		b.host.Inject(limpettest.Stall(time.Second))
		b.host.Network.CutAll()
		_, err := c.WaitState(t.Context(), func(st limpet.State) bool { return st.Phase != limpet.Ready })
		assert.NoError(t, err)
		assert.NoError(t, s.Close())
		time.Sleep(time.Minute)
		b.put("/queue/b", "b1")
		if text := payloads(collect(t, other, 2)); text != "reset b1" {
			t.Error(text)
		}
		if n := b.count("2 SUBSCRIBE"); n != 1 {
			t.Errorf("%d subscriptions on the second connection", n)
		}
		if text := b.state(t); !strings.HasSuffix(text, "waiting 2") {
			t.Error(text)
		}
	})
}

// A server of STOMP 1.0 has no acknowledgement of single messages: the client sends none
// (row S9).
func TestStompOldVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		b.set(func() { b.version = "1.0" })
		b.put("/queue/a", "a1", "a2")
		c := b.client(t, stomp.Options{}, limpet.Options{})
		s := subscribeLive(t, c, "/queue/a", nil)
		if text := payloads(collect(t, s, 2)); text != "a1 a2" {
			t.Error(text)
		}
		assert.NoError(t, s.Close())
		time.Sleep(time.Minute)
		if b.count("SUBSCRIBE", "ack:auto") != 1 || b.count("ACK ") != 0 || b.count("UNSUBSCRIBE") != 1 {
			t.Errorf("%q", b.heard)
		}
		_ = b.state(t)
	})
}

// Without receipts a message ends as Written, and a subscription is live once asked for.
// With ack:auto nothing is acknowledged.
func TestStompNoReceipts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		b.put("/topic/a", "a1")
		c := b.client(t, stomp.Options{NoReceipts: true, Subscribe: func(string) stomp.Subscription {
			return stomp.Subscription{Auto: true, Header: map[string]string{"selector": "a > 1"}}
		}}, limpet.Options{})
		s := subscribeLive(t, c, "/topic/a", nil)
		ack, err := c.Send(t.Context(), "/topic/a", []byte("a2"), nil)
		if err != nil || ack.Outcome != limpet.Written {
			t.Errorf("%v, %v", ack.Outcome, err)
		}
		if text := payloads(collect(t, s, 2)); text != "a1 a2" {
			t.Error(text)
		}
		time.Sleep(10 * time.Minute)
		if b.count("ACK") != 0 || b.count("SUBSCRIBE", "ack:auto", "selector:a > 1") != 1 || c.State().Generation != 1 {
			t.Errorf("%q on connection %d", b.heard, c.State().Generation)
		}
	})
}

// What cannot be read is counted. A message of a known subscription is a Gap, and the
// broker need not wait for it; one of an unknown subscription is counted.
func TestStompHostileServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		c := b.client(t, stomp.Options{}, limpet.Options{})
		s := subscribeLive(t, c, "/queue/a", nil)
		for _, text := range []string{
			"nonsense", "HELLO||", "RECEIPT|receipt-id:99||", "CONNECTED|version:1.2||", "MESSAGE|subscription:99|ack:t||x", "MESSAGE|subscription:zz|ack:t||x",
			"MESSAGE|subscription:1|ack:T_bad|k:\\t||x", "MESSAGE|subscription:1|ack:T_good||x",
		} {
			b.say(text)
		}
		if text := story(collect(t, s, 2)); text != "gap(0,0]x1:malformed 0" {
			t.Error(text)
		}
		synctest.Wait()
		if st := c.Stats(); st.Malformed != 5 || st.Unrequested != 2 || c.State().Generation != 1 {
			t.Errorf("%+v on connection %d", st, c.State().Generation)
		}
		if b.count("NACK", "id:T_bad", "requeue:false") != 1 || b.count("1 ACK", "id:T_good") != 1 {
			t.Errorf("%q", b.heard)
		}
		b.set(func() {
			b.conn.ws.Write(context.Background(), 1, []byte("MESSAGE\nsubscription:1\ncontent-length:1\n\nxy\x00"))
		})
		_, err := c.WaitState(t.Context(), func(st limpet.State) bool { return st.Phase == limpet.Ready && st.Generation == 2 })
		assert.NoError(t, err)
	})
}

// A long name, many subscriptions, and a connection that breaks again and again: each
// message that was put in is processed at least once, and the broker keeps none.
func TestStompNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		c := b.client(t, stomp.Options{Prefetch: 5}, limpet.Options{Backoff: limpet.Backoff{First: -1}})
		s := subscribeLive(t, c, "/queue/a", nil)
		seen := map[string]int{}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for m, err := range s.Messages(context.Background()) {
				if err != nil {
					return
				}
				if m.Loss == nil {
					seen[string(m.Payload)]++
					time.Sleep(10 * time.Millisecond)
				}
			}
		}()
		for i := range 200 {
			b.put("/queue/a", fmt.Sprint("m", i))
			if i%20 == 19 {
				b.cut(t, c)
			}
		}
		time.Sleep(time.Minute)
		if text := b.state(t); !strings.HasSuffix(text, "open 0, waiting 0") {
			t.Error(text)
		}
		c.Close()
		<-done
		missing := slices.DeleteFunc(slices.Collect(func(yield func(string) bool) {
			for i := range 200 {
				if !yield(fmt.Sprint("m", i)) {
					return
				}
			}
		}), func(m string) bool { return seen[m] > 0 })
		if len(missing) > 0 || c.State().Generation < 10 {
			t.Errorf("missing %q after %d connections", missing, c.State().Generation)
		}
	})
}
