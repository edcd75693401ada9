package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// A transport that spoils the 101 is no server that speaks something else: the client names
// the option, tries again, and is ready once the transport leaves it alone.
func TestTransportSpoilsThe101(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*http.Response) (*http.Response, error)
		text  string // empty: the client connects
	}{
		"a body to read from": {func(r *http.Response) (*http.Response, error) {
			r.Body = struct{ io.ReadCloser }{r.Body}
			return r, nil
		}, "cannot be written to"},
		"no body":     {func(r *http.Response) (*http.Response, error) { r.Body = http.NoBody; return r, nil }, "cannot be written to"},
		"no response": {func(*http.Response) (*http.Response, error) { return nil, nil }, "no response"},
		"the body is read": {func(r *http.Response) (*http.Response, error) {
			_, err := httputil.DumpResponse(r, true)
			return r, err
		}, "must not read the body of a 101"},
		"names in lower case": {func(r *http.Response) (*http.Response, error) {
			h := http.Header{}
			for k, v := range r.Header {
				h[strings.ToLower(k)] = v
			}
			r.Header = h
			return r, nil
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				host := limpettest.NewHandler(t, rawServer(drain), nil)
				transport, calls := host.HTTPClient().Transport.(*http.Transport), 0
				client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
					resp, err := transport.RoundTrip(r)
					if calls++; err != nil || calls > 1 {
						return resp, err
					}
					return tc.spoil(resp)
				})}
				c, err := limpet.New(host.URL(), options(&limpet.Options{Dialect: rawDialect{}, HTTPClient: client}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil || s.Phase == limpet.Ready })
				assert.NoError(t, err)
				if tc.text == "" != (st.Cause == nil) || tc.text != "" && (limpet.ClassOf(st.Cause) != limpet.ClassUser ||
					!strings.Contains(st.Cause.Error(), tc.text) || !strings.Contains(st.Cause.Error(), "Options.HTTPClient")) {
					t.Errorf("class %q: %v", limpet.ClassOf(st.Cause), st.Cause)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				assert.NoError(t, c.WaitReady(ctx))
			})
		})
	}
}

// In HTTP/2 no connection can be upgraded. A transport that insists on it is named.
func TestTransportSpeaksHTTP2(t *testing.T) {
	web := httptest.NewUnstartedServer(rawServer(drain))
	web.EnableHTTP2 = true
	web.Config.ErrorLog = log.New(io.Discard, "", 0)
	web.StartTLS()
	defer web.Close()
	dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}}
	insecure := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
	clear := new(http.Protocols)
	clear.SetUnencryptedHTTP2(true)
	quiet := listen(t, silent)
	url := "wss" + strings.TrimPrefix(web.URL, "https")
	for name, tc := range map[string]struct {
		transport *http.Transport
		url       string
		ok        bool
	}{
		"HTTP/2 is tried":                       {&http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: insecure}, url, true},
		"a dial function agrees on it":          {&http.Transport{DialTLSContext: dialer.DialContext}, url, false},
		"a dial function, and HTTP/2 is tried":  {&http.Transport{DialTLSContext: dialer.DialContext, ForceAttemptHTTP2: true}, url, false},
		"HTTP/2 in clear text and nothing else": {&http.Transport{Protocols: clear}, "ws://" + quiet.addr, false},
	} {
		for _, wrapped := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " wrapped=", wrapped), func(t *testing.T) {
				defer tc.transport.CloseIdleConnections()
				client := &http.Client{Transport: tc.transport}
				if wrapped {
					client.Transport = roundTripper(tc.transport.RoundTrip)
				}
				c, err := limpet.New(tc.url, options(&limpet.Options{Dialect: rawDialect{}, HTTPClient: client}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				st, err := c.WaitState(realContext(t), func(s limpet.State) bool { return s.Cause != nil || s.Phase == limpet.Ready })
				assert.NoError(t, err)
				if (st.Cause == nil) != tc.ok || !tc.ok && (limpet.ClassOf(st.Cause) != limpet.ClassUser || !strings.Contains(st.Cause.Error(), "offer HTTP/1.1 alone")) {
					t.Errorf("class %q: %v", limpet.ClassOf(st.Cause), st.Cause)
				}
			})
		}
	}
}

// A timeout says whose it is.
func TestTimeoutOfTheHTTPClientIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := limpettest.NewHandler(t, rawServer(drain), nil)
		host.Inject(limpettest.BlackHole(limpettest.Both))
		client := host.HTTPClient()
		client.Timeout = time.Second
		c, err := limpet.New(host.URL(), options(&limpet.Options{Dialect: rawDialect{}, HTTPClient: client}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
		assert.NoError(t, err)
		if limpet.ClassOf(st.Cause) != limpet.ClassTimeout || !strings.Contains(st.Cause.Error(), "Options.HTTPClient.Timeout (1s)") {
			t.Errorf("class %q: %v", limpet.ClassOf(st.Cause), st.Cause)
		}
	})
}

// What servers and proxies put into a 101 beside the handshake does not spoil it. An
// extension that was not offered does (RFC 6455, section 9.1), and is named.
func TestFormsOfA101(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(head string) string
		final  string
	}{
		"HTTP/1.0":             {func(s string) string { return strings.Replace(s, "HTTP/1.1", "HTTP/1.0", 1) }, ""},
		"no reason":            {func(s string) string { return strings.Replace(s, " Switching Protocols", "", 1) }, ""},
		"a length":             {adds("Content-Length: 5"), ""},
		"chunked":              {adds("Transfer-Encoding: chunked"), ""},
		"compressed":           {adds("Content-Encoding: gzip"), ""},
		"no extension":         {adds("Sec-WebSocket-Extensions: "), ""},
		"early hints before":   {func(s string) string { return "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + s }, ""},
		"a 100 before":         {func(s string) string { return "HTTP/1.1 100 Continue\r\n\r\n" + s }, ""},
		"a name that is wrong": {adds("X Y: z"), ""},
		"an extension":         {adds("Sec-WebSocket-Extensions: permessage-deflate"), "Sec-WebSocket-Extensions: permessage-deflate"},
		"extensions":           {adds("Sec-WebSocket-Extensions: a\r\nSec-WebSocket-Extensions: b"), "Sec-WebSocket-Extensions: a,b"},
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, func(_ int, nc net.Conn) {
				answerUpgrade(nc, func(key string) string { return tc.change(upgradeResponse(key)) })
			})
			c, err := limpet.Dial(realContext(t), "ws://"+l.addr, options(&limpet.Options{Dialect: rawDialect{}}))
			var p *limpet.PermanentError
			switch {
			case tc.final == "":
				if err == nil {
					closeAndWait(t, c)
					return
				}
				t.Error(err)
			case !errors.As(err, &p) || limpet.ClassOf(err) != limpet.ClassNotWebSocket || !strings.Contains(err.Error(), tc.final):
				t.Errorf("class %q: %v", limpet.ClassOf(err), err)
			}
		})
	}
}

func adds(line string) func(string) string {
	return func(head string) string { return strings.TrimSuffix(head, "\r\n") + line + "\r\n\r\n" }
}

// A dialect may spell a header as it likes. It is sent once, with the dialect's value.
func TestHeaderOfTheDialectInAnySpelling(t *testing.T) {
	l := listen(t, func(_ int, nc net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(nc))
		if err != nil {
			return
		}
		if got := req.Header.Values("Authorization"); len(got) != 1 || got[0] != "of the dialect" {
			t.Errorf("Authorization %q", got)
		}
		io.WriteString(nc, upgradeResponse(req.Header.Get("Sec-WebSocket-Key")))
		drain(nc)
	})
	d := changingDialect{change: func(a *wire.Attempt) { a.Header["authorization"] = []string{"of the dialect"} }}
	c, err := limpet.Dial(realContext(t), "ws://"+l.addr, options(&limpet.Options{Dialect: d, Header: http.Header{"Authorization": {"of the options"}}}))
	assert.NoError(t, err)
	closeAndWait(t, c)
}
