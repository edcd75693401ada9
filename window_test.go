package limpet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/internal/admission"
	"github.com/limpet-go/limpet/wire"
)

// A caller that learns of the first of many outcomes finds all of them counted
// and their room free, while the others are still being published.
func TestRoomIsFreeBeforeTheFirstOutcome(t *testing.T) {
	const many = 100_000
	for range 3 {
		a, stats := admission.New(0, 0), new(counters)
		w := newWindow(true, a, stats)
		receipts := make([]Receipt, many)
		for i := range receipts {
			w.add(&receipts[i], time.Now())
		}
		first := receipts[0].Done()
		found := make(chan error)
		go func() {
			<-first
			full, err := a.Acquire(context.Background(), many, 0, false)
			if n := stats.outcomes[Acked].Load(); n != many || full {
				err = fmt.Errorf("%d of %d are counted, full: %v", n, many, full)
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

// Calls of Flush that were abandoned leave nothing behind, however many there are.
func TestAbandonedFlushesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := offline(t)
		flushes, points := 0, 0
		for range 3 {
			if _, err := c.Publish(context.Background(), "a", nil, nil); err != nil {
				t.Fatal(err)
			}
			for range 10_000 {
				ctx, cancel := context.WithCancel(context.Background())
				time.AfterFunc(1, cancel)
				if err := c.Flush(ctx); !errors.Is(err, context.Canceled) {
					t.Fatalf("Flush with a message pending: %v", err)
				}
				flushes++
			}
		}
		c.inbox.Post(step(func(l *loop) { points = l.window.flushes.Len() }))
		synctest.Wait()
		if points > 0 {
			t.Errorf("%d abandoned calls of Flush left %d flush points", flushes, points)
		}
	})
}

// TestFlushModel admits, settles and renumbers messages at random: a flush is
// complete as soon as everything admitted before it has its outcome, not earlier.
func TestFlushModel(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		w := newWindow(true, admission.New(0, 0), new(counters))
		var admitted []*Receipt
		type pending struct {
			completed <-chan struct{}
			before    int
		}
		var flushes []pending
		for step := range 200 {
			switch rnd.IntN(5) {
			case 0, 1:
				r := new(Receipt)
				admitted = append(admitted, r)
				w.add(r, time.Now())
			case 2:
				flushes = append(flushes, pending{w.addFlushPoint().Completed(), len(admitted)})
			case 3:
				if n := w.slots.Len(); n > 0 {
					if i := rnd.IntN(n); rnd.IntN(2) == 0 {
						w.settle(i, Acked, nil)
					} else {
						w.resolve(i, Rejected, nil)
					}
					w.publishOutcomes()
				}
			case 4:
				if rnd.IntN(5) == 0 {
					w.renumber()
					w.publishOutcomes()
				}
			}
			for _, f := range flushes {
				want := true
				for _, r := range admitted[:f.before] {
					want = want && r.Outcome() != Pending
				}
				select {
				case <-f.completed:
					if !want {
						t.Fatalf("seed %d, step %d: complete with a message pending", seed, step)
					}
				default:
					if want {
						t.Fatalf("seed %d, step %d: not complete", seed, step)
					}
				}
			}
		}
		w.close()
		for _, f := range flushes {
			select {
			case <-f.completed:
			default:
				t.Fatalf("seed %d: not complete after the end", seed)
			}
		}
	}
}

// A batch has as many bytes as the link carries in time, but at least one message. No
// message exceeds what is left, unless it is the only one.
func TestBatchFitsTheLink(t *testing.T) {
	w := newWindow(true, admission.New(0, 0), new(counters))
	w.credit = wire.Credit{N: 100, Bytes: 1 << 30}
	for _, n := range []int{200, 200, 5000, 200, 900, 900, 0, 0} {
		w.add(&Receipt{payload: make([]byte, n)}, time.Now())
	}
	var got [][]int
	for w.nextToSend < w.slots.Len() {
		ops, _ := w.nextBatch(nil, nil, time.Now(), 1024, 100)
		var batch []int
		for i := range ops {
			batch = append(batch, len(ops[i].Message.Payload))
		}
		got = append(got, batch)
	}
	if want := "[[200 200] [5000] [200] [900] [900] [0 0]]"; fmt.Sprint(got) != want {
		t.Errorf("batches of %v, want %v", got, want)
	}
}

// Stats.Resent never goes down: a message counts when it has been encoded, not when it
// is taken for a write.
func TestResentNeverGoesDown(t *testing.T) {
	stats := new(counters)
	w := newWindow(true, admission.New(0, 0), stats)
	for range 4 {
		w.add(&Receipt{topic: "t"}, time.Now())
	}
	w.credit = wire.Credit{N: 10, Bytes: 100}
	now := time.Now()
	w.nextBatch(nil, nil, now, 1000, 100)
	w.countResends(4)
	w.nextToSend = 0 // another connection
	var seen []uint64
	note := func() { seen = append(seen, stats.resent.Load()) }
	note()
	w.nextBatch(nil, nil, now.Add(time.Second), 1000, 100)
	note()
	if !w.rejectUnencodable(3, errors.New("no"), now.Add(time.Second)) {
		t.Fatal("the fault did not happen")
	}
	note()
	w.countResends(2)
	note()
	w.nextBatch(nil, nil, now.Add(2*time.Second), 1000, 100)
	w.countResends(4)
	note()
	if want := []uint64{0, 0, 0, 2, 4}; !slices.Equal(seen, want) { // 3 as a void message, and 4
		t.Errorf("resent: %d, want %d", seen, want)
	}
}

// A second acknowledgement of a message whose outcome callers can see changes nothing: they
// may be reading the reply.
func TestReplyAfterTheOutcome(t *testing.T) {
	w := newWindow(false, admission.New(0, 0), new(counters))
	receipts := make([]Receipt, 2) // the first has no outcome, so both stay in the window
	for i := range receipts {
		w.add(&receipts[i], time.Now())
	}
	w.credit = wire.Credit{N: 2, Bytes: 1}
	w.nextBatch(nil, nil, time.Now(), 1000, 100)
	for _, reply := range []string{"first", "second"} {
		if err := w.acknowledge(&wire.Ack{Cmd: 2*4 + 3, Reply: []byte(reply)}); err != nil {
			t.Fatal(err)
		}
	}
	ack, err := receipts[1].Wait(t.Context())
	if err != nil || ack.Outcome != Acked || string(ack.Reply) != "first" || receipts[0].Outcome() != Pending {
		t.Errorf("%v, %q, %v, the other one is %v", ack.Outcome, ack.Reply, err, receipts[0].Outcome())
	}
}

// Messages that are admitted while the client ends, and come too late for it, leave the window.
func TestPublishAtTheEnd(t *testing.T) {
	c, err := New("wss://nowhere", options(&Options{HTTPClient: &http.Client{Transport: nowhere{}}}))
	if err != nil {
		t.Fatal(err)
	}
	messages := []Outgoing{{Topic: "a", Payload: []byte("123")}, {Topic: "a"}}
	if err := c.admit(t.Context(), messages); err != nil {
		t.Fatal(err)
	}
	c.Close()
	<-c.Done()
	err = c.postAdmitted(publish{make([]Receipt, 2)}, messages)
	if st := c.Stats(); !errors.Is(err, ErrClosed) || !SafeToRetry(err) || st.Window != 0 || st.WindowBytes != 0 || st.Published != 0 {
		t.Errorf("%v: %d messages, %d bytes, %d published", err, st.Window, st.WindowBytes, st.Published)
	}
}

// A message that waits to be sent again is not in flight: it holds up nothing that must be
// sent alone, and it is not the one that was too big.
func TestWaitingToBeSentAgainIsNotInFlight(t *testing.T) {
	w := newWindow(false, admission.New(0, 0), new(counters))
	if err := w.resume(&wire.Ready{}, false); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	var receipts [3]Receipt
	for i := range receipts[:2] {
		w.add(&receipts[i], now)
	}
	w.nextBatch(nil, nil, now, 1000, 100)
	if err := w.acknowledge(&wire.Ack{Rejects: []wire.Reject{{Seq: 1, Retry: time.Minute}}}); err != nil {
		t.Fatal(err)
	}
	w.frameTooBig(true)
	if receipts[0].decided != Pending || receipts[1].decided != Rejected {
		t.Errorf("the one that waits is %v, the one in flight %v", receipts[0].decided, receipts[1].decided)
	}
	w.add(&receipts[2], now)
	w.oneByOneUpTo = 3
	if ops, _ := w.nextBatch(nil, nil, now, 1000, 100); len(ops) != 1 || ops[0].Message.Seq != 3 {
		t.Errorf("%d messages are sent", len(ops))
	}
	w.acknowledge(&wire.Ack{Cmd: 3*4 + 3})
	w.takeAgain(now.Add(2 * time.Minute))
	if ops, _ := w.nextBatch(nil, nil, now.Add(2*time.Minute), 1000, 100); len(ops) != 1 || ops[0].Message.Seq != 1 || !w.again.Next().IsZero() {
		t.Errorf("%d messages are sent again", len(ops))
	}
}

// The connection is lost when the time of a message has come and it is not written yet: what
// was sent behind it, and may be sent twice, is sent on the next connection.
func TestConnectionIsLostBeforeSendingAgain(t *testing.T) {
	w := newWindow(false, admission.New(0, 0), new(counters))
	connect := func() {
		if err := w.resume(&wire.Ready{}, false); err != nil {
			t.Fatal(err)
		}
	}
	connect()
	now := time.Now()
	var receipts [3]Receipt
	for i := range receipts {
		receipts[i].resend = AtLeastOnce
		w.add(&receipts[i], now)
	}
	w.nextBatch(nil, nil, now, 1000, 100)
	if err := w.acknowledge(&wire.Ack{Rejects: []wire.Reject{{Seq: 1, Retry: time.Minute}}}); err != nil {
		t.Fatal(err)
	}
	w.takeAgain(now.Add(2 * time.Minute))
	if !w.inFlight() {
		t.Error("nothing is in flight")
	}
	w.connectionLost()
	if w.inFlight() {
		t.Error("what was in flight on the last connection is in flight on this one")
	}
	connect()
	if ops, _ := w.nextBatch(nil, nil, now.Add(3*time.Minute), 1000, 100); len(ops) != 3 {
		t.Errorf("%d messages are sent on the next connection", len(ops))
	}
}

// A message that may be sent twice was sent on two connections. That it was refused on the second, or is too big for it, says
// nothing of the first.
func TestRefusedTheSecondTime(t *testing.T) {
	for name, refuse := range map[string]func(*window) error{
		"refused": func(w *window) error { return w.acknowledge(&wire.Ack{Rejects: []wire.Reject{{Seq: 1, Code: 1}}}) },
		"too big": func(w *window) error { w.frameTooBig(true); return nil },
	} {
		for _, again := range []bool{false, true} {
			w := newWindow(false, admission.New(0, 0), new(counters))
			receipt := Receipt{resend: AtLeastOnce}
			err := w.resume(&wire.Ready{}, false)
			w.add(&receipt, time.Now())
			w.nextBatch(nil, nil, time.Now(), 1000, 100)
			if again {
				w.connectionLost()
				err = errors.Join(err, w.resume(&wire.Ready{}, false))
				w.nextBatch(nil, nil, time.Now(), 1000, 100)
			}
			err = errors.Join(err, refuse(w))
			if want := map[bool]Outcome{false: Rejected, true: Unknown}[again]; err != nil || receipt.decided != want {
				t.Errorf("%s, again %v: %v, %v; want %v", name, again, receipt.decided, err, want)
			}
		}
	}
}

// A command id names a message only if it is that of a publish: a server that answers a
// request for a subscription twice accepts and refuses nothing by it.
func TestAnswerByCommand(t *testing.T) {
	for _, c := range []struct {
		ack  wire.Ack
		want Outcome
	}{
		{wire.Ack{Cmd: 1*4 + 3}, Acked},
		{wire.Ack{Cmd: 1*4 + 1}, Pending},
		{wire.Ack{Cmd: 1*4 + 2}, Pending},
		{wire.Ack{Cmd: 1 * 4}, Pending},
		{*rejects(1*4 + 3), Rejected},
		{*rejects(1*4 + 1), Pending},
		{*rejects(9*4 + 3), Pending},
	} {
		w := newWindow(false, admission.New(0, 0), new(counters))
		if err := w.resume(&wire.Ready{}, false); err != nil {
			t.Fatal(err)
		}
		var receipt Receipt
		w.add(&receipt, time.Now())
		w.nextBatch(nil, nil, time.Now(), 1000, 100)
		if err := w.acknowledge(&c.ack); err != nil || receipt.decided != c.want {
			t.Errorf("%+v: %v, %v; want %v", c.ack, receipt.decided, err, c.want)
		}
	}
}

// rejects returns what wire.Events.Reject makes of a command id.
func rejects(cmd uint64) *wire.Ack {
	var out wire.Events
	out.Reject(cmd)
	return out.List[0].Ack
}
