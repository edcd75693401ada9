package main

import (
	"os"
	"strings"
	"testing"
)

// The README shows this program, not one like it, and main has 20 lines.
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
		t.Errorf("main has %d lines, want 20 at most", lines)
	}
	if n := strings.Count(string(readme), "\n"); n > 150 {
		t.Errorf("README.md has %d lines, want 150 at most", n)
	}
}

// The program must work as it stands.
func TestRun(t *testing.T) { main() }
