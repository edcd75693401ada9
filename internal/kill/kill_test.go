package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/server"
)

// Kills at all points cost nothing.
func TestKills(t *testing.T) {
	steps := 0
	r, err := run(t.TempDir(), "", 0, 1, 12, func(result) { steps++ })
	assert.NoError(t, err)
	if r.Kills != 12 || steps != r.Kills+r.Idle || r.Messages == 0 {
		t.Errorf("%d steps, %+v", steps, r)
	}
}

// Each planted fault is noticed.
func TestPlantedFaults(t *testing.T) {
	if len(faults) < 7 {
		t.Errorf("%d faults", len(faults))
	}
	for _, fault := range faults {
		t.Run(fault, func(t *testing.T) {
			r, err := run(t.TempDir(), fault, 0, 1, 300, func(result) {})
			if err == nil {
				t.Fatalf("%d kills have not shown it", r.Kills)
			}
			t.Logf("%v", err)
		})
	}
}

// Kills of a server cost nothing, and a server that acknowledges before the message is durable is noticed.
func TestServerKills(t *testing.T) {
	r, err := runServers(t.TempDir(), "", 0, 1, 5, func(result) {})
	assert.NoError(t, err)
	if r.Kills != 5 || r.Messages == 0 {
		t.Errorf("%+v", r)
	}
	if r, err := runServers(t.TempDir(), "early", 0, 1, 300, func(result) {}); err == nil || !strings.Contains(err.Error(), "is lost") {
		t.Errorf("%d kills have not shown the fault: %v", r.Kills, err)
	}
}

// change is a change of a server with messages of a session.
func change(session string) *server.Change { return &server.Change{Session: session} }

// kept is an outbox with messages.
func kept(settled bool, numbers ...int) *outbox.Content {
	c := new(outbox.Content)
	for _, n := range numbers {
		c.Messages = append(c.Messages, outbox.Message{ID: idOf(n), Settled: settled})
	}
	return c
}

// The oracle knows each promise, and which one was broken.
func TestOracle(t *testing.T) {
	for _, c := range []struct {
		what string
		do   func(*trace)
	}{
		{"", func(tr *trace) {
			tr.line("returned", 1)
			tr.committed(change("a"), []int{1, 3})
			tr.line("acked", 1)
			tr.after(kept(false, 2))
		}},
		{"neither the outbox nor the server", func(tr *trace) { tr.line("returned", 1); tr.after(kept(false, 2)) }},
		{"neither the outbox nor the server", func(tr *trace) { tr.line("returned", 1); tr.after(kept(true, 1)) }},
		{"after Flush", func(tr *trace) { tr.line("returned", 1); _ = tr.drained(kept(false, 1)) }},
		{"message 1 is doubled", func(tr *trace) { tr.committed(change("a"), []int{1}); tr.committed(change("a"), []int{1}) }},
		{"message 1 comes after 2", func(tr *trace) { tr.committed(change("a"), []int{2, 1}) }},
		{"second session", func(tr *trace) { tr.committed(change("a"), []int{1}); tr.committed(change("b"), []int{2}) }},
		{"was reported as acked", func(tr *trace) { tr.line("acked", 1) }},
		{"has the outcome Unknown", func(tr *trace) { tr.line("Unknown", 1) }},
	} {
		tr := newTrace()
		c.do(tr)
		if err := tr.err(); (err != nil) != (c.what != "") || err != nil && !strings.Contains(err.Error(), c.what) {
			t.Errorf("%v, want %q", err, c.what)
		}
	}
}

// A kill is counted by what it has left.
func TestPhases(t *testing.T) {
	tr := newTrace()
	for n := 1; n <= 4; n++ {
		tr.line("begin", n)
		tr.line("end", n)
	}
	for _, c := range []struct {
		do   func()
		left *outbox.Content
		want phase
	}{
		{func() {}, kept(true, 1), phases},
		{func() {}, kept(false, 1), unsent},
		{func() { tr.seen[1] = true }, kept(false, 1), unacked},
		{func() { tr.acked[1] = true }, kept(false, 1), untrimmed},
		{func() { tr.line("begin", 5) }, kept(false), unwritten},
		{func() { tr.line("begin", 6) }, kept(false, 6), unsynced},
	} {
		c.do()
		var want [phases]bool
		if c.want < phases {
			want[c.want] = true
		}
		if in := tr.after(c.left); in != want {
			t.Errorf("%v, want %v", in, want)
		}
	}
}

// A run goes on behind the rounds that are noted whole.
func TestJournal(t *testing.T) {
	journal := filepath.Join(t.TempDir(), "journal")
	for n := range 2 {
		assert.NoError(t, note(journal, result{Round: n, Seed: 9, Kills: 100, Phases: [phases]int{20, 20, 20, 20, 20}}))
	}
	text, err := os.ReadFile(journal)
	assert.NoError(t, err)
	assert.NoError(t, os.WriteFile(journal, append(text, `{"Round":2,"Ki`...), 0o600))
	rounds, err := read(journal)
	assert.NoError(t, err)
	if len(rounds) != 2 || rounds[1].Round != 1 || rounds[1].Seed != 9 {
		t.Errorf("%+v", rounds)
	}
	assert.NoError(t, runAll(false, 200, 1, journal, "", "")) // there is nothing left to do
	assert.NoError(t, os.WriteFile(journal, []byte("x\n"), 0o600))
	if _, err := read(journal); err == nil {
		t.Error("a damaged journal was read")
	}
}

// A run that has hardly reached a phase has failed.
func TestReport(t *testing.T) {
	r := result{Kills: 104, Phases: [phases]int{25, 25, 25, 25, 4}}
	if err := r.report(time.Second, false); err == nil || !strings.Contains(err.Error(), phaseNames[untrimmed]) {
		t.Error(err)
	}
	r.Phases[untrimmed] = leastKills
	assert.NoError(t, r.report(time.Second, false))
}
