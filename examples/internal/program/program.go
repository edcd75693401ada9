// Package program runs an example as a process, from its own test.
package program

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const marker = "RUN_PROGRAM"

// Main is for TestMain: it runs main instead of the tests in a process that Output or Lines
// has started.
func Main(m *testing.M, main func()) {
	if os.Getenv(marker) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// Command returns the program with args, to be started. It ends with the test, and after a
// minute.
func Command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), marker+"=1")
	return cmd
}

// Output runs the program with args to its end and returns what it printed, and what it
// wrote to its standard error.
func Output(t *testing.T, args ...string) (out, log string) {
	t.Helper()
	cmd := Command(t, args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v; it printed\n%s\nand\n%s", err, &stdout, &stderr)
	}
	return stdout.String(), stderr.String()
}

// Lines runs a program that does not end by itself until it has printed n lines, ends it
// and returns them.
func Lines(t *testing.T, n int, args ...string) (lines []string) {
	t.Helper()
	cmd := Command(t, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for in := bufio.NewScanner(out); len(lines) < n && in.Scan(); {
		lines = append(lines, in.Text())
	}
	cmd.Process.Kill()
	if err := cmd.Wait(); err == nil {
		t.Error("the program ended by itself")
	}
	return lines
}
