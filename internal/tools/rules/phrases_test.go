package main

import (
	"regexp"
	"testing"
	"testing/fstest"
)

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
