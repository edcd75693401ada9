package stomp

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// The token is asked for on the host of the URL, with the headers of the upgrade.
func TestCSRFRequest(t *testing.T) {
	for _, row := range []struct{ url, path, want string }{
		{"wss://example.com/app/ws?x=1", "/csrf", "https://example.com/csrf"},
		{"ws://127.0.0.1:8080/ws", "/app/token?form=json", "http://127.0.0.1:8080/app/token?form=json"},
		{"https://example.com/ws", "/csrf", "https://example.com/csrf"},
	} {
		a := wire.Attempt{URL: row.url, Header: http.Header{"X-App": {"heron"}}}
		if err := New(Options{CSRF: row.path}).Attempt(&a); err != nil || a.Dial || a.Request == nil || len(a.Subprotocols) != 3 {
			t.Fatalf("%s: %+v, %v", row.url, a, err)
		}
		r := a.Request
		if r.URL != row.want || r.Method != "GET" || r.Header.Get("X-App") != "heron" || r.Header.Get("Accept") != "application/json" || a.Header.Get("Accept") != "" {
			t.Errorf("%s: %+v, header of the upgrade %v", row.url, r, a.Header)
		}
	}
}

// Only a token that can stand in CONNECT is taken: CONNECT has no escapes.
func TestCSRFAnswer(t *testing.T) {
	answer := func(status int, body string) (*wire.Attempt, error) {
		a := &wire.Attempt{URL: "ws://h/ws", Response: &wire.Response{Status: status, Body: []byte(body)}}
		return a, New(Options{CSRF: "/csrf"}).Attempt(a)
	}
	for body, want := range map[string]csrfToken{
		`{"headerName":"X-XSRF-TOKEN","parameterName":"_csrf","token":"t-1_A=="}`: {"X-XSRF-TOKEN", "t-1_A=="},
		`{"token":"t"}`: {"X-CSRF-TOKEN", "t"},
	} {
		if a, err := answer(200, body); err != nil || a.State != want || !a.Dial {
			t.Errorf("%s: %+v, %v", body, a, err)
		}
	}
	for _, body := range []string{
		"", "[]", "{}", `{"token":7}`, `{"token":"a\nlogin:root"}`, `{"token":"a b"}`, `{"token":"a\\c"}`, `{"token":"\u00e9"}`, "{\"token\":\"\u0000\"}",
		`{"headerName":"a:b","token":"t"}`, `{"headerName":"a\n","token":"t"}`, `{"headerName":"` + strings.Repeat("a", 256) + `","token":"t"}`,
	} {
		a, err := answer(200, body)
		var oe *OptionError
		if !errors.As(err, &oe) || oe.Field != "CSRF" || a.State != nil || a.Dial {
			t.Errorf("%s: %+v, %v", body, a, err)
		}
	}
	var se *wire.StatusError
	if a, err := answer(302, `{"token":"t"}`); !errors.As(err, &se) || se.Status != 302 || a.Dial {
		t.Errorf("a refusal: %v", err)
	}
}

// The cookies of the answer replace others in the upgrade.
func TestCSRFCookies(t *testing.T) {
	for _, row := range []struct {
		before string
		set    []string
		want   string
	}{
		{"a=1", nil, "a=1"},
		{"", []string{"s=2; Path=/; HttpOnly"}, "s=2"},
		{"s=1; a=1", []string{"s=2", "t=3"}, "a=1; s=2; t=3"},
		{"s=1; a=1", []string{"s=; Max-Age=0"}, "a=1"},
	} {
		a := wire.Attempt{URL: "ws://h/ws", Header: http.Header{}, Response: &wire.Response{
			Status: 200, Header: http.Header{"Set-Cookie": row.set}, Body: []byte(`{"token":"t"}`),
		}}
		if row.before == "" {
			a.Header = nil
		} else {
			a.Header.Set("Cookie", row.before)
		}
		if err := New(Options{CSRF: "/csrf"}).Attempt(&a); err != nil || a.Header.Get("Cookie") != row.want {
			t.Errorf("%q and %q: %q, %v", row.before, row.set, a.Header.Get("Cookie"), err)
		}
	}
}

// The token is in CONNECT, and in no text.
func TestCSRFConnect(t *testing.T) {
	c := open(t, Options{CSRF: "/csrf"}, wire.Resume{State: csrfToken{"X-CSRF-TOKEN", "t0k3n"}})
	var out wire.Frames
	if err := c.Start(&out); err != nil || !strings.Contains(string(out.List[0].Data), "\nX-CSRF-TOKEN:t0k3n\nheart-beat:") {
		t.Errorf("%v\n%s", err, out.List[0].Data)
	}
	if left := c.(*codec).resume.State; left != nil {
		t.Errorf("the token is kept after the start: %v", left)
	}
	if got := said(t, c, "ERROR|message:Invalid CSRF Token 't0k3n' was found||$"); strings.Contains(got, "t0k3n") || !strings.Contains(got, "***") {
		t.Error(got)
	}
}
