package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"testing"
)

func mustLoad(t *testing.T) []quake {
	t.Helper()
	qs, err := loadQuakes()
	if err != nil {
		t.Fatal(err)
	}
	return qs
}

// The checksum is the one in README.md, so the file cannot differ from its source
// without notice.
func TestEmbeddedQuakes(t *testing.T) {
	qs := mustLoad(t)
	h := sha256.New()
	strong, last := 0, int64(0)
	for i := range qs {
		h.Write(qs[i].Body)
		h.Write([]byte("\n"))
		if qs[i].alerts() {
			strong++
		}
		if qs[i].Time < last {
			t.Errorf("line %d is earlier than the one before it", i+1)
		}
		last = qs[i].Time
		if qs[i].topic() == endTopic || !json.Valid(qs[i].Body) {
			t.Errorf("line %d: topic %q", i+1, qs[i].topic())
		}
	}
	if len(qs) != 1707 || strong != 85 {
		t.Errorf("%d events, %d of them strong; want 1707 and 85", len(qs), strong)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != "9505cc10dbb83a3cce256040f7559ebd82401616d94e2d8a103c4c25256c7ecf" {
		t.Errorf("sha256 of the file is %s", got)
	}
	if qs[0].Due != 0 || qs[len(qs)-1].Due != realTime {
		t.Errorf("replay from %v to %v, want 0 to %v", qs[0].Due, qs[len(qs)-1].Due, realTime)
	}
}

func TestScore(t *testing.T) {
	qs := mustLoad(t)[:6]
	bodies := func(order ...int) [][]byte {
		var out [][]byte
		for _, i := range order {
			out = append(out, qs[i].Body)
		}
		return out
	}
	type counts struct{ delivered, lost, duplicated, reordered, altered int }
	for _, tc := range []struct {
		name string
		in   [][]byte
		want counts
	}{
		{"exact", bodies(0, 1, 2, 3, 4, 5), counts{delivered: 6}},
		{"nothing", nil, counts{lost: 6}},
		{"lost first", bodies(1, 2, 3, 4, 5), counts{delivered: 5, lost: 1}},
		{"lost last", bodies(0, 1, 2, 3, 4), counts{delivered: 5, lost: 1}},
		{"twice in a row", bodies(0, 1, 1, 2, 3, 4, 5), counts{delivered: 7, duplicated: 1}},
		{"twice, late", bodies(0, 1, 2, 3, 4, 5, 0), counts{delivered: 7, duplicated: 1}},
		{"three times", bodies(0, 0, 0, 1, 2, 3, 4, 5), counts{delivered: 8, duplicated: 2}},
		{"swapped", bodies(0, 2, 1, 3, 4, 5), counts{delivered: 6, reordered: 1}},
		{"backwards", bodies(5, 4, 3, 2, 1, 0), counts{delivered: 6, reordered: 5}},
		{"one late", bodies(1, 2, 3, 0, 4, 5), counts{delivered: 6, reordered: 1}},
		{"one byte changed", append(bodies(0, 1, 2, 3, 4), bytes.Replace(qs[5].Body, []byte("depth"), []byte("Depth"), 1)),
			counts{delivered: 6, altered: 1}},
		{"rubbish", append(bodies(0, 1, 2, 3, 4, 5), []byte("{")), counts{delivered: 7, altered: 1}},
	} {
		s := newScore(qs)
		for _, b := range tc.in {
			topic := endTopic
			if i := slices.IndexFunc(qs, func(q quake) bool { return bytes.EqualFold(q.Body, b) }); i >= 0 {
				topic = qs[i].topic()
			}
			s.observe(topic, b)
		}
		got := counts{s.delivered, s.lost(), s.duplicated, s.reordered, s.altered}
		if got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
		if s.exact() != (tc.name == "exact") {
			t.Errorf("%s: exact() = %v", tc.name, s.exact())
		}
	}

	s := newScore(qs)
	if s.observe("quakes/elsewhere", qs[0].Body) != nil || s.altered != 1 {
		t.Error("the wrong topic was not counted as altered")
	}
}

func TestTally(t *testing.T) {
	qs := mustLoad(t)
	all := func(skip string) *tally {
		y := newTally(qs)
		for i := range qs {
			if qs[i].alerts() && qs[i].ID != skip {
				b, _ := json.Marshal(alert{qs[i].ID, qs[i].Mag})
				y.observe(b)
			}
		}
		return y
	}
	var strong *quake
	for i := range qs {
		if qs[i].alerts() {
			strong = &qs[i]
			break
		}
	}
	once, _ := json.Marshal(alert{strong.ID, strong.Mag})
	wrong, _ := json.Marshal(alert{strong.ID, strong.Mag + 1})

	if y := all(""); !y.exact() || y.total != 85 {
		t.Errorf("all of them: exact %v, total %d", y.exact(), y.total)
	}
	if y := all(strong.ID); y.exact() {
		t.Error("one missing is called exact")
	}
	twice := all("")
	twice.observe(once)
	if twice.exact() || twice.total != 86 {
		t.Error("one twice is called exact")
	}
	more := all("")
	more.observe([]byte(`{"quake":"nowhere","mag":9}`))
	if more.exact() || more.total != 86 {
		t.Error("an alert that was not expected counts as exact")
	}
	other := all(strong.ID)
	other.observe(wrong)
	if other.exact() || other.total != 85 {
		t.Error("one with another magnitude is called exact")
	}
}
