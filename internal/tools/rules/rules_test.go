package main

import (
	"strings"
	"testing"
	"testing/fstest"
)

// Every rule has a tree that breaks it and nothing else, so a rule that can no longer fail fails
// here.
func TestRulesFind(t *testing.T) {
	protocol := "## 1 Connection\n\n## 2 Frames\n"
	for _, c := range []struct {
		rule, file, text string
		ok               string // the same file without the breach
	}{
		{"file-length", "a.go", "package a\n" + strings.Repeat("\n", maxLines), "package a\n" + strings.Repeat("\n", maxLines-1)},
		{"package-name", "a.go", "package util\n", "package utility\n"},
		{"package-name", "a_test.go", "package helpers_test\n", "package help_test\n"},
		{"sleep", "a.go", "package a\nimport \"time\"\nfunc f() { time.Sleep(1) }\n", "package a\nimport \"time\"\nfunc f() { time.NewTimer(1) }\n"},
		{"sleep", "a_test.go", "package a\nimport \"time\"\nfunc f() { time.Sleep(1) }\n",
			"package a\nimport (\"time\"; _ \"testing/synctest\")\nfunc f() { time.Sleep(1) }\n"},
		{"unfinished", "a.go", "package a\n// TO" + "DO: more\n", "package a\n// to do: nothing\n"},
		{"machine-path", "a.md", "see /ro" + "ot/x\n", "see a/root/x\n"},
		{"protocol-section", "a.md", "docs/protocol.md, section 3\n", "docs/protocol.md, section 2\n"},
		{"proof", "docs/guarantees.md", "| I1 | `TestNothing` |\n", "| I1 | `TestThere` |\n"},
		{"link", "docs/a.md", "[x](missing.md)\n", "[x](../docs/protocol.md#1-connection) [y](https://example.org/z.md)\n"},
	} {
		for _, text := range []string{c.text, c.ok} {
			fsys := fstest.MapFS{
				"docs/protocol.md": {Data: []byte(protocol)},
				"there_test.go":    {Data: []byte("package there\nfunc TestThere() {}\n")},
				c.file:             {Data: []byte(text)},
			}
			found, _, err := check(fsys)
			if err != nil {
				t.Fatal(c.rule, err)
			}
			if text == c.ok {
				if len(found) != 0 {
					t.Errorf("%s: found %v in a tree without a breach", c.rule, found)
				}
				continue
			}
			if len(found) != 1 || found[0].rule != c.rule || found[0].file != c.file {
				t.Errorf("%s: found %v, want one breach in %s", c.rule, found, c.file)
			}
		}
	}
}

func TestEveryRuleIsTested(t *testing.T) {
	// TestRulesFind has at least one case a rule; the names are compared here so that a new
	// rule without a case is noticed.
	want := "file-length package-name sleep unfinished machine-path protocol-section proof link"
	var have []string
	for _, r := range rules {
		have = append(have, r.name)
	}
	if got := strings.Join(have, " "); got != want {
		t.Errorf("rules are %q, the cases of TestRulesFind cover %q", got, want)
	}
}

func TestAnEmptyTreeIsAnError(t *testing.T) {
	if _, _, err := check(fstest.MapFS{"a.md": {Data: []byte("x")}}); err == nil {
		t.Error("no error for a tree without Go files")
	}
}
