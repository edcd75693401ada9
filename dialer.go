package limpet

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

// dialer makes attempts to connect, one at a time.
type dialer struct {
	cfg        *config
	inbox      *inbox
	goroutines *goroutines
	secrets    *secrets
	authBusy   atomic.Bool  // a call of Auth has not returned
	busy       atomic.Bool  // an attempt has not returned
	dials      atomic.Int32 // calls of dial functions that have not returned
}

// attempt is what the dialer gets from the loop for one attempt.
type attempt struct {
	number  int
	session wire.Session
	subs    []wire.Subscribe
	refresh bool
	cause   error
}

const (
	maxSteps    = 3                      // HTTP requests before a dial
	giveUpAfter = 100 * time.Millisecond // after the end of its context an attempt must return within it
)

var errDoesNotReturn = &userError{"Options.HTTPClient", errors.New(
	"its Transport has not returned although the context of the request has ended; use an *http.Transport, or honour Request.Context")}

// run makes one attempt and posts how it went. The transport is the caller's: the
// attempt runs on a goroutine that may outlive the client.
func (d *dialer) run(ctx context.Context, a attempt) {
	began := time.Now()
	result := failedDial(a, errDoesNotReturn)
	defer func() {
		if result.timedOut = ctx.Err() == context.DeadlineExceeded; result.timedOut && result.failure != nil && result.failure.Err != nil {
			result.failure.Err = &dialTimeoutError{time.Since(began), result.failure.Err}
		}
		if !d.inbox.post(result) && result.conn != nil {
			result.conn.abandon()
		}
	}()
	if !d.busy.CompareAndSwap(false, true) {
		return
	}
	results, taken := make(chan dialed, 1), new(atomic.Bool)
	go d.make(ctx, a, results, taken)
	select {
	case result = <-results:
		return
	case <-ctx.Done():
	}
	timer := time.NewTimer(giveUpAfter)
	defer timer.Stop()
	select {
	case result = <-results:
	case <-timer.C:
		if !taken.CompareAndSwap(false, true) {
			result = <-results
		}
	}
}

// make makes one attempt. If taken is set, run has given up, and make closes the
// connection.
func (d *dialer) make(ctx context.Context, a attempt, results chan<- dialed, taken *atomic.Bool) {
	result := failedDial(a, &userError{"Options", errors.New("a function called runtime.Goexit")})
	defer func() {
		d.busy.Store(false)
		if taken.CompareAndSwap(false, true) {
			results <- result
		} else if result.conn != nil {
			result.conn.abandon()
		}
	}()
	result = d.dialGuarded(ctx, a)
}

// dialTimeoutError says whose timeout ended an attempt.
type dialTimeoutError struct {
	after time.Duration
	err   error
}

func (e *dialTimeoutError) Error() string {
	return fmt.Sprintf("not connected within Options.DialTimeout (%v for this attempt): %v", e.after.Round(time.Millisecond), e.err)
}
func (e *dialTimeoutError) Unwrap() error { return e.err }

func failedDial(a attempt, err error) dialed {
	return dialed{failure: &wire.Failure{Stage: wire.StageDial, Attempt: a.number, Err: err}}
}

// dialGuarded is dial. What panics in it is the transport, or what the transport
// calls: the dialect and Auth are guarded by themselves.
func (d *dialer) dialGuarded(ctx context.Context, a attempt) (result dialed) {
	defer func() {
		if p := recover(); p != nil {
			result = failedDial(a, &userError{"Options.HTTPClient", &PanicError{Value: p, Stack: debug.Stack()}})
		}
		if result.failure != nil {
			result.failure.Err = asCallersFault(result.failure.Err)
		}
	}()
	result = d.dial(ctx, a)
	if result.failure != nil && result.failure.Err != nil {
		socket.CallMethods(result.failure.Err)
	}
	return result
}

// asCallersFault makes what internal/socket reports about the caller's code an error
// that names the option; it returns any other err as it is.
func asCallersFault(err error) error {
	var p *socket.Panic
	var hanging *socket.HangingError
	switch {
	case errors.As(err, &hanging):
		return &userError{"Options.HTTPClient", hanging}
	case !errors.As(err, &p):
		return err
	}
	return &userError{"Options.HTTPClient", fmt.Errorf("%s: %w", p.Where, &PanicError{Value: p.Value, Stack: p.Stack})}
}

// dial makes one attempt: credential, the dialect's HTTP steps, upgrade. It
// ends when ctx does, even if the caller's Auth does not.
func (d *dialer) dial(ctx context.Context, a attempt) dialed {
	fail := func(err error) dialed { return failedDial(a, err) }
	cred, err := d.credential(ctx, a)
	if err != nil {
		return fail(&userError{"Options.Auth", err})
	}
	d.secrets.begin(d.cfg, &cred, a.subs)
	if err := checkToken(cred.Token); err != nil {
		return fail(&userError{"Options.Auth", err})
	}
	if err := checkHeader(cred.Header); err != nil {
		return fail(&userError{"Options.Auth", fmt.Errorf("Credential.Header: %w", err)})
	}
	requests := socket.NewRequests(ctx, d.cfg.HTTPClient, d.cfg.AllowInsecure, &d.dials)
	defer requests.End()
	w := &wire.Attempt{
		Number: a.number, Session: a.session, Token: cred.Token.reveal(), Subs: a.subs,
		URL: d.cfg.url.String(), Header: mergeHeaders(d.cfg.Header, cred.Header),
	}
	if err := d.prepare(requests, w); err != nil {
		return fail(err)
	}
	c := newConn()
	var failure *wire.Failure
	c.Conn, failure = requests.Upgrade(w, socket.Options{
		ReadLimit: d.cfg.ReadLimit, LibraryFrames: d.cfg.PlainFrames,
		Go: d.goroutines.spawn, OnKill: c.slots.close,
	})
	if failure != nil {
		failure.Attempt = a.number
		failure.Body = []byte(d.secrets.hide(string(failure.Body)))
		return dialed{failure: failure}
	}
	return dialed{conn: c, token: w.Token}
}

// prepare lets the dialect complete the attempt, with HTTP requests if it needs
// them.
func (d *dialer) prepare(requests *socket.Requests, w *wire.Attempt) (err error) {
	for step := 0; ; step++ {
		if err := d.cfg.Dialect.Attempt(w); err != nil {
			return err
		}
		d.secrets.addRequest(w.URL, w.Header)
		d.secrets.add(w.Token)
		switch {
		case w.Dial:
			return nil
		case w.Request == nil:
			return fmt.Errorf("dialect %s neither dials nor makes an HTTP request", d.cfg.Dialect.Name())
		case step == maxSteps:
			return fmt.Errorf("dialect %s made more than %d HTTP requests without dialling", d.cfg.Dialect.Name(), maxSteps)
		}
		d.secrets.addRequest(w.Request.URL, w.Request.Header)
		if w.Response, err = requests.Step(w.Request); err != nil {
			return err
		}
		w.Request = nil
	}
}

// mergeHeaders returns the headers of an upgrade request. Those of the credential
// replace others of the same name, however it is spelled.
func mergeHeaders(options, credential http.Header) http.Header {
	h := make(http.Header, len(options)+len(credential))
	for _, from := range []http.Header{options, credential} {
		for k, v := range from {
			h[http.CanonicalHeaderKey(k)] = slices.Clone(v)
		}
	}
	return h
}

// credential calls Auth, on a goroutine that may outlive the client.
func (d *dialer) credential(ctx context.Context, a attempt) (Credential, error) {
	if d.cfg.Auth == nil {
		return Credential{}, nil
	}
	if !d.authBusy.CompareAndSwap(false, true) {
		return Credential{}, fmt.Errorf("an earlier call has not returned although its context has ended")
	}
	type answer struct {
		cred Credential
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		defer d.authBusy.Store(false)
		ans := answer{err: errors.New("called runtime.Goexit")}
		defer func() { answers <- ans }()
		defer func() {
			if p := recover(); p != nil {
				ans.err = &PanicError{Value: p, Stack: debug.Stack()}
			}
		}()
		ans.cred, ans.err = d.cfg.Auth(ctx, AttemptInfo{
			Number: a.number, Host: d.cfg.url.Host, Refresh: a.refresh, Cause: a.cause,
		})
		if ans.err != nil {
			socket.CallMethods(ans.err)
		}
	}()
	select {
	case ans := <-answers:
		return ans.cred, ans.err
	case <-ctx.Done():
		return Credential{}, ctx.Err()
	}
}

// secrets are the credentials that a client sends. They must not come back in
// what others say: the peer, a proxy, net/http.
type secrets struct {
	mu       sync.Mutex
	fixed    []string // of Options and of the URL
	earlier  []string // of the attempt before
	current  []string // of this attempt
	recently []string // tokens of subscriptions since then
}

const (
	minSecret  = 4   // bytes: to hide less would make texts unreadable
	maxSecrets = 256 // that are remembered of each kind
)

// begin forgets the credentials of the attempt before the last one. An answer to
// the last one may still come.
func (s *secrets) begin(cfg *config, cred *Credential, subs []wire.Subscribe) {
	s.mu.Lock()
	s.earlier, s.current = append(s.current, s.recently...), nil
	s.recently, s.fixed = nil, nil
	s.mu.Unlock()
	s.addRequest(cfg.url.String(), cfg.Header)
	s.mu.Lock()
	s.fixed, s.current = s.current, nil
	s.mu.Unlock()
	s.add(cred.Token.reveal())
	s.addRequest("", cred.Header)
	for i := range subs {
		s.add(subs[i].Token)
	}
}

// addRequest adds what is secret in a request: the values of its headers and of
// its query.
func (s *secrets) addRequest(rawURL string, h http.Header) {
	for _, values := range h {
		for _, v := range values {
			_, word, _ := strings.Cut(v, " ") // of "Bearer word"
			s.add(v, word)
			if pair, err := base64.StdEncoding.DecodeString(word); err == nil {
				_, password, _ := strings.Cut(string(pair), ":") // of "Basic word"
				s.add(password)
			}
		}
	}
	for _, line := range h["Cookie"] {
		for _, cookie := range strings.Split(line, ";") {
			_, value, _ := strings.Cut(cookie, "=")
			s.add(value)
		}
	}
	if u, err := url.Parse(rawURL); err == nil {
		s.add(u.RawQuery)
		for _, values := range u.Query() {
			s.add(values...)
		}
	}
}

// add adds secrets, each as it is and as net/http would quote or escape it.
func (s *secrets) add(values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range values {
		for _, form := range []string{v, url.QueryEscape(v), url.PathEscape(v), strings.Trim(strconv.Quote(v), `"`)} {
			if len(form) >= minSecret && len(s.current) < maxSecrets && !slices.Contains(s.current, form) {
				s.current = append(s.current, form)
			}
		}
	}
}

// addSubscription adds the token of a subscription.
func (s *secrets) addSubscription(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(token) >= minSecret && !slices.Contains(s.recently, token) {
		s.recently = append(s.recently[max(0, len(s.recently)+1-maxSecrets):], token)
	}
}

// hide replaces each secret in text, and the beginning of one at its end: who
// repeats a secret may have cut it.
func (s *secrets) hide(text string) string {
	if len(text) < minSecret {
		return text
	}
	s.mu.Lock()
	all := slices.Concat(s.fixed, s.earlier, s.current, s.recently)
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) }) // one may hold another
	for _, secret := range all {
		text = strings.ReplaceAll(text, secret, hidden)
	}
	for _, secret := range all {
		for n := min(len(secret)-1, len(text)); n >= minSecret; n-- {
			if strings.HasSuffix(text, secret[:n]) {
				return text[:len(text)-n] + hidden
			}
		}
	}
	return text
}

const hidden = "[secret]"

// hideError returns err without secrets in its text.
func (s *secrets) hideError(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if safe := s.hide(text); safe != text {
		return &safeError{safe, err}
	}
	return err
}

// safeError is an error whose text held a secret. It does not unwrap, so that
// nothing prints that text; errors.Is and errors.As still find what is in it.
type safeError struct {
	text string
	err  error
}

func (e *safeError) Error() string        { return e.text }
func (e *safeError) Is(target error) bool { return errors.Is(e.err, target) }
func (e *safeError) As(target any) bool   { return errors.As(e.err, target) }
