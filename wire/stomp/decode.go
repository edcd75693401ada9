package stomp

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// decoder is what Decode uses.
type decoder struct {
	scanner
	interval  time.Duration // of the client's heartbeats
	connected bool
	failed    bool      // an ERROR has come
	strayed   bool      // a message for a subscription that has ended was reported
	secrets   [2]string // must not be in a text
	oldest    uint64    // no receipt before it is open
}

var errText = &wire.CodeError{Code: 1007, Reason: "text message is not UTF-8"}

func (c *codec) Decode(f wire.Frame, out *wire.Events) error {
	if f.Type == wire.Text && !utf8.Valid(f.Data) {
		return errText // as limpet's own frame layer does
	}
	data, whole := f.Data, false
	if len(c.buf) > 0 {
		c.buf = append(c.buf, data...)
		data, whole = c.buf, true
	}
	beat := len(bytes.TrimLeft(f.Data, "\r\n")) == 0 // nothing else; a frame may have line feeds around it
	for {
		if c.head == nil && c.searched == 0 {
			rest := bytes.TrimLeft(data, "\r\n")
			whole = whole && len(rest) == len(data)
			data = rest
		}
		if len(data) == 0 {
			break
		}
		fr, n, err := c.cut(data)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		data, whole = data[n:], false
		if err := c.frame(fr, out); err != nil {
			return err
		}
	}
	c.keep(data, whole)
	if beat {
		out.Append(wire.EventPong)
	}
	return nil
}

// frame appends the events of one frame.
func (c *codec) frame(f *frame, out *wire.Events) error {
	switch {
	case f.command == "ERROR":
		c.serverError(f, out)
	case f.command == "MESSAGE" && c.connected:
		c.message(f, out)
	case f.fault != "":
		malformed(out, f.fault)
	case f.command == "CONNECTED" && !c.connected:
		return c.welcome(f, out)
	case f.command == "RECEIPT" && c.connected:
		c.answer(f, out)
	case f.command == "RECEIPT", f.command == "MESSAGE", f.command == "CONNECTED":
		malformed(out, badOrder)
	default:
		malformed(out, badCommand)
	}
	return nil
}

// malformed counts a frame that was skipped. In a row of such frames, one event stands
// for all with the same reason: frames are short, and events are not.
func malformed(out *wire.Events, reason string) {
	for i := len(out.List) - 1; i >= 0 && out.List[i].Kind == wire.EventMalformed; i-- {
		if out.List[i].Reason == reason {
			out.List[i].Count++
			return
		}
	}
	e := out.Append(wire.EventMalformed)
	e.Reason, e.Count = reason, 1
}

// welcome follows on CONNECTED.
func (c *codec) welcome(f *frame, out *wire.Events) error {
	v := v10
	switch f.header["version"] {
	case "1.2":
		v = v12
	case "1.1":
		v = v11
	case "1.0", "":
	default:
		return &wire.CodeError{Code: 1002, Reason: "the server chose a version of STOMP that was not offered"}
	}
	c.connected, c.scanner.version = true, v
	sends := heartbeat(f.header["heart-beat"])
	t := terms{version: v, probe: sends == 0 || sends > c.interval}
	ready := &wire.Ready{}
	if sends > 0 {
		ready.Heartbeat = max(sends, c.interval)
	}
	if v == v10 { // without ack:client-individual and NACK
		traits := (&dialect{*c.options}).Traits()
		traits.Processed = wire.ProcessedNothing
		ready.Traits = &traits
	}
	out.Append(wire.EventStep).Step = t // before anything else is encoded
	out.Append(wire.EventReady).Ready = ready
	return nil
}

// heartbeat reads from the text of that header how often the server can send one, zero for
// never (STOMP 1.2, "Heart-beating"). What it wants is at most what the client offered.
func heartbeat(text string) time.Duration {
	sends, _, _ := strings.Cut(text, ",")
	n, err := strconv.ParseUint(strings.TrimSpace(sends), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Millisecond
}

// answer follows on a RECEIPT.
func (c *codec) answer(f *frame, out *wire.Events) {
	id := f.header["receipt-id"]
	if id == receiptPing {
		out.Append(wire.EventPong)
		return
	}
	r, ok := c.take(id)
	if !ok {
		malformed(out, badReceipt)
		return
	}
	switch r.cmd % cmdKinds {
	case cmdSubscribe:
		out.Append(wire.EventSubscribed).Key = r.cmd / cmdKinds
	case cmdPublish:
		out.Append(wire.EventAck).Ack = &wire.Ack{Cmd: r.cmd}
	}
}

func (c *codec) take(id string) (request, bool) {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return request{}, false
	}
	r, ok := c.requests.Take(n)
	if ok && (n == c.oldest || c.requests.Len() == 0) { // a server may invent receipts to come
		c.oldest = max(c.oldest, n+1)
	}
	return r, ok
}

const autoMark = "a" // ends the id of a subscription with ack:auto

var errID = errors.New("no id of a subscription")

// parseID reads the id of a subscription.
func parseID(id string) (key uint64, auto bool, err error) {
	digits, auto := strings.CutSuffix(id, autoMark)
	key, err = strconv.ParseUint(digits, 10, 62)
	if err != nil || key == 0 {
		return 0, false, errID
	}
	return key, auto, nil
}

// message follows on a MESSAGE. The header receipt, with which RabbitMQ passes on the
// request of the publisher, means nothing here.
func (c *codec) message(f *frame, out *wire.Events) {
	id := f.header["subscription"]
	key, auto, err := parseID(id)
	tag := f.header["ack"]
	if c.scanner.version == v11 {
		tag = f.header["message-id"]
	}
	if auto || c.scanner.version == v10 {
		tag = ""
	}
	fault := f.fault
	if fault == "" && (id == "" || err == nil && !auto && tag == "" && c.scanner.version != v10) {
		fault = badMessage
	}
	if fault != "" {
		malformed(out, fault)
		if err == nil {
			gap := out.Append(wire.EventGap)
			gap.Key, gap.Count, gap.Cause = key, 1, wire.CauseMalformed
			if tag != "" {
				out.Append(wire.EventStep).Step = refusal{id, tag}
			}
		}
		return
	}
	e := out.Append(wire.EventData)
	if e.Key = key; err != nil {
		e.Name = id[:min(len(id), 255)]
	}
	e.Position.Tag = tag
	m := &e.Message
	m.Topic, m.Type, m.Redelivered = f.header["destination"], f.header["content-type"], f.header["redelivered"] == "true"
	if id, ok := parseMessageID(f.header[headerID]); ok {
		m.ID = id
	}
	m.Time = wire.ParseTime([]byte(f.header["timestamp"]))
	for _, name := range [...]string{"subscription", "destination", "content-type", "content-length", "redelivered", "ack", "receipt"} {
		delete(f.header, name)
	}
	if len(f.header) > 0 {
		m.Header = f.header
	}
	m.Payload = bytes.Clone(f.body)
	if m.Payload == nil {
		m.Payload = []byte{}
	}
}
