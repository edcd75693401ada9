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

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
)

// publishTTL publishes a message that lives for ttl; 0: for ever.
func publishTTL(t testing.TB, c *limpet.Client, payload string, ttl time.Duration) *limpet.Receipt {
	t.Helper()
	r, err := c.Publish(context.Background(), "a", []byte(payload), &limpet.PublishOptions{TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// outcomesOf returns the outcomes of receipts, in order.
func outcomesOf(rs []*limpet.Receipt) string {
	var all []string
	for _, r := range rs {
		all = append(all, r.Outcome().String())
	}
	return strings.Join(all, " ")
}

// An outage that is longer than the TTL blocks no publisher for ever, also if messages that do not expire, or
// that were sent, are before those that do. When the server is back everything goes on, in order.
func TestExpiredMessagesLeaveTheWindow(t *testing.T) {
	for _, store := range []outbox.Store{nil, newFaultyStore()} {
		outlastOutage(t, store)
	}
}

func outlastOutage(t *testing.T, store outbox.Store) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{SessionTTL: 2 * time.Hour}})
		c := start(t, srv, store, limpet.Options{Window: limpet.Window{Messages: 10}, Backoff: limpet.Backoff{Max: 10 * time.Second}})
		assert.NoError(t, c.WaitReady(t.Context()))
		srv.Network.Strike(limpettest.BlackHole(limpettest.Down))
		sent := []*limpet.Receipt{publishTTL(t, c, "1", 0), publishTTL(t, c, "2", time.Second)}
		synctest.Wait()
		srv.Stop()
		srv.Network.ResetAll()
		synctest.Wait()
		waits := []*limpet.Receipt{publishTTL(t, c, "3", 0), publishTTL(t, c, "4", 0)}
		var publishers sync.WaitGroup
		var mu sync.Mutex
		var expired []*limpet.Receipt
		for range 100 {
			publishers.Go(func() {
				for range 5 {
					r := publishTTL(t, c, "late", time.Second)
					mu.Lock()
					expired = append(expired, r)
					mu.Unlock()
				}
			})
		}
		began := time.Now()
		publishers.Wait()
		if took := time.Since(began); took > 100*time.Second { // 500 messages, 6 places, 1 s
			t.Errorf("the last call of Publish returned after %v", took)
		}
		time.Sleep(time.Hour - time.Since(began))
		for _, r := range expired {
			if _, err := r.Wait(t.Context()); r.Outcome() != limpet.Expired || !errors.Is(err, limpet.ErrExpired) {
				t.Fatalf("%v, %v", r.Outcome(), err)
			}
		}
		if st := c.Stats(); st.Window != 4 || st.Expired != 500 || st.Published != 504 {
			t.Errorf("%+v", st)
		}
		waits = append(waits, publishTTL(t, c, "5", 0), publishTTL(t, c, "6", 2*time.Hour))
		srv.Start()
		waits = append(waits, publishTTL(t, c, "7", 0))
		flushed(t, c)
		if got := strings.Join(logged(t, srv), " "); got != "1 2 3 4 5 6 7" {
			t.Errorf("the server has %s", got)
		}
		if got := outcomesOf(append(sent, waits...)); got != strings.TrimSpace(strings.Repeat("acked ", 7)) {
			t.Errorf("the outcomes are %s", got)
		}
		if st := c.Stats(); st.Window != 0 || st.Resumes != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// A batch of which a part expires: those that stay are sent in their order, whatever is around them.
func TestBatchExpiresInPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Window: limpet.Window{Messages: 8, FailFast: true}, Backoff: limpet.Backoff{Max: time.Second}})
		srv.Stop()
		synctest.Wait()
		batch := make([]limpet.Outgoing, 8)
		for i := range batch {
			batch[i] = limpet.Outgoing{Topic: "a", Payload: fmt.Append(nil, i)}
			if i%3 != 1 {
				batch[i].TTL = time.Duration(9-i) * 10 * time.Second
			}
			if i == 5 {
				batch[i].Resend = limpet.Never
			}
		}
		rs, err := c.PublishBatch(t.Context(), batch)
		assert.NoError(t, err)
		time.Sleep(65 * time.Second)
		if got := outcomesOf(rs); got != "pending pending pending expired pending expired expired pending" {
			t.Errorf("%s", got)
		}
		again, err := c.PublishBatch(t.Context(), []limpet.Outgoing{{Topic: "a", Payload: []byte("8")}, {Topic: "a", Payload: []byte("9")}, {Topic: "a", Payload: []byte("10")}})
		assert.NoError(t, err)
		if _, err := c.Publish(t.Context(), "a", nil, nil); !errors.Is(err, limpet.ErrWindowFull) {
			t.Errorf("a place too many: %v", err)
		}
		srv.Start()
		flushed(t, c)
		if got := strings.Join(logged(t, srv), " "); got != "0 1 2 4 7 8 9 10" {
			t.Errorf("the server has %s", got)
		}
		if got := outcomesOf(append(rs, again...)); got != "acked acked acked expired acked expired expired acked acked acked acked" {
			t.Errorf("%s", got)
		}
	})
}

// Flush and Close know nothing of messages that have left.
func TestFlushWhileMessagesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		srv.Stop()
		synctest.Wait()
		flush := func() chan error {
			done := make(chan error, 1)
			go func() { done <- c.Flush(context.Background()) }()
			synctest.Wait()
			return done
		}
		first := publishTTL(t, c, "1", 3*time.Second)
		one := flush()
		publishTTL(t, c, "2", time.Second)
		two := flush()
		stays := publishTTL(t, c, "3", 0)
		three := flush()
		publishTTL(t, c, "4", time.Second)
		for _, at := range []struct {
			after time.Duration
			done  [3]bool
		}{{2 * time.Second, [3]bool{}}, {2 * time.Second, [3]bool{true, true, false}}} {
			time.Sleep(at.after)
			synctest.Wait()
			if got := [3]bool{len(one) > 0, len(two) > 0, len(three) > 0}; got != at.done {
				t.Errorf("complete: %v, want %v", got, at.done)
			}
		}
		closeAndWait(t, c)
		if err := <-three; err != nil || stays.Outcome() != limpet.Unsent || first.Outcome() != limpet.Expired {
			t.Errorf("%v, %v, %v", err, stays.Outcome(), first.Outcome())
		}
		if st := c.Stats(); st.Expired != 3 || st.Unsent != 1 || st.Window != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// Messages of which the TTL ends at one time expire in the order in which they were published.
func TestExpiryInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		srv.Stop()
		synctest.Wait()
		const n = 50
		ended := make(chan string, n)
		var want []string
		for i := range n {
			payload := fmt.Sprint(i)
			want = append(want, payload)
			_, err := c.Publish(t.Context(), "a", nil, &limpet.PublishOptions{TTL: time.Second, Done: func(*limpet.Receipt) { ended <- payload }})
			assert.NoError(t, err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		close(ended)
		var got []string
		for payload := range ended {
			got = append(got, payload)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v", got)
		}
	})
}

// A stream that comes behind messages that expire waits for those that stay, and for no other.
func TestStreamBehindMessagesThatExpire(t *testing.T) {
	for _, stays := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := newStreamPeer(t)
			p.host.Stop()
			c, err := limpet.New(p.host.URL(), options(&limpet.Options{HTTPClient: p.host.HTTPClient(), Dialect: raw.New(raw.Options{})}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			var want []string
			for i := range 6 {
				o := &limpet.PublishOptions{TTL: time.Second}
				if stays && i%2 == 0 {
					o, want = nil, append(want, fmt.Sprint("text ", i))
				}
				_, err := c.Publish(t.Context(), "*", fmt.Append(nil, i), o)
				assert.NoError(t, err)
			}
			s := sendStream(t.Context(), c, strings.NewReader("stream"), nil)
			synctest.Wait()
			_, err = c.Publish(t.Context(), "*", []byte("gone"), &limpet.PublishOptions{TTL: time.Second})
			assert.NoError(t, err)
			time.Sleep(time.Minute)
			p.host.Start()
			<-s.done
			synctest.Wait()
			if _, messages := p.seen(); s.err != nil || !slices.Equal(messages, append(want, "text stream")) {
				t.Errorf("%v: the server has %q", s.err, messages)
			}
		})
	}
}

// Without sessions a message that the server has not taken, and that waits to be sent again, keeps its number
// when it expires: an answer to it counts for no other.
func TestExpiredAfterARefusalKeepsItsNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := make(chan struct{})
		srv, c := busyServer(t, func(payload string, times int) *wire.Ack {
			switch payload {
			case "busy":
				return later(time.Minute)
			case "2":
				<-slow
			}
			return nil
		})
		busy := publishTTL(t, c, "busy", time.Second)
		synctest.Wait()
		done := publishTTL(t, c, "2", time.Hour)
		time.Sleep(2 * time.Second)
		last := publishTTL(t, c, "3", time.Hour)
		synctest.Wait()
		close(slow)
		flushed(t, c)
		if got := published(srv); got != "1:busy 1:2 1:3" || busy.Outcome() != limpet.Expired || done.Outcome() != limpet.Acked || last.Outcome() != limpet.Acked {
			t.Errorf("the server heard %s; %v, %v, %v", got, busy.Outcome(), done.Outcome(), last.Outcome())
		}
		if st := c.Stats(); st.Window != 0 {
			t.Errorf("%d places are taken", st.Window)
		}
	})
}

// A process that ends before or after a message has left, and before those behind it are sent, leaves an outbox with
// which the next one sends each message once, in order.
func TestCrashWhileMessagesLeave(t *testing.T) {
	for _, row := range []struct {
		name   string
		fault  error // of the commit that removes
		crash  bool
		first  limpet.Outcome // of the message that expires, for the first client
		second string         // what the next client restores
	}{
		{"durable, then Close", nil, false, limpet.Expired, "1 3 4"},
		{"durable, then a crash", nil, true, limpet.Expired, "1 3 4"},
		{"not durable, then Close", errDisk, false, limpet.Stored, "1 2 3 4"},
		{"not durable, then a crash", errDisk, true, limpet.Stored, "1 2 3 4"},
		{"not known, then Close", fmt.Errorf("%w", outbox.ErrUncertain), false, limpet.Stored, "1 2 3 4"},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			store := newFaultyStore()
			c := start(t, srv, store, limpet.Options{})
			assert.NoError(t, c.WaitReady(t.Context()))
			srv.Network.Strike(limpettest.BlackHole(limpettest.Down))
			publishAll(t, c, "a", "1") // the server has it
			synctest.Wait()
			srv.Stop()
			srv.Network.ResetAll()
			synctest.Wait()
			expires := publishTTL(t, c, "2", time.Second)
			publishAll(t, c, "a", "3", "4")
			removals := 0
			store.fault(func(change *outbox.Change) error {
				if len(change.Removed) == 0 {
					return nil
				}
				removals++
				return row.fault
			})
			time.Sleep(1500 * time.Millisecond)
			if row.crash {
				store = store.crash(true)
			} else {
				store.fault(nil)
			}
			closeAndWait(t, c)
			if removals == 0 || expires.Outcome() != row.first {
				t.Errorf("%s: %d commits; the outcome is %v", row.name, removals, expires.Outcome())
			}
			var restored []string
			for _, m := range store.content(t).Messages {
				restored = append(restored, string(m.Payload))
			}
			again := start(t, srv, store, limpet.Options{}) // which lets what has expired leave
			if got := strings.Join(restored, " "); got != row.second {
				t.Errorf("%s: the next client has %q", row.name, got)
			}
			srv.Start()
			publishAll(t, again, "a", "5")
			flushed(t, again)
			if got := strings.Join(logged(t, srv), " "); got != "1 3 4 5" {
				t.Errorf("%s: the server has %s", row.name, got)
			}
			if st := again.Stats(); st.Resumes != 1 || st.Window != 0 {
				t.Errorf("%s: %d resumed, %d places are taken", row.name, st.Resumes, st.Window)
			}
			store.settled(t)
		})
	}
}

// With an outbox nothing is sent under a number that has moved before that is durable, and an id that has left is new.
func TestMovedNumbersAreDurableFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		store := newFaultyStore()
		c := start(t, srv, store, limpet.Options{})
		assert.NoError(t, c.WaitReady(t.Context()))
		srv.Stop()
		synctest.Wait()
		id := uuid.New()
		publish := func(payload string, ttl time.Duration) *limpet.Receipt {
			r, err := c.Publish(t.Context(), "a", []byte(payload), &limpet.PublishOptions{ID: id, TTL: ttl})
			assert.NoError(t, err)
			return r
		}
		first := publish("1", time.Second)
		flush := make(chan error, 1)
		go func() { flush <- c.Flush(context.Background()) }()
		synctest.Wait()
		publishAll(t, c, "a", "2")
		hang := make(chan struct{})
		store.fault(func(change *outbox.Change) error {
			if len(change.Removed) > 0 {
				<-hang
			}
			return nil
		})
		time.Sleep(1500 * time.Millisecond)
		srv.Start()
		time.Sleep(10 * time.Second)
		if got := logged(t, srv); len(got) > 0 || first.Outcome() != limpet.Pending || len(flush) > 0 {
			t.Errorf("before the commit has ended the server has %v, the outcome is %v, and %d calls of Flush have returned", got, first.Outcome(), len(flush))
		}
		close(hang)
		assert.NoError(t, <-flush)
		flushed(t, c)
		if got := logged(t, srv); !slices.Equal(got, []string{"2"}) || first.Outcome() != limpet.Expired {
			t.Errorf("the server has %v, the first message is %v", got, first.Outcome())
		}
		if again := publish("1", 0); again == first {
			t.Error("a message that has left is still held under its id")
		}
		flushed(t, c)
		if got := logged(t, srv); !slices.Equal(got, []string{"2", "1"}) {
			t.Errorf("the server has %v", got)
		}
	})
}
