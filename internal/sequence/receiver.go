// Package sequence decides what a received event means for the stream of one
// subscription. It holds the receiver of docs/protocol.md, section 5.
package sequence

import "github.com/limpet-go/limpet/wire"

// Receiver follows the stream of one subscription across its connections and
// says of each event whether it is the next message, a duplicate, a gap, a
// reset, or a violation of the protocol. It has no lock, queue or clock: the
// caller makes one call at a time.
type Receiver struct {
	holes  wire.Holes
	recent recentIDs

	last       wire.Position // of the last message, gap or reset
	epoch      string        // of positions that come without one
	positioned bool          // last is known
	confirmed  bool          // the current connection said where delivery starts
	wasLive    bool          // any connection did
}

// New returns the receiver of a subscription in a wire protocol with these traits.
func New(t wire.Traits) Receiver {
	return Receiver{holes: t.Holes, recent: recentIDs{limit: t.DedupWindow}}
}

// ResumeFrom sets the position that an earlier receiver reached.
func (r *Receiver) ResumeFrom(p wire.Position) {
	r.last, r.epoch, r.positioned = p, p.Epoch, true
}

// StartConnection begins a connection. It must confirm where delivery starts.
func (r *Receiver) StartConnection() { r.confirmed = false }

// Position returns the position of the last message, gap or reset, and whether
// it is known.
func (r *Receiver) Position() (last wire.Position, known bool) { return r.last, r.positioned }

// Epoch returns the epoch of Position.
func (r *Receiver) Epoch() string { return r.last.Epoch }

// Open reports whether messages may come: the connection has said where delivery
// starts, or it need not.
func (r *Receiver) Open() bool { return r.confirmed || r.holes != wire.HolesFault }

// Step is what one event adds to the stream: a loss, a message, a loss and then
// a message, or nothing. It has at most four fields, so that it is returned in
// registers: through memory, a message took twice as long to pass the queue.
type Step struct {
	Loss     *Loss  // nil: nothing is missing
	Previous uint64 // Next: the offset that the message follows, in its epoch
	Effect   Effect
}

// Effect is what an event does to the stream, apart from a loss.
type Effect uint8

const (
	Nothing   Effect = iota
	Next             // the next message
	Duplicate        // a message that was received before
	Start            // the server stated where delivery starts or goes on
)

// Loss is a gap, the messages in (After, To], or a reset: then nothing is known
// about what lies between After and To.
type Loss struct {
	Kind     wire.EventKind // EventGap or EventReset
	Detected bool           // the server did not report it
	Cause    wire.Cause
	Count    uint64 // messages missing, 0 if not known
	After    wire.Position
	To       wire.Position
}

// Accept takes the next event. beyondCredit says that the server had no credit
// for this message. An error is a violation by the server: the event has no
// effect, and the position stays. A loss that comes with an error still counts.
func (r *Receiver) Accept(ev *wire.Event, beyondCredit bool) (step Step, err error) {
	switch ev.Kind {
	case wire.EventData:
		// The common case is handled below, without another call.
	case wire.EventSubscribed:
		return r.subscribed(ev)
	case wire.EventGap:
		return r.gap(ev)
	case wire.EventReset:
		return r.reset(ev), nil
	default:
		return step, nil
	}
	if !r.confirmed {
		if !r.Open() {
			return step, violation("message before the subscription was confirmed")
		}
		if r.wasLive && ev.Numbered != r.positioned {
			// Numbers only before the break, or only after it, prove nothing.
			step.Loss = r.detectLoss(wire.EventReset, wire.Position{}, 0, wire.CauseUnverifiable)
		}
		r.confirmed, r.wasLive = true, true
	}
	if beyondCredit {
		return step, &wire.CodeError{Code: 4204, Reason: "server sent more than its credit allows"}
	}
	if r.recent.limit != 0 && r.recent.holds(ev.Message.ID) {
		step.Effect = Duplicate
		return step, nil
	}
	if ev.Numbered && r.positioned {
		switch {
		case ev.Position.Offset <= r.last.Offset:
			step.Effect = Duplicate
			return step, nil
		case ev.Prev <= r.last.Offset:
		case r.holes == wire.HolesFault:
			return step, violation("a message is missing and the server reported no gap")
		default:
			to := wire.Position{Epoch: r.epoch, Offset: ev.Prev}
			step.Loss = r.detectLoss(wire.EventGap, to, ev.Prev-r.last.Offset, wire.CauseLost)
		}
	}
	step.Effect, step.Previous = Next, r.advance(ev)
	return step, nil
}

// advance makes a message the last one and returns the offset that it follows.
func (r *Receiver) advance(ev *wire.Event) (previous uint64) {
	previous = ev.Prev
	epoch := ev.Position.Epoch
	if epoch == "" {
		epoch = r.epoch
	}
	if epoch == r.last.Epoch {
		// What a filtered stream left out before it began is not missing.
		previous = max(previous, r.last.Offset)
	}
	r.last.Epoch, r.last.Offset, r.last.Tag = epoch, ev.Position.Offset, ev.Position.Tag
	r.positioned = true
	return previous
}

func (r *Receiver) subscribed(ev *wire.Event) (step Step, err error) {
	if r.confirmed && r.holes == wire.HolesFault {
		return step, violation("subscription confirmed twice on one connection")
	}
	first, again := !r.confirmed, r.wasLive
	r.confirmed, r.wasLive = true, true
	switch {
	case ev.Continuity == wire.ContinuityProved:
		if r.positioned && ev.Position.Epoch != r.epoch {
			return step, violation("continuity claimed across epochs")
		}
		if r.positioned && ev.Position.Offset > r.last.Offset {
			return step, violation("delivery starts after messages that were not received")
		}
		if !r.positioned {
			r.last = ev.Position
		}
	case ev.Continuity == wire.ContinuityByNumber:
		if again && first && !r.positioned {
			// It was live before without a number: the next number proves nothing.
			step.Loss = r.detectLoss(wire.EventReset, ev.Position, 0, wire.CauseUnverifiable)
		}
		return step, nil // the next number decides; the very first one is the base
	case first && r.positioned:
		step.Loss = r.detectLoss(wire.EventReset, ev.Position, 0, wire.CauseUnverifiable)
		r.last = ev.Position
	case first:
		r.last = ev.Position
	}
	r.epoch, r.positioned, step.Effect = ev.Position.Epoch, true, Start
	return step, nil
}

func (r *Receiver) gap(ev *wire.Event) (step Step, err error) {
	switch {
	case !r.Open():
		return step, violation("gap before the subscription was confirmed")
	case ev.Prev > r.last.Offset:
		return step, violation("messages before the gap are missing")
	case ev.Position.Offset <= r.last.Offset:
		return step, nil // it is known already
	}
	to := wire.Position{Epoch: r.epoch, Offset: ev.Position.Offset, Tag: ev.Position.Tag}
	step.Loss, step.Effect = r.newLoss(wire.EventGap, to, ev.Count, ev.Cause), Start
	r.last = to
	return step, nil
}

func (r *Receiver) reset(ev *wire.Event) (step Step) {
	step.Loss, step.Effect = r.newLoss(wire.EventReset, ev.Position, 0, ev.Cause), Start
	r.last, r.epoch, r.positioned, r.confirmed = ev.Position, ev.Position.Epoch, true, true
	return step
}

// newLoss makes a loss that begins at the last position.
func (r *Receiver) newLoss(kind wire.EventKind, to wire.Position, count uint64, cause wire.Cause) *Loss {
	return &Loss{Kind: kind, After: r.last, To: to, Count: count, Cause: cause}
}

// detectLoss makes a loss that the server did not report.
func (r *Receiver) detectLoss(kind wire.EventKind, to wire.Position, count uint64, cause wire.Cause) *Loss {
	loss := r.newLoss(kind, to, count, cause)
	loss.Detected = true
	return loss
}

func violation(reason string) error { return &wire.CodeError{Code: 4000, Reason: reason} }
