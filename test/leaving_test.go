package test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
)

// Closed subscriptions whose consumers still have a message in hand wait for them at a
// broker. However many there are, they make nothing else more expensive.
func TestManyThatLeaveCostTheSame(t *testing.T) {
	if few, many := besideLeaving(t, 50), besideLeaving(t, 3000); many > 3*few {
		t.Errorf("beside 3000 that leave, a subscription allocates %d bytes, beside 50 %d", many, few)
	}
}

// besideLeaving returns how much a subscription allocates while n others are leaving.
func besideLeaving(t *testing.T, n int) uint64 {
	host := newToyServer(t, func(_ int, say func(string), hear func() string) {
		for text := hear(); text != ""; text = hear() {
			if w := strings.Fields(text); w[0] == "sub" && strings.HasPrefix(w[2], "held") {
				say(w[1] + " tag text")
			}
		}
	}).host
	c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: brokerDialect{release: true, unsubscribe: true}}))
	assert.NoError(t, err)
	defer closeAndWait(t, c)
	inHand, end := make(chan struct{}), make(chan struct{})
	defer close(end)
	subs := make([]*limpet.Subscription, n)
	for i := range subs {
		subs[i] = subscribe(t, c, fmt.Sprint("held", i))
		go func() {
			for range subs[i].Messages(context.Background()) {
				inHand <- struct{}{}
				<-end
			}
		}()
	}
	for range subs {
		<-inHand
	}
	for _, s := range subs {
		s.Close()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const rounds = 300
	for i := range rounds {
		subscribeLive(t, c, fmt.Sprint("other", i), nil).Close()
	}
	runtime.ReadMemStats(&after)
	return (after.TotalAlloc - before.TotalAlloc) / rounds
}

// What a consumer has given back is no duplicate when the server delivers it again.
func TestMessageGivenBackIsNoDuplicate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		again := make(chan bool)
		srv := newToyServer(t, func(_ int, say func(string), hear func() string) {
			say("challenge 1")
			for hear() != "answer 1" {
			}
			say("is 1 n")
			say("ready")
			say("n a;n b")
			<-again
			say("n a;n b;n c")
		})
		srv.host.Inject(limpettest.Stall(1), limpettest.Clean()) // Subscribe comes before the connection
		d := newToyDialect()
		d.traits.Release = true
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		s, err := c.Subscribe(t.Context(), "q", &limpet.SubscribeOptions{ManualAck: true})
		assert.NoError(t, err)
		first := collect(t, s, 2)
		first[0].Nack()
		first[1].Ack()
		first[1].Nack() // the first counts
		synctest.Wait()
		close(again)
		if got := payloads(collect(t, s, 2)); got != "a c" || s.Stats().Duplicates != 1 {
			t.Errorf("got %s, %d duplicates", got, s.Stats().Duplicates)
		}
	})
}
