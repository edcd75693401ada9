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

// Candidates that did not deliver the same are not compared.
func TestMustAgree(t *testing.T) {
	r := &row{id: "T", agree: []string{"messages", "sum"}}
	for _, tt := range []struct {
		name  string
		other outcome
		same  bool
	}{
		{"the same", outcome{"cpu": 2, "messages": 5, "sum": 7}, true},
		{"one message less", outcome{"cpu": 2, "messages": 4, "sum": 7}, false},
		{"another sum", outcome{"cpu": 2, "messages": 5, "sum": 8}, false},
		{"no sum", outcome{"cpu": 2, "messages": 5}, false},
	} {
		agreed := map[string]float64{}
		first := outcome{"cpu": 1, "messages": 5, "sum": 7}
		if err := r.mustAgree(agreed, "v", "first", first); err != nil || len(first) != 1 {
			t.Fatalf("%v, left %v", err, first)
		}
		if err := r.mustAgree(agreed, "v", "second", tt.other); (err == nil) != tt.same {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err := r.mustAgree(agreed, "another variant", "third", outcome{"messages": 1, "sum": 1}); err != nil {
			t.Error(err)
		}
	}
}
