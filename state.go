package limpet

import (
	"encoding/json"
	"iter"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/histogram"
)

// Phase is what a client is doing.
type Phase uint8

// The phases of a client.
const (
	Connecting  Phase = iota // name resolution, TCP, TLS, upgrade
	Handshaking              // upgraded; the handshake of the dialect
	Ready                    // messages flow
	Waiting                  // for the next attempt: see State.NextAttempt
	Ended                    // the last phase: see Client.Err. Client.Done may follow later
)

// String returns the phase as one lower-case word.
func (p Phase) String() string {
	switch p {
	case Connecting:
		return "connecting"
	case Handshaking:
		return "handshaking"
	case Ready:
		return "ready"
	case Waiting:
		return "waiting"
	case Ended:
		return "ended"
	}
	return "phase ?"
}

// State is the state of a client at one moment.
type State struct {
	Phase Phase

	// Draining is true once Shutdown was called.
	Draining bool

	// Host is the host and port of the endpoint that is or was in use: see Options.Endpoints.
	Host string

	// Generation is the number of the current connection, or of the last one, from 1 on. Attempts
	// without a connection do not count.
	Generation uint64

	// Since is when the phase began.
	Since time.Time

	// Cause is why the last connection or attempt failed, or why the client ended. It is nil
	// before the first failure.
	Cause error

	// Attempt is the number of losses and failed attempts since the last stable connection,
	// when the phase began. With several endpoints a round of attempts counts as one.
	Attempt int

	// NextAttempt is when the next attempt starts. It is valid in the phase Waiting. The turn
	// that Options.Governor gives is included as far as it is known: while other clients wait
	// for the same host, it may move.
	NextAttempt time.Time

	// Resumed is true if the server still knew the session. It is valid in the phase Ready.
	Resumed bool

	// Transport carries the current connection, or the last one; "" before the first.
	Transport Transport

	// NoCredential is the *Error for an error made with Permanent that Auth or Ticket has
	// returned although a connection was in use. The client uses that for as long as it lasts,
	// and ends at the attempt that follows. Nil as long as there is none.
	NoCredential error
}

// Stats is what a client counts and measures: since New, except where a field says now.
type Stats struct {
	// Attempts is the number of attempts to connect, FailedAttempts how many of them
	// failed, by the class of the error: before the connection was ready.
	Attempts       uint64
	FailedAttempts ClassCounts
	// Connections is the number of connections that became ready, Resumes how many
	// of them resumed the session, Lost how many were lost, by the class of the error. One
	// that the client has replaced (ErrConnectionAge, ErrGoAway) is not lost.
	Connections uint64
	Resumes     uint64
	Lost        ClassCounts
	// ConnectedSince is since when the connection has been ready; zero if none is now.
	// Transport carries it; "" if none is now.
	ConnectedSince time.Time
	Transport      Transport
	// Outages is the number of outages. An outage begins with the loss of a connection and
	// ends when all subscriptions that were live are live again or have ended. OutageTime is
	// how long they lasted together, Outage how long the one that lasts now has lasted; 0
	// without one. The time before the first connection and after the end is no outage.
	Outages    uint64
	OutageTime time.Duration
	Outage     time.Duration
	// PingRTT is how long the last ping took; 0 before the first. It is at most the interval
	// between two pings: a pong that takes longer counts from the last ping before it.
	PingRTT time.Duration
	// Heartbeat is the interval of the current connection, or of the last one: see Options.
	Heartbeat time.Duration
	// SendPace is how many WebSocket messages a second the server takes, as far as the client
	// knows from Options.Limits or the dialect, or has learned: see SendPaceChanged. The client
	// uses four fifths. 0 means that no limit is known.
	SendPace float64
	// Silence is for how long no message has been received, of any subscription; before
	// the first one since New.
	Silence time.Duration

	// Messages is the sum over all subscriptions, those that have ended included.
	// Received = Delivered + Dropped + Conflated + Waiting. Unacked is the sum over Subscriptions.
	Messages SubStats
	// Subscriptions is the number of subscriptions now, those included that have ended and
	// whose consumers still take messages; Live is how many of them are live, and SubPhases
	// how many are in each phase.
	// FailedSubscriptions is the number of those that ended with an error while the client
	// went on: see Subscription.Err.
	Subscriptions       int
	Live                int
	SubPhases           SubCounts
	FailedSubscriptions uint64

	// Published is the number of messages that Publish and PublishBatch admitted, of those
	// that Options.Outbox held, and of those that SendStream began and ended.
	Published uint64
	// Resent is the number of times that a message was sent again.
	Resent uint64
	// Acked to Stored are the numbers of messages with each outcome. Their sum is
	// Published once every message has its outcome.
	Acked    uint64
	Written  uint64
	Rejected uint64
	Expired  uint64
	Unsent   uint64
	Unknown  uint64
	Stored   uint64
	// Window is the number of messages in the window now, WindowBytes their payloads.
	// OldestPending is how long the oldest of those without an outcome has waited for it.
	Window        int
	WindowBytes   int
	OldestPending time.Duration
	// Memory is how many bytes of Options.Memory are in use, MemoryLimit how many there are.
	Memory      int
	MemoryLimit int

	// BytesWritten and BytesRead are the payload bytes of WebSocket messages.
	BytesWritten uint64
	BytesRead    uint64
	// Frames is the number of WebSocket data messages received.
	Frames uint64
	// Malformed is the number of received messages that the dialect could not read or
	// place. They were skipped: see MessageSkipped and CauseMalformed.
	Malformed uint64
	// Unrequested is the number of received messages for topics that this client has
	// never subscribed to. What still comes for a closed subscription does not count.
	Unrequested uint64
	// PlainFrames reports whether the current connection, or the last one, uses
	// the library's frames: see Options.PlainFrames.
	PlainFrames bool
}

// Histograms are the durations that a client with Options.Histograms has measured.
type Histograms struct {
	// Measured reports whether the client has Options.Histograms. Without it all else is 0.
	Measured bool
	// Delivery is from Message.ReceivedAt to when a consumer got the message. Of the messages
	// of one socket read, the clock is read for the 1st, 2nd, 4th, 16th and 64th, and then for one
	// in 64. The others count like the next of these, the last ones like the one
	// before.
	Delivery Histogram
	// Source is from Message.Time to when a consumer got the message, measured as often as
	// Delivery. A message without a time does not count, nor does a Snapshot or a message
	// that is Redelivered: an old time in these is not a delay. The two times are of two
	// clocks: if that of the server is ahead, Source is too small, and what would be
	// negative counts as 0.
	Source Histogram
	// Publish is from the admission of a message to its outcome.
	Publish Histogram
	// Ping is from a ping to its pong.
	Ping Histogram
	// Connection is how long connections were ready, those that have ended.
	Connection Histogram
	// Outage is how long outages lasted, those that are over: see Stats.Outages.
	Outage Histogram
}

// Histogram counts durations in buckets.
type Histogram struct {
	// Count is the number of durations, and Sum their sum, at most 292 years: long lags of
	// many messages reach that. SumSeconds is the sum in seconds and has no such bound.
	Count      uint64
	Sum        time.Duration
	SumSeconds float64
	// Buckets[i] counts the durations of at most HistogramBounds()[i] that are above the
	// bound before it; the last one those above all bounds.
	Buckets [histogram.Buckets]uint64
}

// HistogramBounds returns the upper bounds of the buckets of every Histogram, in
// ascending order, from 10 microseconds to an hour. There is one bucket more.
func HistogramBounds() []time.Duration { return slices.Clone(histogram.Bounds[:]) }

func loadHistogram(h *histogram.Histogram) (s Histogram) {
	s.Buckets, s.Count, s.SumSeconds = h.Load()
	s.Sum = math.MaxInt64
	if ns := math.Round(s.SumSeconds * float64(time.Second)); ns < math.MaxInt64 {
		s.Sum = time.Duration(ns)
	}
	return s
}

// histograms are what Histograms shows.
type histograms struct {
	delivery, source, outcome, ping, connection, recovery histogram.Histogram
}

// counters are written by whoever does what they count, and read by Stats. A moment is in nanoseconds since origin.
type counters struct {
	origin   time.Time
	measured *histograms // nil without Options.Histograms

	attempts, fresh, resumes        atomic.Uint64                   // of the connections that became ready, resumes resumed the session
	failures                        atomic.Pointer[failureCounters] // nil before the first: idle clients are many
	published, resent               atomic.Uint64
	outcomes                        [len(outcomeNames)]atomic.Uint64
	bytesWritten, bytesRead, frames atomic.Uint64
	malformed, unrequested, failed  atomic.Uint64 // failed subscriptions
	plainFrames                     atomic.Bool

	outages histogram.Outages

	pingRTT        atomic.Int64
	heartbeat      atomic.Int64  // of the connection that became ready last, in nanoseconds
	pace           atomic.Uint64 // the bits of Stats.SendPace
	lastMessage    atomic.Int64  // the moment when one was received last
	oldestAdmitted atomic.Int64  // the moment of the admission of the oldest message without an outcome; 0: none
}

// moment is t as counters hold it.
func (c *counters) moment(t time.Time) int64 { return int64(t.Sub(c.origin)) }

// since returns how long ago moment is; 0 if it is 0.
func (c *counters) since(moment int64, now time.Time) time.Duration {
	if moment == 0 {
		return 0
	}
	return max(0, now.Sub(c.origin)-time.Duration(moment))
}

// pinged measures a ping sent at *sent that is answered now, and clears *sent.
func (c *counters) pinged(sent *time.Time, now time.Time) {
	if sent.IsZero() {
		return
	}
	took := now.Sub(*sent)
	*sent = time.Time{}
	c.pingRTT.Store(max(1, int64(took)))
	if c.measured != nil {
		c.measured.ping.Add(took, 1)
	}
}

// countReady counts a connection that became ready.
func (c *counters) countReady(resumed bool) {
	if resumed {
		c.resumes.Add(1)
	} else {
		c.fresh.Add(1)
	}
}

func (c *counters) stats(now time.Time) Stats {
	outages, outage, outageTime := c.outages.Load()
	resumes, failures := c.resumes.Load(), c.failures.Load()
	return Stats{
		Attempts: c.attempts.Load(), FailedAttempts: failures.load(false),
		Connections: c.fresh.Load() + resumes, Resumes: resumes, Lost: failures.load(true),
		Outages: outages, OutageTime: outageTime, Outage: outage,
		PingRTT: time.Duration(c.pingRTT.Load()), Heartbeat: time.Duration(c.heartbeat.Load()), SendPace: math.Float64frombits(c.pace.Load()), Silence: max(0, now.Sub(c.origin)-time.Duration(c.lastMessage.Load())),
		Published: c.published.Load(), Resent: c.resent.Load(),
		Acked: c.outcomes[Acked].Load(), Written: c.outcomes[Written].Load(),
		Rejected: c.outcomes[Rejected].Load(), Expired: c.outcomes[Expired].Load(),
		Unsent: c.outcomes[Unsent].Load(), Unknown: c.outcomes[Unknown].Load(), Stored: c.outcomes[Stored].Load(),
		OldestPending: c.since(c.oldestAdmitted.Load(), now),
		BytesWritten:  c.bytesWritten.Load(), BytesRead: c.bytesRead.Load(), Frames: c.frames.Load(),
		Malformed: c.malformed.Load(), Unrequested: c.unrequested.Load(), FailedSubscriptions: c.failed.Load(),
		PlainFrames: c.plainFrames.Load(),
	}
}

// SubPhase is what a subscription is doing.
type SubPhase uint8

// The phases of a subscription.
const (
	SubPending    SubPhase = iota // the server has never confirmed it
	SubLive                       // messages flow
	SubRecovering                 // it was live, and is not confirmed again on the current connection
	SubEnded                      // closed, refused by the server, or ended with the client: see Err
)

const subPhases = int(SubEnded) + 1

// String returns the phase as one lower-case word.
func (p SubPhase) String() string {
	switch p {
	case SubPending:
		return "pending"
	case SubLive:
		return "live"
	case SubRecovering:
		return "recovering"
	case SubEnded:
		return "ended"
	}
	return "phase ?"
}

// SubCounts are numbers of subscriptions by phase.
type SubCounts [subPhases]int

// Of returns the number of subscriptions in one phase; 0 for a phase that does not exist.
func (c SubCounts) Of(p SubPhase) int {
	if int(p) < len(c) {
		return c[p]
	}
	return 0
}

// All iterates over every phase, also those with the number 0, in the order of the constants.
func (c SubCounts) All() iter.Seq2[SubPhase, int] {
	return func(yield func(SubPhase, int) bool) {
		for p, n := range c {
			if !yield(SubPhase(p), n) {
				return
			}
		}
	}
}

// MarshalJSON returns an object with every phase.
func (c SubCounts) MarshalJSON() ([]byte, error) {
	counts := map[string]int{}
	for p, n := range c.All() {
		counts[p.String()] = n
	}
	return json.Marshal(counts)
}

// waits reports whether the subscription has not ended and is not live.
func (p SubPhase) waits() bool { return p == SubPending || p == SubRecovering }

// SubState is the state of a subscription at one moment.
type SubState struct {
	Phase SubPhase

	// Generation is the number, as in State.Generation, of the connection on
	// which the subscription was last confirmed. In the phase SubRecovering that
	// connection was lost. It is 0 before that, in the phase SubEnded, and when the server
	// has refused or ended the subscription or has not answered.
	Generation uint64

	// Since is when the phase began. What changes within a phase does not change it.
	Since time.Time

	// Err is why the subscription is not live; nil in the phase SubLive. In the phase
	// SubEnded it is why it ended; nil for a clean end. In the phase SubPending it is why the
	// server refused it for now, or that it did not answer; nil until then: why there is no
	// connection is in State.Cause. In the phase SubRecovering it is never nil: why the
	// connection was lost or replaced (ErrConnectionAge, ErrGoAway) or, if that came later,
	// why the server refused or ended the subscription, or that it did not answer. A failed
	// attempt to connect does not change it.
	Err error
}

// SubStats counts the messages of a subscription. At every moment Received = Delivered + Dropped + Conflated + Waiting.
type SubStats struct {
	Received   uint64 // from the server, without duplicates
	Delivered  uint64 // handed to a consumer
	Dropped    uint64 // by the overflow policy, or by closing the subscription or the client
	Conflated  uint64 // replaced by a newer message of their key, see Latest
	Waiting    uint64 // in the queue, or taken from it for C
	Duplicates uint64 // received again and discarded
	Earlier    uint64 // of an earlier subscription to the topic, discarded
	Gaps       uint64 // reported by the server or detected by the client; those of Dropped do not count
	Resets     uint64 // reported by the server or detected by the client

	// Missed is the number of messages that are missing in the gaps and resets, as far as it
	// is known. What the overflow policy dropped is in Dropped.
	Missed uint64
	// DroppedByClose is how many of Dropped waited when the subscription or the client was
	// closed.
	DroppedByClose uint64
	// WaitingBytes is the sum of the payloads of the messages that wait in the queue.
	WaitingBytes uint64

	// Unacked is how many of Delivered are not acknowledged. With ManualAck the
	// stream stops while Delivery.Buffer messages are taken from the oldest one that is
	// not acknowledged on; see DeliveryStopped.
	Unacked uint64

	// LastReceived is when the last message that counts as Received came, zero before it.
	LastReceived time.Time
	// OldestWaiting is how long ago the oldest message that waits was received.
	OldestWaiting time.Duration
}

// add adds o to s.
func (s *SubStats) add(o *SubStats) {
	s.Received += o.Received
	s.Delivered += o.Delivered
	s.Dropped += o.Dropped
	s.DroppedByClose += o.DroppedByClose
	s.Conflated += o.Conflated
	s.Waiting += o.Waiting
	s.Duplicates += o.Duplicates
	s.Earlier += o.Earlier
	s.Gaps += o.Gaps
	s.Resets += o.Resets
	s.Missed = addCapped(s.Missed, o.Missed)
	s.WaitingBytes += o.WaitingBytes
	s.Unacked += o.Unacked
	s.LastReceived = later(s.LastReceived, o.LastReceived)
	s.OldestWaiting = max(s.OldestWaiting, o.OldestWaiting)
}

// addCapped adds what peers say: a sum of it stays at the highest number. A counter must not fall.
func addCapped(a, b uint64) uint64 { return a + min(b, math.MaxUint64-a) }

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

// oldestPending returns when the oldest message without an outcome was admitted, as counters hold it; 0 without one.
func (w *window) oldestPending() int64 {
	if w.pending == 0 || w.firstPending >= w.admitted.Len() {
		return 0
	}
	return *w.admitted.At(w.firstPending)
}

// measure measures how long the messages that were resolved, [from, to), waited for their outcome.
func (w *window) measure(resolved []*Receipt) {
	h := w.counters.measured
	if h == nil {
		return
	}
	now := w.counters.moment(time.Now())
	for i, r := range resolved {
		if r.unpublished() {
			h.outcome.Add(time.Duration(now-*w.admitted.At(w.resolved[0] + i)), 1)
		}
	}
}
