package main

import (
	"testing"

	"github.com/limpet-go/limpet/examples/internal/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

// The program runs as it is: the order whose acknowledgement was lost comes again, and is
// recognised.
func TestRun(t *testing.T) {
	out, _ := program.Output(t, "-demo")
	const want = `order 1
order 2
reconnected: the queue has kept its orders
order 2 again: done already
order 3
order 4
order 5
`
	if out != want {
		t.Errorf("got\n%s", out)
	}
}
