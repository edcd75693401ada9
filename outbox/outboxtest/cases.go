package outboxtest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/limpet-go/limpet/outbox"
)

var (
	ctx = context.Background()
	now = time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)
)

// cases are tried in order, each with a new store.
var cases = []struct {
	name string
	try  func(*subject)
}{
	{"a new store is empty", func(s *subject) { s.expect(&outbox.Content{}) }},
	{"every part of a message comes back", everyPart},
	{"numbers continue without a gap", numbers},
	{"the state", state},
	{"Sent", sent},
	{"Void", void},
	{"Settled at the beginning", settledFirst},
	{"Settled in the middle", settledMiddle},
	{"Removed", removed},
	{"Removed between settled messages", removedAmongSettled},
	{"Removed many times", removedManyTimes},
	{"Reset", reset},
	{"parts apply in the order of the fields", fieldOrder},
	{"all or nothing", allOrNothing},
	{"ctx has ended", ended},
	{"the memory of the caller", memoryOfTheCaller},
	{"Lazy", lazy},
	{"big changes", big},
	{"ten thousand messages", tenThousand},
	{"many changes", many},
	{"changes at random", atRandom},
}

// message returns a message with a number of its own in every part.
func message(seq uint64) outbox.Message {
	return outbox.Message{Seq: seq, ID: outbox.ID{byte(seq), byte(seq >> 8), 0xff}, Topic: "t", Payload: fmt.Append(nil, "payload ", seq), Added: now}
}

func messages(lo, hi uint64) (list []outbox.Message) {
	for seq := lo; seq <= hi; seq++ {
		list = append(list, message(seq))
	}
	return list
}

func add(lo, hi uint64) *outbox.Change { return &outbox.Change{Messages: messages(lo, hi)} }

func settle(ranges ...outbox.Range) *outbox.Change { return &outbox.Change{Settled: ranges} }

func everyPart(s *subject) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	full := outbox.Message{
		Seq: 2, ID: outbox.ID(all[240:]), Topic: string(all), Payload: all, Type: string(all), Header: map[string]string{"": "empty", string(all): string(all), "a": ""},
		Added: now, TTL: time.Hour + 1, Sent: now.Add(-1e9 * time.Nanosecond), Resend: 255,
	}
	bare := outbox.Message{Seq: 1}
	old := outbox.Message{Seq: 3, ID: outbox.ID{3}, Added: time.Unix(-1, 5), TTL: -1}
	s.commit(&outbox.Change{Messages: []outbox.Message{bare, full}}, &outbox.Change{Messages: []outbox.Message{old}})
	s.expect(&outbox.Content{Messages: []outbox.Message{bare, full, old}})
}

func numbers(s *subject) {
	s.commit(add(1, 1), add(2, 4))
	s.refused("5 was left out", add(6, 6))
	s.refused("4 comes again", add(4, 4))
	s.refused("a number twice", &outbox.Change{Messages: []outbox.Message{message(5), message(5)}})
	s.refused("a gap", &outbox.Change{Messages: []outbox.Message{message(5), message(7)}})
	s.refused("the number 0", &outbox.Change{Messages: []outbox.Message{message(0)}})
	s.commit(add(5, 5))
	s.expect(&outbox.Content{Messages: messages(1, 5)})
	s.commit(settle(outbox.Range{Lo: 1, Hi: 5}))
	s.expect(&outbox.Content{Through: 5, Tag: message(5).ID})
	s.refused("a settled number again", add(1, 1))
	s.commit(add(6, 6))
	s.expect(&outbox.Content{Through: 5, Tag: message(5).ID, Messages: messages(6, 6)})
}

func state(s *subject) {
	for _, state := range [][]byte{[]byte("first"), []byte("second\x00"), bytes.Repeat([]byte{0xaa, 0}, 40_000), []byte("short")} {
		s.commit(&outbox.Change{State: state})
		s.expect(&outbox.Content{State: state})
		s.commit(&outbox.Change{})
		s.expect(&outbox.Content{State: state})
	}
	s.commit(&outbox.Change{Messages: messages(1, 2), State: []byte("with messages")})
	s.expect(&outbox.Content{State: []byte("with messages"), Messages: messages(1, 2)})
	s.commit(&outbox.Change{State: []byte{}})
	s.expect(&outbox.Content{Messages: messages(1, 2)})
}

func sent(s *subject) {
	want := messages(1, 5)
	s.commit(add(1, 4), &outbox.Change{Sent: outbox.Sent{Seq: 2, Time: now}})
	want[0].Sent, want[1].Sent = now, now
	s.commit(&outbox.Change{Messages: messages(5, 5), Sent: outbox.Sent{Seq: 9, Time: now.Add(time.Hour)}})
	for i := 2; i < 5; i++ {
		want[i].Sent = now.Add(time.Hour)
	}
	s.commit(&outbox.Change{Sent: outbox.Sent{Seq: 5, Time: now.Add(-time.Hour)}})
	s.expect(&outbox.Content{Messages: want})
}

func void(s *subject) {
	s.commit(add(1, 5), &outbox.Change{Void: []outbox.Range{{Lo: 2, Hi: 2}, {Lo: 4, Hi: 5}}})
	want := messages(1, 5)
	for _, i := range []int{1, 3, 4} {
		want[i] = outbox.Message{Seq: want[i].Seq, ID: want[i].ID, Void: true}
	}
	s.expect(&outbox.Content{Messages: want})
	later := now.Add(time.Second)
	s.commit(&outbox.Change{Sent: outbox.Sent{Seq: 3, Time: later}})
	want[0].Sent, want[2].Sent = later, later
	s.expect(&outbox.Content{Messages: want})
	s.commit(settle(outbox.Range{Lo: 1, Hi: 2}))
	s.expect(&outbox.Content{Through: 2, Tag: message(2).ID, Messages: want[2:]})
}

func settledFirst(s *subject) {
	s.commit(add(1, 6), settle(outbox.Range{Lo: 1, Hi: 2}))
	s.expect(&outbox.Content{Through: 2, Tag: message(2).ID, Messages: messages(3, 6)})
	s.commit(settle(outbox.Range{Lo: 1, Hi: 3}, outbox.Range{Lo: 2, Hi: 4}))
	s.expect(&outbox.Content{Through: 4, Tag: message(4).ID, Messages: messages(5, 6)})
	s.commit(settle(outbox.Range{Lo: 5, Hi: 6}))
	s.expect(&outbox.Content{Through: 6, Tag: message(6).ID})
}

func settledMiddle(s *subject) {
	s.commit(add(1, 6), settle(outbox.Range{Lo: 2, Hi: 3}, outbox.Range{Lo: 6, Hi: 6}))
	want := messages(1, 6)
	for _, i := range []int{1, 2, 5} {
		want[i] = outbox.Message{Seq: want[i].Seq, ID: want[i].ID, Settled: true}
	}
	s.expect(&outbox.Content{Messages: want})
	// What comes for a settled message changes nothing.
	s.commit(&outbox.Change{Void: []outbox.Range{{Lo: 2, Hi: 2}}, Sent: outbox.Sent{Seq: 0}}, settle(outbox.Range{Lo: 3, Hi: 3}))
	s.expect(&outbox.Content{Messages: want})
	s.commit(settle(outbox.Range{Lo: 1, Hi: 1}))
	s.expect(&outbox.Content{Through: 3, Tag: message(3).ID, Messages: want[3:]})
	s.commit(settle(outbox.Range{Lo: 5, Hi: 5}), add(7, 7))
	s.commit(settle(outbox.Range{Lo: 4, Hi: 4}))
	s.expect(&outbox.Content{Through: 6, Tag: message(6).ID, Messages: messages(7, 7)})
}

func remove(ranges ...outbox.Range) *outbox.Change { return &outbox.Change{Removed: ranges} }

// renumbered returns messages under the numbers from first on.
func renumbered(first uint64, list ...outbox.Message) []outbox.Message {
	for i := range list {
		list[i].Seq = first + uint64(i)
	}
	return list
}

func removed(s *subject) {
	s.commit(add(1, 6), remove(outbox.Range{Lo: 5, Hi: 5}, outbox.Range{Lo: 2, Hi: 3}))
	s.expect(&outbox.Content{Messages: renumbered(1, message(1), message(4), message(6))})
	s.refused("a number of before", add(7, 7))
	s.commit(&outbox.Change{Messages: renumbered(4, message(7)), Sent: outbox.Sent{Seq: 1, Time: now}, Void: []outbox.Range{{Lo: 3, Hi: 3}}})
	want := renumbered(1, message(1), message(4), message(6), message(7))
	want[0].Sent, want[2] = now, outbox.Message{Seq: 3, ID: want[2].ID, Void: true}
	s.expect(&outbox.Content{Messages: want})
	s.commit(settle(outbox.Range{Lo: 1, Hi: 2}))
	s.expect(&outbox.Content{Through: 2, Tag: message(4).ID, Messages: want[2:]})
	// What is not there counts for nothing.
	s.commit(remove(outbox.Range{Lo: 1, Hi: 2}, outbox.Range{Lo: 5, Hi: 9}))
	s.expect(&outbox.Content{Through: 2, Tag: message(4).ID, Messages: want[2:]})
	s.commit(remove(outbox.Range{Lo: 1, Hi: 9}))
	s.expect(&outbox.Content{Through: 2, Tag: message(4).ID})
	s.commit(&outbox.Change{Messages: renumbered(3, message(8), message(9), message(10)), Removed: []outbox.Range{{Lo: 4, Hi: 4}}})
	s.expect(&outbox.Content{Through: 2, Tag: message(4).ID, Messages: renumbered(3, message(8), message(10))})
	s.commit(&outbox.Change{Reset: true, Messages: messages(1, 3), Removed: []outbox.Range{{Lo: 1, Hi: 1}}})
	s.expect(&outbox.Content{Messages: renumbered(1, message(2), message(3))})
}

func removedAmongSettled(s *subject) {
	s.commit(add(1, 5), settle(outbox.Range{Lo: 2, Hi: 3}, outbox.Range{Lo: 5, Hi: 5}))
	s.commit(remove(outbox.Range{Lo: 1, Hi: 1})) // what is settled comes to the beginning
	s.expect(&outbox.Content{Through: 2, Tag: message(3).ID, Messages: append(renumbered(3, message(4)), outbox.Message{Seq: 4, ID: message(5).ID, Settled: true})})
	s.commit(&outbox.Change{Settled: []outbox.Range{{Lo: 3, Hi: 3}}, Removed: []outbox.Range{{Lo: 3, Hi: 4}}}) // both are settled first
	s.expect(&outbox.Content{Through: 4, Tag: message(5).ID})
	s.commit(&outbox.Change{Messages: renumbered(5, message(6), message(7), message(8)), Settled: []outbox.Range{{Lo: 6, Hi: 6}}, Removed: []outbox.Range{{Lo: 6, Hi: 6}}})
	s.expect(&outbox.Content{Through: 4, Tag: message(5).ID, Messages: renumbered(5, message(6), message(8))})
}

// removedManyTimes removes far more messages than stay, behind one that stays.
func removedManyTimes(s *subject) {
	stays := message(1)
	stays.Payload = bytes.Repeat([]byte("x"), 5000)
	s.commit(&outbox.Change{Messages: []outbox.Message{stays}})
	for i := range uint64(200) {
		m := renumbered(2, message(2*i+2), message(2*i+3))
		m[0].Payload = bytes.Repeat([]byte("y"), 5000)
		s.commit(&outbox.Change{Messages: m}, remove(outbox.Range{Lo: 2, Hi: 2 + i%2}))
		want := &outbox.Content{Messages: []outbox.Message{stays}}
		if i%2 == 0 {
			want.Messages = append(want.Messages, renumbered(2, message(2*i+3))...)
		}
		if i%25 < 2 {
			s.expect(want)
		}
		if i%2 == 0 {
			s.commit(remove(outbox.Range{Lo: 2, Hi: 2}))
		}
	}
	s.expect(&outbox.Content{Messages: []outbox.Message{stays}})
}

func reset(s *subject) {
	s.commit(&outbox.Change{Messages: messages(1, 5), State: []byte("kept")}, settle(outbox.Range{Lo: 1, Hi: 2}, outbox.Range{Lo: 4, Hi: 4}))
	s.commit(&outbox.Change{Reset: true})
	s.expect(&outbox.Content{State: []byte("kept")})
	s.refused("numbers begin at 1", add(6, 6))
	s.commit(add(1, 2))
	s.expect(&outbox.Content{State: []byte("kept"), Messages: messages(1, 2)})
	s.commit(&outbox.Change{Reset: true, Messages: messages(1, 3), Settled: []outbox.Range{{Lo: 1, Hi: 1}}, State: []byte("new")})
	s.expect(&outbox.Content{State: []byte("new"), Through: 1, Tag: message(1).ID, Messages: messages(2, 3)})
}

func fieldOrder(s *subject) {
	s.commit(add(1, 3))
	s.commit(&outbox.Change{
		Reset: true, Messages: messages(1, 6), Sent: outbox.Sent{Seq: 5, Time: now}, Void: []outbox.Range{{Lo: 2, Hi: 4}},
		Settled: []outbox.Range{{Lo: 3, Hi: 3}}, Removed: []outbox.Range{{Lo: 6, Hi: 6}}, State: []byte("s"),
	})
	want := messages(1, 5)
	want[0].Sent, want[4].Sent = now, now
	want[1] = outbox.Message{Seq: 2, ID: want[1].ID, Void: true}
	want[2] = outbox.Message{Seq: 3, ID: want[2].ID, Settled: true}
	want[3] = outbox.Message{Seq: 4, ID: want[3].ID, Void: true}
	s.expect(&outbox.Content{State: []byte("s"), Messages: want})
}

func allOrNothing(s *subject) {
	s.commit(&outbox.Change{Messages: messages(1, 3), State: []byte("before")})
	bad := &outbox.Change{
		Messages: []outbox.Message{message(4), message(6)}, Sent: outbox.Sent{Seq: 3, Time: now},
		Void: []outbox.Range{{Lo: 1, Hi: 1}}, Settled: []outbox.Range{{Lo: 1, Hi: 2}}, Removed: []outbox.Range{{Lo: 3, Hi: 3}}, State: []byte("after"),
	}
	s.refused("a number is wrong", bad)
	bad.Reset = true
	s.refused("numbers begin at 1 after Reset", bad)
	s.expect(&outbox.Content{State: []byte("before"), Messages: messages(1, 3)})
	s.commit(add(4, 4))
}

func ended(s *subject) {
	over, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.Commit(over, add(1, 1)); err == nil {
		s.t.Errorf("Commit succeeded although its ctx had ended")
	}
	s.expect(&outbox.Content{})
}

func memoryOfTheCaller(s *subject) {
	c := &outbox.Change{Messages: messages(1, 2), State: []byte("state")}
	c.Messages[0].Header = map[string]string{"k": "v"}
	want := &outbox.Content{State: []byte("state"), Messages: cloneChange(c).Messages}
	s.commit(c)
	c.Messages[0].Payload[0], c.State[0] = '!', '!'
	c.Messages[0].Header["k"] = "!"
	c.Messages[1] = outbox.Message{Seq: 77}
	loaded := s.load()
	if err := Compare(loaded, want); err != nil {
		s.t.Errorf("Commit kept the memory of the caller: %v", err)
		return
	}
	loaded.Messages[0].Payload[0], loaded.State[0] = '?', '?'
	loaded.Messages[0].Header["k"] = "?"
	loaded.Messages[1].Seq = 99
	s.expect(want)
}

func lazy(s *subject) {
	s.commit(add(1, 6))
	s.commit(&outbox.Change{Settled: []outbox.Range{{Lo: 1, Hi: 1}}, Lazy: true}, &outbox.Change{State: []byte("lazy"), Lazy: true})
	want := &outbox.Content{State: []byte("lazy"), Through: 1, Tag: message(1).ID, Messages: messages(2, 6)}
	if err := Compare(s.load(), want); err != nil {
		s.t.Errorf("what is lazy is not there although nothing crashed: %v", err)
	}
	s.commit(&outbox.Change{Settled: []outbox.Range{{Lo: 2, Hi: 2}}})
	want.Through, want.Tag, want.Messages = 2, message(2).ID, messages(3, 6)
	s.expect(want)
}

func big(s *subject) {
	c := add(1, 3)
	c.Messages[1].Payload = bytes.Repeat([]byte("0123456789abcdef"), 150_000)
	s.commit(c, add(4, 4))
	want := cloneChange(c).Messages
	want = append(want, message(4))
	s.expect(&outbox.Content{Messages: want})
	s.commit(settle(outbox.Range{Lo: 1, Hi: 4}))
	s.expect(&outbox.Content{Through: 4, Tag: message(4).ID})
}

func tenThousand(s *subject) {
	const n = 10_000
	s.commit(add(1, n))
	s.commit(settle(outbox.Range{Lo: 1, Hi: n / 2}))
	s.expect(&outbox.Content{Through: n / 2, Tag: message(n / 2).ID, Messages: messages(n/2+1, n)})
}

func many(s *subject) {
	const n = 200
	for seq := uint64(1); seq <= n; seq++ {
		c := &outbox.Change{Messages: messages(seq, seq), State: fmt.Append(nil, seq), Lazy: seq%2 == 0}
		if seq > 3 {
			c.Settled = []outbox.Range{{Lo: seq - 3, Hi: seq - 3}}
		}
		s.commit(c)
		if seq%50 == 0 {
			s.commit(&outbox.Change{})
			s.expect(&outbox.Content{State: fmt.Append(nil, seq), Through: seq - 3, Tag: message(seq - 3).ID, Messages: messages(seq-2, seq)})
		}
	}
}

// atRandom compares the store with outbox.Memory.
func atRandom(s *subject) {
	for seed := range uint64(2) {
		r, model := rand.New(rand.NewPCG(seed, 1)), outbox.Memory()
		s.commit(&outbox.Change{Reset: true, State: []byte{}})
		for i := range 150 {
			before, _ := model.Load(ctx)
			c := Random(r, before)
			if err := model.Commit(ctx, cloneChange(c)); err != nil {
				s.t.Fatalf("outbox.Memory: %v", err)
			}
			s.commit(c)
			want, _ := model.Load(ctx)
			if err := Compare(s.load(), want); err != nil {
				s.t.Fatalf("seed %d, change %d: %v", seed, i, err)
			}
			if i%30 == 29 {
				s.commit(&outbox.Change{}) // after it nothing is lazy
				s.expect(want)
			}
		}
	}
}
