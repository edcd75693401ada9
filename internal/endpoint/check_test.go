package endpoint

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestRulesEndpoints(t *testing.T) {
	for name, tc := range map[string]struct {
		rules Rules
		first string
		more  []string
		want  []string // the beginnings of the problems, with their fields
	}{
		"one":                {first: "wss://a.example"},
		"several":            {first: "wss://a.example", more: []string{"wss://b.example", "wss://a.example/x"}},
		"clear text":         {first: "ws://a.example", want: []string{"url: ws:// to a.example would be sent unencrypted"}},
		"allowed":            {rules: Rules{AllowInsecure: true}, first: "ws://a.example", more: []string{"ws://b.example"}},
		"no URL":             {first: "a.example", want: []string{"url: no scheme"}},
		"each is named":      {first: "x", more: []string{"wss://b.example", "y", "http://c.example"}, want: []string{"url: no scheme", "Options.Endpoints[1]: no scheme", "Options.Endpoints[2]: scheme must be ws or wss"}},
		"two schemes":        {first: "wss://a.example", more: []string{"ws://localhost"}, want: []string{"Options.Endpoints[0]: has the scheme ws, and url has wss; use one scheme"}},
		"the first again":    {first: "wss://a.example", more: []string{"wss://a.example"}, want: []string{"Options.Endpoints[0]: is the same URL as an earlier one; remove it"}},
		"another again":      {first: "wss://a.example", more: []string{"wss://b.example", "wss://b.example"}, want: []string{"Options.Endpoints[1]: is the same URL as an earlier one; remove it"}},
		"many":               {first: "x", more: make([]string, maxEndpoints), want: []string{"url: no scheme", "Options.Endpoints: has 1024 URLs; use 1023 or less"}},
		"a credential is no": {rules: Rules{StrictURL: true}, first: "wss://a.example/?token=x"},
	} {
		urls, problems := tc.rules.Endpoints(tc.first, tc.more)
		if len(problems) != len(tc.want) {
			t.Errorf("%s: %v, want %q", name, problems, tc.want)
			continue
		}
		for i, p := range problems {
			if got := fmt.Sprintf("%s: %v", p.Field, p.Err); !strings.HasPrefix(got, tc.want[i]) {
				t.Errorf("%s: %s, want %s", name, got, tc.want[i])
			}
		}
		if len(tc.more) < maxEndpoints && len(urls) != 1+len(tc.more) || len(urls) == 0 || urls[0] == nil {
			t.Errorf("%s: the URLs are %v", name, urls)
		}
	}
}

func TestRulesCredentials(t *testing.T) {
	urls, problems := Rules{}.Endpoints("wss://a.example/?room=1", []string{"wss://b.example/?token=canary&sig=canary", "wss://c.example"})
	if len(problems) != 0 {
		t.Fatal(problems)
	}
	if found := (Rules{}).Credentials(urls); len(found) != 0 {
		t.Errorf("without StrictURL: %v", found)
	}
	var got []string
	for _, p := range (Rules{StrictURL: true}).Credentials(urls) {
		got = append(got, fmt.Sprintf("%s: %v", p.Field, p.Err))
	}
	const text = "Options.Endpoints[0]: has the query parameter %q, which looks like a credential; use Options.Auth, or unset Options.StrictURL"
	if want := []string{fmt.Sprintf(text, "sig"), fmt.Sprintf(text, "token")}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestRulesUsable(t *testing.T) {
	const a, b = "wss://a.example", "wss://b.example/?key=canary"
	for name, tc := range map[string]struct {
		rules Rules
		raws  []string
		want  []string
		err   string // what it begins with
	}{
		"all":        {raws: []string{b, a}, want: []string{b, a}},
		"each once":  {raws: []string{a, b, a}, want: []string{a, b}},
		"none":       {err: "returned no URL; return an error instead"},
		"strict":     {rules: Rules{StrictURL: true}, raws: []string{b, a}, want: []string{a}, err: `answer[0] has the query parameter "key", which looks like a credential, and Options.StrictURL forbids it`},
		"one is bad": {raws: []string{a, "x"}, want: []string{a}, err: "answer[1]: no scheme"},
		"clear text": {raws: []string{"ws://a.example"}, err: "answer[0]: ws:// to a.example would be sent unencrypted"},
		"a scheme":   {raws: []string{"ws://localhost", a}, want: []string{a}, err: "answer[0] has the scheme ws, and url has wss; use one scheme"},
		"many":       {raws: append(slices.Repeat([]string{a}, maxEndpoints), b), want: []string{a}, err: "returned 1025 URLs; use 1024 or less"},
	} {
		urls, err := tc.rules.Usable("wss", tc.raws)
		var got []string
		for _, u := range urls {
			got = append(got, u.String())
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
		if (err != nil) != (tc.err != "") || err != nil && (!strings.HasPrefix(err.Error(), tc.err) || strings.Contains(err.Error(), "canary")) {
			t.Errorf("%s: %v, want %s", name, err, tc.err)
		}
	}
}

func TestCheckRequest(t *testing.T) {
	const schemes = "must have one of the schemes http, https, a host, and a port that exists"
	for _, tc := range []struct {
		raw    string
		header http.Header
		want   string // what the error begins with, after the field
	}{
		{raw: "https://a.example:8443/x?key=canary"},
		{raw: "http://a.example", header: http.Header{"X": {"a\tb"}}},
		{raw: "wss://a.example/canary", want: schemes},
		{raw: "/canary", want: schemes},
		{raw: "https:///canary", want: schemes},
		{raw: "https://a.example:99999/canary", want: schemes},
		{raw: "https://a.example/canary%zz", want: "cannot be parsed: invalid URL escape"},
		{raw: "https://a.example", header: http.Header{"X": {"canary\n"}}, want: "a value of X has a line break"},
		{raw: "https://a.example", header: http.Header{"canary canary": {"x"}}, want: "a name has a character that HTTP does not allow"},
	} {
		err := CheckRequest("Request.URL", tc.raw, tc.header, "http", "https")
		switch {
		case (err != nil) != (tc.want != ""):
			t.Errorf("%s, %q: %v, want %q", tc.raw, tc.header, err, tc.want)
		case err != nil && (!strings.HasPrefix(strings.TrimPrefix(err.Error(), "Request.URL "), tc.want) || strings.Contains(err.Error(), "canary")):
			t.Errorf("%s, %q: %v, want %q", tc.raw, tc.header, err, tc.want)
		}
	}
}
