package limpet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/codec"
	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/flush"
	"github.com/limpet-go/limpet/internal/inbox"
	"github.com/limpet-go/limpet/internal/mediatype"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/internal/text"
	"github.com/limpet-go/limpet/wire"
)

const (
	opSendStream = "SendStream"
	maxPart      = 32 << 10 // bytes read from the reader at a time
	emptyReads   = 100      // in a row, as bufio allows
)

var (
	errStreamStalled = fmt.Errorf("the reader returned nothing for %v, and no other message can be sent until it ends; read the data first, or use a reader that keeps up", stallTimeout)
	errReaderGoexit  = errors.New("the reader called runtime.Goexit, as t.FailNow does; return an error instead")
	errReaderCount   = errors.New("the reader returned a count of bytes that is not in its buffer; see io.Reader")
	errNotAlone      = errors.New("the dialect has the trait Streams, but Encode puts more than the payload into the message; correct the dialect")
	errStreamText    = errors.New("the payload is not UTF-8, which a text must be; choose a PublishOptions.Type for binary data")
)

// SendStream sends what r returns, up to io.EOF, as the payload of one message whose size is
// not known, and returns its outcome. The message is one WebSocket message in fragments, so
// the dialect must have the trait wire.Traits.Streams, as wire/raw has. The window does not
// hold it: the memory is 64 KiB, whatever the size.
//
// Messages published before the call are sent before it. Then, from the first byte to the
// last, no other data frame can leave: what is published meanwhile waits, and so do
// requests for subscriptions and heartbeats in messages of the dialect. WebSocket pings and pongs
// pass in between, and messages are received. A reader that returns nothing for 15
// seconds, that fails or that panics therefore costs the connection, and so does a ctx that ends: a
// message cannot be left unfinished. For wire.ConnectionLimits it counts as one message.
//
// SendStream blocks until the outcome is known, while the client is not connected
// too. r is read on another goroutine, at first before anything is sent. If SendStream
// returns an error, a call of Read may still be in progress. Several calls of SendStream
// take turns.
//
// If the error is nil, the outcome is Written: everything was handed to the network. A
// message of which a part was handed over before something failed is Unknown, and the
// error wraps ErrOutcomeUnknown and the error of r or ctx, if that is what failed. It is
// never sent again. With any other error nothing was sent, and SafeToRetry is true: an
// *Error that names the argument at fault, or that wraps ErrUnsupported, ErrTopic,
// ErrRejected, ErrClosed, the *PermanentError that ended the client, the error of r, a
// *PanicError, or ctx's error.
//
// Of o, ID, Type and Header have an effect. TTL, Done and AtLeastOnce are refused, and so is the
// call with Options.Outbox. If the
// message is a text, it must be UTF-8.
func (c *Client) SendStream(ctx context.Context, topic string, r io.Reader, o *PublishOptions) (Ack, error) {
	s, err := c.newStream(ctx, topic, r, o)
	if err != nil {
		return Ack{}, err
	}
	if !c.inbox.Post(openStream{s}) {
		return Ack{}, c.endError(opSendStream)
	}
	go s.read(r, &c.inbox)
	select {
	case result := <-s.result:
		return result.ack, result.err
	case <-ctx.Done():
		c.inbox.Post(streamFailed{s, ctx.Err()})
	}
	result := <-s.result // at once: the loop has either event, or has ended
	return result.ack, result.err
}

// newStream checks the arguments of SendStream.
func (c *Client) newStream(ctx context.Context, topic string, r io.Reader, o *PublishOptions) (*streamedMessage, error) {
	if err := checkContext(opSendStream, ctx); err != nil {
		return nil, err
	}
	m := Outgoing{Topic: topic}
	if o != nil {
		m.PublishOptions = *o
	}
	switch {
	case !c.cfg.traits.Streams:
		return nil, unsupported(opSendStream, "", "dialect "+c.cfg.Dialect.Name()+" has no messages of unknown size (trait Streams); use Send with the whole payload")
	case c.cfg.Outbox != nil:
		return nil, unsupported(opSendStream, optionOutbox, "what a reader returns cannot be kept in an outbox; use a client without one, or Send with the whole payload")
	case r == nil:
		return nil, inputError(opSendStream, "r", "must not be nil; use strings.NewReader(\"\") for an empty message")
	case m.TTL != 0:
		return nil, unsupported(opSendStream, "PublishOptions.TTL", "use ctx to limit how long a stream may take")
	case m.Resend == AtLeastOnce:
		return nil, unsupported(opSendStream, "PublishOptions.Resend", "what a reader has returned cannot be sent again")
	case m.Done != nil:
		return nil, unsupported(opSendStream, optionDone, "SendStream itself returns the outcome")
	case ctx.Err() != nil:
		return nil, contextError(opSendStream, "the message was sent", ctx.Err())
	}
	if _, _, err := c.cfg.checkMessages([]Outgoing{m}); err != nil {
		var e *Error
		if errors.As(err, &e) {
			e.Op = opSendStream
		}
		return nil, err
	}
	s := &streamedMessage{
		id: m.ID, message: wire.Message{Topic: topic, Type: m.Type, Header: maps.Clone(m.Header)},
		next: make(chan struct{}, 1), stop: make(chan struct{}), result: make(chan streamResult, 1),
	}
	if s.id == uuid.Nil {
		s.id = c.ids.ID(c.ids.Reserve(1))
	}
	s.message.ID = wire.ID(s.id)
	s.next <- struct{}{}
	return s, nil
}

// streamedMessage is a message that SendStream sends. The fields above message do not change, the others belong to the loop.
type streamedMessage struct {
	id     uuid.UUID
	next   chan struct{}     // one slot: the reader may post a part
	stop   chan struct{}     // closed with the outcome: no part is wanted any more
	result chan streamResult // one slot

	message  wire.Message // without its payload
	after    *flush.Point // the last message before it
	frame    wire.FrameType
	part     []byte // what was read and is not written
	hasPart  bool
	last     bool      // part is the last one
	begun    bool      // a part was handed to the network
	partBy   time.Time // when the reader counts as stalled; zero: nothing is expected of it
	resolved bool
}

type streamResult struct {
	ack Ack
	err error
}

// resolve decides the outcome. Only the first call counts.
func (s *streamedMessage) resolve(o Outcome, err error) {
	if s.resolved {
		return
	}
	s.resolved, s.part = true, nil
	close(s.stop)
	ack := Ack{ID: s.id, Outcome: o}
	if o == Pending {
		ack = Ack{} // nothing was sent
	}
	s.result <- streamResult{ack, err}
}

// read posts what r returns. It reads the next part while one is written.
func (s *streamedMessage) read(r io.Reader, to *inbox.Inbox[event]) {
	returned := false
	defer func() {
		if !returned { // r ends this goroutine
			s.post(to, streamFailed{s, errReaderGoexit})
		}
	}()
	var buffers [2][maxPart]byte
	for i, more := 0, true; more; i++ {
		n, last, err := readPart(r, buffers[i%2][:])
		if err != nil {
			s.post(to, streamFailed{s, err})
			break
		}
		more = s.post(to, streamPart{s, buffers[i%2][:n], last}) && !last
	}
	returned = true
}

// post posts e once the part before is written: the next one is read into its buffer. It
// reports false if nothing more is wanted.
func (s *streamedMessage) post(to *inbox.Inbox[event], e event) bool {
	select {
	case <-s.next:
		return to.Post(e)
	case <-s.stop:
		return false
	}
}

// readPart reads at least one byte or the end, or fails.
func readPart(r io.Reader, p []byte) (n int, last bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, last, err = 0, false, &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	for range emptyReads {
		n, err = r.Read(p)
		switch {
		case n < 0 || n > len(p):
			return 0, false, errReaderCount
		case err == io.EOF:
			return n, true, nil
		case err != nil:
			socket.CallMethods(err)
			return 0, false, err
		case n > 0:
			return n, false, nil
		}
	}
	return 0, false, io.ErrNoProgress
}

// openStream follows when SendStream was called.
type openStream struct{ s *streamedMessage }

func (e openStream) apply(l *loop) {
	if l.ended || l.shuttingDown {
		e.s.resolve(Pending, l.c.endError(opSendStream))
		return
	}
	e.s.after = l.window.addFlushPoint()
	l.streams = append(l.streams, e.s)
}

// streamPart is what the reader of a stream has returned.
type streamPart struct {
	s    *streamedMessage
	data []byte
	last bool
}

func (e streamPart) apply(*loop) {
	if s := e.s; !s.resolved {
		s.part, s.hasPart, s.last, s.partBy = e.data, true, e.last, time.Time{}
	}
}

// streamFailed follows when a stream cannot go on on this side: its reader failed, or its ctx
// ended.
type streamFailed struct {
	s   *streamedMessage
	err error
}

func (e streamFailed) apply(l *loop) { l.failStream(e.s, e.err) }

// failStream ends a stream of which nothing was sent. If something was, it ends the
// connection too, which can carry nothing else before the end of the message.
func (l *loop) failStream(s *streamedMessage, err error) {
	k := l.link
	switch {
	case s.resolved:
	case !s.begun:
		l.streams = slices.DeleteFunc(l.streams, func(other *streamedMessage) bool { return other == s })
		s.resolve(Pending, streamError(err))
	default: // then k.stream is s: the end of its connection has resolved any other
		k.stream = nil
		l.resolveStream(s, joinReason(ErrOutcomeUnknown, err))
		l.disconnect(k, 1011, "")
		l.fail(k, &wire.Failure{Stage: k.stage(), Err: &fault.User{Option: opSendStream, Err: err}})
	}
}

// streamError is the error of a stream of which nothing was sent.
func streamError(err error) *Error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return contextError(opSendStream, "the message was sent", err)
	}
	return &Error{Op: opSendStream, Field: "r", Class: ClassUser, Err: err}
}

// resolveStream decides and counts the outcome of a stream that was begun: Written, or Unknown
// because of err.
func (l *loop) resolveStream(s *streamedMessage, err error) {
	outcome := Written
	if err != nil {
		outcome = Unknown
		err = outcomeError(err)
		l.c.notify.post(MessageFailed{s.message.Topic, s.id, outcome, err})
	}
	l.c.counters.published.Add(1)
	l.c.counters.outcomes[outcome].Add(1)
	s.resolve(outcome, err)
}

// loseStream follows when k ends: nothing says how much of its stream the server has.
func (l *loop) loseStream(k *link) {
	if s := k.stream; s != nil {
		k.stream = nil
		l.resolveStream(s, ErrOutcomeUnknown)
	}
}

// endStreams follows when the client ends, after its connection.
func (l *loop) endStreams() {
	for _, s := range l.streams {
		s.resolve(Pending, l.c.endError(opSendStream))
	}
	l.streams = nil
}

// writeStream writes the next part of a stream. It reports whether the connection is
// taken by a stream: then nothing else may be written.
func (l *loop) writeStream(k *link) bool {
	for k.stream == nil {
		s := l.nextStream(k)
		if s == nil {
			return false
		}
		if l.beginStream(k, s); l.link != k {
			return true // the dialect has failed
		}
	}
	s := k.stream
	if !s.hasPart {
		return true
	}
	part := socket.Part{Type: s.frame, Data: s.part, First: !s.begun, Last: s.last}
	s.begun, s.part, s.hasPart = true, nil, false
	k.writing, k.writeStarted = true, l.now
	l.c.goroutines.Go(func() {
		err := k.conn.SendPart(part)
		l.c.inbox.Post(wrotePart{k.conn, s, part, asCallersFault(err)})
	})
	return true
}

// nextStream returns the stream whose turn it is, nil if there is none. Messages that were
// published before it, and all that is due now, come first.
func (l *loop) nextStream(k *link) *streamedMessage {
	waits := len(k.replies) + len(k.ops) + len(k.toAsk)
	if len(l.streams) == 0 || !k.ready || k.start != nil || k.unwritten.frames != nil || waits > 0 {
		return nil
	}
	sent := l.window.firstSeq + uint64(l.window.nextToSend) - 1
	i := slices.IndexFunc(l.streams, func(s *streamedMessage) bool { return s.hasPart && s.after.Reached(sent) })
	if i < 0 || l.roomToSend(k) == 0 {
		return nil
	}
	return l.streams[i]
}

// beginStream makes s the stream of k, unless the dialect refuses it.
func (l *loop) beginStream(k *link, s *streamedMessage) {
	l.streams = slices.DeleteFunc(l.streams, func(other *streamedMessage) bool { return other == s })
	var out wire.Frames
	err := k.encodeWithin([]wire.Op{{Kind: wire.OpPublish, Message: &s.message}}, &out)
	var refused *wire.OpError
	switch {
	case errors.As(err, &refused):
		s.resolve(Rejected, &Error{Op: opSendStream, Class: ClassOutcome, Err: joinReason(ErrRejected, l.c.secrets.HideError(refused.Err))})
		return
	case err != nil:
		s.resolve(Pending, &Error{Op: opSendStream, Field: fault.OptionDialect, Class: ClassUser, Err: err})
		l.violated(k, asViolation(fmt.Errorf("dialect cannot encode: %w", err)))
		return
	case len(out.List) != 1 || len(out.List[0].Data) > 0:
		s.resolve(Pending, &Error{Op: opSendStream, Field: fault.OptionDialect, Class: ClassUser, Err: errNotAlone})
		return
	}
	l.noteSent(1, false)
	s.frame, k.stream = out.List[0].Type, s
}

// wrotePart is the end of the write of one part.
type wrotePart struct {
	conn *conn
	s    *streamedMessage
	part socket.Part
	err  error
}

func (e wrotePart) apply(l *loop) {
	k, s := l.linkOf(e.conn), e.s
	if k == nil {
		return
	}
	k.noteProgress()
	k.writing = false
	switch {
	case k.stream != s:
	case errors.Is(e.err, socket.ErrNotText) && e.part.First: // nothing was written
		k.stream = nil
		s.resolve(Rejected, &Error{Op: opSendStream, Field: "r", Class: ClassInput, Err: joinReason(ErrRejected, errStreamText)})
	case errors.Is(e.err, socket.ErrNotText):
		l.failStream(s, errStreamText)
	case e.err != nil:
		k.writeErr = e.err // as in wrote
		k.killBy = l.now.Add(closeFrameTimeout)
		l.loseStream(k)
	case e.part.Last:
		k.stream = nil
		l.c.counters.bytesWritten.Add(uint64(len(e.part.Data)))
		l.resolveStream(s, nil)
	default:
		l.c.counters.bytesWritten.Add(uint64(len(e.part.Data)))
		s.partBy = l.now.Add(stallTimeout)
		s.next <- struct{}{} // there is a slot: the part has taken it
	}
}

// partBy is when the reader of the stream counts as stalled; zero: nothing is expected of it.
func (k *link) partBy() time.Time {
	if k.stream == nil {
		return time.Time{}
	}
	return k.stream.partBy
}

// howToPing is how the peer is asked for a sign of life now: before the end of a stream no
// operation can be written.
func (l *loop) howToPing(k *link) wire.Ping {
	if how := l.c.cfg.traits.Ping; how != wire.PingOp || k.stream == nil {
		return how
	}
	return wire.PingControl
}

// checkStream ends a stream whose reader has stalled.
func (l *loop) checkStream(k *link) {
	if due(k.partBy(), l.now) {
		l.failStream(k.stream, errStreamStalled)
	}
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

// recoverCodec is deferred around calls of a codec's methods.
func recoverCodec(op, field string, err *error) {
	if p := recover(); p != nil {
		*err = panickedCodec(op, field, p)
	}
}

func panickedCodec(op, field string, p any) error {
	return &Error{Op: op, Field: field, Class: ClassUser, Err: fmt.Errorf("the codec: %w", &PanicError{Value: p, Stack: debug.Stack()})}
}
