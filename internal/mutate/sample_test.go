package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestSample(t *testing.T) {
	dir := module(t)
	if err := os.WriteFile(filepath.Join(dir, "add_test.go"), []byte("package m\n\nimport \"testing\"\n\nfunc TestAdd(t *testing.T) {\n\tif add(1, 2) != 3 {\n\t\tt.Fatal(\"wrong sum\")\n\t}\n}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	draw := func(seed uint64) string {
		var out strings.Builder
		err := sample(dir, []string{"*.go"}, 2, seed, &out)
		if err == nil || !strings.Contains(err.Error(), "1 of 2 broken statements survived") {
			t.Errorf("error %v", err)
		}
		return regexp.MustCompile(`[0-9.]+ s\b`).ReplaceAllString(out.String(), "")
	}
	first := draw(7)
	for _, want := range []string{
		"seed 7", "add.go:3 add: ", "caught by TestAdd in .", "1 caught, 0 equivalent, 1 survived\nSURVIVED add.go:5 unguarded: 1 became 0",
	} {
		if !strings.Contains(first, want) {
			t.Errorf("no %q in\n%s", want, first)
		}
	}
	if again := draw(7); again != first {
		t.Errorf("the same seed drew other statements:\n%s\n%s", first, again)
	}
}

// TestBreakages shows every way to break the statements of one function, and that
// text for a reader stays whole.
func TestBreakages(t *testing.T) {
	source := `package m

func f(a, b int, c bool) (n int) {
	if a < b && c {
		n++
	}
	for n < 5 {
		log.Warn("text", 1)
	}
	switch { case c: return 0 }
}

func (x) String() string { return "text" + "text" }
`
	statements, err := breakagesIn("m.go", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range slices.Concat(statements...) {
		lines := strings.Split(source[:b.from]+b.text+source[b.to:], "\n")
		got = append(got, b.what+": "+strings.TrimSpace(lines[b.line-1]))
	}
	want := []string{
		"not `a < b && c`: if !(a < b && c) {",
		"without `if a < b && c { n++ }`: ",
		"return before `if a < b && c { n++ }`: return; if a < b && c {",
		"`a < b && c` with ||: if a < b || c {",
		"`a < b && c` without `c`: if a < b {",
		"`a < b && c` without `a < b`: if c {",
		"`a < b` with <=: if a <= b && c {",
		"without `n++`: ",
		"return before `n++`: return; n++",
		"not `n < 5`: for !(n < 5) {",
		"return before `for n < 5 { log.Warn(\"text\", 1) }`: return; for n < 5 {",
		"`n < 5` with <=: for n <= 5 {",
		"5 became 0: for n < 0 {",
		"return before `switch { case c: return 0 }`: return; switch { case c: return 0 }",
		"not `c`: switch { case !(c): return 0 }",
		"without `case c: return 0`: switch {  }",
		"without `return 0`: switch { case c:  }",
		"0 became 1: switch { case c: return 1 }",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Each pattern of sampled has files: one that was renamed would be left out silently.
func TestSampledFilesExist(t *testing.T) {
	for _, pattern := range sampled {
		if files, err := filepath.Glob(filepath.Join("../..", pattern)); err != nil || len(files) == 0 {
			t.Errorf("%s: %d files, %v", pattern, len(files), err)
		}
	}
}
