package limpet

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/wire"
)

// Publish admits one message and returns its receipt; ctx bounds the
// admission, which waits only while the window is full. Messages are sent in
// the order of admission, now or after the next connection. The payload is
// copied. Errors are about this message: a *Error that names the argument, or
// wraps ErrTooBig, ErrWindowFull, ErrClosed or ctx's error. In every one of
// them the message was not admitted.
func (c *Client) Publish(ctx context.Context, topic string, payload []byte, o *PublishOptions) (*Receipt, error) {
	ms := [1]Outgoing{{Topic: topic, Payload: payload}}
	m := &ms[0]
	if o != nil {
		m.PublishOptions = *o
	}
	if err := c.admit(ctx, ms[:]); err != nil {
		return nil, err
	}
	var r *Receipt
	if n := len(payload); 0 < n && n <= shortPayload {
		short := new(shortReceipt)
		r = &short.Receipt
		r.fill(m, append(short.payload[:0], payload...))
	} else {
		r = new(Receipt)
		r.fill(m, append([]byte(nil), payload...))
	}
	if r.id == uuid.Nil {
		r.id = c.ids.ID(c.ids.Reserve(1))
	}
	if !c.inbox.post(r) {
		return nil, admissionError(ErrClosed)
	}
	return r, nil
}

// PublishBatch admits all messages or none, in order, with one receipt each.
func (c *Client) PublishBatch(ctx context.Context, ms []Outgoing) ([]*Receipt, error) {
	if len(ms) == 0 {
		return nil, nil
	}
	if err := c.admit(ctx, ms); err != nil {
		return nil, err
	}
	rs := make([]*Receipt, len(ms))
	var together publish
	var block []byte
	first := c.ids.Reserve(len(ms))
	for i := range ms {
		if i%receiptsTogether == 0 {
			together = append(together, make([]Receipt, min(receiptsTogether, len(ms)-i)))
		}
		r := &together[i/receiptsTogether][i%receiptsTogether]
		var payload []byte
		if payload, block = cut(block, ms[i:]); len(payload) > 0 {
			copy(payload, ms[i].Payload)
		}
		r.fill(&ms[i], payload)
		if r.id == uuid.Nil {
			r.id = c.ids.ID(first + uint64(i))
		}
		rs[i] = r
	}
	if !c.inbox.post(together) {
		return nil, admissionError(ErrClosed)
	}
	return rs, nil
}

// What a batch shares in memory is bounded, since the last message without an
// outcome holds all of it.
const (
	receiptsTogether = 64
	bytesTogether    = 4 << 10
)

// cut cuts the memory of the first payload of ms off block, or off a new one
// with room for those that follow.
func cut(block []byte, ms []Outgoing) (payload, rest []byte) {
	n := len(ms[0].Payload)
	if n > len(block) {
		size := n
		for i := 1; i < len(ms) && size+len(ms[i].Payload) <= bytesTogether; i++ {
			size += len(ms[i].Payload)
		}
		block = make([]byte, size)
	}
	return block[:n:n], block[n:]
}

// Send is Publish followed by Receipt.Wait. When ctx ends after the admission
// the message is still on its way and the error is not SafeToRetry.
func (c *Client) Send(ctx context.Context, topic string, payload []byte, o *PublishOptions) (Ack, error) {
	r, err := c.Publish(ctx, topic, payload, o)
	if err != nil {
		return Ack{}, err
	}
	return r.Wait(ctx)
}

// admit checks messages and takes their room in the window.
func (c *Client) admit(ctx context.Context, ms []Outgoing) error {
	if !c.cfg.traits.Publish {
		return unsupported(opPublish, "", "dialect "+c.cfg.Dialect.Name()+" takes no messages")
	}
	bytes, topic := 0, ""
	for i := range ms {
		if i == 0 || ms[i].Topic != topic {
			topic = ms[i].Topic
			if err := c.cfg.Dialect.CheckTopic(wire.UsePublish, topic); err != nil {
				return topicError(opPublish, err)
			}
		}
		if err := c.check(&ms[i]); err != nil {
			return err
		}
		bytes += len(ms[i].Payload)
	}
	if len(ms) > c.cfg.Window.Messages || bytes > c.cfg.Window.Bytes {
		return &Error{Op: opPublish, Field: "payload", Class: ClassInput,
			Err: fmt.Errorf("%w: %d messages of %d bytes can never fit Options.Window", ErrTooBig, len(ms), bytes)}
	}
	if err := c.admission.acquire(ctx, len(ms), bytes, !c.cfg.Window.FailFast); err != nil {
		return admissionError(err)
	}
	return nil
}

func admissionError(err error) *Error {
	e := &Error{Op: opPublish, Class: Class(err), Err: err}
	if e.Class == ClassOther {
		e.Class = ClassFull // ctx ended while waiting for room
	}
	return e
}

// fill makes r the receipt of m. It keeps payload.
func (r *Receipt) fill(m *Outgoing, payload []byte) {
	r.id, r.topic, r.payload, r.atLeast = m.ID, m.Topic, payload, m.AtLeastOnce
	if m.Type == "" && len(m.Header) == 0 && m.TTL == 0 {
		return
	}
	r.extra = &extra{kind: m.Type, header: maps.Clone(m.Header), ttl: m.TTL}
	if m.TTL > 0 {
		r.extra.expires = time.Now().Add(m.TTL)
	}
}

// check checks what depends on nothing but m, the topic aside.
func (c *Client) check(m *Outgoing) error {
	if m.TTL < 0 {
		return inputError(opPublish, "PublishOptions.TTL", "must not be negative, is %v", m.TTL)
	}
	if most := c.cfg.traits.MaxPayload; most > 0 && len(m.Payload) > most {
		return &Error{Op: opPublish, Field: "payload", Class: ClassInput,
			Err: fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooBig, len(m.Payload), most)}
	}
	if m.Type == "" && len(m.Header) == 0 {
		return nil
	}
	if !utf8.ValidString(m.Type) {
		return inputError(opPublish, "PublishOptions.Type", "is not UTF-8")
	}
	size := len(m.Type)
	for k, v := range m.Header {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return inputError(opPublish, "PublishOptions.Header", "entry %q is not UTF-8", k)
		}
		size += len(k) + len(v)
	}
	if len(m.Header) > 32 || size > 8<<10 {
		return inputError(opPublish, "PublishOptions.Header", "%d entries of %d bytes, the type included; at most 32 and 8 KiB", len(m.Header), size)
	}
	return nil
}

// Receipts iterates over the receipts without an outcome, oldest first, as of
// the call.
func (c *Client) Receipts() iter.Seq[*Receipt] {
	return func(yield func(*Receipt) bool) {
		for _, r := range c.pending() {
			if !yield(r) {
				return
			}
		}
	}
}

func (c *Client) pending() []*Receipt {
	q := pendingQuery{make(chan []*Receipt, 1)}
	if !c.inbox.post(q) {
		return nil
	}
	select {
	case rs := <-q.reply:
		return rs
	case <-c.done:
		return nil
	}
}

// Flush blocks until every message published before the call has an outcome,
// or ctx ends (ctx's error).
func (c *Client) Flush(ctx context.Context) error {
	f := flush{make(chan struct{})}
	c.inbox.post(f) // too late: the loop is giving the last outcomes, until done
	select {
	case <-f.done:
		return nil
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
