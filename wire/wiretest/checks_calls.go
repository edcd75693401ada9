package wiretest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/limpet-go/limpet/wire"
)

// checkCalls: a dialect with the trait Calls sends each call once, finds the call that a reply is for, in
// whatever order replies come, and reports a refusal as one.
func checkCalls(s *Subject, r *report) {
	if !s.Dialect.Traits().Calls {
		r.skip("the trait Calls is not set")
		return
	}
	k := s.usual(r)
	if k == nil {
		return
	}
	topic := s.Call
	if topic == "" {
		topic = s.Publish
	}
	sent := map[string]uint64{} // numbers of the client, by payload
	var ops []wire.Op
	for i, n := range []uint64{3, 5, 9, 1 << 40} {
		payload := fmt.Sprintf(`{"n":%d}`, 300+i)
		sent[payload] = n
		ops = append(ops, wire.Op{Kind: wire.OpCall, Cmd: n * 4, N: n, Topic: topic, Message: &wire.Message{Topic: topic, Payload: []byte(payload)}})
	}
	var out wire.Frames
	if err := k.codec.Encode(ops, &out); err != nil {
		r.add("the trait Calls is set, and Encode refuses an OpCall: %v", err)
		return
	}
	read := map[string]uint64{} // numbers of the peer, by payload
	for _, f := range out.List {
		requests, err := k.peer.Decode(f)
		if err != nil {
			r.add("the peer cannot read the frame of an OpCall, %q: %v", cut(f.Data), err)
		}
		for _, q := range requests {
			if q.Kind != wire.OpCall || q.Message == nil {
				continue
			}
			if _, twice := read[string(q.Message.Payload)]; twice {
				r.add("the client calls once with %s, and the peer reads it twice", q.Message.Payload)
			}
			read[string(q.Message.Payload)] = q.N
		}
	}
	for payload := range sent {
		if _, ok := read[payload]; !ok {
			r.add("the client calls with %s, and the peer reads no OpCall with it", payload)
			return
		}
	}
	k.replies(r, sent, read)
}

// replies answers calls, the newest first and the oldest with a refusal, and compares what Decode reports.
func (k *talk) replies(r *report, sent, read map[string]uint64) {
	from := len(k.events)
	order := slices.Sorted(maps.Keys(sent))
	slices.Reverse(order)
	for i, payload := range order {
		e := wire.Event{Kind: wire.EventReply, N: read[payload], Message: wire.Message{Payload: []byte(strings.Replace(payload, "n", "reply", 1))}}
		if i == len(order)-1 {
			e.Message, e.Code, e.Reason = wire.Message{}, 1, "no"
		}
		switch said, err := k.say(e); {
		case err != nil:
			r.add("the server replies to a call, %s: %v", snapshot(e), err)
			return
		case !said:
			r.add("the trait Calls is set, and the peer has no form for an EventReply: write it in Peer.Encode")
			return
		}
	}
	got := map[uint64]wire.Event{}
	for _, e := range k.events[from:] {
		if e.Kind != wire.EventReply {
			continue
		}
		if _, twice := got[e.N]; twice {
			r.add("two EventReply for call %d", e.N)
		}
		got[e.N] = e
	}
	for i, payload := range order {
		e, ok := got[sent[payload]]
		switch want := strings.Replace(payload, "n", "reply", 1); {
		case !ok:
			r.add("the server replies to call %d, and Decode reports no EventReply with that number", sent[payload])
		case i == len(order)-1 && (e.Code == 0 || len(e.Message.Payload) > 0):
			r.add("the server refuses call %d, and Decode reports %s: want a Code and no payload", e.N, snapshot(e))
		case i < len(order)-1 && (e.Code != 0 || string(e.Message.Payload) != want):
			r.add("the server replies to call %d with %s, and Decode reports %q, code %d", e.N, want, cut(e.Message.Payload), e.Code)
		}
	}
}
