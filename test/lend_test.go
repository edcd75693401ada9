package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/lend"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
)

// lending is a subscription that lends its payloads, with messages 1 to n waiting.
func lending(t *testing.T, n int) *limpet.Subscription {
	t.Helper()
	srv := limpettest.NewServer(t, nil)
	s := subscribeLive(t, dial(t, srv, nil), "q", &limpet.SubscribeOptions{Lend: true})
	publish(t, srv, "q", numbers(1, n)...)
	synctest.Wait()
	return s
}

// spoiled reports whether a payload was overwritten because it was kept.
func spoiled(payload []byte) bool {
	return len(payload) > 0 && bytes.Count(payload, []byte{lend.Poison}) == len(payload)
}

// A lent payload is right within the loop body. After it, the memory belongs to others, and a
// program that was built to find that sees it at once.
func TestLentPayloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := lending(t, 300)
		var got []string
		var kept [][]byte
		var clones []limpet.Message
		batches := 0
		for ms, err := range s.Batches(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range kept {
				if lend.Poisons && !spoiled(p) {
					t.Fatalf("a payload that was kept is %q", p)
				}
			}
			for _, m := range ms {
				got = append(got, string(m.Payload))
				kept = append(kept, m.Payload)
			}
			clones = append(clones, slices.Clone(ms)...)
			if batches++; len(got) == 300 {
				break
			}
		}
		if want := numbers(1, 300); !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
		if batches < 3 {
			t.Errorf("%d batches: the test shows nothing", batches)
		}
		if m := clones[0]; m.Topic != "q" || m.Position.Offset == 0 || m.Kind != limpet.Data {
			t.Errorf("a message that was kept: %+v", m)
		}
		// The last batch stays valid after break.
		if last := kept[len(kept)-1]; string(last) != "300" {
			t.Errorf("the last payload is %q after break", last)
		}
	})
}

// What Messages, C and Merge hand over may be kept.
func TestLentPayloadsThatAreCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := lending(t, 300)
		var kept []limpet.Message
		for m := range s.Messages(t.Context()) {
			if kept = append(kept, m); len(kept) == 100 {
				break
			}
		}
		for m := range s.C() {
			if kept = append(kept, m); len(kept) == 200 {
				break
			}
		}
		for m := range limpet.Merge(t.Context(), s) {
			if kept = append(kept, m); len(kept) == 299 {
				break
			}
		}
		for _, m := range kept {
			if string(m.Payload) != fmt.Sprint(m.Position.Offset) {
				t.Fatalf("%q at offset %d", m.Payload, m.Position.Offset)
			}
		}
	})
}

// Payloads lie in the frames of a server without a protocol. One subscription lends them and
// another owns them, on both frame layers: each gets memory that the next frames leave alone.
func TestPayloadsOfFramesThatFollowQuickly(t *testing.T) {
	for _, plain := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const n = 500
			srv := newPlainServer(t, func(p *plainConn) {
				for i := range n {
					p.text(fmt.Sprintf("own %d", i), fmt.Sprintf("lend %d", i))
				}
			})
			word := func(f wire.Frame) raw.Label {
				topic, _, _ := strings.Cut(string(f.Data), " ")
				return raw.Label{Topic: topic}
			}
			c, subs := srv.client(t, raw.Options{Topic: word}, limpet.Options{PlainFrames: plain}, "own")
			lent, err := c.Subscribe(t.Context(), "lend", &limpet.SubscribeOptions{Lend: true})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			time.Sleep(time.Second)
			owned := collect(t, subs[0], n)
			next := 0
			for ms, err := range lent.Batches(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range ms {
					if string(m.Payload) != fmt.Sprint("lend ", next) {
						t.Fatalf("plain %v: %q at place %d", plain, m.Payload, next)
					}
					next++
				}
				if next == n {
					break
				}
			}
			for i, m := range owned {
				if string(m.Payload) != fmt.Sprint("own ", i) {
					t.Fatalf("plain %v: %q at place %d", plain, m.Payload, i)
				}
			}
		})
	}
}

// Consumers that compete each keep what they have while others give theirs back.
func TestLentPayloadsOfCompetingConsumers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := lending(t, 500)
		var fault string
		done := make(chan int)
		for i := range 4 {
			go func() {
				n := 0
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				for ms, err := range s.Batches(ctx) {
					if errors.Is(err, context.DeadlineExceeded) {
						break
					}
					var before []string
					for _, m := range ms {
						before = append(before, string(m.Payload))
					}
					time.Sleep(time.Duration(i) * time.Second)
					for i, m := range ms {
						if string(m.Payload) != before[i] {
							fault = fmt.Sprintf("%q became %q", before[i], m.Payload)
						}
					}
					n += len(ms)
				}
				done <- n
			}()
		}
		sum := 0
		for range 4 {
			sum += <-done
		}
		if sum != 500 || fault != "" {
			t.Errorf("%d messages; %s", sum, fault)
		}
	})
}

// Messages that the policy drops keep no memory.
func TestDroppedMessagesAreNotLent(t *testing.T) {
	for _, overflow := range []limpet.Overflow{limpet.DropOldest, limpet.DropNewest} {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			c := dial(t, srv, nil)
			s := subscribeLive(t, c, "q", &limpet.SubscribeOptions{Lend: true, Delivery: limpet.Delivery{Overflow: overflow, Buffer: 10}})
			for i := range 2000 {
				if _, err := srv.Server.Publish(t.Context(), "q", sized(i, 1000), nil); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			if st := s.Stats(); st.Dropped != 1990 || c.Stats().Memory > 256<<10 { // a queue reserves a little more
				t.Errorf("%v: %d bytes for %d messages, %d dropped", overflow, c.Stats().Memory, st.Waiting, st.Dropped)
			}
		})
	}
}

// TestKeptPayloadIsARace: the race detector finds a goroutine that reads a payload after its
// batch, as in a program that hands payloads to workers.
func TestKeptPayloadIsARace(t *testing.T) {
	const variable = "LIMPET_KEEP_A_PAYLOAD"
	if os.Getenv(variable) != "" {
		synctest.Test(t, keepPayload)
		return
	}
	if !raceEnabled {
		t.Skip("only the race detector finds it: run with -race")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKeptPayloadIsARace$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"=1", "GORACE=exitcode=66")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(string(out), "DATA RACE") {
		t.Errorf("%v: %s", err, out)
	}
}

// keepPayload reads a payload on a goroutine that knows nothing of the next batch.
func keepPayload(t *testing.T) {
	srv := limpettest.NewServer(t, nil)
	s := subscribeLive(t, dial(t, srv, nil), "q", &limpet.SubscribeOptions{Lend: true})
	first := strings.Repeat("1", 64)
	publish(t, srv, "q", append([]string{first}, numbers(2, 200)...)...)
	synctest.Wait()
	done := make(chan struct{})
	for ms := range s.Batches(t.Context()) {
		payload := ms[0].Payload
		if string(payload) != first {
			break
		}
		started := make(chan struct{})
		go func() {
			defer close(done)
			for i := 0; string(payload) == first; i++ {
				if i == 0 {
					close(started)
				}
				runtime.Gosched()
			}
		}()
		<-started
	}
	<-done
}
