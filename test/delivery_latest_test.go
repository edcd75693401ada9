package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

// symbol is the key of payloads like "A 17".
func symbol(m limpet.Message) string {
	key, _, _ := strings.Cut(string(m.Payload), " ")
	return key
}

// With Latest a consumer gets the newest message of each key, in the order in which the
// keys began to wait. Nothing else is in the stream, and the counters say the rest.
func TestLatestKeepsTheNewestOfEachKey(t *testing.T) {
	for _, row := range []struct {
		name    string
		key     func(limpet.Message) string
		publish []string // topic and payload
		want    string
	}{
		{"by topic", nil, []string{"q/a A1", "q/b B1", "q/a A2", "q/c C1", "q/a A3", "q/b B2"}, "A3 B2 C1"},
		{"by payload", func(m limpet.Message) string { return string(m.Payload[:1]) },
			[]string{"q/x B1", "q/y A1", "q/z B2", "q/x A2"}, "B2 A2"},
		{"one key", func(limpet.Message) string { return "" }, []string{"q/a 1", "q/b 2", "q/c 3"}, "3"},
		{"a key each", func(m limpet.Message) string { return m.ID.String() }, []string{"q/a 1", "q/a 2", "q/a 3"}, "1 2 3"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, nil)
				s := subscribeLive(t, c, "q/*", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.Latest, Key: row.key}})
				for _, p := range row.publish {
					topic, payload, _ := strings.Cut(p, " ")
					publish(t, srv, topic, payload)
				}
				synctest.Wait()
				n := len(strings.Fields(row.want))
				if st := s.Stats(); st.Received != uint64(len(row.publish)) || st.Waiting != uint64(n) ||
					st.Conflated != uint64(len(row.publish)-n) || st.Dropped != 0 || st.Gaps != 0 {
					t.Errorf("%+v", st)
				}
				if got := payloads(collect(t, s, n)); got != row.want {
					t.Errorf("got %s, want %s", got, row.want)
				}
				publish(t, srv, "q/a", "next")
				if got := payloads(collect(t, s, 1)); got != "next" {
					t.Errorf("then %s", got)
				}
				synctest.Wait()
				if st := s.Stats(); st.Delivered != uint64(n+1) || st.Waiting != 0 || c.Stats().Messages.Conflated != st.Conflated {
					t.Errorf("at the end %+v", st)
				}
			})
		})
	}
}

// More keys than Delivery.Buffer or Delivery.Bytes allow: the first keys are dropped, and a
// Gap stands in their place.
func TestLatestBeyondItsBounds(t *testing.T) {
	for name, d := range map[string]limpet.Delivery{"Buffer": {Buffer: 3}, "Bytes": {Bytes: 6}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				d.Overflow, d.Key = limpet.Latest, firstByte
				s := subscribeLive(t, dial(t, srv, nil), "q", &limpet.SubscribeOptions{Delivery: d})
				publish(t, srv, "q", "A1", "B1", "C1", "A2", "D1", "B2", "E1")
				synctest.Wait()
				// D makes A2 fall out, E makes B2.
				if got := payloads(collect(t, s, 4)); got != "gap(3,6] C1 D1 E1" {
					t.Errorf("got %s", got)
				}
				if st := s.Stats(); st.Dropped != 2 || st.Conflated != 2 || st.Received != st.Delivered+st.Dropped+st.Conflated+st.Waiting {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

func firstByte(m limpet.Message) string { return string(m.Payload[:1]) }

// A loss separates: what comes after it stands behind it.
func TestLatestAcrossALoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "q", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.Latest, Key: firstByte}})
		publish(t, srv, "q", "A1", "B1", "C1")
		synctest.Wait()
		srv.Reboot(server.NewMemoryLog(server.Retention{})) // with a new log
		c.ReconnectNow()
		time.Sleep(time.Minute)
		publish(t, srv, "q", "A2", "D1", "A3", "B2")
		synctest.Wait()
		if got := payloads(collect(t, s, 5)); got != "C1 reset A3 D1 B2" {
			t.Errorf("got %s", got)
		}
	})
}

// The committed position under Latest is a low-water mark: another process that resumes
// there misses no key, wherever the first one stopped.
func TestLatestCommitsALowWaterMark(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range 40 {
		rnd := rand.New(rand.NewPCG(seed, uint64(round)))
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			o := limpet.SubscribeOptions{ManualAck: rnd.IntN(2) == 0, Delivery: limpet.Delivery{Overflow: limpet.Latest, Key: symbol}}
			first := subscribeLive(t, dial(t, srv, nil), "q", &o)
			newest, seen := map[string]int{}, map[string]int{}
			process := func(m limpet.Message) {
				var n int
				if _, err := fmt.Sscan(strings.TrimPrefix(string(m.Payload), symbol(m)), &n); err != nil {
					t.Fatal(err)
				}
				if seen[symbol(m)] > n {
					t.Errorf("round %d: %s after %d", round, m.Payload, seen[symbol(m)])
				}
				seen[symbol(m)] = n
			}
			sent := 0
			send := func(n int) {
				for range n {
					sent++
					key := string(rune('A' + rnd.IntN(8)))
					newest[key] = sent
					publish(t, srv, "q", fmt.Sprintf("%s %d", key, sent))
				}
				synctest.Wait()
			}
			send(1)
			before := limpet.Position{}
			for range 1 + rnd.IntN(20) {
				send(rnd.IntN(10))
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				for m, err := range first.Messages(ctx) {
					if err != nil || rnd.IntN(4) == 0 {
						break // the message in hand is not processed
					}
					process(m)
					if o.ManualAck && rnd.IntN(3) > 0 {
						m.Ack()
					} else if o.ManualAck {
						delete(seen, symbol(m)) // processed, and that was lost
					}
				}
				cancel()
				if p := first.Committed(); p.Offset < before.Offset {
					t.Errorf("round %d: committed %v after %v", round, p, before)
				} else {
					before = p
				}
			}
			resume := limpet.SubscribeOptions{From: limpet.FromResume, Position: first.Committed(), Delivery: limpet.Delivery{Overflow: limpet.Latest, Key: symbol}}
			if resume.Position.IsZero() {
				resume.From = limpet.FromFirst
			}
			assert.NoError(t, first.Close())
			second := subscribeLive(t, dial(t, srv, nil), "q", &resume)
			seen2 := map[string]int{}
			for k, n := range seen {
				seen2[k] = n
			}
			seen = map[string]int{}
			synctest.Wait()
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			for m, err := range second.Messages(ctx) {
				if err != nil {
					break
				}
				if m.Loss != nil {
					t.Errorf("round %d: %v", round, m.Kind)
					continue
				}
				process(m)
			}
			for key, n := range newest {
				if max(seen[key], seen2[key]) != n {
					t.Errorf("round %d: the newest of %s is %d, the processes saw %d and %d", round, key, n, seen2[key], seen[key])
				}
			}
		})
	}
}

// A Key that panics ends its subscription, behind the messages before; the other
// subscriptions and the connection go on.
func TestKeyThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		other := subscribeLive(t, c, "other", nil)
		s := subscribeLive(t, c, "q", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.Latest, Key: func(m limpet.Message) string {
			if string(m.Payload) == "bad" {
				panic("no symbol")
			}
			return string(m.Payload)
		}}})
		var all []limpet.Outgoing // in one batch, so that many come before the client ends the subscription
		for i := range 500 {
			payload := fmt.Sprint(i + 1)
			if i == 2 {
				payload = "bad"
			}
			all = append(all, limpet.Outgoing{Topic: "q", Payload: []byte(payload)})
		}
		all = append(all, limpet.Outgoing{Topic: "other", Payload: []byte("here")})
		_, err := c.PublishBatch(context.Background(), all)
		assert.NoError(t, err)
		synctest.Wait()
		var got []limpet.Message
		var end error
		for m, err := range s.Messages(context.Background()) {
			if end = err; err == nil {
				got = append(got, m)
			}
		}
		if payloads(got) != "1 2" {
			t.Errorf("got %s", payloads(got))
		}
		var typed *limpet.Error
		var panicked *limpet.PanicError
		if !errors.Is(end, limpet.ErrPanic) || !errors.As(end, &typed) || typed.Field != "Delivery.Key" || typed.Class != limpet.ClassUser ||
			!errors.As(end, &panicked) || !strings.Contains(string(panicked.Stack), "TestKeyThatPanics") {
			t.Errorf("the stream ended with %v", end)
		}
		if err := s.Err(); !errors.Is(err, limpet.ErrPanic) {
			t.Errorf("Err is %v", err)
		}
		if got := payloads(collect(t, other, 1)); got != "here" {
			t.Errorf("the other subscription got %s", got)
		}
		if st := c.Stats(); st.Connections != 1 {
			t.Errorf("%d connections", st.Connections)
		}
		if st := s.Stats(); st.Received != 2 || st.Delivered != 2 {
			t.Errorf("%+v", st)
		}
		synctest.Wait()
		if n := srv.Server.Stats().Subscriptions; n != 1 {
			t.Errorf("the server has %d subscriptions, want 1", n)
		}
	})
}

// A Key that ends its goroutine ends its subscription too, behind the messages before. It
// costs one connection, whose end names it, and loses nothing for others.
func TestKeyThatEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		other := subscribeLive(t, c, "other", nil)
		s := subscribeLive(t, c, "q", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.Latest, Key: func(m limpet.Message) string {
			if string(m.Payload) == "bad" {
				runtime.Goexit()
			}
			return string(m.Payload)
		}}})
		var all []limpet.Outgoing // in one batch
		for _, payload := range []string{"1", "2", "bad", "4"} {
			all = append(all, limpet.Outgoing{Topic: "q", Payload: []byte(payload)})
		}
		all = append(all, limpet.Outgoing{Topic: "other", Payload: []byte("here")})
		_, err := c.PublishBatch(context.Background(), all)
		assert.NoError(t, err)
		time.Sleep(time.Hour)
		var got []limpet.Message
		var end error
		for m, err := range s.Messages(context.Background()) {
			if end = err; err == nil {
				got = append(got, m)
			}
		}
		var typed *limpet.Error
		if payloads(got) != "1 2" || !errors.As(end, &typed) || typed.Field != "Delivery.Key" || typed.Class != limpet.ClassUser || !strings.Contains(end.Error(), "Goexit") {
			t.Errorf("got %s, then %v", payloads(got), end)
		}
		if cause := c.State().Cause; !strings.Contains(fmt.Sprint(cause), "Delivery.Key") || limpet.ClassOf(cause) != limpet.ClassUser {
			t.Errorf("the connection ended with %v", cause)
		}
		if st := c.Stats(); st.Connections != 2 {
			t.Errorf("%d connections", st.Connections)
		}
		if got := payloads(collect(t, other, 1)); got != "here" {
			t.Errorf("the other subscription got %s", got)
		}
	})
}

// A Key that does not return for 10 seconds ends the client with an error that names it.
func TestKeyThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		release := make(chan struct{})
		s := subscribeLive(t, c, "q", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.Latest, Key: func(m limpet.Message) string {
			if string(m.Payload) == "2" {
				<-release
			}
			return string(m.Payload)
		}}})
		publish(t, srv, "q", "1")
		synctest.Wait()
		began := time.Now()
		publish(t, srv, "q", "2")
		<-c.Done()
		if took := time.Since(began).Round(time.Second); took != 10*time.Second {
			t.Errorf("the client ended after %v", took)
		}
		var hung *limpet.HangError
		var permanent *limpet.PermanentError
		if err := c.Err(); !errors.As(err, &hung) || hung.Method != "Delivery.Key" || !strings.Contains(string(hung.Stack), "TestKeyThatBlocks") ||
			!errors.As(err, &permanent) || permanent.Class != limpet.ClassUser || !strings.Contains(err.Error(), "Delivery.Key") {
			t.Errorf("the client ended with %v", err)
		}
		if got := payloads(collect(t, s, 1)); got != "1" {
			t.Errorf("got %s", got)
		}
		close(release) // the abandoned goroutine ends
	})
}
