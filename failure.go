package limpet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/guard"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/internal/verdict"
	"github.com/limpet-go/limpet/wire"
)

// askDialect returns what the dialect decides, or no opinion and its panic.
func (c *config) askDialect(f wire.Failure) (wire.Verdict, error) {
	return c.Dialect.(guard.Dialect).AskVerdict(f) // newConfig guards it
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

// askVerdict calls Options.Verdict. The loop waits for it, but neither for one that hangs
// nor after Close.
func (l *loop) askVerdict(f wire.Failure, would wire.Verdict) (wire.Verdict, error) {
	ctx, cancel := context.WithTimeout(l.c.closing, guard.MaxCall)
	defer cancel()
	v, err := l.verdicts.Ask(ctx, newPanicError, func() (wire.Verdict, error) { return l.c.cfg.Verdict(f, would), nil })
	if errors.Is(err, context.DeadlineExceeded) {
		err = newHangError("Verdict", "limpet.(*loop).askVerdict.func")
	}
	switch {
	case err != nil:
	case v.Action > wire.ActionStop:
		err = fmt.Errorf("returned the unknown Action %d; use one of wire.ActionDefault to wire.ActionStop", v.Action)
	case min(v.After, v.Spread) < 0 || max(v.After, v.Spread) > maxDuration:
		err = fmt.Errorf("returned After %v and Spread %v; use 0 to %v", v.After, v.Spread, maxDuration)
	}
	return v, err
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
	e := &Error{Op: f.Stage.String(), Field: optionOf(d.Err), Class: ErrorClass(d.Class), Code: shownCode(f.Code, f.PeerCode), Detail: text.Quote(f.Reason), Err: d.Err}
	if f.Stage == wire.StageUpgrade {
		e.Code, e.Detail = f.Status, text.Quote(strings.TrimSpace(string(f.Body)))
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
		return fmt.Errorf("not a WebSocket handshake: %s", text.Quote(err.Error()))
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

// reportUnencoded reports an operation that no caller waits for and that the dialect could
// not encode, once for each kind on a connection.
func (l *loop) reportUnencoded(k *link, kind wire.OpKind, err error) {
	if kind == wire.OpAuth {
		l.refreshFailed(k, &Error{Op: "refresh", Field: fault.OptionDialect, Class: ClassUser, Err: err}, 0)
		return
	}
	if bit := uint32(1) << (kind % 32); k.unencodable&bit == 0 {
		k.unencodable |= bit
		l.c.notify.post(CallbackFailed{fault.OptionDialect, &Error{Op: "Encode", Field: fault.OptionDialect, Class: ClassUser, Detail: kind.String(), Err: err}})
	}
}

// openFailed follows when the dialect has no codec for a connection: the peer broke the
// protocol, or the fault is on this side.
func (l *loop) openFailed(k *link, err error) {
	var user *fault.User
	var violation *wire.CodeError
	switch {
	case errors.As(err, &user):
		l.dialectFailed(k, user)
	case errors.As(err, &violation):
		l.violated(k, err)
	default:
		l.dialectFailed(k, &fault.User{Option: fault.OptionDialect, Err: fmt.Errorf("Open cannot use the connection; correct the options of the dialect or the credential: %w", err)})
	}
}

// errKeyGoexit is why a stream and a connection end when Delivery.Key has ended the
// goroutine that reads.
var errKeyGoexit = keyError(errors.New("it called runtime.Goexit, as t.FailNow does; return a key instead"))

func keyError(err error) *Error {
	return &Error{Op: "Subscribe", Field: "Delivery.Key", Class: ClassUser, Err: err}
}

// newPanicError is the guard.Report of the client.
func newPanicError(value any, stack []byte) error { return &PanicError{Value: value, Stack: stack} }

// HangError means that a method of Options.Dialect that must not block, or Delivery.Key,
// has not returned for 10 seconds. Its goroutine is abandoned, and the client has ended. It
// also means that a call of Options.Verdict or, at the end of the client, of
// PublishOptions.Done took that long, see CallbackFailed, or that Save of a store hangs,
// see CursorNotSaved.
type HangError struct {
	// Method is the name of the method, or of the option that holds the function.
	Method string

	// Stack is the stack of each goroutine of the process that runs it, as text of at
	// most 16 KiB.
	Stack []byte
}

// Error returns the name of the method and what to do.
func (e *HangError) Error() string {
	return fmt.Sprintf("%s has not returned for %v; it must not wait: see HangError.Stack", e.Method, guard.MaxCall)
}

// callHangs follows when a call of a method of the dialect, or of the function in an
// option, was given up.
type callHangs struct {
	option string
	err    *HangError
}

func (e callHangs) apply(l *loop) {
	l.end(&PermanentError{ClassUser, &fault.User{Option: e.option, Err: e.err}})
}

// newHangError returns the error for a method that was called by the function with
// this name.
func newHangError(method, caller string) *HangError {
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)]
	var found []byte
	for _, stack := range bytes.Split(all, []byte("\n\n")) {
		if bytes.Contains(stack, []byte(caller)) && len(found)+len(stack) < 16<<10 {
			found = append(append(found, stack...), "\n\n"...)
		}
	}
	return &HangError{method, bytes.TrimSpace(found)}
}
