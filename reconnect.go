package limpet

import (
	"log/slog"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/limpet-go/limpet/internal/endpoint"
	"github.com/limpet-go/limpet/internal/governor"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/wire"
)

// The fixed numbers of docs/reconnect.md.
const (
	minBetweenAttempts = 100 * time.Millisecond // between the starts of two attempts
	maxSpread          = 5 * time.Minute        // of the server's reconnect window
	maxDialTimeout     = time.Minute
	longOutageFailures = 20               // in a row; from then on the cap is four times as high
	handshakeTimeout   = 10 * time.Second // of the first handshake
	maxHeartbeat       = time.Hour        // that a server may announce
	refusalMemory      = time.Minute      // a second refused credential within it is permanent
	silentIntervals    = 2.5              // heartbeat intervals without a received byte: the peer is dead
	maxSilence         = 50 * time.Second // that this grows to: 2.5 intervals of the default
)

// policy decides when to try again (docs/reconnect.md, section 1). It belongs
// to the loop.
type policy struct {
	options          Backoff
	firstDialTimeout time.Duration
	dialTimeout      time.Duration               // of the next attempt
	handshakeTimeout time.Duration               // of the next connection, from the upgrade to Ready
	failures         int                         // losses and failed attempts in a row
	exponential      *backoff.ExponentialBackOff // nil before the first failure
}

func newPolicy(o Backoff, dialTimeout time.Duration) policy {
	p := policy{options: o, firstDialTimeout: dialTimeout, handshakeTimeout: handshakeTimeout}
	p.forgetFailures()
	return p
}

// forgetFailures resets the policy, once a connection is stable.
func (p *policy) forgetFailures() {
	p.failures = 0
	p.dialTimeout = p.firstDialTimeout
	p.exponential = nil
}

// newExponential draws U(v/2, v), where v grows from initial to limit. The
// library caps the interval before it randomises, so its interval is 3/4 v. It
// must never give up on its own (MaxElapsedTime 0).
func newExponential(initial, limit time.Duration, multiplier float64) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(initial*3/4),
		backoff.WithMaxInterval(limit*3/4),
		backoff.WithMultiplier(multiplier),
		backoff.WithRandomizationFactor(1.0/3),
		backoff.WithMaxElapsedTime(0),
	)
}

// delayBound returns v for the current number of failures, before any reconnect
// window.
func (p *policy) delayBound() time.Duration {
	if p.failures >= longOutageFailures {
		return 4 * p.options.Max
	}
	v := float64(p.options.Initial)
	for i := 1; i < p.failures && v < float64(p.options.Max); i++ {
		v *= p.options.Multiplier
	}
	return min(p.options.Max, time.Duration(v))
}

// countFailure counts one more failure, or as many as it takes to reach floor.
// The library's interval grows with the count, whether its draw is used or not.
func (p *policy) countFailure(floor int) (draw time.Duration) {
	for more := max(1, floor-p.failures); more > 0; more-- {
		switch p.failures++; {
		case p.failures == longOutageFailures:
			p.exponential = newExponential(4*p.options.Max, 4*p.options.Max, p.options.Multiplier)
		case p.exponential == nil:
			p.exponential = newExponential(p.options.Initial, p.options.Max, p.options.Multiplier)
		}
		draw = p.exponential.NextBackOff()
	}
	return draw
}

// nextDelay counts one more failure and draws the wait before the next attempt.
// A slot given by the server replaces the draw; the wait is never shorter than
// the slot.
func (p *policy) nextDelay(d decision, spread time.Duration) time.Duration {
	draw := p.countFailure(d.minFailures)
	v := p.delayBound()
	if d.atCap {
		v = max(v, p.options.Max)
	}
	spread = min(spread, maxSpread)
	switch {
	case d.After > 0:
		return d.After + uniform(max(d.After/10, d.slotWindow))
	case p.failures == 1 && !d.atCap && p.options.First < 0 && spread == 0:
		return 0
	case p.failures == 1 && !d.atCap:
		return uniform(max(p.options.First, spread))
	case v < spread:
		return spread/2 + uniform(spread/2)
	case d.atCap:
		return v/2 + uniform(v/2)
	}
	return draw
}

// extendDialTimeout gives the next attempt more time. Otherwise a server whose
// accept queue is longer than the timeout would never serve any client.
func (p *policy) extendDialTimeout() {
	p.dialTimeout = max(p.firstDialTimeout, min(maxDialTimeout, p.dialTimeout*16/10))
}

// extendHandshakeTimeout does the same for a server that is slow to complete the
// handshake.
func (p *policy) extendHandshakeTimeout() {
	p.handshakeTimeout = min(maxDialTimeout, p.handshakeTimeout*16/10)
}

// uniform draws from [0, d].
func uniform(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(rand.Uint64N(uint64(d) + 1))
}

// OutageEnded reports that everything that was live when a connection was lost is live
// again: the connection and each subscription that has not ended. See Stats.Outages.
type OutageEnded struct {
	// Duration is how long it took.
	Duration time.Duration
	// Attempts is the number of attempts to connect.
	Attempts int
	// Gaps is the number of gaps and resets that were reported by then, Missed the number of
	// messages missing in them, as far as it is known.
	Gaps   uint64
	Missed uint64
	// Unproved is the number of subscriptions for which the server has not proved that
	// nothing else is missing: a loss may show with their next message.
	Unproved int
}

func (e OutageEnded) record() (slog.Level, string, []slog.Attr) {
	attrs := []slog.Attr{
		slog.Duration("after", e.Duration.Round(time.Millisecond)), slog.Int("attempts", e.Attempts),
		slog.Uint64("gaps", e.Gaps), slog.Uint64("missed", e.Missed)}
	if e.Unproved > 0 {
		attrs = append(attrs, slog.Int("unproved", e.Unproved))
	}
	return slog.LevelInfo, "limpet: live again", attrs
}

// quietTime is how long nothing was received at a moment that is quiet enough to leave a
// connection.
const quietTime = time.Second

// planRenewal chooses when to leave a connection that begins now for its age. Clients that
// began together do not leave together.
func (l *loop) planRenewal(k *link) {
	age := l.c.cfg.traits.Connection.Age
	if age == 0 {
		return
	}
	last := min(age/10, time.Hour)
	k.renewAt = l.now.Add(age - last + uniform(last/2))
	k.renewBy = l.now.Add(age - last/4)
}

// leavePatience is how long a quiet moment is waited for when the server asks for a new
// connection.
const leavePatience = 3 * time.Second

// planLeaving follows when the server asks for a new connection. If it names a time, it ends
// this one by itself.
func (l *loop) planLeaving(k *link, ev *wire.Event) {
	if ev.Delay <= 0 && ev.Spread <= 0 {
		k.renewAt, k.renewBy, k.goAway = l.now, l.now.Add(leavePatience), true
	}
}

// renewInTime makes a new connection before the server ends this one for its age, or because
// it asks for that: at once and without a failure, at a quiet moment if there is one.
func (l *loop) renewInTime(k *link) {
	switch {
	case !k.ready || !due(k.renewAt, l.now):
		return
	case l.shuttingDown || l.goAwayUntil.After(l.now):
		k.renewAt = time.Time{} // it ends anyway
		return
	case !due(k.renewBy, l.now) && !l.isQuiet(k):
		k.renewAt = l.now.Add(min(quietTime, k.renewBy.Sub(l.now)))
		return
	}
	why := ErrConnectionAge
	if k.goAway {
		why = ErrGoAway
	}
	l.state.Cause = &Error{Op: "open", Class: ClassOther, Err: why}
	code := l.c.cfg.traits.CloseCode
	if code == 0 {
		code = 1000
	}
	l.disconnect(k, code, "")
	l.disconnectedAt = l.now
	if k.goAway {
		l.endpoints.list.Avoid(k.endpoint, l.now)
		l.tryAgain(decision{Verdict: wire.Verdict{Action: wire.ActionRetryNow}}) // it may ask on each connection
		return
	}
	l.scheduleAttempt(0)
}

// isQuiet reports whether nothing is in progress on k.
func (l *loop) isQuiet(k *link) bool {
	waits := len(k.ops) + len(k.toAsk) + k.unanswered.Len() + l.window.pending
	return waits == 0 && !k.writing && k.stream == nil && k.unwritten.frames == nil && !k.conn.Receiving() && l.now.Sub(k.conn.LastRead()) >= quietTime
}

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

const maxKept = 1024 // more closed subscriptions are left to the end of the session

// keepClosed remembers a closed subscription that the server keeps in the session: its
// end is owed until the server confirms it or, if it confirms none, until it is written.
func (l *loop) keepClosed(s *Subscription) {
	here := s.keptIn != 0 && s.keptIn == l.sessions
	if l.c.cfg.traits.KeepsSubs && here && len(l.kept) < maxKept {
		l.kept = append(l.kept, s)
	}
}

// forgetKept follows when the server has confirmed the end of a subscription.
func (l *loop) forgetKept(ev *wire.Event) {
	if ev.Kind == wire.EventUnsubscribed && ev.Key != 0 {
		l.kept = slices.DeleteFunc(l.kept, func(s *Subscription) bool { return s.key == ev.Key })
	}
}

// forgetWritten follows when the ends of subscriptions were written.
func (l *loop) forgetWritten(k *link) {
	if !l.c.cfg.traits.ConfirmsEnd {
		l.kept = slices.DeleteFunc(l.kept, func(s *Subscription) bool { return slices.Contains(k.endsInWrite, s.key) })
	}
	k.endsInWrite = nil
}

// resumeKept ends at the server the subscriptions that it has kept in a resumed session
// and that were closed in the meantime, and goes on with the others. Where they are a part
// of Start, the dialect does so.
func (l *loop) resumeKept(k *link, resumed bool) {
	closed := l.kept
	l.kept = nil
	if !resumed || !k.traits.KeepsSubs {
		return
	}
	for _, s := range closed {
		if s.askedGeneration != k.conn.gen { // otherwise it was closed before the welcome
			if s.keptIn != l.sessions || !k.traits.Unsubscribe || k.usedTopic(s.topic) != nil {
				continue // the topic has another subscription by now
			}
			s.askedGeneration = k.conn.gen
			k.unsubscribe(s)
		}
		l.kept = append(l.kept, s)
	}
	if k.traits.StartSubs > 0 {
		return
	}
	for s := range l.registry.all() {
		if s.keptIn != l.sessions || s.failedAsks > 0 {
			continue
		}
		s.askedGeneration = k.conn.gen // its queue knows it from the reader
		l.enterLive(k, s, true)
	}
}

// Governor gives the attempts of several clients their turns, so that many clients in one
// process are no herd. It counts for each host and port apart. A host that refuses an attempt
// with status 429 or 503, or ends a connection with close code 1008, gets 20 attempts a second
// from then on, and half as many after each second with further refusals, but at least one.
// The rate doubles every 30 seconds without a refusal, until there is no limit again. A server
// that gives each client its own time (X-Limpet-Retry-Ms) is not limited. An attempt that
// succeeds doubles the rate as well, at most once a second.
//
// A Governor may be used by any number of clients. See docs/reconnect.md, section 6.
type Governor struct{ turns *governor.Governor }

// NewGovernor returns a Governor that also bounds the attempts to a host that is not
// overloaded: to perSecond attempts a second, from 1e-6 to 1e6, and burst at once, from 1 to
// 1e6. The errors are of type *Error, class input.
func NewGovernor(perSecond float64, burst int) (*Governor, error) {
	const op = "NewGovernor"
	if !(perSecond >= 1e-6 && perSecond <= 1e6) {
		return nil, inputError(op, "perSecond", "is %v; use 1e-6 to 1e6 attempts a second", perSecond)
	}
	if burst < 1 || burst > 1e6 {
		return nil, inputError(op, "burst", "is %d; use 1 to 1e6", burst)
	}
	return &Governor{governor.New(perSecond, burst)}, nil
}

const askGovernor = 5 * time.Second // at most between two questions whether a turn is due

// endpointChoice is to what a client connects, and when it is its turn.
type endpointChoice struct {
	list     *endpoint.List
	chosen   *endpoint.Endpoint // for the attempt in progress, or the last one, or the next if hasTurn
	governor *governor.Governor
	release  func() // of the governor, once the client has ended
	turn     governor.Turn
	hasTurn  bool      // turn is for the next attempt
	turnAt   time.Time // when to ask whether it is due
}

func newEndpointChoice(c *config) endpointChoice {
	e := endpointChoice{list: endpoint.NewList(c.urls)}
	e.chosen = e.list.First()
	e.governor, e.release = governorOf(&c.Options)
	return e
}

// worked follows when a connection is ready.
func (e *endpointChoice) worked(at *endpoint.Endpoint, now time.Time) {
	e.list.Worked(at)
	e.list.BeginRound()
	e.governor.Accepted(at.URL.Host, now)
}

// governorOf returns the governor of a client, and what to call when the client has ended.
func governorOf(o *Options) (*governor.Governor, func()) {
	if o.Governor != nil {
		return o.Governor.turns, func() {}
	}
	var transport http.RoundTripper
	if o.HTTPClient != nil {
		transport = o.HTTPClient.Transport
	}
	if transport == nil {
		return governor.Share(nil)
	}
	if reflect.TypeOf(transport).Kind() != reflect.Pointer { // it may not be comparable
		return governor.New(0, 1), func() {}
	}
	return governor.Share(transport)
}

// takeTurn chooses the endpoint of the next attempt. It reports false if the Governor gives
// the attempt a later turn: then it is scheduled for that time.
func (l *loop) takeTurn() bool {
	e := &l.endpoints
	if !e.hasTurn {
		e.chosen = e.list.Next(l.now)
		e.turn = e.governor.Reserve(e.chosen.URL.Host, l.now)
	}
	wait := e.governor.Wait(e.chosen.URL.Host, e.turn, l.now)
	if e.hasTurn = wait > 0; !e.hasTurn {
		e.turnAt = time.Time{}
		return true
	}
	e.turnAt = l.now.Add(min(wait, askGovernor)) // the turn may come earlier or later by then
	l.attemptAt = e.turnAt
	l.state.NextAttempt = l.now.Add(wait)
	if l.state.Phase == Waiting {
		l.c.state.Set(l.state)
	} else {
		l.enter(Waiting)
	}
	return false
}

// followEndpoint follows at the endpoint why an attempt failed (k is nil) or a connection
// ended. It reports whether another endpoint is to be tried at once.
func (l *loop) followEndpoint(k *link, f *wire.Failure, d *decision) (another bool) {
	e, list := l.endpoints.chosen, l.endpoints.list
	if k != nil {
		e = k.endpoint
	}
	overloaded := f.Status == http.StatusTooManyRequests || f.Status == http.StatusServiceUnavailable || f.Code == 1008
	if overloaded && f.Header.Get(headers.RetryMilliseconds) == "" {
		l.endpoints.governor.Overloaded(e.URL.Host, l.now)
	}
	wasReady := k != nil && k.ready
	switch {
	case list.Len() == 1:
		return false
	case d.Action == wire.ActionStop:
		if !d.byTable || list.Refused(e, l.now) {
			return false
		}
		d.Action = wire.ActionBackOff
	case d.class == ClassLocal, d.class == ClassUser, d.Action == wire.ActionRefresh:
		return false // the endpoint is not why
	case wasReady && d.Action == wire.ActionSpread:
		list.Avoid(e, l.now) // it goes away
	case wasReady && k.stable:
	default:
		list.Failed(e, l.now)
	}
	if d.After > 0 { // a slot of this endpoint alone
		list.Hold(e, l.now.Add(d.After+uniform(max(d.After/10, d.slotWindow))))
		d.After = 0
	}
	return !wasReady && list.HasNext(l.now)
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
func (l *loop) suspect(open []*Subscription, f *wire.Failure, d *decision, fatal bool) {
	inWords := f.CloseCode != 0 || fatal
	dropped := !inWords && d.byTable && d.class == ClassNetwork
	if !inWords && !dropped || d.class == ClassOverload || d.Action == wire.ActionSpread && f.CloseCode != 1000 {
		return
	}
	why := &Error{Op: "Subscribe", Field: "topic", Class: ClassRejected, Code: shownCode(f.Code, f.PeerCode), Err: ErrRejected,
		Detail: "the server closes the connection each time it is asked for this topic"}
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
		if p.alone >= finalRepeats && l.now.Sub(p.since) >= finalSpan {
			l.endSub(s, why)
			continue
		}
		if p.count++; p.count > free {
			l.askAgainAfter(s, askPause(min(p.count-free, maxSuspicion)))
			l.enterSub(s, SubState{Phase: SubPending, Err: why})
		}
	}
}
