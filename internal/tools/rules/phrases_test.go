package main

import (
	"regexp"
	"testing"
	"testing/fstest"
)

// languageBreaches has files that break a rule on language once, and the same files without the
// breach.
var languageBreaches = []struct {
	rule, file, text string
	ok               string
}{
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
}

var languageRules = map[string]func(*tree) []finding{"phrases": phrases, "most-names": boundNames}

func TestLanguageRulesFind(t *testing.T) {
	for _, c := range languageBreaches {
		for text, want := range map[string]int{c.text: 1, c.ok: 0} {
			tree, err := load(fstest.MapFS{c.file: {Data: []byte(text)}})
			if err != nil {
				t.Fatal(err)
			}
			if found := languageRules[c.rule](tree); len(found) != want {
				t.Errorf("%s: found %v in %q, want %d", c.rule, found, text, want)
			}
		}
	}
}

// The finding names the line in which the phrase begins.
func TestPhraseLines(t *testing.T) {
	tree, err := load(fstest.MapFS{
		"a.go": {Data: []byte("package a\n\n// f waits. It waits so\n// long.\nfunc f() {}\n")},
		"b.md": {Data: []byte("# b\n\nAll is well.\nIt begins\nanew.\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	found := phrases(tree)
	if len(found) != 2 || found[0].file != "a.go" || found[0].line != 3 || found[1].file != "b.md" || found[1].line != 5 {
		t.Errorf("found %v, want a.go:3 and b.md:5", found)
	}
}

// Every phrase has an example, in order, so that a pattern with a mistake is noticed.
func TestEveryPhraseMatches(t *testing.T) {
	examples := []string{
		"the client is told", "it was never told twice", "says the truth", "lasts so long", "anew", "nobody", "heart-beats", "back-off",
		"what they have to say", "the word of the loop", "the connection's say", "it has no say", "a topic that is no more.",
		"a type that is no string", "no news", "has heard of it", "without a word", "for want of room", "in good order",
		"the present connection", "upside down", "as little as the other",
	}
	if len(examples) != len(translated) {
		t.Fatalf("%d examples for %d phrases", len(examples), len(translated))
	}
	for i, e := range examples {
		if !regexp.MustCompile("(?i)" + translated[i]).MatchString(e) {
			t.Errorf("%s does not match %q", translated[i], e)
		}
	}
}
