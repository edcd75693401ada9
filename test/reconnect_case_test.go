package test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
)

// A reaction is what the client does next.
type reaction struct {
	stopsAt int           // the failure in a row that ends a client which was never ready; 0: it goes on
	always  bool          // it also ends one that was ready; else five in a row over ten minutes do
	atCap   bool          // the wait is at the cap
	floor   int           // k is at least this
	slot    time.Duration // the wait that the server asks for
	refresh bool          // the next attempt follows at once, with a new credential, once a minute at most
	forgets bool          // the session is not resumed
}

var (
	backsOff   = reaction{}
	atTheCap   = reaction{atCap: true}
	stopsFirst = reaction{stopsAt: 1}
	stopsEver  = reaction{stopsAt: 1, always: true}
	stopsThird = reaction{stopsAt: 3}
	obeys      = reaction{slot: 90 * time.Second}
)

// A rowCase is one failure of a row of docs/reconnect.md. Each attempt ends with it: from the
// first one on, and once the client has been ready.
type rowCase struct {
	name    string // has what the row says of this failure
	failure failure
	next    reaction
	class   limpet.ErrorClass
	is      error  // the sentinel
	text    string // in the error
	options limpet.Options
	setUp   func(t *testing.T, s *failingServer, c *rowCase)
	hello   clientHello        // in TLS, of each attempt that fails
	connect string             // what a proxy answers to each attempt that fails
	run     func(t *testing.T) // in place of all this
}

func (c rowCase) test(t *testing.T) {
	t.Parallel()
	if c.run != nil {
		c.run(t)
		return
	}
	t.Run("never ready", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { c.check(t, false) }) })
	t.Run("was ready", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { c.check(t, true) }) })
}

func inBubble(f func(t *testing.T)) func(*testing.T) {
	return func(t *testing.T) { synctest.Test(t, f) }
}

// observed is what a client of a case did.
type observed struct {
	mu        sync.Mutex
	waits     []limpet.State
	refreshes []bool // what Auth or Ticket was asked for
}

func (o *observed) Observe(e limpet.Event) {
	if e, ok := e.(limpet.StateChanged); ok && e.State.Phase == limpet.Waiting {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.waits = append(o.waits, e.State)
	}
}

func (o *observed) refreshed(info limpet.AttemptInfo) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refreshes = append(o.refreshes, info.Refresh)
}

// watch observes a client with o.
func (o *observed) watch(options *limpet.Options) {
	options.Observer = o
	if auth := options.Auth; auth != nil {
		options.Auth = func(ctx context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
			o.refreshed(info)
			return auth(ctx, info)
		}
	}
	if ticket := options.Ticket; ticket != nil {
		options.Ticket = func(ctx context.Context, info limpet.AttemptInfo) (url.Values, error) {
			o.refreshed(info)
			return ticket(ctx, info)
		}
	}
}

// check has each attempt fail. One that was ready is lost first: as the case says, if it is
// about connections, else it is cut.
func (c rowCase) check(t *testing.T, wasReady bool) {
	var failing atomic.Bool
	failing.Store(!wasReady)
	s := newFailingServer(t, func(int) *failure {
		if failing.Load() {
			return &c.failure
		}
		return nil
	})
	if c.setUp != nil {
		c.setUp(t, s, &c)
	}
	if c.hello != nil {
		c.useTLS(t, s)
	}
	if c.connect != "" {
		c.useProxy(t, s)
	}
	ofConnections := c.failure.code != 0 || c.failure.then != nil
	s.afterwards = func(p *scriptedConn) {
		<-time.After(2 * time.Minute)
		if failing.Store(true); ofConnections {
			s.strike()
			c.failure.apply(p)
		} else {
			p.ws.CloseNow()
		}
	}
	seen := &observed{}
	seen.watch(&c.options)
	began := time.Now()
	client := s.start(t, c.options)
	if wasReady {
		assert.NoError(t, client.WaitReady(t.Context()))
		began = began.Add(2 * time.Minute)
	}
	select {
	case <-client.Done():
	case <-time.After(20 * time.Minute):
	}
	took, ended := time.Since(began), client.State().Phase == limpet.Ended
	synctest.Wait()
	made, sessions := s.made(), s.sessions
	first := 0 // of the waits that is for a failure of the case
	if wasReady && !ofConnections {
		first = 1
	}
	resumed := "s"
	if c.next.forgets {
		resumed = ""
	}
	if wasReady && ofConnections && slices.ContainsFunc(sessions[1:], func(session string) bool { return session != resumed }) {
		t.Errorf("the sessions %q are asked for", sessions)
	}
	struck := len(made) - first // the last attempt may be in progress
	if s.struck != struck && s.struck != struck-1 || s.struck == 0 {
		t.Errorf("%d failures took effect, %d attempts were made", s.struck, len(made))
	}
	c.checkEnd(t, client, wasReady, took, s.struck)
	c.checkWaits(t, seen, first, made[1:], ended)
}

// checkEnd demands that the client ends when the case says so.
func (c rowCase) checkEnd(t *testing.T, client *limpet.Client, wasReady bool, took time.Duration, failures int) {
	err := client.Err()
	switch n := c.next; {
	case n.stopsAt == 0:
		if err != nil {
			t.Errorf("ended after %v: %v", took, err)
		}
		return
	case wasReady && !n.always:
		if failures < 5 || took < 10*time.Minute || took > 12*time.Minute {
			t.Errorf("ended after %v and %d failures, want 5 in a row over 10 minutes", took, failures)
		}
	case failures != n.stopsAt:
		t.Errorf("ended after %d failures, want %d", failures, n.stopsAt)
	}
	var p *limpet.PermanentError
	if !errors.As(err, &p) || p.Class != c.class {
		t.Errorf("ended with %v, want class %s", err, c.class)
	}
	c.checkCause(t, err)
}

// checkCause reports whether err says what the case demands.
func (c rowCase) checkCause(t *testing.T, err error) bool {
	var e *limpet.Error
	code := max(c.failure.status, c.failure.code)
	ok := limpet.ClassOf(err) == c.class && errors.As(err, &e) && (c.is == nil || errors.Is(err, c.is)) && strings.Contains(err.Error(), c.text) && (code <= 0 || e.Code == code)
	if !ok {
		t.Errorf("class %q: %v; want %q, %v, %q, code %d", limpet.ClassOf(err), err, c.class, c.is, c.text, code)
	}
	return ok
}

// checkWaits demands the waits of section 1, and an attempt after each. The first waits are
// not for a failure of the case.
func (c rowCase) checkWaits(t *testing.T, seen *observed, first int, made []time.Time, ended bool) {
	if n := len(seen.waits); n < 5 && !ended || n < c.next.stopsAt-1 {
		t.Errorf("%d waits", n)
	}
	var refreshed time.Time
	for i, st := range seen.waits {
		wait, next := st.NextAttempt.Sub(st.Since), c.next
		if i < first {
			next = backsOff
		} else if !c.checkCause(t, st.Cause) {
			return
		}
		least, longest := next.bounds(i + 1)
		if next.refresh && (refreshed.IsZero() || wait < least) {
			if !refreshed.IsZero() && st.Since.Sub(refreshed) < time.Minute {
				t.Errorf("two attempts with a new credential within %v", st.Since.Sub(refreshed))
			}
			refreshed, least, longest = st.Since, 0, 100*time.Millisecond
			if i == 0 && !slices.Equal(seen.refreshes[:2], []bool{false, true}) {
				t.Errorf("asked for new credentials: %v", seen.refreshes)
			}
		}
		if wait < least-time.Microsecond || wait > longest+time.Microsecond {
			t.Errorf("failure %d: a wait of %v, want %v to %v: %v", i+1, wait, least, longest, st.Cause)
		}
		turn := time.Duration(0) // of the governor
		if c.class == limpet.ClassOverload || c.failure.code == 1008 {
			turn = time.Second
		}
		if i < len(made) && (made[i].Before(st.NextAttempt) || made[i].After(st.NextAttempt.Add(turn))) {
			t.Errorf("attempt %d was made %v after its time", i+2, made[i].Sub(st.NextAttempt))
		}
	}
}

// bounds returns how long the client waits after the k-th failure in a row.
func (n reaction) bounds(k int) (least, longest time.Duration) {
	if n.slot > 0 {
		return n.slot, n.slot * 11 / 10
	}
	k += max(0, n.floor-1)
	if n.atCap {
		v := max(bound(k), 15*time.Second)
		return v / 2, v
	}
	if k == 1 {
		return 0, 500 * time.Millisecond
	}
	return bound(k) / 2, bound(k)
}

// statuses is a case for each status.
func statuses(next reaction, class limpet.ErrorClass, codes ...int) (cases []rowCase) {
	for _, code := range codes {
		cases = append(cases, rowCase{name: fmt.Sprint(code), failure: failure{status: code}, next: next, class: class})
	}
	return cases
}

// retryAfter has the server answer with a time in a header.
func retryAfter(status int, class limpet.ErrorClass, is error, header http.Header) rowCase {
	return rowCase{name: fmt.Sprintf("%d, %v", status, header), failure: failure{status: status, header: header}, next: obeys, class: class, is: is}
}

var in90s = http.Header{"Retry-After": {"90"}}

// says answers with what text makes of the key of the request; empty: with nothing.
func says(text func(key string) string) failure {
	return failure{answer: func(w http.ResponseWriter, r *http.Request) {
		nc, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer nc.Close()
		if said, err := io.WriteString(nc, text(r.Header.Get("Sec-WebSocket-Key"))); err == nil && said > 0 {
			drain(nc)
		}
	}}
}

// upgradeWith is a right answer to an upgrade in which old is replaced.
func upgradeWith(old, by string) failure {
	return says(func(key string) string { return strings.Replace(upgradeResponse(key), old, by, 1) })
}

// dialFails is a dial function that returns err.
func dialFails(err error) failure {
	return failure{through: func(t *http.Transport) http.RoundTripper {
		t.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, err }
		return t
	}}
}

func local(fault syscall.Errno) failure {
	return dialFails(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", fault)})
}

// body is a transport that hands over another body.
func body(change func(io.ReadCloser) io.ReadCloser) failure {
	return failure{through: func(t *http.Transport) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			resp, err := t.RoundTrip(r)
			if err == nil {
				resp.Body = change(resp.Body)
			}
			return resp, err
		})
	}}
}

// A clientHello is what a server makes of a ClientHello. ca signs its certificate, and good is
// what it makes of others.
type clientHello func(t *testing.T, ca tls.Certificate, hello *tls.ClientHelloInfo, good *tls.Config) (*tls.Config, error)

func inTLS(name string, next reaction, text string, decide clientHello) rowCase {
	return rowCase{name: name, next: next, class: limpet.ClassTLS, text: text, hello: decide}
}

// useTLS puts TLS at example.com in front of s.
func (c *rowCase) useTLS(t *testing.T, s *failingServer) {
	donor := httptest.NewUnstartedServer(nil)
	donor.Listener.Close()
	var err error
	donor.Listener, err = s.host.Network.Listen("donor.test:443")
	assert.NoError(t, err)
	donor.StartTLS()
	donor.Close()
	ca, roots := donor.TLS.Certificates[0], donor.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	good := &tls.Config{Certificates: donor.TLS.Certificates}
	serveTLS(t, s.host.Network, "example.com:443", http.HandlerFunc(s.serve), &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if !s.fails() {
			return good, nil
		}
		s.strike()
		return c.hello(t, ca, hello, good.Clone())
	}})
	client := s.host.HTTPClient()
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{ca}}
	c.options.HTTPClient, s.front = client, "wss://example.com"
}

// useProxy puts a proxy in front of s.
func (c *rowCase) useProxy(t *testing.T, s *failingServer) {
	newProxy(t, s.host.Network, func(n int, nc net.Conn) bool {
		answer := "HTTP/1.1 200 OK"
		if s.fails() {
			s.strike()
			answer = c.connect
		}
		return answers(answer+"\r\n\r\n")(n, nc)
	})
	c.options.HTTPClient, c.options.AllowInsecure = s.host.HTTPClient(), true
	c.options.HTTPClient.Transport.(*http.Transport).Proxy = proxyAt("http", proxyAddr)
}

// inCertificate has the server show a certificate that is not right.
func inCertificate(name string, next reaction, text string, change func(t *testing.T, ca tls.Certificate, template *x509.Certificate) tls.Certificate) rowCase {
	return inTLS(name, next, text, func(t *testing.T, ca tls.Certificate, _ *tls.ClientHelloInfo, good *tls.Config) (*tls.Config, error) {
		now := time.Now()
		template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"example.com"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
		signer := change(t, ca, template)
		issuer, err := x509.ParseCertificate(signer.Certificate[0])
		assert.NoError(t, err)
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		assert.NoError(t, err)
		der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, signer.PrivateKey)
		assert.NoError(t, err)
		good.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
		return good, nil
	})
}

// fails reports whether the attempt that is made now fails.
func (s *failingServer) fails() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current != nil
}
