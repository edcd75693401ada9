package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/examples/internal/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

// process is the program that runs, and what it prints.
type process struct {
	*exec.Cmd
	lines *bufio.Scanner
	log   strings.Builder
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{Cmd: program.Command(t, args...)}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines, p.Stderr = bufio.NewScanner(out), &p.log
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// serving starts a server that ends with the test, and returns its URL.
func serving(t *testing.T) string {
	t.Helper()
	p := start(t, "-serve", "127.0.0.1:0")
	t.Cleanup(func() { p.Process.Kill(); p.Wait() })
	if !p.lines.Scan() {
		t.Fatal("the server has printed nothing")
	}
	return p.lines.Text()
}

// ledger is what the README promises about the jobs, whose numbers are their offsets.
type ledger struct {
	t     *testing.T
	done  map[int]int  // how often
	saved int          // all jobs up to this one are in the cursor
	again map[int]bool // jobs that may come again: a consumer that was killed had not saved them
	run   map[int]bool // jobs of the consumer that runs
}

// take enters a line of a consumer. It reports whether that was a job.
func (l *ledger) take(line string) bool {
	var n int
	if _, err := fmt.Sscanf(line, "done %d", &n); err != nil {
		if !strings.HasPrefix(line, "kill -9 ") {
			l.t.Errorf("the consumer printed %q", line)
		}
		return false
	}
	if n <= l.saved || l.run[n] || l.done[n] > 0 && !l.again[n] {
		l.t.Errorf("job %d again; saved was %d, killed consumers had not saved %v", n, l.saved, l.again)
	}
	l.run[n] = true
	l.done[n]++
	return true
}

// end enters how a consumer has ended, and compares its cursor with what was done.
func (l *ledger) end(dir string, killed bool) {
	l.t.Helper()
	store := cursor.File(dir)
	defer store.Close()
	c, err := store.Load(l.t.Context(), "consumer")
	if err != nil {
		l.t.Fatal(err)
	}
	l.saved = int(c.Position.Offset)
	for n := range l.saved {
		if l.done[n+1] == 0 {
			l.t.Fatalf("job %d is lost: the cursor is at %d", n+1, l.saved)
		}
	}
	for n := range l.run {
		switch {
		case n <= l.saved:
		case killed:
			l.again[n] = true
		default:
			l.t.Fatalf("after SIGTERM the cursor is at %d, and job %d is done", l.saved, n)
		}
	}
	clear(l.run)
}

// Whatever signals end the consumers, no job is lost. Jobs are repeated only after SIGKILL,
// and only those that the cursor did not have.
func TestSignals(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no SIGTERM on windows")
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	url, dir := serving(t), t.TempDir()
	l := &ledger{t: t, done: map[int]int{}, again: map[int]bool{}, run: map[int]bool{}}
	kills := []bool{true, true, true, true, true, false, false, false, false, false}
	random.Shuffle(len(kills), func(i, j int) { kills[i], kills[j] = kills[j], kills[i] })
	for _, kill := range append(kills, false) {
		p := start(t, "-url", url, "-dir", dir)
		for jobs := 1 + random.IntN(20); jobs > 0 && p.lines.Scan(); {
			if l.take(p.lines.Text()) {
				jobs--
			}
		}
		signal := syscall.SIGTERM
		if kill {
			signal = syscall.SIGKILL
		}
		if err := p.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		for p.lines.Scan() { // until it has ended
			l.take(p.lines.Text())
		}
		if err := p.Wait(); (err == nil) == kill {
			t.Fatalf("%v: %v\n%s", signal, err, &p.log)
		}
		l.end(dir, kill)
	}
	repeated := 0
	for _, times := range l.done {
		repeated += times - 1
	}
	t.Logf("%d jobs, %d repeated", len(l.done), repeated)
}

// What cannot be right is refused at the start.
func TestRefused(t *testing.T) {
	url, dir := serving(t), t.TempDir()
	first := start(t, "-url", url, "-dir", dir)
	for first.lines.Scan() && !strings.HasPrefix(first.lines.Text(), "done ") {
	}
	refused := func(want error, args ...string) {
		t.Helper()
		p := start(t, append([]string{"-url", url, "-dir", dir}, args...)...)
		for p.lines.Scan() {
			t.Errorf("it printed %q", p.lines.Text())
		}
		if err := p.Wait(); err == nil || !strings.Contains(p.log.String(), want.Error()) {
			t.Errorf("%v; no %q in\n%s", err, want, &p.log)
		}
	}
	refused(cursor.ErrLocked)
	first.Process.Kill()
	first.Wait()
	refused(cursor.ErrOtherFeed, "-topic", "other/*")
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".cursor") {
			if err := os.Truncate(dir+"/"+f.Name(), 10); err != nil {
				t.Fatal(err)
			}
		}
	}
	refused(cursor.ErrCorrupt)
}
