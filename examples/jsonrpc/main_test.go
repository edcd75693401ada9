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

// The program runs as it is: the blocks that were missed are fetched, and a block that was
// replaced is named.
func TestRun(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-demo", "-n", "7")
	cmd.Env = append(os.Environ(), "RUN_PROGRAM=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	const want = `block 0x1 a1
block 0x2 a2
missed 0x3 a3
missed 0x4 a4
block 0x5 a5
diverged: blocks after 4 do not count
block 0x5 b5
block 0x6 b6
`
	if string(out) != want {
		t.Errorf("got\n%s", out)
	}
}
