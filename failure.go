package limpet

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/wire"
)

// decision is what the client does about a failure: a Verdict, and what only
// the client knows.
type decision struct {
	wire.Verdict
	class       ErrorClass
	err         error // the sentinel for what is wrong; nil if there is none
	atCap       bool  // v is at least Backoff.Max (docs/reconnect.md, section 2)
	minFailures int   // count at least this many failures in a row
	failed      error // of the dialect's Verdict, or of the caller's
	isViolation bool  // the peer broke the protocol: final when it repeats
	byTable     bool  // neither the dialect nor the caller decided
	lasting     bool  // no proxy, deploy or busy server can cause it
	namesTime   bool  // the server said when to come back, perhaps at once
	fixed       bool  // an error made with Permanent: nothing overrules it

	slotWindow time.Duration // spread the attempt over this time after the slot (docs/protocol.md, section 8)
}

// decide asks the caller's Auth first, then the dialect. Where they have no
// opinion the tables of HTTP statuses and close codes decide (docs/reconnect.md,
// sections 2 and 3).
func decide(dialect wire.Dialect, f *wire.Failure) decision {
	if fault.IsPermanent(f.Err) {
		d := newDecision(wire.ActionStop, ClassAuth)
		d.fixed = true
		return d
	}
	verdict, panicked := verdictOf(dialect, *f)
	d := decideByTable(f)
	d.byTable, d.failed = true, panicked
	slot, tooBig := d.After, d.TooBig
	if verdict.Action != wire.ActionDefault {
		d.Verdict = verdict
		d.atCap, d.isViolation, d.byTable, d.minFailures = false, false, false, 0
		d.TooBig = verdict.TooBig || tooBig // 1009 means the same in every wire protocol: RFC 6455
	}
	if verdict.Class != "" {
		d.class = ErrorClass(verdict.Class)
	}
	if d.After = verdict.After; d.After == 0 {
		d.After = slot
	}
	if d.After == 0 {
		d.After = f.Retry
	}
	d.After = min(d.After, headers.MaxRetryAfter)
	d.namesTime = d.namesTime || d.After > 0
	return d
}

// overrule lets Options.Verdict change d. A call that fails changes nothing.
func (l *loop) overrule(f *wire.Failure, d *decision) {
	if l.c.cfg.Verdict == nil || d.fixed {
		return
	}
	would, trial := *d, l.finality
	trial.weigh(&would, l.now, l.canRefresh(), l.c.cfg.Backoff.KeepTrying)
	if would.Class = string(would.class); would.Action == wire.ActionSpread && would.Spread == 0 {
		would.Spread = l.spread
	}
	v, err := l.askVerdict(l.withoutSecrets(f, would), would.Verdict)
	switch {
	case err == nil:
		*d = d.overruled(v, would)
	case !l.c.closed.Load():
		d.failed = &fault.User{Option: fault.OptionVerdict, Err: err}
		l.c.notify.post(CallbackFailed{fault.OptionVerdict, &Error{Op: f.Stage.String(), Field: fault.OptionVerdict, Class: ClassUser, Err: l.c.secrets.HideError(err)}})
	}
}

// withoutSecrets returns a copy of f for the caller. Its Err is that of State.Cause.
func (l *loop) withoutSecrets(f *wire.Failure, d decision) wire.Failure {
	shown, s := *f, &l.c.secrets
	shown.Reason, shown.Body, shown.Header = s.Hide(f.Reason), []byte(s.Hide(string(f.Body))), s.HideHeader(f.Header)
	shown.Err = l.explain(f, d)
	return shown
}

// explain returns the error that reports f, without secrets.
func (l *loop) explain(f *wire.Failure, d decision) *Error {
	shown := *f
	shown.Reason = l.c.secrets.Hide(f.Reason)
	e := failureError(&shown, d)
	e.Err = l.c.secrets.HideError(e.Err)
	return e
}

// overruled returns the decision v of the caller. would is what the client would do: where
// v has no opinion or the same, d stands, and the tables go on counting.
func (d decision) overruled(v wire.Verdict, would decision) decision {
	if v.Action == wire.ActionDefault {
		v.Action = would.Action
	}
	if v.Class == "" {
		v.Class = would.Class
	}
	if v.Spread == 0 {
		v.Spread = would.Spread
	}
	v.After = max(v.After, would.After) // never before the server's slot
	v.TooBig = v.TooBig || would.TooBig
	if v == would.Verdict {
		return d
	}
	if v.Action != would.Action {
		would.atCap, would.minFailures = false, 0
	}
	would.Verdict, would.class, would.byTable = v, ErrorClass(v.Class), false
	return would
}

func decideByTable(f *wire.Failure) decision {
	switch f.Stage {
	case wire.StageDial:
		return decideByDialError(f.Err)
	case wire.StageUpgrade:
		return decideByStatus(f)
	}
	return decideByCloseCode(f)
}

func newDecision(a wire.Action, c ErrorClass) decision {
	return decision{Verdict: wire.Verdict{Action: a}, class: c}
}

func decideByDialError(err error) decision {
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		timeout   interface{ Timeout() bool }
		user      *fault.User
		proxy     *socket.ProxyError
		remote    *socket.RemoteError
		handshake *socket.TLSError
		answer    *socket.AnswerError
	)
	switch {
	case errors.Is(err, socket.ErrSHA1):
		d := newDecision(wire.ActionStop, ClassUnsupported)
		d.lasting = true
		return d
	case errors.As(err, &remote):
		d := newDecision(wire.ActionBackOff, ClassInput) // the name may soon have another address
		d.atCap = true
		return d
	case errors.As(err, &user):
		return newDecision(wire.ActionBackOff, ClassUser)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		d := newDecision(wire.ActionBackOff, ClassTLS) // this machine's clock may be wrong
		d.atCap = true
		return d
	case errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &invalid), errors.As(err, &verify):
		return newDecision(wire.ActionStop, ClassTLS)
	case errors.As(err, &record), errors.As(err, &alert), errors.Is(err, http.ErrSchemeMismatch):
		return newDecision(wire.ActionBackOff, ClassTLS)
	case errors.As(err, &dns):
		return newDecision(wire.ActionBackOff, ClassDNS)
	case slices.ContainsFunc(localFaults, func(local error) bool { return errors.Is(err, local) }):
		d := newDecision(wire.ActionBackOff, ClassLocal)
		d.atCap = true
		return d
	case errors.As(err, &proxy):
		d := newDecision(wire.ActionBackOff, ClassProxy)
		if proxy.Status == http.StatusProxyAuthRequired || proxy.Status == http.StatusUnauthorized { // tinyproxy sends the second one
			d.Action = wire.ActionStop
		}
		d.After, d.namesTime = headers.RetryAfter(proxy.Header)
		return d
	case errors.As(err, &timeout) && timeout.Timeout():
		return newDecision(wire.ActionBackOff, ClassTimeout)
	case errors.As(err, &handshake):
		return newDecision(wire.ActionBackOff, ClassTLS)
	case errors.As(err, &answer) && answer.Broken():
		return newDecision(wire.ActionBackOff, ClassNetwork)
	case errors.As(err, &answer):
		return newDecision(wire.ActionBackOff, ClassNotWebSocket)
	}
	return newDecision(wire.ActionBackOff, ClassDial)
}

// localFaults are faults of this machine.
var localFaults = []error{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, // no room
	syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAFNOSUPPORT, // no address
	syscall.EACCES, syscall.EPERM, // a firewall or a sandbox
	syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, // no route
}

// decideByStatus decides by the HTTP answer to the upgrade request.
func decideByStatus(f *wire.Failure) decision {
	var d decision
	switch s := f.Status; {
	case errors.Is(f.Err, ErrSubprotocol):
		d = newDecision(wire.ActionStop, ClassProtocol)
		d.err = f.Err
		return d
	case errors.Is(f.Err, socket.ErrConnectionClose): // of a proxy in between: it may pass
		d = newDecision(wire.ActionBackOff, ClassNotWebSocket)
		d.atCap = true
		return d
	case s == http.StatusSwitchingProtocols:
		// 101, but not a WebSocket handshake: RFC 6455, section 4.1, step 5.
		return newDecision(wire.ActionStop, ClassNotWebSocket)
	case s >= 300 && s < 400:
		d = newDecision(wire.ActionBackOff, ClassNotWebSocket)
		d.atCap, d.err = true, redirectOf(f)
	case s < 300:
		d = newDecision(wire.ActionBackOff, ClassNotWebSocket) // a captive portal, or a wrong path
		d.atCap = true
	case s == http.StatusUnauthorized:
		d = newDecision(wire.ActionRefresh, ClassAuth)
	case s == http.StatusForbidden:
		d = newDecision(wire.ActionStop, ClassAuth)
	case s == http.StatusProxyAuthRequired:
		d = newDecision(wire.ActionStop, ClassProxy)
	case s == http.StatusTooManyRequests, s == http.StatusServiceUnavailable:
		d = newDecision(wire.ActionBackOff, ClassOverload)
	case s == http.StatusRequestTimeout, s == http.StatusTooEarly, s == http.StatusMisdirectedRequest, s >= 500 && s != http.StatusNotImplemented && s != http.StatusHTTPVersionNotSupported:
		d = newDecision(wire.ActionBackOff, ClassHTTP)
	default:
		d = newDecision(wire.ActionStop, ClassHTTP)
	}
	d.After, d.namesTime = headers.RetryAfter(f.Header)
	return d
}

// decideByCloseCode decides by how an upgraded connection ended.
func decideByCloseCode(f *wire.Failure) decision {
	var detected *wire.CodeError // a violation that this side found
	var panicked *fault.User     // of the dialect
	var d decision
	switch c := f.Code; {
	case errors.As(f.Err, &panicked):
		d = newDecision(wire.ActionBackOff, ClassUser)
	case c == 0 && errors.As(f.Err, &detected):
		d = newDecision(wire.ActionBackOff, ClassProtocol)
		d.isViolation = true
	case c == 0 && (errors.Is(f.Err, ErrHeartbeat) || errors.Is(f.Err, ErrStalled)):
		d = newDecision(wire.ActionBackOff, ClassTimeout)
	case c == 1000, c == 1001, c == 1012:
		d = newDecision(wire.ActionSpread, ClassNetwork)
	case c == 1002, c == 1007:
		d = newDecision(wire.ActionBackOff, ClassProtocol)
		d.isViolation = true
	case c == 1003, c == 1010:
		d = newDecision(wire.ActionStop, ClassProtocol)
		d.lasting = true
	case c == 1008:
		d = newDecision(wire.ActionRefresh, ClassAuth)
	case c == 1009:
		d = newDecision(wire.ActionBackOff, ClassProtocol)
	case c == 1013:
		d = newDecision(wire.ActionBackOff, ClassOverload)
		d.minFailures = 3
	default:
		d = newDecision(wire.ActionBackOff, ClassNetwork)
	}
	d.TooBig = f.Code == 1009 || f.CloseCode == 1009
	return d
}

const (
	maxViolations = 3                // in a row, before the client has been ready
	finalRepeats  = 5                // failures in a row, once it has
	finalSpan     = 10 * time.Minute // that they must span
)

// finality decides which failures end the client: docs/ending.md.
type finality struct {
	wasReady   bool      // the client has been ready
	violations int       // since the last progress
	count      int       // failures in a row since then that the tables call final
	since      time.Time // the first of them
	oversized  bool      // the last failure was a message beyond Options.ReadLimit
}

// ready follows when a connection became ready. Without a greeting the server has said
// nothing yet: one that refuses the login or breaks the protocol every time makes no
// progress.
func (y *finality) ready(greeted bool) {
	y.wasReady = true
	if greeted {
		y.progressed()
	}
}

// lasted follows when a connection lasted long enough to count as stable: what refused
// the client before has passed.
func (y *finality) lasted() { y.count = 0 }

// progressed follows when a message was received or acknowledged: a reset or a gap
// is not enough.
func (y *finality) progressed() { y.violations, y.count = 0, 0 }

// weigh makes d final or a wait. canRefresh means that Auth can be asked for
// another credential.
func (y *finality) weigh(d *decision, now time.Time, canRefresh, keepTrying bool) {
	refused := d.Action == wire.ActionRefresh && !canRefresh
	if refused {
		d.Action, d.class = wire.ActionStop, ClassAuth
	}
	if !d.byTable {
		y.count, y.violations = 0, 0
		return
	}
	if d.isViolation {
		y.violations++
	} else {
		y.violations, y.oversized = 0, false
	}
	switch {
	case d.namesTime, d.Action != wire.ActionStop && d.Action != wire.ActionRefresh && !d.isViolation:
		y.count = 0
	default:
		if y.count++; y.count == 1 {
			y.since = now
		}
	}
	final := d.Action == wire.ActionStop || d.isViolation && (y.wasReady || y.violations >= maxViolations)
	if !final {
		return
	}
	repeated := y.count >= finalRepeats && now.Sub(y.since) >= finalSpan
	switch {
	case d.namesTime:
		d.Action = wire.ActionBackOff
	case keepTrying && (d.Action == wire.ActionStop || !y.wasReady || repeated):
		d.Action, d.atCap = wire.ActionBackOff, true
	case y.wasReady && !d.lasting && !repeated:
		d.Action = wire.ActionBackOff
	default:
		d.Action = wire.ActionStop
	}
}

// closeCodeErrors are the sentinels of close codes that have one.
var closeCodeErrors = map[uint16]error{4006: ErrSuperseded, 4007: ErrSessionConflict, 4402: ErrRolledBack}

// failureError returns the error that reports a failure: what was tried, what
// it means and what the peer said. It has no URL, which may hold a secret.
func failureError(f *wire.Failure, d decision) *Error {
	e := &Error{Op: f.Stage.String(), Field: optionOf(d.err), Class: d.class, Code: shownCode(f.Code, f.PeerCode), Detail: text.Quote(f.Reason), Err: d.err}
	if f.Stage == wire.StageUpgrade {
		e.Code, e.Detail = f.Status, text.Quote(strings.TrimSpace(string(f.Body)))
	}
	if sentinel := closeCodeErrors[f.Code]; sentinel != nil && e.Err == nil {
		e.Err = sentinel
	}
	if e.Err == nil {
		e.Err = withoutURL(f)
	}
	if d.failed != nil {
		e.Err = fmt.Errorf("%w (and %w)", e.Err, d.failed)
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
