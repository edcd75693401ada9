package fallback

import (
	"net/http"
	"strings"
	"testing"
)

// What is read is what would be written: there is one form of each id and number.
func FuzzHeaders(f *testing.F) {
	id := NewConnectionID(NewServerID()).String()
	for _, s := range []string{"", id, strings.ToUpper(id), id + "0", "1", "01", "+1", "4611686018427387903", "4611686018427387904",
		MediaType, MediaType + "; q=1", "text/html, " + MediaType, "a/b;;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if id, ok := ParseConnectionID(s); ok && id.String() != s {
			t.Errorf("%q is read as %s", s, id)
		}
		if n, ok := ParseNumber(s); ok && (n == 0 || n >= 1<<62) {
			t.Errorf("%q is %d", s, n)
		}
		if IsStream([]string{s}) && !strings.Contains(strings.ToLower(s), MediaType) {
			t.Errorf("%q counts as a stream", s)
		}
	})
}

func TestIDsAndNumbers(t *testing.T) {
	server := NewServerID()
	one, other := NewConnectionID(server), NewConnectionID(server)
	if one.Server != server || one.Secret == other.Secret || server == NewServerID() {
		t.Errorf("%v %v %v", server, one, other)
	}
	if back, ok := ParseConnectionID(one.String()); !ok || back != one || len(one.String()) != 48 {
		t.Errorf("%s is read as %v", one, back)
	}
	for s, want := range map[string]uint64{"1": 1, "10": 10, "4611686018427387903": 1<<62 - 1, "": 0, "0": 0, "01": 0, "+1": 0, "1 ": 0, "4611686018427387904": 0, "0x1": 0} {
		if n, ok := ParseNumber(s); ok != (want != 0) || ok && n != want {
			t.Errorf("%q is %d %v", s, n, ok)
		}
	}
}

// Each code has a status of its own, by which it is recognised: the same header with another
// status is not the server's.
func TestCodesHaveTheirOwnStatus(t *testing.T) {
	seen := map[int]Code{}
	for _, c := range []Code{Malformed, Forbidden, OutOfOrder, Gone, TooBig, Misdirected, TooMany} {
		if other, taken := seen[c.Status()]; taken || !c.Known(c.Status()) || c.Known(http.StatusOK) {
			t.Errorf("%s has %d, as %s", c, c.Status(), other)
		}
		seen[c.Status()] = c
	}
	if Code("").Known(400) || Code("new").Known(400) {
		t.Error("an unknown code is known")
	}
}
