package main

import (
	"bufio"
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// README.md shows exactly this program, first of all.
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
	_, first, _ := strings.Cut(string(readme), "```go\n")
	if !strings.HasPrefix(first, "package main\n"+body+"```\n") {
		t.Error("the first program of README.md is not that of main.go")
	}
	if n := strings.Count(string(readme), "\n"); n > 150 {
		t.Errorf("README.md has %d lines, want at most 150", n)
	}
}

// main has at most ten statements, those inside others included.
func TestMainIsShort(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "main.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == "main" {
			n += statements(fn.Body)
		}
	}
	if n == 0 || n > 10 {
		t.Errorf("main has %d statements, want 1 to 10", n)
	}
}

// statements counts the statements in n. A block counts as what is in it.
func statements(n ast.Node) (count int) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.BlockStmt:
		case ast.Stmt:
			count++
		}
		return true
	})
	return count
}

func TestStatements(t *testing.T) {
	const src = `package x
func f() {
	a := 1
	for a < 3 {
		if a++; a == 2 {
			continue
		}
	}
	defer func() { a = 0 }()
}`
	f, err := parser.ParseFile(token.NewFileSet(), "x.go", src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	if n := statements(f); n != 7 {
		t.Errorf("%d statements, want 7", n)
	}
}

// TestMain runs the program instead of the tests if it was started by TestRun.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_PROGRAM") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// The program runs as it is: five prices on each connection, and a reset in between.
func TestRun(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-demo", "-pause", "1ms")
	cmd.Env = append(os.Environ(), "RUN_PROGRAM=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for in := bufio.NewScanner(out); len(lines) < 11 && in.Scan(); {
		lines = append(lines, in.Text())
	}
	cancel() // it never ends by itself
	if err := cmd.Wait(); err == nil {
		t.Error("the program ended by itself")
	}
	if len(lines) != 11 || lines[0] != "PEARL-USD 101.50" || lines[5] != "reset unverifiable" || lines[10] != "PEARL-USD 110.50" {
		t.Errorf("got\n%s", strings.Join(lines, "\n"))
	}
}
