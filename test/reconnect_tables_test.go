package test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// TestReconnectTables has at least one case for each row of the tables in sections 2 and 3 of
// docs/reconnect.md, and for each code and cause in its first column.
func TestReconnectTables(t *testing.T) {
	text, err := os.ReadFile("../docs/reconnect.md")
	assert.NoError(t, err)
	for section, cases := range map[string]map[string][]rowCase{"## 2 ": responseRows(), "## 3 ": closeRows()} {
		_, table, _ := strings.Cut(string(text), "\n"+section)
		table, _, _ = strings.Cut(table, "\n## ")
		rows := regexp.MustCompile(`(?m)^\| (.+?) \|`).FindAllStringSubmatch(table, -1)
		if len(rows) < 10 {
			t.Fatalf("section %s has %d rows", section, len(rows))
		}
		for _, row := range rows[1:] { // the first one is the head
			name := row[1]
			of, ok := cases[name]
			delete(cases, name)
			for _, part := range regexp.MustCompile(`[,;:()] *(?:and |or )?| or | and | to `).Split(name, -1) {
				if !ok || !slices.ContainsFunc(of, func(c rowCase) bool { return strings.Contains(c.name, part) }) {
					t.Errorf("row %q has no case for %q", name, part)
				}
			}
			for _, c := range of {
				t.Run(c.name, c.test)
			}
		}
		for name := range cases {
			t.Errorf("section %s has no row %q", section, name)
		}
	}
}

// responseRows are the rows of section 2.
func responseRows() map[string][]rowCase {
	return map[string][]rowCase{
		"101, right accept key, right subprotocol": {{name: "101, right accept key, right subprotocol", run: inBubble(func(t *testing.T) {
			s := newFailingServer(t, func(int) *failure { return nil })
			c, began := s.start(t, limpet.Options{}), time.Now()
			err := c.WaitReady(t.Context())
			if st := c.State(); err != nil || st.Cause != nil || time.Since(began) != 0 || len(s.made()) != 1 {
				t.Errorf("%v after %d attempts: %+v", err, len(s.made()), st)
			}
		})}},
		"101, wrong accept key, `Upgrade` or extension": noHandshakes(),
		"101 with `Connection: close` beside `Upgrade`": {
			{name: "101 with `Connection: close` beside `Upgrade`", failure: upgradeWith("Connection: Upgrade", "Connection: Upgrade, close"), next: atTheCap, class: limpet.ClassNotWebSocket, text: "Connection: close"},
		},
		"101 whose body `Options.HTTPClient` has replaced or read": {
			{name: "101 whose body `Options.HTTPClient` has replaced", failure: body(func(b io.ReadCloser) io.ReadCloser { return struct{ io.ReadCloser }{b} }), next: backsOff, class: limpet.ClassUser, text: "has replaced the body"},
			{name: "read", failure: body(func(b io.ReadCloser) io.ReadCloser { b.Close(); return io.NopCloser(strings.NewReader("")) }), next: backsOff, class: limpet.ClassUser, text: "has replaced the body"},
		},
		"101 without one of the subprotocols that were offered": {
			{name: "101 without one of the subprotocols that were offered", failure: failure{status: noSubprotocol}, next: stopsFirst, class: limpet.ClassProtocol, is: limpet.ErrSubprotocol},
		},
		"2xx": append(statuses(atTheCap, limpet.ClassNotWebSocket, 200, 204, 299), rowCase{name: "2xx with a time", failure: failure{status: 200, header: in90s}, next: obeys, class: limpet.ClassNotWebSocket}),
		"301, 302, 307, 308 to a host in `Options.Redirects`": {followed(301, "301"), followed(302, "302"), followed(307, "307"), followed(308, "308 to a host in `Options.Redirects`")},
		"any other 3xx, and a redirect to another host":       otherRedirects(),
		"401": refusals(failure{status: 401}, "401", false),
		"403, 407, 501, 505 and every other 4xx not listed here": slices.Concat(
			statuses(stopsFirst, limpet.ClassAuth, 403), statuses(stopsFirst, limpet.ClassProxy, 407), statuses(stopsFirst, limpet.ClassHTTP, 501, 505), other4xx(), []rowCase{
				retryAfter(403, limpet.ClassAuth, nil, in90s), retryAfter(407, limpet.ClassProxy, nil, in90s), retryAfter(501, limpet.ClassHTTP, nil, in90s), retryAfter(505, limpet.ClassHTTP, nil, in90s),
				retryAfter(404, limpet.ClassHTTP, nil, in90s), {name: "407 of a proxy", next: stopsFirst, class: limpet.ClassProxy, text: proxyAddr, connect: "HTTP/1.1 407 Proxy Authentication Required"}, {name: "401 of a proxy", next: stopsFirst, class: limpet.ClassProxy, text: proxyAddr, connect: "HTTP/1.1 401 Unauthorized"},
			}),
		"408, 421, 425, 429, other 5xx": slices.Concat(statuses(backsOff, limpet.ClassHTTP, 408, 421, 425), statuses(backsOff, limpet.ClassOverload, 429, 503),
			[]rowCase{{name: "other 5xx: 500", failure: failure{status: 500}, class: limpet.ClassHTTP}}, statuses(backsOff, limpet.ClassHTTP, 502, 504, 520, 599), forms()),
		"TLS: unknown authority, wrong name, invalid chain": {
			inCertificate("TLS: unknown authority", stopsFirst, "unknown authority", func(t *testing.T, _ tls.Certificate, _ *x509.Certificate) tls.Certificate {
				return *certificate(t, "unknown")
			}),
			inCertificate("wrong name", stopsFirst, "not example.com", func(_ *testing.T, ca tls.Certificate, c *x509.Certificate) tls.Certificate {
				c.DNSNames = []string{"other.test"}
				return ca
			}),
			inCertificate("invalid chain", stopsFirst, "incompatible key usage", func(_ *testing.T, ca tls.Certificate, c *x509.Certificate) tls.Certificate {
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
				return ca
			}),
		},
		"TLS: expired or not yet valid": {
			inCertificate("TLS: expired", atTheCap, "expired", func(_ *testing.T, ca tls.Certificate, c *x509.Certificate) tls.Certificate {
				c.NotAfter = time.Now().Add(-time.Minute)
				return ca
			}),
			inCertificate("not yet valid", atTheCap, "not yet valid", func(_ *testing.T, ca tls.Certificate, c *x509.Certificate) tls.Certificate {
				c.NotBefore = time.Now().Add(time.Minute)
				return ca
			}),
		},
		"TLS: any other failure of the handshake, a refused client certificate included": otherTLS(),
		"DNS; refused; unreachable; timed out; no answer, or one that is not HTTP":       unreached(),
	}
}

// noHandshakes are answers with 101 that are not a WebSocket handshake.
func noHandshakes() []rowCase {
	return []rowCase{
		{name: "101, wrong accept key", failure: upgradeWith("Accept: ", "Accept: x"), next: stopsFirst, class: limpet.ClassNotWebSocket, text: "Sec-WebSocket-Accept"},
		{name: "101, wrong `Upgrade`", failure: upgradeWith("Upgrade: websocket", "Upgrade: tea"), next: stopsFirst, class: limpet.ClassNotWebSocket, text: "Upgrade header"},
		{name: "101, no Upgrade", failure: upgradeWith("Upgrade: websocket\r\n", ""), next: stopsFirst, class: limpet.ClassNotWebSocket, text: "Upgrade: websocket"},
		{name: "101, wrong extension", failure: upgradeWith("\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"), next: stopsFirst, class: limpet.ClassNotWebSocket, text: "permessage-deflate"},
	}
}

// followed is what another host answers counts, within the same attempt.
func followed(status int, name string) rowCase {
	return rowCase{name: name, failure: failure{status: 503, header: in90s}, next: obeys, class: limpet.ClassOverload, text: "after a redirect", setUp: func(t *testing.T, s *failingServer, c *rowCase) {
		limpettest.NewHandler(t, redirect(status, s.host.HTTPURL()), &limpettest.HostOptions{On: s.host.Network, Addr: "a.test:80"})
		s.front, c.options.AllowInsecure, c.options.Redirects.Hosts = "ws://a.test", true, []string{s.host.Addr()}
	}}
}

// otherRedirects lead to b.test, which is listed, or to another host.
func otherRedirects() (cases []rowCase) {
	for _, status := range []int{300, 303, 304, 305, 306, 399} {
		cases = append(cases, rowCase{name: fmt.Sprint("any other 3xx: ", status), failure: failure{status: status, header: http.Header{"Location": {"http://b.test/"}}}, next: atTheCap})
	}
	for _, status := range []int{301, 302, 307, 308} {
		cases = append(cases, rowCase{name: fmt.Sprint("a redirect to another host: ", status), failure: failure{status: status, header: http.Header{"Location": {"http://c.test/"}}}, next: atTheCap})
	}
	late := http.Header{"Location": {"http://b.test/"}, "Retry-After": {"90"}}
	cases = append(cases, retryAfter(302, "", nil, late), retryAfter(303, "", nil, late))
	for i := range cases {
		c := &cases[i]
		c.class, c.is, c.options = limpet.ClassNotWebSocket, limpet.ErrRedirect, limpet.Options{AllowInsecure: true, Redirects: limpet.Redirects{Hosts: []string{"b.test"}}}
	}
	return cases
}

// refusals are those of a credential.
func refusals(f failure, name string, always bool) []rowCase {
	stopsNow, again := reaction{stopsAt: 1, always: always}, reaction{stopsAt: 2, always: always, refresh: true}
	withTicket := limpet.Options{Ticket: func(context.Context, limpet.AttemptInfo) (url.Values, error) { return url.Values{"t": {"t"}}, nil }}
	return []rowCase{
		{name: name, failure: f, next: stopsNow, class: limpet.ClassAuth},
		{name: name + " with Auth", failure: f, next: again, class: limpet.ClassAuth, options: withAuth},
		{name: name + " with Ticket", failure: f, next: again, class: limpet.ClassAuth, options: withTicket},
		{name: name + " a minute later, and after a welcome", run: inBubble(func(t *testing.T) { refusedAgain(t, f) })},
	}
}

// refusedAgain has a refusal a minute after the one before, and one after a welcome within a minute.
func refusedAgain(t *testing.T, f failure) {
	s := newFailingServer(t, func(n int) *failure {
		return []*failure{&f, {status: 503, header: http.Header{"Retry-After": {"61"}}}, &f, nil, &f, nil}[min(n-1, 5)]
	})
	dropped := false
	s.afterwards = func(p *scriptedConn) {
		if !dropped {
			dropped = true
			p.ws.CloseNow()
		}
	}
	seen := &observed{}
	o := withAuth
	o.Observer = seen
	c := s.start(t, o)
	<-time.After(20 * time.Minute)
	synctest.Wait()
	if err := c.Err(); err != nil || len(seen.waits) != 5 || s.struck != 4 {
		t.Fatalf("%v after %d waits and %d failures", err, len(seen.waits), s.struck)
	}
	for i, atOnce := range []bool{true, false, true, false, false} { // the last: only once a minute
		if wait := seen.waits[i].NextAttempt.Sub(seen.waits[i].Since); atOnce != (wait <= 100*time.Millisecond) {
			t.Errorf("wait %d is %v", i+1, wait)
		}
	}
}

func other4xx() (cases []rowCase) {
	for status := 400; status < 500; status++ {
		if !slices.Contains([]int{401, 403, 407, 408, 421, 425, 429}, status) {
			cases = append(cases, rowCase{name: fmt.Sprint("every other 4xx not listed here: ", status), failure: failure{status: status}, next: stopsFirst, class: limpet.ClassHTTP})
		}
	}
	return cases
}

// forms are the forms of Retry-After, and each status that obeys it.
func forms() (cases []rowCase) {
	for _, h := range []http.Header{
		in90s, {"Retry-After": {"90.0"}}, {"Retry-After": {"90s"}}, {"Retry-After": {"7", "90"}}, {"X-Limpet-Retry-Ms": {"90000"}},
		{"Retry-After": {"Sat, 01 Jan 2000 00:01:30 GMT"}, "Date": {"Sat, 01 Jan 2000 00:00:00 GMT"}},
		{"Retry-After": {"Sat, 01 Jan 2000 00:01:30 UTC"}, "Date": {"Sat, 01 Jan 2000 00:00:00 GMT"}},
		{"Retry-After": {"2000-01-01T00:01:30Z"}, "Date": {"Sat, 01 Jan 2000 00:00:00 GMT"}},
	} {
		cases = append(cases, retryAfter(503, limpet.ClassOverload, nil, h))
	}
	for _, status := range []int{408, 421, 425, 500, 502, 504, 520} {
		cases = append(cases, retryAfter(status, limpet.ClassHTTP, nil, in90s))
	}
	return append(cases, retryAfter(429, limpet.ClassOverload, nil, in90s))
}

func otherTLS() (cases []rowCase) {
	for name, decide := range map[string]func(hello *tls.ClientHelloInfo, c *tls.Config) error{
		"TLS: any other failure of the handshake": func(*tls.ClientHelloInfo, *tls.Config) error { return errors.New("no") },
		"TLS, too old": func(_ *tls.ClientHelloInfo, c *tls.Config) error { c.MaxVersion = tls.VersionTLS11; return nil },
		"no TLS": func(hello *tls.ClientHelloInfo, c *tls.Config) error {
			io.WriteString(hello.Conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			return hello.Conn.Close()
		},
		"closed in the handshake": func(hello *tls.ClientHelloInfo, _ *tls.Config) error { return hello.Conn.Close() },
		"a refused client certificate included, TLS 1.2": func(_ *tls.ClientHelloInfo, c *tls.Config) error {
			c.MaxVersion, c.ClientAuth, c.ClientCAs = tls.VersionTLS12, tls.RequireAndVerifyClientCert, x509.NewCertPool()
			return nil
		},
		"a refused client certificate included, TLS 1.3": func(_ *tls.ClientHelloInfo, c *tls.Config) error {
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
			return nil
		},
	} {
		cases = append(cases, inTLS(name, backsOff, "", func(_ *testing.T, _ tls.Certificate, hello *tls.ClientHelloInfo, good *tls.Config) (*tls.Config, error) {
			return good, decide(hello, good)
		}))
	}
	return cases
}

// unreached are attempts that end before an answer in HTTP.
func unreached() []rowCase {
	silent := failure{answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }}
	noPort := failure{through: func(t *http.Transport) http.RoundTripper {
		dial := t.DialContext
		t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, "127.0.0.1:1")
		}
		return t
	}}
	stalls := func(_ *testing.T, s *failingServer, _ *rowCase) {
		s.host.Network.Each(func(int) limpettest.Fault {
			if !s.fails() {
				return limpettest.Clean()
			}
			s.strike()
			return limpettest.Stall(time.Hour)
		})
	}
	cases := []rowCase{
		{name: "DNS", failure: dialFails(&net.DNSError{Err: "no such host", Name: "h.test", IsNotFound: true}), class: limpet.ClassDNS},
		{name: "DNS, for now", failure: dialFails(&net.DNSError{Err: "server misbehaving", Name: "h.test", IsTemporary: true}), class: limpet.ClassDNS},
		{name: "refused", failure: noPort, class: limpet.ClassDial, is: syscall.ECONNREFUSED},
		{name: "unreachable", failure: local(syscall.EHOSTDOWN), class: limpet.ClassDial, is: syscall.EHOSTDOWN},
		{name: "timed out: the dial", setUp: stalls, class: limpet.ClassTimeout, is: context.DeadlineExceeded},
		{name: "timed out: the answer", failure: silent, class: limpet.ClassTimeout, is: context.DeadlineExceeded},
		{name: "no answer", failure: says(func(string) string { return "" }), class: limpet.ClassNetwork, text: "no answer"},
		{name: "one that is not HTTP", failure: says(func(string) string { return "SSH-2.0-x\r\n" }), class: limpet.ClassNotWebSocket, text: "SSH"},
	}
	for fault, name := range map[syscall.Errno]string{syscall.ENETUNREACH: "no route", syscall.EHOSTUNREACH: "no route to the host", syscall.EMFILE: "no descriptor", syscall.ENFILE: "no descriptor in the system",
		syscall.EADDRNOTAVAIL: "no port", syscall.EACCES: "no permission", syscall.EPERM: "no permission of the firewall"} {
		cases = append(cases, rowCase{name: name, failure: local(fault), next: atTheCap, class: limpet.ClassLocal, is: fault})
	}
	return cases
}

// closeRows are the rows of section 3.
func closeRows() map[string][]rowCase {
	session := reaction{forgets: true}
	return map[string][]rowCase{
		"1000, 1001 going away, 1012 service restart": slices.Concat(
			codes(backsOff, limpet.ClassNetwork, nil, "1000", "1001 going away", "1012 service restart"), []rowCase{inWindow(1000), inWindow(1001), inWindow(1012)}),
		"1002 protocol error, 1007 invalid payload":    codes(stopsThird, limpet.ClassProtocol, nil, "1002 protocol error", "1007 invalid payload"),
		"1003 unsupported data, 1010 extension wanted": codes(stopsEver, limpet.ClassProtocol, nil, "1003 unsupported data", "1010 extension wanted"),
		"no code (1005, 1006)": {
			{name: "no code (1005)", failure: failure{code: 1005}, class: limpet.ClassNetwork},
			{name: "no code (1006)", failure: failure{then: func(p *scriptedConn) { p.ws.CloseNow() }}, class: limpet.ClassNetwork},
		},
		"1008 policy violation": refusals(failure{code: 1008}, "1008 policy violation", false),
		"1008 with a text that the client sends too much": {
			{name: "1008 with a text that the client sends too much", failure: failure{then: func(p *scriptedConn) { p.ws.Close(1008, "Too many requests") }}, class: limpet.ClassOverload},
		},
		"1009 too big":                          append(codes(backsOff, limpet.ClassProtocol, nil, "1009 too big"), rowCase{name: "1009 for a message", run: inBubble(func(t *testing.T) { messageTooBig(t) })}, rowCase{name: "1009 for a request", run: inBubble(func(t *testing.T) { requestTooBig(t) })}),
		"1011 internal error, 1014 bad gateway": codes(backsOff, limpet.ClassNetwork, nil, "1011 internal error", "1014 bad gateway"),
		"1013 try again later":                  codes(reaction{floor: 3}, limpet.ClassOverload, nil, "1013 try again later"),
		"3000 to 4999": slices.Concat(
			codes(backsOff, limpet.ClassNetwork, nil, "3000", "3999", "4500", "4999"), []rowCase{
				{name: "4999 in a dialect with a table", failure: failure{code: 4999}, next: stopsEver, class: "own", options: limpet.Options{Dialect: knowing{native.New(nil)}}},
				{name: "3000 in a dialect with a table", failure: failure{code: 3000}, next: obeys, class: "own", options: limpet.Options{Dialect: knowing{native.New(nil)}}},
			}),
		"4000 to 4499 in limpet.v1": slices.Concat(
			codes(stopsEver, limpet.ClassProtocol, nil, "4000", "4002", "4004", "4099"), codes(stopsEver, limpet.ClassAuth, nil, "4003"), codes(stopsEver, limpet.ClassOverload, nil, "4005"),
			codes(stopsEver, limpet.ClassSession, limpet.ErrSuperseded, "4006"), codes(stopsEver, limpet.ClassSession, limpet.ErrSessionConflict, "4007"),
			refusals(failure{code: 4100}, "4100", true), refusals(failure{code: 4199}, "4199", true),
			codes(backsOff, limpet.ClassOverload, nil, "4200", "4299"), codes(backsOff, limpet.ClassProtocol, nil, "4207"), codes(backsOff, "going_away", nil, "4300", "4399"), []rowCase{inWindow(4302)},
			codes(session, limpet.ClassSession, nil, "4400", "4499 in limpet.v1"), codes(session, limpet.ClassSession, limpet.ErrRolledBack, "4402")),
		"any other": unsendable(0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535),
	}
}

// codes is a case for each code.
func codes(next reaction, class limpet.ErrorClass, is error, names ...string) (cases []rowCase) {
	for _, name := range names {
		c := rowCase{name: name, next: next, class: class, is: is}
		fmt.Sscan(name, &c.failure.code)
		cases = append(cases, c)
	}
	return cases
}

// unsendable are close frames with codes that no peer may send. They end no client by themselves,
// but Options.Verdict can.
func unsendable(codes ...uint16) (cases []rowCase) {
	for _, code := range codes {
		strikes := func(_ *testing.T, s *failingServer, c *rowCase) {
			c.failure.then = func(*scriptedConn) { s.host.Network.Strike(limpettest.CloseWith(code, "why", 0)) }
		}
		decides := limpet.Options{Verdict: func(f wire.Failure, would wire.Verdict) wire.Verdict {
			if f.CloseCode == code && f.Code == 0 && f.Reason == "why" && would.Action == wire.ActionBackOff {
				would.Action = wire.ActionStop
			}
			return would
		}}
		cases = append(cases,
			rowCase{name: fmt.Sprint("any other: ", code), next: backsOff, class: limpet.ClassProtocol, text: fmt.Sprint("closed with ", code), setUp: strikes},
			rowCase{name: fmt.Sprint("any other, and a verdict: ", code), next: stopsEver, class: limpet.ClassProtocol, setUp: strikes, options: decides})
	}
	return cases
}

// knowing is a dialect with a table of its own.
type knowing struct{ wire.Dialect }

func (d knowing) Verdict(f wire.Failure) wire.Verdict {
	switch f.Code {
	case 3000:
		return wire.Verdict{Action: wire.ActionBackOff, After: obeys.slot, Class: "own"}
	case 4999:
		return wire.Verdict{Action: wire.ActionStop, Class: "own"}
	}
	return d.Dialect.Verdict(f)
}

// inWindow has stable connections end, each with a window of 100 s.
func inWindow(code websocket.StatusCode) rowCase {
	return rowCase{name: fmt.Sprint(code, " in the window"), run: inBubble(func(t *testing.T) {
		s := newScriptedServer(t, func(p *scriptedConn) {
			w := p.welcome()
			w.Welcome.Spread = 100_000
			p.sendFrames(w)
			<-time.After(time.Minute)
			p.ws.Close(code, "")
		})
		seen := &observed{}
		s.start(limpet.Options{Observer: seen, Heartbeat: rareHeartbeats})
		<-time.After(time.Hour)
		synctest.Wait()
		longest := time.Duration(0)
		for _, st := range seen.waits {
			longest = max(longest, st.NextAttempt.Sub(st.Since))
		}
		if _, conns := s.seen(); conns < 20 || longest < 20*time.Second || longest > 100*time.Second {
			t.Errorf("%d connections, waits up to %v", conns, longest)
		}
	})}
}

// messageTooBig has the server close with 1009 at one message of three in one frame.
func messageTooBig(t *testing.T) {
	var took []string
	s := tooBigServer(t, &took)
	c, _ := s.start(limpet.Options{Heartbeat: rareHeartbeats})
	rs, err := c.PublishBatch(t.Context(), []limpet.Outgoing{{Topic: "a", Payload: []byte("1")}, {Topic: "a", Payload: []byte("big")}, {Topic: "a", Payload: []byte("3")}})
	assert.NoError(t, err)
	for i, want := range []limpet.Outcome{limpet.Acked, limpet.Rejected, limpet.Acked} {
		if ack, err := rs[i].Wait(t.Context()); ack.Outcome != want || want == limpet.Rejected && !errors.Is(err, limpet.ErrTooBig) {
			t.Errorf("message %d: %v, %v", i+1, ack.Outcome, err)
		}
	}
	if _, conns := s.seen(); conns < 3 || !slices.Equal(took, []string{"1", "3"}) {
		t.Errorf("%d connections, the server took %q", conns, took)
	}
}

// requestTooBig has the server close with 1009 at the request for one topic of three.
func requestTooBig(t *testing.T) {
	s := &closingServer{code: 1009, dead: func(topic string) bool { return topic == "bad" }}
	_, subs := closingClient(t, s, "a", "bad", "c")
	<-time.After(2 * time.Minute)
	synctest.Wait()
	if a, c := subs["a"].State().Phase, subs["c"].State().Phase; a != limpet.SubLive || c != limpet.SubLive || subs["bad"].State().Phase != limpet.SubPending || len(s.made()) < 3 {
		t.Errorf("a is %v, c is %v, bad is %v after %d connections", a, c, subs["bad"].State(), len(s.made()))
	}
}
