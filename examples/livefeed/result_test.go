package main

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"
)

// exactResult returns the result of an exact harsh run.
func exactResult(t *testing.T) *result {
	qs := mustLoad(t)
	r := &result{score: newScore(qs), alerts: newTally(qs), level: levels[2], acked: 85, reconnects: 14, elapsed: 12340 * time.Millisecond}
	for i := range qs {
		if q := r.score.observe(qs[i].topic(), qs[i].Body); q.alerts() {
			b, _ := json.Marshal(alert{q.ID, q.Mag})
			r.alerts.observe(b)
		}
	}
	for _, f := range schedule(r.level, 1) {
		r.faults = append(r.faults, mark{kind: f.kind})
	}
	return r
}

func TestResult(t *testing.T) {
	r := exactResult(t)
	want := "livefeed: events=1707 delivered=1707 lost=0 duplicated=0 reordered=0 alerts=85 acked=85 reconnects=14 " +
		"faults=cut:6,reset:6,blackhole:4,refuse:3 elapsed=12.3s"
	if r.line() != want || len(r.why()) != 0 {
		t.Errorf("%s\n%s\n%q", r.line(), want, r.why())
	}
	qs := r.score.quakes
	for name, spoil := range map[string]func(*result){
		"duplicated": func(r *result) { r.score.observe(qs[3].topic(), qs[3].Body) },
		"altered":    func(r *result) { r.score.observe(qs[3].topic(), nil) },
		"lost":       func(r *result) { r.score.seen[9]--; r.score.delivered-- },
		"not each":   func(r *result) { r.alerts.observe(nil) },
		"84 of 85":   func(r *result) { r.acked-- },
		"no reset":   func(r *result) { r.faults = retain(r.faults, func(k kind) bool { return k != reset }) },
		"fewer than": func(r *result) { r.faults = r.faults[:minFaults-1] },
		"deadline":   func(r *result) { r.trouble = append(r.trouble, "deadline") },
	} {
		r := exactResult(t)
		spoil(r)
		if why := strings.Join(r.why(), "\n"); !strings.Contains(why, name) {
			t.Errorf("%s: not seen: %q", name, why)
		}
	}
	// At level none no faults are required.
	r.level, r.faults = levels[0], nil
	if len(r.why()) != 0 {
		t.Errorf("none: %q", r.why())
	}
}

func retain(in []mark, ok func(kind) bool) (out []mark) {
	for _, m := range in {
		if ok(m.kind) {
			out = append(out, m)
		}
	}
	return out
}

func TestFlags(t *testing.T) {
	for _, args := range []string{
		"", "-seed 7 -speed 2.5 -faults mild", "-sabotage swap:1706", "-addr ws://127.0.0.1:9/x", "-addr ws://host",
	} {
		if _, err := parseFlags(strings.Fields(args), io.Discard, 1707); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
	for _, args := range []string{
		"-faults gentle", "-speed 0", "-speed NaN", "-speed -1", "-seed -1", "extra", "-sabotage swap:1707",
		"-addr wss://host", "-addr host:1", "-addr ws://127.0.0.1:9 -sabotage lose:1", "-durable d -sabotage lose:1", "-durable d -addr ws://127.0.0.1:9", "-nonsense",
	} {
		if cfg, err := parseFlags(strings.Fields(args), io.Discard, 1707); err == nil {
			t.Errorf("%q was taken as %+v", args, cfg)
		}
	}
	cfg, err := parseFlags(nil, io.Discard, 1707)
	if err != nil || cfg.level.name != "harsh" || cfg.seed != 1 || cfg.speed != 1 || cfg.addr != nil {
		t.Errorf("defaults: %+v, %v", cfg, err)
	}
}
