package limpet

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// TestProgressModel takes messages one by one and in batches, and acknowledges
// them in any order, more than once, one by one and in batches: what is committed
// is always the contiguous prefix.
func TestProgressModel(t *testing.T) {
	for seed := range uint64(500) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		manual := seed%3 == 0
		traits := wire.Traits{Holes: wire.HolesFault, Processed: wire.Processed(seed % 4 % 3)}
		q := testQueue(Delivery{Buffer: 1 << 10, Overflow: DropOldest}, manual, traits)
		reported := map[uint64]int{}
		q.owner = testOwner{processed: func(gen uint64, p Position) {
			if gen != 1 {
				t.Fatalf("seed %d: reported for connection %d", seed, gen)
			}
			reported[p.Offset]++
		}}
		offerAll(t, q, subscribedAt(0))
		offset := uint64(0)
		type taken struct {
			ms    []Message
			whole bool
		}
		var open []taken
		var order []Message // as taken
		acked := map[uint64]bool{}
		for step := range 200 {
			switch rnd.IntN(4) {
			case 0:
				for range 1 + rnd.IntN(5) {
					if offset++; rnd.IntN(8) == 0 {
						offerAll(t, q, gapTo(offset-1, offset))
					} else {
						offerAll(t, q, dataAt(offset, offset-1))
					}
				}
			case 1:
				q.mu.Lock()
				waits := q.items.Len()
				q.mu.Unlock()
				if waits == 0 {
					break
				}
				ms, err := q.take(context.Background(), nil, 1+rnd.IntN(6), false, processedRun{})
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, taken{ms, true})
				order = append(order, ms...)
				for _, m := range ms {
					acked[m.Position.Offset] = m.Kind == Gap
				}
			case 2:
				if len(order) == 0 {
					break
				}
				m := order[rnd.IntN(len(order))]
				m.Ack()
				acked[m.Position.Offset] = true
			case 3:
				if len(open) == 0 || manual {
					break
				}
				i := rnd.IntN(len(open))
				ms := open[i].ms
				open = append(open[:i], open[i+1:]...)
				q.mu.Lock()
				processed := q.reported(q.tracker.acknowledge(processedRun{first: ms[0].number, last: &ms[len(ms)-1]}))
				q.mu.Unlock()
				q.reportProcessed(processed)
				for _, m := range ms {
					acked[m.Position.Offset] = true
				}
			}
			var want uint64
			for _, m := range order {
				if !acked[m.Position.Offset] {
					break
				}
				want = m.Position.Offset
			}
			q.mu.Lock()
			got := q.tracker.committed.Offset
			q.mu.Unlock()
			if got != want {
				t.Fatalf("seed %d step %d: committed %d, the acknowledged prefix ends at %d", seed, step, got, want)
			}
		}
		for _, m := range order {
			n, want := reported[m.Position.Offset], 0
			if traits.Processed == wire.ProcessedEach && m.Kind == Data && acked[m.Position.Offset] {
				want = 1
			}
			if traits.Processed != wire.ProcessedCumulative && n != want {
				t.Errorf("seed %d: message %d was reported %d times, want %d", seed, m.Position.Offset, n, want)
			}
		}
	}
}

// A caller may change its copy of a message before acknowledging it.
func TestAckOfAnAlteredMessage(t *testing.T) {
	q := testQueue(Delivery{Buffer: 8}, true, wire.Traits{Holes: wire.HolesFault})
	offerAll(t, q, subscribedAt(0), dataAt(1, 0))
	ms, err := q.take(context.Background(), nil, 1, false, processedRun{})
	if err != nil {
		t.Fatal(err)
	}
	m := ms[0]
	m.Position = Position{}
	m.Ack()
	if got := q.tracker.committed; got != ms[0].Position {
		t.Errorf("committed %+v, acknowledged was %+v", got, ms[0].Position)
	}
}

// Whatever ends an iteration over several subscriptions, no queue keeps a part of it,
// and one that has ended keeps none while the iteration goes on.
func TestMergeLeavesNothing(t *testing.T) {
	var subs []*Subscription
	for range 3 {
		subs = append(subs, &Subscription{topic: "t", queue: testQueue(Delivery{Buffer: 4}, false, wire.Traits{})})
	}
	kept := func() (n int) {
		for _, s := range subs {
			if list := s.queue.merges.Load(); list != nil {
				n += len(*list)
			}
		}
		return n
	}
	offerAll(t, subs[0].queue, subscribedAt(0), dataAt(1, 0), dataAt(2, 1))
	subs[2].queue.finish(nil, false)
	offerAll(t, subs[0].queue, dataAt(3, 2))
	turns := 0
	for range Merge(t.Context(), subs...) {
		if turns++; turns == 2 {
			if got := kept(); got != 2 {
				t.Errorf("after the end of one of three: %d parts", got)
			}
			break
		}
		for range Merge(t.Context(), subs...) {
			if got := kept(); got != 6 {
				t.Errorf("two iterations have %d parts", got)
			}
			break
		}
	}
	if got := kept(); got != 0 {
		t.Errorf("%d parts are left after break", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go subs[1].queue.discard(nil)
	for _, err := range Merge(ctx, subs[1], subs[2]) {
		t.Errorf("an element of streams that have ended: %v", err)
	}
	cancel()
	for range Merge(ctx, subs...) {
	}
	if got := kept(); got != 0 {
		t.Errorf("%d parts are left after the end", got)
	}
}
