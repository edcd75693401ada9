package main

import (
	"strings"
	"testing"

	"github.com/limpet-go/limpet/examples/internal/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

// The program runs as it is, and ends: the connection breaks, and no price is missing.
func TestRun(t *testing.T) {
	out, log := program.Output(t, "-demo")
	const want = `watch: acked, reply ["2 pearls"]
{"price":"101.50"}
{"price":"102.50"}
{"price":"103.50"}
{"price":"104.50"}
{"price":"105.50"}
the client has ended: limpet: permanent failure: open: peer ended the connection with a message (code 41): "the server has disconnected this client"
`
	if out != want || strings.Count(log, "the client is back, and has had offset 3") != 1 {
		t.Errorf("got\n%s\nlog\n%s", out, log)
	}
}
