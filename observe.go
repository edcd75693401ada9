package limpet

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
)

// Observer is told what happens to a client. Observe runs on one goroutine of
// its own, one call at a time, in order; however slow it is, the client does
// not wait for it: when 1,024 events are waiting the oldest are dropped and
// EventsLost says how many. State and Stats never lose anything.
type Observer interface {
	Observe(Event)
}

// Event is one of the Event structs of this package. New kinds may be added:
// a switch over them needs a default.
//
// With Options.Logger each is logged, too:
//
//	Debug  StateChanged between attempts, SubscriptionChanged to pending
//	Info   StateChanged to ready and to a clean end, SubscriptionChanged to live or ended
//	Warn   StateChanged after a lost connection or the first failed attempt, LossTold, ServerSaid,
//	       a refused subscription, CredentialInURL, EventsLost
//	Error  StateChanged to an end that is permanent
type Event interface {
	record() (slog.Level, string, []slog.Attr)
}

// StateChanged is sent when the client's phase changes.
type StateChanged struct {
	Host  string
	State State
}

// SubscriptionChanged is sent when a subscription's phase changes.
type SubscriptionChanged struct {
	Topic string
	State SubState
}

// LossTold is sent when the server reports a gap or restarts a stream. The
// consumer gets it in the stream as well.
type LossTold struct {
	Topic string
	Kind  Kind
	Cause Cause
}

// ServerSaid is an error or a notice of the server that ends nothing.
type ServerSaid struct {
	Code   int
	Reason string // quoted and cut
}

// CredentialInURL is sent once if the URL carries what looks like a credential:
// proxies and servers log URLs. Options.Auth is the place for it.
type CredentialInURL struct {
	Key string // the name of the query parameter
}

// EventsLost says that the observer was too slow for Count events.
type EventsLost struct{ Count uint64 }

func (e StateChanged) record() (slog.Level, string, []slog.Attr) {
	s := e.State
	attrs := []slog.Attr{slog.String("host", e.Host), slog.Uint64("generation", s.Generation)}
	if s.Cause != nil {
		attrs = append(attrs, slog.String("class", string(Class(s.Cause))), slog.String("cause", s.Cause.Error()))
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
		if Class(s.Cause) != ClassClosed {
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

func (e LossTold) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelWarn, "limpet: " + e.Kind.String(), []slog.Attr{
		slog.String("topic", peerText(e.Topic)), slog.String("cause", e.Cause.String())}
}

func (e ServerSaid) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelWarn, "limpet: server said", []slog.Attr{
		slog.Int("code", e.Code), slog.String("reason", e.Reason)}
}

func (e CredentialInURL) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelWarn, "limpet: credential in the URL, use Options.Auth", []slog.Attr{slog.String("key", peerText(e.Key))}
}

func (e EventsLost) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelWarn, "limpet: observer too slow", []slog.Attr{slog.Uint64("lost", e.Count)}
}

// notifier takes events off the loop to the logger and the observer.
type notifier struct {
	logger   *slog.Logger
	observer Observer
	wake     chan struct{}

	mu     sync.Mutex
	events []Event
	lost   uint64
	ended  bool
}

const maxEvents = 1024

func newNotifier(o *Options) *notifier {
	if o.Logger == nil && o.Observer == nil {
		return nil
	}
	return &notifier{logger: o.Logger, observer: o.Observer, wake: make(chan struct{}, 1)}
}

// post never blocks. A nil notifier drops everything.
func (n *notifier) post(e Event) {
	if n == nil {
		return
	}
	n.mu.Lock()
	if len(n.events) >= maxEvents {
		n.events = n.events[1:]
		n.lost++
	}
	n.events = append(n.events, e)
	n.mu.Unlock()
	n.signal()
}

// end lets run return after what is waiting was told.
func (n *notifier) end() {
	if n == nil {
		return
	}
	n.mu.Lock()
	n.ended = true
	n.mu.Unlock()
	n.signal()
}

func (n *notifier) signal() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *notifier) run() {
	for range n.wake {
		n.mu.Lock()
		events, lost, ended := n.events, n.lost, n.ended
		n.events, n.lost = nil, 0
		n.mu.Unlock()
		if lost > 0 {
			events = append([]Event{EventsLost{lost}}, events...)
		}
		for _, e := range events {
			n.tell(e)
		}
		if ended {
			return
		}
	}
}

func (n *notifier) tell(e Event) {
	// A panic of the caller's code must not end the process, and there is
	// nobody else to tell.
	defer func() { _ = recover() }()
	if n.logger != nil {
		level, msg, attrs := e.record()
		n.logger.LogAttrs(context.Background(), level, msg, attrs...)
	}
	if n.observer != nil {
		n.observer.Observe(e)
	}
}

// Stats counts what a client did since it was made.
type Stats struct {
	Attempts     uint64 // to connect
	Connections  uint64 // that became ready
	Resumes      uint64 // of them, with the session known
	Published    uint64 // admitted
	Resent       uint64 // transmissions beyond the first
	Acked        uint64
	Written      uint64
	Rejected     uint64
	Expired      uint64
	Unsent       uint64
	Unknown      uint64
	BytesWritten uint64 // payload of WebSocket messages
	BytesRead    uint64
	Frames       uint64 // WebSocket data messages received
	PlainFrames  bool   // the present connection, or the last one, has the library's frames: see Options.PlainFrames
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
