package limpettest_test

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

func id(n uint64) (u uuid.UUID) {
	binary.BigEndian.PutUint64(u[8:], n)
	return u
}

func payload(n uint64) []byte { return limpettest.Stamp("p", n, []byte{byte(n)}) }

func sentN(n uint64) limpettest.Sent { return limpettest.NewSent(id(n), payload(n)) }

func acked(n uint64) limpettest.Outcome { return limpettest.Outcome{ID: id(n), Kind: "Acked"} }

// at is message n, delivered to s at offset with prev before it.
func at(n, offset, prev uint64) limpettest.Delivered {
	d := limpettest.NewDelivered("s", wire.Position{Epoch: "e", Offset: offset}, id(n), payload(n))
	d.Prev, d.HasPrev = prev, true
	return d
}

// goodTrace has five messages. The fourth was lost to the consumer, the log holds
// messages of other topics at 12 and 15, and the fifth comes after a reset to a new
// epoch. Message 6 was made by the server, 7 was never sent.
func goodTrace() limpettest.Trace {
	second := at(5, 3, 0)
	second.Epoch = "f"
	server := limpettest.NewSent(uuid.Nil, payload(6))
	last := at(6, 4, 3)
	last.Epoch = "f"
	return limpettest.Trace{
		0:  sentN(1),
		1:  sentN(2),
		2:  sentN(3),
		3:  sentN(4),
		4:  limpettest.Subscribed{Sub: "s", Epoch: "e", Offset: 10},
		5:  at(1, 11, 9), // filtered: its predecessor is before the beginning
		6:  acked(1),
		7:  at(2, 13, 11),
		8:  limpettest.Outcome{ID: id(3), Kind: "stored"},
		9:  acked(3),
		10: limpettest.Committed{Sub: "s", Epoch: "e", Offset: 13},
		11: at(3, 14, 13),
		12: limpettest.Gap{Sub: "s", Epoch: "e", From: 14, To: 20},
		13: limpettest.Committed{Sub: "s", Epoch: "e", Offset: 20},
		14: limpettest.Reset{Sub: "s", Epoch: "f", Offset: 2},
		15: sentN(5),
		16: second,
		17: acked(2),
		18: acked(4),
		19: acked(5),
		20: server,
		21: last,
		22: sentN(7),
		23: limpettest.Outcome{ID: id(7), Kind: "unsent"},
		24: limpettest.Held{Sub: "s", Epoch: "e", Entries: []limpettest.HeldEntry{{9, id(90)}, {11, id(1)}, {13, id(2)}, {14, id(3)}, {16, id(4)}}},
		25: limpettest.Held{Sub: "s", Epoch: "f", Complete: true, Entries: []limpettest.HeldEntry{{3, id(5)}, {4, id(6)}}},
	}
}

func TestCheckGood(t *testing.T) {
	for _, v := range limpettest.Check(goodTrace()) {
		t.Error(v)
	}
}

// Every way to break a promise must be detected, and attributed to that promise.
func TestCheckHasTeeth(t *testing.T) {
	type trace = limpettest.Trace
	deliver := func(t trace, i int, f func(d *limpettest.Delivered)) trace {
		d := t[i].(limpettest.Delivered)
		f(&d)
		t[i] = d
		return t
	}
	for _, c := range []struct {
		name, want string
		mutate     func(t trace) trace
	}{
		{"never sent", "I1", func(t trace) trace { return slices.Delete(t, 20, 21) }},
		{"delivered before it was sent", "I1", func(t trace) trace { t[0], t[5] = t[5], t[0]; return t }},
		{"other bytes", "I1", func(t trace) trace { return deliver(t, 5, func(d *limpettest.Delivered) { d.Sum ^= 1 }) }},
		{"damaged", "I1", func(t trace) trace { return deliver(t, 5, func(d *limpettest.Delivered) { d.Damaged = true }) }},
		{"other id", "I1", func(t trace) trace { return deliver(t, 5, func(d *limpettest.Delivered) { d.ID = id(77) }) }},
		{"another message than the log's", "I1", func(t trace) trace {
			h := t[24].(limpettest.Held)
			h.Entries = slices.Clone(h.Entries)
			h.Entries[1].ID, h.Entries[2].ID = h.Entries[2].ID, h.Entries[1].ID
			t[24] = h
			return t
		}},
		{"delivered after it was reported as lost", "I2", func(t trace) trace {
			return slices.Insert(slices.Delete(t, 11, 12), 12, trace{at(3, 14, 13)}...)
		}},
		{"order", "I2", func(t trace) trace { t[5], t[7] = t[7], t[5]; return t }},
		{"order of a producer", "I2", func(t trace) trace {
			a, b := at(2, 11, 9), at(1, 13, 11)
			t[5], t[7] = a, b
			return slices.Delete(t, 24, 25)
		}},
		{"before the beginning", "I2", func(t trace) trace { t[4] = limpettest.Subscribed{Sub: "s", Epoch: "e", Offset: 11}; return t }},
		{"order per key", "I2", func(t trace) trace {
			t = slices.Delete(t, 24, 25)
			a, b := at(1, 11, 9), at(2, 13, 11)
			a.Key, b.Key = "k", "k"
			t[5], t[7] = b, a
			return t
		}},
		{"offset twice", "I3", func(t trace) trace { return slices.Insert(t, 8, trace{t[7]}...) }},
		{"id twice", "I3", func(t trace) trace { return slices.Insert(t, 12, trace{at(3, 15, 14)}...) }},
		{"accepted twice", "I3", func(t trace) trace {
			h := t[24].(limpettest.Held)
			h.Entries = append(h.Entries, limpettest.HeldEntry{Offset: 19, ID: id(4)})
			t[24] = h
			return t
		}},
		{"missing delivery", "I4", func(t trace) trace { return slices.Delete(t, 7, 8) }},
		{"missing delivery, by the log", "I4", func(t trace) trace {
			t = deliver(t, 11, func(d *limpettest.Delivered) { d.HasPrev = false })
			return slices.Delete(t, 7, 8)
		}},
		{"missing gap", "I4", func(t trace) trace { t[12] = limpettest.Gap{Sub: "s", From: 16, To: 20}; return t }},
		{"gap that begins too late", "I4", func(t trace) trace { t[12] = limpettest.Gap{Sub: "s", From: 15, To: 20}; return t }},
		{"gap over what was delivered", "I4", func(t trace) trace { t[12] = limpettest.Gap{Sub: "s", From: 13, To: 20}; return t }},
		{"gap over nothing", "I4", func(t trace) trace { t[12] = limpettest.Gap{Sub: "s", From: 14, To: 14}; return t }},
		{"missing end", "I4", func(t trace) trace { return slices.Delete(t, 21, 22) }},
		{"acknowledged and not held", "I5", func(t trace) trace {
			h := t[24].(limpettest.Held)
			h.Entries = h.Entries[:4]
			t[24] = h
			return t
		}},
		{"committed too far", "I5", func(t trace) trace { t[10] = limpettest.Committed{Sub: "s", Epoch: "e", Offset: 14}; return t }},
		{"no outcome", "I6", func(t trace) trace { return slices.Delete(t, 6, 7) }},
		{"two outcomes", "I6", func(t trace) trace { return append(t, limpettest.Outcome{ID: id(1), Kind: "unknown"}) }},
		{"no such outcome", "I6", func(t trace) trace { t[6] = limpettest.Outcome{ID: id(1), Kind: "Pending"}; return t }},
		{"outcome of nothing", "I6", func(t trace) trace { return append(t, acked(99)) }},
		{"outcome before the publish", "I6", func(t trace) trace { return slices.Insert(t, 0, trace{acked(1)}...) }},
		{"stored and nothing else", "I6", func(t trace) trace {
			t[9] = limpettest.Outcome{ID: id(3), Kind: "rejected"}
			return t
		}},
		{"unsent and delivered", "I6", func(t trace) trace { t[6] = limpettest.Outcome{ID: id(1), Kind: "Unsent"}; return t }},
		{"rejected and in the log", "I6", func(t trace) trace { t[18] = limpettest.Outcome{ID: id(4), Kind: "Rejected"}; return t }},
		{"expired and in the log", "I6", func(t trace) trace { t[18] = limpettest.Outcome{ID: id(4), Kind: "Expired"}; return t }},
		{"commit falls", "I9", func(t trace) trace { t[13] = limpettest.Committed{Sub: "s", Epoch: "e", Offset: 12}; return t }},
		{"epoch without reset", "I9", func(t trace) trace { return slices.Delete(t, 14, 15) }},
		{"gap of another epoch", "I9", func(t trace) trace { t[12] = limpettest.Gap{Sub: "s", Epoch: "z", From: 14, To: 20}; return t }},
		{"a counter twice", "trace", func(t trace) trace { return append(t, limpettest.NewSent(uuid.Nil, payload(1))) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := limpettest.Check(c.mutate(goodTrace()))
			if !slices.ContainsFunc(found, func(v limpettest.Violation) bool { return v.Invariant == c.want }) {
				t.Errorf("not seen as %s: %v", c.want, found)
			}
		})
	}
}

// What is allowed is not reported.
func TestCheckAllows(t *testing.T) {
	type trace = limpettest.Trace
	for _, c := range []struct {
		name   string
		mutate func(t trace) trace
	}{
		{"a repeat that was accepted knowingly", func(t trace) trace {
			s := t[2].(limpettest.Sent)
			s.MayRepeat = true
			t[2] = s
			t[12] = limpettest.Gap{Sub: "s", From: 15, To: 20}
			return slices.Insert(t, 12, trace{at(3, 15, 14)}...)
		}},
		{"the same positions again after a reset", func(t trace) trace {
			return slices.Insert(t, 12, trace{limpettest.Reset{Sub: "s", Epoch: "e", Offset: 10}, at(1, 11, 0), at(2, 13, 11), at(3, 14, 13)}...)
		}},
		{"a new subscription of that name", func(t trace) trace {
			return slices.Insert(t, 12, trace{limpettest.Subscribed{Sub: "s", Epoch: "e", Offset: 13}, at(3, 14, 13)}...)
		}},
		{"conflation under Latest", func(t trace) trace {
			for _, i := range []int{5, 11} {
				d := t[i].(limpettest.Delivered)
				d.Key = "k"
				t[i] = d
			}
			t[10] = limpettest.Committed{Sub: "s", Epoch: "e", Offset: 11}
			return slices.Delete(t, 7, 8)
		}},
		{"snapshot parts", func(t trace) trace {
			a, b := at(1, 11, 0), at(2, 11, 0)
			a.Snapshot, b.Snapshot = true, true
			return slices.Insert(t, 5, trace{a, b}...)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, v := range limpettest.Check(c.mutate(goodTrace())) {
				t.Error(v)
			}
		})
	}
}

func TestStamp(t *testing.T) {
	for _, body := range []string{"", "x", "with \"quotes\" and \x00\xff"} {
		p := limpettest.Stamp("a \"name\"", 1<<63, []byte(body))
		producer, counter, sum, ok := limpettest.Unstamp(p)
		if producer != "a \"name\"" || counter != 1<<63 || !ok {
			t.Errorf("%s: %q %d %v", p, producer, counter, ok)
		}
		if s := limpettest.NewSent(id(1), p); s.Sum != sum || s.Counter != counter || s.Producer != producer {
			t.Errorf("%+v", s)
		}
	}
	p := string(limpettest.Stamp("p", 7, []byte("body")))
	for _, bad := range []string{
		strings.Replace(p, `"n":7`, `"n":8`, 1), strings.Replace(p, `"p":"p"`, `"p":"q"`, 1),
		strings.Replace(p, "Ym9keQ==", "Ym9keR==", 1), strings.Replace(p, "Ym9keQ==", "Ym9kZQ==", 1),
		strings.Replace(p, `"c":"`, `"c":"0`, 1), p + " ", "{}", "", "null", "other",
	} {
		if _, _, _, ok := limpettest.Unstamp([]byte(bad)); ok {
			t.Errorf("%s was accepted", bad)
		}
		if d := limpettest.NewDelivered("s", wire.Position{}, id(1), []byte(bad)); !d.Damaged {
			t.Errorf("%s is not damaged", bad)
		}
	}
}

// verifier records the failures of Verify.
type verifier struct {
	testing.TB
	failed []string
}

func (v *verifier) Helper() {}
func (v *verifier) Errorf(format string, args ...any) {
	v.failed = append(v.failed, format)
}

func TestVerify(t *testing.T) {
	var r limpettest.Recorder
	v := &verifier{TB: t}
	for _, e := range goodTrace() {
		r.Record(e)
	}
	r.Verify(v, limpettest.NewNetwork(nil))
	if len(v.failed) != 0 {
		t.Errorf("a good trace failed: %v", v.failed)
	}
	r.Record(acked(99))
	r.Verify(v, nil)
	if len(v.failed) != 1 {
		t.Errorf("a bad trace gave %d failures, want 1", len(v.failed))
	}
	if s := (limpettest.Violation{Invariant: "I4", Index: 3, What: "x"}).String(); s != "I4 at 3: x" {
		t.Error(s)
	}
}
