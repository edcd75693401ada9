package main

import (
	"io"
	"slices"
	"testing"
)

func TestJudgePair(t *testing.T) {
	cpu := func(v ...float64) (list []outcome) {
		for _, x := range v {
			list = append(list, outcome{"cpu": x})
		}
		return list
	}
	for _, tt := range []struct {
		name            string
		now, was, again []outcome
		want            string
	}{
		{"same", cpu(100, 100, 100), cpu(100, 100, 100), cpu(100, 100, 100), "within"},
		{"5 % more", cpu(105, 105, 105), cpu(100, 100, 100), cpu(100, 100, 100), "within"},
		{"6 % more", cpu(106, 106, 106), cpu(100, 100, 100), cpu(100, 100, 100), "OUTSIDE"},
		{"6 % less", cpu(94, 94, 94), cpu(100, 100, 100), cpu(100, 100, 100), "OUTSIDE"},
		{"one round is an outlier", cpu(100, 900, 100), cpu(100, 100, 100), cpu(100, 100, 100), "within"},
		{"the old one differs as much from itself", cpu(108, 108, 108), cpu(100, 100, 100), cpu(91, 100, 100), "within"},
		{"the old one differs the other way", cpu(92, 92, 92), cpu(100, 100, 100), cpu(91, 100, 100), "OUTSIDE"},
		{"the machine slows down", cpu(100, 200, 400), cpu(100, 200, 400), cpu(100, 200, 400), "within"},
		{"nothing in either", cpu(0, 0, 0), cpu(0, 0, 0), cpu(0, 0, 0), "within"},
		{"something for nothing", cpu(1, 1, 1), cpu(0, 0, 0), cpu(0, 0, 0), "OUTSIDE"},
		{"nothing for something", cpu(0, 0, 0), cpu(1, 1, 1), cpu(1, 1, 1), "OUTSIDE"},
		{"not measured in the new one", []outcome{{}}, cpu(1), cpu(1), "not measured"},
		{"measured once in the old one", cpu(1), cpu(1), []outcome{{}}, "not measured"},
	} {
		p := &pair{row: &row{metric: "cpu"}, samples: [turns][]outcome{tt.now, tt.was, tt.again}}
		if got := p.judge("cpu").verdict; got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		want := 1
		if tt.want == "within" {
			want = 0
		}
		if got := printPairs(io.Discard, []*pair{p}); got != want {
			t.Errorf("%s: %d outside, want %d", tt.name, got, want)
		}
	}
}

func TestTurnsRotate(t *testing.T) {
	var order []int
	p := new(pair)
	for turn := range turns {
		p.run[turn] = func() (outcome, error) {
			order = append(order, turn)
			return outcome{"turn": float64(turn)}, nil
		}
	}
	for round := range 3 {
		if err := takeTurns([]*pair{p}, round); err != nil {
			t.Fatal(err)
		}
	}
	if want := []int{0, 1, 2, 1, 2, 0, 2, 0, 1}; !slices.Equal(order, want) {
		t.Errorf("turns %v, want %v", order, want)
	}
	for turn, samples := range p.samples {
		for _, o := range samples {
			if o["turn"] != float64(turn) {
				t.Errorf("turn %d has the sample of turn %v", turn, o["turn"])
			}
		}
	}
}

func TestNamedRows(t *testing.T) {
	ids := func(names ...string) (list []string) {
		rows, err := namedRows(names)
		if err != nil {
			return []string{"error"}
		}
		for _, r := range rows {
			list = append(list, r.id)
		}
		return list
	}
	for _, tt := range []struct{ names, want []string }{
		{nil, []string{"P1", "P3", "P4", "P5", "P6", "P7", "P8", "P11"}},
		{[]string{"P2", "P11", "P1"}, []string{"P1", "P11"}},
		{[]string{"P99"}, []string{"error"}},
		{[]string{"P15"}, []string{"error"}}, // a simulation has no two checkouts
	} {
		if got := ids(tt.names...); !slices.Equal(got, tt.want) {
			t.Errorf("%v: rows %v, want %v", tt.names, got, tt.want)
		}
	}
}
