package limpet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/wire"
)

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
		l.c.notify.post(ServerNotice{shownCode(ev.Code, ev.PeerCode), peerText(ev.Reason)})
	case ev.Code != 0:
		l.refreshFailed(k, &Error{Op: "refresh", Class: ClassAuth, Code: shownCode(ev.Code, ev.PeerCode), Detail: peerText(ev.Reason), Err: errNewRefused}, ev.Retry)
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
	ctx, cancel := context.WithTimeout(context.Background(), l.policy.firstDialTimeout)
	a := attempt{url: k.endpoint.URL, number: l.policy.failures + 1, refresh: true, cause: l.state.Cause}
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
	cred, err := d.auth.ask(ctx, func() (Credential, error) { return d.cfg.Auth(ctx, info) })
	if err == nil {
		d.secrets.AddRefreshed(cred.Token.reveal())
		err = cred.check()
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		err = fmt.Errorf("no answer within Options.DialTimeout (%v): %w", d.cfg.DialTimeout, err)
	}
	d.inbox.post(refreshed{c, cred.Token, err})
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
	switch fault := (&userError{optionAuth, e.err}); {
	case isPermanent(fault):
		l.disconnect(k, l.c.cfg.closeCode(), "")
		l.fail(k, &wire.Failure{Stage: wire.StageOpen, Err: fault})
	case e.err != nil:
		f := l.dialer.refused(attempt{}, fault).failure
		d := decideByTable(f)
		why := l.explain(f, d)
		why.Op = "refresh"
		l.refreshFailed(k, why, d.After)
	case e.token == "":
		k.usesToken, k.refreshAt = false, time.Time{}
		l.c.notify.post(CredentialNotRefreshed{Err: &Error{Op: "refresh", Field: optionAuth, Class: ClassUser, Err: errNoToken}})
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
	k.notBefore = later(k.notBefore, l.now.Add(max(v/2+uniform(v/2), min(after, headers.MaxRetryAfter))))
	k.refreshAt = k.notBefore
	l.c.notify.post(CredentialNotRefreshed{Err: why, Again: k.notBefore.Sub(l.now)})
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
