package jsonrpc

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// The reasons of EventMalformed. Those of one frame are counted, so that a frame makes few
// events.
const (
	badJSON = iota
	badObject
	badAnswer
	badNotification
	badPlace
	reasons
)

var reasonTexts = [reasons]string{
	badJSON:         "a message that is not JSON",
	badObject:       "neither a request, nor a notification, nor an answer",
	badAnswer:       "an answer to no request, or one without result and error",
	badNotification: "a notification with a subscription and without a result",
	badPlace:        "jsonrpc.Options.Locate returned an ID or Prev of more than 256 bytes: the place does not count",
}

// route is a subscription of this connection.
type route struct {
	key   uint64
	topic string

	known  bool // last and tag are those of the last message
	last   uint64
	tag    string
	recent []entry // of this connection, at number mod recentEntries; nil: no message had an ID
}

// entry is a message that was received.
type entry struct {
	number uint64
	id     string
}

const recentEntries = 64

func (c *codec) Decode(f wire.Frame, out *wire.Events) error {
	if !utf8.Valid(f.Data) {
		if f.Type == wire.Text {
			return &wire.CodeError{Code: 1007, Reason: "text message is not UTF-8"}
		}
		c.skipped[badJSON]++
	} else if data := bytes.Trim(f.Data, " \t\r\n"); !json.Valid(data) {
		c.skipped[badJSON]++
	} else if data[0] != '[' {
		c.object(data, out)
	} else {
		n := 0
		elements(data, func([]byte) bool { n++; return n < 2 })
		c.alone = n == 1
		n = 0
		defer func() { c.alone = false }()
		if !elements(data, func(value []byte) bool {
			c.object(value, out)
			n++
			return n <= maxElements
		}) {
			c.skipped = [reasons]uint64{}
			return &wire.CodeError{Code: 1002, Reason: "an array of more than 4096 objects"}
		}
	}
	for i, n := range c.skipped {
		if n > 0 {
			e := out.Append(wire.EventMalformed)
			e.Reason, e.Count = reasonTexts[i], n
			c.skipped[i] = 0
		}
	}
	return nil
}

// object decodes one request, notification or answer.
func (c *codec) object(data []byte, out *wire.Events) {
	if data[0] != '{' {
		c.skipped[badObject]++
		return
	}
	var id, method, params, result, failure []byte
	members(data, func(name string, value []byte) {
		switch name {
		case "id":
			id = value
		case "method":
			method = value
		case "params":
			params = value
		case "result":
			result = value
		case "error":
			failure = value
		}
	})
	if method != nil && string(id) == "null" {
		id = nil // a notification, as JSON-RPC 1.0 writes one
	}
	if method != nil && id != nil && (result != nil || !isNull(failure)) {
		method = nil // an answer that repeats the method
	}
	switch {
	case method != nil && id != nil:
		if text(method) == "" || idName(id) == "" {
			c.skipped[badObject]++
			return
		}
		out.Append(wire.EventPing).Step = string(id)
	case method != nil:
		c.notification(text(method), params, out)
	case string(id) == "null" && !isNull(failure):
		refusal := readError(failure) // of a request that the server could not read
		if b, ok := c.refusedBatch(refusal); ok {
			c.refuseBatch(b, refusal, out)
		}
		e := out.Append(wire.EventError)
		e.Code, e.PeerCode = refusal.wireCodes()
		e.Reason = refusal.reason()
	case id == nil:
		c.skipped[badObject]++
	default:
		c.answer(id, result, failure, out)
	}
}

// answer decodes the answer to a request.
func (c *codec) answer(id, result, failure []byte, out *wire.Events) {
	n, err := strconv.ParseUint(string(id), 10, 64)
	if err != nil {
		c.skipped[badAnswer]++
		return
	}
	if isNull(failure) || result != nil && saysNone(failure) {
		failure = nil
	}
	if b, ok := c.refusesBatch(n, failure); ok {
		c.refuseBatch(b, readError(failure), out)
		return
	}
	if a, ok := c.asks.Take(n); ok {
		c.open.Take(a.batch)
		c.subscribed(&a, result, failure, out)
		c.giveUpEarly(out)
		return
	}
	r, ok := c.requests.Take(n)
	c.open.Take(r.batch)
	if !ok || result == nil && failure == nil {
		c.skipped[badAnswer]++
	}
	switch {
	case !ok:
	case r.kind == wire.OpPing:
		out.Append(wire.EventPong).N = r.cmd
	case r.kind == wire.OpUnsubscribe:
		if route := c.routes[r.name]; route != nil && route.key == r.key {
			delete(c.routes, r.name)
		}
	case r.kind == wire.OpCall:
		c.reply(r.seq, result, failure, out)
	case failure != nil:
		out.Append(wire.EventAck).Ack = &wire.Ack{Rejects: []wire.Reject{c.rejectOf(r.seq, readError(failure))}}
	case result == nil:
		out.Append(wire.EventAck).Ack = &wire.Ack{Rejects: []wire.Reject{{Seq: r.seq, Reason: reasonTexts[badAnswer], Unknown: true}}}
	default:
		out.Append(wire.EventAck).Ack = &wire.Ack{Cmd: r.cmd, Reply: bytes.Clone(result)}
	}
}

// reply appends the reply to a call.
func (c *codec) reply(number uint64, result, failure []byte, out *wire.Events) {
	e := out.Append(wire.EventReply)
	switch e.N = number; {
	case failure != nil:
		refusal := readError(failure)
		e.Code, e.PeerCode = refusal.wireCodes()
		e.Reason = refusal.reason()
	case result == nil:
		e.Code, e.Reason = wire.CodeRefused, reasonTexts[badAnswer]
	default:
		e.Message = wire.Message{Payload: bytes.Clone(result), Type: TypeJSON}
	}
}

// rejectOf returns the refusal of the message with that number.
func (c *codec) rejectOf(seq uint64, e Error) (r wire.Reject) {
	r.Seq, r.Reason = seq, e.reason()
	r.Code, r.PeerCode = e.wireCodes()
	r.Retry = waitAfter(c.options.Again, e)
	return r
}

// waitAfter returns what Options.Retry or Options.Again says of a refusal.
func waitAfter(wait func(Error) time.Duration, e Error) time.Duration {
	if wait == nil {
		return 0
	}
	return min(max(wait(e), 0), 15*time.Minute)
}

// subscribed decodes the answer to a subscription, and what came before it.
func (c *codec) subscribed(a *ask, result, failure []byte, out *wire.Events) {
	name := idName(result)
	other := c.routes[name]
	if other != nil {
		if _, live := c.ids.Get(other.key); !live {
			other = nil // it is about to end
		}
	}
	if failure != nil || name == "" || other != nil {
		e := out.Append(wire.EventUnsubscribed)
		switch e.Key = a.key; {
		case failure != nil:
			c.refuse(e, failure)
		case name == "":
			e.Code, e.Reason = wire.CodeRefused, "the server's answer has no subscription id"
		default:
			e.Code, e.Reason = wire.CodeRefused, "the server gave the id of another subscription"
		}
		c.leaving.Take(a.key)
		return
	}
	r := &route{key: a.key, topic: a.topic}
	if !a.last.IsZero() {
		r.known, r.last, r.tag = true, a.last.Offset, a.last.Tag
	}
	c.routes[name] = r
	_ = c.ids.Put(a.key, string(result)) // there are no more of them than of asks
	if _, left := c.leaving.Take(a.key); left {
		c.dropEarly(name)
		out.Append(wire.EventStep).Step = ending{a.key, a.topic}
		return
	}
	e := out.Append(wire.EventSubscribed)
	e.Key, e.Continuity = a.key, wire.ContinuityByNumber
	w := c.dropEarly(name)
	for _, payload := range w.payloads {
		c.message(r, payload, out)
	}
	if w.lost > 0 || c.lostEarly {
		c.missing(r, wire.CauseDropped, w.lost, out)
	}
	if w.failure != nil {
		c.ended(name, r, w.failure, out)
	}
}

// refuse fills in a refusal.
func (c *codec) refuse(e *wire.Event, failure []byte) {
	refusal := readError(failure)
	e.Code, e.PeerCode = refusal.wireCodes()
	e.Reason = refusal.reason()
	e.Retry = waitAfter(c.options.Retry, refusal)
}

// notification decodes a notification: of a subscription, or by its method.
func (c *codec) notification(method string, params []byte, out *wire.Events) {
	var id, result, failure []byte
	if len(params) > 0 && params[0] == '{' {
		members(params, func(name string, value []byte) {
			switch name {
			case "subscription":
				id = value
			case "result":
				result = value
			case "error":
				failure = value
			}
		})
	}
	if key, wanted := c.local.Get(method); wanted {
		c.byMethod(key, method, params, out)
		return
	}
	name := idName(id)
	r := c.routes[name]
	switch {
	case method == "":
		c.skipped[badObject]++
	case name == "":
		e := out.Append(wire.EventData) // counted as unrequested
		e.Name = method[:min(len(method), maxMethod)]
	case r == nil:
		c.keepEarly(name, result, failure, out)
	case result == nil && isNull(failure):
		c.skipped[badNotification]++
		c.missing(r, wire.CauseMalformed, 1, out)
	case result == nil:
		c.ended(name, r, failure, out)
	default:
		c.message(r, result, out)
	}
}

// ended follows when the server ends a subscription.
func (c *codec) ended(name string, r *route, failure []byte, out *wire.Events) {
	e := out.Append(wire.EventUnsubscribed)
	e.Key = r.key
	c.refuse(e, failure)
	c.ids.Take(r.key)
	delete(c.routes, name)
}

// byMethod appends a notification for a topic that is its method.
func (c *codec) byMethod(key uint64, method string, params []byte, out *wire.Events) {
	e := out.Append(wire.EventData)
	e.Key = key
	e.Message = wire.Message{Topic: method, Payload: bytes.Clone(params), Type: TypeJSON}
	c.place(e, method, params)
}

// missing says that messages are missing.
func (c *codec) missing(r *route, cause wire.Cause, count uint64, out *wire.Events) {
	e := out.Append(wire.EventGap)
	e.Key, e.Cause, e.Count, e.Numbered = r.key, cause, count, r.known
}

// message appends a message of a subscription, after a Reset if it does not follow the
// last one. payload is copied.
func (c *codec) message(r *route, payload []byte, out *wire.Events) {
	at := len(out.List)
	e := out.Append(wire.EventData)
	e.Key = r.key
	e.Message = wire.Message{Topic: r.topic, Payload: bytes.Clone(payload), Type: TypeJSON}
	p := c.place(e, r.topic, payload)
	if !p.Numbered {
		return
	}
	if r.diverged(&p) {
		data := *e
		out.List = out.List[:at]
		reset := out.Append(wire.EventReset)
		reset.Key, reset.Cause = r.key, wire.CauseDiverged
		if p.Number > 0 {
			reset.Position = wire.Position{Offset: p.Number - 1, Tag: p.Prev}
		} else {
			data.Numbered = false // no place is before it, and at its own it would be a duplicate
		}
		*out.Append(wire.EventData) = data
	}
	r.known, r.last, r.tag = true, p.Number, p.ID
	if p.ID != "" {
		if r.recent == nil {
			r.recent = make([]entry, recentEntries)
		}
		r.recent[p.Number%recentEntries] = entry{p.Number, p.ID}
	}
}

// place asks Locate and sets the place of e.
func (c *codec) place(e *wire.Event, topic string, payload []byte) (p Place) {
	if c.options.Locate == nil {
		return p
	}
	if p = c.options.Locate(topic, payload); len(p.ID) > maxID || len(p.Prev) > maxID {
		c.skipped[badPlace]++
		return Place{}
	}
	p.ID, p.Prev = strings.Clone(p.ID), strings.Clone(p.Prev)
	if e.Numbered = p.Numbered; p.Numbered {
		e.Position.Offset = p.Number
	}
	e.Position.Tag = p.ID
	return p
}

// diverged reports whether a message shows that the log holds other entries than those
// that were received.
func (r *route) diverged(p *Place) bool {
	differ := func(a, b string) bool { return a != "" && b != "" && a != b }
	switch {
	case !r.known:
		return false
	case p.Number == r.last:
		return differ(p.ID, r.tag)
	case p.Number == 0:
		return false // the client finds a restart
	case p.Number == r.last+1:
		return differ(p.Prev, r.tag)
	case p.Number > r.last || r.recent == nil || p.Prev == "":
		return false
	}
	// A branch of what was received. Otherwise the client finds a restart.
	return r.recent[(p.Number-1)%recentEntries] == entry{p.Number - 1, p.Prev}
}

// cut bounds the text of an error.
func cut(s string) string {
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
}
