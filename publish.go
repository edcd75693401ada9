package limpet

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/internal/flush"
	"github.com/limpet-go/limpet/internal/keeper"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/wire"
)

// PublishOptions are the options of one message.
type PublishOptions struct {
	// ID is the idempotency key. Defaults to a new UUIDv7.
	ID uuid.UUID

	// TTL is the lifetime of the message, counted from the admission. A message
	// that was not sent within it gets the outcome Expired, and its place in the
	// window is free again. The server gets the TTL, too. Defaults to 0: the message does not expire. From 1 millisecond to
	// 366 days.
	TTL time.Duration

	// Type is the content type. It must be UTF-8.
	Type string

	// Header holds at most 32 entries. They must be UTF-8, and together with Type
	// take at most 8 KiB.
	Header map[string]string

	// Resend is what happens to a message that may have left when its connection is lost.
	// Defaults to Exact. docs/guarantees.md has a table.
	Resend Resend

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
// With Options.Outbox, Publish also blocks until the message is durable. Once it is in a commit, ctx
// has no effect, and Publish returns when the commit does. While the outbox holds a message with
// the same PublishOptions.ID, Publish returns the receipt of that one, and publishes nothing; if topic
// or payload differ, the error wraps ErrIDReused.
//
// The error is an *Error that names the argument at fault, or that wraps
// ErrTopic, ErrTooBig, ErrUnsupported, ErrWindowFull, ErrDoneBehind, ErrClosed, ErrOutbox, the
// *PermanentError that ended the client, or ctx's error, together with
// ErrWindowFull if it waited for room. In each of these cases, but for outbox.ErrUncertain, the
// message was not admitted: SafeToRetry is true. Retryable says whether trying again can help.
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
	if c.cfg.Outbox != nil {
		kept, err := c.keep(ctx, []*Receipt{r})
		if err != nil {
			return nil, err
		}
		return kept[0], nil
	}
	if err := c.postAdmitted(r, messages[:]); err != nil {
		return nil, err
	}
	return r, nil
}

// PublishBatch admits all messages or none and returns one receipt for each, in
// order. With Options.Outbox it is one commit. Otherwise it is like Publish, and costs less for each message. A batch
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
	if c.cfg.Outbox != nil {
		return c.keep(ctx, receipts)
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

// keep makes the outbox keep messages that are admitted. It returns their receipts once that is
// durable.
func (c *Client) keep(ctx context.Context, receipts []*Receipt) ([]*Receipt, error) {
	rec := keeper.NewRecord(receipts)
	if !c.inbox.Post(keepRecord{rec}) {
		c.releaseRoom(receipts)
		return nil, admissionError(c.admission.ClosedBy())
	}
	withdrawn, err := rec.Wait(ctx)
	switch {
	case withdrawn:
		c.releaseRoom(receipts)
		return nil, contextError(opPublish, "the outbox had the message", err)
	case err != nil:
		return nil, err
	}
	return rec.Items, nil
}

func (c *Client) releaseRoom(receipts []*Receipt) {
	for _, r := range receipts {
		c.admission.Release(1, len(r.payload))
	}
}

// keepRecord is what one call publishes with an outbox. Their order is the order of the inbox.
type keepRecord struct{ *keeper.Record[*Receipt] }

func (e keepRecord) apply(l *loop) {
	if l.journal.Add(e.Record); l.ended {
		l.refuseUnkept()
	}
}

// keep begins the next commit, if one is due and none is in progress.
func (l *loop) keep() {
	if l.journal != nil && !l.ended && !l.journal.Busy() {
		l.journal.Begin(l.keeping(), func() { l.c.inbox.Post(commitEnded{}) }, func() { l.c.inbox.Post(commitDue{}) })
	}
}

func (l *loop) keeping() keeper.View[*Receipt] {
	return keeper.View[*Receipt]{
		Now: l.now.Round(0), LastSeq: l.window.lastSeq(), Prepare: l.prepare,
		Kept:    func() []outbox.Message { return l.window.keptMessages(l.now) },
		Leaving: l.window.leaving,
		Message: func(r *Receipt) outbox.Message { return l.window.keptMessage(r, l.now) },
	}
}

// prepare returns the messages of rec that the outbox does not hold yet. The receipts of the
// others take the place of those that repeat them.
func (l *loop) prepare(rec *keeper.Record[*Receipt]) (fresh []*Receipt, err error) {
	for i, r := range rec.Items {
		first, held, same := l.window.ids.Find(r.id, r.topic, r.payload)
		switch {
		case !held:
			l.window.ids.Add(r.id, r, r.topic, r.payload)
			fresh = append(fresh, r)
		case !same:
			l.window.forgetIDs(fresh)
			l.c.releaseRoom(rec.Items)
			return nil, inBatch(&Error{Op: opPublish, Field: "PublishOptions.ID", Class: ClassInput, Err: ErrIDReused}, i, len(rec.Items))
		default:
			defer func() { // not before it is clear that nothing is in conflict
				if err == nil {
					l.window.admission.Release(1, len(r.payload))
					rec.Items[i] = l.window.repeat(first, r)
				}
			}()
		}
	}
	return fresh, nil
}

// repeat returns the receipt of a message that was published again as r, so that its Done is called too.
func (w *window) repeat(first, r *Receipt) *Receipt {
	if r.details == nil || r.details.done == nil {
		return first
	}
	again := r.details.done
	if first.Outcome() != Pending { // its own Done may be running
		r.decided, r.duplicate, r.payload = first.decided, first.duplicate, nil
		if first.details != nil {
			r.details.err, r.details.reply = first.details.err, first.details.reply
		}
		w.show(r)
		return r
	}
	if first.details == nil {
		first.details = new(receiptDetails)
	}
	before := first.details.done
	first.details.done = func(r *Receipt) {
		if before != nil {
			before(r)
		}
		again(r)
	}
	return first
}

// committed follows when it is known what became of a commit.
func (l *loop) committed(r keeper.Result[*Receipt]) {
	var err error
	if r.Err != nil {
		l.window.giveBack(r.Items)
		err = &Error{Op: opPublish, Field: optionOutbox, Class: ClassLocal, Err: joinReason(ErrOutbox, r.Err)}
	} else {
		for _, receipt := range r.Items {
			l.window.add(receipt, l.now)
		}
		l.c.counters.published.Add(uint64(len(r.Items)))
	}
	for _, rec := range r.Records {
		rec.Finish(err)
	}
	l.window.reveal(r.Held)
	if r.First {
		l.c.notify.post(CallbackFailed{optionOutbox, err})
	}
	switch {
	case l.ended:
		l.window.close()
	case r.Final:
		l.end(&PermanentError{ClassLocal, err})
	case l.waits && l.state.Phase == Waiting:
		l.attemptAt = later(l.now, l.earliestAttempt())
	}
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

// Receipts iterates over the receipts of messages without an outcome, oldest
// first. It is a snapshot, taken when the iteration begins: a receipt may have
// its outcome by the time it is yielded. The first call also has those of all messages that
// Options.Outbox held, with and without outcome. After the client has ended there are none.
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
	rs := l.window.restored
	listed := make(map[*Receipt]bool, len(rs))
	for _, r := range rs {
		listed[r] = true
	}
	for _, r := range l.window.slots.All() {
		if !r.isDecided() && !listed[r] {
			rs = append(rs, r)
		}
	}
	l.window.restored = nil
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
	r.id, r.topic, r.payload, r.resend = m.ID, m.Topic, payload, m.Resend
	if m.Type == "" && len(m.Header) == 0 && m.TTL == 0 && m.Done == nil {
		return
	}
	r.details = &receiptDetails{contentType: m.Type, header: maps.Clone(m.Header), ttl: m.TTL, done: m.Done}
	if m.TTL > 0 {
		r.details.expires = time.Now().Add(m.TTL)
	}
}
