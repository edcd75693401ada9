package limpet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/limpet-go/limpet/internal/endpoint"
	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/guard"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/policy"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/internal/ticket"
	"github.com/limpet-go/limpet/internal/verdict"
	"github.com/limpet-go/limpet/wire"
)

// AttemptInfo tells Auth and Ticket what the credential is for.
type AttemptInfo struct {
	// Number is 1 more than the losses and failed attempts since the last stable
	// connection: 1 for the first attempt of a client.
	Number int

	// Host is the host and port of the endpoint.
	Host string

	// Refresh means that the server refused the last credential, or that it expires: return
	// a new one, not a cached one.
	Refresh bool

	// Connected means that the credential is not for an attempt: it is sent on the
	// connection in use, where the last one expires or the server wants a new one. Only its
	// Token is used. Refresh is set, too.
	Connected bool

	// Credential is what Auth has returned for this attempt. Only Ticket gets it.
	Credential Credential

	// Cause is why the last connection or attempt failed; nil before the first
	// failure.
	Cause error
}

// Credential is what Auth returns. It appears in no log, error or metric.
type Credential struct {
	// Header is sent with the upgrade request. It replaces entries of
	// Options.Header with the same key.
	Header http.Header

	// Token is sent in the handshake of the dialect, for limpet.v1 in HELLO. It
	// must be UTF-8 of at most 8 KiB without control characters.
	Token Secret

	// Subprotocols are offered in the upgrade request behind those of the dialect, for
	// servers that read a credential there. Each must be a token of RFC 9110, section
	// 5.6.2: encode what is none in base64url. The server should choose one of the
	// dialect's.
	Subprotocols []string
}

// Secret is a string whose content is not printed, logged or marshalled.
type Secret string

// String hides the secret.
func (Secret) String() string { return "[secret]" }

// GoString hides the secret.
func (Secret) GoString() string { return "limpet.Secret([secret])" }

// LogValue hides the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText hides the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

func (s Secret) reveal() string { return string(s) }

// String hides the credential.
func (c Credential) String() string { return "[credential]" }

// GoString hides the credential.
func (c Credential) GoString() string { return "limpet.Credential([secret])" }

// LogValue hides the credential.
func (c Credential) LogValue() slog.Value { return slog.StringValue("[credential]") }

// MarshalJSON hides the credential.
func (c Credential) MarshalJSON() ([]byte, error) { return json.Marshal("[credential]") }

// info is what the caller learns about an attempt.
func (d *dialer) info(a attempt) AttemptInfo {
	return AttemptInfo{Number: a.number, Host: a.url.Host, Refresh: a.refresh, Cause: a.cause}
}

// credential calls Auth.
func (d *dialer) credential(ctx context.Context, a attempt) (cred Credential, err error) {
	for again := d.cfg.Auth != nil; again; {
		cred, err = d.auth.Ask(ctx, newPanicError, func() (Credential, error) { return d.cfg.Auth(ctx, d.info(a)) })
		again = err == guard.ErrStillRuns && d.auth.Settle(ctx, giveUpAfter) // it was for the connection before
	}
	if err != nil {
		return cred, err
	}
	d.noteSecrets(&cred, &a)
	return cred, cred.check()
}

// target calls Ticket and returns the URL of the endpoint with the ticket, and the ticket.
func (d *dialer) target(ctx context.Context, a attempt, cred Credential) (target string, values url.Values, err error) {
	if d.cfg.Ticket == nil {
		return a.url.String(), nil, nil
	}
	info := d.info(a)
	info.Credential = cred
	values, err = d.ticket.Ask(ctx, newPanicError, func() (url.Values, error) {
		values, err := d.cfg.Ticket(ctx, info)
		return url.Values(http.Header(values).Clone()), err
	})
	if err != nil {
		return "", nil, err
	}
	for _, v := range values {
		d.secrets.Add(v...)
	}
	target, err = endpoint.WithQuery(a.url, values)
	return target, values, err
}

// noteSecrets makes the credentials of an attempt known as secrets.
func (d *dialer) noteSecrets(cred *Credential, a *attempt) {
	d.secrets.Begin(a.url.String(), d.cfg.Header, a.inUse)
	d.secrets.Add(cred.Token.reveal())
	d.secrets.AddRequest("", cred.Header)
	d.secrets.AddSubprotocols(cred.Subprotocols)
	for i := range a.subs { // there may be more than what Add takes, and a ticket is to come
		d.secrets.AddSubscription(a.subs[i].Token)
	}
}

// TicketOptions are the options of TicketFrom. The zero value, like nil, means the
// defaults.
type TicketOptions struct {
	// HTTPClient makes the request. Redirects are not followed. Defaults to what
	// Options.HTTPClient defaults to.
	HTTPClient *http.Client

	// Header returns the headers of the request. Defaults to Credential.Header, what Auth
	// has returned for the attempt.
	Header func(ctx context.Context, info AttemptInfo) (http.Header, error)

	// Member is the member of the JSON answer that holds the ticket, a string. Dots lead
	// to inner objects: "data.token". Defaults to "ticket".
	Member string

	// Parameter is the query parameter of the URL to dial. Defaults to the last name in
	// Member.
	Parameter string

	// AllowInsecure permits http:// to other machines than this one.
	AllowInsecure bool
}

// TicketFrom returns a function for Options.Ticket. It makes an empty POST request to
// endpoint, with the scheme https, or http for this machine, and takes the ticket from the
// answer, a JSON object of at most 64 KiB. o may be nil.
//
// A refusal, any status but 200 to 299, counts as if the upgrade had been refused with
// it (docs/reconnect.md, section 2): a 401 asks for a new credential at once, a
// Retry-After is obeyed. Of its body nothing is kept. Any other error fails the attempt.
// What is wrong with endpoint or o ends the client. The function may serve several clients.
func TicketFrom(endpoint string, o *TicketOptions) func(context.Context, AttemptInfo) (url.Values, error) {
	var opts TicketOptions
	if o != nil {
		opts = *o
	}
	source, wrong := ticket.New(ticket.Options{Client: opts.HTTPClient, URL: endpoint, AllowInsecure: opts.AllowInsecure, Member: opts.Member, Parameter: opts.Parameter})
	return func(ctx context.Context, info AttemptInfo) (values url.Values, err error) {
		if wrong != nil {
			return nil, Permanent(wrong)
		}
		h := info.Credential.Header
		if opts.Header != nil {
			if h, err = opts.Header(ctx, info); err != nil {
				return nil, err
			}
		}
		return source.Fetch(ctx, h)
	}
}

// refreshing is how a connection gets a new credential without another connection: a part
// of link.
type refreshing struct {
	usesToken    bool               // the last credential had a token, and nothing else can be sent
	refreshAt    time.Time          // when Auth is asked next; zero: never
	notBefore    time.Time          // Auth is not asked earlier, whatever the server says
	lifetime     time.Duration      // of the last credential; zero: not known, or without end
	stopAsking   context.CancelFunc // of the call of Auth in progress
	sentAt       time.Time          // when the last credential was queued; zero: it was answered, or there is none
	failedInARow int                // calls and credentials
}

const (
	betweenRefreshes = time.Second      // between the starts of two calls of Auth for one connection
	refreshAnswer    = 10 * time.Second // a wish of the server that comes before its answer counts from then
)

// canRefreshOn reports whether a new credential can be sent on k.
func (l *loop) canRefreshOn(k *link) bool { return k.traits.Refresh && l.c.cfg.Auth != nil }

// credentialLasts follows when the server says how long the credential of k remains valid:
// zero means without end.
func (l *loop) credentialLasts(k *link, d time.Duration) {
	k.lifetime = min(d, maxDuration)
	l.planRefresh(k)
}

// planRefresh chooses when Auth is asked by itself: when 80 % of the lifetime from now on have
// passed.
func (l *loop) planRefresh(k *link) {
	k.refreshAt = time.Time{}
	if k.lifetime > 0 && k.usesToken && l.canRefreshOn(k) {
		k.refreshAt = later(l.now.Add(k.lifetime*4/5), k.notBefore)
	}
}

// credentialNews handles an EventAuth.
func (l *loop) credentialNews(k *link, ev *wire.Event) {
	answered := !k.sentAt.IsZero()
	switch {
	case ev.Code != 0 && !(answered && l.canRefreshOn(k)):
		l.c.notify.post(ServerNotice{Code: shownCode(ev.Code, ev.PeerCode), Reason: text.Quote(ev.Reason)})
	case ev.Code != 0:
		l.refreshFailed(k, &Error{Op: "refresh", Class: ClassAuth, Code: shownCode(ev.Code, ev.PeerCode), Detail: text.Quote(ev.Reason), Err: errNewRefused}, ev.Retry)
	case ev.Wanted && l.canRefreshOn(k):
		at := l.now
		if answered {
			at = k.sentAt.Add(refreshAnswer)
		}
		if at = later(at, k.notBefore); k.refreshAt.IsZero() || at.Before(k.refreshAt) {
			k.refreshAt = at
		}
	case !ev.Wanted:
		k.sentAt = time.Time{}
		if answered {
			k.failedInARow = 0
			l.c.notify.post(CredentialRefreshed{max(ev.Expires, 0)})
		}
		l.credentialLasts(k, ev.Expires)
	}
}

var errNewRefused = errors.New("the server refuses the new credential")

// refreshInTime asks Auth for a new credential for k when that is due. One call at a time: what
// it returns serves every wish that came before.
func (l *loop) refreshInTime(k *link) {
	if !due(k.nextRefresh(), l.now) {
		return
	}
	k.refreshAt, k.notBefore = time.Time{}, l.now.Add(betweenRefreshes)
	ctx, cancel := context.WithTimeout(context.Background(), l.policy.FirstDialTimeout)
	a := attempt{url: k.endpoint.URL, number: l.policy.Failures + 1, refresh: true, cause: l.state.Cause}
	k.stopAsking = cancel
	l.c.goroutines.Go(func() {
		defer cancel()
		l.dialer.refresh(ctx, k.conn, a)
	})
}

// nextRefresh is when Auth is asked next; zero: not before something else happens.
func (k *link) nextRefresh() time.Time {
	if !k.ready || k.stopAsking != nil {
		return time.Time{}
	}
	return k.refreshAt
}

// giveUpRefresh follows when the connection has ended: what Auth still returns is not sent.
func (k *link) giveUpRefresh() {
	if k.stopAsking != nil {
		k.stopAsking()
	}
}

// refresh calls Auth for an open connection and posts what it returns.
func (d *dialer) refresh(ctx context.Context, c *conn, a attempt) {
	info := d.info(a)
	info.Connected = true
	cred, err := d.auth.Ask(ctx, newPanicError, func() (Credential, error) { return d.cfg.Auth(ctx, info) })
	if err == nil {
		d.secrets.AddRefreshed(cred.Token.reveal())
		err = cred.check()
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		err = fmt.Errorf("no answer within Options.DialTimeout (%v): %w", d.cfg.DialTimeout, err)
	}
	d.inbox.Post(refreshed{c, cred.Token, err})
}

// refreshed is what Auth returned for an open connection.
type refreshed struct {
	conn  *conn
	token Secret
	err   error
}

func (e refreshed) apply(l *loop) {
	k := l.linkOf(e.conn)
	if k == nil {
		return // it was for that connection
	}
	k.stopAsking = nil
	switch err := (&fault.User{Option: fault.OptionAuth, Err: e.err}); {
	case fault.IsPermanent(err):
		f := &wire.Failure{Stage: wire.StageOpen, Err: err}
		why := l.explain(f, verdict.Decide(f, l.c.cfg.askDialect))
		why.Op = "refresh"
		l.credentialsEnded(k, why)
	case e.err != nil:
		f := l.dialer.refused(attempt{}, err).failure
		d := verdict.ByTable(f)
		why := l.explain(f, d)
		why.Op = "refresh"
		l.refreshFailed(k, why, d.After)
	case e.token == "":
		k.usesToken, k.refreshAt = false, time.Time{}
		l.c.notify.post(CredentialNotRefreshed{Err: &Error{Op: "refresh", Field: fault.OptionAuth, Class: ClassUser, Err: errNoToken}})
	default:
		l.sendCredential(k, e.token)
	}
}

var errNoToken = errors.New("it returned a Credential without a Token, and nothing else can be sent on an open connection: the credential counts from the next connection on")

// sendCredential queues a credential. One that still waits there is out of date.
func (l *loop) sendCredential(k *link, token Secret) {
	op := wire.Op{Kind: wire.OpAuth, Token: token.reveal()}
	if i := slices.IndexFunc(k.ops, func(op wire.Op) bool { return op.Kind == wire.OpAuth }); i >= 0 {
		k.ops[i] = op
	} else {
		k.ops = append(k.ops, op)
	}
	k.usesToken, k.sentAt = true, l.now
	l.planRefresh(k) // if no answer comes
}

// refreshFailed follows when Auth has failed, or the server refuses what it returned. Auth is
// asked again: not before after, and later each time.
func (l *loop) refreshFailed(k *link, why *Error, after time.Duration) {
	b := &l.c.cfg.Backoff
	v := time.Duration(min(float64(b.Max), float64(b.Initial)*math.Pow(b.Multiplier, float64(k.failedInARow))))
	k.failedInARow++
	k.sentAt = time.Time{}
	k.notBefore = later(k.notBefore, l.now.Add(max(v/2+policy.Uniform(v/2), min(after, headers.MaxRetryAfter))))
	k.refreshAt = k.notBefore
	l.c.notify.post(CredentialNotRefreshed{Err: why, Again: k.notBefore.Sub(l.now)})
}

// credentialsEnded follows when Auth or Ticket has said that there will be no other credential,
// while k works. It is not asked again: no attempt is made before k has ended, and the one that
// follows ends the client.
func (l *loop) credentialsEnded(k *link, why *Error) {
	k.refreshAt, k.renewAt = time.Time{}, time.Time{}
	if l.state.NoCredential != nil {
		return
	}
	l.state.NoCredential = why
	l.c.state.Set(l.state)
	l.c.notify.post(CredentialsEnded{Err: why})
}

// CredentialsEnded reports that Auth or Ticket has returned an error made with Permanent
// although a connection works: State.NoCredential. It comes at most once.
type CredentialsEnded struct {
	// Err is an *Error that wraps that error.
	Err error
}

func (e CredentialsEnded) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelError, "limpet: no other credential, so the client ends when it loses its connection", []slog.Attr{
		slog.String("class", string(ClassOf(e.Err))), slog.String("cause", e.Err.Error())}
}

// CredentialRefreshed reports that the server has taken a new credential on the open
// connection.
type CredentialRefreshed struct {
	// Expires is how long it remains valid; zero means without end.
	Expires time.Duration
}

// CredentialNotRefreshed reports that Options.Auth returned no new credential for the open
// connection, or that the server refuses it. The connection goes on until the server ends it.
type CredentialNotRefreshed struct {
	// Err is an *Error that says why.
	Err error
	// Again is when Auth is asked again; zero means not for this connection, unless the server
	// wants a new credential.
	Again time.Duration
}

func (e CredentialRefreshed) record() (slog.Level, string, []slog.Attr) {
	var attrs []slog.Attr
	if e.Expires > 0 {
		attrs = append(attrs, slog.Duration("expires", e.Expires))
	}
	return slog.LevelDebug, "limpet: credential refreshed", attrs
}

func (e CredentialNotRefreshed) record() (slog.Level, string, []slog.Attr) {
	attrs := []slog.Attr{slog.String("class", string(ClassOf(e.Err))), slog.String("cause", e.Err.Error())}
	if e.Again > 0 {
		attrs = append(attrs, slog.Duration("again", e.Again.Round(time.Millisecond)))
	}
	if stack := stackOf(e.Err); stack != nil {
		attrs = append(attrs, slog.String("stack", string(stack)))
	}
	return slog.LevelWarn, "limpet: credential not refreshed", attrs
}

// beginning is what the handshake of a connection says, but for what the attempt brings.
type beginning struct{ resume wire.Resume }

// begin prepares every subscription for connection gen. It fences every earlier connection
// before it reads the positions to resume from, unless two connections overlap.
func (l *loop) begin(gen uint64) *beginning {
	l.number++
	subs := l.registry.startConnection(gen, l.now)
	return &beginning{wire.Resume{
		Conn: l.number, Session: l.session, Uplink: l.window.uplink(), Subs: subs,
		TTL: l.c.cfg.SessionTTL, ReadLimit: l.c.cfg.ReadLimit, Heartbeat: l.heartbeatInterval(),
	}}
}

// announce returns what the attempt that begins may say in the upgrade request, nil if nothing:
// only without another connection the positions stay as they are until it is there.
func (l *loop) announce() *wire.Resume {
	l.upcoming = nil
	if l.link != nil || l.registry.overlap || !l.c.cfg.traits.EarlyStart || l.session.ID == "" || !l.early.May() || !l.mayBegin() {
		return nil
	}
	l.upcoming = l.begin(l.state.Generation + 1)
	return &l.upcoming.resume
}

// announceFailed follows when an attempt, if k is nil, or a connection fails.
func (l *loop) announceFailed(k *link, f *wire.Failure) {
	if k == nil && l.upcoming != nil || k != nil && k.announced && !k.ready {
		l.early.Failed(f)
	}
	l.upcoming = nil
}

// catchUp queues what has changed since the attempt has announced subs.
func (l *loop) catchUp(k *link, subs []wire.Subscribe) {
	for i := range subs {
		switch s := l.c.routes.keyed(subs[i].Key); {
		case s == nil && k.traits.Unsubscribe: // closed
			k.ops = append(k.ops, wire.Op{Kind: wire.OpUnsubscribe, Key: subs[i].Key, Cmd: subs[i].Key*4 + 2, Topic: subs[i].Topic})
		case s == nil:
			k.abandon()
		case s.queue.owesGrant():
			grantCredit{s}.apply(l)
		}
	}
}

// outnumbered follows when the server refuses k because it knows connection n of the session: an
// upgrade request that has arrived twice, for example. The next one has a higher number.
func (l *loop) outnumbered(k *link, n uint64) {
	if k.ready || n < k.conn.number || n >= maxNumber {
		return
	}
	l.number = max(l.number, n)
	k.outnumbered = true
}
