package wiretest

import (
	"bytes"
	"errors"
	"slices"

	"github.com/limpet-go/limpet/wire"
)

// checkFrames: the frames of a batch come in the order of its ops, an op that is refused
// costs only itself, and no two frames share memory.
func checkFrames(s *Subject, r *report) {
	k, err := s.open()
	if err == nil {
		err = k.whole()
	}
	if errors.Is(err, errHTTP) {
		r.skip("%v", err)
		return
	}
	if err != nil {
		r.add("a usual conversation fails: %v", err)
		return
	}
	if k.traits.Silent {
		r.skip("a client sends nothing")
		return
	}
	if k.traits.Ping == wire.PingOp {
		k.sharing(r, "a ping", wire.Op{Kind: wire.OpPing, N: 3})
	}
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
