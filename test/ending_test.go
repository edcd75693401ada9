package test

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// A failure is what goes wrong with an attempt or a connection.
type failure struct {
	status int         // of the response to the upgrade
	header http.Header // of that response
	code   int         // close code
	text   string      // sent as a frame, before the close frame if there is a code
	err    error       // of the dial
	auth   error       // of Options.Auth

	answer  http.HandlerFunc                          // of the upgrade, in place of status and header
	then    func(p *scriptedConn)                     // ends an upgraded connection, in place of code and text
	through func(t *http.Transport) http.RoundTripper // carries the request in place of t
}

// A permanentRow is a row of the table in docs/ending.md.
type permanentRow struct {
	what          string
	before, after string // the first Ready
	keepTrying    string
	failures      []failure
	class         limpet.ErrorClass
	options       limpet.Options
}

const (
	atOnce   = "at once"
	second   = "the second in a row"
	third    = "the third in a row"
	repeated = "5 in a row over 10 minutes"
	waits    = "waits"
	ends     = "no effect"
)

// withAuth has a credential for every attempt.
var withAuth = limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
	return limpet.Credential{Token: "t"}, nil
}}

// stopAttempts is a Verdict to stop at anything but the end of a connection that was ready.
func stopAttempts(f wire.Failure, would wire.Verdict) wire.Verdict {
	if f.Stage == wire.StageOpen {
		return would
	}
	return wire.Verdict{Action: wire.ActionStop, Class: "rejected"}
}

var errClosedAccount = errors.New("account closed")

// endings is everything that ends a client, but for Close and Shutdown.
var endings = []permanentRow{
	{"an error of `Options.Auth` or `Options.Ticket` made with `Permanent`, for an attempt", atOnce, atOnce, ends,
		[]failure{{auth: limpet.Permanent(errClosedAccount)}, {auth: fmt.Errorf("token: %w", limpet.Permanent(errClosedAccount))}}, limpet.ClassAuth, withAuth},
	{"the verdict of `Options.Verdict` is to stop", atOnce, atOnce, ends,
		[]failure{{status: 503}, {status: 401}, {code: 4300}, {err: errors.New("refused")}}, limpet.ClassRejected, limpet.Options{Verdict: stopAttempts}},
	{"the dialect's verdict is to stop: limpet.v1, 4000 to 4099", atOnce, atOnce, ends,
		[]failure{{code: 4003}, {text: fatalForbidden}, {text: fatalForbidden, code: 1012}, {text: fatalForbidden, code: 4200}}, limpet.ClassAuth, limpet.Options{}},
	{"the dialect's verdict is a new credential, without `Options.Auth` and `Options.Ticket`: limpet.v1, 4100 to 4199", atOnce, atOnce, ends,
		[]failure{{code: 4100}, {code: 4101}}, limpet.ClassAuth, limpet.Options{}},
	{"the same with one of them, within 60 s", second, second, ends,
		[]failure{{code: 4100}}, limpet.ClassAuth, withAuth},
	{"close code 1003 or 1010", atOnce, atOnce, waits,
		[]failure{{code: 1003}, {code: 1010}}, limpet.ClassProtocol, limpet.Options{}},
	{"status 403", atOnce, repeated, waits, []failure{{status: 403}}, limpet.ClassAuth, limpet.Options{}},
	{"status 407, 501, 505 or another 4xx, except 401, 408, 421, 425 and 429", atOnce, repeated, waits,
		[]failure{{status: 400}, {status: 404}, {status: 405}, {status: 410}, {status: 418}, {status: 426}, {status: 431}, {status: 451}, {status: 501}, {status: 505}}, limpet.ClassHTTP, limpet.Options{}},
	{"a proxy that refuses with 407, or CONNECT with 401", atOnce, repeated, waits,
		[]failure{{status: 407}, {err: &socket.ProxyError{Status: 407}}}, limpet.ClassProxy, limpet.Options{}},
	{"status 401 or close code 1008, without `Options.Auth` and `Options.Ticket`", atOnce, repeated, waits,
		[]failure{{status: 401}, {code: 1008}}, limpet.ClassAuth, limpet.Options{}},
	{"the same with one of them, within 60 s", second, repeated, waits,
		[]failure{{status: 401}, {code: 1008}}, limpet.ClassAuth, withAuth},
	{"status 101 that is not a WebSocket handshake", atOnce, repeated, waits,
		[]failure{{status: 101}}, limpet.ClassNotWebSocket, limpet.Options{}},
	{"status 101 without the subprotocol (`ErrSubprotocol`)", atOnce, repeated, waits,
		[]failure{{status: noSubprotocol}}, limpet.ClassProtocol, limpet.Options{}},
	{"TLS: unknown authority, wrong name, invalid chain", atOnce, repeated, waits,
		[]failure{{err: x509.UnknownAuthorityError{}}, {err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"}}, {err: x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}}}, limpet.ClassTLS, limpet.Options{}},
	{"close code 1002 or 1007, or a violation that the client detects", third, repeated, waits,
		[]failure{{code: 1002}, {code: 1007}, {text: "{"}}, limpet.ClassProtocol, limpet.Options{}},
	{"no connection for `Backoff.MaxElapsed` (`ErrMaxElapsed`)", "after that time", "after that time", ends,
		[]failure{{status: 503}, {err: errors.New("refused")}}, limpet.ClassTimeout, limpet.Options{Backoff: limpet.Backoff{MaxElapsed: time.Hour}}},
}

const (
	fatalForbidden = `{"t":"err","code":2,"fatal":true}`
	fatalOverload  = `{"t":"err","code":8,"fatal":true}`
	fatalCloseTime = time.Second // for the close frame after one
)

const noSubprotocol = -1 // as a status: a handshake without it

// The table in docs/ending.md is the one that is tested.
func TestEndingsAreDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString("| what | before the first Ready | once it was Ready | with `KeepTrying` |\n|---|---|---|---|\n")
	for _, e := range endings {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", e.what, e.before, e.after, e.keepTrying)
	}
	text, err := os.ReadFile("../docs/ending.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), b.String()) {
		t.Errorf("docs/ending.md does not hold this table:\n%s", b.String())
	}
}

// failingServer answers each attempt well or with the failure that next returns.
type failingServer struct {
	host  *limpettest.Host
	front string // the URL of what stands in front of host; empty: nothing does

	mu         sync.Mutex
	next       func(attempt int) *failure // nil: the attempt succeeds
	afterwards func(p *scriptedConn)      // after a welcome
	attempts   []time.Time
	current    *failure
	open       *websocket.Conn
	struck     int      // failures that took effect
	sessions   []string // that each HELLO names
}

func newFailingServer(t *testing.T, next func(int) *failure) *failingServer {
	s := &failingServer{next: next}
	s.host = limpettest.NewHandler(t, http.HandlerFunc(s.serve), nil)
	return s
}

// attempt counts an attempt, when its credential is asked for.
func (s *failingServer) attempt() *failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts = append(s.attempts, time.Now())
	s.current = s.next(len(s.attempts))
	return s.current
}

func (s *failingServer) made() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.attempts...)
}

// strike counts a failure that takes effect.
func (s *failingServer) strike() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.struck++
}

func (s *failingServer) breakConnection() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open.CloseNow()
}

// RoundTrip fails before the dial.
func (s *failingServer) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	f := s.current
	s.mu.Unlock()
	transport := s.host.HTTPClient().Transport.(*http.Transport)
	switch {
	case f != nil && f.err != nil:
		s.strike()
		return nil, f.err
	case f != nil && f.through != nil:
		s.strike()
		return f.through(transport).RoundTrip(r)
	}
	return transport.RoundTrip(r)
}

func (s *failingServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	f := s.current
	afterwards := s.afterwards
	s.mu.Unlock()
	if f != nil && (f.answer != nil || f.status != 0) {
		s.strike()
	}
	if f != nil && f.answer != nil {
		f.answer(w, r)
		return
	}
	if f != nil && f.status > 0 {
		for k, v := range f.header {
			w.Header()[k] = v
		}
		if f.status == 101 {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "tea")
		}
		w.WriteHeader(f.status)
		return
	}
	o := &websocket.AcceptOptions{Subprotocols: []string{native.Subprotocol(native.JSON)}}
	if f != nil && f.status == noSubprotocol {
		o = nil
	}
	ws, err := websocket.Accept(w, r, o)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	p := &scriptedConn{ctx: context.Background(), ws: ws}
	if fs := p.read(); len(fs) == 0 || fs[0].Hello == nil {
		return
	} else {
		p.hello = fs[0].Hello
	}
	s.mu.Lock()
	s.sessions = append(s.sessions, p.hello.SID)
	s.mu.Unlock()
	switch {
	case f == nil:
		s.mu.Lock()
		s.open = ws
		s.mu.Unlock()
		p.sendFrames(p.welcome())
		if afterwards != nil {
			afterwards(p)
		}
	default:
		s.strike()
		f.apply(p)
	}
	for {
		if _, _, err := ws.Read(p.ctx); err != nil {
			return
		}
	}
}

// apply ends an upgraded connection.
func (f *failure) apply(p *scriptedConn) {
	if f.then != nil {
		f.then(p)
		return
	}
	if f.text != "" {
		p.sendText(f.text)
	}
	if f.code == 0 {
		return
	}
	p.ws.Close(websocket.StatusCode(f.code), "")
}

// start makes a client of s.
func (s *failingServer) start(t *testing.T, o limpet.Options) *limpet.Client {
	if o.HTTPClient == nil {
		o.HTTPClient = &http.Client{Transport: s}
	}
	if o.Dialect == nil {
		o.Dialect = native.New(nil)
	}
	o.Heartbeat.Interval = time.Hour // the server answers no ping
	if auth := o.Auth; auth == nil {
		o.Dialect = countingDialect{o.Dialect, s}
	} else {
		o.Auth = func(ctx context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
			if f := s.attempt(); f != nil && f.auth != nil {
				return limpet.Credential{}, f.auth
			}
			return auth(ctx, info)
		}
	}
	c, err := limpet.New(cmp.Or(s.front, s.host.URL()), options(&o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// countingDialect counts the attempts of a client without Auth.
type countingDialect struct {
	wire.Dialect
	server *failingServer
}

func (d countingDialect) Attempt(a *wire.Attempt) error {
	d.server.attempt()
	return d.Dialect.Attempt(a)
}

func TestEndings(t *testing.T) {
	for _, e := range endings {
		for i, f := range e.failures[:reduced(len(e.failures), 1)] {
			t.Run(fmt.Sprintf("%s %d", e.what, i), func(t *testing.T) {
				run := func(name string, e permanentRow, wasReady bool, when string) {
					t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { e.check(t, f, wasReady, when) }) })
				}
				run("before", e, false, e.before)
				run("after", e, true, e.after)
				k := e
				k.options.Backoff.KeepTrying = true
				if k.keepTrying == waits {
					k.before, k.after = waits, waits
				}
				run("before, keep trying", k, false, k.before)
				run("after, keep trying", k, true, k.after)
			})
		}
	}
}

// check has every attempt fail, from the first on or once the client has been
// ready, and demands the end at the time that the table says.
func (e permanentRow) check(t *testing.T, f failure, wasReady bool, when string) {
	failing := !wasReady
	s := newFailingServer(t, func(int) *failure {
		if failing {
			return &f
		}
		return nil
	})
	c := s.start(t, e.options)
	ctx := context.Background()
	if wasReady {
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		failing = true
		s.breakConnection()
	}
	began := time.Now()
	select {
	case <-c.Done():
	case <-time.After(3 * time.Hour):
	}
	took, made := time.Since(began), s.made()
	if wasReady {
		made = made[1:]
	}
	if when == waits {
		if c.State().Phase == limpet.Ended || len(made) < 60 {
			t.Errorf("%v after %v and %d attempts: %v", c.State().Phase, took, len(made), c.Err())
		}
		// A few attempts come earlier: those that the tables do not yet call
		// permanent, and one a minute with a new credential.
		last := made[len(made)-1].Sub(made[len(made)-10])
		if last < 9*30*time.Second*8/10 || last > 9*80*time.Second {
			t.Errorf("the last ten attempts took %v: not at the cap", last)
		}
		return
	}
	var p *limpet.PermanentError
	if err := c.Err(); !errors.As(err, &p) || limpet.ClassOf(err) != e.class && f.status != 407 {
		t.Fatalf("after %v and %d attempts: %v, want class %s", took, len(made), err, e.class)
	}
	if f.auth != nil && !errors.Is(c.Err(), errClosedAccount) {
		t.Errorf("the error does not wrap that of Auth: %v", c.Err())
	}
	attempts := map[string]int{atOnce: 1, second: 2, third: 3}[when]
	switch {
	case when == repeated && (len(made) < 5 || took < 10*time.Minute || took > 12*time.Minute):
		t.Errorf("ended after %v and %d attempts, want %s", took, len(made), when)
	case attempts > 0 && len(made) != attempts:
		t.Errorf("ended after %d attempts, want %d", len(made), attempts)
	case when == "after that time" && (took < 59*time.Minute || took > 61*time.Minute):
		t.Errorf("ended after %v, want an hour", took)
	}
}

// passing draws a failure that must not end a client which has been ready: any
// status and any close code, but for those that the table calls permanent at
// once or at the second time.
func passing(rng *rand.Rand) *failure {
	for {
		f := &failure{}
		switch rng.IntN(6) {
		case 0:
			f.status = 200 + rng.IntN(400)
			if rng.IntN(4) == 0 {
				f.header = http.Header{"Retry-After": {fmt.Sprint(rng.IntN(100))}}
			}
		case 1:
			f.code = 1000 + rng.IntN(16)
			if rng.IntN(2) == 0 {
				f.code = 3000 + rng.IntN(2000)
			}
			if f.code == 1004 || f.code == 1005 || f.code == 1006 || f.code == 1015 ||
				f.code == 1003 || f.code == 1010 || f.code >= 4000 && f.code < 4200 {
				continue
			}
		case 2:
			f.text = []string{"{", "null", `{"t":"surprise"}`, `[]`, `{"t":"err","code":8,"fatal":true}`,
				`{"t":"err","code":5,"fatal":true,"retry":3000}`, `{"t":"goaway","code":4300,"after":5000}`}[rng.IntN(7)]
		case 3:
			f.err = []error{errors.New("refused"), x509.UnknownAuthorityError{}, &socket.ProxyError{Status: 407}, &socket.ProxyError{Status: 502}}[rng.IntN(4)]
		case 4:
			f.auth = errors.New("the token service is down")
		case 5:
			f.status = []int{101, noSubprotocol}[rng.IntN(2)]
		}
		return f
	}
}

// Random failures, at most four in a row between two that the client survives to
// become ready, end nothing.
func TestNothingElseEndsAClient(t *testing.T) {
	for range 8 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 1))
				left := 0
				var drawn []string
				s := newFailingServer(t, func(n int) *failure {
					if left--; left < 0 {
						left = rng.IntN(5)
						return nil
					}
					f := passing(rng)
					drawn = append(drawn, fmt.Sprintf("%d: %+v", n, *f))
					return f
				})
				s.afterwards = func(p *scriptedConn) {
					s.mu.Lock()
					f, wait := passing(rng), time.Duration(rng.IntN(60))*time.Second
					s.mu.Unlock()
					time.Sleep(wait)
					if f.code != 0 || f.text != "" {
						f.apply(p)
					}
					time.Sleep(2 * time.Second)
					p.ws.CloseNow()
				}
				c := s.start(t, withAuth)
				s.mu.Lock()
				left = 0
				s.mu.Unlock()
				time.Sleep(24 * time.Hour)
				made, ready := len(s.made()), c.Stats().Connections
				if c.State().Phase == limpet.Ended {
					t.Fatalf("ended: %v\nafter %s", c.Err(), strings.Join(drawn[max(0, len(drawn)-6):], "\n"))
				}
				if made < 500 || ready < 200 {
					t.Errorf("only %d attempts and %d connections: the failures had no effect", made, ready)
				}
				t.Logf("%d attempts, %d connections", made, ready)
			})
		})
	}
}

// A server that names a time will be there then, ready before or not.
func TestServerThatNamesATimeIsNotPermanent(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 407, 410, 418, 501} {
		for _, h := range []http.Header{{"Retry-After": {"40"}}, {"Retry-After": {"0"}}, {"X-Limpet-Retry-Ms": {"40000"}}} {
			synctest.Test(t, func(t *testing.T) {
				s := newFailingServer(t, func(n int) *failure {
					if n < 40 {
						return &failure{status: status, header: h}
					}
					return nil
				})
				c := s.start(t, limpet.Options{})
				if err := c.WaitReady(context.Background()); err != nil {
					t.Errorf("%d with %v: %v", status, h, err)
				}
				made := s.made()
				if wait := made[1].Sub(made[0]); h.Get("Retry-After") != "0" && wait < 40*time.Second {
					t.Errorf("%d with %v: the second attempt came after %v", status, h, wait)
				}
			})
		}
	}
}
