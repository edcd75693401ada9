package test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/stomp"
)

// stops collects what is reported of streams that stand still, with the time since the
// start.
type stops struct {
	start time.Time
	mu    sync.Mutex
	lines []string
}

func (s *stops) Observe(e limpet.Event) {
	if e, ok := e.(limpet.DeliveryStopped); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		why := "take"
		if strings.Contains(e.Err.Error(), "Message.Ack") {
			why = "ack"
		}
		s.lines = append(s.lines, fmt.Sprintf("%s %v: waiting %d, unacked %d, %s", e.Topic, time.Since(s.start).Round(time.Second), e.Waiting, e.Unacked, why))
	}
}

func (s *stops) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "; ")
}

// A stream that stands still because consumers do not take or not acknowledge is
// reported once, after 30 seconds, with what to do. Nothing else is.
func TestStandstillIsReported(t *testing.T) {
	ctx := context.Background()
	take := func(keep func(i int) bool, pause time.Duration) func(*limpet.Subscription) {
		return func(s *limpet.Subscription) {
			i := 0
			for m := range s.Messages(ctx) {
				if i++; !keep(i) {
					m.Ack()
				}
				<-time.After(pause)
			}
		}
	}
	all := func(int) bool { return true }
	leave := func(n int) func(*limpet.Subscription) {
		return func(s *limpet.Subscription) {
			i := 0
			for range s.Messages(ctx) {
				if i++; i == n {
					break
				}
			}
		}
	}
	none := func(int) bool { return false }
	first := func(i int) bool { return i == 1 }
	for _, tc := range []struct {
		name     string
		manual   bool
		overflow limpet.Overflow
		consume  func(*limpet.Subscription)
		want     string // a regular expression
		unacked  uint64
		every    time.Duration
	}{
		{"nothing is acknowledged", true, limpet.Block, take(all, 0), "a 30s: waiting 0, unacked 4, ack", 4, 0},
		{"nothing is acknowledged, drops", true, limpet.DropOldest, take(all, 0), "a 30s: waiting 4, unacked 4, ack", 4, 0},
		{"the oldest is not acknowledged", true, limpet.Block, take(first, 0), "a 30s: waiting 0, unacked 1, ack", 1, 0},
		{"batches", true, limpet.Block, func(s *limpet.Subscription) {
			for range s.Batches(ctx) {
			}
		}, "a 30s: waiting 0, unacked 4, ack", 4, 0},
		{"channel", true, limpet.Block, func(s *limpet.Subscription) {
			for range s.C() {
			}
		}, "a 30s: waiting 0, unacked 4, ack", 4, 0},
		{"no consumer", false, limpet.Block, nil, "a 30s: waiting 4, unacked 0, take", 0, 0},
		{"no consumer of a channel", false, limpet.Block, func(s *limpet.Subscription) { s.C() }, "a 30s: waiting 4, unacked 0, take", 0, 0},
		{"no consumer, drops", false, limpet.DropOldest, nil, "", 0, 0},
		{"is slow", true, limpet.Block, take(none, 20*time.Second), "", 0, 0},
		{"works for long", false, limpet.Block, take(none, 90*time.Second), "", 0, 0},
		{"is quick", false, limpet.Block, take(none, 0), "", 0, 0},
		{"is paced", false, limpet.Block, take(none, 0), "", 0, time.Minute},
		{"leaves when most of it waits", false, limpet.Block, leave(5), "a 1m30s: waiting [34], unacked 1, take", 1, time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				var log bytes.Buffer
				seen := &stops{start: time.Now()}
				c := dial(t, srv, &limpet.Options{Observer: seen, Logger: slog.New(slog.NewTextHandler(&log, nil))})
				s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{ManualAck: tc.manual, Delivery: limpet.Delivery{Buffer: 4, Overflow: tc.overflow, Every: tc.every}})
				if tc.consume != nil && tc.every == 0 {
					go tc.consume(s)
				}
				from := 1
				if tc.overflow == limpet.DropOldest {
					publish(t, srv, "a", numbers(1, 4)...)
					synctest.Wait() // the consumer has taken them: what is dropped must not depend on its speed
					from = 5
				}
				publish(t, srv, "a", numbers(from, 20)...)
				if tc.every > 0 {
					synctest.Wait() // the first take finds all that waits
					go tc.consume(s)
				}
				time.Sleep(150 * time.Second)
				synctest.Wait()
				if got := seen.String(); !regexp.MustCompile("^(" + tc.want + ")$").MatchString(got) {
					t.Errorf("reported %q, want %q", got, tc.want)
				}
				if st := s.Stats(); st.Unacked != tc.unacked || st.Received != st.Delivered+st.Dropped+st.Waiting {
					t.Errorf("%+v, want %d unacknowledged", st, tc.unacked)
				}
				closeAndWait(t, c)
				time.Sleep(90 * time.Second) // the consumer ends
				synctest.Wait()
				if lines := strings.Count(log.String(), "delivery stopped"); lines != strings.Count(tc.want, "waiting") {
					t.Errorf("%d lines in the log: %s", lines, log.String())
				}
			})
		})
	}
}

// After the report the stream goes on as soon as the consumer acts. A later standstill
// is reported again; one that ends in time, or with the subscription, is not.
func TestStandstillEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		seen := &stops{start: time.Now()}
		c := dial(t, srv, &limpet.Options{Observer: seen})
		o := &limpet.SubscribeOptions{ManualAck: true, Delivery: limpet.Delivery{Buffer: 4, Overflow: limpet.Block}}
		s, closed := subscribeLive(t, c, "a", o), subscribeLive(t, c, "b", o)
		go func() {
			for range closed.Messages(context.Background()) {
			}
		}()
		publish(t, srv, "b", numbers(1, 9)...)
		publish(t, srv, "a", numbers(1, 20)...)
		var held []limpet.Message
		takeAndAck := func(after time.Duration) {
			t.Helper()
			for range 4 {
				held = append(held, collectUnacked(t, s))
			}
			if n := s.Stats().Unacked; n != 4 {
				t.Errorf("%d unacknowledged", n)
			}
			time.Sleep(after)
			for _, m := range held {
				m.Ack()
			}
			held = nil
			if n := s.Stats().Unacked; n != 0 {
				t.Errorf("%d unacknowledged after all were", n)
			}
		}
		takeAndAck(25 * time.Second) // in time
		closed.Close()
		takeAndAck(45 * time.Second)
		takeAndAck(100 * time.Second)
		synctest.Wait()
		if got, want := seen.String(), "a 55s: waiting 0, unacked 4, ack; a 1m40s: waiting 0, unacked 4, ack"; got != want {
			t.Errorf("reported %q, want %q", got, want)
		}
	})
}

// collectUnacked takes the next message and does not acknowledge it.
func collectUnacked(t testing.TB, s *limpet.Subscription) limpet.Message {
	t.Helper()
	for m, err := range s.Messages(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	t.Fatal("the stream has ended")
	return limpet.Message{}
}

// A Gap between messages that are not acknowledged takes the place of none of them.
func TestGapTakesNoPlaceOfAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := script(t, newVenue(t, "each", true), func(say func(string), hear func() string) {
			hear()
			say(subscribedA)
			for _, n := range []int{1, 3, 5, 6, 8, 10, 11, 12, 13} {
				say(numberedTrade(n))
				time.Sleep(time.Millisecond)
			}
		})
		s := subscribeLive(t, c, "trades/A", &limpet.SubscribeOptions{ManualAck: true, Delivery: limpet.Delivery{Buffer: 3, Overflow: limpet.DropOldest}})
		var kept []limpet.Message
		got := 0
		for m, err := range s.Messages(within(t, time.Minute)) {
			if err != nil {
				t.Fatalf("%v after %d messages; %+v", err, got, s.Stats())
			}
			if m.Loss != nil {
				continue
			}
			if kept = append(kept, m); len(kept) == 3 { // acknowledged together
				for i := range kept {
					kept[i].Ack()
				}
				kept = nil
			}
			if got++; got == 9 {
				break
			}
		}
		if st := s.Stats(); st.Gaps != 4 || st.Dropped != 0 || st.Unacked != 0 || s.Committed().Offset != 13 {
			t.Errorf("%+v, committed %v; want 4 gaps and everything acknowledged", st, s.Committed())
		}
	})
}

// A broker sends no more than its prefetch without an acknowledgement, which is less than
// Delivery.Buffer. A consumer that acknowledges nothing is reported then; one that works
// for long is not, nor one that has acknowledged.
func TestStandstillOfABroker(t *testing.T) {
	ctx := context.Background()
	for _, tc := range []struct {
		name    string
		manual  bool
		consume func(*limpet.Subscription)
		want    string
	}{
		{"nothing is acknowledged", true, func(s *limpet.Subscription) {
			for range s.Messages(ctx) {
			}
		}, "/queue/a 30s: waiting 0, unacked 3, ack"},
		{"every loop is left", false, func(s *limpet.Subscription) {
			for range 3 {
				for range s.Messages(ctx) {
					break
				}
			}
		}, "/queue/a 30s: waiting 0, unacked 3, ack"},
		{"no consumer", false, func(*limpet.Subscription) {}, "/queue/a 30s: waiting 3, unacked 0, take"},
		{"works for long", false, func(s *limpet.Subscription) {
			for range s.Messages(ctx) {
				<-time.After(90 * time.Second)
			}
		}, ""},
		{"acknowledges", true, func(s *limpet.Subscription) {
			for m := range s.Messages(ctx) {
				m.Ack()
			}
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newStompBroker(t)
				seen := &stops{start: time.Now()}
				c := b.client(t, stomp.Options{Prefetch: 3}, limpet.Options{Observer: seen})
				b.put("/queue/a", numbers(1, 10)...)
				s := subscribeLive(t, c, "/queue/a", &limpet.SubscribeOptions{ManualAck: tc.manual})
				go tc.consume(s)
				time.Sleep(5 * time.Minute)
				synctest.Wait()
				if got := seen.String(); got != tc.want {
					t.Errorf("reported %q, want %q", got, tc.want)
				}
				closeAndWait(t, c)
				time.Sleep(90 * time.Second) // the consumer ends
			})
		})
	}
}

// A stream for which half of the bytes are free, or whose only message waits in C, stands
// still too: the server gets no more credit.
func TestStandstillWithLittleRoom(t *testing.T) {
	for _, tc := range []struct {
		delivery limpet.Delivery
		channel  bool
		take     int
		want     string
	}{
		{limpet.Delivery{Bytes: 10_000}, false, 4, "a 30s: waiting 6, unacked 0, take"},
		{limpet.Delivery{Buffer: 1}, true, 0, "a 30s: waiting 1, unacked 0, take"},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			seen := &stops{start: time.Now()}
			c := dial(t, srv, &limpet.Options{Observer: seen})
			s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{Delivery: tc.delivery})
			for range 30 {
				publish(t, srv, "a", strings.Repeat("x", 1000))
			}
			synctest.Wait()
			if tc.channel {
				s.C()
			} else {
				collect(t, s, tc.take)
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if got := seen.String(); got != tc.want {
				t.Errorf("%+v: reported %q, want %q", tc.delivery, got, tc.want)
			}
		})
	}
}
