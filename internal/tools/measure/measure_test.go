package main

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGrown(t *testing.T) {
	parse := func(text string) map[string]block {
		blocks, err := parseProfile("mode: atomic\n" + strings.ReplaceAll(text, "limpet/", module+"/"))
		if err != nil {
			t.Fatal(err)
		}
		return blocks
	}
	before := parse(`limpet/read.go:1.1,2.2 3 120
limpet/read.go:4.1,5.2 2 100
limpet/dial.go:1.1,2.2 3 7
limpet/internal/frame/read.go:1.1,2.2 5 10
limpet/credit.go:1.1,2.2 5 1
limpet/bench/receive.go:1.1,2.2 5 100
`)
	after := parse(`limpet/read.go:1.1,2.2 3 200
limpet/read.go:1.1,2.2 3 220
limpet/read.go:4.1,5.2 2 200
limpet/read.go:6.1,7.2 9 1
limpet/dial.go:1.1,2.2 3 7
limpet/internal/frame/read.go:1.1,2.2 5 20
limpet/credit.go:1.1,2.2 5 2
limpet/bench/receive.go:1.1,2.2 5 200
`)
	want := map[string]usage{"read.go": {3, 5}, "internal/frame/read.go": {0.1, 5}}
	if got := grown(before, after, 100); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if _, err := parseProfile("a.go:1.1,2.2 3\n"); err == nil {
		t.Error("no error for a line without a count")
	}
}

func TestSizesAndNames(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"long.go":          "package a\n\nfunc long() {\n" + strings.Repeat("\n", maxFunction-1) + "}\n",
		"short.go":         "package a\n\nfunc short() {\n" + strings.Repeat("\n", maxFunction-2) + "}\n\ntype t struct{ long int }\n",
		"file.go":          "package a\n" + strings.Repeat("\n", maxFile),
		"fits.go":          "package a\n" + strings.Repeat("\n", maxFile-1),
		"a_test.go":        "package a\n" + strings.Repeat("\n", maxFile),
		"testdata/file.go": "package a\n" + strings.Repeat("\n", maxFile),
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var sizes, names strings.Builder
	if err := printSizes(&sizes, dir); err != nil {
		t.Fatal(err)
	}
	if want := " 501 lines  file.go\n  61 lines  long.go:3:1 long\n1 of 2 functions over 60 lines, 1 of 4 files over 500\n"; sizes.String() != want {
		t.Errorf("sizes: %q, want %q", sizes.String(), want)
	}
	if err := printNames(&names, dir); err != nil {
		t.Fatal(err)
	}
	if want := "3 unexported names, 1 of two sorts (33.3 %); 0 are a method"; !strings.Contains(names.String(), want) {
		t.Errorf("names: %q, want %q in it", names.String(), want)
	}
}
