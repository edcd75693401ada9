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
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// attempt is what the dialer needs to know of the loop.
type attempt struct {
	number  int
	session wire.Session
	subs    []wire.Subscribe
	refresh bool
	cause   error
}

const (
	maxSteps  = 3        // HTTP requests before a dial
	stepLimit = 64 << 10 // bytes of an answer to one
)

// dial makes one attempt: credential, the dialect's HTTP steps, upgrade. It
// runs on its own goroutine and ends when ctx does, whatever the caller's Auth
// is doing.
func (c *Client) dial(ctx context.Context, a attempt) dialed {
	fail := func(err error) dialed {
		return dialed{failure: &wire.Failure{Stage: wire.StageDial, Attempt: a.number, Err: err}}
	}
	cred, err := c.credential(ctx, a)
	if err != nil {
		return fail(&userError{"Options.Auth", err})
	}
	if t := cred.Token.reveal(); len(t) > maxToken || !utf8.ValidString(t) {
		return fail(&userError{"Options.Auth", fmt.Errorf("a token must be UTF-8 of at most %d bytes", maxToken)})
	}
	w := &wire.Attempt{
		Number: a.number, Session: a.session, Token: cred.Token.reveal(), Subs: a.subs,
		URL: c.cfg.url.String(), Header: c.cfg.Header.Clone(),
	}
	if w.Header == nil {
		w.Header = http.Header{}
	}
	for k, v := range cred.Header {
		w.Header[http.CanonicalHeaderKey(k)] = append([]string(nil), v...)
	}
	for step := 0; ; step++ {
		if err := c.cfg.Dialect.Attempt(w); err != nil {
			return fail(err)
		}
		if w.Dial {
			break
		}
		if w.Request == nil || step == maxSteps {
			return fail(fmt.Errorf("dialect %s does not come to dial", c.cfg.Dialect.Name()))
		}
		if w.Response, err = c.step(ctx, w.Request); err != nil {
			return fail(err)
		}
		w.Request = nil
	}
	k, failure := dialConn(ctx, &c.cfg, w, c.goroutines.spawn)
	if failure != nil {
		failure.Attempt = a.number
		failure.Body = c.redact(failure.Body, &cred)
		return dialed{failure: failure}
	}
	return dialed{conn: k, token: w.Token}
}

// redact takes the credentials out of what a server answered: one that echoes
// them must not bring them into errors and logs.
func (c *Client) redact(body []byte, cred *Credential) []byte {
	hide := func(secret string) {
		if len(secret) >= 4 {
			body = bytes.ReplaceAll(body, []byte(secret), []byte("[secret]"))
		}
	}
	hide(cred.Token.reveal())
	for _, h := range []http.Header{cred.Header, c.cfg.Header} {
		for _, values := range h {
			for _, v := range values {
				hide(v)
				_, word, _ := strings.Cut(v, " ") // of "Bearer word"
				hide(word)
			}
		}
	}
	for _, values := range c.cfg.url.Query() {
		for _, v := range values {
			hide(v)
		}
	}
	return body
}

// credential calls Auth on a goroutine that nobody waits for.
func (c *Client) credential(ctx context.Context, a attempt) (Credential, error) {
	if c.cfg.Auth == nil {
		return Credential{}, nil
	}
	if !c.authBusy.CompareAndSwap(false, true) {
		return Credential{}, fmt.Errorf("an earlier call has not returned although its context has ended")
	}
	type answer struct {
		cred Credential
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		defer c.authBusy.Store(false)
		ans := answer{err: errors.New("it ended its goroutine")}
		defer func() { answers <- ans }()
		defer func() {
			if p := recover(); p != nil {
				ans.err = &PanicError{Value: p, Stack: debug.Stack()}
			}
		}()
		ans.cred, ans.err = c.cfg.Auth(ctx, AttemptInfo{
			Number: a.number, Host: c.cfg.url.Host, Refresh: a.refresh, Cause: a.cause,
		})
	}()
	select {
	case ans := <-answers:
		return ans.cred, ans.err
	case <-ctx.Done():
		return Credential{}, ctx.Err()
	}
}

// step makes one HTTP request of the dialect's.
func (c *Client) step(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	for k, v := range r.Header {
		req.Header[k] = v
	}
	client := &http.Client{Transport: sharedTransport}
	if c.cfg.HTTPClient != nil {
		copied := *c.cfg.HTTPClient
		client = &copied
		if client.Transport == nil {
			client.Transport = sharedTransport
		}
	}
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
