package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// againstRows are compared when no row is named.
var againstRows = []string{"P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P11"}

// A median ratio may differ from 1 by this much, or by as much as the old
// checkout differs from itself.
const tolerance = 0.05

// turns of a round. The old checkout has two: what they differ by is noise.
const (
	newTurn = iota
	oldTurn
	againTurn
	turns
)

// pair is one candidate of limpet in both checkouts.
type pair struct {
	row           *row
	variant, name string
	run           [turns]func() (outcome, error)
	samples       [turns][]outcome // one for each round
}

// against compares the candidates of limpet in this checkout with those of
// another one, of whose program it uses only "serve" and "candidate". Both meet
// the old server, so that only the client differs. No figures are kept.
func (b *bench) against(dir string, times float64, only []string) error {
	list, err := namedRows(only)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "bench-against-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	both := &checkouts{bench: b, times: times, roots: [2]string{"..", dir}}
	for i, root := range both.roots {
		both.programs[i] = filepath.Join(tmp, []string{"new", "old"}[i])
		if err := buildBench(root, both.programs[i]); err != nil {
			return err
		}
	}
	b.program = both.programs[oldTurn] // serves
	defer b.stopServers()
	fmt.Printf("%s; %d rounds, load %s\n", machine(b.pinned), b.rounds, loadAverage())
	outside := 0
	for _, r := range list {
		if name := r.missing(); name != "" {
			fmt.Printf("\n%s  DATA MISSING: %s; LIMPET_DATA names its directory. The row is left out.\n", r.id, name)
			continue
		}
		n, err := both.compare(r)
		if err != nil {
			return err
		}
		outside += n
		b.stopServers()
	}
	fmt.Printf("\nload %s\n", loadAverage())
	if outside > 0 && !b.quick { // which is too short to be judged
		return fmt.Errorf("%d figures are outside", outside)
	}
	return nil
}

// namedRows returns the rows with these names. A comparison in a row may have a
// name of its own.
func namedRows(names []string) (list []*row, err error) {
	if len(names) == 0 {
		names = againstRows
	}
	for _, name := range names {
		i := slices.IndexFunc(rows, func(r row) bool {
			return r.id == name || slices.ContainsFunc(r.compare, func(c comparison) bool { return c.id == name })
		})
		if i < 0 || rows[i].simulate != nil {
			return nil, fmt.Errorf("there is no row %s to compare two checkouts by", name)
		}
		if !slices.Contains(list, &rows[i]) {
			list = append(list, &rows[i])
		}
	}
	return list, nil
}

func buildBench(root, program string) error {
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir, build.Env = filepath.Join(root, "bench"), append(os.Environ(), "GOWORK=off")
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%s in %s: %w\n%s", build, build.Dir, err, text)
	}
	return nil
}

// checkouts are the two that are compared: the new one, then the old one.
type checkouts struct {
	*bench
	times    float64 // as many messages as the row says
	roots    [2]string
	programs [2]string
}

// compare runs a row, prints its figures, and returns how many are outside.
func (b *checkouts) compare(r *row) (outside int, err error) {
	pairs := b.pairs(r)
	if r.goBench != nil {
		var remove func()
		if pairs, remove, err = b.goPairs(r); err != nil {
			return 0, err
		}
		defer remove()
	}
	if len(pairs) == 0 {
		return 0, fmt.Errorf("row %s has no candidate of limpet", r.id)
	}
	for round := range b.rounds {
		b.progress(r, round, b.rounds)
		if err := takeTurns(pairs, round); err != nil {
			return 0, err
		}
	}
	return printPairs(os.Stdout, pairs), nil
}

// takeTurns runs one round: the three turns of a pair follow each other, and
// another one begins in each round.
func takeTurns(pairs []*pair, round int) error {
	for _, p := range pairs {
		for i := range turns {
			turn := (i + round) % turns
			out, err := p.run[turn]()
			if err != nil {
				return err
			}
			p.samples[turn] = append(p.samples[turn], out)
		}
	}
	return nil
}

func (b *checkouts) pairs(r *row) (list []*pair) {
	for _, v := range r.variants {
		for i := range r.candidates {
			c := &r.candidates[i]
			if !strings.HasPrefix(c.name, "limpet") || v.only != nil && !slices.Contains(v.only, c.name) {
				continue
			}
			s := spec{Row: r.id, Variant: v.name, Candidate: c.name}
			v.with(&s)
			s.Messages = int(float64(s.Messages) * b.times)
			p := &pair{row: r, variant: v.name, name: c.name}
			for turn := range turns {
				p.run[turn] = func() (outcome, error) { return b.onceIn(b.programs[min(turn, oldTurn)], c, s) }
			}
			list = append(list, p)
		}
	}
	return list
}

func (b *checkouts) goPairs(r *row) (list []*pair, remove func(), err error) {
	var built []*builtBench
	remove = func() {
		for _, t := range built {
			t.remove()
		}
	}
	for _, root := range b.roots {
		t, err := r.goBench.build(root)
		if err != nil {
			remove()
			return nil, nil, err
		}
		built = append(built, t)
	}
	last := time.Duration(float64(goBenchLasts) * b.times)
	for _, g := range built[newTurn].list {
		if strings.HasPrefix(g.name, "yardstick") {
			continue
		}
		if !slices.ContainsFunc(built[oldTurn].list, func(o goBenchmark) bool { return o.name == g.name }) {
			fmt.Printf("%s  %s: only the new checkout has it\n", r.id, g.name)
			continue
		}
		p := &pair{row: r, name: g.name}
		for turn := range turns {
			p.run[turn] = func() (outcome, error) { return built[min(turn, oldTurn)].once(g, last) }
		}
		list = append(list, p)
	}
	return list, remove, nil
}

// metrics are what the row judges by.
func (r *row) metrics() []string {
	list := []string{r.metric}
	for _, c := range r.compare {
		if c.metric != "" && !slices.Contains(list, c.metric) {
			list = append(list, c.metric)
		}
	}
	return list
}

// judgement is what a pair shows by one metric.
type judgement struct {
	now, was float64 // medians
	ratio    spread  // new to old within each round
	noise    spread  // old to old within each round
	verdict  string
}

func (p *pair) judge(metric string) judgement {
	now, was, again := p.samples[newTurn], p.samples[oldTurn], p.samples[againTurn]
	ratio, noise := ratios(now, was, metric), ratios(was, again, metric)
	j := judgement{now: median(now, metric), was: median(was, metric), ratio: spreadOf(ratio), noise: spreadOf(noise)}
	r := j.ratio.median
	switch {
	case len(ratio) == 0 || len(noise) == 0:
		j.verdict = "not measured"
	case r >= 1-tolerance && r <= 1+tolerance, r >= j.noise.lo && r <= j.noise.hi:
		j.verdict = "within"
	default:
		j.verdict = "OUTSIDE"
	}
	return j
}

func median(of []outcome, metric string) float64 {
	var v []float64
	for _, o := range of {
		if x, ok := o[metric]; ok {
			v = append(v, x)
		}
	}
	return spreadOf(v).median
}

// ratios compares within each round. Zero is as much as zero.
func ratios(of, to []outcome, metric string) (list []float64) {
	for i := range of {
		x, measured := of[i][metric]
		y, compared := to[i][metric]
		switch {
		case !measured || !compared:
		case x == y:
			list = append(list, 1)
		default:
			list = append(list, x/y)
		}
	}
	return list
}

// printPairs returns how many figures are outside or were not measured.
func printPairs(out io.Writer, pairs []*pair) (outside int) {
	r := pairs[0].row
	fmt.Fprintf(out, "\n%s  %s\n", r.id, r.title)
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', 0)
	fmt.Fprintln(w, "  row\tvariant\tcandidate\tfigure\tnew\told\tnew/old\told/old\tverdict")
	for _, p := range pairs {
		for _, metric := range r.metrics() {
			j := p.judge(metric)
			if j.verdict != "within" {
				outside++
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%.3f\t%.3f..%.3f\t%s\n", r.id, p.variant, p.name, metricWords[metric],
				number(j.now), number(j.was), j.ratio.median, j.noise.lo, j.noise.hi, j.verdict)
		}
	}
	w.Flush()
	return outside
}
