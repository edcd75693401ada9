package limpet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/budget"
	"github.com/limpet-go/limpet/internal/commit"
	"github.com/limpet-go/limpet/wire"
)

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
	if got := q.committedPosition(); got != ms[0].Position {
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
	bodies := func(want int) {
		t.Helper()
		n := 0
		for _, s := range subs {
			n += s.queue.bodies
		}
		if n != want {
			t.Errorf("%d loop bodies count as at work; want %d", n, want)
		}
	}
	offerAll(t, subs[0].queue, subscribedAt(0), dataAt(1, 0), dataAt(2, 1))
	offerAll(t, subs[1].queue, subscribedAt(0), dataAt(1, 0))
	subs[2].queue.finish(nil, false)
	offerAll(t, subs[0].queue, dataAt(3, 2))
	turns := 0
	for range Merge(t.Context(), subs...) {
		if turns++; turns == 3 {
			bodies(1)
			if got := kept(); got != 2 {
				t.Errorf("after the end of one of three: %d parts", got)
			}
			break
		}
		bodies(1)
		for range Merge(t.Context(), subs[:2-turns]...) { // in the first turn only
			bodies(2)
			if got := kept(); got != 4 {
				t.Errorf("two iterations have %d parts", got)
			}
			break
		}
	}
	if got := kept(); got != 0 {
		t.Errorf("%d parts are left after break", got)
	}
	bodies(0)
	offerAll(t, subs[0].queue, dataAt(4, 3), dataAt(5, 4))
	subs[0].queue.finish(nil, false)
	for range Merge(t.Context(), subs[0]) {
		bodies(1)
	}
	bodies(0)
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

// Acknowledgements on several goroutines are reported in the order in which the prefix
// grew: a server that takes the last one for all would hear of fewer messages.
func TestAcknowledgementsAreReportedInOrder(t *testing.T) {
	q := testQueue(Delivery{Buffer: 8}, true, wire.Traits{Processed: wire.ProcessedCumulative})
	entered, leave, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
	reported := make(chan uint64, 2)
	q.owner = testOwner{processed: func(_ uint64, p Position) {
		if p.Offset == 1 {
			close(entered)
			<-leave
		}
		reported <- p.Offset
	}}
	offerAll(t, q, subscribedAt(0), dataAt(1, 0), dataAt(2, 1))
	ms, err := q.take(context.Background(), nil, 2, false, processedRun{})
	if err != nil || len(ms) != 2 {
		t.Fatal(ms, err)
	}
	go func() {
		ms[0].Ack()
		close(left)
	}()
	<-entered
	ms[1].Ack()
	close(leave)
	<-left
	if first, second := <-reported, <-reported; first != 1 || second != 2 {
		t.Errorf("reported %d, then %d", first, second)
	}
}

// A message that is never acknowledged, because its loop body did not finish, takes no
// acknowledgement from those after it, however many come.
func TestForgottenMessageCostsNoAcknowledgement(t *testing.T) {
	for _, processed := range []wire.Processed{wire.ProcessedEach, wire.ProcessedCumulative} {
		q := testQueue(Delivery{Buffer: 8, Overflow: DropOldest}, false, wire.Traits{Processed: processed})
		reported := 0
		q.owner = testOwner{processed: func(uint64, Position) { reported++ }}
		offerAll(t, q, subscribedAt(0), dataAt(1, 0))
		var run processedRun
		var memory [1]Message
		const n = 2 * commit.MaxUnacked
		for i := range uint64(n) {
			ms, err := q.take(context.Background(), memory[:0], 1, false, run)
			if err != nil || len(ms) != 1 {
				t.Fatal(ms, err)
			}
			if run = (processedRun{first: ms[0].number, last: &memory[0]}); i == 0 {
				run = processedRun{} // the loop was left
			}
			offerAll(t, q, dataAt(i+2, i+1))
		}
		want := n - 2 // one is forgotten, the last one is at work
		if processed == wire.ProcessedCumulative {
			want = 0
		}
		if st := q.stats(); reported != want || st.Unacked != 2 || q.committedPosition().Offset != 0 {
			t.Errorf("%v: %d reported, %d unacknowledged, committed %v; want %d, 2 and nothing", processed, reported, st.Unacked, q.committedPosition(), want)
		}
	}
}

// A source that becomes ready again before its turn has one turn, at its first place.
func TestTurnsAreGivenOnce(t *testing.T) {
	m := &merge{wake: make(chan struct{}, 1), sources: make([]mergeSource, 3)}
	for _, i := range []int{2, 0, 2, 1, 2, 0} {
		m.sources[i].merge = m
		m.sources[i].becomeReady()
	}
	for _, i := range []int{2, 0, 1} {
		if got := m.takeTurn(); got != &m.sources[i] {
			t.Fatalf("a turn out of place; want source %d", i)
		}
	}
	if m.takeTurn() != nil {
		t.Error("a fourth turn")
	}
}

// latestModel is what waits in a queue with Latest: messages with keys, and losses.
type latestModel struct {
	buffer             int
	waits              []latestItem
	conflated, dropped uint64
}

type latestItem struct {
	kind   Kind
	key    string
	offset uint64 // of the message, or of the newest message in an overflow gap
	over   bool   // an overflow gap
}

func isLoss(i latestItem) bool { return i.kind != Data }

func (l *latestModel) message(key string, offset uint64) {
	at := slices.IndexFunc(l.waits, func(i latestItem) bool { return !isLoss(i) && i.key == key })
	if at >= 0 {
		l.conflated++
	}
	if at >= 0 && !slices.ContainsFunc(l.waits[at:], isLoss) {
		l.waits[at].offset = offset
	} else {
		if at >= 0 {
			l.waits = slices.Delete(l.waits, at, at+1)
		}
		l.waits = append(l.waits, latestItem{Data, key, offset, false})
	}
	for l.messages() > l.buffer {
		first := slices.IndexFunc(l.waits, func(i latestItem) bool { return !isLoss(i) })
		l.waits[first] = latestItem{Gap, "", l.waits[first].offset, true}
		l.dropped++
	}
	l.join()
}

func (l *latestModel) messages() int { return len(slices.DeleteFunc(slices.Clone(l.waits), isLoss)) }

func (l *latestModel) loss(kind Kind) {
	l.waits = append(l.waits, latestItem{kind: kind})
	l.join()
}

// join joins the losses that are neighbours.
func (l *latestModel) join() {
	for i := 0; i+1 < len(l.waits); i++ {
		a, b := l.waits[i], l.waits[i+1]
		switch {
		case a.kind == b.kind && a.kind != Data:
			l.waits[i].offset = max(a.offset, b.offset)
			l.waits = slices.Delete(l.waits, i+1, i+2)
			i = -1
		case i+2 < len(l.waits) && a.kind == Reset && b.over && l.waits[i+2].kind == Reset:
			l.waits = slices.Delete(l.waits, i+1, i+3)
			i = -1
		}
	}
}

// TestLatestModel drives a queue with Latest with random keys, losses and consumers, and
// compares what comes out with a model. What is committed passes no message that waits or
// is not processed, and nothing that was dropped before its gap was taken.
func TestLatestModel(t *testing.T) {
	for seed := range uint64(1000) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		d := Delivery{Buffer: 1 + rnd.IntN(5), Overflow: Latest, Key: func(m Message) string { return string(m.Payload) }}
		manual, processed := rnd.IntN(2) == 0, wire.Processed(rnd.IntN(3))
		q := testQueue(d, manual, wire.Traits{Processed: processed})
		model, reported := latestModel{buffer: d.Buffer}, []uint64{0}
		q.owner = testOwner{processed: func(_ uint64, p Position) { reported = append(reported, p.Offset) }}
		offerAll(t, q, subscribedAt(10))
		last, committed := uint64(10), uint64(0)
		var hand []Message // taken, and not processed
		for step := range 200 {
			fail := func(format string, args ...any) {
				t.Helper()
				t.Fatalf("seed %d, Buffer %d, manual %v, step %d: %s", seed, d.Buffer, manual, step, fmt.Sprintf(format, args...))
			}
			switch action := rnd.IntN(20); {
			case action < 12:
				last++
				ev := dataAt(last, last-1)
				ev.Message.Payload = []byte{'a' + byte(rnd.IntN(6))}
				offerAll(t, q, ev, ev) // the second is a repeat
				model.message(string(ev.Message.Payload), last)
			case action == 12:
				last += 2
				offerAll(t, q, gapTo(last-2, last))
				model.loss(Gap)
			case action == 13:
				last += 5
				offerAll(t, q, resetAt("e", last))
				model.loss(Reset)
			case action < 17 && manual && len(hand) > 0:
				i := rnd.IntN(len(hand))
				hand[i].Ack()
				hand[i].Ack()
				hand = slices.Delete(hand, i, i+1)
			default:
				q.mu.Lock()
				ms, _ := q.takeReady(nil, 1+rnd.IntN(3), true, nil)
				q.mu.Unlock()
				for i, m := range ms {
					want := model.waits[i]
					if m.Kind != want.kind || m.Kind == Data && (string(m.Payload) != want.key || m.Position.Offset != want.offset) {
						fail("took %v %s %d, want %+v", m.Kind, m.Payload, m.Position.Offset, want)
					}
					if m.Kind == Data && manual {
						hand = append(hand, m)
					}
				}
				model.waits = model.waits[len(ms):]
				var run processedRun
				if len(ms) > 0 && !manual {
					run = processedRun{first: ms[0].number, last: &ms[len(ms)-1]}
				}
				q.finishDelivery(ms, true, run)
			}
			s, p := q.stats(), q.committedPosition().Offset
			if n := len(reported) - 1; processed == wire.ProcessedEach && uint64(n+len(hand)+q.tracker.Copies()) != s.Received-s.Waiting+s.Duplicates {
				fail("reported %d, %d in hand: %+v", n, len(hand), s)
			}
			if r := reported[len(reported)-1]; processed == wire.ProcessedCumulative && r > p {
				fail("reported %d, committed %d", r, p)
			}
			if s.Received != s.Delivered+s.Dropped+s.Conflated+s.Waiting || s.Waiting != uint64(model.messages()) ||
				s.Conflated != model.conflated || s.Dropped != model.dropped || q.waits() != len(model.waits) {
				fail("%+v, want %+v", s, model)
			}
			if p < committed {
				fail("what is committed goes back from %d to %d", committed, p)
			}
			committed = p
			for _, i := range model.waits {
				if (i.kind == Data || i.over) && i.offset <= p {
					fail("committed %d, and %+v waits", p, i)
				}
			}
			for _, m := range hand {
				if m.Position.Offset <= p {
					fail("committed %d, and %d is not processed", p, m.Position.Offset)
				}
			}
			if len(model.waits)+len(hand) == 0 && s.Delivered > 0 && p < last && step > 0 && s.Waiting == 0 {
				fail("committed %d, and everything up to %d is processed", p, last)
			}
		}
	}
}

// A number that no message has, because a newer one of its key got another, is not
// waited for: a batch can be acknowledged message by message.
func TestBatchOfLatestAcknowledgedOneByOne(t *testing.T) {
	for limit := 1; limit <= 4; limit++ {
		q := testQueue(Delivery{Buffer: 8, Overflow: Latest, Key: func(m Message) string { return m.Type }}, false, wire.Traits{})
		for i, key := range []string{"a", "b", "c", "", "b"} { // the last one is behind the gap
			ev := dataAt(uint64(i+1), uint64(i))
			if ev.Message.Type = key; key == "" {
				ev = gapTo(3, 4)
			}
			offerAll(t, q, ev)
		}
		for q.waits() > 0 {
			ms, _ := q.take(t.Context(), nil, limit, false, processedRun{})
			q.leaveBody(processedRun{})
			for i := range ms {
				ms[i].Ack()
			}
		}
		if p := q.committedPosition().Offset; p != 5 {
			t.Errorf("%d at once: committed %d of 5", limit, p)
		}
	}
}

// What comes for a queue that accepts nothing more makes no other give way.
func TestClosedQueueTakesNoMemory(t *testing.T) {
	q, closed := testQueue(Delivery{Buffer: 8, Overflow: DropOldest}, false, wire.Traits{}), testQueue(Delivery{Overflow: DropOldest}, false, wire.Traits{})
	offerAll(t, q, dataAt(1, 0))
	q.account.Set(q.memory.Limit())
	closed.memory = q.memory
	closed.finish(nil, false)
	if offerAll(t, closed, dataAt(1, 0)); q.memory.Used() < q.memory.Limit() {
		t.Error("a queue gave way for nothing")
	}
}

// The account of a queue never holds less than what waits costs, unless there is no more memory:
// what an earlier message left over is not used twice.
func TestQueueHoldsWhatItCosts(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	used := 0
	for range 300 {
		o := SubscribeOptions{Delivery: Delivery{Buffer: 1 + rnd.IntN(60*[]int{1, 10}[rnd.IntN(2)]), Bytes: 1 << 20, Overflow: DropOldest + Overflow(rnd.IntN(2))}}
		memory := budget.New(1 << (16 + rnd.IntN(5)))
		q := newQueue("t", &o, wire.Traits{Holes: wire.HolesLoss}, testOwner{}, memory)
		q.startConnection(1)
		most, losses := []int{30, 300, 3000}[rnd.IntN(3)], 1+rnd.IntN(3)
		for last := uint64(1); last < 500; last++ {
			ev := dataAt(last, last-1)
			ev.Message.Payload = make([]byte, rnd.IntN(1+rnd.IntN(most)))
			switch rnd.IntN(30 / losses) {
			case 0:
				last += 2
				ev = gapTo(last-3, last)
			case 1:
				last++
				ev.Position.Offset = last // a gap before it
			case 2:
				ev.Message.Header = map[string]string{"k": string(make([]byte, rnd.IntN(3000)))}
			case 3:
				ev.Message.Type, ev.Position.Tag = string(make([]byte, rnd.IntN(3000))), string(make([]byte, rnd.IntN(3000)))
			case 4:
				q.GiveWay(int64(rnd.IntN(5000)))
			case 5:
				if q.waits() > 0 {
					_, _ = q.take(t.Context(), nil, 1+rnd.IntN(maxBatch)*rnd.IntN(2), false, processedRun{})
					q.leaveBody(processedRun{})
				}
			}
			spare := q.spare
			offerAll(t, q, ev)
			if spare > 0 && q.spare > 0 && q.spare < spare {
				used++
			}
			if held, cost := q.account.Held(), q.cost(); held < cost && !q.tight {
				t.Fatalf("%d bytes held, %d needed by %d messages and %d losses, %d spare", held, cost, q.messages, q.waits()-q.messages, q.spare)
			}
		}
		if q.discard(nil); memory.Used() != 0 {
			t.Fatalf("%d bytes are held at the end", memory.Used())
		}
	}
	if used < 10_000 {
		t.Errorf("%d messages used what was spare", used)
	}
}

// What the next connection has delivered, and waits for the one before it, counts when that is
// fenced, also if the next one has ended first, and when the server is asked again.
func TestNextConnectionEndsFirst(t *testing.T) {
	for name, end := range map[string]func(q *queue){
		"the next one first":     func(q *queue) { q.fence(2); q.fence(1) },
		"the one before first":   func(q *queue) { q.fence(1); q.fence(2) },
		"a new key":              func(q *queue) { q.expectKey(7) },
		"another request":        func(q *queue) { q.startRequest(3, false) },
		"another connection":     func(q *queue) { q.startConnection(3) },
		"the next one, and more": func(q *queue) { q.fence(2); offerOn(t, q, 2, dataAt(6, 5)); q.fence(1) },
	} {
		q := testQueue(Delivery{Buffer: 8, Overflow: DropOldest}, false, wire.Traits{Holes: wire.HolesLoss})
		offerOn(t, q, 1, subscribedAt(1), dataAt(2, 1))
		q.expectConnection(2, false)
		offerOn(t, q, 2, dataAt(5, 4)) // 3 and 4 may still come
		if n := q.stats().Received; n != 1 {
			t.Fatalf("%s: %d received before the end", name, n)
		}
		end(q)
		if st := q.stats(); st.Received != 2 || st.Gaps != 1 || st.Missed != 2 {
			t.Errorf("%s: %+v", name, st)
		}
	}
}

func offerOn(t *testing.T, q *queue, gen uint64, evs ...*wire.Event) {
	t.Helper()
	for _, ev := range evs {
		if _, err := q.offer(gen, []wire.Event{*ev}, new(time.Time)); err != nil {
			t.Fatal(err)
		}
	}
}
