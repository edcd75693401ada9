package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// sabotages are planted faults, which the judge must notice: a message that was acknowledged is missing in the log; one is in it twice; two
// arrive in the wrong order; a hole is no gap.
var sabotages = []string{"drop", "double", "swap", "hole"}

// verdict is what the oracle has found.
type verdict struct {
	logged int // messages in the log
	lost   int // messages that were acknowledged and are not in it
	wrong  []string
}

// judge compares what the clients saw with what the log holds at the end. s was opened after the end.
func (l *load) judge(ctx context.Context, s store, lossy bool) (v verdict, err error) {
	entries, err := readAll(ctx, s)
	if err != nil {
		return v, err
	}
	v.logged = len(entries)
	if l.sabotage == "drop" {
		entries = entries[1:] // all have been acknowledged
	}
	for _, sub := range l.subs {
		h := limpettest.Held{Sub: sub.name, Epoch: s.View().Epoch, Complete: true}
		for _, e := range entries {
			if native.Match(sub.pattern, e.Topic) {
				h.Entries = append(h.Entries, limpettest.HeldEntry{Offset: e.Offset, ID: uuid.UUID(e.ID)})
			}
		}
		l.rec.Record(h)
	}
	trace := spoil(l.rec.Trace(), l.sabotage)
	for _, found := range limpettest.Check(trace) {
		if lossy && found.Invariant == "I5" && strings.Contains(found.What, "was acknowledged, but no log holds it") {
			v.lost++
		} else {
			v.wrong = append(v.wrong, found.String())
		}
	}
	for _, e := range l.errs {
		v.wrong = append(v.wrong, e.Error())
	}
	for _, sub := range l.subs {
		gaps, resets := sub.gaps.Load(), sub.resets.Load()
		switch {
		case gaps > 0 || resets > 0 && !lossy:
			v.wrong = append(v.wrong, fmt.Sprintf("%s: %d gaps, %d resets, and nothing was lost", sub.name, gaps, resets))
		case resets == 0 && lossy:
			v.wrong = append(v.wrong, sub.name+": messages were lost, and there was no reset")
		}
	}
	return v, nil
}

// spoil plants a fault in a trace.
func spoil(t limpettest.Trace, sabotage string) limpettest.Trace {
	before := map[string]int{}
	for i, e := range t {
		d, is := e.(limpettest.Delivered)
		if !is || !strings.HasPrefix(d.Sub, "**") {
			continue
		}
		last, known := before[d.Sub]
		before[d.Sub] = i
		switch {
		case sabotage == "swap" && known:
			t[i], t[last] = t[last], t[i]
			return t
		case sabotage == "hole" && known:
			return append(t[:i], t[i+1:]...)
		}
	}
	return t
}

// readAll reads all messages of a log from which nothing was trimmed.
func readAll(ctx context.Context, s server.Store) (all []*server.Entry, err error) {
	if err := s.Sync(ctx); err != nil {
		return nil, fmt.Errorf("the log cannot be read: %w", err)
	}
	buf := make([]*server.Entry, 500)
	for from := uint64(1); ; {
		n, first, err := s.Read(ctx, from, buf)
		switch {
		case err != nil:
			return nil, fmt.Errorf("the log cannot be read: %w", err)
		case n == 0 && from <= s.View().Head:
			return nil, fmt.Errorf("the log cannot be read from %d on: the head is %d, the first %d", from, s.View().Head, first)
		case n == 0:
			return all, nil
		}
		all = append(all, buf[:n]...)
		from = buf[n-1].Offset + 1
	}
}

// count is how often something has happened, and how often it must for the run to show something.
type count struct {
	what     string
	n, least int
}

// result is what a run has found.
type result struct {
	run, engine, proxy string
	counts             []count
	verdict            verdict
	outcomes           map[limpet.Outcome]int
	delivered          int64
	recovered          uint64
	worst, p99         time.Duration // until an acknowledgement
	resumed            time.Duration // from a client's first attempt until its session was resumed, 99th percentile
	settled            time.Duration // the longest time after a fault until everything moved again
	took               time.Duration
	err                error // the run could not be made
}

// failures are what was wrong with the run.
func (r *result) failures() (list []string) {
	if r.err != nil {
		list = append(list, r.err.Error())
	}
	for _, c := range r.counts {
		if c.n < c.least {
			list = append(list, fmt.Sprintf("%d %s, want %d or more: the run shows nothing", c.n, c.what, c.least))
		}
	}
	return append(list, r.verdict.wrong...)
}

// String is the line of the run.
func (r *result) String() string {
	state := "ok  "
	if len(r.failures()) > 0 {
		state = "FAIL"
	}
	return fmt.Sprintf("%s %-7s %-9s %-7s %s; %d acknowledged, %d unknown, %d in the log, %d delivered; worst %v, p99 %v, resumed %v, settled %v; %d violations; %v", state, r.run, r.engine,
		r.proxy, r.faults(), r.outcomes[limpet.Acked], r.outcomes[limpet.Unknown], r.verdict.logged, r.delivered, round(r.worst), round(r.p99), round(r.resumed), round(r.settled),
		len(r.verdict.wrong), r.took.Round(time.Second))
}

// faults returns what has happened, and how often.
func (r *result) faults() string {
	var faults []string
	for _, c := range r.counts {
		faults = append(faults, fmt.Sprint(c.n, " ", c.what))
	}
	return strings.Join(faults, ", ")
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// row is the row of the run in the table.
func (r *result) row() string {
	return fmt.Sprintf("| %s | %s | %s | %s | %d | %d | %d | %.2f s | %d ms | %d ms | %.2f s | %d |", r.run, r.engine, r.proxy, r.faults(), r.outcomes[limpet.Acked],
		r.delivered, r.recovered, r.worst.Seconds(), r.p99.Milliseconds(), r.resumed.Milliseconds(), r.settled.Seconds(), len(r.verdict.wrong))
}

const tableHead = `| run | engine | proxy | faults | acknowledged | delivered | sessions recovered | worst wait | p99 | resumed, p99 | settled | violations |
|---|---|---|---|---|---|---|---|---|---|---|---|`
