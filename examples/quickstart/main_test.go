package main

import (
	"os"
	"strings"
	"testing"
)

// README.md shows exactly this program, whose main has at most 20 lines.
func TestREADME(t *testing.T) {
	program, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(program), "package main\n")
	if !strings.Contains(string(readme), "```go\npackage main\n"+body+"```\n") {
		t.Error("README.md does not hold the program of main.go")
	}
	_, f, _ := strings.Cut(body, "func main() {\n")
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
	if n := strings.Count(string(readme), "\n"); n > 150 {
		t.Errorf("README.md has %d lines, want at most 150", n)
	}
}

// The program must run as it is.
func TestRun(t *testing.T) { main() }
