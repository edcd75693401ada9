package mediatype

import "testing"

func TestNames(t *testing.T) {
	json := []string{"application/json", "Text/JSON; charset=utf-8"}
	for _, c := range []struct {
		name  string
		types []string
		want  bool
	}{
		{"application/json", json, true},
		{"application/json; charset=utf-8", json, true},
		{"application/json;charset=\"utf-8\"; profile=x", json, true},
		{" APPLICATION/Json ", json, true},
		{"text/json", json, true},
		{"application/json; charset", json, true}, // malformed parameters
		{"application/json; a=1; a=2", json, true},
		{"application/json5", json, false},
		{"application/vnd.acme+json", json, false},
		{"text/plain", json, false},
		{"text/csv; of=application/json", json, false},
		{"application/json charset=utf-8", json, false},
		{"application/", json, false},
		{"/", json, false},
		{"/json", json, false},
		{"", json, true},
		{"trade", json, true}, // a kind of message, of wire/feed
		{"trade", []string{"text/csv"}, true},
		{"text/csv", []string{"text/csv"}, true},
		{"text/csv", []string{"/", ""}, false},
		{"/", []string{"/"}, true},
		{"text/csv", nil, false},
	} {
		if got := Names(c.name, c.types); got != c.want {
			t.Errorf("Names(%q, %q) = %v", c.name, c.types, got)
		}
	}
}
