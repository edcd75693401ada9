// Command bench compares limpet with its peers, side by side in one run, and
// writes what it measured into docs/performance.md.
//
//	go run . [-rows P1,P3] [-rounds 5] [-label name] [-quick]
//	go run . -against DIR [-rows P1,P3] [-rounds 7] [-times 4]
//
// Client and server are processes of their own, started by this program and
// pinned to different cores where taskset exists. Each candidate of each round
// runs in a fresh process; rounds interleave the candidates. The judge is the
// client's CPU time per message (getrusage), wall time is the witness, and a
// figure is a ratio of two candidates in the same round.
//
// With -against it compares limpet with another checkout of it instead, writes
// nothing, and exits with 1 if a figure differs by more than noise.
package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "serve":
			exitOn(serve(os.Args[2]))
			return
		case "candidate":
			exitOn(candidate(os.Args[2]))
			return
		}
	}
	only := flag.String("rows", "", "rows to run, separated by commas; empty: all that are not marked slow")
	rounds := flag.Int("rounds", 0, "rounds of each row; 0: 5, or 7 with -against")
	label := flag.String("label", "current", "name under which the figures are kept")
	quick := flag.Bool("quick", false, "a twentieth of the messages: does everything run?")
	docs := flag.String("docs", "../docs", "folder of performance.md and the charts")
	render := flag.Bool("render", false, "only write the document anew from the kept figures")
	against := flag.String("against", "", "only compare limpet with another checkout of it, in this folder")
	times := flag.Float64("times", 4, "with -against: multiple of the messages of each row, to even out noise")
	profiles := flag.Bool("profiles", false, "only take CPU and allocation profiles")
	flag.Parse()

	program, err := os.Executable()
	exitOn(err)
	_, err = exec.LookPath("taskset")
	b := &bench{rounds: *rounds, label: *label, quick: *quick, program: program, servers: map[string]*process{}, pinned: err == nil}
	if *against != "" {
		b.rounds = cmp.Or(b.rounds, 7)
		if *quick {
			b.rounds, *times = 1, 0.05
		}
		exitOn(b.against(*against, *times, names(*only)))
		return
	}
	b.rounds = cmp.Or(b.rounds, 5)
	b.results = load(*label)
	switch {
	case *render:
	case *profiles:
		exitOn(b.profile())
	default:
		exitOn(b.run(names(*only)))
	}
	if !*quick {
		exitOn(b.results.save())
		exitOn(writeDocs(*docs))
	}
}

func names(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// spec is the task of a candidate's process.
type spec struct {
	Row, Variant, Candidate string
	Addr                    string // of the server
	Messages                int
	Size                    int // payload bytes
	Pack                    int // envelopes in one WebSocket message
	Buffer                  int // Delivery.Buffer; 0: the default
	Clients                 int
	Subs                    int
	Kills                   int
	Recording               string // of an exchange feed
	Run                     int    // the process, as the server knows it
	CPUProfile, MemProfile  string
}

// outcome is what it measured, by name: "cpu" and "wall" in ns per message,
// "allocs" per message, and whatever else the row is about.
type outcome map[string]float64

// candidate runs one candidate once in this process.
func candidate(arg string) error {
	var s spec
	if err := json.Unmarshal([]byte(arg), &s); err != nil {
		return err
	}
	for _, r := range rows {
		if r.id != s.Row {
			continue
		}
		for _, c := range r.candidates {
			if c.name != s.Candidate {
				continue
			}
			bound := time.AfterFunc(10*time.Minute, func() { exitOn(fmt.Errorf("%s %s: no end after 10 minutes", s.Row, s.Candidate)) })
			defer bound.Stop()
			out, err := c.run(s)
			if err != nil {
				return fmt.Errorf("%s %s %s: %w", s.Row, s.Variant, s.Candidate, err)
			}
			return json.NewEncoder(os.Stdout).Encode(out)
		}
	}
	return fmt.Errorf("no candidate %s in row %s", s.Candidate, s.Row)
}
