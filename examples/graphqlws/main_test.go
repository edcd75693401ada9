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

// The program runs as it is: no trade is lost or comes twice on the second connection,
// and the third shows the hole.
func TestRun(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-demo", "-pause", "1ms", "-n", "10")
	cmd.Env = append(os.Environ(), "RUN_PROGRAM=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	const want = `trade 1 at 101.50
trade 2 at 102.50
trade 3 at 103.50
trade 4 at 104.50
trade 5 at 105.50
trade 6 at 106.50
trade 7 at 107.50
trade 8 at 108.50
2 trades are missing
trade 11 at 111.50
trade 12 at 112.50
`
	if string(out) != want {
		t.Errorf("got\n%s", out)
	}
}
