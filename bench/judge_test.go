package main

import "testing"

// A figure that was not measured reaches no goal.
func TestJudge(t *testing.T) {
	r := &row{id: "T", metric: "cpu"}
	res := func(ours, theirs outcome) rowResult {
		return rowResult{Samples: map[string][]outcome{key("", "ours"): {ours}, key("", "theirs"): {theirs}}}
	}
	least := comparison{ours: "ours", floor: 20, goal: 10}
	times := comparison{ours: "ours", against: "theirs", inverse: true, floor: 1, goal: 2}
	for _, tt := range []struct {
		c            comparison
		ours, theirs outcome
		want         string
	}{
		{least, outcome{"cpu": 10}, nil, "goal"},
		{least, outcome{"cpu": 0}, nil, "goal"},
		{least, outcome{"cpu": 11}, nil, "floor"},
		{least, outcome{"cpu": 21}, nil, "missed"},
		{least, outcome{"wall": 1}, nil, "not measured"},
		{times, outcome{"cpu": 1}, outcome{"cpu": 2}, "goal"},
		{times, outcome{"cpu": 2}, outcome{"cpu": 3}, "floor"},
		{times, outcome{"cpu": 2}, outcome{"cpu": 1}, "missed"},
		{times, outcome{"wall": 1}, outcome{"cpu": 1}, "not measured"},
		{times, outcome{"cpu": 1}, outcome{"wall": 1}, "not measured"},
	} {
		if got := tt.c.judge(r, res(tt.ours, tt.theirs)).verdict; got != tt.want {
			t.Errorf("%v against %v: %s, want %s", tt.ours, tt.theirs, got, tt.want)
		}
	}
}
