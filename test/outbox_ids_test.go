package test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

// A caller who publishes an id again while the outbox holds it gets the fate of the first message, also in
// the next process; with another content it is refused by name, and nothing of its batch is published.
func TestOutboxSameID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Stop()
		store := newFaultyStore()
		c := start(t, srv, store, limpet.Options{})
		id, other := uuid.New(), uuid.New()
		publish := func(c *limpet.Client, topic, payload string, done func(*limpet.Receipt)) (*limpet.Receipt, error) {
			return c.Publish(context.Background(), topic, []byte(payload), &limpet.PublishOptions{ID: id, Done: done})
		}
		first, err := publish(c, "a", "pay", nil)
		if err != nil {
			t.Fatal(err)
		}
		var calls atomic.Int32
		count := func(r *limpet.Receipt) {
			if r.Outcome() == limpet.Acked {
				calls.Add(1)
			}
		}
		for range 2 {
			if again, err := publish(c, "a", "pay", nil); again != first || err != nil {
				t.Errorf("the same again: %v, %v", again, err)
			}
		}
		for _, row := range [][2]string{{"a", "other"}, {"b", "pay"}} {
			_, err := publish(c, row[0], row[1], count)
			var e *limpet.Error
			if !errors.Is(err, limpet.ErrIDReused) || !errors.As(err, &e) || e.Field != "PublishOptions.ID" || !limpet.SafeToRetry(err) || limpet.Retryable(err) {
				t.Errorf("%v: %v", row, err)
			}
		}
		batch := []limpet.Outgoing{
			{Topic: "a", Payload: []byte("x"), PublishOptions: limpet.PublishOptions{ID: other}},
			{Topic: "a", Payload: []byte("y"), PublishOptions: limpet.PublishOptions{ID: other}},
		}
		if _, err := c.PublishBatch(context.Background(), batch); !errors.Is(err, limpet.ErrIDReused) || !strings.Contains(err.Error(), "message 1 of the batch") {
			t.Errorf("a batch with one id twice: %v", err)
		}
		batch[1].Payload = batch[0].Payload
		rs, err := c.PublishBatch(context.Background(), batch)
		if err != nil || rs[0] != rs[1] {
			t.Errorf("a batch with one message twice: %v, %v", rs, err)
		}
		if st := c.Stats(); st.Window != 2 || st.WindowBytes != 4 || st.Published != 2 {
			t.Errorf("%+v", st)
		}
		next := store.crash(true)
		closeAndWait(t, c)

		c = start(t, srv, next, limpet.Options{})
		r, err := publish(c, "a", "pay", count)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := publish(c, "a", "pay", count); again != r || err != nil {
			t.Errorf("the same in the next process: %v, %v", again, err)
		}
		if _, err := publish(c, "a", "other", count); !errors.Is(err, limpet.ErrIDReused) {
			t.Errorf("another one in the next process: %v", err)
		}
		srv.Start()
		flushed(t, c)
		synctest.Wait()
		if n := calls.Load(); n != 2 || r.ID() != id {
			t.Errorf("Done was called %d times", n)
		}
		if got := strings.Join(logged(t, srv), " "); got != "pay x" {
			t.Errorf("the server has %s", got)
		}
	})
}
