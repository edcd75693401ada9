package secrets

import (
	"strings"
	"testing"
)

// Whatever the text is, Hide returns one without the secret.
func FuzzHide(f *testing.F) {
	for _, text := range []string{"", "canary/+", `canary\/+ canary\u002f+ %63anary/+`, "canary%2", "&", "&#43;", `\u`, "canar", "\\", "&&#x2f;canary&#x2F;+"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var s Set
		s.Add("canary/+")
		if safe := s.Hide(text); strings.Contains(safe, "canary/+") {
			t.Errorf("%q: %q", text, safe)
		}
	})
}

// A secret that was cut, with another secret in it, shows nothing of itself.
func TestHideCut(t *testing.T) {
	const key = "key-of-the-session" // its base64 is "a2V5LW9mLXRoZS1zZXNzaW9u"
	const header = "eyJ0IjoiaGVsbG8i" + "a2V5LW9mLXRoZS1zZXNzaW9u" + "LCJ0b2siOiJjYW5hcnkifQ"
	var s Set
	s.AddKey([]byte(key))
	s.Add(header, "short")
	for text, want := range map[string]string{
		header:                          "[secret]",
		"said " + header + " twice":     "said [secret] twice",
		"said " + header[:50] + "\n":    "said [secret]\n",
		"said " + header[:20] + "... ":  "said [secret]... ",
		"said " + header[:12]:           "said [secret]",
		"said " + header[:12] + "...":   "said " + header[:12] + "...",
		"said " + header[16:40] + "...": "said [secret]...",
		"a short word, shor":            "a [secret] word, [secret]",
		"a shor word":                   "a shor word",
		"nothing":                       "nothing",
	} {
		if got := s.Hide(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// A session lasts longer than an attempt, and so does what is known of its key.
func TestKeyOutlivesAttempts(t *testing.T) {
	var s Set
	for n := range 10 {
		s.Begin("wss://h/", nil, 0)
		for i := range 300 { // more than what is remembered of an attempt
			s.Add("value-" + strings.Repeat("x", i))
		}
		if n == 0 {
			s.AddKey([]byte("canary-key"))
		}
		if got := s.Hide("said canary-key"); got != "said [secret]" {
			t.Fatalf("attempt %d: %q", n, got)
		}
	}
	for i := range 100 {
		s.AddKey([]byte("key-of-session-" + strings.Repeat("y", i)))
	}
	if len(s.keys) != maxKeys {
		t.Errorf("%d keys are remembered", len(s.keys))
	}
}

// What a URL holds beside what url.Values can read is secret as well.
func TestQueryThatCannotBeRead(t *testing.T) {
	for query, value := range map[string]string{"a=b&token=canary;x": "canary;x", "token=canary%zz&a=b": "canary%zz", "token=can%61ry": "canary"} {
		var s Set
		s.AddRequest("wss://h/?"+query, nil)
		if got := s.Hide("no node for " + value + " here"); strings.Contains(got, "canary") {
			t.Errorf("%s: %q", query, got)
		}
	}
}
