package limpet

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"runtime/debug"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/codec"
	"github.com/limpet-go/limpet/internal/flush"
	"github.com/limpet-go/limpet/internal/mediatype"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/wire"
)

// PublishOptions are the options of one message.
type PublishOptions struct {
	// ID is the idempotency key. Defaults to a new UUIDv7.
	ID uuid.UUID

	// TTL is the lifetime of the message, counted from the admission. A message
	// that was not sent within it gets the outcome Expired. The server gets the
	// TTL, too. Defaults to 0: the message does not expire. From 1 millisecond to
	// 366 days.
	TTL time.Duration

	// Type is the content type. It must be UTF-8.
	Type string

	// Header holds at most 32 entries. They must be UTF-8, and together with Type
	// take at most 8 KiB.
	Header map[string]string

	// AtLeastOnce prefers a possible duplicate to an unknown outcome: the
	// message is resent even if the server may have forgotten its ID.
	AtLeastOnce bool

	// Done is called once with the receipt of the message when it has its outcome,
	// if Publish returned no error. Calls come one at a time, in the order of the
	// outcomes, on a goroutine of their own, so a slow Done delays no more than other
	// calls of Done. While 65,536 calls are waiting, or twice Window.Messages if that
	// is more, messages with Done are refused with ErrDoneBehind.
	//
	// Done may publish. It must not wait for the end of the client, as Shutdown,
	// Flush and a receive from Client.Done can: Client.Done is closed after all calls
	// have returned, or one of them has run for 10 seconds. A panic in it, or
	// runtime.Goexit, ends nothing but the call: see CallbackFailed. Calls that wait
	// when the process ends are lost. Defaults to none.
	Done func(*Receipt)
}

// Outgoing is one message of a PublishBatch, with the arguments of Publish.
type Outgoing struct {
	Topic   string
	Payload []byte
	PublishOptions
}

// Publish admits one message to the window and returns its receipt, whether or
// not the client is connected. Messages are sent in the order of admission, at
// once or as soon as the client is ready. Publish copies payload and the header.
// limpet.v1 carries payloads of at most 256 KiB.
//
// Publish blocks only while the window is full: until there is room, ctx ends
// or the client ends. With Window.FailFast it returns ErrWindowFull instead.
// After the admission ctx has no effect on the message. Publish may be called
// inside a loop over Messages.
//
// The error is an *Error that names the argument at fault, or that wraps
// ErrTopic, ErrTooBig, ErrUnsupported, ErrWindowFull, ErrDoneBehind, ErrClosed, the
// *PermanentError that ended the client, or ctx's error, together with
// ErrWindowFull if it waited for room. In each of these cases the message was not
// admitted: SafeToRetry is true. Retryable says whether trying again can help.
func (c *Client) Publish(ctx context.Context, topic string, payload []byte, o *PublishOptions) (*Receipt, error) {
	messages := [1]Outgoing{{Topic: topic, Payload: payload}}
	if o != nil {
		messages[0].PublishOptions = *o
	}
	if err := c.admit(ctx, messages[:]); err != nil {
		return nil, err
	}
	r := newReceipt(&messages[0])
	if r.id == uuid.Nil {
		r.id = c.ids.ID(c.ids.Reserve(1))
	}
	if err := c.postAdmitted(r, messages[:]); err != nil {
		return nil, err
	}
	return r, nil
}

// PublishBatch admits all messages or none and returns one receipt for each, in
// order. Otherwise it is like Publish, and costs less for each message. A batch
// that exceeds Window.Messages or Window.Bytes is refused with ErrTooBig. The
// text of an error about one message has its index. An empty batch is no error.
func (c *Client) PublishBatch(ctx context.Context, messages []Outgoing) ([]*Receipt, error) {
	if len(messages) == 0 {
		return nil, nil
	}
	if err := c.admit(ctx, messages); err != nil {
		return nil, err
	}
	receipts := make([]*Receipt, len(messages))
	var blocks publish
	var payloads []byte
	firstID := c.ids.Reserve(len(messages))
	for i := range messages {
		if i%receiptsPerBlock == 0 {
			blocks = append(blocks, make([]Receipt, min(receiptsPerBlock, len(messages)-i)))
		}
		r := &blocks[i/receiptsPerBlock][i%receiptsPerBlock]
		var payload []byte
		if payload, payloads = allocatePayload(payloads, messages[i:]); len(payload) > 0 {
			copy(payload, messages[i].Payload)
		}
		r.fill(&messages[i], payload)
		if r.id == uuid.Nil {
			r.id = c.ids.ID(firstID + uint64(i))
		}
		receipts[i] = r
	}
	if err := c.postAdmitted(blocks, messages); err != nil {
		return nil, err
	}
	return receipts, nil
}

// postAdmitted posts the event of admitted messages. If the client has ended in the
// meantime, their room is free again.
func (c *Client) postAdmitted(e event, messages []Outgoing) error {
	if c.inbox.Post(e) {
		return nil
	}
	for i := range messages {
		c.admission.Release(1, len(messages[i].Payload))
	}
	return admissionError(c.admission.ClosedBy())
}

// publish admits messages. Their order is the order of the inbox.
type publish [][]Receipt

func (e publish) apply(l *loop) {
	for _, receipts := range e {
		for i := range receipts {
			l.window.add(&receipts[i], l.now)
		}
		l.c.counters.published.Add(uint64(len(receipts)))
	}
	if l.ended {
		l.window.close()
	}
}

// apply makes a receipt the event of its own admission.
func (r *Receipt) apply(l *loop) {
	l.window.add(r, l.now)
	l.c.counters.published.Add(1)
	if l.ended {
		l.window.close()
	}
}

// The messages of a batch share blocks of memory. The blocks are small, since one
// message without an outcome keeps its whole block alive.
const (
	receiptsPerBlock = 64
	payloadBlock     = 4 << 10 // bytes
)

// allocatePayload takes the memory for the payload of messages[0] from block. If
// block is too short it makes a new one, with room for the payloads that follow.
func allocatePayload(block []byte, messages []Outgoing) (payload, rest []byte) {
	n := len(messages[0].Payload)
	if n > len(block) {
		size := n
		for i := 1; i < len(messages) && size+len(messages[i].Payload) <= payloadBlock; i++ {
			size += len(messages[i].Payload)
		}
		block = make([]byte, size)
	}
	return block[:n:n], block[n:]
}

// Send publishes one message and waits for its outcome: it is Publish followed
// by Receipt.Wait, and returns the errors of both. If ctx ends after the
// admission, the client still sends the message, and SafeToRetry is false for the
// error.
func (c *Client) Send(ctx context.Context, topic string, payload []byte, o *PublishOptions) (Ack, error) {
	r, err := c.Publish(ctx, topic, payload, o)
	if err != nil {
		return Ack{}, err
	}
	return r.Wait(ctx)
}

// Encode returns publish for values of type T instead of payloads. publish is
// Client.Publish, Client.Send, or a function of yours with the same arguments, such as
// one that collects an Outgoing for PublishBatch:
//
//	send := limpet.Encode(client.Send, codec.JSON[Order]())
//	ack, err := send(ctx, "orders/eu", order, nil)
//
// The returned function has the options and the errors of publish. It sets
// PublishOptions.Type to the first content type of c if it is empty, and does not change
// *o. It returns an *Error, without a call of publish, if the codec fails or panics
// (ClassUser; Field is "value"), if PublishOptions.Type names a content type that c does
// not list (it wraps ErrContentType), or if publish or c is nil; SafeToRetry is then
// true. It may be used by several goroutines at the same time if publish may.
func Encode[T, R any](publish func(context.Context, string, []byte, *PublishOptions) (R, error), c codec.Codec[T]) func(ctx context.Context, topic string, value T, o *PublishOptions) (R, error) {
	return func(ctx context.Context, topic string, value T, o *PublishOptions) (none R, err error) {
		if publish == nil || c == nil {
			return none, inputError(opPublish, "Encode", "publish and c must not be nil; pass Client.Publish and a codec such as codec.JSON")
		}
		var typed PublishOptions
		if o != nil {
			typed = *o
		}
		payload, err := encodePayload(c, value, &typed.Type)
		if err != nil {
			return none, err
		}
		return publish(ctx, topic, payload, &typed)
	}
}

// encodePayload encodes value. It checks typ, the content type, or sets it if it is empty.
func encodePayload[T any](c codec.Codec[T], value T, typ *string) (payload []byte, err error) {
	defer recoverCodec(opPublish, "value", &err)
	types := c.ContentTypes()
	if err := checkContentType(opPublish, "PublishOptions.Type", *typ, types); err != nil {
		return nil, err
	}
	if *typ == "" && len(types) > 0 {
		*typ = types[0]
	}
	payload, err = c.Encode(value)
	if err != nil {
		return nil, payloadError(opPublish, "value", err)
	}
	return payload, nil
}

// checkContentType returns an error if field, with the value typ, names another content
// type than those of a codec, of which there may be none.
func checkContentType(op, field, typ string, types []string) error {
	if len(types) == 0 || mediatype.Names(typ, types) {
		return nil
	}
	return inputError(op, field, "%w: it is %s, the codec has %s; use another codec, or one that lists it in ContentTypes",
		ErrContentType, text.Quote(typ), text.Quote(types[0]))
}

// payloadError is the error of a call in which a method of a codec returned err.
func payloadError(op, field string, err error) error {
	return &Error{Op: op, Field: field, Class: ClassUser, Err: &shortError{text.ForLog(err.Error()), err}}
}

// shortError is an error whose text may quote a payload: it is short and printable.
type shortError struct {
	text string
	err  error
}

func (e *shortError) Error() string { return e.text }
func (e *shortError) Unwrap() error { return e.err }

// recoverCodec is deferred around calls of a codec's methods.
func recoverCodec(op, field string, err *error) {
	if p := recover(); p != nil {
		*err = panickedCodec(op, field, p)
	}
}

func panickedCodec(op, field string, p any) error {
	return &Error{Op: op, Field: field, Class: ClassUser, Err: fmt.Errorf("the codec: %w", &PanicError{Value: p, Stack: debug.Stack()})}
}

// Receipts iterates over the receipts of messages without an outcome, oldest
// first. It is a snapshot, taken when the iteration begins: a receipt may have
// its outcome by the time it is yielded. After the client has ended there are
// none.
func (c *Client) Receipts() iter.Seq[*Receipt] {
	return func(yield func(*Receipt) bool) {
		query := listPending{make(chan []*Receipt, 1)}
		if !c.inbox.Post(query) {
			return
		}
		var receipts []*Receipt
		select {
		case receipts = <-query.reply:
		case <-c.done:
		}
		for _, r := range receipts {
			if !yield(r) {
				return
			}
		}
	}
}

// listPending replies with the receipts that have no outcome.
type listPending struct{ reply chan []*Receipt }

func (e listPending) apply(l *loop) {
	var rs []*Receipt
	for _, r := range l.window.slots.All() {
		if r.decided == Pending {
			rs = append(rs, r)
		}
	}
	e.reply <- rs
}

// Flush blocks until every message published before the call has an outcome. If
// ctx ends first it returns an *Error that wraps ctx's error. It waits for any outcome, not for
// success: the receipts say which it was. When the client ends, every message
// gets its outcome and Flush returns nil.
func (c *Client) Flush(ctx context.Context) error {
	if err := checkContext("Flush", ctx); err != nil {
		return err
	}
	reply := make(chan *flush.Point, 1)
	c.inbox.Post(flushAll{reply}) // if it is refused the client is ending: wait for done
	var point *flush.Point
	select {
	case point = <-reply: // at once: the loop never blocks
	case <-c.done:
		return nil
	}
	select {
	case <-point.Completed():
		return nil
	case <-c.done:
		return nil
	case <-ctx.Done():
		c.inbox.Post(leaveFlush{point})
		return contextError("Flush", "every message had its outcome", ctx.Err())
	}
}

// admit checks messages and acquires room for all of them.
func (c *Client) admit(ctx context.Context, messages []Outgoing) error {
	if err := checkContext(opPublish, ctx); err != nil {
		return err
	}
	payloadBytes, withDone, err := c.cfg.checkMessages(messages)
	if err != nil {
		return err
	}
	if withDone && c.doneFull() {
		return &Error{Op: opPublish, Field: "PublishOptions.Done", Class: ClassFull, Err: ErrDoneBehind}
	}
	full, err := c.admission.Acquire(ctx, len(messages), payloadBytes, !c.cfg.Window.FailFast)
	switch {
	case full && err != nil:
		return admissionError(joinReason(ErrWindowFull, err))
	case full:
		return admissionError(ErrWindowFull)
	case err != nil:
		return admissionError(err)
	}
	return nil
}

func admissionError(err error) *Error {
	if permanent := (*PermanentError)(nil); errors.As(err, &permanent) {
		return &Error{Op: opPublish, Class: ClassOf(err), Err: err}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return contextError(opPublish, "the message was admitted", err)
	}
	return &Error{Op: opPublish, Class: ClassOf(err), Err: err}
}

// checkMessages checks what does not depend on the free room of the window. It
// returns the size of all payloads, and whether a message has Done.
func (c *config) checkMessages(messages []Outgoing) (payloadBytes int, withDone bool, err error) {
	if !c.traits.Publish {
		return 0, false, unsupported(opPublish, "", "dialect "+c.Dialect.Name()+" does not accept messages")
	}
	topic := ""
	for i := range messages {
		m := &messages[i]
		if i == 0 || m.Topic != topic {
			topic = m.Topic
			if err := c.Dialect.CheckTopic(wire.UsePublish, topic); err != nil {
				return 0, false, inBatch(topicError(opPublish, err), i, len(messages))
			}
		}
		if err := c.checkMessage(m); err != nil {
			return 0, false, inBatch(err, i, len(messages))
		}
		payloadBytes += len(m.Payload)
		withDone = withDone || m.Done != nil
	}
	if len(messages) > c.Window.Messages || payloadBytes > c.Window.Bytes {
		return 0, false, &Error{Op: opPublish, Field: "payload", Class: ClassInput,
			Err: fmt.Errorf("%w, or raise Options.Window: %d messages of %d bytes can never fit its %d messages and %d bytes",
				ErrTooBig, len(messages), payloadBytes, c.Window.Messages, c.Window.Bytes)}
	}
	return payloadBytes, withDone, nil
}

// inBatch says which message of a batch err is about.
func inBatch(err *Error, i, n int) *Error {
	if n > 1 {
		err.Err = fmt.Errorf("message %d of the batch (counted from 0): %w", i, err.Err)
	}
	return err
}

// newReceipt makes the receipt of m with a copy of the payload. A short payload
// shares the allocation of the receipt.
func newReceipt(m *Outgoing) *Receipt {
	if n := len(m.Payload); 0 < n && n <= maxInlinePayload {
		r := new(inlineReceipt)
		r.fill(m, append(r.inline[:0], m.Payload...))
		return &r.Receipt
	}
	r := new(Receipt)
	r.fill(m, append([]byte(nil), m.Payload...))
	return r
}

// fill makes r the receipt of m. It keeps payload and copies the header.
func (r *Receipt) fill(m *Outgoing, payload []byte) {
	r.id, r.topic, r.payload, r.atLeastOnce = m.ID, m.Topic, payload, m.AtLeastOnce
	if m.Type == "" && len(m.Header) == 0 && m.TTL == 0 && m.Done == nil {
		return
	}
	r.details = &receiptDetails{contentType: m.Type, header: maps.Clone(m.Header), ttl: m.TTL, done: m.Done}
	if m.TTL > 0 {
		r.details.expires = time.Now().Add(m.TTL)
	}
}
