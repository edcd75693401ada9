package limpet

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/codec"
	"github.com/limpet-go/limpet/wire"
)

// Kind says what a Message is.
type Kind uint8

const (
	// Data is an application message.
	Data Kind = iota + 1
	// Snapshot is an application message that holds the whole state, or a part of
	// it. It replaces all messages before the snapshot.
	Snapshot
	// Gap stands where messages are missing: see Message.Loss.
	Gap
	// Reset stands where the stream starts again without proof that nothing is
	// missing: see Message.Loss.
	Reset
)

// String returns the kind as one lower-case word.
func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Snapshot:
		return "snapshot"
	case Gap:
		return "gap"
	case Reset:
		return "reset"
	}
	return "kind ?"
}

// Position is a place in a stream. A subscription that starts there with
// FromResume continues after it. It begins with a Gap if messages are missing,
// and with a Reset if the server cannot prove that none is. The zero value is no
// position. Positions are comparable with ==.
//
// Its fields are Epoch, Offset and Tag: see wire.Position.
type Position = wire.Position

// Cause says why messages are missing or why a stream was reset. It is one of
// the constants below, unless a dialect has others.
type Cause = wire.Cause

const (
	// CauseUnknown means that the server gave no reason.
	CauseUnknown = wire.CauseUnknown
	// CauseExpired means that the messages are older than the server keeps them.
	CauseExpired = wire.CauseExpired
	// CauseTrimmed means that the log of the server was trimmed.
	CauseTrimmed = wire.CauseTrimmed
	// CauseDropped means that the server dropped the messages.
	CauseDropped = wire.CauseDropped
	// CauseForbidden means that the subscriber may not read the messages.
	CauseForbidden = wire.CauseForbidden
	// CauseEpoch means that the server has a new log: its positions are not
	// comparable with earlier ones.
	CauseEpoch = wire.CauseEpoch
	// CauseDiverged means that the log holds another message at the position.
	CauseDiverged = wire.CauseDiverged
	// CauseAhead means that the position is beyond the end of the log.
	CauseAhead = wire.CauseAhead
	// CauseUnverifiable means that it cannot be proved that nothing is missing.
	CauseUnverifiable = wire.CauseUnverifiable
	// CauseLost means that a number is missing in the stream.
	CauseLost = wire.CauseLost
	// CauseOverflow means that the delivery queue was full and the client dropped
	// the messages: see Delivery.Overflow.
	CauseOverflow = wire.CauseOverflow
	// CauseMalformed means that the dialect could not read a message, so that it was
	// skipped: see MessageSkipped.
	CauseMalformed = wire.CauseMalformed
	// CauseRestarted means that the server counts from a lower number again, so that
	// positions are not comparable with earlier ones.
	CauseRestarted = wire.CauseRestarted
	// CauseTooBig means that a message exceeds Options.ReadLimit. A Gap stands in its
	// place; a Reset, where the server would have sent it again.
	CauseTooBig = wire.CauseTooBig
)

// Loss describes a Gap or a Reset.
type Loss struct {
	// After is the position of the last message before the loss.
	After Position
	// To is the position of the last missing message of a Gap, or After if that is
	// not known. For a Reset it is where the stream starts again; what lies between
	// After and To is not known.
	To Position
	// Count is the number of missing messages, 0 if it is not known.
	Count uint64
	// Cause is why messages are missing. If several losses were merged it is that
	// of the first.
	Cause Cause
}

// Message is one element of a subscription's stream. A loss is an element, too,
// in its place in the order: a consumer cannot miss it.
type Message struct {
	// Kind is Data or Snapshot for an application message, Gap or Reset for a
	// loss.
	Kind Kind
	// Redelivered means that the server says that it delivered this message
	// before.
	Redelivered bool
	// Topic is the topic of the message, or that of the subscription where the
	// dialect names none.
	Topic string
	// ID is the id of the message, zero if the dialect has none.
	ID uuid.UUID
	// Position is the place of this element: FromResume continues after it.
	Position Position
	// Payload is the content of the message. It belongs to the consumer, unless
	// SubscribeOptions.Lend is set and Batches has handed it over.
	Payload []byte
	// Type is the content type, empty if the publisher gave none.
	Type string
	// Header is the header, nil if the publisher gave none.
	Header map[string]string
	// ReceivedAt is when the client read the last bytes of the message from the
	// socket, however long the message then waited for its consumer. Messages that
	// one read brought have the same time, with its monotonic reading. For a Gap or a
	// Reset it is when the client learned of the loss, or dropped the message: if
	// several losses were merged, of the first.
	ReceivedAt time.Time
	// Loss describes the loss if Kind is Gap or Reset, otherwise it is nil.
	Loss *Loss

	sourceTime int64  // wire.Message.Time
	previous   uint64 // the offset that it follows: nothing between the two is missing
	queue      *queue
	number     uint64 // in the queue, ascending
	generation uint64 // of the connection it came on
}

// Time returns when the server says that it made or sent the message, in UTC and by the
// server's clock, which may be ahead of this one. It is the zero Time if the server or the
// dialect does not say, and for a Gap or a Reset. It is a method and not a field because
// most messages have no time: it takes 8 bytes of each, a third of a time.Time.
func (m Message) Time() time.Time {
	if m.sourceTime <= 0 {
		return time.Time{}
	}
	return time.Unix(0, m.sourceTime).UTC()
}

// Ack reports that the message has been processed. The committed position moves
// to the last message before the first unacknowledged one. Ack is needed with
// SubscribeOptions.ManualAck, and for a message whose loop body was left by
// break, return or panic. It does not block and may be called from any
// goroutine, more than once, and after the client has ended. A Gap or a Reset
// needs no Ack.
func (m Message) Ack() {
	if m.queue != nil {
		m.queue.ackMessage(&m)
	}
}

// Nack reports that the message will not be processed. A server that can deliver it
// again does so, here or elsewhere (wire.Traits.Release); with any other server only
// the committed position changes: it never moves over the message, nor further. The
// message counts as delivered. Nack does not block and may be called from any goroutine.
// Of Ack and Nack the first counts.
func (m Message) Nack() {
	if m.queue != nil && m.Loss == nil {
		m.queue.releaseMessage(&m)
	}
}

// Typed is a Message and the value of its payload. See Decode.
type Typed[T any] struct {
	Message

	// Value is the value of the payload, the zero value for a loss and if Err is not nil.
	Value T

	// Err says why the payload has no value, otherwise it is nil. It is an *Error: it
	// wraps ErrContentType, a *PanicError of the codec, or the codec's error, whose text
	// may quote from the payload.
	Err error
}

// Decode iterates over seq, which is Subscription.Messages or Merge, and decodes each
// payload with c, such as codec.JSON. A payload that cannot be decoded does not end the
// iteration: Typed.Err says why, and the next message follows. A Gap or a Reset comes
// as it is, with Loss, without a value and without Err. The error of a pair is that of
// seq, which reports the end of a stream.
//
// A message whose Type names a content type that c does not list has an Err that wraps
// ErrContentType; its payload is not decoded. An empty Type is accepted, and so is one
// without a slash, since it does not name a content type.
//
// The loop body decides what is acknowledged, as in a loop over seq: a body that
// finishes normally acknowledges its message, also one with Err. Call Nack in it, or
// leave the loop, if that message must not count as processed.
//
// Each iteration decodes on the goroutine of its loop. If seq or c is nil, the only pair
// has an *Error of ClassInput.
func Decode[T any](seq iter.Seq2[Message, error], c codec.Codec[T]) iter.Seq2[Typed[T], error] {
	return func(yield func(Typed[T], error) bool) {
		if seq == nil || c == nil {
			yield(Typed[T]{}, inputError(opDecode, "", "seq and c must not be nil; pass Subscription.Messages and a codec such as codec.JSON"))
			return
		}
		d := payloadDecoder[T]{codec: c}
		seq(func(m Message, err error) bool {
			d.typed.Message = m
			if err == nil && m.Loss == nil {
				d.decode()
			} else {
				d.fail(nil)
			}
			return yield(d.typed, err)
		})
	}
}

const opDecode = "Decode"

// payloadDecoder is the part of one iteration of Decode that lasts. The message lies in
// it because that costs one copy less.
type payloadDecoder[T any] struct {
	codec    codec.Codec[T]
	accepted string // the last Type that the codec reads
	typed    Typed[T]
}

// decode sets Value and Err of typed.
func (d *payloadDecoder[T]) decode() {
	t := &d.typed
	defer d.recoverDecode()
	if t.Type != d.accepted {
		if err := checkContentType(opDecode, "Message.Type", t.Type, d.codec.ContentTypes()); err != nil {
			d.fail(err)
			return
		}
		d.accepted = t.Type
	}
	if t.Value, t.Err = d.codec.Decode(t.Payload); t.Err != nil {
		d.fail(payloadError(opDecode, "Message.Payload", t.Err))
	}
}

func (d *payloadDecoder[T]) recoverDecode() {
	if p := recover(); p != nil {
		d.fail(panickedCodec(opDecode, "Message.Payload", p))
	}
}

func (d *payloadDecoder[T]) fail(err error) {
	var none T
	d.typed.Value, d.typed.Err = none, err
}

// Merge iterates over the streams of several subscriptions, of one client or of
// several, as Subscription.Messages does over one. Subscriptions that have something
// to take get turns of one message, gap or reset each, so that none waits for more
// than one turn of each other; the order of each stream is kept. While the loop body
// works, all of them wait: if it works for long, DeliveryStopped may report the others.
//
// A loop body that finishes normally acknowledges its message, unless ManualAck is set
// for its subscription. After break, return or a panic the message stays
// unacknowledged until Message.Ack is called.
//
// A subscription that ends cleanly drops out. For one that is refused, or whose client
// fails permanently, there is one pair of a Message that has only a Topic and an error
// that names the topic and wraps that of Messages; the others go on. The iteration ends
// without an error when all have ended, at once if there are none. When ctx ends, the
// last pair is a zero Message and ctx's error. A nil ctx, or a nil Subscription in subs,
// is an *Error of ClassInput in the only pair. A subscription that is named twice counts
// once.
//
// Other consumers of the same subscriptions may be used at the same time: each element
// goes to one of them. A Merge that waits needs no goroutine, however many
// subscriptions there are.
func Merge(ctx context.Context, subs ...*Subscription) iter.Seq2[Message, error] {
	subs = slices.Clone(subs)
	return func(yield func(Message, error) bool) {
		if err := checkMerge(ctx, subs); err != nil {
			yield(Message{}, err)
			return
		}
		m := &merge{wake: make(chan struct{}, 1)}
		defer m.stop()
		m.start(subs)
		m.run(ctx, yield)
	}
}

const opMerge = "Merge"

func checkMerge(ctx context.Context, subs []*Subscription) error {
	if err := checkContext(opMerge, ctx); err != nil {
		return err
	}
	for i, s := range subs {
		if s == nil || s.queue == nil {
			return inputError(opMerge, "subs", "subscription %d (counted from 0) must not be nil or empty; pass what Subscribe returned", i)
		}
	}
	return nil
}

// merge is one iteration over several queues. They add their source to a list when it
// may have something to take; the iteration takes one element of the first source, and
// waits when the list is empty. Its lock is a leaf.
type merge struct {
	wake    chan struct{} // 1 slot: a source may be ready
	sources []mergeSource
	open    int // sources that have not ended

	mu          sync.Mutex
	first, last *mergeSource // that are ready, in the order of their turns
}

// mergeSource is a queue of a merge.
type mergeSource struct {
	merge *merge
	sub   *Subscription
	ready atomic.Bool // in the list of merge
	pace  *time.Timer // makes it ready after Delivery.Every; nil: not yet needed
	ended bool        // owned by the iteration

	next *mergeSource // in the list; guarded by merge.mu
}

// errNothingYet is the error of queue.takeFor while nothing can be taken.
var errNothingYet = errors.New("nothing to take yet")

// start makes every queue a source, ready for its first turn.
func (m *merge) start(subs []*Subscription) {
	m.sources = make([]mergeSource, len(subs))
	for i, s := range subs {
		src := &m.sources[i]
		src.merge, src.sub = m, s
		if s.queue.addMerge(src) {
			m.open++
			src.becomeReady()
		}
	}
}

func (m *merge) stop() {
	for i := range m.sources {
		m.sources[i].leave()
	}
}

// leave ends the part of a source in the iteration.
func (s *mergeSource) leave() {
	s.sub.queue.removeMerge(s)
	if s.pace != nil {
		s.pace.Stop()
	}
}

// becomeReady gives s a turn. It may be called from any goroutine and does not block.
func (s *mergeSource) becomeReady() {
	if s.ready.Swap(true) {
		return
	}
	m := s.merge
	m.mu.Lock()
	if m.last == nil {
		m.first = s
	} else {
		m.last.next = s
	}
	m.last = s
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// readyAfter makes s ready after wait, if that is not 0.
func (s *mergeSource) readyAfter(wait time.Duration) {
	switch {
	case wait <= 0:
	case s.pace == nil:
		s.pace = time.AfterFunc(wait, s.becomeReady)
	default:
		s.pace.Reset(wait)
	}
}

// takeTurn returns the source whose turn it is, nil if none is ready. What becomes
// available from now on makes it ready again.
func (m *merge) takeTurn() *mergeSource {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.first
	if s == nil {
		return nil
	}
	if m.first, s.next = s.next, nil; m.first == nil {
		m.last = nil
	}
	s.ready.Store(false)
	return s
}

func (m *merge) run(ctx context.Context, yield func(Message, error) bool) {
	var memory [1]Message
	var inBody *mergeSource // of the message that the loop body has got
	var processed processedRun
	defer func() {
		if inBody != nil {
			inBody.sub.queue.leaveBody(processedRun{})
		}
	}()
	for m.open > 0 {
		src := m.takeTurn()
		if inBody != nil && inBody != src {
			inBody.sub.queue.leaveBody(processed)
			inBody, processed = nil, processedRun{}
		}
		if src == nil {
			select {
			case <-m.wake:
				continue
			case <-ctx.Done():
				yield(Message{}, ctx.Err())
				return
			}
		}
		if src.ended {
			continue
		}
		q := src.sub.queue
		ms, err := q.takeFor(src, ctx, memory[:0], 1, false, &processed)
		inBody = nil
		switch {
		case ms != nil:
			inBody = src
			if !yield(ms[0], nil) {
				return
			}
			processed.inBody = true
			if !q.manualAck {
				processed.first, processed.last = ms[0].number, &memory[0]
			}
		case src.ended:
			m.open--
			src.leave()
			if err != nil && !yield(Message{Topic: src.sub.topic}, &mergedError{src.sub.topic, err}) {
				return
			}
		case err != errNothingYet:
			yield(Message{}, err)
			return
		}
	}
}

// addMerge makes src learn when there may be something to take. It reports false if
// its merge has the queue already.
func (q *queue) addMerge(src *mergeSource) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	var list []*mergeSource
	if old := q.merges.Load(); old != nil {
		list = slices.Clone(*old)
	}
	if slices.ContainsFunc(list, func(other *mergeSource) bool { return other.merge == src.merge }) {
		return false
	}
	list = append(list, src)
	q.merges.Store(&list)
	return true
}

// removeMerge undoes addMerge.
func (q *queue) removeMerge(src *mergeSource) {
	q.mu.Lock()
	defer q.mu.Unlock()
	old := q.merges.Load()
	if old == nil {
		return
	}
	list := slices.DeleteFunc(slices.Clone(*old), func(other *mergeSource) bool { return other == src })
	q.merges.Store(&list)
}
