package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/limpet-go/limpet/server"
)

func TestParseSabotage(t *testing.T) {
	for text, want := range map[string]sabotage{
		"": {}, "lose:1": {"lose", 1}, "dup:10": {"dup", 10}, "swap:9": {"swap", 9},
	} {
		if got, err := parseSabotage(text, 10); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"lose", "lose:", "lose:0", "lose:11", "dup:-1", "swap:10", "burn:1", "lose:x"} {
		if got, err := parseSabotage(text, 10); err == nil {
			t.Errorf("%q was taken as %v", text, got)
		}
	}
}

// Each sabotage changes the log as intended, and the score counts it correctly.
func TestSabotageIsSeen(t *testing.T) {
	qs := mustLoad(t)[:20]
	for _, tc := range []struct {
		text                        string
		lost, duplicated, reordered int
	}{
		{"", 0, 0, 0}, {"lose:7", 1, 0, 0}, {"dup:7", 0, 1, 0}, {"swap:7", 0, 0, 1},
		{"lose:1", 1, 0, 0}, {"lose:20", 1, 0, 0}, {"dup:20", 0, 1, 0}, {"swap:19", 0, 0, 1},
	} {
		plan, err := parseSabotage(tc.text, len(qs))
		if err != nil {
			t.Fatal(err)
		}
		log := &saboteur{Log: server.NewMemoryLog(server.Retention{}), plan: plan}
		for i := range qs {
			for _, topic := range []string{qs[i].topic(), alertPrefix + qs[i].Net} {
				if offset, err := log.Append(context.Background(), server.Entry{Topic: topic, Payload: qs[i].Body}); err != nil || offset == 0 {
					t.Fatalf("%s: offset %d, %v", tc.text, offset, err)
				}
			}
		}
		s := newScore(qs)
		entries := make([]*server.Entry, 3*len(qs))
		n, _, err := log.Read(1, entries)
		if err != nil {
			t.Fatal(err)
		}
		alerts := 0
		for _, e := range entries[:n] {
			if e.Topic[:len(quakePrefix)] != quakePrefix {
				alerts++
				continue
			}
			s.observe(e.Topic, e.Payload)
		}
		got, want := fmt.Sprint(s.lost(), s.duplicated, s.reordered, s.altered), fmt.Sprint(tc.lost, tc.duplicated, tc.reordered, 0)
		if got != want || alerts != len(qs) || s.exact() != (tc.text == "") {
			t.Errorf("%q: %s and %d other messages, want %s and %d", tc.text, got, alerts, want, len(qs))
		}
	}
}
