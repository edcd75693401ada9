package stomp

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// codec is the state of one connection. The loop uses encoder and resume, the reader
// decoder. Both use requests.
type codec struct {
	options  *Options
	resume   wire.Resume
	requests *wire.Ledger[uint64, request] // by the number of the receipt
	encoder
	decoder
}

// request is what a receipt answers.
type request struct {
	cmd   uint64 // as Op.Cmd
	topic string
}

// The kinds of Op.Cmd.
const (
	cmdKinds     = 4
	cmdSubscribe = 1
	cmdPublish   = 3
)

// encoder is what Start and Encode use.
type encoder struct {
	version  version
	probe    bool              // the server's heartbeats do not suffice as signs of life
	live     map[uint64]string // the ids of the subscriptions on this connection
	receipts uint64            // how many were asked for
}

// terms are what CONNECTED has agreed. They travel from Decode to Encode as a step.
type terms struct {
	version version
	probe   bool
}

// refusal is a message that cannot be read. It travels as a step, so that the broker
// does not wait for its acknowledgement.
type refusal struct{ key, tag string }

const (
	transactionPing = "limpet-ping" // the name of a transaction that holds nothing
	receiptPing     = "ping"
)

func (c *codec) Start(out *wire.Frames) error {
	o, interval := c.options, int64(0)
	passcode := o.Passcode
	if c.resume.Token != "" {
		passcode = c.resume.Token
	}
	if !o.NoReceipts {
		interval = max(1, int64(c.resume.Heartbeat/time.Millisecond))
	}
	c.resume.Token = ""
	b := append(out.Buffer(256), "CONNECT\naccept-version:1.2,1.1,1.0\n"...)
	for _, h := range [...]struct{ name, value string }{{"host", o.Host}, {"login", o.Login}, {"passcode", passcode}} {
		if h.value == "" {
			continue
		}
		if o.EscapeConnect {
			h.value = strings.ReplaceAll(h.value, `\`, `\\`)
		}
		b = append(append(append(append(b, h.name...), ':'), h.value...), '\n')
	}
	if token, ok := c.resume.State.(csrfToken); ok {
		b = fmt.Appendf(b, "%s:%s\n", token.header, token.token)
	}
	c.resume.State = nil
	b = fmt.Appendf(b, "heart-beat:%d,%d\n\n\x00", interval, interval)
	out.Append(wire.Text, b)
	return nil
}

func (c *codec) Encode(ops []wire.Op, out *wire.Frames) error {
	for i := range ops {
		err := c.encode(&ops[i], out)
		if full := (*wire.LedgerError)(nil); errors.As(err, &full) {
			return err // it ends the connection: the server owes too many answers
		}
		if err != nil {
			return &wire.OpError{Index: i, Err: err}
		}
	}
	return nil
}

var errOp = errors.New("stomp: there is no frame for this")

func (c *codec) encode(op *wire.Op, out *wire.Frames) error {
	switch op.Kind {
	case wire.OpSubscribe:
		return c.subscribe(op, out)
	case wire.OpUnsubscribe:
		id, subscribed := c.live[op.Key]
		if !subscribed {
			return nil
		}
		delete(c.live, op.Key)
		return c.send(out, "UNSUBSCRIBE", "id", id)
	case wire.OpPublish:
		return c.publish(op, out)
	case wire.OpAck:
		return c.settle(out, "ACK", op.Key, op.Position.Tag)
	case wire.OpRelease:
		return c.settle(out, "NACK", op.Key, op.Position.Tag)
	case wire.OpPing:
		return c.ping(out)
	case wire.OpStep:
		switch step := op.Step.(type) {
		case terms:
			c.encoder.version, c.probe = step.version, step.probe
			return nil
		case refusal:
			return c.refuse(out, step)
		}
	case wire.OpBye:
		return c.send(out, "DISCONNECT")
	case wire.OpAuth, wire.OpCredit:
		return nil
	}
	return errOp
}

// send appends a frame without a body. headers are names and values in turn.
func (c *codec) send(out *wire.Frames, command string, headers ...string) error {
	b, err := c.frameHead(out.Buffer(256), command, headers)
	if err != nil {
		return err
	}
	out.Append(wire.Text, append(b, '\n', 0))
	return nil
}

// frameHead appends a command and its headers to b.
func (c *codec) frameHead(b []byte, command string, headers []string) (_ []byte, err error) {
	b = append(append(b, command...), '\n')
	for i := 0; i < len(headers); i += 2 {
		if b, err = appendHeader(b, headers[i], headers[i+1], c.encoder.version); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// own reports whether name is a header that limpet sets itself in a SUBSCRIBE or a SEND.
func own(name string) bool {
	switch name {
	case "id", "destination", "ack", "prefetch-count", "receipt", "content-length", "content-type", "transaction", headerID:
		return true
	}
	return false
}

// headerID carries the id of a message. RabbitMQ keeps it as the AMQP property message-id.
const headerID = "amqp-message-id"

// formatID returns the usual form of a UUID (RFC 9562, section 4).
func formatID(id wire.ID) string {
	h := hex.EncodeToString(id[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// parseMessageID reads what formatID writes, in whatever case.
func parseMessageID(text string) (id wire.ID, ok bool) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return id, false
	}
	n, err := hex.Decode(id[:], []byte(strings.ReplaceAll(text, "-", "")))
	return id, err == nil && n == len(id)
}

// appendHeaders appends headers of the user, in order of their names.
func (c *codec) appendHeaders(headers []string, more map[string]string) ([]string, error) {
	for _, name := range slices.Sorted(maps.Keys(more)) {
		if own(name) {
			return headers, &HeaderError{name, "is set by limpet; remove it"}
		}
		headers = append(headers, name, more[name])
	}
	return headers, nil
}

// receipt asks for a receipt, with the next number.
func (c *codec) receipt(headers []string) []string {
	if c.options.NoReceipts {
		return headers
	}
	return append(headers, "receipt", strconv.FormatUint(c.receipts+1, 10))
}

// expect remembers what the receipt that was asked for answers. It comes last before the
// frame: a number is never taken back, since a server may send any RECEIPT at any time.
func (c *codec) expect(op *wire.Op, topic string) error {
	if c.options.NoReceipts {
		return nil
	}
	if err := c.requests.Put(c.receipts+1, request{op.Cmd, topic}); err != nil {
		return err
	}
	c.receipts++
	return nil
}

func (c *codec) subscribe(op *wire.Op, out *wire.Frames) error {
	var s Subscription
	if c.options.Subscribe != nil {
		s = c.options.Subscribe(op.Topic)
	}
	if durable(op.Topic, s.Header) {
		return &HeaderError{"durable", `needs "x-queue-name" in stomp.Subscription.Header: otherwise RabbitMQ names the queue after an id that changes`}
	}
	id := strconv.FormatUint(op.Key, 10)
	headers := append(make([]string, 0, 16), "id", id, "destination", op.Topic)
	if s.Auto || c.encoder.version == v10 { // STOMP 1.0 has no ack:client-individual
		id += autoMark
		headers[1] = id
		headers = append(headers, "ack", "auto")
	} else {
		headers = append(headers, "ack", "client-individual")
		if n := c.prefetchOf(&s, op.Subscribe); n > 0 {
			headers = append(headers, "prefetch-count", strconv.FormatUint(n, 10))
			out.Prefetch(op.Key, int(n))
		}
	}
	headers, err := c.appendHeaders(headers, s.Header)
	if err != nil {
		return err
	}
	b, err := c.frameHead(out.Buffer(256), "SUBSCRIBE", c.receipt(headers))
	if err != nil {
		return err
	}
	if err := c.expect(op, op.Topic); err != nil {
		return err
	}
	out.Append(wire.Text, append(b, '\n', 0))
	c.live[op.Key] = id
	return nil
}

// durable reports whether a subscription keeps a queue without a name at the broker.
func durable(topic string, header map[string]string) bool {
	named := header["x-queue-name"] != ""
	return header["durable"] == "true" && !named && (strings.HasPrefix(topic, "/topic/") || strings.HasPrefix(topic, "/exchange/"))
}

// prefetchOf returns how many messages the broker may send without an acknowledgement:
// no more than the queue of the subscription holds.
func (c *codec) prefetchOf(s *Subscription, sub *wire.Subscribe) uint64 {
	n, credit := uint64(max(0, s.Prefetch)), uint64(0)
	if n == 0 {
		n = uint64(c.options.Prefetch)
	}
	if sub != nil {
		credit = sub.Credit.N
	}
	switch {
	case credit == 0:
		return min(n, maxPrefetch)
	case n == 0:
		n = max(1, credit/2) // after a reconnect messages come again while the first copies wait
	}
	return min(n, credit, maxPrefetch)
}

func (c *codec) publish(op *wire.Op, out *wire.Frames) error {
	m := op.Message
	switch {
	case m == nil:
		return errOp
	case m.Void:
		return nil // it has its outcome already
	}
	headers := append(make([]string, 0, 16), "destination", m.Topic)
	if m.Type != "" {
		headers = append(headers, "content-type", m.Type)
	}
	if m.ID != (wire.ID{}) {
		headers = append(headers, headerID, formatID(m.ID))
	}
	headers, err := c.appendHeaders(headers, m.Header)
	if err != nil {
		return err
	}
	b, err := c.frameHead(out.Buffer(256+len(m.Payload)), "SEND", c.receipt(headers))
	if err != nil {
		return err
	}
	if err := c.expect(op, m.Topic); err != nil {
		return err
	}
	b = fmt.Appendf(b, "content-length:%d\n\n", len(m.Payload))
	b = append(append(b, m.Payload...), 0)
	frameType := wire.Text
	if !utf8.Valid(b) {
		frameType = wire.Binary
	}
	out.Append(frameType, b)
	return nil
}

// settle acknowledges a message or gives it back. A broker refuses both for a
// subscription that has ended.
func (c *codec) settle(out *wire.Frames, command string, key uint64, tag string) error {
	id, subscribed := c.live[key]
	switch {
	case !subscribed || tag == "":
		return nil
	case c.encoder.version == v11:
		return c.send(out, command, "subscription", id, "message-id", tag)
	}
	return c.send(out, command, "id", tag)
}

// refuse tells the broker that a message cannot be read: RabbitMQ sends it to the
// dead-letter exchange of the queue, if there is one, and not here again.
func (c *codec) refuse(out *wire.Frames, r refusal) error {
	key, _, err := parseID(r.key)
	if _, subscribed := c.live[key]; err != nil || !subscribed {
		return nil
	}
	if c.encoder.version == v11 {
		return c.send(out, "NACK", "subscription", r.key, "message-id", r.tag, "requeue", "false")
	}
	return c.send(out, "NACK", "id", r.tag, "requeue", "false")
}

// ping sends the client's heartbeat. If the server does not send its own often enough,
// a transaction that holds nothing makes it answer.
func (c *codec) ping(out *wire.Frames) error {
	if !c.probe || c.options.NoReceipts {
		out.Append(wire.Text, append(out.Buffer(1), '\n'))
		return nil
	}
	if err := c.send(out, "BEGIN", "transaction", transactionPing); err != nil {
		return err
	}
	return c.send(out, "ABORT", "transaction", transactionPing, "receipt", receiptPing)
}
