package limpet

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/guard"
	"github.com/limpet-go/limpet/internal/inbox"
	"github.com/limpet-go/limpet/internal/names"
	"github.com/limpet-go/limpet/internal/secrets"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/internal/tasks"
	"github.com/limpet-go/limpet/wire"
)

const (
	closeTimeout = time.Second      // of the close handshake, then the socket is closed
	stallTimeout = 15 * time.Second // a write must move bytes within it
)

// conn is one connection as the loop sees it.
type conn struct {
	*socket.Conn
	unchosen []string     // the subprotocols of the dialect, if the server chose none of them
	gen      uint64       // State.Generation
	number   uint64       // wire.Resume.Conn
	slots    *tasks.Slots // batches of events that the reader has posted and the loop has not applied
	upgraded time.Time    // when
	refusal  int          // with the fallback: the status that refused the upgrade; 0: none did in this attempt
}

func newConn() *conn { return &conn{slots: tasks.NewSlots()} }

// abandon closes without a close frame, except for the answer to the peer's.
func (c *conn) abandon() { c.Close(0, "", closeFrameTimeout) }

// writer makes one write, on a goroutine of its own.
type writer struct {
	conn     *conn
	inbox    *inbox.Inbox[event]
	counters *counters
}

// write writes the first n frames of u that are not written, and posts how it went.
func (w writer) write(u unwritten, n int) {
	list := u.frames.List[u.from : u.from+n]
	err := w.conn.Send(list)
	bytes := 0
	for _, f := range list {
		bytes += len(f.Data)
	}
	if err == nil {
		w.counters.bytesWritten.Add(uint64(bytes))
	}
	if u.from+n == len(u.frames.List) {
		u.frames.Reset()
		framesPool.Put(u.frames)
	}
	w.inbox.Post(wrote{w.conn, asCallersFault(err), u.through, bytes})
}

// reader reads frames from one connection until it ends. What belongs to a
// subscription goes straight to its queue, in wire order. The loop gets
// everything else, and what changes a subscription's state.
type reader struct {
	conn       *conn
	codec      wire.Codec
	routes     *routes
	inbox      *inbox.Inbox[event]
	counters   *counters
	goroutines *tasks.Group
	secrets    *secrets.Set
	first      *tasks.First
	kept       []*Subscription // those that the server keeps, if the session is resumed
	byName     bool            // subscriptions to a topic may share it: see wire.Traits.ByKey

	names    names.Table                                      // the server's
	reported struct{ reasons, details, names names.Reported } // what was skipped
	wakes    tasks.WakeRate
	decodes  guard.CallWatch // of Decode and Delivery.Key
	inKey    atomic.Bool     // Delivery.Key may run
	readAt   time.Time       // when the frames at hand were read
	copies   []wire.Event    // of offerAll
}

// start starts the goroutine that reads. Done waits for it until it ends, unless
// Decode does not return: then it is abandoned, and the client ends.
func (r *reader) start() {
	if !r.goroutines.Hold() {
		return
	}
	r.decodes.OnHang = func() {
		if r.inKey.Load() {
			r.inbox.Post(callHangs{"Delivery.Key", newHangError("Delivery.Key", "limpet.(*queue).keysOf(")})
		} else {
			r.inbox.Post(callHangs{"Options.Dialect", newHangError("Decode", "limpet.(*reader).decode(")})
		}
		r.goroutines.Release()
	}
	go r.run()
}

// run reads until the connection ends or a new goroutine continues.
func (r *reader) run() {
	for idle := true; ; idle = false {
		// All stack frames from here down to the socket must fit the 2 KiB stack
		// of a new goroutine while it waits: docs/decisions/0007.
		batch, err := r.conn.Receive(idle)
		now := time.Now()
		r.readAt = now
		r.decodes.Begin(now)
		err = r.handle(batch, err)
		if !r.decodes.End() {
			return // abandoned
		}
		if err != nil {
			r.decodes.Stop()
			r.inbox.Post(readFailed{r.conn, asCallersFault(err)})
			r.goroutines.Release()
			return
		}
		if !r.wakes.Frequent(now) {
			go r.run()
			return
		}
	}
}

func (r *reader) handle(batch []wire.Frame, err error) error {
	returned := false
	defer func() {
		if !returned && r.decodes.End() {
			r.decodes.Stop()
			why := errGoexit
			if r.inKey.Load() {
				why = &fault.User{Option: "Delivery.Key", Err: errKeyGoexit.Err}
			}
			r.inbox.Post(readFailed{r.conn, why})
			r.goroutines.Release()
		}
	}()
	events := eventPool.Get().(*wire.Events)
	for len(batch) > 0 && err == nil {
		batch, err = r.decode(batch, events)
		if fault := r.route(events); fault != nil {
			err = fault
		}
		events.Reset()
	}
	eventPool.Put(events)
	returned = true
	return err
}

// eventPool holds the memory of decoded events: an idle connection needs none.
var eventPool = sync.Pool{New: func() any { return new(wire.Events) }}

// routedAtOnce is how many events are decoded before they are routed. One frame
// may hold more.
const routedAtOnce = 64

// decode decodes frames until there is enough to route, and returns the others.
// A frame with an error is discarded whole; what came before it counts.
func (r *reader) decode(batch []wire.Frame, events *wire.Events) ([]wire.Frame, error) {
	frames, bytes := 0, 0
	defer func() {
		r.counters.frames.Add(uint64(frames))
		r.counters.bytesRead.Add(uint64(bytes))
	}()
	for len(batch) > 0 && len(events.List) < routedAtOnce {
		f := batch[0]
		batch = batch[1:]
		frames++
		bytes += len(f.Data)
		before := len(events.List)
		if err := r.codec.Decode(f, events); err != nil {
			events.List = events.List[:before]
			return nil, asViolation(err)
		}
	}
	return batch, nil
}

// routedEvent is an event for the loop, with the subscription that it belongs
// to. sub is nil for an event of the whole connection.
type routedEvent struct {
	sub *Subscription
	wire.Event
}

func (r *reader) route(events *wire.Events) error {
	var forLoop []routedEvent
	var fault error
	messages := false
	for rest := events.List; len(rest) > 0 && fault == nil; {
		ev := &rest[0]
		if ev.Kind == wire.EventMalformed && !r.countMalformed(ev) {
			rest = rest[1:]
			continue
		}
		if ev.Kind != wire.EventData {
			r.hideSecrets(ev)
		}
		if ev.Kind == wire.EventReady && ev.Ready != nil && ev.Ready.Resumed {
			for _, s := range r.kept { // before the messages that follow
				s.queue.resumeProved(r.conn.gen)
			}
		}
		if !ev.Kind.OfSubscription() {
			forLoop = append(forLoop, routedEvent{nil, *ev})
			rest = rest[1:]
			continue
		}
		n := leadingMessages(rest)
		if ev.Kind == wire.EventData {
			forLoop = r.tellLoop(forLoop)
			r.first.Await()
		}
		if ev.Key == 0 {
			ev.Key = r.names.Key(ev.Name)
		} else if ev.Kind == wire.EventSubscribed && ev.Name != "" {
			r.names.Set(ev.Key, ev.Name)
			r.names.ForgetEnded(ev.Key, r.isOpen)
		}
		if sub, shared := r.routes.find(ev, r.byName && hasSnapshot(rest[:n])); sub != nil {
			messages = messages || ev.Kind == wire.EventData
			var losses []wire.Event
			losses, fault = r.offerShared(sub.queue, shared, rest[:n])
			for i := range losses {
				forLoop = append(forLoop, routedEvent{sub, losses[i]})
			}
			if ev.Kind != wire.EventData && !isGapHere(ev) && fault == nil {
				forLoop = append(forLoop, routedEvent{sub, *ev})
			}
		} else {
			if ev.Kind == wire.EventUnsubscribed || ev.Key == 0 && ev.Kind == wire.EventSubscribed {
				forLoop = append(forLoop, routedEvent{nil, *ev}) // the loop may wait for it
			}
			if report := r.countUnrequested(ev, n); report != nil {
				forLoop = append(forLoop, routedEvent{nil, *report})
			}
		}
		rest = rest[n:]
	}
	r.tellLoop(forLoop)
	if messages {
		r.counters.lastMessage.Store(r.counters.moment(r.readAt))
	}
	return fault
}

// offer offers events to q.
func (r *reader) offer(q *queue, events []wire.Event) (losses []wire.Event, err error) {
	if q.delivery.Key == nil {
		return q.offer(r.conn.gen, events, &r.readAt)
	}
	r.inKey.Store(true) // it stays so if Key ends this goroutine
	losses, err = q.offer(r.conn.gen, events, &r.readAt)
	r.inKey.Store(false)
	return losses, err
}

// offerShared offers events to q, or to the queues of those that share its topic, if there are any.
func (r *reader) offerShared(q *queue, shared []*queue, events []wire.Event) (losses []wire.Event, err error) {
	if len(shared) == 0 {
		return r.offer(q, events)
	}
	return r.offerAll(shared, events)
}

// offerAll offers events to the queues of those that share a topic. A consumer owns the payloads
// that it gets, so each queue but the last makes copies.
func (r *reader) offerAll(queues []*queue, events []wire.Event) (losses []wire.Event, err error) {
	for i, q := range queues {
		own := events
		if i < len(queues)-1 {
			r.copies = append(r.copies[:0], events...)
			for j := range r.copies {
				r.copies[j].Borrowed = true
				r.copies[j].Message.Header = maps.Clone(r.copies[j].Message.Header)
			}
			own = r.copies
		}
		more, fault := r.offer(q, own)
		losses = append(losses, more...)
		if err == nil {
			err = fault
		}
	}
	clear(r.copies)
	return losses, err
}

// tellLoop posts events and returns an empty list. What stands before a message reaches
// the loop before the consumer has the message: its acknowledgement needs the name and
// the traits that came first.
func (r *reader) tellLoop(events []routedEvent) []routedEvent {
	if len(events) > 0 && r.conn.slots.Acquire() {
		r.inbox.Post(received{r.conn, events})
	}
	return nil
}

// isOpen reports whether a subscription has key.
func (r *reader) isOpen(key uint64) bool { return r.routes.keyed(key) != nil }

// isGapHere reports whether ev is a gap without a position, of which the queue says
// what it means.
func isGapHere(ev *wire.Event) bool {
	return ev.Kind == wire.EventGap && ev.Position.IsZero() && ev.Prev == 0
}

// countMalformed counts messages that the dialect has skipped. It reports whether to
// report them.
func (r *reader) countMalformed(ev *wire.Event) bool {
	r.counters.malformed.Add(max(1, ev.Count))
	ev.Key, ev.Name = 0, ""
	if ev.Detail == "" {
		return r.reported.reasons.First(ev.Reason)
	}
	if r.reported.details.Full() {
		return false // before it costs memory
	}
	ev.Reason += ": " + ev.Detail
	return r.reported.details.First(ev.Reason)
}

// countUnrequested counts n events that no subscription takes, if they are messages and the
// client never had their subscription. It returns what to report, or nil.
func (r *reader) countUnrequested(ev *wire.Event, n int) *wire.Event {
	if r.routes.wasKnown(ev) {
		return nil
	}
	reason := "the server names a subscription that this client has never had"
	if ev.Kind == wire.EventData {
		r.counters.unrequested.Add(uint64(n))
		reason = "a message for a subscription that this client has never had"
	}
	name := ev.Name
	if name == "" {
		name = strconv.FormatUint(ev.Key, 10)
	}
	if !r.reported.names.First(name) {
		return nil
	}
	return &wire.Event{Kind: wire.EventMalformed, Name: r.secrets.Hide(name), Reason: reason}
}

// hideSecrets removes the client's credentials from what the peer says.
func (r *reader) hideSecrets(ev *wire.Event) {
	if ev.Reason != "" {
		ev.Reason = r.secrets.Hide(ev.Reason)
	}
	if ev.Ack != nil {
		for i := range ev.Ack.Rejects {
			ev.Ack.Rejects[i].Reason = r.secrets.Hide(ev.Ack.Rejects[i].Reason)
		}
	}
}

// leadingMessages returns how many events at the head are messages of one
// subscription, or 1 if the first event is no message.
func leadingMessages(events []wire.Event) int {
	n := 1
	if events[0].Kind != wire.EventData {
		return n
	}
	for n < len(events) && events[n].Kind == wire.EventData && events[n].Key == events[0].Key && events[n].Name == events[0].Name {
		n++
	}
	return n
}

// hasSnapshot reports whether a part of a snapshot is among events.
func hasSnapshot(events []wire.Event) bool {
	for i := range events {
		if events[i].Message.Snapshot {
			return true
		}
	}
	return false
}

// asViolation gives an error of a codec a close code, unless it has one or is a
// panic.
func asViolation(err error) error {
	var ce *wire.CodeError
	var panicked *fault.User
	if errors.As(err, &ce) || errors.As(err, &panicked) {
		return err
	}
	return &codecError{err, wire.CodeError{Code: 1002, Reason: err.Error()}}
}

// codecError is an error of a codec with the close code that it leads to.
type codecError struct {
	err  error
	code wire.CodeError
}

func (e *codecError) Error() string   { return fmt.Sprintf("%v (close code %d)", e.err, e.code.Code) }
func (e *codecError) Unwrap() []error { return []error{e.err, &e.code} }

// callHangs follows when a call of a method of the dialect, or of the function in an
// option, was given up.
type callHangs struct {
	option string
	err    *HangError
}

func (e callHangs) apply(l *loop) {
	l.end(&PermanentError{ClassUser, &fault.User{Option: e.option, Err: e.err}})
}

// Transport is what carries a connection: see State.Transport.
type Transport string

// The transports.
const (
	TransportWebSocket Transport = "websocket"
	TransportHTTP      Transport = "http" // plain requests: see Options.Fallback
)

// TransportChanged reports that a connection is ready over another transport than the one
// before it, or that the first one is over plain HTTP requests.
type TransportChanged struct {
	// Host is the host and port of the endpoint: State.Host.
	Host string
	// Transport carries the connection.
	Transport Transport
	// Status is the HTTP status that refused the upgrade; 0 if nothing did in this attempt.
	Status int
}

func (e TransportChanged) record() (slog.Level, string, []slog.Attr) {
	attrs := []slog.Attr{slog.String("host", e.Host), slog.String("transport", string(e.Transport))}
	if e.Transport != TransportHTTP {
		return slog.LevelInfo, "limpet: fallback ends", attrs
	}
	if e.Status != 0 {
		attrs = append(attrs, slog.Int("status", e.Status))
	}
	return slog.LevelInfo, "limpet: fallback begins", attrs
}

func (c *conn) transport() Transport {
	if c.Fallback {
		return TransportHTTP
	}
	return TransportWebSocket
}

// followTransport follows when a connection is ready.
func (l *loop) followTransport(k *link) {
	if l.dialer.path.Ready(k.conn.Fallback) {
		l.c.notify.post(TransportChanged{Host: l.state.Host, Transport: k.conn.transport(), Status: k.conn.refusal})
	}
}
