package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// row is one comparison of docs/performance.md.
type row struct {
	id, title  string
	unit       string // of the metric in the table
	metric     string
	slow       bool // only when asked for
	rounds     int  // 0: as asked for
	variants   []variant
	candidates []contender
	compare    []comparison
	goBench    *goBench                     // measured by go test -bench instead
	simulate   func(b *bench, r *row) error // measured by a simulation instead
	needs      []string                     // recordings
	agree      []string                     // metrics in which the candidates of a variant must agree; not kept
}

type variant struct {
	name string
	with func(*spec)
	only []string // candidates; nil: all
}

type contender struct {
	name   string
	server string // kind of server process; empty: none
	run    func(spec) (outcome, error)
}

// comparison is one verdict: ours against another candidate.
type comparison struct {
	id                     string // empty: the row's
	variant, ours, against string // an empty against: the figure itself is judged
	metric                 string // empty: the row's
	inverse                bool   // more is better: theirs / ours
	floor, goal            float64
}

// bench is one run of the program.
type bench struct {
	rounds  int
	label   string
	quick   bool
	results *results
	program string // serves; runs the candidates
	servers map[string]*process
	pinned  bool
}

func (b *bench) run(only []string) error {
	defer b.stopServers()
	for i := range rows {
		r := &rows[i]
		if len(only) == 0 && r.slow || len(only) > 0 && !slices.Contains(only, r.id) {
			continue
		}
		if name := r.missing(); name != "" {
			fmt.Printf("\n%s  DATA MISSING: %s; LIMPET_DATA names its directory. The row is left out.\n", r.id, name)
			continue
		}
		began, load := time.Now(), loadAverage()
		if r.simulate == nil { // a simulation says nothing about the machine of the other rows
			b.results.Machine = machine(b.pinned)
		}
		var err error
		switch {
		case r.goBench != nil:
			err = r.goBench.rounds(b, r)
		case r.simulate != nil:
			err = r.simulate(b, r)
		default:
			err = b.rowRounds(r)
		}
		if err != nil {
			return err
		}
		got := b.results.Rows[r.id]
		got.Load = load + " to " + loadAverage()
		got.Taken = began.UTC().Format("2006-01-02 15:04")
		b.results.Rows[r.id] = got
		printRow(os.Stdout, r, got, !b.quick)
		if !b.quick {
			if err := b.results.save(); err != nil {
				return err
			}
		}
		b.stopServers()
	}
	return nil
}

// rowRounds runs every candidate of every variant once a round, interleaved.
func (b *bench) rowRounds(r *row) error {
	res, agreed := rowResult{Samples: map[string][]outcome{}}, map[string]float64{}
	rounds := b.rounds
	if r.rounds > 0 {
		rounds = min(rounds, r.rounds)
	}
	if b.quick {
		rounds = 1
	}
	for round := range rounds {
		b.progress(r, round, rounds)
		for _, v := range r.variants {
			for i := range r.candidates {
				// Another one begins each round: no candidate is always first after a pause.
				c := &r.candidates[(i+round)%len(r.candidates)]
				if v.only != nil && !slices.Contains(v.only, c.name) {
					continue
				}
				s := spec{Row: r.id, Variant: v.name, Candidate: c.name}
				v.with(&s)
				if b.quick {
					s.Messages, s.Clients, s.Kills = (s.Messages+19)/20, (s.Clients+19)/20, (s.Kills+4)/5
				}
				out, err := b.once(c, s)
				if err != nil {
					return err
				}
				if err := r.mustAgree(agreed, v.name, c.name, out); err != nil {
					return err
				}
				res.Samples[key(v.name, c.name)] = append(res.Samples[key(v.name, c.name)], out)
			}
		}
	}
	b.results.Rows[r.id] = res
	return nil
}

// mustAgree compares a candidate's figures in r.agree with those of the ones before it,
// which it keeps in agreed, and takes them out.
func (r *row) mustAgree(agreed map[string]float64, variant, name string, out outcome) error {
	for _, metric := range r.agree {
		k := key(variant, metric)
		got, ok := out[metric]
		want, before := agreed[k]
		if !ok || before && got != want {
			return fmt.Errorf("%s %s, %s: %s is %.0f, and %.0f for the candidates before", r.id, variant, name, metric, got, want)
		}
		agreed[k] = got
		delete(out, metric)
	}
	return nil
}

// progress says on standard error what goes on: a row may take minutes.
func (b *bench) progress(r *row, round, rounds int) {
	fmt.Fprintf(os.Stderr, "%s  %s, round %d of %d\n", time.Now().UTC().Format("15:04:05"), r.id, round+1, rounds)
}

func key(variant, name string) string { return variant + "|" + name }

func (b *bench) once(c *contender, s spec) (outcome, error) { return b.onceIn(b.program, c, s) }

// onceIn runs a candidate of another build of this program, with a server of this one.
func (b *bench) onceIn(program string, c *contender, s spec) (outcome, error) {
	if c.server != "" {
		p := b.servers[c.server]
		if p == nil {
			var err error
			if p, err = startServer(b.program, c.server, b.pinned); err != nil {
				return nil, err
			}
			b.servers[c.server] = p
		}
		s.Addr = p.addr
	}
	arg, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := onCore(b.pinned, "1", program, "candidate", string(arg))
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s %s: %w", s.Row, s.Variant, s.Candidate, err)
	}
	var out outcome
	err = json.Unmarshal(stdout.Bytes(), &out)
	return out, err
}

func (b *bench) stopServers() {
	for k, p := range b.servers {
		p.stop()
		delete(b.servers, k)
	}
}

// onCore is a command that runs on one core if pinned.
func onCore(pinned bool, core, program string, args ...string) *exec.Cmd {
	if pinned {
		return exec.Command("taskset", append([]string{"-c", core, program}, args...)...)
	}
	return exec.Command(program, args...)
}

// process is a server of ours in its own process. It ends when its standard
// input does, so it cannot outlive this program.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	addr  string
}

func startServer(program, kind string, pinned bool) (*process, error) {
	p := &process{cmd: onCore(pinned, "0", program, "serve", kind)}
	p.cmd.Stderr = os.Stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := readLine(stdout)
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("server %s did not start: %w", kind, err)
	}
	p.addr = strings.TrimSpace(line)
	return p, nil
}

func readLine(r io.Reader) (string, error) {
	var line []byte
	one := make([]byte, 1)
	for {
		if _, err := io.ReadFull(r, one); err != nil {
			return "", err
		}
		if one[0] == '\n' {
			return string(line), nil
		}
		line = append(line, one[0])
	}
}

func (p *process) stop() {
	p.stdin.Close()
	ended := make(chan struct{})
	go func() { p.cmd.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(2 * time.Second):
		p.cmd.Process.Kill()
		<-ended
	}
}
