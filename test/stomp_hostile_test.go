package test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire/stomp"
)

// The name of a destination does not decide what an ERROR means: a refused subscription
// to "credentials" is not a refused login, which would end the client.
func TestStompErrorThatQuotesAName(t *testing.T) {
	for topic, text := range map[string]string{
		"/n/credentials":     "Unknown destination||'/n/credentials' is not a valid destination.|",
		"/exchange/shutdown": "not_found||NOT_FOUND - no exchange 'shutdown' in vhost '/'|",
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newStompBroker(t)
			b.set(func() { b.refuses[topic] = text })
			c := b.client(t, stomp.Options{}, limpet.Options{})
			good := subscribeLive(t, c, "/queue/a", nil)
			bad, err := c.Subscribe(t.Context(), topic, nil)
			assert.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			var e *limpet.Error
			if err := bad.WaitLive(ctx); !errors.Is(err, limpet.ErrRejected) || !errors.As(err, &e) || e.Code != stomp.CodeNotFound {
				t.Errorf("%s: %v", topic, err)
			}
			time.Sleep(10 * time.Second)
			assert.NoError(t, good.WaitLive(ctx))
			b.put("/queue/a", "a1")
			if got := payloads(collect(t, good, 2)); got != "reset a1" || c.Err() != nil {
				t.Errorf("%s: %s, %v", topic, got, c.Err())
			}
		})
	}
}

// What the broker refuses for now, as long as a node of a cluster is down or another
// consumer is not gone yet, is asked for again until it is live.
func TestStompRefusedForNow(t *testing.T) {
	for _, text := range []string{
		"not_found||NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible|",
		"access_refused||ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use|",
		"resource_locked||RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'.|",
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newStompBroker(t)
			b.set(func() { b.refuses["/queue/q"] = text })
			c := b.client(t, stomp.Options{}, limpet.Options{})
			s, err := c.Subscribe(t.Context(), "/queue/q", nil)
			assert.NoError(t, err)
			time.Sleep(2 * time.Minute)
			if n := b.count("SUBSCRIBE", "/queue/q"); n < 2 || n > 12 || s.State().Phase != limpet.SubPending {
				t.Errorf("asked %d times, %v: %s", n, s.State(), text)
			}
			b.set(func() { delete(b.refuses, "/queue/q") })
			b.put("/queue/q", "q1")
			assert.NoError(t, s.WaitLive(t.Context()))
			if got := payloads(collect(t, s, 1)); got != "q1" {
				t.Errorf("%s: %s", got, text)
			}
		})
	}
}

// RabbitMQ ends a subscription whose queue is deleted, in an ERROR that names it and
// leaves the connection open. It is asked for again; another one that waits for its answer
// meanwhile is not refused.
func TestStompSubscriptionEndedByTheBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		c := b.client(t, stomp.Options{}, limpet.Options{})
		a := subscribeLive(t, c, "/queue/a", nil)
		b.set(func() { b.dead = true })
		waiting, err := c.Subscribe(t.Context(), "/queue/b", nil)
		assert.NoError(t, err)
		synctest.Wait()
		b.set(func() { b.dead = false })
		b.say("ERROR|message:Server cancelled subscription|subscription:1||The server has canceled a subscription.|No more messages will be delivered for /queue/a.|")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		for _, s := range []*limpet.Subscription{a, waiting} {
			if st := s.State(); st.Phase != limpet.SubLive {
				t.Errorf("%s is %s: %v", s.Topic(), st.Phase, st.Err)
			}
		}
		if n := b.count("2 SUBSCRIBE", "/queue/a"); n != 1 {
			t.Errorf("asked %d times for what had ended", n)
		}
	})
}
