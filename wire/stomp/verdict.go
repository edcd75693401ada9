package stomp

import (
	"strings"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// The codes of errors of the broker. STOMP has none, so limpet takes them from the text
// of the ERROR frame: Error.Code of a subscription, a receipt or the end of the client
// is one of them.
const (
	CodeLogin     = 401 // the broker refuses the login
	CodeForbidden = 403 // the user may not do this
	CodeNotFound  = 404 // there is no such destination
	CodeRefused   = 400 // any other ERROR
	CodeClosing   = 503 // the broker closes the connection on purpose, to stop for example
	CodeVersion   = 505 // the broker speaks no version that limpet does
)

// codeOf returns the code for an ERROR. Before CONNECTED the broker speaks of
// the login.
func codeOf(message, body string, connected bool) uint16 {
	message = strings.ToLower(message)
	text := message + "\n" + strings.ToLower(body)
	has := func(words ...string) bool {
		for _, word := range words {
			if strings.Contains(text, word) {
				return true
			}
		}
		return false
	}
	switch {
	case has("connection_forced", "connection-forced", "shutdown", "shutting down"):
		return CodeClosing
	case !connected && strings.Contains(message, "version"):
		return CodeVersion
	case has("credential", "bad connect", "not authenticated", "authentication"):
		return CodeLogin
	case !connected && has("access", "refused", "denied", "password", "passcode", "login", "authoriz", "security"):
		return CodeLogin
	case has("access_refused", "access refused", "access denied", "not allowed", "not_allowed", "not authorized", "forbidden"):
		return CodeForbidden
	case has("unknown destination", "not a valid destination", "not_found", "not found", "does not exist"):
		return CodeNotFound
	}
	return CodeRefused
}

// Verdict decides what an ERROR means. Everything else is left to the client's tables: a
// close with 1000 "STOMP died", for example, is a reason to connect again.
func (d *dialect) Verdict(f wire.Failure) (v wire.Verdict) {
	switch f.Code {
	case CodeLogin:
		v.Action, v.Class = wire.ActionRefresh, "auth"
	case CodeVersion:
		v.Action, v.Class = wire.ActionStop, "protocol"
	case CodeForbidden, CodeNotFound, CodeRefused:
		v.Action, v.Class = wire.ActionRetryNow, "rejected"
	case CodeClosing:
		v.Action, v.Class = wire.ActionBackOff, "network"
	}
	return v
}

const maxReason = 256 // bytes

// strayDelivery begins the body of the ERROR that RabbitMQ sends for each message that it
// was about to deliver to a subscription that has just ended. The connection goes on.
const strayDelivery = "There is no current subscription with tag '"

// serverError follows on an ERROR. STOMP 1.2 wants the receipt-id of the frame that it
// refuses. RabbitMQ does not send it; where the text quotes a destination, that tells.
func (c *codec) serverError(f *frame, out *wire.Events) {
	body := string(f.body[:min(len(f.body), 1024)])
	reason := c.reason(f.header["message"], body)
	code := codeOf(f.header["message"], body, c.connected)
	if c.connected && strings.HasPrefix(body, strayDelivery) {
		if !c.strayed { // one notice is enough
			c.strayed = true
			e := out.Append(wire.EventError)
			e.Code, e.Reason = code, reason
		}
		return
	}
	if c.connected {
		c.blame(f, body, code, reason, out)
	}
	if c.failed {
		return // the first one decides
	}
	c.failed = true
	e := out.Append(wire.EventError)
	e.Code, e.Reason, e.Fatal = code, reason, true
}

// blame refuses the requests that an ERROR means.
func (c *codec) blame(f *frame, body string, code uint16, reason string, out *wire.Events) {
	if r, ok := c.take(f.header["receipt-id"]); ok {
		refuse(r, code, reason, out)
		return
	}
	_, named := f.header["receipt-id"]
	if named || c.failed || code == CodeClosing || code == CodeLogin || ofAck(f.header["message"]+body) {
		return
	}
	invalid := ""
	if quoted, found := strings.CutPrefix(body, "'"); found {
		if name, _, found := strings.Cut(quoted, "' is not a valid destination"); found {
			invalid = name
		}
	}
	open := c.open()
	var asked []uint64 // open subscriptions
	for _, n := range open {
		r, _ := c.requests.Get(n)
		switch {
		case invalid != "" && r.topic == invalid:
			c.requests.Take(n)
			refuse(r, code, reason, out)
		case r.cmd%cmdKinds == cmdSubscribe:
			asked = append(asked, n)
		}
	}
	if invalid != "" || len(asked) == 0 {
		return
	}
	r, _ := c.requests.Take(asked[0]) // a broker works in order: the others were not looked at
	e := refuse(r, code, reason, out)
	if len(open) > 1 { // or a message is meant: asked for again, it is alone
		e.Retry = retrySuspect
	}
}

// ofAck reports whether the text of an ERROR is about an acknowledgement, which has no
// receipt.
func ofAck(text string) bool {
	for _, word := range [...]string{`"ACK"`, `"NACK"`, "ubscription not found", "essage not found", "delivery tag"} {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}

// retrySuspect is how long a subscription waits that an ERROR may have meant.
const retrySuspect = 2 * time.Second

// open returns the numbers of the receipts that are open, in order.
func (c *codec) open() (open []uint64) {
	for n := c.oldest; len(open) < c.requests.Len(); n++ { // Encode may take back the last one
		if _, ok := c.requests.Get(n); ok {
			open = append(open, n)
		}
	}
	return open
}

// refuse appends the refusal of one request.
func refuse(r request, code uint16, reason string, out *wire.Events) *wire.Event {
	if r.cmd%cmdKinds == cmdPublish {
		e := out.Append(wire.EventAck)
		e.Ack = &wire.Ack{Rejects: []wire.Reject{{Seq: r.cmd / cmdKinds, Code: code, Reason: reason}}}
		return e
	}
	e := out.Append(wire.EventUnsubscribed)
	e.Key, e.Code, e.Reason = r.cmd/cmdKinds, code, reason
	return e
}

// reason returns the text of an ERROR without control characters and secrets.
func (c *codec) reason(message, body string) string {
	text := strings.ToValidUTF8(strings.TrimSpace(message+": "+strings.TrimSpace(body)), "?")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	if c.secret != "" {
		text = strings.ReplaceAll(text, c.secret, "***")
	}
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "")
	}
	return text
}
