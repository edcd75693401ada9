package main

import (
	"strings"
	"testing"

	"github.com/limpet-go/limpet/examples/internal/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

// The connection breaks in the middle, after the server has taken three orders without an
// answer: one was allowed to be placed twice, and the outcome of the others is unknown.
func TestRun(t *testing.T) {
	text, _ := program.Output(t, "-demo")
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
