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
