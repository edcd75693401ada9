package sequence

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// messageRows are the rules of messages, credit and ids.
var messageRows = []row{
	// EventData.
	{
		rule: "the next message", before: live, event: numbered(5, 6),
		effect: Next, previous: 5,
		after: func(r *Receiver) { r.last = at("e", 6, "t") },
	},
	{
		rule: "a filtered stream skips offsets", before: live, event: numbered(5, 9),
		effect: Next, previous: 5,
		after: func(r *Receiver) { r.last = at("e", 9, "t") },
	},
	{
		rule: "a filtered stream begins after an older entry", before: live, event: numbered(2, 6),
		effect: Next, previous: 5,
		after: func(r *Receiver) { r.last = at("e", 6, "t") },
	},
	{rule: "the same number is a duplicate", before: live, event: numbered(4, 5), effect: Duplicate},
	{rule: "a number that goes back, where holes are faults: a duplicate", before: live, event: numbered(0, 1), effect: Duplicate},
	{
		rule: "a number that goes back, where holes are losses: the server has restarted", before: liveLossy, event: numbered(3, 4),
		effect: Next, previous: 3,
		loss:  &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseRestarted, After: at("e", 5, "t"), To: at("e", 3, "")},
		after: func(r *Receiver) { r.last = at("e", 4, "t") },
	},
	{rule: "the last number again", before: liveLossy, event: numbered(4, 5), effect: Duplicate},
	{rule: "a number within the look back: a duplicate", before: lookBack, event: numbered(2, 3), effect: Duplicate},
	{
		rule: "a number beyond the look back", before: lookBack, event: numbered(0, 2),
		effect: Next, previous: 1,
		loss:  &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseRestarted, After: at("e", 5, "t"), To: at("e", 1, "")},
		after: func(r *Receiver) { r.last = at("e", 2, "t") },
	},
	{rule: "a number after the confirmed position: a duplicate", before: repeating, event: numbered(3, 4), effect: Duplicate},
	{
		rule: "a number before the confirmed position", before: repeating, event: numbered(2, 3),
		effect: Next, previous: 2,
		loss:  &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseRestarted, After: at("e", 5, "t"), To: at("e", 2, "")},
		after: func(r *Receiver) { r.last, r.repeats = at("e", 3, "t"), false },
	},
	{
		rule: "the next message ends the repeats", before: repeating, event: numbered(5, 6),
		effect: Next, previous: 5,
		after: func(r *Receiver) { r.last, r.repeats = at("e", 6, "t"), false },
	},
	{
		rule: "a number zero", before: liveLossy, event: numbered(0, 0),
		effect: Next, previous: 0,
		loss:  &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseRestarted, After: at("e", 5, "t"), To: at("e", 0, "")},
		after: func(r *Receiver) { r.last = at("e", 0, "t") },
	},
	{
		rule: "without the number before, a message follows its predecessor", before: liveLossy, event: numbered(0, 100),
		effect: Next, previous: 99,
		loss:  &Loss{Kind: wire.EventGap, Detected: true, Cause: wire.CauseLost, Count: 94, After: at("e", 5, "t"), To: at("e", 99, "")},
		after: func(r *Receiver) { r.last = at("e", 100, "t") },
	},
	{
		rule: "a number before that is none", before: liveLossy, event: numbered(9, 7),
		effect: Next, previous: 6,
		loss:  &Loss{Kind: wire.EventGap, Detected: true, Cause: wire.CauseLost, Count: 1, After: at("e", 5, "t"), To: at("e", 6, "")},
		after: func(r *Receiver) { r.last = at("e", 7, "t") },
	},
	{
		rule: "numbers that are not dense do not count", before: liveLossy, event: numbered(40, 90),
		effect: Next, previous: 40,
		loss:  &Loss{Kind: wire.EventGap, Detected: true, Cause: wire.CauseLost, After: at("e", 5, "t"), To: at("e", 40, "")},
		after: func(r *Receiver) { r.last = at("e", 90, "t") },
	},
	{rule: "a hole", before: live, event: numbered(6, 7), err: "a message is missing and the server reported no gap"},
	{
		rule: "a hole, where holes are losses: a gap, then the message", before: liveLossy, event: numbered(8, 9),
		effect: Next, previous: 8,
		loss:  &Loss{Kind: wire.EventGap, Detected: true, Cause: wire.CauseLost, Count: 3, After: at("e", 5, "t"), To: at("e", 8, "")},
		after: func(r *Receiver) { r.last = at("e", 9, "t") },
	},
	{rule: "a message before the confirmation", before: again, event: numbered(5, 6), err: "message before the subscription was confirmed, which the trait HolesFault forbids"},
	{
		rule: "a message confirms the subscription, where holes are losses", before: againLossy, event: numbered(5, 6),
		effect: Next, previous: 5,
		after: func(r *Receiver) { r.last, r.confirmed, r.unproved = at("e", 6, "t"), true, false },
	},
	{
		rule: "the last number with another tag, first on a connection: a reset, then the message", before: againLossy,
		event:  wire.Event{Kind: wire.EventData, Numbered: true, Position: at("", 5, "u")},
		effect: Next, previous: 4,
		loss:  &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseDiverged, After: at("e", 5, "t"), To: at("e", 4, "")},
		after: func(r *Receiver) { r.last, r.confirmed, r.unproved = at("e", 5, "u"), true, false },
	},
	{
		rule: "with the same tag it is a duplicate", before: againLossy, event: numbered(4, 5),
		effect: Duplicate,
		after:  func(r *Receiver) { r.confirmed, r.unproved = true, false },
	},
	{
		rule: "the first number is the base", before: freshLossy, event: numbered(8, 9),
		effect: Next, previous: 8,
		after: func(r *Receiver) {
			r.last, r.positioned, r.confirmed, r.wasLive = at("", 9, "t"), true, true, true
		},
	},
	{
		rule: "numbers only after the break prove nothing", before: noNumbersAgain, event: numbered(8, 9),
		effect: Next, previous: 8,
		loss: &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseUnverifiable, To: at("", 8, "")},
		after: func(r *Receiver) {
			r.last, r.positioned, r.confirmed, r.unproved = at("", 9, "t"), true, true, false
		},
	},
	{
		rule: "numbers only before the break prove nothing", before: againLossy, event: unnumbered(),
		effect: Next, previous: 5,
		loss:  &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseUnverifiable, After: at("e", 5, "t"), To: at("e", 5, "t")},
		after: func(r *Receiver) { r.confirmed, r.unproved = true, false },
	},
	{
		rule: "a confirmation that leaves the proof to numbers proves nothing without one", before: joined, event: unnumbered(),
		effect: Next, previous: 5,
		loss:  &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseUnverifiable, After: at("e", 5, "t"), To: at("e", 5, "t")},
		after: func(r *Receiver) { r.unproved = false },
	},
	{
		rule:   "no number proves that the stream continues after a position of another process",
		before: with(restoredLossy, func(r *Receiver) { r.unproved = true }), event: unnumbered(),
		effect: Next, previous: 5,
		loss:  &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseUnverifiable, After: at("e", 5, "t"), To: at("e", 5, "t")},
		after: func(r *Receiver) { r.confirmed, r.wasLive, r.unproved = true, true, false },
	},
	{
		rule: "no number before the break, none after it", before: noNumbersAgain, event: unnumbered(),
		effect: Next,
		loss:   &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseUnverifiable},
		after:  func(r *Receiver) { r.confirmed, r.unproved = true, false },
	},
	{rule: "a message without a number has no position", before: noNumbers, event: unnumbered(), effect: Next},
	{rule: "a message without a number leaves the position alone", before: live, event: unnumbered(), effect: Next, previous: 5},
	{
		rule: "an offset counts only with a number", before: live,
		event:  wire.Event{Kind: wire.EventData, Position: at("f", 9, "")},
		effect: Next, previous: 5,
	},
	{
		rule: "a cursor moves the position", before: cursor,
		event:  wire.Event{Kind: wire.EventData, Position: at("", 0, "c2")},
		effect: Next,
		after:  func(r *Receiver) { r.last = at("", 0, "c2") },
	},
	{
		rule: "a server that repeats the last message proves that none is missing", before: with(cursor, func(r *Receiver) { r.unproved = true }),
		event:  wire.Event{Kind: wire.EventData, Position: at("", 0, "c1")},
		effect: Next,
		after:  func(r *Receiver) { r.unproved = false },
	},
	{
		rule: "one that does not proves nothing", before: with(cursor, func(r *Receiver) { r.unproved = true }),
		event:  wire.Event{Kind: wire.EventData, Position: at("", 0, "c2")},
		effect: Next,
		loss:   &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseUnverifiable, After: at("", 0, "c1"), To: at("", 0, "c1")},
		after:  func(r *Receiver) { r.last, r.unproved = at("", 0, "c2"), false },
	},
	{
		rule: "the first cursor is the position", before: noNumbers,
		event:  wire.Event{Kind: wire.EventData, Position: at("e", 0, "c1")},
		effect: Next,
		after:  func(r *Receiver) { r.last, r.positioned = at("e", 0, "c1"), true },
	},
	{
		rule: "a message of another epoch", before: live, event: withEpoch(numbered(5, 6), "f"),
		err: "a message of another epoch and the server reported no reset",
	},
	{
		rule: "a message of another epoch, where holes are losses: a reset, then the message", before: liveLossy,
		event:  withEpoch(numbered(2, 3), "f"),
		effect: Next, previous: 2,
		loss:  &Loss{Kind: wire.EventReset, Detected: true, Cause: wire.CauseEpoch, After: at("e", 5, "t"), To: at("f", 2, "")},
		after: func(r *Receiver) { r.last = at("f", 3, "t") },
	},
	{
		rule: "a message that names the epoch first", before: noEpoch, event: withEpoch(numbered(5, 6), "e"),
		effect: Next, previous: 5,
		after: func(r *Receiver) { r.last = at("e", 6, "t") },
	},
	{
		rule: "the epoch of a message is that of the position", before: with(again, func(r *Receiver) { r.last = at("f", 6, "t") }),
		event:  confirmed(wire.ContinuityProved, at("f", 6, "t")),
		effect: Start,
		after:  func(r *Receiver) { r.confirmed, r.unproved = true, false },
	},
	{
		rule: "an epoch before any confirmation is kept", before: freshLossy,
		event:  withEpoch(numbered(8, 9), "e"),
		effect: Next, previous: 8,
		after: func(r *Receiver) {
			r.last, r.positioned, r.confirmed, r.wasLive = at("e", 9, "t"), true, true, true
		},
	},

	// Credit.
	{rule: "beyond the credit", before: live, event: numbered(5, 6), beyondCredit: true, err: "server sent more than its credit allows"},
	{rule: "beyond the credit, a duplicate", before: live, event: numbered(4, 5), beyondCredit: true, err: "server sent more than its credit allows"},
	{rule: "beyond the credit, after a hole", before: live, event: numbered(8, 9), beyondCredit: true, err: "server sent more than its credit allows"},
	{rule: "beyond the credit, before the confirmation", before: again, event: numbered(5, 6), beyondCredit: true, err: "message before the subscription was confirmed, which the trait HolesFault forbids"},
	{
		rule: "beyond the credit, nothing else counts", before: againLossy, event: unnumbered(), beyondCredit: true,
		err: "server sent more than its credit allows",
	},

	// Ids.
	{
		rule: "without a limit ids are not compared", before: live, event: withID(numbered(5, 6), 1),
		effect: Next, previous: 5,
		after: func(r *Receiver) { r.last = at("e", 6, "t") },
	},
	{
		rule: "a new id is remembered", before: with(live, remember(2, 1)), event: withID(numbered(5, 6), 2),
		effect: Next, previous: 5,
		after: func(r *Receiver) { remember(2, 1, 2)(r); r.last = at("e", 6, "t") },
	},
	{rule: "an id that is remembered is a duplicate, whatever its number", before: with(live, remember(2, 1)), event: withID(numbered(5, 6), 1), effect: Duplicate},
	{
		rule: "the oldest id is forgotten", before: with(live, remember(2, 1, 2)), event: withID(numbered(5, 6), 3),
		effect: Next, previous: 5,
		after: func(r *Receiver) { remember(2, 1, 2, 3)(r); r.last = at("e", 6, "t") },
	},
	{
		rule: "a message without an id is not remembered", before: with(live, remember(2, 1)), event: numbered(5, 6),
		effect: Next, previous: 5,
		after: func(r *Receiver) { r.last = at("e", 6, "t") },
	},

	// Other events.
	{rule: "an event of another kind", before: live, event: wire.Event{Kind: wire.EventUnsubscribed}},
	{rule: "an event of the connection", before: live, event: wire.Event{Kind: wire.EventReady}},
}

// The short way of a message that follows the last one leads to the same place as the long one.
func TestShortWay(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	short := 0
	for range 5000 {
		traits := wire.Traits{Holes: []wire.Holes{wire.HolesLoss, wire.HolesFault}[rnd.IntN(2)], LookBack: uint64(rnd.IntN(3)), DedupWindow: rnd.IntN(2) * 4}
		quick, slow := New(traits), New(traits)
		both := func(change func(r *Receiver)) { change(&quick); change(&slow) }
		last := uint64(rnd.IntN(3))
		for range 30 {
			ev := numbered(last, last+1)
			ev.Message.ID = wire.ID{byte(rnd.IntN(3)), byte(rnd.IntN(3))}
			ev.Position.Epoch = []string{"", "", "e", "f"}[rnd.IntN(4)*rnd.IntN(2)]
			ev.Position.Tag = []string{"", "t", "u"}[rnd.IntN(3)]
			credit := false
			switch rnd.IntN(24) {
			case 0:
				both((*Receiver).StartConnection)
				continue
			case 1:
				both((*Receiver).Abandon)
				continue
			case 2:
				from := last
				both(func(r *Receiver) { r.MayRepeat(from) })
				continue
			case 3:
				ev = malformed(rnd.IntN(2) == 0)
			case 4:
				ev = gapOf(last, last+2)
			case 5, 6:
				ev = confirmed(wire.Continuity(rnd.IntN(3)), at("e", last, "t"))
			case 7:
				ev.Prev, ev.Position.Offset = last+uint64(rnd.IntN(3)), last+uint64(rnd.IntN(4))
			case 8:
				ev.Prev, ev.Position.Offset = uint64(rnd.IntN(3)), uint64(rnd.IntN(4))
			case 9:
				ev.Numbered = false
			case 10:
				credit = true
			case 11, 12, 13:
				ev.Prev = 0
			}
			if ev.Kind == wire.EventData && quick.follows(&ev) && !credit {
				short++
			}
			got, err := quick.Accept(&ev, credit)
			var want Step
			var wantErr error
			if ev.Kind == wire.EventData {
				want, wantErr = slow.message(&ev, credit)
			} else {
				want, wantErr = slow.Accept(&ev, credit)
			}
			if !reflect.DeepEqual(got, want) || (err == nil) != (wantErr == nil) || !reflect.DeepEqual(quick, slow) {
				t.Fatalf("%+v: %+v, %v, want %+v, %v; %+v, want %+v", ev, got, err, want, wantErr, quick, slow)
			}
			last = quick.last.Offset
		}
	}
	if short < 15_000 {
		t.Errorf("%d messages went the short way", short)
	}
}
