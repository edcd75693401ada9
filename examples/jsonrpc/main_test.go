package main

import (
	"testing"

	"github.com/limpet-go/limpet/examples/internal/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

// The program runs as it is: the blocks that were missed are fetched, and a block that was
// replaced is named.
func TestRun(t *testing.T) {
	out, _ := program.Output(t, "-demo", "-n", "7")
	const want = `block 0x1 a1
block 0x2 a2
missed 0x3 a3
missed 0x4 a4
block 0x5 a5
diverged: blocks after 4 do not count
block 0x5 b5
block 0x6 b6
`
	if out != want {
		t.Errorf("got\n%s", out)
	}
}
