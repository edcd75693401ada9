package verdict

import (
	"iter"
	"slices"
	"strings"
)

// Complaint is what a server complains about, as far as its text says so.
type Complaint uint8

// The complaints.
const (
	Unclear  Complaint = iota // the text gives no reason
	SentMuch                  // the client sends too much in a time
	Other                     // another one
)

// ComplaintIn returns what a text of a server complains about. The texts that it knows are
// those of servers: see the test.
func ComplaintIn(text string) Complaint {
	text = complaintSigns.Replace(strings.ToLower(text))
	within := func(words string) bool { return strings.Contains(text, words) }
	switch {
	case slices.ContainsFunc(ofConnections, within):
		return Other
	case slices.ContainsFunc(ofPace, within):
		return SentMuch
	case slices.ContainsFunc(ofOthers, within):
		return Other
	}
	return Unclear
}

// SaysSentMuch reports whether a text of a server says that the client sends too much in a time. The
// text may repeat names that the client has given: what only they say is no complaint.
func SaysSentMuch(text string, names iter.Seq[string]) bool {
	if ComplaintIn(text) != SentMuch {
		return false
	}
	text = strings.ToLower(text)
	for name := range names {
		name = strings.ToLower(name)
		for _, word := range append(strings.FieldsFunc(name, separates), name) {
			if strings.Contains(text, word) && ComplaintIn(word) == SentMuch {
				text = strings.ReplaceAll(text, word, "")
			}
		}
	}
	return ComplaintIn(text) == SentMuch
}

// separates reports whether r stands between the words of a topic that servers name alone.
func separates(r rune) bool { return strings.ContainsRune("/:.,| ", r) }

var complaintSigns = strings.NewReplacer("_", " ", "-", " ", "  ", " ")

// ofConnections are about the number or the rate of connections, in words that are also used
// of messages.
var ofConnections = []string{"connections", "connection rate", "connection limit", "connection attempts", "login"}

// ofPace are about what is sent on a connection.
var ofPace = []string{
	"too many requests", "too many messages", "too many msgs", "too many commands", "too many operations", "too many frames", "too many calls",
	"rate limit", "ratelimit", "msg rate", "message rate", "request rate", "rate exceeded", "rate is exceeded",
	"too frequent", "too fast", "too quickly", "slow down", "throttl", "flood", "permits per second", "messages per ", "requests per ",
}

// ofOthers give another reason: a credential, a sign of life, a request that is wrong, something
// else of which there is too much.
var ofOthers = []string{
	"auth", "token", "credential", "key", "password", "signature", "session", "expire", "permission", "permitted", "forbidden", "denied", "allowed", "banned",
	"pong", "ping", "heartbeat", "heart beat", "timeout", "timed out", "idle", "inactiv", "slow c", "not reading",
	"invalid", "unknown", "unsupported", "unexpected", "malformed", "bad ", "format", "json", "parse", "not found", "does not exist", "no such",
	"too many", "too large", "too big", "too long", "topic", "channel", "symbol", "product", "stream", "subscri", "origin", "maintenance", "restart", "shut",
}
