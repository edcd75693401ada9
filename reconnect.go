package limpet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/limpet-go/limpet/internal/endpoint"
	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/governor"
	"github.com/limpet-go/limpet/internal/guard"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/pace"
	"github.com/limpet-go/limpet/internal/policy"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/internal/verdict"
	"github.com/limpet-go/limpet/wire"
)

// The fixed numbers of docs/reconnect.md.
const (
	minBetweenAttempts = 100 * time.Millisecond // between the starts of two attempts
	maxHeartbeat       = time.Hour              // that a server may announce
	refusalMemory      = time.Minute            // a second refused credential within it is permanent
	maxSuspicion       = 7                      // pauses of askPause for a suspect: then up to 128 s
)

func newPolicy(c *config) policy.Policy {
	b := &c.Backoff
	return policy.New(policy.Backoff{First: b.First, Initial: b.Initial, Max: b.Max, Multiplier: b.Multiplier}, c.DialTimeout)
}

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// newChoice returns the choice among the endpoints of a client.
func newChoice(c *config) endpoint.Choice {
	limits := &c.traits.Connection
	w := governor.Window{Dials: limits.Dials, Per: cmp.Or(limits.DialsPer, time.Minute)}
	if c.Governor != nil {
		return endpoint.NewChoice(c.urls, c.Governor.turns, w, func() {})
	}
	turns, release := governor.Of(c.HTTPClient)
	return endpoint.NewChoice(c.urls, turns, w, release)
}

// takeTurn chooses the endpoint of the next attempt. It reports false if the Governor gives
// the attempt a later turn: then it is scheduled for that time.
func (l *loop) takeTurn() bool {
	wait := l.endpoints.Wait(l.now)
	if wait == 0 {
		return true
	}
	l.attemptAt = l.endpoints.TurnAt
	l.state.NextAttempt = l.now.Add(wait)
	if l.state.Phase == Waiting {
		l.c.state.Set(l.state)
	} else {
		l.enter(Waiting)
	}
	return false
}

// holdFor makes the server's slot hold from now on. A slot that was given before holds too, for
// the connection in use or for the attempt to make the next one.
func (l *loop) holdFor(slot time.Duration) {
	l.earliestRetry = later(l.earliestRetry, l.now.Add(slot))
}

// earliestAttempt is the time before which no attempt is made, whoever asks.
func (l *loop) earliestAttempt() time.Time {
	return later(later(l.lastAttempt.Add(minBetweenAttempts), l.earliestRetry), later(l.endpoints.TurnAt, l.endpoints.Earliest(l.now)))
}

// followEndpoint follows at the endpoint why an attempt failed (k is nil) or a connection
// ended. It reports whether another endpoint is to be tried at once.
func (l *loop) followEndpoint(k *link, f *wire.Failure, d *verdict.Decision) (another bool) {
	e, list := l.endpoints.Chosen, l.endpoints.List
	if k != nil {
		e = k.endpoint
	}
	var user *fault.User
	elsewhere := errors.As(f.Err, &user) && user.IsCredential() // what gives the credentials has failed: it is one for all endpoints
	overloaded := f.Status == http.StatusTooManyRequests || f.Status == http.StatusServiceUnavailable || f.Code == 1008
	if overloaded && !elsewhere && f.Header.Get(headers.RetryMilliseconds) == "" {
		l.endpoints.Overloaded(e, l.now)
	}
	wasReady := k != nil && k.ready
	switch {
	case list.Len() == 1, elsewhere:
		return false
	case d.Action == wire.ActionStop:
		if !d.ByTable || list.Refused(e, l.now) {
			return false
		}
		d.Action = wire.ActionBackOff
	case d.Class == string(ClassLocal), d.Class == string(ClassUser), d.Action == wire.ActionRefresh:
		return false // the endpoint is not why
	case wasReady && d.Action == wire.ActionSpread:
		list.Avoid(e, l.now) // it goes away
	case wasReady && k.stable:
	default:
		list.Failed(e, l.now)
	}
	if d.After > 0 { // a slot of this endpoint alone
		list.Hold(e, l.now.Add(d.After+policy.Uniform(max(d.After/10, d.SlotWindow))))
		d.After = 0
	}
	return !wasReady && list.HasNext(l.now)
}

// slowed is when the pace was lowered last, and on which connection.
type slowed struct {
	at  time.Time
	gen uint64
}

const (
	enoughSent = 5               // messages: who has sent fewer in the last ten seconds has not sent too much
	onItsWay   = 2 * time.Second // for which a connection still has refusals of what was sent before
	pacePause  = time.Second     // before a subscription is asked for again that was refused for the pace
)

// noteSent counts n frames that are sent now. repliesOnly says that they are pings and pongs.
func (l *loop) noteSent(n int, repliesOnly bool) {
	l.sent.Add(l.now, n)
	l.pacing.Sent(l.now, n, repliesOnly)
}

// takePing counts a ping that is sent now and returns the zero time, or returns when there is
// room for it.
func (l *loop) takePing() (at time.Time) {
	if at = l.pacing.TakePing(l.now); at.IsZero() {
		l.sent.Add(l.now, 1)
	}
	return at
}

// refusedForPace reports whether the server has refused something because the client sends too
// much, and says so. Then the client sends less. topics are those that the reason may name.
func (l *loop) refusedForPace(k *link, code int64, reason string, topics iter.Seq[string]) bool {
	if code != http.StatusTooManyRequests && !verdict.SaysSentMuch(reason, topics) {
		return false
	}
	l.slowDown(k, true, reason)
	return true
}

// topicOf returns the topic of a message that is in the window.
func (l *loop) topicOf(seq uint64) iter.Seq[string] {
	return func(yield func(string) bool) {
		if _, r := l.window.lookup(seq); r != nil {
			yield(r.topic)
		}
	}
}

// closedForPace reports whether k has ended because the client sends too much: the server says
// so, or it may mean that. Then the client sends less.
func (l *loop) closedForPace(k *link, f *wire.Failure) bool {
	complaint := verdict.ComplaintIn(f.Reason)
	said := verdict.SaysSentMuch(f.Reason, l.registry.topics()) || f.PeerCode == http.StatusTooManyRequests ||
		f.Code == closeRateLimited && l.c.cfg.Dialect.Name() == nameOfLimpet
	switch {
	case f.Code == 0, !said && (f.Code != closePolicy || complaint != verdict.Unclear):
		return false
	}
	return l.slowDown(k, said, f.Reason)
}

const (
	closePolicy      = 1008 // RFC 6455, section 7.4.1
	closeRateLimited = 4201 // docs/protocol.md, section 7
	nameOfLimpet     = "limpet"
)

// slowDown halves the pace, unless the client has hardly sent anything. It reports whether what
// was sent is why k has ended.
func (l *loop) slowDown(k *link, said bool, reason string) bool {
	sent, busiest := l.sent.Recent(l.now)
	switch {
	case l.slowed.gen == k.conn.gen && l.now.Sub(l.slowed.at) < onItsWay:
		return true
	case sent < enoughSent:
		return false
	}
	limit, lowered := l.pacing.Lower(l.now, busiest, said)
	if l.pacing == nil {
		k.pingsCounted = k.conn.Pings()
	}
	l.pacing, l.sent, l.slowed = limit, pace.Meter{}, slowed{l.now, k.conn.gen}
	if lowered {
		l.paceChanged(SendPaceChanged{Lowered: true, Said: said, Reason: text.Quote(l.c.secrets.Hide(reason))})
	}
	return lowered
}

// paceChanged publishes that the client sends at another pace.
func (l *loop) paceChanged(e SendPaceChanged) {
	e.Host, e.PerSecond = l.state.Host, l.pacing.PerSecond()
	l.c.counters.pace.Store(math.Float64bits(e.PerSecond))
	l.c.notify.post(e)
}

// optionOf returns the option that err names; "" if there is none.
func optionOf(err error) string {
	if known := (*fault.Redirect)(nil); errors.As(err, &known) {
		return optionRedirects
	}
	return ""
}

// answeredBy names the host that answered, for an error, if that is not the one of the URL.
func answeredBy(f *wire.Failure) string {
	if from := (*fault.Redirected)(nil); errors.As(f.Err, &from) {
		return fmt.Sprintf("after a redirect to %q: ", from.Host)
	}
	return ""
}

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
	if is := l.sessionError(f); is != nil {
		e.Err = joinReason(is, e.Err)
	}
	e.Err = l.c.secrets.HideError(e.Err)
	return e
}

// sessionErrors are the sentinels of the close codes of limpet.v1 that are about a session.
var sessionErrors = map[uint16]error{4003: ErrNotOwner, 4006: ErrSuperseded, 4007: ErrSessionConflict, 4402: ErrRolledBack}

// sessionError returns the sentinel for f, or nil. Wire protocols without sessions have other meanings for these codes.
func (l *loop) sessionError(f *wire.Failure) error {
	code := f.Code
	if detected := (*wire.CodeError)(nil); errors.As(f.Err, &detected) {
		code = detected.Code
	}
	if !l.c.cfg.traits.Sessions || code == 4003 && (f.Stage != wire.StageHandshake || l.session.ID == "") {
		return nil
	}
	return sessionErrors[code]
}

// failureError returns the error that reports a failure: what was tried, what
// it means and what the peer said. It has no URL, which may hold a secret.
func failureError(f *wire.Failure, d verdict.Decision) *Error {
	e := &Error{Op: f.Stage.String(), Field: optionOf(d.Err), Class: ErrorClass(d.Class), Code: shownCode(f.Code, f.PeerCode), Detail: text.Quote(f.Reason), Err: d.Err}
	if f.Stage == wire.StageUpgrade {
		e.Code, e.Detail = f.Status, text.Quote(strings.TrimSpace(string(f.Body)))
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
		hint := "" // 426 says that no upgrade has arrived
		if f.Status == http.StatusUpgradeRequired {
			hint = "; if a proxy removes the upgrade, see docs/fallback.md"
		}
		return fmt.Errorf("%sserver answered %d %s%s", answeredBy(f), f.Status, http.StatusText(f.Status), hint)
	case errors.As(f.Err, &detected):
		return f.Err
	case f.Code != 0:
		return endedBy(f)
	case errors.As(f.Err, &withURL):
		return withURL.Err
	case f.Err == nil:
		return errors.New("connection ended")
	case f.Stage > wire.StageUpgrade && errors.Is(f.Err, io.EOF):
		return fmt.Errorf("peer closed the connection without a close frame: %w", f.Err)
	}
	return f.Err
}

const maxNumber = 1 << 62 // of a connection that a server may name

// decide returns what a failure means, before Options.Verdict.
func (l *loop) decide(k *link, f *wire.Failure) verdict.Decision {
	d := verdict.Decide(f, l.c.cfg.askDialect)
	if rest := l.goAwayUntil.Sub(l.now); rest > 0 {
		d.After, d.SlotWindow, d.NamesTime = max(d.After, rest), l.spread, true
	}
	if k != nil && k.outnumbered && d.Action == wire.ActionStop && !d.Fixed {
		d.Action = wire.ActionRetryNow
	}
	return d
}

// refused ends a subscription that the server refused. If the server said when to
// ask again, it schedules that instead, later with each refusal in a row.
func (l *loop) refused(s *Subscription, err *Error, retry time.Duration) {
	s.askedGeneration = 0
	if retry <= 0 {
		l.endSub(s, err)
		return
	}
	l.askLater(s, err, retry)
}

// askLater schedules another request for s after the time that the server has named, later with
// each refusal in a row.
func (l *loop) askLater(s *Subscription, err *Error, retry time.Duration) {
	s.refusals++
	pause := min(retry, headers.MaxRetryAfter)
	more := max(pause, l.c.cfg.Backoff.Initial) * time.Duration(min(s.refusals, 10))
	l.askAgainAfter(s, pause+more/2+policy.Uniform(more/2))
	l.enterWaiting(s, 0, err)
}

// refusalInDoubt follows when a refusal may concern an earlier subscription to the
// same topic. The server is asked again, unless it shows before that it serves s.
func (l *loop) refusalInDoubt(s *Subscription, err *Error, retry time.Duration) {
	s.askNumber = 0
	if s.wireState().Phase == SubLive {
		for q := range s.queues {
			q.expectAnswer(false) // by a message
		}
	}
	l.askFailed(s, err, retry)
}

// endedByServer asks again for a subscription that the server has ended and the
// client has not. A server that does so again and again does not want it.
func (l *loop) endedByServer(s *Subscription, ev *wire.Event) {
	err := &Error{Op: "Subscribe", Field: "topic", Class: ClassRejected, Detail: "the server ended the subscription", Err: ErrRejected}
	if ev.Reason != "" {
		err.Detail += ": " + text.Quote(ev.Reason)
	}
	if l.now.Sub(s.wireState().Since) >= time.Minute || s.hasReceivedOn(l.link.conn.gen) {
		s.endings = 0
	}
	if s.endings++; s.endings >= maxFailedAsks {
		l.endSub(s, err)
		return
	}
	s.askNumber = 0 // its request was answered
	l.askAgainAfter(s, max(askPause(s.endings), min(ev.Retry, headers.MaxRetryAfter)))
	l.enterWaiting(s, 0, err)
}

// suspicion is that the request for a subscription makes the server end the connection
// instead of answering: the connections in a row that ended so, and how many of them the
// server ended in words, with no other request open.
type suspicion struct {
	count, alone int
	since        time.Time // of the first of alone
}

// isAskedAlone reports whether the request for s has a write of its own.
func (s *Subscription) isAskedAlone() bool {
	return s.failedAsks > 0 || s.suspicion != nil && s.suspicion.count > 1
}

// openRequests returns the subscriptions whose requests have no answer.
func (l *loop) openRequests(k *link) (open []*Subscription) {
	for i := range k.unanswered.Len() {
		if a := k.unanswered.At(i); l.isOpen(a) {
			open = append(open, a.sub)
		}
	}
	for i := range k.asked {
		if a := &k.asked[i]; k.writing && l.isOpen(a) {
			open = append(open, a.sub)
		}
	}
	return open
}

// suspect follows when a connection has ended while requests were open. A request can be why,
// if the server ended it with a close code or a fatal error (in words) or dropped it. From
// the second time in a row on, the third if it was dropped, which a bad network does too, such a
// subscription is asked for later each time, at a random moment: so it does not cost the
// others their connection, and is alone with the server sooner or later. It ends if
// it was alone each time and the server said so, five times over ten minutes.
func (l *loop) suspect(open []*Subscription, f *wire.Failure, d *verdict.Decision, fatal bool) {
	inWords := f.CloseCode != 0 || fatal
	dropped := !inWords && d.ByTable && d.Class == string(ClassNetwork)
	if !inWords && !dropped || d.Class == string(ClassOverload) || d.Action == wire.ActionSpread && f.CloseCode != 1000 {
		return
	}
	why := &Error{Op: "Subscribe", Field: "topic", Class: ClassRejected, Code: shownCode(f.Code, f.PeerCode), Err: ErrRejected, Detail: "the server closes the connection each time it is asked for this topic"}
	free := 1
	if dropped {
		free = 2
		why.Class, why.Err, why.Detail = ClassNetwork, ErrUnanswered, "the connection is lost each time the server is asked for this topic"
	}
	for _, s := range open {
		if s.suspicion == nil {
			s.suspicion = &suspicion{}
		}
		p := s.suspicion
		if len(open) == 1 && inWords {
			if p.alone++; p.alone == 1 {
				p.since = l.now
			}
		}
		if p.alone >= verdict.FinalRepeats && l.now.Sub(p.since) >= verdict.FinalSpan {
			l.endSub(s, why)
			continue
		}
		if p.count++; p.count > free {
			l.askAgainAfter(s, askPause(min(p.count-free, maxSuspicion)))
			l.enterWaiting(s, 0, why)
		}
	}
}
