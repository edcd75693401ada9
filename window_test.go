package limpet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
)

// A caller that learns of the first of many outcomes finds all of them counted
// and their room free, while the others are still being published.
func TestRoomIsFreeBeforeTheFirstOutcome(t *testing.T) {
	const many = 100_000
	for range 3 {
		a, stats := new(admission), new(counters)
		w := newWindow(true, a, stats)
		receipts := make([]Receipt, many)
		for i := range receipts {
			w.add(&receipts[i])
		}
		first := receipts[0].Done()
		found := make(chan error)
		go func() {
			<-first
			err := a.acquire(context.Background(), many, 0, false)
			if n := stats.outcomes[Acked].Load(); n != many {
				err = fmt.Errorf("%d of %d are counted, room: %w", n, many, err)
			}
			found <- err
		}()
		w.settleThrough(many, Acked)
		w.publishOutcomes()
		if err := <-found; err != nil {
			t.Error(err)
		}
	}
}

// The last message of a batch without an outcome holds what it shares memory
// with: one block of payloads, however large the batch is.
func TestBatchSharesLittleMemory(t *testing.T) {
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		ms := make([]Outgoing, 1+rnd.IntN(300))
		most := []int{100, 1000, 10_000}[rnd.IntN(3)]
		for i := range ms {
			ms[i].Payload = make([]byte, rnd.IntN(most))
		}
		var block []byte
		for i := range ms {
			n, before := len(ms[i].Payload), len(block)
			payload, rest := allocatePayload(block, ms[i:])
			if len(payload) != n || cap(payload) != n {
				t.Fatalf("seed %d: %d bytes of room %d for a payload of %d", seed, len(payload), cap(payload), n)
			}
			if size := n + len(rest); n > before && size > max(n, 4<<10) {
				t.Fatalf("seed %d: a block of %d bytes for a payload of %d", seed, size, n)
			}
			block = rest
		}
	}
}
