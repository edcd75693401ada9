package limpet_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

func TestOverflow(t *testing.T) {
	for _, tc := range []struct {
		policy limpet.Overflow
		want   string
	}{
		{limpet.DropOldest, "gap(0,6] 7 8 9 10"},
		{limpet.DropNewest, "1 2 3 4 gap(4,10]"},
		{limpet.Block, "1 2 3 4 5 6 7 8 9 10"},
	} {
		t.Run(tc.want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, nil)
				s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 4, Overflow: tc.policy}})
				publish(t, srv, "a", numbers(1, 10)...)
				synctest.Wait()
				if got := payloads(collect(t, s, len(strings.Fields(tc.want)))); got != strings.ReplaceAll(tc.want, ",", ",") {
					t.Errorf("got %q, want %q", got, tc.want)
				}
				st := s.Stats()
				if st.Received != st.Delivered+st.Dropped+st.Waiting || st.Received != 10 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

func TestEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Every: time.Second}})
		var mu sync.Mutex
		var at []time.Time
		n := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ms, err := range s.Batches(context.Background()) {
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				at = append(at, time.Now())
				n += len(ms)
				mu.Unlock()
				if n == 100 {
					return
				}
			}
		}()
		for i := range 100 {
			publish(t, srv, "a", fmt.Sprint(i))
			time.Sleep(100 * time.Millisecond)
		}
		<-done
		for i := 1; i < len(at); i++ {
			if gap := at[i].Sub(at[i-1]); gap < time.Second {
				t.Errorf("hand-over %d came %v after the one before", i, gap)
			}
		}
		if len(at) > 12 {
			t.Errorf("%d hand-overs in ten seconds", len(at))
		}
	})
}

func TestDeliveryChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "a", nil)
		publish(t, srv, "a", numbers(1, 5)...)
		for i := 1; i <= 3; i++ {
			if m := <-s.C(); string(m.Payload) != fmt.Sprint(i) {
				t.Fatalf("message %d is %q", i, m.Payload)
			}
		}
		synctest.Wait()
		if st := s.Stats(); st.Delivered != 3 || st.Waiting != 2 {
			t.Errorf("%+v", st)
		}
		if p := s.Committed(); p.Offset != 2 {
			t.Errorf("committed %v, want the message before the last one taken", p.Offset)
		}
		s.Close()
		if _, open := <-s.C(); open {
			t.Error("a message after Close")
		}
		synctest.Wait()
		if st := s.Stats(); st.Dropped != 2 || st.Waiting != 0 || s.Err() != nil {
			t.Errorf("%+v, %v", st, s.Err())
		}
	})
}

func TestManualAckCommitsAPrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{ManualAck: true, Delivery: limpet.Delivery{Buffer: 4}})
		publish(t, srv, "a", numbers(1, 10)...)
		var ms []limpet.Message
		for m := range s.Messages(context.Background()) {
			if ms = append(ms, m); len(ms) == 4 {
				break
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		for m, err := range s.Messages(ctx) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("a fifth message is out unacknowledged: %v %v", m.Position, err)
			}
		}
		ms[2].Ack()
		ms[1].Ack()
		if p := s.Committed(); !p.IsZero() {
			t.Errorf("committed %v with message 1 open", p.Offset)
		}
		ms[0].Ack()
		ms[0].Ack()
		if p := s.Committed(); p.Offset != 3 {
			t.Errorf("committed %d, want 3", p.Offset)
		}
		rest := 0
		for m := range s.Messages(context.Background()) {
			m.Ack()
			if rest++; rest == 3 {
				break
			}
		}
		if p := s.Committed(); p.Offset != 3 {
			t.Errorf("committed %d over message 4, which is open", p.Offset)
		}
		ms[3].Ack()
		if p := s.Committed(); p.Offset != 7 {
			t.Errorf("committed %d, want 7", p.Offset)
		}
		if got := payloads(collect(t, s, 3)); got != "8 9 10" {
			t.Errorf("then %q", got)
		}
	})
}

func TestResumeInANewClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		publish(t, srv, "a", numbers(1, 10)...)
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{From: limpet.FromFirst})
		collect(t, s, 4)
		text, err := s.Committed().MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		closeAndWait(t, c)
		var p limpet.Position
		if err := p.UnmarshalText(text); err != nil {
			t.Fatal(err)
		}
		s = subscribeLive(t, dial(t, srv, nil), "a", &limpet.SubscribeOptions{From: limpet.FromResume, Position: p})
		if got := payloads(collect(t, s, 6)); got != strings.Join(numbers(5, 10), " ") {
			t.Errorf("got %q", got)
		}
		p.Epoch = "another"
		s = subscribeLive(t, dial(t, srv, nil), "a", &limpet.SubscribeOptions{From: limpet.FromResume, Position: p})
		if got := collect(t, s, 1)[0]; got.Kind != limpet.Reset || got.Loss.Cause.String() != "epoch" {
			t.Errorf("resume in another epoch gave %v", got.Kind)
		}
	})
}

func TestRetentionShowsAsGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Retention: server.Retention{Count: 5}}})
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "a", nil)
		publish(t, srv, "a", "1")
		collect(t, s, 1)
		srv.Stop()
		publish(t, srv, "a", numbers(2, 10)...)
		srv.Start()
		if got := payloads(collect(t, s, 6)); got != "gap(1,5] 6 7 8 9 10" {
			t.Errorf("got %q", got)
		}
	})
}

// A batch that was left stays as it is, and with ManualAck a finished loop body
// acknowledges nothing.
func TestBatchThatWasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{ManualAck: true})
		take := func() (left []limpet.Message) {
			for ms, err := range s.Batches(context.Background()) {
				if err != nil {
					t.Fatal(err)
				}
				if left != nil {
					return ms
				}
				left = ms
				publish(t, srv, "a", numbers(4, 6)...)
				synctest.Wait()
			}
			return nil
		}
		publish(t, srv, "a", numbers(1, 3)...)
		synctest.Wait()
		left := take()
		if p := s.Committed(); !p.IsZero() {
			t.Errorf("committed %d, nothing was acknowledged", p.Offset)
		}
		if got := payloads(left); got != "4 5 6" {
			t.Errorf("the batch that was left holds %q", got)
		}
	})
}

// A consumer that keeps fewer messages than Buffer unacknowledged gets all of
// them, however many it keeps.
func TestManualAckSlidingWindow(t *testing.T) {
	for _, buffer := range []int{1, 2, 3, 10} {
		for keep := range buffer {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, nil)
				s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{ManualAck: true, Delivery: limpet.Delivery{Buffer: buffer}})
				publish(t, srv, "a", numbers(1, 5*buffer)...)
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				var kept []limpet.Message
				got := 0
				for m, err := range s.Messages(ctx) {
					if err != nil {
						t.Fatalf("Buffer %d, %d kept: %v after %d messages", buffer, keep, err, got)
					}
					if kept = append(kept, m); len(kept) > keep {
						kept[0].Ack()
						kept = kept[1:]
					}
					if got++; got == 5*buffer {
						break
					}
				}
			})
		}
	}
}

// A closed subscription says so, at once and each time; its client goes on.
func TestWaitLiveAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		ctx := context.Background()
		own := func(when string, err error) {
			t.Helper()
			if !errors.Is(err, limpet.ErrSubscriptionClosed) || errors.Is(err, limpet.ErrClosed) || limpet.ClassOf(err) != limpet.ClassClosed {
				t.Errorf("%s: %v", when, err)
			}
		}
		for range 50 {
			s := subscribeLive(t, c, "a", nil)
			s.Close()
			own("at once", s.WaitLive(ctx))
			synctest.Wait()
			own("later", s.WaitLive(ctx))
		}
		pending := func() *limpet.Subscription {
			srv.Stop()
			synctest.Wait()
			s, err := c.Subscribe(ctx, "b", nil)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := pending()
		answer := make(chan error)
		go func() { answer <- s.WaitLive(ctx) }()
		synctest.Wait()
		s.Close()
		own("while another waits", <-answer)
		srv.Start()
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		other := subscribeLive(t, c, "c", nil)
		s = subscribeLive(t, c, "d", nil)
		s.Close()
		c.Close()
		for _, err := range []error{c.WaitReady(ctx), publishError(c)} {
			if !errors.Is(err, limpet.ErrClosed) {
				t.Errorf("at once after Close of the client: %v", err)
			}
		}
		<-c.Done()
		own("closed before its client", s.WaitLive(ctx))
		if err := other.WaitLive(ctx); !errors.Is(err, limpet.ErrClosed) || errors.Is(err, limpet.ErrSubscriptionClosed) {
			t.Errorf("closed by its client: %v", err)
		}
	})
}

func publishError(c *limpet.Client) error {
	_, err := c.Publish(context.Background(), "a", nil, nil)
	return err
}
