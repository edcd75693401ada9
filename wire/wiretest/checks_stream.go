package wiretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// topics returns the topics of the subject that are set.
func (s *Subject) topics() []string {
	if s.Topics[1] == "" {
		return s.Topics[:1]
	}
	return s.Topics[:]
}

// checkMessages: on a healthy connection every message arrives once, in order, in the
// stream of its topic, and nothing else does.
func checkMessages(x *trial) {
	if !x.start() {
		return
	}
	var streams []*stream
	for _, topic := range x.s.topics() {
		streams = append(streams, x.subscribe(topic, nil))
	}
	for _, s := range streams {
		if !x.live(s) {
			return
		}
	}
	x.server.do(func() {
		for n := 1; n <= 40; n++ {
			for i, topic := range x.s.topics() {
				x.server.next(topic, n*2+i)
			}
		}
	})
	synctest.Wait()
	for i, s := range streams {
		var want []string
		for n := 1; n <= 40; n++ {
			want = append(want, fmt.Sprint(n*2+i))
		}
		got, err := s.got()
		if texts := textsOf(got); !slices.Equal(texts, want) {
			x.found("of %q arrived %v, want %v; error %v", s.topic, texts, want, err)
		}
	}
	if st := x.client.Stats(); st.Malformed+st.Unrequested > 0 {
		x.found("%d messages malformed and %d unrequested, of a correct server", st.Malformed, st.Unrequested)
	}
	x.alive()
}

func textsOf(elements []element) (texts []string) {
	for _, e := range elements {
		texts = append(texts, e.String())
	}
	return texts
}

// checkLosses: whatever the connection does, messages arrive in order and none twice,
// a Gap or a Reset stands for what is missing, and the stream goes on.
func checkLosses(x *trial) {
	if !x.start() {
		return
	}
	topic := x.s.Topics[0]
	s := x.subscribe(topic, nil)
	const count = 150
	for n := 1; n <= count; n++ {
		x.server.do(func() { x.server.next(topic, n) })
		x.pass(100 * time.Millisecond)
	}
	x.pass(time.Second)
	got, err := s.got()
	if !x.alive() || err != nil {
		x.found("the stream has ended: %v", err)
		return
	}
	made := 0
	x.server.do(func() { made = x.server.made })
	if made < 2 && x.fault.Kind() != limpettest.KindClean {
		if x.fault.Kind() == limpettest.KindBlackHole {
			x.found("a connection on which nothing arrives is not replaced")
		}
		return // the conversation has fewer frames
	}
	x.checkOrder(got, count)
}

// checkOrder checks a stream in which the server sent 1 to last.
func (x *trial) checkOrder(got []element, last int) {
	before, lost, atLeastOnce := 0, false, x.s.broker()
	for _, e := range got {
		if e.kind == limpet.Gap || e.kind == limpet.Reset {
			lost = true
			if x.complete() && before > 0 {
				x.found("the server keeps and resumes everything, and the stream has a %s", e)
			}
			continue
		}
		switch {
		case atLeastOnce:
			if e.number <= before && !e.again {
				x.found("message %d comes again after %d, and is not marked as Redelivered", e.number, before)
			}
		case e.number == before:
			x.found("message %d is delivered twice", e.number)
		case e.number < before:
			x.found("message %d is delivered after %d", e.number, before)
		case before > 0 && e.number > before+1 && x.resumes():
			x.found("messages %d to %d are missing, and the server resumes", before+1, e.number-1)
		case before > 0 && e.number > before+1 && !lost:
			x.found("messages %d to %d are missing, and nothing in the stream says so", before+1, e.number-1)
		}
		before, lost = e.number, false
	}
	if before != last {
		x.found("the stream stops at message %d of %d after the reconnect", before, last)
	}
}

// complete reports whether a correct server leaves nothing to lose.
func (x *trial) complete() bool { return x.s.Replay || x.traits.Resume && x.s.numbered() }

// resumes reports whether the server sends what was missed.
func (x *trial) resumes() bool { return x.traits.Resume || x.s.Replay }

// checkIdle: a connection without messages is kept.
func checkIdle(x *trial) {
	if !x.start() || !x.ready() {
		return
	}
	x.pass(10 * time.Minute)
	x.server.do(func() {
		if x.server.made != 1 {
			x.found("%d connections in 10 minutes without messages, and the server answers every ping", x.server.made)
		}
		if x.traits.Ping == wire.PingOp && x.server.pings == 0 {
			x.found("the trait Ping is PingOp, and the peer has read no OpPing in 10 minutes")
		}
	})
	x.alive()
}

func whereServerPings(s *Subject, r *report) []limpettest.Fault {
	if !s.can(wire.Event{Kind: wire.EventPing, N: 7}) {
		r.skip("the server sends no pings")
		return nil
	}
	return healthy(s, r)
}

// checkServerPing: a ping of the server is answered, once.
func checkServerPing(x *trial) {
	if !x.start() || !x.ready() {
		return
	}
	synctest.Wait()
	x.server.do(func() {
		for _, c := range x.server.conns {
			c.send(c.peer.Encode(wire.Event{Kind: wire.EventPing, N: 7}))
		}
	})
	x.pass(beat / 4)
	x.server.do(func() {
		if len(x.server.pongs) != 1 {
			x.found("a ping of the server got %d answers, want 1", len(x.server.pongs))
		} else if n := x.server.pongs[0]; n != 7 && n != 0 { // 0: the protocol has no numbers there
			x.found("ping 7 of the server got the answer to ping %d", n)
		}
	})
}

func whereNumbered(s *Subject, r *report) []limpettest.Fault {
	if !s.numbered() {
		r.skip("messages have no numbers")
		return nil
	}
	if s.Dialect.Traits().LookBack > 900 {
		r.skip("the look back is wider than the numbers of this check")
		return nil
	}
	return healthy(s, r)
}

// checkNumbers: a number that repeats is a duplicate, one that is missing a Gap, and one
// that goes back a Reset; where holes are faults the client asks again.
func checkNumbers(x *trial) {
	if !x.start() {
		return
	}
	topic := x.s.Topics[0]
	s := x.subscribe(topic, nil)
	if !x.live(s) {
		return
	}
	strict := x.traits.Holes == wire.HolesFault
	base := uint64(1000)
	if strict {
		base = 1 // the subscription starts at the beginning of the log
	}
	say := func(number uint64, hold bool) {
		x.server.do(func() { x.server.emit(topic, entry{number: number, prev: number - 1, payload: int(number)}, hold) })
		synctest.Wait()
	}
	for _, number := range []uint64{base, base + 1, base + 1, base + 2} {
		say(number, false)
	}
	say(base+3, true)
	say(base+4, true)
	say(base+5, false)
	want := fmt.Sprint(base, base+1, base+2)
	if strict {
		x.settled()
		want += " " + fmt.Sprint(base+3, base+4, base+5)
	} else {
		say(3, false)
		say(4, false)
		want += fmt.Sprintf(" gap(lost, 2) %d reset(restarted, 0) 3 4", base+5)
	}
	got, _ := s.got()
	if text := strings.Join(textsOf(got), " "); text != want {
		x.found("numbers %d, %d, %d, %d, %d and so on arrive as %s, want %s", base, base+1, base+1, base+2, base+5, text, want)
	}
	x.alive()
}

func whereRefused(s *Subject, r *report) []limpettest.Fault {
	refusal := wire.Event{Kind: wire.EventUnsubscribed, Key: 1, Name: s.Topics[0], Code: 1, Reason: "no"}
	switch {
	case s.Pushes:
		r.skip("the client asks for no subscriptions")
	case s.Topics[1] == "":
		r.skip("there is one topic only")
	case !s.can(refusal):
		r.skip("the server refuses no subscriptions")
	default:
		return healthy(s, r)
	}
	return nil
}

// checkRefused: a refused subscription ends with an error; the others go on.
func checkRefused(x *trial) {
	if !x.start() {
		return
	}
	good, bad := x.s.Topics[0], x.s.Topics[1]
	x.server.do(func() { x.server.refused[bad] = true })
	first, second := x.subscribe(good, nil), x.subscribe(bad, nil)
	if !x.live(first) {
		return
	}
	x.pass(5 * time.Minute)
	x.server.do(func() { x.server.next(good, 1) })
	synctest.Wait()
	if _, err := second.got(); !errors.Is(err, limpet.ErrRejected) {
		x.found("the server refuses the subscription to %q, which ends with %v, want limpet.ErrRejected", bad, err)
	}
	if got, err := first.got(); len(got) == 0 || got[len(got)-1].number != 1 {
		x.found("beside a refused subscription, the one to %q received %v, error %v", good, textsOf(got), err)
	}
	x.alive()
}

func whereUnsubscribed(s *Subject, r *report) []limpettest.Fault {
	if !s.Dialect.Traits().Unsubscribe || s.Pushes {
		r.skip("a client cannot end a subscription")
		return nil
	}
	return healthy(s, r)
}

// checkUnsubscribe: the server learns of the end of a subscription, and a new one to the
// topic receives only what is its own.
func checkUnsubscribe(x *trial) {
	if !x.start() {
		return
	}
	topic := x.s.Topics[0]
	first := x.subscribe(topic, nil)
	if !x.live(first) {
		return
	}
	x.server.do(func() { x.server.next(topic, 1) })
	synctest.Wait()
	if err := first.sub.Close(); err != nil {
		x.found("Close of the subscription: %v", err)
	}
	x.settled()
	x.server.do(func() {
		if x.server.ended != 1 {
			x.found("a subscription was closed, and the peer has read %d OpUnsubscribe", x.server.ended)
		}
		x.server.next(topic, 2)
	})
	second := x.subscribe(topic, nil)
	if !x.live(second) {
		return
	}
	x.server.do(func() { x.server.next(topic, 3) })
	x.settled()
	got, err := second.got()
	want := []string{"3"}
	if x.s.broker() {
		want = []string{"2", "3"} // a broker kept it
	}
	if texts := textsOf(got); !slices.Equal(texts, want) {
		x.found("a second subscription to %q received %v, want %v; error %v", topic, texts, want, err)
	}
	if got, _ := first.got(); len(got) != 1 {
		x.found("a closed subscription received %v, want [1]", textsOf(got))
	}
	x.alive()
}

func whereEnded(s *Subject, r *report) []limpettest.Fault {
	t := s.Dialect.Traits()
	if !t.ConfirmsEnd || t.ByKey || s.Pushes {
		r.skip("the server does not report the end of a subscription by its topic")
		return nil
	}
	return healthy(s, r)
}

// checkEnded: a subscription that the server ends is asked for again.
func checkEnded(x *trial) {
	if !x.start() {
		return
	}
	topic := x.s.Topics[0]
	s := x.subscribe(topic, nil)
	if !x.live(s) {
		return
	}
	x.server.do(func() {
		x.server.next(topic, 1)
		for _, c := range x.server.conns {
			delete(c.subs, topic)
			c.send(c.peer.Encode(wire.Event{Kind: wire.EventUnsubscribed, Name: topic}))
		}
		x.server.requeue(topic)
	})
	x.settled()
	x.server.do(func() { x.server.next(topic, 2) })
	synctest.Wait()
	if got, err := s.got(); len(got) == 0 || got[len(got)-1].number != 2 {
		x.found("the server has ended the subscription to %q by itself; a minute later it received %v, want 2 as the last message; error %v", topic, textsOf(got), err)
	}
	x.alive()
}

// checkToken: the credential reaches the server.
func checkToken(x *trial) {
	const token = "credential-of-the-suite"
	x.auth = func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
		return limpet.Credential{Token: token}, nil
	}
	if !x.start() || !x.ready() {
		return
	}
	synctest.Wait()
	x.server.do(func() {
		if !bytes.Contains(x.server.heard, []byte(token)) {
			x.found("the server can refuse a credential, and gets none: neither the upgrade request nor a frame has the token that Options.Auth returned")
		}
	})
}

func whereCredential(s *Subject, r *report) []limpettest.Fault {
	if s.Refusal == nil {
		r.skip("Subject.Refusal is nil")
		return nil
	}
	return healthy(s, r)
}

// checkCredential: a refused credential ends the client, and says that it was refused.
func checkCredential(x *trial) {
	x.server.deny = true
	if !x.start() {
		return
	}
	x.pass(2 * time.Hour)
	made := 0
	x.server.do(func() { made = x.server.made })
	select {
	case <-x.client.Done():
		if got := limpet.ClassOf(x.client.Err()); got != limpet.ClassAuth {
			x.found("the server refuses the credential, and the client ends with class %q: %v", got, x.client.Err())
		}
	default:
		x.found("the server refuses the credential, and after 2 hours and %d connections the client has not ended: %v", made, x.client.State().Cause)
	}
	if made == 0 {
		x.found("the client has not connected")
	}
}
