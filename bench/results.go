package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
)

// results are the figures kept under one label, in results/<label>.json. Rows
// that are measured again replace the older ones.
type results struct {
	Label    string
	Machine  string
	Path     string // how the client's frames are read and written
	Versions []string
	Rows     map[string]rowResult
	Profiles map[string]string
}

type rowResult struct {
	Samples map[string][]outcome // by variant and candidate, one for each round
	Load    string               // average of the machine before and after
	Taken   string
}

func load(label string) *results {
	r := &results{Label: label, Rows: map[string]rowResult{}}
	if b, err := os.ReadFile(resultsFile(label)); err == nil {
		if err := json.Unmarshal(b, r); err != nil {
			fmt.Fprintln(os.Stderr, "bench: cannot read the figures of", label, "and starts without them:", err)
		}
	}
	return r
}

func resultsFile(label string) string { return filepath.Join("results", label+".json") }

func (r *results) save() error {
	r.Versions, r.Path = versions(), connectionPath
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll("results", 0o755); err != nil {
		return err
	}
	return os.WriteFile(resultsFile(r.Label), append(b, '\n'), 0o644)
}

// versions lists the compared modules as they were built in.
func versions() (list []string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	compared := []string{"nhooyr.io/websocket", "github.com/coder/websocket", "github.com/gorilla/websocket", "github.com/lxzan/gws", "github.com/goccy/go-json",
		"github.com/nats-io/nats.go", "github.com/nats-io/nats-server/v2", "github.com/eclipse/paho.golang", "github.com/mochi-mqtt/server/v2", "go.etcd.io/bbolt"}
	for _, m := range info.Deps {
		if slices.Contains(compared, m.Path) {
			list = append(list, m.Path+" "+m.Version)
		}
	}
	return list
}

// spread is the median of some figures and their range.
type spread struct{ median, lo, hi float64 }

func spreadOf(v []float64) spread {
	if len(v) == 0 {
		return spread{}
	}
	v = slices.Sorted(slices.Values(v))
	m := v[len(v)/2]
	if len(v)%2 == 0 {
		m = (m + v[len(v)/2-1]) / 2
	}
	return spread{m, v[0], v[len(v)-1]}
}

func (r rowResult) metric(variant, name, metric string) spread {
	var v []float64
	for _, o := range r.Samples[key(variant, name)] {
		if x, ok := o[metric]; ok {
			v = append(v, x)
		}
	}
	return spreadOf(v)
}

// verdict is the result of one comparison.
type verdict struct {
	comparison
	spread
	samples int
	verdict string
}

// judge compares within each round and takes the median of the ratios.
func (c comparison) judge(r *row, res rowResult) verdict {
	metric := c.metric
	if metric == "" {
		metric = r.metric
	}
	ours := res.Samples[key(c.variant, c.ours)]
	var v []float64
	for i, o := range ours {
		x, ok := o[metric]
		if c.against != "" {
			theirs := res.Samples[key(c.variant, c.against)]
			if i >= len(theirs) {
				break
			}
			y, compared := theirs[i][metric]
			ok = ok && compared
			x /= y
			if c.inverse {
				x = 1 / x
			}
		}
		if ok {
			v = append(v, x)
		}
	}
	j := verdict{comparison: c, spread: spreadOf(v), samples: len(v)}
	reaches := func(mark float64) bool {
		// The figures are written with at most three digits.
		if c.inverse {
			return j.median >= mark*0.995
		}
		return j.median <= mark*1.005
	}
	switch {
	case len(v) == 0:
		j.verdict = "not measured"
	case reaches(c.goal):
		j.verdict = "goal"
	case reaches(c.floor):
		j.verdict = "floor"
	default:
		j.verdict = "missed"
	}
	return j
}

func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 100 || v <= -100:
		s := fmt.Sprintf("%.0f", v)
		for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (s spread) String() string { return number(s.lo) + " to " + number(s.hi) }

// printRow prints the table of one row on a terminal. A quick run is too short to be
// judged.
func printRow(out io.Writer, r *row, res rowResult, judged bool) {
	fmt.Fprintf(out, "\n%s  %s  (load %s)\n", r.id, r.title, res.Load)
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', 0)
	for _, k := range res.order(r) {
		variant, name, _ := strings.Cut(k, "|")
		fmt.Fprintf(w, "  %s\t%s", variant, name)
		for _, m := range res.metrics(k) {
			s := res.metric(variant, name, m)
			fmt.Fprintf(w, "\t%s %s", m, number(s.median))
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	for _, c := range r.compare {
		if !judged {
			break
		}
		j := c.judge(r, res)
		fmt.Fprintf(out, "  -> %s %s: %s (%v), floor %s, goal %s: %s\n", c.row(r), c.what(r), number(j.median), j.spread, number(c.floor), number(c.goal), j.verdict)
	}
}

func (c comparison) row(r *row) string {
	if c.id != "" {
		return c.id
	}
	return r.id
}

func (c comparison) what(r *row) string {
	s := c.ours
	if c.against != "" && c.inverse {
		s = c.against + " / " + c.ours
	} else if c.against != "" {
		s = c.ours + " / " + c.against
	}
	if c.variant != "" {
		s = c.variant + ", " + s
	}
	if c.metric != "" {
		s += ": " + metricWords[c.metric]
	}
	return s
}

// order is the order of the row's definition, then alphabetical.
func (r rowResult) order(def *row) (keys []string) {
	for _, v := range def.variants {
		for _, c := range def.candidates {
			if _, ok := r.Samples[key(v.name, c.name)]; ok {
				keys = append(keys, key(v.name, c.name))
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(r.Samples)) {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return keys
}

var metricWords = map[string]string{
	"cpu": "CPU ns", "wall": "wall ns", "allocs": "allocations", "bytes": "bytes allocated", "p50": "p50 µs", "p99": "p99 µs", "min": "min µs", "max": "max µs",
	"perwrite": "messages per write", "memory": "heap + stack", "heap": "heap", "stack": "stack", "rss": "resident", "goroutines": "goroutines",
	"connect": "CPU ns to connect", "wrong": "wrong", "lost": "lost", "duplicated": "duplicated", "reordered": "reordered", "gaps": "gaps",
	"unacked": "not acknowledged", "kills": "kills", "resumes": "resumes", "resent": "resent", "all": "last client / minimum", "peak": "worst second / rate", "tries": "attempts per client", "back": "share reconnected", "idlecpu": "CPU ns in 0.5 s idle", "plain": "library frames",
	"rate": "messages per CPU s", "busy": "share of the server's core", "reader": "share of the client's core",
}

var metricOrder = []string{"wrong", "lost", "duplicated", "reordered", "gaps", "unacked", "kills", "resumes", "resent", "all", "peak", "tries", "back", "p50", "p99", "min", "max", "perwrite",
	"cpu", "wall", "rate", "busy", "reader", "allocs", "bytes", "memory", "heap", "stack", "rss", "goroutines", "connect", "idlecpu", "plain"}

func (r rowResult) metrics(k string) (list []string) {
	for _, m := range metricOrder {
		for _, o := range r.Samples[k] {
			if _, ok := o[m]; ok {
				list = append(list, m)
				break
			}
		}
	}
	return list
}
