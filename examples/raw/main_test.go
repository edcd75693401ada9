package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/examples/internal/program"
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

func TestMain(m *testing.M) { program.Main(m, main) }

// The program runs as it is: five prices on each connection, and a reset in between.
func TestRun(t *testing.T) {
	lines := program.Lines(t, 11, "-demo", "-pause", "1ms")
	if len(lines) != 11 || lines[0] != "PEARL-USD 101.50" || lines[5] != "reset unverifiable" || lines[10] != "PEARL-USD 110.50" {
		t.Errorf("got\n%s", strings.Join(lines, "\n"))
	}
}
