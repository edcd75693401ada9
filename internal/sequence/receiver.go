// Package sequence decides what a received event means for the stream of one
// subscription. It holds the receiver of docs/protocol.md, section 5.
package sequence

import "github.com/limpet-go/limpet/wire"

// Receiver follows the stream of one subscription across its connections and
// says of each event whether it is the next message, a duplicate, a gap, a
// reset, or a violation of the protocol. It has no lock, queue or clock: the
// caller makes one call at a time.
type Receiver struct {
	holes    wire.Holes
	lookBack uint64 // see wire.Traits
	recent   recentIDs

	last       wire.Position // of the last numbered message, cursor, gap or reset; its epoch is that of the stream
	positioned bool          // last is known
	confirmed  bool          // the current connection said where delivery starts
	unproved   bool          // whether something is missing since the connection before is not decided
	wasLive    bool          // any connection said where delivery starts
	malformed  bool          // a message after the last one could not be read: a hole may be its place
	repeats    bool          // the connection may repeat the numbers above repeatFrom
	repeatFrom uint64
	abandoned  bool // the position was given up: a reset is owed
}

// New returns the receiver of a subscription in a wire protocol with these traits.
func New(t wire.Traits) Receiver {
	return Receiver{holes: t.Holes, lookBack: t.LookBack, recent: recentIDs{limit: t.DedupWindow}}
}

// ResumeFrom sets the position that an earlier receiver reached.
func (r *Receiver) ResumeFrom(p wire.Position) {
	r.last, r.positioned = p, true
}

// AssumeLive follows when the subscription counts as live on the connection though no
// event says so: messages may come from then on, and be lost.
func (r *Receiver) AssumeLive() { r.wasLive = true }

// Numbered reports whether the stream has numbers that show what is missing.
func (r *Receiver) Numbered() bool {
	return r.holes == wire.HolesLoss && r.positioned && r.last.Offset > 0
}

// MayRepeat follows StartConnection if the connection may repeat the numbers above from.
func (r *Receiver) MayRepeat(from uint64) { r.repeats, r.repeatFrom = true, from }

// Abandon gives the position up: the next connection begins the stream again, with a
// reset (CauseTooBig).
func (r *Receiver) Abandon() { r.positioned, r.abandoned = false, true }

// Forget follows when the message with id was given back: if it comes again, it is the next
// message.
func (r *Receiver) Forget(id wire.ID) { r.recent.forget(id) }

// StartConnection begins a connection. It must confirm where delivery starts.
func (r *Receiver) StartConnection() {
	r.confirmed, r.unproved, r.malformed = false, r.wasLive || r.positioned, false
	r.repeats = false
}

// Position returns the position of the last message, gap or reset, and whether
// it is known.
func (r *Receiver) Position() (last wire.Position, known bool) { return r.last, r.positioned }

// CopyPosition sets p to the position. Field by field: to copy the whole value just
// after its fields were written costs 10 ns.
func (r *Receiver) CopyPosition(p *wire.Position) {
	p.Epoch, p.Offset, p.Tag = r.last.Epoch, r.last.Offset, r.last.Tag
}

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
		if !beyondCredit && r.follows(ev) { // the usual case
			step.Effect, step.Previous = Next, r.last.Offset
			r.last.Offset, r.last.Tag = ev.Position.Offset, ev.Position.Tag
			return step, nil
		}
		return r.message(ev, beyondCredit)
	case wire.EventSubscribed:
		return r.subscribed(ev)
	case wire.EventGap:
		return r.gap(ev)
	case wire.EventReset:
		return r.reset(ev), nil
	}
	return step, nil
}

// message is Accept for any message.
func (r *Receiver) message(ev *wire.Event, beyondCredit bool) (step Step, err error) {
	if !r.Open() {
		return step, violation("message before the subscription was confirmed, which the trait HolesFault forbids")
	}
	if beyondCredit {
		return step, &wire.CodeError{Code: 4204, Reason: "server sent more than its credit allows"}
	}
	first := !r.confirmed || r.unproved
	if first {
		step.Loss = r.join(ev)
	}
	if r.recent.limit != 0 && r.recent.holds(ev.Message.ID) {
		step.Effect = Duplicate
		return step, nil
	}
	if r.positioned {
		switch {
		case hasPlace(ev) && r.otherEpoch(ev.Position.Epoch):
			if r.holes == wire.HolesFault {
				return step, violation("a message of another epoch and the server reported no reset")
			}
			step.Loss = r.detectLoss(wire.EventReset, r.before(ev), 0, wire.CauseEpoch)
			r.last = step.Loss.To
		case !ev.Numbered:
		case first && r.replaced(ev):
			step.Loss = r.detectLoss(wire.EventReset, r.inStream(r.before(ev)), 0, wire.CauseDiverged)
			r.last = step.Loss.To
		case r.repeated(ev.Position.Offset):
			step.Effect = Duplicate
			return step, nil
		case ev.Position.Offset <= r.last.Offset:
			step.Loss = r.detectLoss(wire.EventReset, r.inStream(r.before(ev)), 0, wire.CauseRestarted)
			r.last = step.Loss.To
		case r.previous(ev) <= r.last.Offset:
		case r.holes == wire.HolesFault && !r.malformed:
			return step, violation("a message is missing and the server reported no gap")
		default:
			step.Loss = r.hole(ev)
		}
	}
	if r.recent.limit != 0 {
		r.recent.add(ev.Message.ID)
	}
	step.Effect, step.Previous = Next, r.advance(ev)
	return step, nil
}

// follows reports whether a message is the next one by its number alone, in the epoch of the
// stream, and nothing else is to be seen to.
func (r *Receiver) follows(ev *wire.Event) bool {
	byNumber := ev.Prev == r.last.Offset && ev.Prev != 0 && ev.Position.Offset > ev.Prev ||
		ev.Prev == 0 && ev.Position.Offset == r.last.Offset+1 && r.holes == wire.HolesLoss
	return byNumber && ev.Numbered && r.confirmed && !r.unproved && r.positioned && r.recent.limit == 0 && !r.repeats && !r.malformed &&
		(ev.Position.Epoch == "" || ev.Position.Epoch == r.last.Epoch)
}

// replaced reports whether the first message of a connection has the number of the last one
// and another tag: the server has restarted, and this is another message.
func (r *Receiver) replaced(ev *wire.Event) bool {
	return r.holes == wire.HolesLoss && ev.Position.Offset == r.last.Offset && ev.Position.Tag != "" && r.last.Tag != "" && ev.Position.Tag != r.last.Tag
}

// repeated reports whether a number is that of a message that was received: it is not
// above the last one and not so far below it that the server must have restarted.
func (r *Receiver) repeated(number uint64) bool {
	switch {
	case number > r.last.Offset:
		return false
	case r.holes == wire.HolesFault || r.last.Offset-number <= r.lookBack:
		return true
	}
	return r.repeats && number > r.repeatFrom
}

// previous returns the number that a message follows. Where holes are losses, a Prev
// that is left out or not below the number of the message stands for that number less 1.
func (r *Receiver) previous(ev *wire.Event) uint64 {
	if r.holes == wire.HolesLoss && (ev.Prev == 0 || ev.Prev >= ev.Position.Offset) {
		return max(ev.Position.Offset, 1) - 1
	}
	return ev.Prev
}

// join follows the first message that counts on a connection. Numbers only before the
// break, or only after it, prove nothing. Without numbers the last message proves it,
// if the server repeats it.
func (r *Receiver) join(ev *wire.Event) (loss *Loss) {
	byNumber := ev.Numbered && r.positioned
	repeated := !r.abandoned && ev.Position.Tag != "" && ev.Position.Tag == r.last.Tag && !r.otherEpoch(ev.Position.Epoch)
	if r.unproved && !byNumber && !repeated {
		to := r.last
		if ev.Numbered {
			to = r.before(ev)
		}
		loss = r.detectLoss(wire.EventReset, to, 0, wire.CauseUnverifiable)
	}
	r.confirmed, r.wasLive, r.unproved = true, true, false
	return loss
}

// hole makes the gap before a message that its number has shown. Numbers that are not
// dense do not say how many messages are missing.
func (r *Receiver) hole(ev *wire.Event) *Loss {
	cause := wire.CauseLost
	if r.malformed {
		cause = wire.CauseMalformed
	}
	prev, count := r.previous(ev), uint64(0)
	if prev+1 == ev.Position.Offset {
		count = prev - r.last.Offset
	}
	return r.detectLoss(wire.EventGap, wire.Position{Epoch: r.last.Epoch, Offset: prev}, count, cause)
}

// hasPlace reports whether the position of a message is valid: it has a number or a
// cursor.
func hasPlace(ev *wire.Event) bool { return ev.Numbered || ev.Position.Tag != "" }

// before returns the position before a message.
func (r *Receiver) before(ev *wire.Event) wire.Position {
	if !ev.Numbered {
		return wire.Position{Epoch: ev.Position.Epoch}
	}
	return wire.Position{Epoch: ev.Position.Epoch, Offset: r.previous(ev)}
}

// otherEpoch reports whether positions of epoch cannot be compared with the last
// one. A position that comes without an epoch is of the epoch of the stream.
func (r *Receiver) otherEpoch(epoch string) bool {
	return epoch != "" && r.last.Epoch != "" && epoch != r.last.Epoch
}

// inStream returns p with the epoch of the stream if it comes without one.
func (r *Receiver) inStream(p wire.Position) wire.Position {
	if p.Epoch == "" {
		p.Epoch = r.last.Epoch
	}
	return p
}

// advance makes a message the last one and returns the offset that it follows. A
// message without a number moves the position only if it has a cursor.
func (r *Receiver) advance(ev *wire.Event) (previous uint64) {
	if !hasPlace(ev) {
		return r.last.Offset
	}
	// What a filtered stream left out before it began is not missing.
	previous = max(r.previous(ev), r.last.Offset)
	if ev.Numbered && ev.Position.Offset > r.last.Offset {
		r.repeats = false
	}
	// Field by field: see CopyPosition.
	if ev.Position.Epoch != "" {
		r.last.Epoch = ev.Position.Epoch
	}
	if ev.Numbered {
		r.last.Offset = ev.Position.Offset
	}
	r.last.Tag = ev.Position.Tag
	r.positioned, r.malformed = true, false
	return previous
}

func (r *Receiver) subscribed(ev *wire.Event) (step Step, err error) {
	if r.confirmed && r.holes == wire.HolesFault {
		return step, violation("subscription confirmed twice on one connection")
	}
	// A confirmation after one by number, before a message, is the first that decides.
	first, again := !r.confirmed || r.unproved, r.wasLive
	r.confirmed, r.wasLive = true, true
	switch {
	case ev.Continuity == wire.ContinuityByNumber:
		if again && first && !r.positioned {
			// It was live before without a number: the next number proves nothing.
			step.Loss = r.detectLoss(wire.EventReset, ev.Position, 0, wire.CauseUnverifiable)
			r.unproved = false
		}
		return step, nil // the next number decides; the very first one is the base
	case ev.Continuity == wire.ContinuityProved && r.positioned:
		if step.Loss, err = r.proved(ev); err != nil {
			return step, err
		}
	case first && (r.positioned || r.abandoned || again && ev.Continuity != wire.ContinuityProved):
		step.Loss = r.detectLoss(wire.EventReset, ev.Position, 0, wire.CauseUnverifiable)
		r.begin(ev.Position)
	case first:
		r.begin(ev.Position)
	case r.otherEpoch(ev.Position.Epoch):
		// Messages came first, and were taken for those of the epoch before.
		to := wire.Position{Epoch: ev.Position.Epoch, Offset: r.last.Offset, Tag: r.last.Tag}
		step.Loss = r.detectLoss(wire.EventReset, to, 0, wire.CauseEpoch)
		r.last = to
	}
	r.unproved, step.Effect = false, Start
	if step.Loss != nil {
		r.malformed = false
	}
	return step, nil
}

// begin makes p the position. Where holes are losses, a server that says no position has
// none: the number of the next message is the base.
func (r *Receiver) begin(p wire.Position) {
	r.last, r.positioned = p, r.holes == wire.HolesFault || !p.IsZero()
}

// proved accepts the claim that nothing is missing at ev.Position, where delivery
// goes on. It may repeat, but not leave out.
func (r *Receiver) proved(ev *wire.Event) (loss *Loss, err error) {
	fault := r.holes == wire.HolesFault
	switch {
	case r.otherEpoch(ev.Position.Epoch):
		if fault {
			return nil, violation("continuity claimed across epochs")
		}
		loss = r.detectLoss(wire.EventReset, ev.Position, 0, wire.CauseEpoch)
		r.last = ev.Position
	case !fault && ev.Head != 0 && ev.Head < r.last.Offset:
		loss = r.detectLoss(wire.EventReset, r.inStream(ev.Position), 0, wire.CauseAhead)
		r.last = loss.To
	case ev.Position.Offset > r.last.Offset:
		if fault {
			return nil, violation("delivery starts after messages that were not received")
		}
		to := r.inStream(ev.Position)
		loss = r.detectLoss(wire.EventGap, to, to.Offset-r.last.Offset, wire.CauseLost)
		r.last = to
	default:
		if r.last.Epoch == "" {
			r.last.Epoch = ev.Position.Epoch
		}
		if ev.Position.Offset < r.last.Offset {
			r.repeats, r.repeatFrom = true, ev.Position.Offset
		}
	}
	return loss, nil
}

func (r *Receiver) gap(ev *wire.Event) (step Step, err error) {
	fault := r.holes == wire.HolesFault
	switch {
	case !r.Open():
		return step, violation("gap before the subscription was confirmed")
	case ev.Position == wire.Position{} && ev.Prev == 0:
		return r.gapHere(ev), nil
	case r.otherEpoch(ev.Position.Epoch):
		if fault {
			return step, violation("a gap of another epoch and the server reported no reset")
		}
		step.Loss, step.Effect = r.newLoss(wire.EventReset, ev.Position, 0, wire.CauseEpoch), Start
		r.last = ev.Position
		return step, nil
	case ev.Prev > r.last.Offset && fault:
		return step, violation("messages before the gap are missing")
	case ev.Position.Offset <= r.last.Offset:
		return step, nil // it is known already
	}
	count := ev.Count
	if ev.Prev > r.last.Offset && r.positioned {
		count = 0 // what is missing before Prev adds to it
	}
	to := r.inStream(ev.Position)
	step.Loss, step.Effect = r.newLoss(wire.EventGap, to, count, ev.Cause), Start
	r.last, r.positioned, r.malformed = to, true, false
	return step, nil
}

// gapHere accepts a gap without a position. It stands where the stream is, unless the
// number of the next message says more.
func (r *Receiver) gapHere(ev *wire.Event) (step Step) {
	if ev.Numbered && r.positioned {
		r.malformed = r.malformed || ev.Cause == wire.CauseMalformed
		return step
	}
	step.Loss, step.Effect = r.detectLoss(wire.EventGap, r.last, ev.Count, ev.Cause), Start
	return step
}

func (r *Receiver) reset(ev *wire.Event) (step Step) {
	step.Loss, step.Effect = r.newLoss(wire.EventReset, ev.Position, 0, ev.Cause), Start
	r.begin(ev.Position)
	r.confirmed, r.unproved = true, false
	r.wasLive, r.malformed = true, false
	return step
}

// newLoss makes a loss that begins at the last position.
func (r *Receiver) newLoss(kind wire.EventKind, to wire.Position, count uint64, cause wire.Cause) *Loss {
	if kind == wire.EventReset && r.abandoned {
		if r.abandoned = false; cause == wire.CauseUnverifiable {
			cause = wire.CauseTooBig
		}
	}
	return &Loss{Kind: kind, After: r.last, To: to, Count: count, Cause: cause}
}

// detectLoss makes a loss that the server did not report.
func (r *Receiver) detectLoss(kind wire.EventKind, to wire.Position, count uint64, cause wire.Cause) *Loss {
	loss := r.newLoss(kind, to, count, cause)
	loss.Detected = true
	return loss
}

func violation(reason string) error { return &wire.CodeError{Code: 4000, Reason: reason} }
