package wiretest

import (
	"bytes"
	"errors"
	"slices"

	"github.com/limpet-go/limpet/wire"
)

// checkFrames: the frames of a batch come in the order of its ops, an op that is refused
// costs only itself, no two frames share memory, and a Packer counts its frames.
func checkFrames(s *Subject, r *report) {
	k := s.usual(r)
	if k == nil {
		return
	}
	if k.traits.Silent {
		r.skip("a client sends nothing")
		return
	}
	if k.traits.Ping == wire.PingOp {
		k.sharing(r, "a ping", wire.Op{Kind: wire.OpPing, N: 3})
	}
	k.counting(r)
	if !k.traits.Publish {
		return
	}
	k.sharing(r, "a publish", k.publishOp(payloadOf(20)))
	ops := []wire.Op{k.publishOp(payloadOf(21)), k.publishOp(payloadOf(22)), k.publishOp(payloadOf(23))}
	if got, err := k.batch(ops); err != nil || !slices.Equal(got, []int{21, 22, 23}) {
		r.add("Encode of the publishes 21, 22 and 23 makes frames in which the peer reads %v, error %v", got, err)
	}
	ops = []wire.Op{k.publishOp(payloadOf(24)), k.publishOp([]byte("{\"n\":25}\xff\xfe")), k.publishOp(payloadOf(26))}
	got, err := k.batch(ops)
	var refused *wire.OpError
	if !errors.As(err, &refused) {
		return // checkMemory has a word on other errors
	}
	if refused.Index != 1 {
		r.add("Encode refuses op 1 of 0, 1 and 2, and OpError.Index is %d: the client rejects the message of that index, or ends the connection if there is none", refused.Index)
	}
	if !slices.Equal(got, []int{24}) {
		r.add("Encode refuses op 1 of 0, 1 and 2, and the peer reads the publishes %v in the frames, want [24]: what comes before that op, and nothing from it on", got)
	}
}

// batch encodes ops together and returns the messages that the peer reads in the frames,
// with 0 for any other request.
func (k *talk) batch(ops []wire.Op) (messages []int, err error) {
	var out wire.Frames
	err = k.codec.Encode(ops, &out)
	for _, f := range out.List {
		requests, err := k.peer.Decode(f)
		if err != nil {
			return messages, errors.Join(errors.New("the peer cannot read a frame"), err)
		}
		for _, q := range requests {
			if q.Kind == 0 {
				continue // a step
			}
			n := 0
			if q.Message != nil {
				n, _ = numberIn(q.Message.Payload)
			}
			messages = append(messages, n)
		}
	}
	return messages, err
}

// counting reports a wire.Packer that makes more frames than it has counted.
func (k *talk) counting(r *report) {
	p, ok := k.codec.(wire.Packer)
	if !ok {
		return
	}
	var ops []wire.Op
	if k.traits.Publish {
		ops = append(ops, k.publishOp(payloadOf(3)), k.publishOp(payloadOf(4)))
	}
	if k.traits.Unsubscribe {
		ops = append(ops, wire.Op{Kind: wire.OpUnsubscribe, Key: 1, Cmd: 1*4 + 2, Name: k.s.Topics[0], Topic: k.s.Topics[0]})
	}
	for i, topic := range k.s.Topics {
		if topic != "" {
			ops = append(ops, k.subscribeOp(uint64(3+i), topic))
		}
	}
	for from := range ops {
		counted := p.CountFrames(ops[from:])
		if again := p.CountFrames(ops[from:]); again != counted {
			r.add("CountFrames returns %d, then %d for the same operations: it must change nothing", counted, again)
		}
		var out wire.Frames
		if err := k.codec.Encode(ops[from:], &out); err == nil && len(out.List) > counted {
			r.add("CountFrames returns %d for operations of which Encode makes %d frames: return at least that number", counted, len(out.List))
		}
	}
}

// sharing reports frames of two calls of Encode that share memory.
func (k *talk) sharing(r *report, what string, op wire.Op) {
	var one, two wire.Frames
	if k.codec.Encode([]wire.Op{op}, &one) != nil || k.codec.Encode([]wire.Op{op}, &two) != nil {
		return
	}
	for _, f := range one.List {
		first := bytes.Clone(f.Data)
		for _, g := range two.List {
			second := bytes.Clone(g.Data)
			for i := range f.Data {
				f.Data[i] ^= 0xff
			}
			if !bytes.Equal(g.Data, second) {
				r.add("two frames for %s share memory, which Frames.Append takes and uses again: append a copy", what)
			}
			copy(f.Data, first)
		}
	}
}
