package wiretest

import (
	"bytes"
	"io"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

func wherePublished(s *Subject, r *report) []limpettest.Fault {
	if !s.Dialect.Traits().Publish {
		r.skip("a client cannot publish")
		return nil
	}
	return healthy(s, r)
}

func whereLostPublishes(s *Subject, r *report) []limpettest.Fault {
	if len(wherePublished(s, r)) == 0 {
		return nil
	}
	return lossOfConnections(s, r)
}

// publish publishes message n.
func (x *trial) publish(n int) *limpet.Receipt {
	receipt, err := x.client.Publish(x.ctx, x.s.Publish, payloadOf(n), nil)
	if err != nil {
		x.found("Publish to %q: %v", x.s.Publish, err)
		return nil
	}
	return receipt
}

// outcome is the outcome of a publish that the server takes.
func (x *trial) outcome() limpet.Outcome {
	if x.traits.Acks {
		return limpet.Acked
	}
	return limpet.Written
}

// checkPublishes: the server takes each publish once, and the outcome says so.
func checkPublishes(x *trial) {
	if !x.start() || !x.ready() {
		return
	}
	var receipts []*limpet.Receipt
	for n := 1; n <= 20; n++ {
		receipts = append(receipts, x.publish(n))
	}
	x.settled()
	if x.traits.Streams {
		x.stream(21)
	}
	x.server.do(func() {
		for i, receipt := range receipts {
			if receipt == nil {
				continue
			}
			if got := receipt.Outcome(); got != x.outcome() || x.server.taken[i+1] != 1 {
				x.found("publish %d: the server took it %d times, the outcome is %s, want 1 time and %s",
					i+1, x.server.taken[i+1], got, x.outcome())
			}
		}
	})
	x.alive()
}

// stream sends message n in parts: the server takes it as it takes any other.
func (x *trial) stream(n int) {
	parts := io.MultiReader(bytes.NewReader(payloadOf(n)[:3]), bytes.NewReader(payloadOf(n)[3:]))
	ack, err := x.client.SendStream(x.ctx, x.s.Publish, parts, nil)
	synctest.Wait()
	x.server.do(func() {
		if err != nil || ack.Outcome != limpet.Written || x.server.taken[n] != 1 {
			x.found("SendStream, which the trait Streams promises: the server took the message %d times, the outcome is %s, the error %v", x.server.taken[n], ack.Outcome, err)
		}
	})
}

// checkUnanswered: without an acknowledgement no outcome claims one, whatever else comes.
func checkUnanswered(x *trial) {
	if !x.start() || !x.live(x.subscribe(x.s.Topics[0], nil)) {
		return
	}
	x.server.do(func() { x.server.lazy = true })
	receipt := x.publish(1)
	if receipt == nil {
		return
	}
	synctest.Wait()
	x.server.do(func() { x.server.next(x.s.Topics[0], 2) })
	x.pass(beat)
	synctest.Wait()
	want := limpet.Written
	if x.traits.Acks {
		want = limpet.Pending
	}
	if got := receipt.Outcome(); got != want {
		x.found("a publish that the server has not answered has the outcome %s, want %s", got, want)
	}
	x.server.do(func() {
		if x.server.taken[1] != 1 {
			x.found("the server took a publish %d times, want once", x.server.taken[1])
		}
	})
}

func whereRejected(s *Subject, r *report) []limpettest.Fault {
	t := s.Dialect.Traits()
	if !t.Publish || !t.Acks {
		r.skip("publishes are not acknowledged")
		return nil
	}
	if !s.can(wire.Event{Kind: wire.EventAck, Ack: &wire.Ack{To: 3, Cmd: 3*4 + 3, Rejects: []wire.Reject{{Seq: 3, Code: 1, Reason: "no"}}}}) {
		r.skip("the server rejects no publishes")
		return nil
	}
	return healthy(s, r)
}

// checkRejected: a rejected publish ends as Rejected, its neighbours do not.
func checkRejected(x *trial) {
	if !x.start() || !x.ready() {
		return
	}
	x.server.do(func() { x.server.rejected = func(n int) bool { return n == 2 } })
	receipts := map[int]*limpet.Receipt{}
	for n := 1; n <= 3; n++ {
		receipts[n] = x.publish(n)
	}
	x.settled()
	for n, receipt := range receipts {
		want := limpet.Acked
		if n == 2 {
			want = limpet.Rejected
		}
		if receipt == nil {
			continue
		}
		if got := receipt.Outcome(); got != want {
			x.found("the server rejects publish 2 of 3, and publish %d has the outcome %s, want %s", n, got, want)
		}
	}
	x.alive()
}

// checkLostPublishes: an outcome says what the server took, whatever the connection does.
func checkLostPublishes(x *trial) {
	if !x.start() {
		return
	}
	var receipts []*limpet.Receipt
	const count = 40
	for n := 1; n <= count; n++ {
		receipts = append(receipts, x.publish(n))
		x.pass(50 * time.Millisecond)
	}
	x.settled()
	if !x.alive() {
		return
	}
	exact := x.traits.Sessions && x.traits.Dedup
	x.server.do(func() {
		for i, receipt := range receipts {
			if receipt == nil {
				continue
			}
			n, taken, got := i+1, x.server.taken[i+1], receipt.Outcome()
			switch {
			case got == limpet.Pending:
				x.found("publish %d has no outcome a minute later", n)
			case taken > 1:
				x.found("the server took publish %d %d times, and the caller has not allowed that", n, taken)
			case got == limpet.Acked && taken == 0:
				x.found("publish %d is Acked, and the server has not taken it", n)
			case got == limpet.Unsent && taken > 0, got == limpet.Expired && taken > 0:
				x.found("publish %d is %s, and the server has taken it", n, got)
			case got == limpet.Rejected:
				x.found("publish %d is Rejected, and the server has rejected nothing", n)
			case got == limpet.Acked && !x.traits.Acks:
				x.found("publish %d is Acked, and the trait Acks is not set", n)
			case exact && got != limpet.Acked:
				x.found("publish %d is %s, and the server keeps the session", n, got)
			case n > count-10 && got != x.outcome():
				x.found("publish %d, long after the reconnect, is %s", n, got)
			}
		}
	})
}

func whereProcessed(s *Subject, r *report) []limpettest.Fault {
	if s.Dialect.Traits().Processed != wire.ProcessedEach {
		r.skip("the server is not sent an acknowledgement of each message")
		return nil
	}
	if s.Once && !s.Asks {
		r.skip("messages do not ask for an acknowledgement")
		return nil
	}
	return healthy(s, r)
}

func whereLostProcessed(s *Subject, r *report) []limpettest.Fault {
	if len(whereProcessed(s, r)) == 0 {
		return nil
	}
	if s.Once {
		r.skip("the server delivers each message once")
		return nil
	}
	return lossOfConnections(s, r)
}

// checkProcessed: a message is acknowledged once it was processed, not before, and one
// that was given back comes again.
func checkProcessed(x *trial) {
	if !x.start() {
		return
	}
	topic := x.s.Topics[0]
	hold := make(chan struct{})
	refused := false
	s := x.subscribe(topic, func(n int) bool {
		<-hold
		if n == 2 && !refused {
			refused = true
			return false
		}
		return true
	})
	if !x.live(s) {
		close(hold)
		return
	}
	x.server.do(func() {
		for n := 1; n <= 3; n++ {
			x.server.next(topic, n)
		}
	})
	x.pass(beat / 2)
	x.server.do(func() {
		if n := len(x.server.acked); n != 0 {
			x.found("%d messages are acknowledged before they were processed", n)
		}
	})
	close(hold)
	x.settled()
	got, err := s.got()
	x.server.do(func() {
		for n := 1; n <= 3; n++ {
			want := 1
			if n == 2 && x.s.Once && x.traits.Release {
				want = 0 // given back, and not delivered again
			}
			if x.server.acked[n] != want {
				x.found("message %d is acknowledged %d times, want %d; received %v, error %v", n, x.server.acked[n], want, textsOf(got), err)
			}
		}
		if x.s.broker() && x.traits.Release && x.server.released[2] != 1 {
			x.found("message 2 was given back with Nack, and the peer has read %d OpRelease for it", x.server.released[2])
		}
	})
	x.alive()
}

// checkLostProcessed: whatever the connection does, each message is processed and
// acknowledged in the end.
func checkLostProcessed(x *trial) {
	if !x.start() {
		return
	}
	topic := x.s.Topics[0]
	s := x.subscribe(topic, func(int) bool { return true })
	const count = 100
	for n := 1; n <= count; n++ {
		x.server.do(func() { x.server.next(topic, n) })
		x.pass(50 * time.Millisecond)
	}
	x.settled()
	got, err := s.got()
	if !x.alive() || err != nil {
		x.found("the stream has ended: %v", err)
		return
	}
	processed := map[int]int{}
	for _, e := range got {
		processed[e.number]++
		if processed[e.number] > 1 && !e.again {
			x.found("message %d comes again, and is not marked as Redelivered", e.number)
		}
	}
	x.server.do(func() {
		for n := 1; n <= count; n++ {
			if processed[n] == 0 || x.server.acked[n] == 0 {
				x.found("message %d was delivered %d times and is acknowledged %d times", n, processed[n], x.server.acked[n])
			}
		}
	})
}
