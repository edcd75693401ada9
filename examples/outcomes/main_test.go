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

// The connection breaks in the middle, after the server has taken three orders without an
// answer: one was allowed to be placed twice, and the outcome of the others is unknown.
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
	if err != nil {
		t.Fatal(err)
	}
	text := string(out)
	for _, want := range []string{
		`server: order {"pearls":4}, placed before: true`,
		"1       acked ", "2       rejected ", "3       acked ", "4       acked ", "5       unknown ", "6       unknown ",
		"no credit for two pearls",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	if n := strings.Count(text, "server: order"); n != 7 {
		t.Errorf("the server got %d orders, want 7: the unknown ones are not sent again", n)
	}
	if t.Failed() {
		t.Log(text)
	}
}
