package main

import (
	"bytes"
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/file"
)

var lastLine = regexp.MustCompile(`^livefeed: events=1707 delivered=(\d+) lost=(\d+) duplicated=(\d+) reordered=(\d+) alerts=(\d+) acked=(\d+) ` +
	`reconnects=(\d+) faults=cut:(\d+),reset:(\d+),blackhole:(\d+),refuse:(\d+) elapsed=\d+\.\ds$`)

// start runs the program and returns its exit status, its output and the
// fields of its last line.
func start(ctx context.Context, t *testing.T, args ...string) (code int, out string, fields []string) {
	t.Helper()
	var b bytes.Buffer
	code = livefeed(ctx, args, &b, &b, false)
	out = b.String()
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	m := lastLine.FindStringSubmatch(lines[len(lines)-1])
	if m == nil {
		t.Fatalf("%q: the last line is not the result:\n%s", args, out)
	}
	return code, out, m[1:]
}

// delivered, lost, duplicated, reordered, alerts, acked
var exactly = []string{"1707", "0", "0", "0", "85", "85"}

func TestWithoutFaults(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "run.svg")
	code, out, f := start(t.Context(), t, "-faults", "none", "-speed", "50", "-picture", file)
	// Reconnects are not counted: on a busy machine half a second of silence, the
	// limit here, is common.
	if code != 0 || strings.Join(f[:6], " ") != strings.Join(exactly, " ") || strings.Join(f[7:], " ") != "0 0 0 0" {
		t.Errorf("exit %d\n%s", code, out)
	}
	if !strings.Contains(out, "heartbeat 200ms, backoff 50ms to 500ms") {
		t.Errorf("the time constants are missing:\n%s", out)
	}
	if svg, err := os.ReadFile(file); err != nil || !bytes.Contains(svg, []byte("1707 earthquakes")) {
		t.Errorf("picture: %v", err)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	// At speed 20 the file ends long before the faults do.
	for level, speed := range map[string]string{"mild": "20", "harsh": "4"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && level == "harsh" {
				t.Skip("-short: a harsh run takes ten seconds; mild runs")
			}
			code, out, f := start(t.Context(), t, "-faults", level, "-speed", speed, "-seed", "3")
			if code != 0 || strings.Join(f[:6], " ") != strings.Join(exactly, " ") {
				t.Errorf("exit %d\n%s", code, out)
			}
		})
	}
}

// A sabotaged server is detected by the score.
func TestSabotage(t *testing.T) {
	t.Parallel()
	for plan, want := range map[string]string{
		"lose:700":  "1706 1 0 0",
		"dup:1707":  "1708 0 1 0",
		"swap:1706": "1707 0 0 1",
	} {
		code, out, f := start(t.Context(), t, "-faults", "none", "-speed", "50", "-sabotage", plan)
		if code != 1 || strings.Join(f[:4], " ") != want {
			t.Errorf("%s: exit %d, want 1 and %s\n%s", plan, code, want, out)
		}
	}
}

func TestRunningServer(t *testing.T) {
	t.Parallel()
	s, err := server.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s)
	defer h.Close()
	defer s.Close()
	for range 2 { // the second run ignores what the first one left in the log
		code, out, f := start(t.Context(), t, "-faults", "none", "-speed", "20", "-addr", strings.Replace(h.URL, "http", "ws", 1))
		if code != 0 || strings.Join(f[:6], " ") != strings.Join(exactly, " ") {
			t.Errorf("exit %d\n%s", code, out)
		}
	}
}

// The second run goes on with the log of the first one.
func TestDurable(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "server")
	for range 2 {
		code, out, f := start(t.Context(), t, "-speed", "20", "-durable", dir)
		if code != 0 || strings.Join(f[:6], " ") != strings.Join(exactly, " ") {
			t.Errorf("exit %d\n%s", code, out)
		}
	}
	store, err := file.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if head := store.View().Head; head < 2*1707 {
		t.Errorf("the log ends at %d", head)
	}
}

// A run that cannot finish ends, with the last line.
func TestDeadline(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"-addr", "ws://127.0.0.1:1/"}, // nothing listens there
		{"-speed", "0.01"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		code, out, f := start(ctx, t, args...)
		cancel()
		if code != 1 || f[1] == "0" {
			t.Errorf("%q: exit %d\n%s", args, code, out)
		}
	}
}
