package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// testPackage writes a package with two files of tests and returns its folder.
func testPackage(t *testing.T) string {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module m\n\ngo 1.25\n",
		"m.go":   "package m\n\nfunc sum(a, b int) int { return a + b }\n",
		"a_test.go": `package m

import (
	"os"
	"strings"
	"testing"
)

func TestMain(m *testing.M) { started = true; os.Exit(m.Run()) }

// TestA needs a type of another file, with its methods.
func TestA(t *testing.T) {
	if v := (pair{one, two}); !started || v.sum() != three {
		t.Error(v)
	}
}

func TestB(t *testing.T) { t.Log(strings.ToUpper(onlyB)) }

func TestProgram(t *testing.T) { t.Log(os.Args[0]) }
`,
		"b_test.go": `package m

import (
	"math/rand/v2"
	"testing"
)

var started bool

const (
	one = iota + 1
	two
	three
)

type pair struct{ a, b int }

func (p *pair) sum() int { return sum(p.a, p.b) }

const onlyB = "b"

func TestC(t *testing.T) { t.Log(rand.N(2)) }
`,
		"c_test.go": "package m\n\nimport \"testing\"\n\nfunc TestD(t *testing.T) { t.Log(onlyB) }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestStrip(t *testing.T) {
	dir := testPackage(t)
	all, err := readTests(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		run            string
		holds, without []string
	}{
		{"^TestA$", []string{"TestMain", "TestA needs", "TestA", "started", "three", "type pair", "(p *pair) sum", `"os"`}, []string{"TestB", "onlyB", "TestC", "TestD", "rand", `"strings"`}},
		{"^TestC$", []string{"TestMain", "started", "math/rand/v2"}, []string{"TestA", "pair", "onlyB"}},
		{"^TestD$", []string{"TestD", "onlyB"}, []string{"rand", "TestB"}},
	} {
		to := t.TempDir()
		overlay, err := all.strip(c.run, to)
		if err != nil || overlay == "" {
			t.Fatalf("%s: %q, %v", c.run, overlay, err)
		}
		var text strings.Builder
		files, _ := filepath.Glob(filepath.Join(to, "*_test.go"))
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text.Write(data)
		}
		for _, word := range c.holds {
			if !strings.Contains(text.String(), word) {
				t.Errorf("%s lacks %s:\n%s", c.run, word, text.String())
			}
		}
		for _, word := range c.without {
			if strings.Contains(text.String(), word) {
				t.Errorf("%s has %s:\n%s", c.run, word, text.String())
			}
		}
	}
	if overlay, err := all.strip("^TestProgram$", t.TempDir()); overlay != "" || err != nil {
		t.Errorf("a test that starts its own program is stripped: %q, %v", overlay, err)
	}
}

// A guard that is stripped is green on the unchanged tree and red on a broken one, and one whose
// stripped form does not compile runs with everything.
func TestStrippedGuard(t *testing.T) {
	dir := testPackage(t)
	check := func(args string, want result) {
		t.Helper()
		r, output, err := goTest(dir, args)
		if err != nil || r != want {
			t.Errorf("%s: %v, %v, want %v\n%s", args, r, err, want, output)
		}
	}
	check("-run ^TestA$ .", green)
	check("-run ^TestA$/^sub$ .", green)
	check("-run ^TestNone$ .", untested)
	check("-run ^TestProgram$ .", green)
	if err := os.WriteFile(filepath.Join(dir, "m.go"), []byte("package m\n\nfunc sum(a, b int) int { return a - b }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	check("-run ^TestA$ .", red)
	check("-run ^TestB$ .", green)
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "odd"), 0o755),
		os.WriteFile(filepath.Join(dir, "odd", "odd.go"), []byte("package even\n\nconst X = 1\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "d_test.go"), []byte("package m\n\nimport (\n\t\"testing\"\n\n\t\"m/odd\"\n)\n\nfunc TestE(t *testing.T) { t.Log(even.X) }\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	check("-run ^TestE$ .", green)
}
