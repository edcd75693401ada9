package secrets

import (
	"math/rand/v2"
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

// What cannot be in a text is left out before its forms are made: the result is the same.
func TestHideLooksForAllThatMayBeThere(t *testing.T) {
	const seed = 20261130
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	const letters = "aab\"/+ é\xff\x00"
	word := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteByte(letters[r.IntN(len(letters))])
		}
		return b.String()
	}
	hidden := 0
	for range 20000 {
		var s Set
		value := word(4 + r.IntN(40))
		key := r.IntN(2) == 0
		if key {
			s.AddKey([]byte(value))
		} else {
			s.Add(value)
		}
		forms := newSecret(value, key).appendForms(nil)
		form := forms[r.IntN(len(forms))]
		text := word(r.IntN(10)) + form[:r.IntN(len(form)+1)] + word(r.IntN(3))
		if strings.ContainsAny(text, `\&%`) { // nothing is left out
			continue
		}
		marked := make([]bool, len(text))
		for _, form := range forms {
			mark(text, form, marked)
		}
		want := replaceMarked(text, marked)
		if want != text {
			hidden++
		}
		if got := s.Hide(text); got != want {
			t.Fatalf("secret %q in %q: %q, want %q", value, text, got, want)
		}
	}
	if hidden < 1000 {
		t.Errorf("only %d texts held a secret", hidden)
	}
}

func BenchmarkHide(b *testing.B) {
	var s Set
	for i := range byte(maxKeys) {
		s.AddKey([]byte{i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31})
	}
	s.Add("the token of the connection", "another one")
	b.ReportAllocs()
	for b.Loop() {
		s.Hide("read tcp 127.0.0.1:40002->127.0.0.1:40001: use of closed network connection")
	}
}
