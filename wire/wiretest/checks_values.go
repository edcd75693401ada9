package wiretest

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
)

// exactNumber is lost by a reader that takes numbers for floats, and by one with 32 bits.
const exactNumber = 1<<53 + 1

// values are payloads that a careless reader or writer changes: by way of floats or of
// other escapes, or with 16 bits for their length.
func values() [][]byte {
	return [][]byte{
		[]byte(`{"n":17,"t":"é☃😀\u0041\/","x":1.0,"y":12345678901234567890}`),
		fmt.Appendf(nil, `{"n":18,"t":"%s"}`, strings.Repeat("0123456789", 7000)),
	}
}

// checkValues: payloads and numbers arrive as they were sent, in either direction.
func checkValues(s *Subject, r *report) {
	for _, payload := range values() {
		if k := s.usual(r); k != nil {
			k.receiveValue(r, payload)
			k.publishValue(r, payload)
		}
	}
	k := s.usual(r)
	if k == nil || !s.numbered() {
		return
	}
	k.receiveUnnumbered(r)
	e := k.data(1, s.Topics[0], exactNumber)
	from := len(k.events)
	if said, err := k.say(e); !said || err != nil {
		return // the protocol has no such numbers
	}
	for _, got := range k.events[from:] {
		if got.Kind == wire.EventData && got.Numbered && got.Position.Offset != exactNumber {
			r.add("the server sends a message with number %d, and Decode reports number %d", uint64(exactNumber), got.Position.Offset)
		}
	}
}

// receiveUnnumbered makes the server send a message without a number, where the protocol has
// such messages beside others.
func (k *talk) receiveUnnumbered(r *report) {
	numbered, plain := k.data(1, k.s.Topics[0], 3), k.data(1, k.s.Topics[0], 3)
	plain.Numbered, plain.Prev, plain.Position = false, 0, wire.Position{}
	numbered.Prev, numbered.Position = 0, wire.Position{}
	frames := k.peer.Encode(plain)
	if slices.EqualFunc(frames, k.peer.Encode(numbered), func(a, b wire.Frame) bool { return bytes.Equal(a.Data, b.Data) }) {
		return // every message has a number
	}
	from := len(k.events)
	if err := k.receive(frames); err != nil {
		r.add("the server sends a message without a number: %v", err)
		return
	}
	for _, got := range k.events[from:] {
		if got.Kind == wire.EventData && got.Numbered {
			r.add("the server sends a message without a number, and Decode reports number %d: leave Numbered out, or the client takes what follows for lost or for a duplicate", got.Position.Offset)
		}
	}
}

// checkFrom: a subscription begins where the client says, or is refused. Lost connections show
// whether it begins after a position.
func checkFrom(s *Subject, r *report) {
	traits := s.Dialect.Traits()
	if !traits.Resume || s.Pushes {
		r.skip("a subscription begins with what comes next")
		return
	}
	for from, name := range map[wire.From]string{wire.FromFirst: "FromFirst", wire.FromLast: "FromLast"} {
		k, err := s.open()
		if errors.Is(err, errHTTP) {
			r.skip("%v", err)
			return
		} else if err != nil {
			return // checkMemory reports it
		}
		k.beginFrom(r, from, name)
	}
}

func (k *talk) beginFrom(r *report, from wire.From, name string) {
	op := k.subscribeOp(1, k.s.Topics[0])
	op.Subscribe.From = from
	var out wire.Frames
	var refused *wire.OpError
	err := k.codec.Encode([]wire.Op{op}, &out)
	switch {
	case errors.As(err, &refused):
		return
	case err != nil:
		r.add("Encode of a subscription with %s: %v; want a frame, or a *wire.OpError for what the server cannot do", name, err)
		return
	}
	for _, f := range out.List {
		requests, err := k.peer.Decode(f)
		if err != nil {
			r.add("the peer cannot read a subscription with %s: %v", name, err)
			return
		}
		for _, q := range requests {
			if q.Kind == wire.OpSubscribe && q.Subscribe != nil && q.Subscribe.From != from {
				r.add("Encode of a subscription with %s makes a frame in which the peer reads From %d: the subscription begins elsewhere, without an error; "+
					"send where to begin, or refuse with a *wire.OpError what the server cannot do", name, q.Subscribe.From)
			}
		}
	}
}

// usual returns a conversation after the usual one, or nil if there is none.
func (s *Subject) usual(r *report) *talk {
	k, err := s.open()
	if err == nil {
		err = k.whole()
	}
	switch {
	case errors.Is(err, errHTTP):
		r.skip("%v", err)
	case err != nil:
		r.add("a usual conversation fails: %v", err)
	default:
		return k
	}
	return nil
}

// receiveValue makes the server send payload.
func (k *talk) receiveValue(r *report, payload []byte) {
	e := k.data(1, k.s.Topics[0], 9)
	e.Message.Payload = payload
	from := len(k.events)
	if said, err := k.say(e); !said || err != nil {
		r.add("the server sends a message with the payload %q: error %v", cut(payload), err)
		return
	}
	for _, got := range k.events[from:] {
		if got.Kind == wire.EventData && bytes.Contains(got.Message.Payload, payload) {
			return
		}
	}
	r.add("the server sends a message with the payload %q of %d bytes, and Decode reports none with it", cut(payload), len(payload))
}

// publishValue publishes payload. A dialect may refuse it.
func (k *talk) publishValue(r *report, payload []byte) {
	if limit := k.traits.MaxPayload; !k.traits.Publish || limit > 0 && len(payload) > limit {
		return
	}
	var out wire.Frames
	op := k.publishOp(bytes.Clone(payload))
	before := *op.Message
	if k.codec.Encode([]wire.Op{op}, &out) != nil {
		return
	}
	if !bytes.Equal(op.Message.Payload, payload) || op.Message.Topic != before.Topic || op.Message.Seq != before.Seq || op.Message.ID != before.ID {
		r.add("Encode changes the message that it is given, which may be sent again: the payload %q became %q", cut(payload), cut(op.Message.Payload))
	}
	for _, f := range out.List {
		requests, err := k.peer.Decode(f)
		if err != nil {
			r.add("the peer cannot read the publish of %q: %v", cut(payload), err)
			return
		}
		for _, q := range requests {
			if q.Message != nil && bytes.Contains(q.Message.Payload, payload) {
				return
			}
		}
	}
	r.add("a message with the payload %q of %d bytes is published, and the peer reads none with it", cut(payload), len(payload))
}

const (
	growthMessages = 20000
	growthMemory   = 1 << 20
)

// checkGrowth: a connection that lasts keeps nothing of the messages that it has passed on.
func checkGrowth(s *Subject, r *report) {
	k := s.usual(r)
	if k == nil {
		return
	}
	frames := make([][]wire.Frame, growthMessages) // first, so that what the peer keeps does not count
	for n := range frames {
		frames[n] = k.peer.Encode(k.data(1, s.Topics[0], n+10))
	}
	before := heap()
	var events wire.Events
	var out wire.Frames
	for _, list := range frames {
		events.Reset()
		for _, f := range list {
			_ = k.codec.Decode(f, &events)
		}
		if k.traits.Processed == wire.ProcessedNothing {
			continue
		}
		for _, e := range events.List {
			if out.Reset(); e.Kind == wire.EventData {
				_ = k.codec.Encode([]wire.Op{{Kind: wire.OpAck, Key: e.Key, Name: e.Name, Topic: s.Topics[0], Position: e.Position}}, &out)
			}
		}
	}
	events, out = wire.Events{}, wire.Frames{}
	if after := heap(); after > before+growthMemory {
		r.add("a connection that has passed on %d messages keeps %d KiB more than before", growthMessages, (after-before)>>10)
	}
	runtime.KeepAlive(frames)
	runtime.KeepAlive(k)
}

// heap returns the memory in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what sync.Pool holds lives for one more
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// checkTwoClients: clients that share a dialect do not notice each other.
func checkTwoClients(x *trial) {
	var streams []*stream
	var receipts []*limpet.Receipt
	topics := []string{x.s.Topics[0], x.s.Topics[len(x.s.topics())-1]}
	for _, topic := range topics {
		if !x.start() {
			return
		}
		s := x.subscribe(topic, nil)
		if !x.live(s) {
			return
		}
		streams = append(streams, s)
	}
	for n := 1; n <= 20; n++ {
		for i, c := range x.clients {
			if x.client = c; x.traits.Publish {
				receipts = append(receipts, x.publish(2*n+i))
			}
		}
		x.server.do(func() {
			for i, topic := range x.s.topics() {
				x.server.next(topic, 2*n+i)
			}
		})
		synctest.Wait()
	}
	x.settled()
	received := 0
	for i, s := range streams {
		got, err := s.got()
		for _, e := range got {
			if received++; e.kind == limpet.Gap || e.kind == limpet.Reset || topics[0] != topics[1] && e.number%2 != i {
				x.found("of two clients with one dialect, the one that subscribes to %q received %s, error %v", s.topic, e, err)
			}
		}
	}
	want := 40
	if topics[0] == topics[1] && x.s.broker() {
		want = 20 // each message goes to one of them
	}
	if received != want {
		x.found("two clients with one dialect received %d messages, want %d", received, want)
	}
	for _, receipt := range receipts {
		if receipt != nil && receipt.Outcome() != x.outcome() {
			x.found("two clients with one dialect publish, and an outcome is %s, want %s", receipt.Outcome(), x.outcome())
		}
	}
}
