package limpet

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/internal/dispatch"
	"github.com/limpet-go/limpet/internal/pace"
	"github.com/limpet-go/limpet/internal/text"
)

// Observer receives the events of a client, for logs and metrics.
type Observer interface {
	// Observe is called for one event at a time, in order, on a goroutine of its own. The client does not wait
	// for it: at most 1,024 events are kept for a slow Observer, then the oldest are dropped and EventsLost
	// reports how many. A panic in Observe is recovered and ignored, and costs that event alone; so does
	// runtime.Goexit. The Logger has a goroutine and a queue of its own. State and Stats are always complete.
	Observe(Event)
}

// Event is one of the event structs of this package: StateChanged, SubscriptionChanged, LossReported,
// MessageFailed, MessagesDropped, DeliveryStopped, CursorNotSaved, MessageSkipped, OutageEnded,
// HeartbeatShortened, SendPaceChanged, RotationFailed, TransportChanged, CredentialRefreshed,
// CredentialNotRefreshed, CredentialsEnded, ServerNotice, CredentialInURL, CallbackFailed, EventsLost. Later
// versions may add more, so a switch over them needs a default.
//
// With Options.Logger each event is logged as well:
//
//	Debug  StateChanged between attempts, and to ready in an outage; SubscriptionChanged to recovering with
//	       the connection, and to live in an outage or on the next connection of a planned change; CredentialRefreshed
//	Info   StateChanged to ready and to a clean end, SubscriptionChanged to live or ended, OutageEnded,
//	       HeartbeatShortened, TransportChanged, SendPaceChanged to a higher pace, ServerNotice with Next
//	Warn   StateChanged after a lost connection or the first failed attempt, LossReported,
//	       MessageFailed, MessagesDropped, DeliveryStopped, CursorNotSaved, MessageSkipped, RotationFailed, ServerNotice,
//	       a refused subscription, CredentialNotRefreshed, CredentialInURL, SendPaceChanged to a lower pace,
//	       CallbackFailed for an error of Resolver, EventsLost
//	Error  StateChanged to an end that is permanent, CredentialsEnded, CallbackFailed
//
// An outage is one Warn line, however many attempts it takes, and one Info line when everything is live again,
// with its duration, attempts, gaps and missed messages. Before the first connection, the line of ready has the
// duration and the number of failures. Of other events there are at most 10 lines of one kind and level within
// 10 seconds; a later line has the number of those suppressed.
type Event interface {
	record() (slog.Level, string, []slog.Attr)
}

// StateChanged reports that the phase of the client has changed.
type StateChanged struct {
	// Host is the host and port of the endpoint: State.Host.
	Host string
	// State is the new state.
	State State
}

// SubscriptionChanged reports that the phase of a subscription has changed, or within a phase why it is not
// live.
type SubscriptionChanged struct {
	// Topic is the topic of the subscription.
	Topic string
	// State is the new state.
	State SubState
}

// LossReported reports a gap or a reset that the server reported or the client detected, once for each
// subscription that has it. The consumer finds it in the stream as well. What the overflow policy drops is in
// SubStats instead.
type LossReported struct {
	// Topic is the topic of the subscription.
	Topic string
	// Kind is Gap or Reset.
	Kind Kind
	// Cause is why messages are missing.
	Cause Cause
	// After and To are the offsets between which messages are missing, as in Loss; 0 if they are not known.
	After, To uint64
	// Count is the number of missing messages, 0 if it is not known.
	Count uint64
}

// MessageFailed reports that a published message ended as Rejected, Expired or Unknown. Its receipt says the
// same.
type MessageFailed struct {
	// Topic is the topic of the message.
	Topic string
	// ID is the id of the message, as in Receipt.ID.
	ID uuid.UUID
	// Outcome is the outcome.
	Outcome Outcome
	// Err is the error of Receipt.Wait.
	Err error
}

// MessagesDropped reports that a consumer is too slow: its overflow policy dropped messages. It comes with the
// first drop and then at most once a second for each subscription: what was dropped in between is reported
// after that second, or when the stream ends. What waits when a subscription is closed is not reported: see
// SubStats.DroppedByClose.
type MessagesDropped struct {
	// Topic is the topic of the subscription.
	Topic string
	// Count is the number of messages dropped since the last report.
	Count uint64
}

// MessageSkipped reports that the server sent what the client cannot use: a message that the dialect cannot
// read or place, or something for a topic that this client has never subscribed to. It comes once on each
// connection for each Reason and each Topic: at most 16 times for a Topic, 16 times for a Reason that quotes
// the message, and 16 times for one that does not. Stats.Malformed and Stats.Unrequested have the numbers.
type MessageSkipped struct {
	// Topic is the topic, or the key as a number, that this client has never subscribed to; empty for a message
	// that cannot be read or placed.
	Topic string
	// Reason says what is wrong with the message, in at most 256 bytes. It may name what the server sent, for
	// example a type that a feed.Table does not name.
	Reason string
}

// ServerNotice reports an error or a notice from the server, for example that it is going away. If the
// connection ends as well, State.Cause says why.
type ServerNotice struct {
	// Code is the server's own code.
	Code int
	// Reason is the server's explanation, quoted, at most 256 bytes of it.
	Reason string
	// Next is when the client makes its next connection, because the server asks for one (docs/reconnect.md,
	// section 8): nothing has failed. Zero for any other notice.
	Next time.Time
}

// SendPaceChanged reports that the client sends fewer messages in a second from now on, because the server has
// refused what it sent, or more, because the server has refused nothing for long. Say in Options.Limits what
// the server allows: then nothing is refused, and nothing is guessed. See docs/reconnect.md, section 10.
type SendPaceChanged struct {
	// Host is the host and port of the endpoint: State.Host.
	Host string
	// PerSecond is Stats.SendPace from now on: how many WebSocket messages a second the server takes, as far as
	// is known. The client uses four fifths. 0 means that no limit is known.
	PerSecond float64
	// Lowered is false if the client sends more again.
	Lowered bool
	// Said means that the server says in words that the client sends too much. Then the pace is lower for the
	// life of the client. Otherwise the server has closed the connection with 1008 and without a reason, and
	// the pace doubles after each hour without a refusal.
	Said bool
	// Reason is the server's explanation, quoted, at most 256 bytes of it.
	Reason string
}

// CredentialInURL warns once for each query parameter of the URL whose name suggests a credential. Proxies and
// servers log URLs: use Options.Auth.
type CredentialInURL struct {
	// Key is the name of the query parameter.
	Key string
}

// CallbackFailed reports that a function that you passed in panicked, called runtime.Goexit, or held up the
// client or its end for 10 seconds, that Options.Verdict returned a verdict that makes no sense, and that
// Options.Resolver returned an error, or URLs that cannot be used: then the last list is used. It cost that
// call alone. It also reports that the dialect could not encode what no caller waits for, such as a ping or the
// end of a subscription: once for each kind on a connection.
type CallbackFailed struct {
	// Option is the option at fault: PublishOptions.Done, Options.Verdict, Options.Resolver or Options.Dialect.
	Option string
	// Err is an *Error of ClassUser. It wraps a *PanicError or a *HangError, with the stack, unless the
	// function called runtime.Goexit or returned an error or a bad value, or it is from the dialect.
	Err error
}

// EventsLost reports that the Observer or the Logger was too slow.
type EventsLost struct {
	// Count is the number of events dropped since the last report.
	Count uint64
}

func (e StateChanged) record() (slog.Level, string, []slog.Attr) {
	s := e.State
	attrs := []slog.Attr{slog.String("host", e.Host), slog.Uint64("generation", s.Generation)}
	if s.Cause != nil && s.Phase != Ready { // a connection that is ready has no fault
		attrs = append(attrs, slog.String("class", string(ClassOf(s.Cause))), slog.String("cause", s.Cause.Error()))
		if stack := stackOf(s.Cause); stack != nil {
			attrs = append(attrs, slog.String("stack", string(stack)))
		}
	}
	level := slog.LevelDebug
	switch s.Phase {
	case Ready:
		level = slog.LevelInfo
		attrs = append(attrs, slog.Bool("resumed", s.Resumed))
	case Waiting:
		attrs = append(attrs, slog.Int("failures", s.Attempt), slog.Time("next", s.NextAttempt))
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
	attrs := []slog.Attr{slog.String("topic", text.ForLog(e.Topic)), slog.String("phase", e.State.Phase.String())}
	if e.State.Err != nil {
		level = slog.LevelWarn
		attrs = append(attrs, slog.String("cause", e.State.Err.Error()))
	}
	if e.State.Phase == SubRecovering && e.State.Generation > 0 {
		level = slog.LevelDebug // the connection was lost: StateChanged says so
	}
	return level, "limpet: subscription", attrs
}

func (e LossReported) record() (slog.Level, string, []slog.Attr) {
	attrs := []slog.Attr{slog.String("topic", text.ForLog(e.Topic)), slog.String("cause", e.Cause.String())}
	for _, a := range []slog.Attr{slog.Uint64("after", e.After), slog.Uint64("to", e.To), slog.Uint64("count", e.Count)} {
		if a.Value.Uint64() > 0 { // 0 is not known: in a log it would read as nothing
			attrs = append(attrs, a)
		}
	}
	return slog.LevelWarn, "limpet: " + e.Kind.String(), attrs
}

func (e MessageFailed) record() (slog.Level, string, []slog.Attr) {
	attrs := []slog.Attr{slog.String("topic", text.ForLog(e.Topic)), slog.String("id", e.ID.String()), slog.String("outcome", e.Outcome.String())}
	if e.Err != nil {
		attrs = append(attrs, slog.String("cause", e.Err.Error()))
	}
	return slog.LevelWarn, "limpet: message failed", attrs
}

func (e MessagesDropped) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelWarn, "limpet: consumer too slow, messages dropped", []slog.Attr{
		slog.String("topic", text.ForLog(e.Topic)), slog.Uint64("dropped", e.Count)}
}

func (e MessageSkipped) record() (slog.Level, string, []slog.Attr) {
	attrs := []slog.Attr{slog.String("reason", text.ForLog(e.Reason))}
	if e.Topic != "" {
		attrs = append(attrs, slog.String("topic", text.ForLog(e.Topic)))
	}
	return slog.LevelWarn, "limpet: message skipped", attrs
}

func (e ServerNotice) record() (slog.Level, string, []slog.Attr) {
	attrs := []slog.Attr{slog.Int("code", e.Code), slog.String("reason", text.ForLog(text.Unquote(e.Reason)))}
	if !e.Next.IsZero() {
		return slog.LevelInfo, "limpet: the server asks for a new connection", append(attrs, slog.Time("next", e.Next))
	}
	return slog.LevelWarn, "limpet: server notice", attrs
}

func (e SendPaceChanged) record() (slog.Level, string, []slog.Attr) {
	attrs := []slog.Attr{slog.String("host", e.Host), slog.Float64("per_second", e.PerSecond)}
	if !e.Lowered {
		return slog.LevelInfo, "limpet: more messages are sent in a second again", attrs
	}
	why := "because the server refuses more"
	if !e.Said {
		why = "since the server has closed with 1008, which may mean too many"
	}
	return slog.LevelWarn, "limpet: fewer messages are sent in a second, " + why + "; set Options.Limits to what it allows",
		append(attrs, slog.String("reason", text.ForLog(text.Unquote(e.Reason))))
}

func (e CredentialInURL) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelWarn, "limpet: credential in the URL, use Options.Auth", []slog.Attr{slog.String("key", text.ForLog(e.Key))}
}

func (e CallbackFailed) record() (slog.Level, string, []slog.Attr) {
	attrs := []slog.Attr{slog.String("option", e.Option), slog.String("cause", e.Err.Error())}
	if stack := stackOf(e.Err); stack != nil {
		attrs = append(attrs, slog.String("stack", string(stack)))
	}
	level := slog.LevelError
	if e.Option == optionResolver && stackOf(e.Err) == nil {
		level = slog.LevelWarn // no defect of the program: the last list is used
	}
	return level, "limpet: a function of the caller failed", attrs
}

func (e EventsLost) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelWarn, "limpet: observer too slow", []slog.Attr{slog.Uint64("lost", e.Count)}
}

// notifier passes events to the logger and to the observer. Each has a queue and a goroutine of its own, so
// that one that is slow, panics or ends its goroutine does not keep events from the other. A nil notifier drops
// everything.
type notifier struct{ receivers []*dispatch.Queue[Event] }

func newNotifier(o *Options) *notifier {
	n := &notifier{}
	if o.Logger != nil {
		n.receivers = append(n.receivers, dispatch.New((&eventLog{logger: o.Logger}).log, lostEvents))
	}
	if o.Observer != nil {
		n.receivers = append(n.receivers, dispatch.New(o.Observer.Observe, lostEvents))
	}
	if len(n.receivers) == 0 {
		return nil
	}
	return n
}

func lostEvents(n uint64) Event { return EventsLost{n} }

// start starts the goroutines. They run user code, so Done does not wait for them.
func (n *notifier) start() {
	if n != nil {
		for _, q := range n.receivers {
			go q.Run()
		}
	}
}

// post never blocks.
func (n *notifier) post(e Event) {
	if n != nil {
		for _, q := range n.receivers {
			q.Post(e)
		}
	}
}

// end makes the goroutines end once they have dispatched what is waiting.
func (n *notifier) end() {
	if n != nil {
		for _, q := range n.receivers {
			q.End()
		}
	}
}

// eventLog writes events to a logger: one warning for each outage, and a bounded number of lines of each kind.
type eventLog struct {
	logger     *slog.Logger
	downAt     time.Time  // since when there is no connection; zero while one is ready
	fails      int        // losses and failed attempts since downAt
	connected  bool       // a connection has been ready
	recovering bool       // an outage lasts: its end has one line
	moving     int        // subscriptions that are not live yet on the connection of a planned change
	lines      pace.Lines // of one message and level; the phases of the client have no bound
}

func (g *eventLog) log(e Event) {
	level, msg, attrs := e.record()
	if _, ok := e.(EventsLost); ok {
		g.downAt, g.fails, g.recovering, g.moving = time.Time{}, 0, false, 0 // the event that ended the outage may be among them
	}
	switch e := e.(type) {
	case OutageEnded:
		g.recovering = false
	case SubscriptionChanged:
		level = g.followSubscription(e.State, level)
	}
	if s, ok := e.(StateChanged); ok {
		level, attrs = g.follow(s.State, level, attrs)
		if n := g.lines.Suppressed(); n > 0 && s.State.Phase == Ended {
			attrs = append(attrs, slog.Int("suppressed", n))
		}
	} else if ok, more := g.lines.Allow(msg+level.String(), time.Now()); !ok {
		return
	} else if more > 0 {
		attrs = append(attrs, slog.Int("suppressed", more))
	}
	g.logger.LogAttrs(context.Background(), level, msg, attrs...)
}

// followSubscription follows the phases of subscriptions: one that is live again after an outage or a planned
// change has a line at Debug.
func (g *eventLog) followSubscription(s SubState, level slog.Level) slog.Level {
	switch s.Phase {
	case SubRecovering:
		if errors.Is(s.Err, ErrGoAway) || errors.Is(s.Err, ErrConnectionAge) {
			g.moving++
		}
	case SubLive:
		if g.recovering || g.moving > 0 {
			level = slog.LevelDebug
		}
		g.moving = max(0, g.moving-1)
	}
	return level
}

// follow follows the phases: an outage begins with a warning, has debug lines for its attempts, and ends with a
// line that sums it up.
func (g *eventLog) follow(s State, level slog.Level, attrs []slog.Attr) (slog.Level, []slog.Attr) {
	switch s.Phase {
	case Waiting:
		if s.Cause == nil {
			return level, attrs // for the turn that Options.Governor gives
		}
		g.recovering, g.moving = g.connected, 0
		if g.downAt.IsZero() {
			g.downAt = s.Since
		}
		if g.fails++; g.fails == 1 {
			return slog.LevelWarn, attrs
		}
	case Ready:
		g.connected = true
		if g.recovering {
			level = slog.LevelDebug
		}
		if !g.downAt.IsZero() {
			attrs = append(attrs, slog.Duration("outage", s.Since.Sub(g.downAt).Round(time.Millisecond)), slog.Int("failures", g.fails))
		}
		g.downAt, g.fails = time.Time{}, 0
	}
	return level, attrs
}

// OutageEnded reports that everything that was live when a connection was lost is live again: the connection
// and each subscription that has not ended. See Stats.Outages.
type OutageEnded struct {
	// Duration is how long it took.
	Duration time.Duration
	// Attempts is the number of attempts to connect.
	Attempts int
	// Gaps is the number of gaps and resets that were reported by then, Missed the number of messages missing
	// in them, as far as it is known.
	Gaps   uint64
	Missed uint64
	// Unproved is the number of subscriptions for which the server has not proved that nothing else is missing:
	// a loss may show with their next message.
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

// DeliveryStopped is an event: for 30 seconds a stream has stood still because with ManualAck the oldest
// messages were not acknowledged, because with Block no consumer took what was waiting, or because the server
// waits for acknowledgements (wire.Frames.Prefetch). It comes once, and again if that happens again. A loop
// body that works for long is no standstill; work between two receives from C is.
type DeliveryStopped struct {
	// Topic is the topic of the subscription.
	Topic string
	// Waiting and Unacked are as in SubStats.
	Waiting, Unacked uint64
	// Err says what is missing and what to do.
	Err error
}

var (
	errNotAcknowledged = errors.New("ManualAck is set and the oldest messages are not acknowledged; call Message.Ack for each message, or raise Delivery.Buffer")
	errServerWaits     = errors.New("the server waits for acknowledgements before it sends more; call Message.Ack for each message that no loop body has finished, or let the dialect ask for more at once")
	errNotTaken        = errors.New("no consumer takes what is waiting; take it with Messages, Batches or C, close the subscription, or set another Delivery.Overflow")
)

func (e DeliveryStopped) record() (slog.Level, string, []slog.Attr) {
	return slog.LevelWarn, "limpet: delivery stopped", []slog.Attr{
		slog.String("topic", text.ForLog(e.Topic)), slog.Uint64("waiting", e.Waiting), slog.Uint64("unacked", e.Unacked),
		slog.String("cause", e.Err.Error())}
}

// CursorNotSaved is an event: the store in SubscribeOptions.Cursor has not saved the position of a
// subscription. The stream goes on.
type CursorNotSaved struct {
	// Topic is the topic of the subscription.
	Topic string
	// Name is SubscribeOptions.Name.
	Name string
	// Retry is after how long the newest position is saved again; 0: it is not, since the call of Save has not
	// returned or the client has ended.
	Retry time.Duration
	// Err is an *Error that wraps what Save returned, or a *PanicError or a *HangError.
	Err error
}

func (e CursorNotSaved) record() (slog.Level, string, []slog.Attr) {
	attrs := []slog.Attr{slog.String("topic", text.ForLog(e.Topic)), slog.String("name", text.ForLog(e.Name)),
		slog.Duration("retry", e.Retry), slog.String("cause", e.Err.Error())}
	if stack := stackOf(e.Err); stack != nil {
		attrs = append(attrs, slog.String("stack", string(stack)))
	}
	return slog.LevelWarn, "limpet: cursor not saved", attrs
}

// doneFailed reports that a call of Done has failed.
func (n *notifier) doneFailed(err error) {
	var p *dispatch.Panicked
	switch {
	case errors.As(err, &p):
		err = &PanicError{p.Value, p.Stack}
	case errors.Is(err, dispatch.ErrHangs):
		err = newHangError(optionDone, dispatch.CallerName)
	}
	n.post(CallbackFailed{optionDone, &Error{Op: opReceipt, Field: optionDone, Class: ClassUser, Err: err}})
}
