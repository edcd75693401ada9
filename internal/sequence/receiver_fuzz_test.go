package sequence

import (
	"math/rand/v2"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// FuzzReceiver sends events of every kind and checks what must hold for all of
// them: only a step moves the position, a loss begins where the stream was, and
// between two messages nothing is missing in silence.
func FuzzReceiver(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		data := make([]byte, 240)
		for i := range data {
			data[i] = byte(rnd.Uint32())
		}
		f.Add(data)
	}
	// Confirmed by number, then again without continuity and before any message.
	f.Add([]byte("00000000\xdf00000000010000000"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 2 {
			return
		}
		r := New(wire.Traits{Holes: wire.Holes(data[0] % 2), DedupWindow: int(data[1] % 4), LookBack: uint64(data[1] >> 3 & 1)})
		if data[1]&4 != 0 {
			r.ResumeFrom(at("e", uint64(data[1]>>4), "t"))
		}
		for data = data[2:]; len(data) >= 6; data = data[6:] {
			if data[0]&15 == 15 {
				r.StartConnection()
				checkOwnPosition(t, r)
				continue
			}
			ev := eventFrom(data, r.last.Offset)
			open := r.unproved
			unproved := open && (ev.Position.Tag == "" || ev.Position.Tag != r.last.Tag)
			step := check(t, &r, &ev, data[5]&0x1f == 0)
			if open && !r.unproved && ev.Kind == wire.EventSubscribed && ev.Continuity != wire.ContinuityProved && step.Loss == nil {
				t.Fatalf("a silent break: %+v", ev)
			}
			if unproved && step.Effect == Next && !ev.Numbered && step.Loss == nil {
				t.Fatalf("a silent break: %+v", ev)
			}
		}
	})
}

// checkOwnPosition checks that the receiver takes its own position for proved.
func checkOwnPosition(t *testing.T, r Receiver) {
	t.Helper()
	last, known := r.Position()
	ev := confirmed(wire.ContinuityProved, last)
	if step, err := r.Accept(&ev, false); known && (err != nil || step.Loss != nil) {
		t.Fatalf("position %v is refused: %v, loss %+v", last, err, step.Loss)
	}
}

// eventFrom makes an event near offset last of six bytes.
func eventFrom(data []byte, last uint64) wire.Event {
	near := func(b byte) uint64 { return max(last, 2) - 2 + uint64(b%8) }
	kinds := []wire.EventKind{wire.EventSubscribed, wire.EventGap, wire.EventReset, wire.EventUnsubscribed}
	ev := wire.Event{Kind: wire.EventData, Prev: near(data[1]), Position: at("", near(data[2]), "")}
	if i := int(data[0] & 15); i < len(kinds) {
		ev.Kind = kinds[i]
	}
	ev.Numbered = data[3]&7 != 0
	if data[3]&0x70 == 0 {
		ev.Position.Epoch = string('e' + rune(data[3]>>7))
	}
	ev.Continuity = wire.Continuity(data[4] % 4)
	if ev.Message.ID = (wire.ID{data[4] >> 4}); data[4]&8 != 0 {
		ev.Position.Tag = "c"
	}
	if ev.Kind == wire.EventGap && data[4]&0xc0 == 0 {
		ev.Prev, ev.Position = 0, wire.Position{}
	}
	ev.Count, ev.Cause = uint64(data[5]&3), wire.Cause(data[5]>>4)
	return ev
}

func check(t *testing.T, r *Receiver, ev *wire.Event, beyondCredit bool) Step {
	t.Helper()
	before, known := r.Position()
	step, err := r.Accept(ev, beyondCredit)
	after, _ := r.Position()
	fail := func(what string) {
		t.Helper()
		t.Fatalf("%s: %+v at %v made %+v, %v, at %v", what, *ev, before, step, err, after)
	}
	message := ev.Kind == wire.EventData
	if err != nil && step.Effect != Nothing {
		fail("an error with an effect")
	}
	if (step.Effect == Nothing || step.Effect == Duplicate) && after != before {
		fail("the position moved")
	}
	if !message && (step.Effect == Next || step.Effect == Duplicate) {
		fail("a message of nothing")
	}
	if message && err == nil && step.Effect != Next && step.Effect != Duplicate {
		fail("a message without an effect")
	}
	if beyondCredit && message && err == nil {
		fail("beyond the credit")
	}
	if l := step.Loss; l != nil {
		if l.After != before {
			fail("a loss that begins elsewhere")
		}
		if here := ev.Kind == wire.EventGap && ev.Position.IsZero(); l.Kind == wire.EventGap && l.To.Offset <= before.Offset && !here {
			fail("an empty gap")
		}
		if l.Kind != wire.EventGap && l.Kind != wire.EventReset {
			fail("a loss of no kind")
		}
	}
	if step.Effect == Next {
		if r.holes == wire.HolesLoss && ev.Prev >= ev.Position.Offset {
			ev.Prev = max(ev.Position.Offset, 1) - 1 // it was none
		}
		checkNext(step, ev, before, after, known, fail)
	}
	repeated := r.recent.limit > 0 || r.holes == wire.HolesFault || r.repeats && ev.Position.Offset > r.repeatFrom
	if step.Effect == Duplicate && ev.Numbered && !repeated && before.Offset-ev.Position.Offset > r.lookBack {
		fail("a silent restart")
	}
	if len(r.recent.order) > r.recent.limit || len(r.recent.known) != len(r.recent.order) {
		fail("too many ids")
	}
	return step
}

// checkNext checks where a message leaves the stream.
func checkNext(step Step, ev *wire.Event, before, after wire.Position, known bool, fail func(string)) {
	want := before
	if step.Loss != nil && step.Loss.Cause == wire.CauseEpoch {
		want.Offset = 0 // of a cursor
	}
	switch {
	case ev.Numbered:
		want.Offset, want.Tag = ev.Position.Offset, ev.Position.Tag
	case ev.Position.Tag != "":
		want.Tag = ev.Position.Tag
	}
	if ev.Position.Epoch != "" && (ev.Numbered || ev.Position.Tag != "") {
		want.Epoch = ev.Position.Epoch
	}
	if after != want {
		fail("another position")
	}
	if !ev.Numbered || !known || step.Loss != nil && step.Loss.Kind == wire.EventReset {
		return
	}
	if after.Offset <= before.Offset {
		fail("a number that does not rise")
	}
	reached := before.Offset
	if step.Loss != nil {
		reached = step.Loss.To.Offset
	}
	if ev.Prev > reached {
		fail("a silent loss")
	}
	if before.Epoch != "" && after.Epoch != before.Epoch {
		fail("another epoch")
	}
}

// A message that ends the connection was not received: its id must not make it a
// duplicate when the server sends it again.
func TestRefusedMessageIsNoDuplicate(t *testing.T) {
	r := New(wire.Traits{DedupWindow: 4, Holes: wire.HolesFault})
	for _, ev := range []wire.Event{confirmed(wire.ContinuityNone, at("e", 0, "")), withID(numbered(0, 1), 1)} {
		if _, err := r.Accept(&ev, false); err != nil {
			t.Fatal(err)
		}
	}
	early := withID(numbered(2, 3), 3)
	if _, err := r.Accept(&early, false); err == nil {
		t.Fatal("a hole is accepted")
	}
	r.StartConnection()
	for _, ev := range []wire.Event{confirmed(wire.ContinuityProved, at("e", 1, "t")), withID(numbered(1, 2), 2), withID(numbered(2, 3), 3)} {
		if step, err := r.Accept(&ev, false); err != nil || ev.Kind == wire.EventData && step.Effect != Next {
			t.Errorf("%v: %+v, %v", ev.Position, step, err)
		}
	}
}
