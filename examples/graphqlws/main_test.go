package main

import (
	"testing"

	"github.com/limpet-go/limpet/examples/internal/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

// The program runs as it is: no trade is lost or comes twice on the second connection,
// and the third shows the hole.
func TestRun(t *testing.T) {
	out, _ := program.Output(t, "-demo", "-pause", "1ms", "-n", "10")
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
	if out != want {
		t.Errorf("got\n%s", out)
	}
}
