// Kill kills a publisher with an outbox again and again, at points that it aims at, and compares what the
// server has with what the publisher was promised: nothing may be lost, doubled or reordered, and no
// outcome may be untrue. With -servers it kills a server on a file store instead, while one client publishes.
//
//	go run ./internal/kill -kills 300
//
// With -journal a run that was ended goes on where it was: rounds of 100 kills, each with an outbox and
// a server of its own, are noted when they are complete. -fault plants a fault, which must be noticed.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

const (
	roundKills = 100
	leastKills = 5 // in each phase
)

func main() {
	kills := flag.Int("kills", 300, "kills that count")
	seed := flag.Uint64("seed", rand.Uint64N(1<<32), "of the aims and the times")
	journal := flag.String("journal", "", "go on with the run of this file, and note rounds in it")
	fault := flag.String("fault", "", "plant one of "+strings.Join(faults, ", "))
	dir := flag.String("dir", "", "where directories of outboxes are made; empty: the default of the system")
	servers := flag.Bool("servers", false, "kill servers on a file store, not publishers; -fault early is the one fault")
	flag.Parse()
	if err := runAll(*servers, *kills, *seed, *journal, *fault, *dir); err != nil {
		fmt.Println("FAIL:", err)
		os.Exit(1)
	}
}

// runAll makes all rounds that the journal does not have.
func runAll(servers bool, kills int, seed uint64, journal, fault, dir string) error {
	lives := run
	if servers {
		lives = runServers
	}
	done, err := read(journal)
	if err != nil {
		return err
	}
	if len(done) > 0 {
		seed = done[0].Seed
	}
	var all result
	for _, r := range done {
		all.add(r)
	}
	fmt.Printf("seed %d, %d of %d kills done\n", seed, all.Kills, kills)
	began, next := time.Now(), time.Now().Add(5*time.Second)
	before := all.Kills
	for n := len(done); all.Kills < kills; n++ {
		r, err := lives(dir, fault, n, seed, min(roundKills, kills-all.Kills), func(now result) {
			if time.Now().After(next) {
				next = time.Now().Add(5 * time.Second)
				sum := all
				sum.add(now)
				fmt.Printf("%d kills, %.1f a second, %v\n", sum.Kills, float64(sum.Kills-before)/time.Since(began).Seconds(), sum.Phases)
			}
		})
		if err != nil {
			return err
		}
		all.add(r)
		if err := note(journal, r); err != nil {
			return err
		}
	}
	return all.report(time.Since(began), servers)
}

// add adds a round.
func (r *result) add(o result) {
	r.Kills += o.Kills
	r.Idle += o.Idle
	r.Messages += o.Messages
	for i := range o.Phases {
		r.Phases[i] += o.Phases[i]
	}
}

// report prints the histogram. It is an error if a phase was hardly reached.
func (r *result) report(took time.Duration, servers bool) error {
	fmt.Printf("%d kills in %v, %d more without a message in progress; %d messages, none lost, doubled or reordered\n", r.Kills, took.Round(time.Second), r.Idle, r.Messages)
	var few []error
	for i, n := range r.Phases {
		if servers && (phase(i) == unsent || phase(i) == untrimmed) {
			continue // a server is in neither
		}
		fmt.Printf("  %-26s %6d\n", phaseNames[i], n)
		if n < leastKills {
			few = append(few, fmt.Errorf("%d kills in the phase %q, want %d", n, phaseNames[i], leastKills))
		}
	}
	return errors.Join(few...)
}

// read returns the rounds in a journal. A last line without an end was torn, and its round is run again.
func read(journal string) (rounds []result, err error) {
	if journal == "" {
		return nil, nil
	}
	text, err := os.ReadFile(journal)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	whole := text[:strings.LastIndexByte(string(text), '\n')+1]
	if len(whole) < len(text) {
		if err := os.Truncate(journal, int64(len(whole))); err != nil {
			return nil, err
		}
	}
	for lines := bufio.NewScanner(strings.NewReader(string(whole))); lines.Scan(); {
		var r result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s: %w", journal, err)
		}
		rounds = append(rounds, r)
	}
	return rounds, nil
}

// note appends a round to the journal.
func note(journal string, r result) error {
	if journal == "" {
		return nil
	}
	f, err := os.OpenFile(journal, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	text, err := json.Marshal(r)
	if err == nil {
		_, err = f.Write(append(text, '\n'))
	}
	return errors.Join(err, f.Close())
}
