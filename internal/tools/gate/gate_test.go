// Package gate_test shows that the stages of ci/run can fail: each runs on a small tree that
// has the fault which the stage is for, and on the same tree without it.
package gate_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sound is a tree on which the stages of this test pass.
var sound = map[string]string{
	"go.mod":                  "module example.org/m\n\ngo 1.25\n",
	"README.md":               "# m\n\n```\n$ go get example.org/m\n```\n\n```\ngo run ./examples/livefeed\ngo test ./...\n```\n",
	"m_test.go":               "package m\n\nimport \"testing\"\n\nfunc TestM(t *testing.T) {}\n\nfunc FuzzM(f *testing.F) { f.Fuzz(func(*testing.T, []byte) {}) }\n",
	"plain_test.go":           plainFlag,
	"test/plain_test.go":      ofTest(plainFlag),
	livefeed:                  demonstration,
	"internal/mutate/main.go": "package main\n\nfunc main() {}\n",
	"spec/suite.sh":           "#!/bin/sh\nexit 0\n",
	"metrics/x/go.mod":        "module example.org/m/metrics/x\n\ngo 1.25\n",
	metricsTest:               greenTest,
	"examples/metrics/go.mod": "module example.org/m/examples/metrics\n\ngo 1.25\n",
	metricsExample:            greenTest,
	"codec/x/go.mod":          "module example.org/m/codec/x\n\ngo 1.25\n",
	codecTest:                 greenTest,
	killer:                    kills,

	"examples/sqlcursor/go.mod": "module example.org/m/examples/sqlcursor\n\ngo 1.25\n",
	cursorTest:                  greenTest,
}

const (
	noData         = "package m\n\nimport (\n\t\"fmt\"\n\t\"testing\"\n)\n\nfunc TestM(t *testing.T) { fmt.Println(\"DATA MISSING: feed.ws\") }\n"
	plainFlag      = "package m\n\nimport (\n\t\"flag\"\n\t\"testing\"\n)\n\nvar plain = flag.Bool(\"plain\", false, \"\")\n\nfunc TestPlain(t *testing.T) {\n\tif *plain {\n\t\tt.Log(\"frame layer: library\")\n\t}\n}\n"
	livefeed       = "examples/livefeed/main.go"
	metricsTest    = "metrics/x/m_test.go"
	metricsExample = "examples/metrics/m_test.go"
	codecTest      = "codec/x/m_test.go"
	cursorTest     = "examples/sqlcursor/m_test.go"
	killer         = "internal/kill/main.go"
	kills          = "package main\n\nimport (\n\t\"fmt\"\n\t\"os\"\n\t\"slices\"\n)\n\nfunc main() {\n\tif slices.Contains(os.Args, \"-fault\") {\n" +
		"\t\tfmt.Println(\"FAIL: message 1 is lost\")\n\t\tos.Exit(1)\n\t}\n\tif slices.Contains(os.Args, \"-servers\") {\n\t\tfmt.Println(\"100 kills in 9s\")\n\t\treturn\n\t}\n\tfmt.Println(\"300 kills in 9s\")\n}\n"
	emptyMain     = "package main\n\nfunc main() {}\n"
	failing       = "package main\n\nimport \"os\"\n\nfunc main() { os.Exit(1) }\n"
	demonstration = "package main\n\nimport (\n\t\"fmt\"\n\t\"os\"\n\t\"slices\"\n)\n\nfunc main() {\n\tif slices.Contains(os.Args, \"-sabotage\") {\n" +
		"\t\tfmt.Println(\"livefeed: lost=1 duplicated=1 reordered=1 end\")\n\t\tos.Exit(1)\n\t}\n}\n"
	crashFuzz     = "package m\n\nimport \"testing\"\n\nfunc FuzzM(f *testing.F) {\n\tf.Add([]byte{1})\n\tf.Fuzz(func(t *testing.T, _ []byte) { t.Fatal(1) })\n}\n"
	redTest       = "package m\n\nimport \"testing\"\n\nfunc TestM(t *testing.T) { t.Fatal(1) }\n"
	badlyPut      = "package m\n\nfunc  f() {}\n"
	skipsPlain    = "package m\n\nimport \"testing\"\n\nfunc TestM(t *testing.T) {\n\tt.Run(\"\", func(t *testing.T) {\n\t\tif *plain {\n\t\t\tt.Skip()\n\t\t}\n\t})\n}\n"
	failingMemory = "package test\n\nimport (\n\t\"flag\"\n\t\"testing\"\n)\n\nvar memory = flag.Int(\"memory\", 0, \"\")\n\nfunc TestManyGigabytes(t *testing.T) { t.Fatal(*memory) }\n"
	greenTest     = "package m\n\nimport \"testing\"\n\nfunc TestM(t *testing.T) {}\n"
	noEnd         = "package test\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestM(t *testing.T) { os.Stdout.WriteString(\"no end of line \") }\n"
	windowsBug    = "package m\n\nvar x int = \"\"\n"
)

// ofTest is a test file of the root as one of the package in test/.
func ofTest(file string) string { return strings.Replace(file, "package m", "package test", 1) }

func TestStagesFail(t *testing.T) {
	for _, c := range []struct {
		name, stage string
		change      map[string]string // "" removes the file
		data        bool              // the data directory exists
		says        string
	}{
		{"no block of commands", "readme", map[string]string{"README.md": "# m\n\ngo test ./...\n"}, false, "README.md has no block"},
		{"the demonstration fails", "readme", map[string]string{livefeed: failing}, false, "exit status 1"},
		{"a test fails", "readme", map[string]string{"m_test.go": redTest}, false, "FAIL"},
		{"not formatted", "fmt", map[string]string{"f.go": badlyPut}, false, "gofmt would change: f.go"},
		{"other requirements", "deps", nil, false, "go list -m all differs"},
		{"does not compile on one system", "vet", map[string]string{"m_windows.go": windowsBug}, false, "m_windows.go"},
		{"a test fails", "race", map[string]string{"m_test.go": redTest}, false, "--- FAIL"},
		{"a test fails on the library's frames", "race", map[string]string{"plain_test.go": strings.Replace(plainFlag, "t.Log(", "t.Fatal(", 1)}, false, "FAIL: TestPlain"},
		{"fewer tests on the library's frames", "race", map[string]string{"m_test.go": skipsPlain}, false, "3 tests and subtests passed on the library's frames, fewer than 4"},
		{"a package ignores -plain", "race", map[string]string{"test/plain_test.go": strings.Replace(ofTest(plainFlag), "if *plain", "if !*plain", 1)}, false, "-plain is ignored"},
		{"a test that does not show", "race", map[string]string{"test/m_test.go": noEnd}, false, "not all of the 2 tests of ./test ran"},
		{"data exists and is not found", "race", map[string]string{"m_test.go": noData}, true, "did not find its data"},
		{"no fuzz target", "fuzz", map[string]string{"m_test.go": redTest}, false, "no fuzz target"},
		{"a fuzz target fails", "fuzz", map[string]string{"m_test.go": crashFuzz}, false, "FAIL"},
		{"a model fails", "spec", map[string]string{"spec/suite.sh": "#!/bin/sh\nexit 1\n"}, false, ""},
		{"livefeed fails", "livefeed", map[string]string{livefeed: failing}, false, ""},
		{"livefeed is blind", "livefeed", map[string]string{livefeed: emptyMain}, false, "exited 0, not 1"},
		{"livefeed does not know its flags", "livefeed", map[string]string{livefeed: strings.Replace(demonstration, "Exit(1)", "Exit(2)", 1)}, false, "exited 2, not 1"},
		{"livefeed finds something else", "livefeed", map[string]string{livefeed: strings.Replace(demonstration, "duplicated=1", "duplicated=0", 1)}, false, "did not count duplicated=1"},
		{"a test of a module fails", "metrics", map[string]string{metricsTest: redTest}, false, "--- FAIL"},
		{"the test of the example fails", "metrics", map[string]string{metricsExample: redTest}, false, "--- FAIL"},
		{"a module has no test", "metrics", map[string]string{metricsTest: "package m\n"}, false, "no test of metrics/x ran"},
		{"the example has no test", "metrics", map[string]string{metricsExample: "package m\n"}, false, "no test of examples/metrics ran"},
		{"a module does not pass vet", "metrics", map[string]string{"metrics/x/m.go": "package m\n\nimport \"fmt\"\n\nfunc f() { fmt.Printf(\"%d\", \"\") }\n"}, false, "wrong type"},
		{"a module is not tidy", "metrics", map[string]string{"metrics/x/go.mod": "module example.org/m/metrics/x\n\ngo 1.25\n\nrequire github.com/google/uuid v1.6.0\n"}, false, "-require github.com/google/uuid"},
		{"a test of a codec fails", "codec", map[string]string{codecTest: redTest}, false, "--- FAIL"},
		{"no test of the memory runs", "memory", map[string]string{"test/plain_test.go": strings.Replace(failingMemory, "TestManyGigabytes", "TestOther", 1)}, false, "did not run"},
		{"a test of the memory fails", "memory", map[string]string{"test/plain_test.go": failingMemory}, false, "--- FAIL"},
		{"a codec has no test", "codec", map[string]string{codecTest: "package m\n"}, false, "no test of codec/x ran"},
		{"the test of the recipe fails", "cursor", map[string]string{cursorTest: redTest}, false, "--- FAIL"},
		{"the recipe has no test", "cursor", map[string]string{cursorTest: "package m\n"}, false, "no test of examples/sqlcursor ran"},
		{"a kill loses a message", "kill", map[string]string{killer: failing}, false, ""},
		{"there are no kills", "kill", map[string]string{killer: emptyMain}, false, "300 kills were not made"},
		{"there are no kills of servers", "kill", map[string]string{killer: strings.Replace(kills, "100 kills", "99 kills", 1)}, false, "100 kills of a server were not made"},
		{"the harness does not notice", "kill", map[string]string{killer: strings.Replace(kills, "Exit(1)", "Exit(0)", 1)}, false, "exited 0, not 1"},
		{"the harness finds something else", "kill", map[string]string{killer: strings.Replace(kills, "is lost", "is late", 1)}, false, "did not say what is lost"},
		{"a mutation survives", "mutate", map[string]string{"internal/mutate/main.go": failing}, false, ""},
		{"a test fails now and then", "repeat", map[string]string{"m_test.go": redTest}, false, "FAIL"},
		{"there is no such stage", "tets", nil, false, "no stage tets"},
	} {
		t.Run(c.stage+" "+c.name, func(t *testing.T) {
			out, err := stage(t, c.stage, c.change, c.data)
			if err == nil {
				t.Fatalf("the stage passed:\n%s", out)
			}
			if !strings.Contains(out, c.says) {
				t.Errorf("no %q in\n%s", c.says, out)
			}
		})
	}
}

func TestStagesPass(t *testing.T) {
	for _, s := range []string{"codec", "cursor", "readme", "fmt", "fuzz", "kill", "livefeed", "metrics", "mutate", "race", "repeat", "spec"} {
		t.Run(s, func(t *testing.T) {
			if out, err := stage(t, s, nil, true); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	t.Run("race without the data directory", func(t *testing.T) {
		out, err := stage(t, "race", map[string]string{"m_test.go": noData}, false)
		if err != nil || !strings.Contains(out, "DATA MISSING") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// stage runs one stage of ci/run on the sound tree with changes.
func stage(t *testing.T, name string, change map[string]string, data bool) (string, error) {
	t.Helper()
	dir := t.TempDir()
	script, err := os.ReadFile(filepath.FromSlash("../../../ci/run"))
	if err != nil {
		t.Fatal(err)
	}
	files := maps.Clone(sound)
	maps.Copy(files, change)
	files["ci/run"] = string(script)
	for name, text := range files {
		path := filepath.Join(dir, "m", filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("git", "init", "-q", filepath.Join(dir, "m")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if data {
		if err := os.Mkdir(filepath.Join(dir, "data"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("bash", filepath.Join(dir, "m", "ci", "run"), name)
	cmd.Env = append(os.Environ(), "LIMPET_DATA="+filepath.Join(dir, "data"), "FUZZTIME=1x", "PLAIN_FLOOR=4", "TMPDIR="+dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
