package limpet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/endpoint"
	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/guard"
	"github.com/limpet-go/limpet/internal/inbox"
	"github.com/limpet-go/limpet/internal/secrets"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/internal/tasks"
	"github.com/limpet-go/limpet/wire"
)

// dialer makes attempts to connect, one at a time.
type dialer struct {
	cfg        *config
	inbox      *inbox.Inbox[event]
	goroutines *tasks.Group
	secrets    *secrets.Set
	auth       guard.Asker[Credential]
	ticket     guard.Asker[url.Values]
	busy       atomic.Bool // an attempt has not returned
	resolver   guard.Asker[[]string]
	attempting atomic.Bool // a call of Attempt has not returned
	path       endpoint.Path
	dials      atomic.Int32 // calls of dial functions that have not returned
}

// attempt is what the dialer gets from the loop for one attempt.
type attempt struct {
	url     *url.URL
	number  int
	session wire.Session
	subs    []wire.Subscribe
	refresh bool
	cause   error
	inUse   uint64 // the connection that it is to replace; 0: none

	resume     *wire.Resume                           // what the connection begins with, if the upgrade may announce it
	dials      func()                                 // follows when it dials
	dialsAgain func(host string) (wait time.Duration) // asks for another turn, of a host; at once or not at all
}

const (
	maxSteps    = 3                      // HTTP requests before a dial
	maxRefusal  = 1 << 10                // bytes of the body of a refused request
	giveUpAfter = 100 * time.Millisecond // after the end of its context an attempt must return within it
)

var errDoesNotReturn = &fault.User{Option: "Options.HTTPClient", Err: errors.New(
	"its Transport has not returned although the context of the request has ended; use an *http.Transport, or honour Request.Context")}

var errAttemptRuns = &fault.User{Option: "Options.Dialect", Err: errors.New("method Attempt has not returned although the attempt has timed out; it must not wait")}

// run makes one attempt and posts how it went. The transport is the caller's: the attempt runs on a goroutine
// that may outlive the client.
func (d *dialer) run(ctx context.Context, a attempt) {
	began := time.Now()
	result := failedDial(a, errDoesNotReturn)
	if d.attempting.Load() {
		result = failedDial(a, errAttemptRuns)
	}
	defer func() {
		if result.timedOut = ctx.Err() == context.DeadlineExceeded; result.timedOut && result.failure != nil && result.failure.Err != nil {
			result.failure.Err = &dialTimeoutError{time.Since(began), result.failure.Err}
		}
		if !d.inbox.Post(result) && result.conn != nil {
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
		switch {
		case !taken.CompareAndSwap(false, true):
			result = <-results
		case d.attempting.Load():
			result = failedDial(a, errAttemptRuns)
		}
	}
}

// make makes one attempt. If taken is set, run has given up, and make closes the connection.
func (d *dialer) make(ctx context.Context, a attempt, results chan<- dialed, taken *atomic.Bool) {
	result := failedDial(a, &fault.User{Option: "Options", Err: errors.New("a function called runtime.Goexit")})
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

// dialGuarded is dial. What panics in it is the transport, or what the transport calls: the dialect and Auth
// are guarded by themselves.
func (d *dialer) dialGuarded(ctx context.Context, a attempt) (result dialed) {
	defer func() {
		if p := recover(); p != nil {
			result = failedDial(a, &fault.User{Option: "Options.HTTPClient", Err: &PanicError{Value: p, Stack: debug.Stack()}})
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

// asCallersFault makes what internal/socket reports about the caller's code an error that names the option; it
// returns any other err as it is.
func asCallersFault(err error) error {
	if err == nil {
		return nil // without an allocation: it is called for each write
	}
	var p *socket.Panic
	var hanging *socket.HangingError
	var transport *socket.TransportError
	switch {
	case errors.As(err, &hanging):
		return &fault.User{Option: "Options.HTTPClient", Err: hanging}
	case errors.As(err, &transport):
		return &fault.User{Option: "Options.HTTPClient", Err: transport}
	case !errors.As(err, &p):
		return err
	}
	return &fault.User{Option: "Options.HTTPClient", Err: fmt.Errorf("%s: %w", p.Where, &PanicError{Value: p.Value, Stack: p.Stack})}
}

// dial makes one attempt: credential, the dialect's HTTP steps, upgrade. It ends when ctx does, even if the
// caller's Auth does not.
func (d *dialer) dial(ctx context.Context, a attempt) dialed {
	cred, err := d.credential(ctx, a)
	if err != nil {
		return d.refused(a, &fault.User{Option: fault.OptionAuth, Err: err})
	}
	requests := socket.NewRequests(ctx, d.cfg.HTTPClient, d.cfg.AllowInsecure, &d.dials)
	defer requests.End()
	x := dialing{d, ctx, a, cred, requests}
	if d.cfg.Fallback {
		return x.upgradeOrFallBack()
	}
	return x.make((*dialing).upgrade, a.resume)
}

// dialing is an attempt that has its credential.
type dialing struct {
	*dialer
	ctx      context.Context
	task     attempt
	cred     Credential
	requests *socket.Requests
}

// connector makes a connection. The values are the ticket.
type connector func(*dialing, *wire.Attempt, url.Values, socket.Options) (*socket.Conn, *wire.Failure)

// make asks for a ticket, if there are any, and makes a connection with connect. resume is what the request may
// announce; nil: nothing.
func (x *dialing) make(connect connector, resume *wire.Resume) dialed {
	d, a := x.dialer, x.task
	target, tickets, err := d.target(x.ctx, a, x.cred)
	if err != nil {
		return d.refused(a, &fault.User{Option: fault.OptionTicket, Err: err})
	}
	w := &wire.Attempt{
		Number: a.number, Session: a.session, Token: x.cred.Token.reveal(), Subs: a.subs,
		URL: target, Header: socket.MergeHeader(d.cfg.Header, x.cred.Header), Resume: resume,
	}
	if err := d.prepare(x.requests, w); err != nil {
		return d.refused(a, err)
	}
	spoken := w.Subprotocols // those of the credential are no language
	w.Subprotocols = slices.Concat(spoken, x.cred.Subprotocols)
	o := socket.Options{ReadLimit: d.cfg.ReadLimit, LibraryFrames: d.cfg.PlainFrames, Go: d.goroutines.Go}
	if d.cfg.Ticket != nil {
		o.PostURL = a.url.String()
	}
	c := newConn()
	o.OnKill = c.slots.Close
	var failure *wire.Failure
	a.dials()
	c.Conn, failure = connect(x, w, tickets, o)
	if failure != nil {
		failure.Attempt = a.number
		failure.Body = []byte(d.secrets.Hide(string(failure.Body)))
		return dialed{failure: failure}
	}
	c.upgraded = time.Now()
	if !slices.ContainsFunc(spoken, func(name string) bool { return strings.EqualFold(name, c.Subprotocol) }) {
		c.unchosen = spoken
	}
	return dialed{conn: c, token: w.Token, state: w.State}
}

// fallBack is a connector. A redirect of its GET is not followed.
func (x *dialing) fallBack(w *wire.Attempt, _ url.Values, o socket.Options) (*socket.Conn, *wire.Failure) {
	return x.requests.Fallback(w, o)
}

// upgradeOrFallBack tries WebSocket, and plain HTTP requests where the path refuses that.
func (x *dialing) upgradeOrFallBack() dialed {
	p, host := &x.path, x.task.url.Host
	skip, refusal := p.SkipsUpgrade(host), p.TakeRefusal(host)
	if !skip {
		upgraded := x.make((*dialing).upgrade, x.task.resume)
		if upgraded.failure == nil || !p.RefusesUpgrade(x.ctx, upgraded.failure, x.task.url.Scheme == "ws") {
			return upgraded
		}
		refusal = upgraded.failure
		if f := x.noTurn(host); f != nil {
			p.KeepRefusal(host, refusal)
			return dialed{failure: f}
		}
	}
	result := x.make((*dialing).fallBack, nil)
	switch {
	case result.failure == nil:
		if p.FellBack(host, refusal == nil); refusal != nil {
			result.conn.refusal = refusal.Status
		}
		return result
	case !errors.Is(result.failure.Err, socket.ErrNoFallback):
		p.Forget() // the next attempt tries both
		return result
	case refusal != nil:
		return dialed{failure: refusal}
	}
	p.Forget()
	if f := x.noTurn(host); f != nil {
		return dialed{failure: f}
	}
	return x.make((*dialing).upgrade, x.task.resume)
}

// noTurn takes another turn of a host for the attempt. Without one it returns a failure, with the time until
// there is one.
func (x *dialing) noTurn(host string) *wire.Failure {
	wait := x.task.dialsAgain(host)
	if wait == 0 {
		return nil
	}
	return &wire.Failure{Stage: wire.StageDial, Attempt: x.task.number, Retry: wait, Err: fmt.Errorf("there were as many attempts to connect to %q as Options.Limits.Dials allows, so this one waits", host)}
}

// refused is an attempt that failed before the dial. A *wire.StatusError counts as an answer to the upgrade.
func (d *dialer) refused(a attempt, err error) dialed {
	var refused *wire.StatusError
	if !errors.As(err, &refused) {
		return failedDial(a, err)
	}
	return dialed{failure: &wire.Failure{
		Stage: wire.StageUpgrade, Attempt: a.number, Status: refused.Status, Header: refused.Header,
		Body: []byte(d.secrets.Hide(string(refused.Body[:min(len(refused.Body), maxRefusal)]))), Err: err,
	}}
}

// prepare lets the dialect complete the attempt, with HTTP requests if it needs them.
func (d *dialer) prepare(requests *socket.Requests, w *wire.Attempt) (err error) {
	for step := 0; ; step++ {
		if err := d.callAttempt(w); err != nil {
			return fault.OfDialect(err)
		}
		w.Header = socket.CanonicalHeader(w.Header)
		if w.Early = socket.CanonicalHeader(w.Early); w.Dial && w.Resume != nil {
			maps.Copy(w.Header, w.Early)
		}
		d.secrets.AddRequest(w.URL, w.Header)
		d.secrets.Add(w.Token)
		d.addCookies(w.URL)
		switch {
		case w.Dial && d.cfg.StrictURL && len(endpoint.CredentialKeysIn(w.URL)) > 0:
			return fault.OfDialect(fmt.Errorf("dialect %s puts the query parameter %q into the URL, which looks like a credential, and Options.StrictURL forbids it",
				d.cfg.Dialect.Name(), endpoint.CredentialKeysIn(w.URL)[0]))
		case w.Dial:
			return fault.OfDialect(endpoint.CheckRequest("Attempt.URL", w.URL, w.Header, "ws", "wss", "http", "https"))
		case w.Request == nil:
			return fault.OfDialect(fmt.Errorf("dialect %s neither dials nor makes an HTTP request", d.cfg.Dialect.Name()))
		case step == maxSteps:
			return fault.OfDialect(fmt.Errorf("dialect %s made more than %d HTTP requests without dialling", d.cfg.Dialect.Name(), maxSteps))
		}
		if err := endpoint.CheckRequest("Request.URL", w.Request.URL, w.Request.Header, "http", "https"); err != nil {
			return fault.OfDialect(err)
		}
		w.Request.Header = socket.CanonicalHeader(w.Request.Header)
		d.secrets.AddRequest(w.Request.URL, w.Request.Header)
		d.addCookies(w.Request.URL)
		if w.Response, err = requests.Step(w.Request); err != nil {
			return err
		}
		w.Request = nil
	}
}

// callAttempt calls Attempt. If it does not return, the client ends.
func (d *dialer) callAttempt(w *wire.Attempt) error {
	d.attempting.Store(true)
	defer d.attempting.Store(false)
	timer := time.AfterFunc(guard.MaxCall, func() {
		d.inbox.Post(callHangs{"Options.Dialect", newHangError("Attempt", "limpet.(*dialer).callAttempt(")})
	})
	defer timer.Stop()
	return d.cfg.Dialect.Attempt(w)
}

// addCookies adds the cookies that a request to rawURL carries to the secrets.
func (d *dialer) addCookies(rawURL string) {
	if d.cfg.HTTPClient != nil {
		d.secrets.AddCookies(d.cfg.HTTPClient.Jar, rawURL)
	}
}

const optionResolver = "Options.Resolver"

// resolve calls Resolver and posts its answer.
func (d *dialer) resolve(ctx context.Context) {
	var answer resolved
	defer func() { d.inbox.Post(answer) }()
	urls, err := d.resolver.Ask(ctx, newPanicError, func() ([]string, error) {
		urls, err := d.cfg.Resolver(ctx)
		return slices.Clone(urls), err
	})
	if err == nil {
		answer.urls, err = d.cfg.rules.Usable(d.cfg.url.Scheme, urls)
	}
	answer.err = err
}

// ErrAffinity means that a POST of the fallback has reached another server than its GET. A balancer must send
// all requests of a client to one server, by its address or by a cookie: see docs/fallback.md. The client backs
// off and tries again.
var ErrAffinity = socket.ErrOtherServer

func (v *validation) fallback(c *config) {
	if c.Fallback && !c.traits.Fallback {
		v.refuse("Options.Fallback", "needs a dialect whose servers speak it, which is limpet.v1; remove it for %s", c.Dialect.Name())
	}
}

const optionRedirects = "Options.Redirects"

// Redirects is where a server may redirect the upgrade request. The zero value means nowhere.
//
// A server that answers 301, 302, 307 or 308 is followed to a host in Hosts, and also to another path on its
// own host and port if Hosts is not empty. The request is the same there: it has the headers, cookies,
// subprotocols and ticket that the first host got, but not what wire.Traits.EarlyStart announces to the first
// host. It never goes from wss:// to ws://, never to a URL with user information, and Options.AllowInsecure and
// Options.StrictURL hold for each URL. At most five redirects are followed in one attempt, and none that leads
// back or has a Retry-After. Everything together is one attempt, within Options.DialTimeout, and each attempt
// begins at the URL again, also after a 301 or 308. State.Host, AttemptInfo.Host and metrics name the host of
// the URL. What is not followed fails the attempt with an error that wraps ErrRedirect and names the host. See
// docs/reconnect.md, section 2.
//
// A server that asks for a new connection may name the URL for it (docs/protocol.md, section 8). It is followed
// under the same rules, for one attempt: after that the client goes back to its own URLs. A URL that is not
// followed is reported as RotationFailed.
type Redirects struct {
	// Hosts are host names or addresses, each with a port if it is not the usual one of the scheme:
	// "feed-2.example.com", "10.0.0.7:8443", "[2001:db8::1]". A host gets the same credentials as that of the
	// URL, so list only those that may have them. There are no wildcards. At most 1,000. Defaults to none:
	// redirects are not followed.
	Hosts []string
}

// redirects checks Options.Redirects.
func (v *validation) redirects(c *config) {
	c.Redirects.Hosts = slices.Clone(c.Redirects.Hosts)
	allowed, i, err := endpoint.Allow(c.Redirects.Hosts, c.AllowInsecure)
	switch {
	case err != nil && i < 0:
		v.refuse(optionRedirects+".Hosts", "%w", err)
	case err != nil:
		v.refuse(fmt.Sprintf("%s.Hosts[%d]", optionRedirects, i), "%w", err)
	}
	c.allowed = endpoint.Redirects{Allowed: allowed, StrictURL: c.StrictURL}
}

// upgrade makes the upgrade request of w, and follows redirects. tickets are the parameters of Options.Ticket.
func (x *dialing) upgrade(w *wire.Attempt, tickets url.Values, o socket.Options) (*socket.Conn, *wire.Failure) {
	d, step := x.dialer, *w
	trail := []string{w.URL}
	for {
		conn, f := x.requests.Upgrade(&step, o)
		if f == nil {
			return conn, nil
		}
		from, err := url.Parse(step.URL)
		if err != nil {
			return nil, f // it cannot have been dialled
		}
		if f.Stage != wire.StageUpgrade || f.Status < 300 || f.Status > 399 {
			if len(trail) > 1 && f.Stage == wire.StageUpgrade {
				f.Err = &fault.Redirected{Host: from.Host, Err: f.Err}
			}
			return nil, f
		}
		f.Body = nil // it repeats the location
		next, err := d.cfg.allowed.Next(from, trail, f.Status, f.Header, tickets)
		if err != nil {
			f.Err = err
			return nil, f
		}
		if f := x.noTurn(next.Host); f != nil {
			return nil, f
		}
		trail = append(trail, next.String())
		step.URL, step.Header = next.String(), step.Header.Clone()
		if next.Host != from.Host {
			step.Header.Del("Host") // the dialect's, for the URL before
			for name := range w.Early {
				step.Header.Del(name)
			}
		}
		d.secrets.AddRequest(step.URL, step.Header)
		d.addCookies(step.URL)
	}
}

// resolve asks Options.Resolver if it is to be asked before the next attempt: resolved follows.
func (l *loop) resolve() bool {
	if l.c.cfg.Resolver == nil || l.endpoints.HasTurn || l.endpoints.Moved != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.policy.DialTimeout)
	l.cancelAttempt = cancel
	l.c.goroutines.Go(func() {
		defer cancel()
		l.dialer.resolve(ctx)
	})
	return true
}

// resolved is the answer of Options.Resolver.
type resolved struct {
	urls []*url.URL // empty: none is usable
	err  error      // what is wrong with the answer
}

func (e resolved) apply(l *loop) {
	l.cancelAttempt = nil
	if l.ended {
		return
	}
	if e.err != nil {
		l.c.notify.post(CallbackFailed{optionResolver, &Error{Op: "dial", Field: optionResolver, Class: ClassUser, Err: l.c.secrets.HideError(e.err)}})
	}
	if len(e.urls) > 0 {
		l.endpoints.List.Replace(e.urls)
	}
	if l.link != nil {
		l.attemptRotation()
		return
	}
	l.rotation.attempting = false
	l.dial()
}
