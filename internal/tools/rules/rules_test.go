package main

import (
	"strings"
	"testing"
	"testing/fstest"
)

const protocol = "## 1 Connection\n\n## 2 Frames\n"

// breaches has at least one file a rule that breaks it and nothing else, and the same file without
// the breach.
var breaches = []struct {
	rule, file, text string
	ok               string
}{
	{"file-length", "a.go", "package a\n" + strings.Repeat("\n", maxLines), "package a\n" + strings.Repeat("\n", maxLines-1)},
	{"names", "a.go", "package a\ntype t struct{ open int }\nfunc (t) open() {}\n", "package a\ntype t struct{ opened int }\nfunc (t) open() {}\n"},
	{"sleep", "a.go", "package a\nimport \"time\"\nfunc f() { time.Sleep(1) }\n", "package a\nimport \"time\"\nfunc f() { time.NewTimer(1) }\n"},
	{"unfinished", "a.go", "package a\n// TO" + "DO: more\n", "package a\n// to do: nothing\n"},
	{"machine-path", "a.md", "see /ro" + "ot/x\n", "see a/root/x\n"},
	{"protocol-section", "a.md", "docs/protocol.md, section 3\n", "docs/protocol.md, section 2\n"},
	{"proof", "docs/guarantees.md", "| I1 | `TestNothing` |\n", "| I1 | `TestThere` |\n"},
	{"proof", "docs/ending.md", "| `TestNothing` |\n", "| `TestThere` |\n"},
	{"proof", "docs/guarantees.md", "| I1 | TestThere, TestNothing |\n", "| I1 | TestThere |\n"},
	{"phrases", "a.go", "package a\n\n// f is told of it.\nfunc f() {}\n", "package a\n\n// f is called with it, at most twice.\nfunc f() {}\n"},
	{"phrases", "a.go", "package a\n\n// f waits so\n// long.\nfunc f() {}\n", "package a\n\n// f waits, and so\n//\n// long as ever.\nfunc f() {}\n"},
	{"phrases", "a.go", "package a\n\n/* The file is\nwritten anew. */\nvar a = 1\n", "package a\n\nvar a = \"anew\"\n"},
	{"phrases", "a.md", "It keeps what\nit has to\nsay.\n", "It keeps what it has.\n\nTo say that is to say nothing.\n"},
	{"phrases", "a.md", "Nobody's message.\n", "No message of another client.\n"},
	{"phrases", "a.md", "A heart-beat.\n", "A heartbeat; the client has backed off, and must back off.\n"},
	{"phrases", "a.md", "exponential Back-Off\n", "`BackOff` is exponential backoff.\n"},
	{"phrases", "a.md", "for a subscription that is no more.\n", "which is no more than one, and no longer used. There is no more room.\n"},
	{"phrases", "a.md", "a batch that is no list\n", "a batch that is no longer a list, and there is no list\n"},
	{"most-names", "a.go", "package a\n\nconst mostBuffer = 1\n", "package a\n\nconst maxBuffer, most, mostly = 1, 2, 3\n"},
	{"most-names", "a.go", "package a\n\nfunc f(mostBytes int) int { return mostBytes + mostBytes }\n", "package a\n\nfunc f(maxBytes int) int { return maxBytes }\n"},
	{"link", "docs/a.md", "[x](protocol.md#3-frames)\n", "[x](protocol.md#2-frames)\n"},
	{"link", "docs/a.md", "# A `B`-c, d\n\n[x](#a-b-c)\n", "# A `B`-c, d\n# A b-c d\n\n[x](#a-b-c-d) [y](#a-b-c-d-1)\n"},
	{"link", "docs/a.md", "```sh\n# x\n```\n[x](#x)\n", "```sh\n# x\n```\n<a name=\"x\"></a>[x](#x)\n"},
	{"link", "docs/a.md", "[x](missing.md)\n", "[x](../docs/protocol.md#1-connection) [y](https://example.org/z.md)\n"},
}

// A rule that can no longer fail fails here.
func TestRulesFind(t *testing.T) {
	for _, c := range breaches {
		if found := apply(t, c.file, c.text); len(found) != 1 || found[0].rule != c.rule || found[0].file != c.file {
			t.Errorf("%s: found %v, want one breach in %s", c.rule, found, c.file)
		}
		if found := apply(t, c.file, c.ok); len(found) != 0 {
			t.Errorf("%s: found %v in a tree without a breach", c.rule, found)
		}
	}
}

func apply(t *testing.T, file, text string) []finding {
	t.Helper()
	found, _, err := check(fstest.MapFS{
		"docs/protocol.md": {Data: []byte(protocol)},
		"there_test.go":    {Data: []byte("package there\nfunc TestThere() {}\n")},
		file:               {Data: []byte(text)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestEveryRuleHasABreach(t *testing.T) {
	tested := map[string]bool{}
	for _, c := range breaches {
		tested[c.rule] = true
	}
	for _, r := range rules {
		if !tested[r.name] {
			t.Errorf("no breach for rule %s", r.name)
		}
	}
}

func TestAnEmptyTreeIsAnError(t *testing.T) {
	if _, _, err := check(fstest.MapFS{"a.md": {Data: []byte("x")}}); err == nil {
		t.Error("no error for a tree without Go files")
	}
}
