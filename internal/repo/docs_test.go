package repo

import (
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A program in the comment of a package compiles: readers copy it.
func TestDocsProgramsCompile(t *testing.T) {
	files, err := filepath.Glob(root + "/wire/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	programs := 0
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		program := programIn(f.Doc.Text())
		if program == "" {
			continue
		}
		programs++
		file := filepath.Join(t.TempDir(), "main.go")
		if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "go", "vet", file)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("the program in the comment of %s: %v\n%s", name, err, out)
		}
	}
	if programs < 5 {
		t.Errorf("%d programs, want at least 5", programs)
	}
}

// programIn returns the program that doc shows, up to the text behind it; empty if there
// is none.
func programIn(doc string) string {
	_, rest, found := strings.Cut(doc, "\n\tpackage main\n")
	if !found {
		return ""
	}
	program := "package main\n"
	for line := range strings.Lines(rest) {
		code, indented := strings.CutPrefix(line, "\t")
		if !indented && line != "\n" {
			break
		}
		program += code
	}
	return program
}
