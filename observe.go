package limpet

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
)

// Observer receives the events of a client, for logs and metrics.
type Observer interface {
	// Observe is called for one event at a time, in order, on a goroutine of its
	// own. The client does not wait for it: at most 1,024 events wait for a slow
	// Observer, then the oldest are dropped and EventsLost reports how many. A
	// panic in Observe is recovered and ignored. State and Stats are always
	// complete.
	Observe(Event)
}

// Event is one of the event structs of this package: StateChanged,
// SubscriptionChanged, LossReported, ServerNotice, CredentialInURL, EventsLost.
// Later versions may add more, so a switch over them needs a default.
//
// With Options.Logger each event is logged as well:
//
//	Debug  StateChanged to connecting, handshaking, and waiting after the second or a later
//	       failure in a row; SubscriptionChanged to pending
//	Info   StateChanged to ready and to a clean end; SubscriptionChanged to live or ended
//	Warn   StateChanged to waiting after the first failure; SubscriptionChanged with an error;
//	       LossReported, ServerNotice, CredentialInURL, EventsLost
//	Error  StateChanged to ended by a permanent failure
type Event interface {
	record() (slog.Level, string, []slog.Attr)
}

// StateChanged reports that the phase of the client has changed.
type StateChanged struct {
	// Host is the host and port of the URL.
	Host string
	// State is the new state.
	State State
}

// SubscriptionChanged reports that the phase of a subscription has changed.
type SubscriptionChanged struct {
	// Topic is the topic of the subscription.
	Topic string
	// State is the new state.
	State SubState
}

// LossReported reports a gap or a reset that the server reported or the client
// detected. The consumer finds it in the stream as well. What the overflow policy
// drops is in SubStats instead.
type LossReported struct {
	// Topic is the topic of the subscription.
	Topic string
	// Kind is Gap or Reset.
	Kind Kind
	// Cause is why messages are missing.
	Cause Cause
}

// ServerNotice reports an error or a notice from the server, for example that it
// is going away. If the connection ends as well, State.Cause says why.
type ServerNotice struct {
	// Code is the server's own code.
	Code int
	// Reason is the server's explanation, quoted, at most 256 bytes of it.
	Reason string
}

// CredentialInURL warns once for each query parameter of the URL whose name
// suggests a credential. Proxies and servers log URLs: use Options.Auth.
type CredentialInURL struct {
	// Key is the name of the query parameter.
	Key string
}

// EventsLost reports that the Observer or the Logger was too slow.
type EventsLost struct {
	// Count is the number of events dropped since the last report.
	Count uint64
}

func (e StateChanged) record() (slog.Level, string, []slog.Attr) {
	s := e.State
	attrs := []slog.Attr{slog.String("host", e.Host), slog.Uint64("generation", s.Generation)}
	if s.Cause != nil {
		attrs = append(attrs, slog.String("class", string(ClassOf(s.Cause))), slog.String("cause", s.Cause.Error()))
	}
	level := slog.LevelDebug
	switch s.Phase {
	case Ready:
		level = slog.LevelInfo
		attrs = append(attrs, slog.Bool("resumed", s.Resumed))
	case Waiting:
		if s.Attempt <= 1 {
			level = slog.LevelWarn
		}
		attrs = append(attrs, slog.Int("attempt", s.Attempt), slog.Time("next", s.NextAttempt))
	case Ended:
		level = slog.LevelInfo
		if ClassOf(s.Cause) != ClassClosed {
			level = slog.LevelError
		}
	}
	return level, "limpet: " + s.Phase.String(), attrs
}

func (e SubscriptionChanged) record() (slog.Level, string, []slog.Attr) {
	level := slog.LevelInfo
	attrs := []slog.Attr{slog.String("topic", peerText(e.Topic)), slog.String("phase", e.State.Phase.String())}
	if e.State.Err != nil {
		level = slog.LevelWarn
		attrs = append(attrs, slog.String("cause", e.State.Err.Error()))
	} else if e.State.Phase == SubPending {
		level = slog.LevelDebug
	}
	return level, "limpet: subscription", attrs
}

func (e LossReported) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelWarn, "limpet: " + e.Kind.String(), []slog.Attr{
		slog.String("topic", peerText(e.Topic)), slog.String("cause", e.Cause.String())}
}

func (e ServerNotice) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelWarn, "limpet: server notice", []slog.Attr{
		slog.Int("code", e.Code), slog.String("reason", e.Reason)}
}

func (e CredentialInURL) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelWarn, "limpet: credential in the URL, use Options.Auth", []slog.Attr{slog.String("key", peerText(e.Key))}
}

func (e EventsLost) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelWarn, "limpet: observer too slow", []slog.Attr{slog.Uint64("lost", e.Count)}
}

// notifier passes events to the logger and the observer, on its own goroutine.
// Its lock is a leaf.
type notifier struct {
	logger   *slog.Logger
	observer Observer
	wake     chan struct{}

	mu      sync.Mutex
	events  []Event
	dropped uint64 // since the last EventsLost
	ended   bool
}

const maxEvents = 1024

func newNotifier(o *Options) *notifier {
	if o.Logger == nil && o.Observer == nil {
		return nil
	}
	return &notifier{logger: o.Logger, observer: o.Observer, wake: make(chan struct{}, 1)}
}

// post never blocks. A nil notifier ignores every event.
func (n *notifier) post(e Event) {
	if n == nil {
		return
	}
	n.mu.Lock()
	if len(n.events) >= maxEvents {
		n.events = n.events[1:]
		n.dropped++
	}
	n.events = append(n.events, e)
	n.mu.Unlock()
	n.wakeUp()
}

// end makes run return once it has dispatched the events that are waiting.
func (n *notifier) end() {
	if n == nil {
		return
	}
	n.mu.Lock()
	n.ended = true
	n.mu.Unlock()
	n.wakeUp()
}

func (n *notifier) wakeUp() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *notifier) run() {
	for range n.wake {
		n.mu.Lock()
		events, dropped, ended := n.events, n.dropped, n.ended
		n.events, n.dropped = nil, 0
		n.mu.Unlock()
		if dropped > 0 {
			events = append([]Event{EventsLost{dropped}}, events...)
		}
		for _, e := range events {
			n.dispatch(e)
		}
		if ended {
			return
		}
	}
}

// dispatch calls user code. A panic there must not end the process, and there is
// nowhere to report it.
func (n *notifier) dispatch(e Event) {
	defer func() { _ = recover() }()
	if n.logger != nil {
		level, msg, attrs := e.record()
		n.logger.LogAttrs(context.Background(), level, msg, attrs...)
	}
	if n.observer != nil {
		n.observer.Observe(e)
	}
}

// Stats are the counts of a client since New.
type Stats struct {
	// Attempts is the number of attempts to connect.
	Attempts uint64
	// Connections is the number of connections that became ready, Resumes how many
	// of them resumed the session.
	Connections uint64
	Resumes     uint64
	// Published is the number of messages that Publish and PublishBatch admitted.
	Published uint64
	// Resent is the number of times that a message was sent again.
	Resent uint64
	// Acked to Unknown are the numbers of messages with each outcome. Their sum is
	// Published once every message has its outcome.
	Acked    uint64
	Written  uint64
	Rejected uint64
	Expired  uint64
	Unsent   uint64
	Unknown  uint64
	// BytesWritten and BytesRead are the payload bytes of WebSocket messages.
	BytesWritten uint64
	BytesRead    uint64
	// Frames is the number of WebSocket data messages received.
	Frames uint64
	// PlainFrames reports whether the current connection, or the last one, uses
	// the library's frames: see Options.PlainFrames.
	PlainFrames bool
}

type counters struct {
	attempts, connections, resumes  atomic.Uint64
	published, resent               atomic.Uint64
	outcomes                        [len(outcomeNames)]atomic.Uint64
	bytesWritten, bytesRead, frames atomic.Uint64
	plainFrames                     atomic.Bool
}

func (c *counters) stats() Stats {
	return Stats{
		Attempts: c.attempts.Load(), Connections: c.connections.Load(), Resumes: c.resumes.Load(),
		Published: c.published.Load(), Resent: c.resent.Load(),
		Acked: c.outcomes[Acked].Load(), Written: c.outcomes[Written].Load(),
		Rejected: c.outcomes[Rejected].Load(), Expired: c.outcomes[Expired].Load(),
		Unsent: c.outcomes[Unsent].Load(), Unknown: c.outcomes[Unknown].Load(),
		BytesWritten: c.bytesWritten.Load(), BytesRead: c.bytesRead.Load(), Frames: c.frames.Load(),
		PlainFrames: c.plainFrames.Load(),
	}
}
