package limpet

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/verdict"
	"github.com/limpet-go/limpet/wire"
)

// askDialect returns what the dialect decides, or no opinion and its panic.
func (c *config) askDialect(f wire.Failure) (wire.Verdict, error) {
	return c.Dialect.(guarded).verdictOf(f) // newConfig guards it
}

// overrule lets Options.Verdict change d. A call that fails changes nothing.
func (l *loop) overrule(f *wire.Failure, d *verdict.Decision) {
	if l.c.cfg.Verdict == nil || d.Fixed {
		return
	}
	would, trial := *d, l.finality
	trial.Weigh(&would, l.now, l.canRefresh(), l.c.cfg.Backoff.KeepTrying)
	if would.Action == wire.ActionSpread && would.Spread == 0 {
		would.Spread = l.spread
	}
	v, err := l.askVerdict(l.withoutSecrets(f, would), would.Verdict)
	switch {
	case err == nil:
		*d = d.Overruled(v, would)
	case !l.c.closed.Load():
		d.Failed = &fault.User{Option: fault.OptionVerdict, Err: err}
		l.c.notify.post(CallbackFailed{fault.OptionVerdict, &Error{Op: f.Stage.String(), Field: fault.OptionVerdict, Class: ClassUser, Err: l.c.secrets.HideError(err)}})
	}
}

// withoutSecrets returns a copy of f for the caller. Its Err is that of State.Cause.
func (l *loop) withoutSecrets(f *wire.Failure, d verdict.Decision) wire.Failure {
	shown, s := *f, &l.c.secrets
	shown.Reason, shown.Body, shown.Header = s.Hide(f.Reason), []byte(s.Hide(string(f.Body))), s.HideHeader(f.Header)
	shown.Err = l.explain(f, d)
	return shown
}

// explain returns the error that reports f, without secrets.
func (l *loop) explain(f *wire.Failure, d verdict.Decision) *Error {
	shown := *f
	shown.Reason = l.c.secrets.Hide(f.Reason)
	e := failureError(&shown, d)
	e.Err = l.c.secrets.HideError(e.Err)
	return e
}

// closeCodeErrors are the sentinels of close codes that have one.
var closeCodeErrors = map[uint16]error{4006: ErrSuperseded, 4007: ErrSessionConflict, 4402: ErrRolledBack}

// failureError returns the error that reports a failure: what was tried, what
// it means and what the peer said. It has no URL, which may hold a secret.
func failureError(f *wire.Failure, d verdict.Decision) *Error {
	e := &Error{Op: f.Stage.String(), Field: optionOf(d.Err), Class: ErrorClass(d.Class), Code: shownCode(f.Code, f.PeerCode), Detail: peerText(f.Reason), Err: d.Err}
	if f.Stage == wire.StageUpgrade {
		e.Code, e.Detail = f.Status, peerText(strings.TrimSpace(string(f.Body)))
	}
	if sentinel := closeCodeErrors[f.Code]; sentinel != nil && e.Err == nil {
		e.Err = sentinel
	}
	if e.Err == nil {
		e.Err = withoutURL(f)
	}
	if d.Failed != nil {
		e.Err = fmt.Errorf("%w (and %w)", e.Err, d.Failed)
	}
	return e
}

// withoutURL returns the error of a failure without the URL in it.
func withoutURL(f *wire.Failure) error {
	var withURL *url.Error
	var detected *wire.CodeError
	var late *dialTimeoutError
	var user *fault.User
	switch {
	case f.Stage == wire.StageDial && errors.As(f.Err, &late):
		return &dialTimeoutError{late.after, withoutURL(&wire.Failure{Stage: f.Stage, Err: late.err})}
	case f.Stage == wire.StageUpgrade && f.Status == http.StatusSwitchingProtocols && f.Err != nil:
		err := f.Err
		if errors.As(err, &withURL) {
			err = withURL.Err
		}
		return fmt.Errorf("not a WebSocket handshake: %s", peerText(err.Error()))
	case f.Stage == wire.StageUpgrade && errors.As(f.Err, &user) && user.IsCredential():
		return fmt.Errorf("%s: server answered %d %s", user.Option, f.Status, http.StatusText(f.Status))
	case f.Stage == wire.StageUpgrade:
		return fmt.Errorf("%sserver answered %d %s", answeredBy(f), f.Status, http.StatusText(f.Status))
	case errors.As(f.Err, &detected):
		return f.Err
	case f.Code != 0:
		return endedBy(f)
	case errors.As(f.Err, &withURL):
		return withURL.Err
	case f.Err == nil:
		return errors.New("connection ended")
	}
	return f.Err
}

// failureCounters count failed attempts and, with lost, lost connections by class.
type failureCounters struct {
	attempts, lost [len(errorClasses)]atomic.Uint64
}

func (f *failureCounters) of(lost bool) *[len(errorClasses)]atomic.Uint64 {
	if lost {
		return &f.lost
	}
	return &f.attempts
}

func (f *failureCounters) load(lost bool) (c ClassCounts) {
	if f != nil {
		for i := range c {
			c[i] = f.of(lost)[i].Load()
		}
	}
	return c
}

// countFailure counts a failed attempt or a lost connection. Only the loop calls it.
func (c *counters) countFailure(lost bool, class ErrorClass) {
	if c.failures.Load() == nil {
		c.failures.Store(new(failureCounters))
	}
	if i := slices.Index(errorClasses[:], class); i >= 0 {
		c.failures.Load().of(lost)[i].Add(1)
	}
}

// applyFatalError lets a fatal error frame decide over whatever ended the
// connection after it (docs/protocol.md, section 7).
func (k *link) applyFatalError(f *wire.Failure, now time.Time) {
	f.CloseCode = f.Code
	if k == nil || k.fatalError == nil {
		return
	}
	f.Retry = max(0, k.fatalError.Retry-now.Sub(k.fatalAt))
	if k.fatalError.Code != 0 {
		f.Code, f.PeerCode, f.Reason = k.fatalError.Code, k.fatalError.PeerCode, k.fatalError.Reason
	}
}
