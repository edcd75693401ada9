// Package published holds what a window of published messages knows about their numbers.
package published

import (
	"slices"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Check checks that an acknowledgement accepts only what was sent, up to the number sent; with all, that whatever
// it says is about that. The error is a *wire.CodeError.
func Check(a *wire.Ack, all bool, sent uint64) error {
	highest := a.To
	for _, r := range a.Ranges {
		if r.Lo > r.Hi {
			return &wire.CodeError{Code: 4000, Reason: "acknowledged range has Lo > Hi"}
		}
		highest = max(highest, r.Hi)
	}
	if all {
		for _, r := range a.Rejects {
			highest = max(highest, r.Seq)
		}
		for _, r := range a.Duplicates {
			highest = max(highest, r.Hi)
		}
	}
	if highest > sent {
		return &wire.CodeError{Code: 4000, Reason: "acknowledged a message that was never sent"}
	}
	return nil
}

// Again holds the numbers of messages that are to be sent again. The zero value has none. It is not safe for
// concurrent use.
type Again struct {
	list []again // the next first
}

type again struct {
	seq uint64
	at  time.Time
}

// Add makes a message be due at a time, behind those of the same time.
func (x *Again) Add(seq uint64, at time.Time) {
	i, _ := slices.BinarySearchFunc(x.list, at, func(a again, at time.Time) int {
		if a.at.After(at) {
			return 1
		}
		return -1
	})
	x.list = slices.Insert(x.list, i, again{seq, at})
}

// Next returns when the next message is due; zero: none.
func (x *Again) Next() (at time.Time) {
	if len(x.list) > 0 {
		at = x.list[0].at
	}
	return at
}

// Take takes out the first message if it is due now.
func (x *Again) Take(now time.Time) (seq uint64, ok bool) {
	if len(x.list) == 0 || now.Before(x.list[0].at) {
		return 0, false
	}
	seq, x.list = x.list[0].seq, x.list[1:]
	if len(x.list) == 0 {
		x.list = nil
	}
	return seq, true
}
