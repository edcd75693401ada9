package sequence

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

func at(epoch string, offset uint64, tag string) wire.Position {
	return wire.Position{Epoch: epoch, Offset: offset, Tag: tag}
}

// numbered is a message with a number and the number before it.
func numbered(prev, offset uint64) wire.Event {
	return wire.Event{Kind: wire.EventData, Numbered: true, Prev: prev, Position: at("", offset, "t")}
}

// unnumbered is a message without either.
func unnumbered() wire.Event { return wire.Event{Kind: wire.EventData} }

func withEpoch(ev wire.Event, epoch string) wire.Event {
	ev.Position.Epoch = epoch
	return ev
}

func withID(ev wire.Event, id byte) wire.Event {
	ev.Message.ID = wire.ID{id}
	return ev
}

func confirmed(c wire.Continuity, p wire.Position) wire.Event {
	return wire.Event{Kind: wire.EventSubscribed, Continuity: c, Position: p}
}

func gapOf(prev, to uint64) wire.Event {
	return wire.Event{Kind: wire.EventGap, Prev: prev, Position: at("", to, "g"), Count: 2, Cause: wire.CauseExpired}
}

// malformed is what a message that could not be read leaves of a stream.
func malformed(numbered bool) wire.Event {
	return wire.Event{Kind: wire.EventGap, Numbered: numbered, Count: 1, Cause: wire.CauseMalformed}
}

// States from which the rows start. At 5 the stream has reached (e, 5).
var (
	fresh      = Receiver{holes: wire.HolesFault}
	freshLossy = Receiver{}

	live           = Receiver{holes: wire.HolesFault, last: at("e", 5, "t"), positioned: true, confirmed: true, wasLive: true}
	liveLossy      = with(live, func(r *Receiver) { r.holes = wire.HolesLoss })
	again          = with(live, func(r *Receiver) { r.confirmed, r.unproved = false, true }) // on the next connection
	againLossy     = with(liveLossy, func(r *Receiver) { r.confirmed, r.unproved = false, true })
	restored       = with(again, func(r *Receiver) { r.wasLive, r.unproved = false, false }) // by ResumeFrom
	noNumbers      = Receiver{holes: wire.HolesLoss, confirmed: true, wasLive: true}
	noNumbersAgain = with(noNumbers, func(r *Receiver) { r.confirmed, r.unproved = false, true })

	restoredLossy = with(restored, func(r *Receiver) { r.holes = wire.HolesLoss })
	noEpoch       = with(liveLossy, func(r *Receiver) { r.last.Epoch = "" })
	noEpochAgain  = with(noEpoch, func(r *Receiver) { r.confirmed, r.unproved = false, true })
	joined        = with(liveLossy, func(r *Receiver) { r.unproved = true }) // confirmed by ContinuityByNumber
	cursor        = Receiver{last: at("", 0, "c1"), positioned: true, confirmed: true, wasLive: true, holes: wire.HolesLoss}
	lookBack      = with(liveLossy, func(r *Receiver) { r.lookBack = 2 })
	repeating     = with(liveLossy, func(r *Receiver) { r.repeats, r.repeatFrom = true, 3 }) // proved at 3
	badLossy      = with(liveLossy, func(r *Receiver) { r.malformed = true })
)

func with(r Receiver, change func(*Receiver)) Receiver {
	change(&r)
	return r
}

// row is one rule: in the state before, the event has this effect.
type row struct {
	rule         string
	before       Receiver
	event        wire.Event
	beyondCredit bool

	effect   Effect
	previous uint64
	loss     *Loss
	after    func(*Receiver) // what differs from before; nil: nothing
	err      string
}

var controlRows = []row{
	// EventSubscribed.
	{
		rule: "a confirmation without continuity after one by number is a break", before: joined,
		event:  confirmed(wire.ContinuityNone, at("e", 7, "t")),
		effect: Start,
		loss:   &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseUnverifiable, After: at("e", 5, "t"), To: at("e", 7, "t")},
		after:  func(r *Receiver) { r.last, r.unproved = at("e", 7, "t"), false },
	},
	{
		rule: "the first confirmation is the base", before: fresh,
		event:  confirmed(wire.ContinuityNone, at("e", 5, "t")),
		effect: Start,
		after: func(r *Receiver) {
			r.last, r.positioned, r.confirmed, r.wasLive = at("e", 5, "t"), true, true, true
		},
	},
	{
		rule: "so it is where continuity is proved", before: fresh,
		event:  confirmed(wire.ContinuityProved, at("e", 5, "t")),
		effect: Start,
		after: func(r *Receiver) {
			r.last, r.positioned, r.confirmed, r.wasLive = at("e", 5, "t"), true, true, true
		},
	},
	{
		rule: "where numbers decide the first message is the base", before: freshLossy,
		event: confirmed(wire.ContinuityByNumber, wire.Position{}),
		after: func(r *Receiver) { r.confirmed, r.wasLive = true, true },
	},
	{
		rule: "numbers decide after a break too", before: againLossy,
		event: confirmed(wire.ContinuityByNumber, at("e", 9, "")),
		after: func(r *Receiver) { r.confirmed = true },
	},
	{
		rule: "no number was seen before the break: unverifiable", before: noNumbersAgain,
		event: confirmed(wire.ContinuityByNumber, wire.Position{}),
		loss:  &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseUnverifiable},
		after: func(r *Receiver) { r.confirmed, r.unproved = true, false },
	},
	{
		rule: "nor a position: unverifiable, where nothing is claimed", before: noNumbersAgain,
		event:  confirmed(wire.ContinuityNone, wire.Position{}),
		effect: Start,
		loss:   &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseUnverifiable},
		after:  func(r *Receiver) { r.confirmed, r.unproved = true, false },
	},
	{
		rule: "proved continuity changes nothing", before: again,
		event:  confirmed(wire.ContinuityProved, at("e", 5, "t")),
		effect: Start,
		after:  func(r *Receiver) { r.confirmed, r.unproved = true, false },
	},
	{
		rule: "a server may prove an earlier position: it repeats", before: again,
		event:  confirmed(wire.ContinuityProved, at("e", 3, "s")),
		effect: Start,
		after:  func(r *Receiver) { r.confirmed, r.unproved, r.repeats, r.repeatFrom = true, false, true, 3 },
	},
	{
		rule: "a confirmation by number allows no repeats", before: againLossy,
		event: confirmed(wire.ContinuityByNumber, at("e", 3, "s")),
		after: func(r *Receiver) { r.confirmed = true },
	},
	{
		rule: "proved by a log that ends before the position: the server has restarted", before: againLossy,
		event:  wire.Event{Kind: wire.EventSubscribed, Continuity: wire.ContinuityProved, Position: at("e", 2, "s"), Head: 3},
		effect: Start,
		loss:   &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseAhead, After: at("e", 5, "t"), To: at("e", 2, "s")},
		after:  func(r *Receiver) { r.last, r.confirmed, r.unproved = at("e", 2, "s"), true, false },
	},
	{
		rule: "proved after what was not received", before: again,
		event: confirmed(wire.ContinuityProved, at("e", 6, "t")),
		after: func(r *Receiver) { r.confirmed = true },
		err:   "delivery starts after messages that were not received",
	},
	{
		rule: "proved in another epoch", before: again,
		event: confirmed(wire.ContinuityProved, at("f", 5, "t")),
		after: func(r *Receiver) { r.confirmed = true },
		err:   "continuity claimed across epochs",
	},
	{
		rule: "proved without an epoch: that of the stream", before: again,
		event:  confirmed(wire.ContinuityProved, at("", 5, "t")),
		effect: Start,
		after:  func(r *Receiver) { r.confirmed, r.unproved = true, false },
	},
	{
		rule: "proved in an epoch that the messages did not name", before: noEpochAgain,
		event:  confirmed(wire.ContinuityProved, at("e", 5, "t")),
		effect: Start,
		after:  func(r *Receiver) { r.last.Epoch, r.confirmed, r.unproved = "e", true, false },
	},
	{
		rule: "proved after what was not received, where holes are losses: a gap", before: againLossy,
		event:  confirmed(wire.ContinuityProved, at("", 8, "s")),
		effect: Start,
		loss:   &Loss{Kind: wire.EventGap, Detected: true, Cause: wire.CauseLost, Count: 3, After: at("e", 5, "t"), To: at("e", 8, "s")},
		after:  func(r *Receiver) { r.last, r.confirmed, r.unproved = at("e", 8, "s"), true, false },
	},
	{
		rule: "proved in another epoch, where holes are losses: a reset", before: againLossy,
		event:  confirmed(wire.ContinuityProved, at("f", 5, "s")),
		effect: Start,
		loss:   &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseEpoch, After: at("e", 5, "t"), To: at("f", 5, "s")},
		after:  func(r *Receiver) { r.last, r.confirmed, r.unproved = at("f", 5, "s"), true, false },
	},
	{
		rule: "a position of another process is held as well", before: restored,
		event:  confirmed(wire.ContinuityProved, at("e", 5, "t")),
		effect: Start,
		after:  func(r *Receiver) { r.confirmed, r.wasLive, r.unproved = true, true, false },
	},
	{
		rule: "continuity is not claimed: a reset", before: again,
		event:  confirmed(wire.ContinuityNone, at("f", 2, "s")),
		effect: Start,
		loss:   &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseUnverifiable, After: at("e", 5, "t"), To: at("f", 2, "s")},
		after:  func(r *Receiver) { r.last, r.confirmed, r.unproved = at("f", 2, "s"), true, false },
	},
	{
		rule: "continuity is not claimed, and there was no position: a reset as well", before: noNumbersAgain,
		event:  confirmed(wire.ContinuityNone, wire.Position{}),
		effect: Start,
		loss:   &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseUnverifiable},
		after:  func(r *Receiver) { r.confirmed, r.unproved = true, false },
	},
	{
		rule: "confirmed twice", before: live,
		event: confirmed(wire.ContinuityProved, at("e", 5, "t")),
		err:   "subscription confirmed twice on one connection",
	},
	{
		rule: "confirmed twice, where holes are losses: the position stays", before: liveLossy,
		event:  confirmed(wire.ContinuityNone, at("e", 9, "s")),
		effect: Start,
	},
	{
		rule: "a confirmation behind messages shows that they are of another epoch", before: liveLossy,
		event:  confirmed(wire.ContinuityNone, at("f", 2, "s")),
		effect: Start,
		loss:   &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseEpoch, After: at("e", 5, "t"), To: at("f", 5, "t")},
		after:  func(r *Receiver) { r.last.Epoch = "f" },
	},

	// EventReset.
	{
		rule: "a reset starts an epoch", before: live,
		event:  wire.Event{Kind: wire.EventReset, Position: at("f", 2, "r"), Cause: wire.CauseEpoch},
		effect: Start,
		loss:   &Loss{Kind: wire.EventReset, Cause: wire.CauseEpoch, After: at("e", 5, "t"), To: at("f", 2, "r")},
		after:  func(r *Receiver) { r.last = at("f", 2, "r") },
	},
	{
		rule: "a reset confirms the subscription", before: again,
		event:  wire.Event{Kind: wire.EventReset, Position: at("e", 2, "r"), Cause: wire.CauseDiverged},
		effect: Start,
		loss:   &Loss{Kind: wire.EventReset, Cause: wire.CauseDiverged, After: at("e", 5, "t"), To: at("e", 2, "r")},
		after:  func(r *Receiver) { r.last, r.confirmed, r.unproved = at("e", 2, "r"), true, false },
	},
	{
		rule: "a first reset counts as having been live", before: fresh,
		event:  wire.Event{Kind: wire.EventReset, Position: at("e", 2, "r")},
		effect: Start,
		loss:   &Loss{Kind: wire.EventReset, To: at("e", 2, "r")},
		after: func(r *Receiver) {
			r.last, r.positioned, r.confirmed, r.wasLive = at("e", 2, "r"), true, true, true
		},
	},

	// EventGap.
	{
		rule: "a gap moves the position", before: live, event: gapOf(5, 7),
		effect: Start,
		loss:   &Loss{Kind: wire.EventGap, Cause: wire.CauseExpired, Count: 2, After: at("e", 5, "t"), To: at("e", 7, "g")},
		after:  func(r *Receiver) { r.last = at("e", 7, "g") },
	},
	{
		rule: "a gap may begin before the position", before: live, event: gapOf(2, 6),
		effect: Start,
		loss:   &Loss{Kind: wire.EventGap, Cause: wire.CauseExpired, Count: 2, After: at("e", 5, "t"), To: at("e", 6, "g")},
		after:  func(r *Receiver) { r.last = at("e", 6, "g") },
	},
	{rule: "a gap that is known", before: live, event: gapOf(3, 5)},
	{rule: "a gap that leaves a hole", before: live, event: gapOf(6, 7), err: "messages before the gap are missing"},
	{rule: "a gap before the confirmation", before: again, event: gapOf(5, 7), err: "gap before the subscription was confirmed"},
	{
		rule: "a gap before the confirmation, where holes are losses", before: againLossy, event: gapOf(5, 7),
		effect: Start,
		loss:   &Loss{Kind: wire.EventGap, Cause: wire.CauseExpired, Count: 2, After: at("e", 5, "t"), To: at("e", 7, "g")},
		after:  func(r *Receiver) { r.last = at("e", 7, "g") },
	},

	{
		rule: "a gap that leaves a hole, where holes are losses: it covers the hole", before: liveLossy, event: gapOf(6, 8),
		effect: Start,
		loss:   &Loss{Kind: wire.EventGap, Cause: wire.CauseExpired, After: at("e", 5, "t"), To: at("e", 8, "g")},
		after:  func(r *Receiver) { r.last = at("e", 8, "g") },
	},
	{
		rule: "a first gap sets the position", before: freshLossy, event: gapOf(5, 7),
		effect: Start,
		loss:   &Loss{Kind: wire.EventGap, Cause: wire.CauseExpired, Count: 2, To: at("", 7, "g")},
		after:  func(r *Receiver) { r.last, r.positioned = at("", 7, "g"), true },
	},
	{rule: "a gap of another epoch", before: live, event: withEpoch(gapOf(5, 7), "f"), err: "a gap of another epoch and the server reported no reset"},
	{
		rule: "a gap of another epoch, where holes are losses: a reset", before: liveLossy, event: withEpoch(gapOf(5, 7), "f"),
		effect: Start,
		loss:   &Loss{Kind: wire.EventReset, Cause: wire.CauseEpoch, After: at("e", 5, "t"), To: at("f", 7, "g")},
		after:  func(r *Receiver) { r.last = at("f", 7, "g") },
	},
	{
		rule: "a gap without a position stands where the stream is", before: liveLossy, event: malformed(false),
		effect: Start,
		loss:   &Loss{Kind: wire.EventGap, Detected: true, Cause: wire.CauseMalformed, Count: 1, After: at("e", 5, "t"), To: at("e", 5, "t")},
	},
	{
		rule: "where numbers decide, the next one shows whether it is a gap", before: liveLossy, event: malformed(true),
		after: func(r *Receiver) { r.malformed = true },
	},
	{
		rule: "without a number before, no number can show it", before: freshLossy, event: malformed(true),
		effect: Start,
		loss:   &Loss{Kind: wire.EventGap, Detected: true, Cause: wire.CauseMalformed, Count: 1},
	},
	{
		rule: "the hole of a malformed message", before: badLossy, event: numbered(6, 7),
		effect: Next, previous: 6,
		loss:  &Loss{Kind: wire.EventGap, Detected: true, Cause: wire.CauseMalformed, Count: 1, After: at("e", 5, "t"), To: at("e", 6, "")},
		after: func(r *Receiver) { r.last, r.malformed = at("e", 7, "t"), false },
	},
	{
		rule: "the hole of a malformed message is no fault", before: with(live, func(r *Receiver) { r.malformed = true }), event: numbered(6, 7),
		effect: Next, previous: 6,
		loss:  &Loss{Kind: wire.EventGap, Detected: true, Cause: wire.CauseMalformed, Count: 1, After: at("e", 5, "t"), To: at("e", 6, "")},
		after: func(r *Receiver) { r.last, r.malformed = at("e", 7, "t"), false },
	},
	{
		rule: "no hole: the malformed message had no place", before: badLossy, event: numbered(5, 6),
		effect: Next, previous: 5,
		after: func(r *Receiver) { r.last, r.malformed = at("e", 6, "t"), false },
	},
}

func remember(limit int, ids ...byte) func(*Receiver) {
	return func(r *Receiver) {
		r.recent = recentIDs{limit: limit}
		for _, id := range ids {
			r.recent.add(wire.ID{id})
		}
	}
}

// clone copies what Accept changes in place.
func clone(r Receiver) Receiver {
	ids := r.recent
	r.recent.order = append([]wire.ID(nil), ids.order...)
	if ids.known != nil {
		r.recent.known = make(map[wire.ID]struct{})
		for id := range ids.known {
			r.recent.known[id] = struct{}{}
		}
	}
	return r
}

func TestReceiver(t *testing.T) {
	for _, row := range slices.Concat(controlRows, messageRows) {
		t.Run(row.rule, func(t *testing.T) {
			want := clone(row.before)
			if row.after != nil {
				row.after(&want)
			}
			got := clone(row.before)
			step, err := got.Accept(&row.event, row.beyondCredit)
			if reason := reasonOf(t, err); reason != row.err {
				t.Errorf("error %q, want %q", reason, row.err)
			}
			if step.Effect != row.effect || step.Previous != row.previous {
				t.Errorf("effect %d after %d, want %d after %d", step.Effect, step.Previous, row.effect, row.previous)
			}
			if !reflect.DeepEqual(step.Loss, row.loss) {
				t.Errorf("loss %+v, want %+v", step.Loss, row.loss)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("state %+v, want %+v", got, want)
			}
		})
	}
}

// reasonOf checks the close code of a violation.
func reasonOf(t *testing.T, err error) string {
	if err == nil {
		return ""
	}
	var code *wire.CodeError
	if !errors.As(err, &code) {
		t.Fatalf("error %v without a close code", err)
	}
	if want := uint16(4000); code.Code != want && (code.Code != 4204 || code.Reason != "server sent more than its credit allows") {
		t.Errorf("close code %d for %q", code.Code, code.Reason)
	}
	return code.Reason
}

func TestStartConnection(t *testing.T) {
	r := live
	r.malformed = true
	if r.StartConnection(); !reflect.DeepEqual(r, again) {
		t.Errorf("state %+v, want %+v", r, again)
	}
	r = New(wire.Traits{Holes: wire.HolesFault})
	r.ResumeFrom(at("e", 5, "t"))
	if !reflect.DeepEqual(r, restored) {
		t.Errorf("state %+v, want %+v", r, restored)
	}
	if last, known := r.Position(); last != at("e", 5, "t") || !known {
		t.Errorf("position %v %v", last, known)
	}
}

// Where holes are losses, a confirmation or a Reset without a position does not say that
// the stream begins at 0: the next number is the base, and nothing is missing before it.
func TestNoPositionIsNotZero(t *testing.T) {
	for _, ev := range []wire.Event{confirmed(wire.ContinuityNone, wire.Position{}), {Kind: wire.EventReset}} {
		for _, holes := range []wire.Holes{wire.HolesLoss, wire.HolesFault} {
			r := New(wire.Traits{Holes: holes})
			r.StartConnection()
			if _, err := r.Accept(&ev, false); err != nil {
				t.Fatal(err)
			}
			message := numbered(499, 500)
			step, err := r.Accept(&message, false)
			if ok := step.Loss == nil && err == nil; ok != (holes == wire.HolesLoss) {
				t.Errorf("%v, holes %d: %+v, %v", ev.Kind, holes, step.Loss, err)
			}
		}
	}
}

// TestAbandon: after a position was given up, the next connection begins the stream again, with
// one reset, whatever the server says of continuity. Later resets have their own causes.
func TestAbandon(t *testing.T) {
	const cause = wire.CauseTooBig
	for _, row := range []struct {
		rule   string
		before Receiver
		event  wire.Event
		want   *Loss
	}{
		{"confirmed", live, wire.Event{Kind: wire.EventSubscribed, Position: at("e", 9, "u")},
			&Loss{Kind: wire.EventReset, Detected: true, Cause: cause, After: at("e", 5, "t"), To: at("e", 9, "u")}},
		{"confirmed as proved", live, wire.Event{Kind: wire.EventSubscribed, Position: at("e", 9, "u"), Continuity: wire.ContinuityProved},
			&Loss{Kind: wire.EventReset, Detected: true, Cause: cause, After: at("e", 5, "t"), To: at("e", 9, "u")}},
		{"by number", liveLossy, wire.Event{Kind: wire.EventSubscribed, Continuity: wire.ContinuityByNumber},
			&Loss{Kind: wire.EventReset, Detected: true, Cause: cause, After: at("e", 5, "t")}},
		{"a numbered message", liveLossy, numbered(8, 9),
			&Loss{Kind: wire.EventReset, Detected: true, Cause: cause, After: at("e", 5, "t"), To: at("", 8, "")}},
		{"the last message again", liveLossy, wire.Event{Kind: wire.EventData, Position: at("", 0, "t")},
			&Loss{Kind: wire.EventReset, Detected: true, Cause: cause, After: at("e", 5, "t"), To: at("e", 5, "t")}},
		{"a reset of the server", live, wire.Event{Kind: wire.EventReset, Cause: wire.CauseAhead, Position: at("e", 9, "u")},
			&Loss{Kind: wire.EventReset, Cause: wire.CauseAhead, After: at("e", 5, "t"), To: at("e", 9, "u")}},
	} {
		r := clone(row.before)
		r.Abandon()
		if _, known := r.Position(); known {
			t.Errorf("%s: the position is known", row.rule)
		}
		r.StartConnection()
		step, err := r.Accept(&row.event, false)
		if err != nil || !reflect.DeepEqual(step.Loss, row.want) {
			t.Errorf("%s: loss %+v, %v, want %+v", row.rule, step.Loss, err, row.want)
		}
		r.StartConnection()
		again := wire.Event{Kind: wire.EventSubscribed, Position: at("e", 9, "u")}
		if step, err := r.Accept(&again, false); err != nil || step.Loss == nil || step.Loss.Cause != wire.CauseUnverifiable {
			t.Errorf("%s: the next loss %+v, %v", row.rule, step.Loss, err)
		}
	}
}
