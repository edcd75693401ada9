package main

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMain runs the program instead of the tests if it was started by TestRun.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_PROGRAM") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// The program runs as it is, and ends: the connection breaks, and no price is missing.
func TestRun(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-demo")
	cmd.Env = append(os.Environ(), "RUN_PROGRAM=1")
	var log strings.Builder
	cmd.Stderr = &log
	out, err := cmd.Output()
	const want = `watch: acked, reply ["2 pearls"]
{"price":"101.50"}
{"price":"102.50"}
{"price":"103.50"}
{"price":"104.50"}
{"price":"105.50"}
the client has ended: session
`
	if err != nil || string(out) != want || strings.Count(log.String(), "the client is back, and has had offset 3") != 1 {
		t.Errorf("%v, got\n%s\nlog\n%s", err, out, log.String())
	}
}
