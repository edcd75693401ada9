package limpet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/internal/budget"
	"github.com/limpet-go/limpet/wire"
)

func testQueue(d Delivery, manual bool, t wire.Traits) *queue {
	if d.Bytes == 0 {
		d.Bytes = 1 << 20
	}
	q := newQueue("t", &SubscribeOptions{Delivery: d, ManualAck: manual}, t, testOwner{}, budget.New(1<<30))
	q.startConnection(1)
	return q
}

// testOwner ignores what the queue reports, except to the function it may have.
type testOwner struct {
	processed func(gen uint64, p Position)
	room      func()
}

func (o testOwner) roomAvailable() {
	if o.room != nil {
		o.room()
	}
}

func (testOwner) streamDrained()             {}
func (testOwner) messagesDropped(uint64)     {}
func (testOwner) stoodStill(DeliveryStopped) {}
func (testOwner) keyPanicked(error)          {}

func (o testOwner) positionProcessed(gen uint64, p Position, _ bool) {
	if o.processed != nil {
		o.processed(gen, p)
	}
}

func subscribedAt(offset uint64) *wire.Event {
	return &wire.Event{Kind: wire.EventSubscribed, Position: Position{Epoch: "e", Offset: offset}}
}

func dataAt(offset, prev uint64) *wire.Event {
	return &wire.Event{Kind: wire.EventData, Numbered: true, Prev: prev, Position: Position{Offset: offset},
		Message: wire.Message{Payload: []byte("x")}}
}

func gapTo(prev, to uint64) *wire.Event {
	return &wire.Event{Kind: wire.EventGap, Prev: prev, Position: Position{Offset: to}}
}

func resetAt(epoch string, offset uint64) *wire.Event {
	return &wire.Event{Kind: wire.EventReset, Position: Position{Epoch: epoch, Offset: offset}}
}

func offerAll(t *testing.T, q *queue, evs ...*wire.Event) {
	t.Helper()
	for _, ev := range evs {
		if _, err := q.offer(1, []wire.Event{*ev}, new(time.Time)); err != nil {
			t.Fatalf("offer %+v: %v", ev, err)
		}
	}
}

// A Gap and a Reset need no acknowledgement: they do not count as unacknowledged.
func TestLossHoldsNoPlaceUnderManualAck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testQueue(Delivery{Buffer: 2, Overflow: DropOldest}, true, wire.Traits{Holes: wire.HolesFault})
		offerAll(t, q, subscribedAt(0), gapTo(0, 3), resetAt("f", 5), gapTo(5, 7), resetAt("g", 9), dataAt(10, 9))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var kinds []Kind
		for len(kinds) < 5 {
			ms, err := q.take(ctx, nil, 1, true, processedRun{})
			if err != nil {
				t.Fatalf("after %v: %v", kinds, err)
			}
			q.finishDelivery(ms, true, processedRun{})
			kinds = append(kinds, ms[0].Kind)
		}
		if want := []Kind{Gap, Reset, Gap, Reset, Data}; !slices.Equal(kinds, want) {
			t.Errorf("got %v", kinds)
		}
		if q.tracker.Committed() != (Position{Epoch: "g", Offset: 9}) {
			t.Errorf("committed %v, everything before message 10 is settled", q.tracker.Committed())
		}
	})
}

// A loss after processed messages does not change what is reported to the
// server.
func TestProcessedIsReportedAcrossALoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testQueue(Delivery{Buffer: 8, Overflow: DropOldest}, true, wire.Traits{Holes: wire.HolesFault, Processed: wire.ProcessedCumulative})
		var reported []uint64
		q.owner = testOwner{processed: func(_ uint64, p Position) { reported = append(reported, p.Offset) }}
		offerAll(t, q, subscribedAt(0), dataAt(1, 0), gapTo(1, 3), dataAt(4, 3))
		ms, err := q.take(context.Background(), nil, 8, true, processedRun{})
		if err != nil || len(ms) != 3 {
			t.Fatal(ms, err)
		}
		ms[0].Ack()
		ms[2].Ack()
		if !slices.Equal(reported, []uint64{1, 4}) {
			t.Errorf("reported %v", reported)
		}
	})
}

// A closed queue accepts and counts nothing more, and the first reason to end stays.
func TestClosedQueueAcceptsNothing(t *testing.T) {
	first, later := errors.New("first"), errors.New("later")
	for name, end := range map[string]func(*queue, error){
		"finish":  func(q *queue, err error) { q.finish(err, false) },
		"discard": (*queue).discard,
	} {
		q := testQueue(Delivery{Buffer: 8}, false, wire.Traits{Holes: wire.HolesFault})
		offerAll(t, q, subscribedAt(0), dataAt(1, 0))
		end(q, first)
		offerAll(t, q, dataAt(2, 1))
		if n := q.stats().Received; n != 1 {
			t.Errorf("%s: %d received, want the one before", name, n)
		}
		q.finish(later, false)
		q.discard(later)
		if ms, err := q.take(context.Background(), nil, 8, false, processedRun{}); ms != nil || err != first {
			t.Errorf("%s: %v, %v", name, ms, err)
		}
	}
}

// After a panic in Key nothing is accepted, before the client has ended the subscription.
func TestKeyThatPanickedEndsTheQueue(t *testing.T) {
	q := testQueue(Delivery{Buffer: 8, Overflow: Latest, Key: func(m Message) string {
		if string(m.Payload) == "bad" {
			panic("no key")
		}
		return ""
	}}, false, wire.Traits{Holes: wire.HolesFault})
	bad := dataAt(2, 1)
	bad.Message.Payload = []byte("bad")
	offerAll(t, q, subscribedAt(0), dataAt(1, 0), bad, dataAt(2, 1))
	if n := q.stats().Received; n != 1 {
		t.Errorf("%d received, want the one before the panic", n)
	}
}

// A consumer whose ctx ends leaves the message, and the signal, to another one.
func TestEndedConsumerWakesAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			q := testQueue(Delivery{Buffer: 8, Overflow: DropOldest}, false, wire.Traits{Holes: wire.HolesFault})
			offerAll(t, q, subscribedAt(0))
			first, cancel := context.WithCancel(context.Background())
			go q.take(first, nil, 1, true, processedRun{})
			synctest.Wait()
			second, stop := context.WithTimeout(context.Background(), time.Minute)
			got := make(chan error, 1)
			go func() { _, err := q.take(second, nil, 1, true, processedRun{}); got <- err }()
			synctest.Wait()
			offerAll(t, q, dataAt(1, 0)) // wakes the first
			cancel()
			synctest.Wait()
			q.mu.Lock()
			waiting := q.items.Len()
			q.mu.Unlock()
			if waiting > 0 && len(got) == 0 {
				t.Fatal("a message waits and a consumer waits")
			}
			stop()
			<-got
		}
	})
}

// The gap that stands for a dropped message of a filtered stream begins where
// the consumer is, not at an older entry of the log.
func TestOverflowGapBeginsAtTheLastElement(t *testing.T) {
	for _, overflow := range []Overflow{DropOldest, DropNewest} {
		q := testQueue(Delivery{Buffer: 1, Overflow: overflow}, false, wire.Traits{Holes: wire.HolesFault})
		offerAll(t, q, subscribedAt(100), dataAt(105, 90), dataAt(110, 105), dataAt(120, 110))
		q.mu.Lock()
		for m := range q.allWaiting() {
			if m.Kind == Gap && m.Loss.After.Offset < 100 {
				t.Errorf("%v: gap after %d, delivery began at 100", overflow, m.Loss.After.Offset)
			}
		}
		q.mu.Unlock()
	}
}

// TestQueueModel drives a queue with random events and consumers and compares
// what comes out with what went in: order, no silent loss, exact ranges, exact
// counters after every step.
func TestQueueModel(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		d := Delivery{Buffer: 1 + rnd.IntN(4), Overflow: []Overflow{DropOldest, DropNewest}[seed%2]}
		if rnd.IntN(2) == 0 {
			d.Bytes = 1 + rnd.IntN(40)
		}
		manual := rnd.IntN(2) == 0
		q := testQueue(d, manual, wire.Traits{Holes: wire.HolesFault})
		fail := func(format string, args ...any) {
			t.Fatalf("seed %d, %+v: %s", seed, d, fmt.Sprintf(format, args...))
		}
		gen, last, epoch, epochs := uint64(1), uint64(rnd.IntN(10)), "e", 0
		offer := func(ev *wire.Event) {
			if _, err := q.offer(gen, []wire.Event{*ev}, new(time.Time)); err != nil {
				fail("%v", err)
			}
		}
		offer(subscribedAt(last))
		sent := map[string]int{} // epoch.offset to the number of times taken
		lost := map[string]bool{}
		outEpoch, outAt, counted := "e", last, uint64(0)
		var hand []Message
		for step := range 120 {
			switch op := rnd.IntN(10); {
			case op < 5:
				prev := last
				last += 1 + uint64(rnd.IntN(3))
				ev := dataAt(last, prev)
				ev.Message.Payload = make([]byte, rnd.IntN(30))
				sent[fmt.Sprint(epoch, ".", last)] = 0
				offer(ev)
				offer(ev) // a repeat
			case op == 5:
				prev := last
				last += 1 + uint64(rnd.IntN(3))
				offer(gapTo(prev, last))
			case op == 6 && rnd.IntN(4) == 0:
				epochs++
				epoch, last = fmt.Sprint("e", epochs), uint64(rnd.IntN(5))
				offer(resetAt(epoch, last))
			case op == 7 && rnd.IntN(4) == 0:
				gen++
				p, based, _ := q.startConnection(gen)
				if !based || p.Offset != last || p.Epoch != epoch {
					fail("resumes from %v, received up to %s.%d", p, epoch, last)
				}
				if _, err := q.offer(gen-1, []wire.Event{*dataAt(last+1, last)}, new(time.Time)); err != nil {
					fail("%v", err)
				}
				if p, _ := q.resumePosition(); p.Offset != last {
					fail("an old connection moved the position")
				}
				ev := subscribedAt(last)
				ev.Continuity, ev.Position.Epoch = wire.ContinuityProved, epoch
				offer(ev)
			default:
				q.mu.Lock()
				ms, _ := q.takeReady(nil, 1+rnd.IntN(3), true, nil)
				q.mu.Unlock()
				q.finishDelivery(ms, true, processedRun{})
				for _, m := range ms {
					switch m.Kind {
					case Reset:
						outEpoch, outAt = m.Position.Epoch, m.Position.Offset
					case Gap:
						if m.Position.Epoch != outEpoch || m.Loss.After.Offset != outAt || m.Loss.To.Offset <= outAt || m.Loss.To != m.Position {
							fail("step %d: gap %+v after %s.%d", step, *m.Loss, outEpoch, outAt)
						}
						for at := outAt + 1; at <= m.Loss.To.Offset; at++ {
							lost[fmt.Sprint(outEpoch, ".", at)] = true
						}
						outAt = m.Position.Offset
					default:
						key := fmt.Sprint(m.Position.Epoch, ".", m.Position.Offset)
						if m.Position.Epoch != outEpoch || m.Position.Offset <= outAt {
							fail("step %d: %s after %s.%d", step, key, outEpoch, outAt)
						}
						for at := outAt + 1; at < m.Position.Offset; at++ {
							if _, is := sent[fmt.Sprint(outEpoch, ".", at)]; is {
								fail("step %d: %d skipped in silence before %s", step, at, key)
							}
						}
						outAt = m.Position.Offset
						counted++
						hand = append(hand, m)
					}
				}
				if manual && len(hand) > 0 {
					i := rnd.IntN(len(hand))
					hand[i].Ack()
					hand = slices.Delete(hand, i, i+1)
				}
			}
			q.mu.Lock()
			waiting, bytes, data := uint64(q.messages+q.held), 0, 0
			for m := range q.allWaiting() {
				bytes += len(m.Payload)
				if m.Kind == Data {
					data++
				}
			}
			if q.received != q.delivered+q.dropped+waiting || q.received != uint64(len(sent)) || q.delivered != counted {
				fail("step %d: received %d (of %d), delivered %d (%d), dropped %d, waiting %d", step, q.received, len(sent), q.delivered, counted, q.dropped, waiting)
			}
			if q.bytes != bytes || q.messages != data || data > d.Buffer || d.Bytes > 0 && bytes > d.Bytes && data > 1 {
				fail("step %d: holds %d messages (%d) of %d bytes (%d)", step, data, q.messages, bytes, q.bytes)
			}
			if len(hand) > 0 && manual && q.tracker.Committed().Epoch == hand[0].Position.Epoch && q.tracker.Committed().Offset >= hand[0].Position.Offset {
				fail("step %d: committed %v over %v, which is open", step, q.tracker.Committed(), hand[0].Position)
			}
			q.mu.Unlock()
		}
	}
}

// A stopped consumer of a stream that cannot be resumed costs its other
// subscriptions nothing, however often the connection breaks.
func TestResetsOfAStoppedConsumerAreJoined(t *testing.T) {
	for _, overflow := range []Overflow{DropOldest, DropNewest} {
		q := testQueue(Delivery{Buffer: 8, Overflow: overflow}, false, wire.Traits{})
		for gen := uint64(1); gen < 1000; gen++ {
			q.startConnection(gen)
			evs := []*wire.Event{{Kind: wire.EventSubscribed}}
			for i := uint64(0); i < gen%20; i++ {
				evs = append(evs, &wire.Event{Kind: wire.EventData, Message: wire.Message{Payload: []byte("x")}})
			}
			for _, ev := range evs {
				if _, err := q.offer(gen, []wire.Event{*ev}, new(time.Time)); err != nil {
					t.Fatalf("%v, connection %d: %v", overflow, gen, err)
				}
			}
		}
		if n := q.items.Len(); n > 8+8+3 {
			t.Errorf("%v: %d elements wait", overflow, n)
		}
	}
}

// A lost connection moves no position, not even before the next one starts:
// positions may be read in between.
func TestFenceBeforeTheNextConnection(t *testing.T) {
	q := testQueue(Delivery{Buffer: 8, Overflow: Block}, false, wire.Traits{Holes: wire.HolesFault})
	offerAll(t, q, subscribedAt(0), dataAt(1, 0))
	q.fence(1)
	offerAll(t, q, dataAt(2, 1))
	if last, _ := q.resumePosition(); last.Offset != 1 || q.received != 1 {
		t.Errorf("position %d, %d received after the fence", last.Offset, q.received)
	}
}

// Credit is reported in large pieces while messages wait, and at once when the
// server has used all of it and nothing waits.
func TestCreditIsReportedInLargePieces(t *testing.T) {
	const buffer, total = 100, 1000
	q := testQueue(Delivery{Buffer: buffer, Overflow: Block}, false, wire.Traits{Holes: wire.HolesFault, Credit: true})
	reports := 0
	q.owner = testOwner{room: func() { reports++ }}
	offerAll(t, q, subscribedAt(0))
	sent := uint64(0)
	send := func() {
		for granted := q.grant(); sent < granted.N && sent < total; {
			sent++
			offerAll(t, q, dataAt(sent, sent-1))
		}
	}
	send()
	var processed processedRun
	for got := 0; got < total; got++ {
		ms, err := q.take(context.Background(), nil, 1, false, processed)
		if err != nil {
			t.Fatal(err)
		}
		processed = processedRun{first: ms[0].number, last: &ms[0]}
		before := reports
		if q.mu.Lock(); q.roomReported {
			before--
		}
		q.mu.Unlock()
		if before < reports {
			send()
		}
	}
	if reports > 2*total/buffer+1 {
		t.Errorf("%d reports for %d messages, Buffer %d", reports, total, buffer)
	}
}

// A consumer that leaves messages in the queue wakes another one.
func TestMoreWaitingWakesAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testQueue(Delivery{Buffer: 8, Overflow: DropOldest}, false, wire.Traits{Holes: wire.HolesFault})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		took := make(chan error, 2)
		for range 2 {
			go func() { _, err := q.take(ctx, nil, 1, false, processedRun{}); took <- err }()
		}
		synctest.Wait()
		events := []wire.Event{*subscribedAt(0), *dataAt(1, 0), *dataAt(2, 1)}
		if _, err := q.offer(1, events, new(time.Time)); err != nil { // one signal for both
			t.Fatal(err)
		}
		for range 2 {
			if err := <-took; err != nil {
				t.Errorf("a message waits and a consumer waits: %v", err)
			}
		}
	})
}

// An acknowledgement that opens the window of ManualAck wakes a waiting consumer.
func TestAckWakesAConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testQueue(Delivery{Buffer: 1, Overflow: DropOldest}, true, wire.Traits{Holes: wire.HolesFault})
		offerAll(t, q, subscribedAt(0), dataAt(1, 0))
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		first, err := q.take(ctx, nil, 1, false, processedRun{})
		if err != nil {
			t.Fatal(err)
		}
		offerAll(t, q, dataAt(2, 1))
		took := make(chan error, 1)
		go func() { _, err := q.take(ctx, nil, 1, false, processedRun{}); took <- err }()
		synctest.Wait()
		if len(took) > 0 {
			t.Fatal("a second message is out with Buffer 1")
		}
		first[0].Ack()
		if err := <-took; err != nil {
			t.Errorf("the window is open and the consumer waits: %v", err)
		}
	})
}

// What Delivery.Every released and then gave way is not owed from what comes
// later.
func TestPaceForgetsWhatWasDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := testQueue(Delivery{Buffer: 4, Overflow: DropOldest, Every: time.Second}, false, wire.Traits{Holes: wire.HolesFault})
		offerAll(t, q, subscribedAt(0), dataAt(1, 0), dataAt(2, 1), dataAt(3, 2), dataAt(4, 3))
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		take := func() Message {
			ms, err := q.take(ctx, nil, 1, false, processedRun{})
			if err != nil {
				t.Fatal(err)
			}
			return ms[0]
		}
		began := time.Now()
		take() // releases all four
		for i := range uint64(20) {
			offerAll(t, q, dataAt(5+i, 4+i)) // what was released gives way
		}
		if m := take(); m.Kind != Gap || time.Since(began) > 0 {
			t.Fatalf("%v after %v, want the gap for what was released", m.Kind, time.Since(began))
		}
		if m := take(); time.Since(began) < time.Second {
			t.Errorf("message %d came %v after the release, want a second", m.Position.Offset, time.Since(began))
		}
	})
}

// Of losses that are merged the time of the first counts, wherever it stands.
func TestMergedLossHasTheFirstTime(t *testing.T) {
	q := testQueue(Delivery{Buffer: 1, Overflow: DropOldest}, false, wire.Traits{Holes: wire.HolesFault})
	start := time.Now()
	for i, ev := range []*wire.Event{subscribedAt(0), dataAt(1, 0), gapTo(1, 2), dataAt(3, 2), dataAt(4, 3)} {
		at := start.Add(time.Duration(i) * time.Second)
		if _, err := q.offer(1, []wire.Event{*ev}, &at); err != nil {
			t.Fatal(err)
		}
	}
	// The message at 1 was dropped after 3 s, before the gap that came after 2 s.
	ms, err := q.take(t.Context(), nil, 8, false, processedRun{})
	if err != nil || len(ms) != 2 || ms[0].Loss == nil || ms[0].ReceivedAt.Sub(start) != 2*time.Second || ms[1].ReceivedAt.Sub(start) != 4*time.Second {
		t.Errorf("%v, %v", ms, err)
	}
}

// What several losses between the messages of one read take is counted.
func TestMemoryOfSeveralLosses(t *testing.T) {
	q := testQueue(Delivery{Buffer: 1 << 20, Overflow: DropOldest}, false, wire.Traits{Holes: wire.HolesLoss})
	var evs []wire.Event
	for i := range uint64(10_000) {
		evs = append(evs, *dataAt(2*i+2, 2*i+1))
	}
	if _, err := q.offer(1, evs, new(time.Time)); err != nil || q.memory.Used() < 19_999*messageCost {
		t.Errorf("%d bytes, %v", q.memory.Used(), err)
	}
}
