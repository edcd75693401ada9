package main

import (
	"os"
	"strings"
	"testing"
)

// main has at most 20 lines.
func TestMainIsShort(t *testing.T) {
	program, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, f, found := strings.Cut(string(program), "func main() {\n")
	if !found {
		t.Fatal("no main")
	}
	f, _, _ = strings.Cut(f, "\n}\n")
	lines := 0
	for l := range strings.SplitSeq(f, "\n") {
		if strings.TrimSpace(l) != "" {
			lines++
		}
	}
	if lines > 20 {
		t.Errorf("main has %d lines, want at most 20", lines)
	}
}

// The program must run as it is.
func TestRun(t *testing.T) { main() }
