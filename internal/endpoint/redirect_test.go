package endpoint

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

func TestAllowedTarget(t *testing.T) {
	hosts := []string{"b.example", "c.example:8443", "[2001:db8::1]", "Upper.example", "localhost:9"}
	for _, tc := range []struct {
		from, location string
		insecure       bool
		want           string
		refusal        Refusal
	}{
		{from: "wss://a.example/x", location: "https://b.example/y?z=1", want: "wss://b.example/y?z=1"},
		{from: "wss://a.example/x", location: "wss://b.example:443/y", want: "wss://b.example:443/y"},
		{from: "wss://a.example/x", location: "https://B.EXAMPLE/y", want: "wss://b.example/y"},
		{from: "wss://a.example/x", location: "https://upper.example/", want: "wss://upper.example/"},
		{from: "wss://a.example/x", location: "https://c.example:8443/y#part", want: "wss://c.example:8443/y"},
		{from: "wss://a.example/x", location: "https://[2001:db8::1]/y", want: "wss://[2001:db8::1]/y"},
		{from: "wss://a.example/x/y?q=1", location: "z", want: "wss://a.example/x/z"},
		{from: "wss://a.example/x", location: "/z?q=2", want: "wss://a.example/z?q=2"},
		{from: "wss://a.example/x", location: "?q=2", want: "wss://a.example/x?q=2"},
		{from: "wss://a.example/x", location: "/a b?c d", want: "wss://a.example/a%20b?c%20d"},
		{from: "wss://a.example/x", location: "//b.example/z", want: "wss://b.example/z"},
		{from: "wss://a.example:443/x", location: "https://a.example/z", want: "wss://a.example/z"},
		{from: "ws://localhost:1/x", location: "wss://b.example/", want: "wss://b.example/"},
		{from: "http://localhost:1/x", location: "http://localhost:9/", want: "ws://localhost:9/"},
		{from: "ws://a.example/x", location: "http://b.example/", insecure: true, want: "ws://b.example/"},

		{from: "wss://a.example/x", location: "https://b.example:8443/", refusal: NotAllowed},
		{from: "wss://a.example/x", location: "https://c.example/", refusal: NotAllowed},
		{from: "wss://a.example/x", location: "https://a.example:8443/", refusal: NotAllowed},
		{from: "wss://a.example/x", location: "https://xb.example/", refusal: NotAllowed},
		{from: "wss://a.example/x", location: "https://b.example.evil/", refusal: NotAllowed},
		{from: "wss://a.example/x", location: "https://b.example./", refusal: NotAllowed},
		{from: "ws://localhost:1/x", location: "wss://localhost:1/", want: "wss://localhost:1/"}, // the same place, encrypted

		{from: "wss://a.example/x", location: "http://b.example/", insecure: true, refusal: Downgrade},
		{from: "wss://a.example/x", location: "ws://a.example/", insecure: true, refusal: Downgrade},
		{from: "https://a.example/x", location: "http://localhost:9/", refusal: Downgrade},
		{from: "ws://localhost/x", location: "http://b.example/", refusal: ClearText},
		{from: "wss://a.example/x", location: "https://user:canary@b.example/", refusal: UserInfo},
		{from: "wss://a.example/x", location: "https://canary@b.example/", refusal: UserInfo},
		{from: "wss://a.example/x", location: "", refusal: Malformed},
		{from: "wss://a.example/x", location: "ftp://b.example/", refusal: Malformed},
		{from: "wss://a.example/x", location: "mailto:canary@b.example", refusal: Malformed},
		{from: "wss://a.example/x", location: "https:///canary", refusal: Malformed},
		{from: "wss://a.example/x", location: "https://:443/", refusal: Malformed},
		{from: "wss://a.example/x", location: "https://b.example:99999/", refusal: Malformed},
		{from: "wss://a.example/x", location: "https://b.example/%zz", refusal: Malformed},
		{from: "wss://a.example/x", location: "https://b.example/\x00", refusal: Malformed},
		{from: "wss://a.example/x", location: "https://b.example/" + strings.Repeat("x", maxLocation), refusal: Malformed},
	} {
		a, _, err := Allow(hosts, tc.insecure)
		if err != nil {
			t.Fatal(err)
		}
		from, err := url.Parse(tc.from)
		if err != nil {
			t.Fatal(err)
		}
		to, err := a.Target(from, tc.location)
		var refused *LocationError
		switch {
		case tc.refusal == 0:
			if err != nil || to.String() != tc.want {
				t.Errorf("%s to %s: %v, %v; want %s", tc.from, tc.location, to, err, tc.want)
			}
		case !errors.As(err, &refused) || refused.Refusal != tc.refusal:
			t.Errorf("%s to %.100s: %v, %v; want refusal %d", tc.from, tc.location, to, err, tc.refusal)
		case strings.Contains(err.Error(), "canary"), len(err.Error()) > 200:
			t.Errorf("%s to %.100s: the error repeats it: %v", tc.from, tc.location, err)
		}
		if from.String() != tc.from {
			t.Errorf("%s became %v", tc.from, from)
		}
		var none Allowed
		if to, err := none.Target(from, tc.location); err == nil {
			t.Errorf("without a list %s to %s is allowed: %v", tc.from, tc.location, to)
		}
	}
}

func TestAllow(t *testing.T) {
	for _, host := range []string{"a", "a.example", "a.example:1", "A.example", "10.0.0.7", "10.0.0.7:80", "[::1]", "[::1]:80", "xn--bcher-kva.example"} {
		if _, _, err := Allow([]string{host}, false); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, host := range []string{"", " ", " a", "*", "*.a.example", "a.*", "wss://a.example", "a.example/x", "a.example?x", "a.example#x", "user@a.example",
		"::1", "a.example:", "a.example:0", "a.example:65536", "a.example:x", ":80", "bücher.example", "a b", "[::1", "a\n"} {
		if _, i, err := Allow([]string{"fine.example", host}, false); err == nil || i != 1 {
			t.Errorf("%q is allowed: place %d, %v", host, i, err)
		}
	}
	if _, i, err := Allow(make([]string, MaxHosts+1), false); err == nil || i != -1 {
		t.Errorf("too many hosts: %d, %v", i, err)
	}
}

// Whatever a server writes, the client goes only where it may.
func FuzzAllowedTarget(f *testing.F) {
	for _, location := range []string{"https://b.example/y?z=1", "//c.example:8443", "../z", "http://b.example", "https://u:p@b.example", "https://[2001:db8::1]/", "?", "#"} {
		f.Add("wss://a.example/x", location)
		f.Add("ws://localhost:1/x", location)
	}
	hosts := []string{"b.example", "c.example:8443", "[2001:db8::1]"}
	a, _, err := Allow(hosts, false)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, from, location string) {
		base, err := Parse(from, false)
		if err != nil {
			return
		}
		to, err := a.Target(base, location)
		if err != nil {
			return
		}
		if _, err := Parse(to.String(), false); err != nil {
			t.Errorf("%q leads to %q: %v", location, to, err)
		}
		ports := map[string]string{"b.example": "443", "c.example": "8443", "2001:db8::1": "443"}
		port := to.Port()
		if port == "" && to.Scheme == "wss" {
			port = "443"
		}
		listed := to.Scheme == "wss" && ports[to.Hostname()] == port
		if base.Scheme == "wss" && to.Scheme != "wss" || !listed && address(to) != address(base) {
			t.Errorf("from %q to %q", base, to)
		}
	})
}
