package server

import (
	"cmp"
	"slices"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// acks acknowledges what was accepted since the last ack and grants new credit.
func (w *writer) acks() error {
	p := w.p
	p.mu.Lock()
	due := p.ackDue
	p.ackDue = false
	p.mu.Unlock()
	if !due || w.session == nil {
		return nil
	}
	ack, sack, ok := w.session.acked()
	if !ok {
		return nil
	}
	p.mu.Lock()
	told := p.naks // after the record was read: see run.told
	p.naks = nil
	p.mu.Unlock()
	outcomes := make([]native.Reject, 0, len(told))
	for seq, code := range told {
		outcomes = append(outcomes, native.Reject{S: seq, Code: code})
	}
	slices.SortFunc(outcomes, func(a, b native.Reject) int { return cmp.Compare(a.S, b.S) })
	const chunk = 512 // outcomes in one ack, so that it fits into a batch
	for len(outcomes) > chunk {
		a := &native.Ack{}
		a.Nak, a.Dup = split(outcomes[:chunk])
		if err := w.put(&native.Frame{Type: native.TypeAck, Ack: a}); err != nil {
			return err
		}
		outcomes = outcomes[chunk:]
	}
	cr := native.Credit{
		N: max(ack+uint64(p.server.opt.Window), p.creditN.Load()),
		B: p.received.Load() + uint64(p.server.opt.WindowBytes),
	}
	p.creditN.Store(cr.N)
	p.creditB.Store(cr.B)
	a := &native.Ack{To: ack, HasTo: true, X: sack, Cr: &cr}
	a.Nak, a.Dup = split(outcomes)
	return w.put(&native.Frame{Type: native.TypeAck, Ack: a})
}

// split separates rejections from messages that were accepted before: those with code 0. The
// outcomes are in the order of their numbers.
func split(outcomes []native.Reject) (rejected []native.Reject, duplicates []wire.Range) {
	for _, o := range outcomes {
		switch n := len(duplicates); {
		case o.Code != 0:
			rejected = append(rejected, o)
		case n > 0 && duplicates[n-1].Hi+1 == o.S:
			duplicates[n-1].Hi++
		default:
			duplicates = append(duplicates, wire.Range{Lo: o.S, Hi: o.S})
		}
	}
	return rejected, duplicates
}
