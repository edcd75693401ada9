package limpet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

// dialer makes attempts to connect, one at a time.
type dialer struct {
	cfg        *config
	inbox      *inbox
	goroutines *goroutines
	authBusy   atomic.Bool // a call of Auth has not returned
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
	maxSteps  = 3        // HTTP requests before a dial
	stepLimit = 64 << 10 // bytes in the body of a response to one
)

// run makes one attempt and posts how it went.
func (d *dialer) run(ctx context.Context, a attempt) {
	began := time.Now()
	result := failedDial(a, &userError{"Options", errors.New("a function called runtime.Goexit")})
	defer func() {
		if result.timedOut = ctx.Err() == context.DeadlineExceeded; result.timedOut && result.failure != nil && result.failure.Err != nil {
			result.failure.Err = &dialTimeoutError{time.Since(began), result.failure.Err}
		}
		if !d.inbox.post(result) && result.conn != nil {
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
	}()
	return d.dial(ctx, a)
}

// dial makes one attempt: credential, the dialect's HTTP steps, upgrade. It
// ends when ctx does, even if the caller's Auth does not.
func (d *dialer) dial(ctx context.Context, a attempt) dialed {
	fail := func(err error) dialed { return failedDial(a, err) }
	cred, err := d.credential(ctx, a)
	if err != nil {
		return fail(&userError{"Options.Auth", err})
	}
	if t := cred.Token.reveal(); len(t) > maxToken || !utf8.ValidString(t) {
		return fail(&userError{"Options.Auth", fmt.Errorf("a token must be UTF-8 of at most %d bytes", maxToken)})
	}
	if err := checkHeader(cred.Header); err != nil {
		return fail(&userError{"Options.Auth", fmt.Errorf("Credential.Header: %w", err)})
	}
	w := &wire.Attempt{
		Number: a.number, Session: a.session, Token: cred.Token.reveal(), Subs: a.subs,
		URL: d.cfg.url.String(), Header: d.cfg.Header.Clone(),
	}
	if w.Header == nil {
		w.Header = http.Header{}
	}
	for k, v := range cred.Header {
		w.Header[http.CanonicalHeaderKey(k)] = append([]string(nil), v...)
	}
	for step := 0; ; step++ {
		if err := d.cfg.Dialect.Attempt(w); err != nil {
			return fail(err)
		}
		if w.Dial {
			break
		}
		if w.Request == nil {
			return fail(fmt.Errorf("dialect %s neither dials nor makes an HTTP request", d.cfg.Dialect.Name()))
		}
		if step == maxSteps {
			return fail(fmt.Errorf("dialect %s made more than %d HTTP requests without dialling", d.cfg.Dialect.Name(), maxSteps))
		}
		if w.Response, err = d.step(ctx, w.Request); err != nil {
			return fail(err)
		}
		w.Request = nil
	}
	c := newConn()
	var failure *wire.Failure
	c.Conn, failure = socket.Dial(ctx, w, socket.Options{
		HTTPClient: d.cfg.HTTPClient, ReadLimit: d.cfg.ReadLimit, LibraryFrames: d.cfg.PlainFrames,
		Go: d.goroutines.spawn, OnKill: c.slots.close,
	})
	if failure != nil {
		failure.Attempt = a.number
		failure.Body = d.redact(failure.Body, &cred)
		return dialed{failure: failure}
	}
	return dialed{conn: c, token: w.Token}
}

// redact removes the credentials from the body of a server's response: a server
// that echoes them must not bring them into errors and logs.
func (d *dialer) redact(body []byte, cred *Credential) []byte {
	hide := func(secret string) {
		if len(secret) >= 4 {
			body = bytes.ReplaceAll(body, []byte(secret), []byte("[secret]"))
		}
	}
	hide(cred.Token.reveal())
	for _, h := range []http.Header{cred.Header, d.cfg.Header} {
		for _, values := range h {
			for _, v := range values {
				hide(v)
				_, secret, _ := strings.Cut(v, " ") // of "Bearer secret"
				hide(secret)
			}
		}
	}
	for _, values := range d.cfg.url.Query() {
		for _, v := range values {
			hide(v)
		}
	}
	return body
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
	}()
	select {
	case ans := <-answers:
		return ans.cred, ans.err
	case <-ctx.Done():
		return Credential{}, ctx.Err()
	}
}

// step makes one of the dialect's HTTP requests.
func (d *dialer) step(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	for k, v := range r.Header {
		req.Header[k] = v
	}
	client := socket.HTTPClient(d.cfg.HTTPClient)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, stepLimit+1)) // ends with ctx
	switch {
	case err != nil:
		return nil, err
	case len(body) > stepLimit:
		return nil, fmt.Errorf("the answer to an HTTP step has more than %d bytes", stepLimit)
	}
	return &wire.Response{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}
