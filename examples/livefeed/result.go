package main

import (
	"fmt"
	"strings"
	"time"
)

// result is the result of a run.
type result struct {
	score      *score
	alerts     *tally // from the server's log
	acked      int    // alerts whose receipt ended as acked
	level      level
	faults     []mark
	reconnects int
	elapsed    time.Duration
	trouble    []string // errors of the run itself
}

func (r *result) counts() [kinds]int {
	var n [kinds]int
	for _, m := range r.faults {
		n[m.kind]++
	}
	return n
}

// line returns the last line of the output, whose form is fixed.
func (r *result) line() string {
	n := r.counts()
	return fmt.Sprintf("livefeed: events=%d delivered=%d lost=%d duplicated=%d reordered=%d alerts=%d acked=%d reconnects=%d "+
		"faults=cut:%d,reset:%d,blackhole:%d,refuse:%d elapsed=%.1fs",
		len(r.score.quakes), r.score.delivered, r.score.lost(), r.score.duplicated, r.score.reordered,
		r.alerts.total, r.acked, r.reconnects, n[cut], n[reset], n[blackhole], n[refuse], r.elapsed.Seconds())
}

// why returns the reasons why the run is not exact; empty if it is.
func (r *result) why() []string {
	why := append([]string(nil), r.trouble...)
	if !r.score.exact() {
		var parts []string
		for _, p := range []struct {
			n    int
			what string
		}{
			{r.score.lost(), "lost"}, {r.score.duplicated, "duplicated"},
			{r.score.reordered, "reordered"}, {r.score.altered, "altered"},
		} {
			if p.n > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
			}
		}
		why = append(why, "events: "+strings.Join(parts, ", "))
	}
	want := len(r.alerts.want)
	if !r.alerts.exact() {
		why = append(why, fmt.Sprintf("alerts: the server's log holds %d, not each of %d once", r.alerts.total, want))
	}
	if r.acked != want {
		why = append(why, fmt.Sprintf("alerts: %d of %d were acknowledged", r.acked, want))
	}
	if r.level.name == "none" {
		return why
	}
	if len(r.faults) < minFaults {
		why = append(why, fmt.Sprintf("faults: %d happened, fewer than %d", len(r.faults), minFaults))
	}
	n := r.counts()
	for k := range kinds {
		if n[k] == 0 && r.level.counts[k] > 0 {
			why = append(why, fmt.Sprintf("faults: no %v happened", k))
		}
	}
	return why
}
