package endpoint

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/internal/fault"
)

// parse returns raw as a URL.
func parse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// redirects returns rules that allow hosts.
func redirects(t *testing.T, strict bool, hosts ...string) *Redirects {
	t.Helper()
	allowed, _, err := Allow(hosts, false)
	if err != nil {
		t.Fatal(err)
	}
	return &Redirects{Allowed: allowed, StrictURL: strict}
}

func TestRedirectsNext(t *testing.T) {
	const from, final = "wss://a.example/x", "; use the final URL"
	canary := url.Values{"ticket": {"canary"}}
	for name, tc := range map[string]struct {
		status   int // default 302
		location []string
		header   http.Header // beside it
		tickets  url.Values
		trail    []string // before from
		strict   bool
		want     string // the URL, or the error after "server redirects "
	}{
		"301":                    {status: 301, location: []string{"https://b.example/y"}, want: "wss://b.example/y"},
		"302":                    {status: 302, location: []string{"https://b.example/y"}, want: "wss://b.example/y"},
		"307":                    {status: 307, location: []string{"https://b.example/y"}, want: "wss://b.example/y"},
		"308":                    {status: 308, location: []string{"https://b.example/y"}, want: "wss://b.example/y"},
		"300":                    {status: 300, location: []string{"https://b.example/y"}, want: "with the status 300, which is not followed" + final},
		"303":                    {status: 303, location: []string{"https://b.example/y"}, want: "with the status 303, which is not followed" + final},
		"304":                    {status: 304, want: "with the status 304, which is not followed" + final},
		"its own path":           {location: []string{"/y"}, want: "wss://a.example/y"},
		"no location":            {want: "to 0 locations" + final},
		"two locations":          {location: []string{"https://b.example/y", "https://b.example/z"}, want: "to 2 locations" + final},
		"one location twice":     {location: []string{"https://b.example/y", "https://b.example/y"}, want: "wss://b.example/y"},
		"a time":                 {location: []string{"https://b.example/y"}, header: http.Header{"Retry-After": {"5"}}, want: "and asks to wait first" + final},
		"no time":                {location: []string{"https://b.example/y"}, header: http.Header{"Retry-After": {"0"}}, want: "wss://b.example/y"},
		"a strange host":         {location: []string{"https://c.example/canary"}, want: `to the host "c.example", which is not in the list` + final + ", or add the host to Hosts if it may have the credentials"},
		"clear text":             {location: []string{"http://b.example/canary"}, want: `from an encrypted connection to clear text at "b.example", which is never used` + final},
		"a credential":           {location: []string{"https://b.example/?token=canary"}, want: "wss://b.example/?token=canary"},
		"a credential, strict":   {location: []string{"https://b.example/?token=canary"}, strict: true, want: strictURL + final},
		"a parameter, strict":    {location: []string{"https://b.example/?room=1"}, strict: true, want: "wss://b.example/?room=1"},
		"back to the first":      {location: []string{from}, want: `in a loop, back to the host "a.example"` + final},
		"back in the middle":     {location: []string{"https://b.example/y"}, trail: []string{"wss://b.example/x", "wss://b.example/y"}, want: `in a loop, back to the host "b.example"` + final},
		"the fifth":              {location: []string{"/y"}, trail: []string{"1", "2", "3", "4"}, want: "wss://a.example/y"},
		"the sixth":              {location: []string{"/y"}, trail: []string{"1", "2", "3", "4", "5"}, want: `more than 5 times, at last to the host "a.example"` + final},
		"a ticket":               {location: []string{"/y?q=1"}, tickets: canary, want: "wss://a.example/y?q=1&ticket=canary"},
		"a ticket of the server": {location: []string{"/y?ticket=other"}, tickets: canary, want: "wss://a.example/y?ticket=other"},
		"an empty ticket":        {location: []string{"/y?ticket="}, tickets: canary, want: "wss://a.example/y?ticket="},
		"a ticket, back":         {location: []string{"https://b.example/y"}, tickets: canary, trail: []string{"wss://b.example/y?ticket=canary"}, want: `in a loop, back to the host "b.example"` + final},
		"a nameless ticket":      {location: []string{"/y"}, tickets: url.Values{"": {"canary"}}, want: "to a URL that cannot take the ticket" + final},
	} {
		h := http.Header{"Location": tc.location}
		maps.Copy(h, tc.header)
		if tc.status == 0 {
			tc.status = 302
		}
		trail := append(slices.Clone(tc.trail), from)
		next, err := redirects(t, tc.strict, "b.example").Next(parse(t, from), trail, tc.status, h, tc.tickets)
		if err == nil {
			if next.String() != tc.want {
				t.Errorf("%s: %v, want %s", name, next, tc.want)
			}
			continue
		}
		var why *fault.Redirect
		switch {
		case !errors.As(err, &why) || next != nil:
			t.Errorf("%s: %v, %v", name, next, err)
		case err.Error() != "server redirects "+tc.want:
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		case strings.Contains(err.Error(), "canary"):
			t.Errorf("%s: the error repeats a secret: %v", name, err)
		}
	}
}

// The zero value follows nothing.
func TestNoRedirects(t *testing.T) {
	const from = "wss://a.example/x"
	for _, location := range []string{"/y", "https://a.example/y", "https://b.example/"} {
		var r Redirects
		if next, err := r.Next(parse(t, from), []string{from}, 302, http.Header{"Location": {location}}, nil); !errors.Is(err, fault.ErrRedirect) {
			t.Errorf("%s is followed: %v, %v", location, next, err)
		}
		if next, err := r.Move(parse(t, from), location); !errors.Is(err, fault.ErrRedirect) {
			t.Errorf("a move to %s is followed: %v, %v", location, next, err)
		}
	}
}

func TestRedirectsMove(t *testing.T) {
	const instead = "; the URLs of the options are used, so add the host to Hosts if it may have the credentials"
	for _, tc := range []struct {
		location string
		strict   bool
		want     string // the URL, or the error after "server redirects "
	}{
		{location: "wss://b.example/y", want: "wss://b.example/y"},
		{location: "/y?q=1", strict: true, want: "wss://a.example/y?q=1"},
		{location: "wss://b.example/?key=canary", want: "wss://b.example/?key=canary"},
		{location: "wss://b.example/?key=canary", strict: true, want: strictURL + instead},
		{location: "wss://c.example/canary", want: fmt.Sprintf("to the host %q, which is not in the list%s", "c.example", instead)},
		{location: "", want: "to a location that is missing or no URL of a WebSocket service" + instead},
	} {
		target, err := redirects(t, tc.strict, "b.example").Move(parse(t, "wss://a.example/x"), tc.location)
		switch {
		case err == nil && target.String() != tc.want:
			t.Errorf("%s: %v, want %s", tc.location, target, tc.want)
		case err != nil && (!errors.Is(err, fault.ErrRedirect) || err.Error() != "server redirects "+tc.want):
			t.Errorf("%s: %v, want %s", tc.location, err, tc.want)
		}
	}
}
