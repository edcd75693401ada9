package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// module writes a small module with a guard for add.
func module(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":      "module example.org/m\n\ngo 1.25\n",
		"add.go":      "package m\n\nfunc add(a, b int) int { return a + b }\n\nfunc unguarded() int { return 1 }\n",
		"add_test.go": "package m\n\nimport \"testing\"\n\nfunc TestAdd(t *testing.T) {\n\tif add(1, 2) != 3 {\n\t\tt.Fatal(\"wrong sum\")\n\t}\n}\n\nfunc TestRed(t *testing.T) { t.Fatal(\"always\") }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var minus = mutation{name: "minus", file: "add.go", search: "return a + b", replace: "return a - b", test: "-run ^TestAdd$ ."}

func TestRun(t *testing.T) {
	dir, other := module(t), module(t)
	edit := func(f func(*mutation)) []mutation { m := minus; f(&m); return []mutation{m} }
	for _, c := range []struct {
		name  string
		table []mutation
		err   string // "" for caught
		out   string

		budget time.Duration
	}{
		{"caught", []mutation{minus}, "", "1 mutations, all caught", 0},
		{"nothing catches it", edit(func(m *mutation) { m.search, m.replace = "return 1", "return 2" }), "1 of 1 mutations not caught", "SURVIVED", 0},
		{"does not compile", edit(func(m *mutation) { m.replace = "return" }), "1 of 1 mutations not caught", "does not compile", 0},
		{"red for another reason", edit(func(m *mutation) { m.says = "leaked" }), "1 of 1 mutations not caught", "ANOTHER REASON", 0},
		{"says what it should", edit(func(m *mutation) { m.says = "wrong s.m" }), "", "all caught", 0},
		{"search text absent", edit(func(m *mutation) { m.search = "return a * b" }), "1 of 1 mutations not caught", "occurs 0 times", 0},
		{"search text twice", edit(func(m *mutation) { m.search = "return" }), "1 of 1 mutations not caught", "occurs 2 times", 0},
		{"no such file", edit(func(m *mutation) { m.file = "away.go" }), "1 of 1 mutations not caught", "there is no away.go", 0},
		{"red before the mutation", edit(func(m *mutation) { m.test = "-run ^TestRed$ ." }), "unchanged tree: red", "", 0},
		{"no such test", edit(func(m *mutation) { m.test = "-run ^TestAway$ ." }), "unchanged tree: no test ran", "", 0},
		{"no mutation", nil, "no mutation", "", 0},
		{"time for all", []mutation{minus}, "", "1 mutations, all caught", time.Hour},
		{"no time", []mutation{minus}, "too short for any", "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			err := run([]string{dir, other}, c.table, c.budget, &out)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("error %v, want %q\n%s", err, c.err, out.String())
			}
			if !strings.Contains(out.String(), c.out) {
				t.Errorf("no %q in\n%s", c.out, out.String())
			}
		})
	}
	if b, err := os.ReadFile(filepath.Join(dir, "add.go")); err != nil || !strings.Contains(string(b), "return a + b") {
		t.Errorf("the file was not restored: %v\n%s", err, b)
	}
}

// Every entry can be applied to this tree, and each has a name of its own. Whether its
// guard notices, only the run shows.
func TestTableApplies(t *testing.T) {
	names := map[string]bool{}
	for _, m := range table {
		b, err := os.ReadFile(filepath.Join("../..", m.file))
		if n := strings.Count(string(b), m.search); err != nil || n != 1 {
			t.Errorf("%s: the search text occurs %d times in %s: %v", m.name, n, m.file, err)
		}
		if names[m.name] {
			t.Errorf("two entries are named %q", m.name)
		}
		names[m.name] = true
	}
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		name   string
		raw    string
		passed bool
		want   result
	}{
		{"passed", `{"Action":"run","Test":"TestA"}` + "\n" + `{"Action":"pass"}`, true, green},
		{"failed", `{"Action":"run","Test":"TestA"}` + "\n" + `{"Action":"fail","Test":"TestA"}`, false, red},
		{"does not build", `{"Action":"build-fail"}` + "\n" + `{"Action":"fail","FailedBuild":"m"}`, false, unbuilt},
		{"another package does not build", `{"Action":"run","Test":"TestA"}` + "\n" + `{"Action":"fail","FailedBuild":"m"}`, false, unbuilt},
		{"no tests", `{"Action":"pass"}`, true, untested},
		{"the process failed before a test", `{"Action":"fail"}`, false, untested},
	} {
		got, _, err := classify([]byte(c.raw), c.passed, nil)
		if err != nil || got != c.want {
			t.Errorf("%s: %v, %v, want %v", c.name, got, err, c.want)
		}
	}
	if _, _, err := classify([]byte("flag provided but not defined"), false, nil); err == nil {
		t.Error("go test that did not start is no error")
	}
}

// An entry that does not compile is reported, before it runs.
func TestEntriesThatDoNotCompile(t *testing.T) {
	unused := minus
	unused.name, unused.replace = "unused", "sum := a; return a + b"
	err := checkCompiles(module(t), []mutation{minus, unused})
	if err == nil || !strings.Contains(err.Error(), "unused: does not compile") || strings.Contains(err.Error(), "minus") {
		t.Errorf("error %v, want only the entry unused", err)
	}
}
