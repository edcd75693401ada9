package text

import (
	"strings"
	"testing"
)

func TestTexts(t *testing.T) {
	long := strings.Repeat("x", maxText)
	for _, c := range []struct{ in, cut, quoted, logged string }{
		{"", "", "", ""},
		{"plain", "plain", `"plain"`, "plain"},
		{"a\nb\x1b[0m", "a\nb\x1b[0m", `"a\nb\x1b[0m"`, `a\nb\x1b[0m`},
		{`C:\dir "x"`, `C:\dir "x"`, `"C:\\dir \"x\""`, `C:\dir "x"`},
		{"ä", "ä", `"\u00e4"`, `\u00e4`},
		{long, long, `"` + long + `"`, long},
		{long + "y", long + "…", `"` + long + `"…`, long},
		{long[1:] + "ä", long[1:] + "…", `"` + long[1:] + `"…`, long[1:]}, // the cut is inside a character
		{"…", "…", `"\u2026"`, `\u2026`},
	} {
		if got := Cut(c.in); got != c.cut {
			t.Errorf("Cut(%q) = %q, want %q", c.in, got, c.cut)
		}
		if got := Quote(c.in); got != c.quoted {
			t.Errorf("Quote(%q) = %s, want %s", c.in, got, c.quoted)
		}
		if got, want := Unquote(c.quoted), strings.TrimSuffix(c.cut, "…"); got != want && c.in != "…" {
			t.Errorf("Unquote(%s) = %q, want %q", c.quoted, got, want)
		}
		if got := ForLog(c.in); got != c.logged {
			t.Errorf("ForLog(%q) = %q, want %q", c.in, got, c.logged)
		}
		if got := ForLog(ForLog(c.in)); got != c.logged {
			t.Errorf("ForLog twice of %q = %q, want %q", c.in, got, c.logged)
		}
	}
	if got := Unquote("never quoted"); got != "never quoted" {
		t.Errorf("Unquote changes a text that was never quoted: %q", got)
	}
}
