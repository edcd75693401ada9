package verdict

import (
	"time"

	"github.com/limpet-go/limpet/wire"
)

// What was refused FinalRepeats times in a row over FinalSpan is final.
const (
	FinalRepeats = 5
	FinalSpan    = 10 * time.Minute
)

const maxViolations = 3 // in a row, before the client has been ready

// Finality decides which failures end the client: docs/ending.md. The zero Finality is that
// of a new client.
type Finality struct {
	Oversized bool // the last failure was a message beyond Options.ReadLimit

	wasReady   bool      // the client has been ready
	violations int       // since the last progress
	count      int       // failures in a row since then that the tables call final
	since      time.Time // the first of them
}

// Ready follows when a connection became ready. Without a greeting the server has said
// nothing yet: one that refuses the login or breaks the protocol every time makes no
// progress.
func (y *Finality) Ready(greeted bool) {
	y.wasReady = true
	if greeted {
		y.Progressed()
	}
}

// Lasted follows when a connection lasted long enough to count as stable: what refused
// the client before has passed.
func (y *Finality) Lasted() { y.count = 0 }

// Progressed follows when a message was received or acknowledged: a reset or a gap
// is not enough.
func (y *Finality) Progressed() { y.violations, y.count = 0, 0 }

// Weigh makes d final or a wait. canRefresh means that Auth can be asked for
// another credential.
func (y *Finality) Weigh(d *Decision, now time.Time, canRefresh, keepTrying bool) {
	refused := d.Action == wire.ActionRefresh && !canRefresh
	if refused {
		d.Action, d.Class = wire.ActionStop, classAuth
	}
	if !d.ByTable {
		y.count, y.violations = 0, 0
		return
	}
	if d.isViolation {
		y.violations++
	} else {
		y.violations, y.Oversized = 0, false
	}
	switch {
	case d.NamesTime, d.Action != wire.ActionStop && d.Action != wire.ActionRefresh && !d.isViolation:
		y.count = 0
	default:
		if y.count++; y.count == 1 {
			y.since = now
		}
	}
	final := d.Action == wire.ActionStop || d.isViolation && (y.wasReady || y.violations >= maxViolations)
	if !final {
		return
	}
	repeated := y.count >= FinalRepeats && now.Sub(y.since) >= FinalSpan
	switch {
	case d.NamesTime:
		d.Action = wire.ActionBackOff
	case keepTrying && (d.Action == wire.ActionStop || !y.wasReady || repeated):
		d.Action, d.AtCap = wire.ActionBackOff, true
	case y.wasReady && !d.lasting && !repeated:
		d.Action = wire.ActionBackOff
	default:
		d.Action = wire.ActionStop
	}
}
