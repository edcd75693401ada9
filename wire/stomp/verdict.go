package stomp

import (
	"regexp"
	"slices"
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
// the login. Words within names do not count: a queue may be called 'shutdown'.
func codeOf(message, body string, connected bool) uint16 {
	text := words(message, body)
	switch {
	case hasAny(text, "connection_forced", "connection-forced"):
		return CodeClosing
	case !connected:
		return codeOfLogin(words(message, ""), text)
	case hasAny(text, "access_refused", "access refused", "access denied", "not allowed", "not_allowed", "not authorized", "forbidden"):
		return CodeForbidden
	case hasAny(text, "unknown destination", "not a valid destination", "not_found", "not found", "does not exist"):
		return CodeNotFound
	case hasAny(text, "shutdown", "shutting down"):
		return CodeClosing
	case hasAny(text, "credential", "bad connect", "not authenticated", "authentication"):
		return CodeLogin
	}
	return CodeRefused
}

// codeOfLogin returns the code for an ERROR in place of CONNECTED. What passes comes
// first: a refused login ends the client.
func codeOfLogin(message, text string) uint16 {
	switch {
	case hasAny(text, "shutdown", "shutting down", "connection limit", "too many", "maximum number", "unavailable", "timed out", "timeout", "connection refused"):
		return CodeClosing
	case strings.Contains(message, "version"):
		return CodeVersion
	case hasAny(text, "credential", "bad connect", "not authenticated", "authentication",
		"access", "refused", "denied", "password", "passcode", "login", "authoriz", "security"):
		return CodeLogin
	case hasAny(text, "forbidden", "not allowed", "not_allowed"):
		return CodeForbidden
	case hasAny(text, "not_found", "not found", "does not exist"):
		return CodeNotFound
	}
	return CodeRefused
}

// passes reports whether the broker refuses a subscription for a reason that ends by
// itself: a node of a cluster that is down, or a consumer of a connection that is about
// to end.
func passes(message, body string) bool {
	return hasAny(words(message, body), "down or inaccessible", "resource_locked", "in exclusive use", "internal_error", "resource_error")
}

// words returns the text of an ERROR in lower case, without what is in quotes or
// brackets: names, which a user or the server has chosen.
func words(message, body string) string {
	return strings.ToLower(quoted.ReplaceAllString(message, "") + "\n" + quoted.ReplaceAllString(body, ""))
}

var quoted = regexp.MustCompile(`'[^']*'|\[[^\]]*\]`)

func hasAny(text string, words ...string) bool {
	return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(text, word) })
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
	passing := passes(f.header["message"], body)
	if r, ok := c.take(f.header["receipt-id"]); ok {
		if e := refuse(r, code, reason, out); passing {
			e.Retry = retryPassing
		}
		return
	}
	_, named := f.header["receipt-id"]
	_, ended := f.header["subscription"] // by the broker, as RabbitMQ does if its queue is deleted
	if named || ended || c.failed || code == CodeClosing || code == CodeLogin || ofAck(f.header["message"]+body) {
		return
	}
	invalid := ""
	if quoted, found := strings.CutPrefix(body, "'"); found {
		if name, _, found := strings.Cut(quoted, "' is not a valid destination"); found {
			invalid = name
		}
	}
	open := c.open()
	var asked, meant []uint64 // open subscriptions, and those to what the text quotes first
	name, sent := "", false
	if m := quoted.FindString(body); len(m) > 2 && m[0] == '\'' {
		name = m[1 : len(m)-1]
	}
	for _, n := range open {
		r, _ := c.requests.Get(n)
		switch {
		case invalid != "" && r.topic == invalid:
			c.requests.Take(n)
			refuse(r, code, reason, out)
		case r.cmd%cmdKinds == cmdSubscribe:
			asked = append(asked, n)
			if within(r.topic, name) {
				meant = append(meant, n)
			}
		default:
			sent = sent || within(r.topic, name)
		}
	}
	if invalid != "" || len(asked) == 0 {
		return
	}
	certain := len(open) == 1
	if len(meant) > 0 && !sent {
		asked, certain = meant, true
	}
	r, _ := c.requests.Take(asked[0]) // a broker works in order: the others were not looked at
	e := refuse(r, code, reason, out)
	switch {
	case passing:
		e.Retry = retryPassing
	case !certain: // or a message is meant: asked for again, it is alone
		e.Retry = retrySuspect
	}
}

// within reports whether name, of a queue or an exchange, is a part of a destination.
func within(destination, name string) bool {
	return name != "" && strings.Contains(destination+"/", "/"+name+"/")
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

// retryPassing is how long a subscription waits that the broker refuses for now.
const retryPassing = 10 * time.Second

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
	for _, secret := range c.secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "")
	}
	return text
}
