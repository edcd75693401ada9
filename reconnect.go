package limpet

import (
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
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

// outageWatch is a time without all that the client had.
type outageWatch struct {
	since    time.Time // zero: there is none
	countAt  time.Time // when it counts as one, if it was planned; zero: it does
	attempts uint64    // of the client when it began
	waiting  int       // subscriptions that were live and are not yet again
	unproved int       // subscriptions that are live again, and may still show a loss
	gaps     uint64    // gaps and resets so far
	missed   uint64    // messages in them, as far as known
}

// beginOutage follows when a connection that was ready is lost.
func (l *loop) beginOutage() {
	if l.outage.since.IsZero() {
		c := &l.c.counters
		l.outage = outageWatch{since: l.now, attempts: c.attempts.Load()}
		if l.rotation.old != nil {
			l.outage.since = l.rotation.endOverlap
			l.outage.countAt = l.outage.since
		} else if l.rotation.planned {
			l.outage.countAt = l.now.Add(plannedTime)
		} else {
			c.outages.Begin(l.now)
		}
	}
	for s := range l.registry.all() {
		if !s.inOutage && s.state.Load().Phase == SubLive {
			s.inOutage = true
			l.outage.waiting++
		}
	}
}

// checkOutage ends the outage when everything is live again, or the client has ended.
func (l *loop) checkOutage() {
	l.countOutage(false)
	o := l.outage
	live := l.link != nil && l.link.ready && o.waiting == 0
	if o.since.IsZero() || !live && !l.ended {
		return
	}
	c := &l.c.counters
	l.outage = outageWatch{}
	if !o.countAt.IsZero() {
		return
	}
	took := c.outages.End()
	if !live {
		return
	}
	if h := c.measured; h != nil {
		h.recovery.Add(took, 1)
	}
	l.c.notify.post(OutageEnded{took, int(c.attempts.Load() - o.attempts), o.gaps, o.missed, o.unproved})
}
