package main

import (
	"context"
	"os"
	"os/exec"
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
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	const want = `watch: acked
{"price":"101.50"}
{"price":"102.50"}
{"price":"103.50"}
demo server: the client is back, and has had offset 3
{"price":"104.50"}
{"price":"105.50"}
the client has ended: session
`
	if err != nil || string(out) != want {
		t.Errorf("%v, got\n%s", err, out)
	}
}
