package commit

import (
	"math/rand/v2"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// item is a message or a loss. What is committed of it is its number, as the offset.
type item struct {
	number uint64
	loss   bool
}

func (i item) position() *wire.Position { return &wire.Position{Offset: i.number} }

func (i item) generation() uint64 {
	if i.loss {
		return 0
	}
	return 1
}

// take follows items that were taken together, as a queue does.
func take(t *Tracker, items []item) {
	losses := 0
	for _, i := range items {
		if i.loss {
			losses++
		}
	}
	if losses > 0 || !t.Take(items[0].number, items[len(items)-1].number, len(items)) {
		for n, i := range items {
			t.TakeOne(i.number, i.position(), i.generation(), n > 0)
		}
	}
}

// acknowledge follows when all that was taken together is processed.
func acknowledge(t *Tracker, items []item) {
	last := items[len(items)-1]
	t.Acknowledge(items[0].number, last.number, last.position(), last.generation())
}

func acknowledgeOne(t *Tracker, i item) { t.AcknowledgeOne(i.number, i.position(), i.generation()) }

// TestProgressModel takes messages one by one and in batches, and acknowledges
// them in any order, more than once, one by one and in batches: what is committed
// is always the contiguous prefix.
func TestProgressModel(t *testing.T) {
	for seed := range uint64(500) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		manual, processed := seed%3 == 0, wire.Processed(seed%4%3)
		tracker := New(Config{PerMessage: manual || processed == wire.ProcessedEach, Processed: processed, Limit: 1 << 10})
		var waiting, order []item // not taken; as taken
		var open [][]item         // taken together
		number := uint64(0)
		acked, reported := map[uint64]bool{}, map[uint64]int{}
		for step := range 200 {
			switch rnd.IntN(4) {
			case 0:
				for range 1 + rnd.IntN(5) {
					if number++; rnd.IntN(16) == 0 {
						number++ // no message has this number
					}
					waiting = append(waiting, item{number, rnd.IntN(8) == 0})
				}
			case 1:
				n := min(len(waiting), 1+rnd.IntN(6))
				if n == 0 {
					break
				}
				items := waiting[:n]
				waiting = waiting[n:]
				take(&tracker, items)
				open, order = append(open, items), append(order, items...)
				for _, i := range items {
					acked[i.number] = i.loss
				}
			case 2:
				if len(order) == 0 {
					break
				}
				i := order[rnd.IntN(len(order))]
				acknowledgeOne(&tracker, i)
				acked[i.number] = true
			case 3:
				if len(open) == 0 || manual {
					break
				}
				i := rnd.IntN(len(open))
				items := open[i]
				open = append(open[:i], open[i+1:]...)
				acknowledge(&tracker, items)
				for _, i := range items {
					acked[i.number] = true
				}
			}
			for _, r := range tracker.TakeReports() {
				if r.Generation != 1 || r.Released {
					t.Fatalf("seed %d step %d: reported %+v", seed, step, r)
				}
				reported[r.Position.Offset]++
			}
			var want uint64
			for _, i := range order {
				if !acked[i.number] {
					break
				}
				want = i.number
			}
			if got := tracker.Committed().Offset; got != want {
				t.Fatalf("seed %d step %d: committed %d, the acknowledged prefix ends at %d", seed, step, got, want)
			}
		}
		if processed == wire.ProcessedCumulative {
			continue
		}
		for _, i := range order {
			want := 0
			if processed == wire.ProcessedEach && !i.loss && acked[i.number] {
				want = 1
			}
			if n := reported[i.number]; n != want {
				t.Errorf("seed %d: message %d was reported %d times, want %d", seed, i.number, n, want)
			}
		}
	}
}

// A message that is never acknowledged takes no acknowledgement from those after it, and
// the memory of them is bounded.
func TestForgottenRunsAreBounded(t *testing.T) {
	for _, processed := range []wire.Processed{wire.ProcessedEach, wire.ProcessedCumulative} {
		const limit, n = 8, 20
		tracker := New(Config{PerMessage: processed == wire.ProcessedEach, Processed: processed, Limit: limit})
		take(&tracker, []item{{number: 1}})
		for number := uint64(2); number <= n; number++ {
			i := item{number: number}
			take(&tracker, []item{i})
			acknowledge(&tracker, []item{i})
			if got := tracker.unacked.Len(); got > limit {
				t.Fatalf("%v: %d runs are remembered", processed, got)
			}
		}
		want := n - 1
		if processed == wire.ProcessedCumulative {
			want = 0
		}
		if got := len(tracker.TakeReports()); got != want || tracker.Open() != 1 || tracker.Committed() != (wire.Position{}) {
			t.Errorf("%v: %d reported, %d unacknowledged, committed %v; want %d, 1 and nothing", processed, got, tracker.Open(), tracker.Committed(), want)
		}
	}
}

// Behind a message that is not acknowledged, losses in a row are one: however many come,
// they take no memory, and the message's acknowledgement commits them.
func TestLossesBehindAMessageAreBounded(t *testing.T) {
	tracker := New(Config{PerMessage: true, Limit: 1 << 10})
	first := item{number: 1}
	take(&tracker, []item{first})
	const last = 201
	for number := uint64(2); number < last; number += 2 {
		take(&tracker, []item{{number, true}, {number + 1, true}})
	}
	if n := tracker.unacked.Len(); n > 2 || tracker.Committed() != (wire.Position{}) {
		t.Errorf("%d runs are remembered, committed %v", n, tracker.Committed())
	}
	acknowledgeOne(&tracker, first)
	if got := tracker.Committed().Offset; got != last || tracker.Window() != 0 || tracker.unacked.Len() != 0 {
		t.Errorf("committed %v, window %d", got, tracker.Window())
	}
}

// What a server that waits for acknowledgements sends without end takes no more memory than
// the limit allows.
func TestWhatIsKeptForAServerIsBounded(t *testing.T) {
	const limit = 8
	tracker := New(Config{PerMessage: true, Processed: wire.ProcessedEach, Limit: limit})
	for number := uint64(1); number <= 2*limit; number++ {
		if kept := tracker.KeepCopy(number, wire.ID{}, wire.Position{Offset: number}, 1); kept != (number <= limit) {
			t.Errorf("duplicate %d is kept: %v", number, kept)
		}
		tracker.GiveUp(1, wire.Position{Offset: number})
	}
	if n := len(tracker.ReleaseRest(1)); n != limit {
		t.Errorf("%d messages that were given up are kept", n)
	}
}
