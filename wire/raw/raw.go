// Package raw is the dialect for a WebSocket server of another party that has no
// protocol for sessions, positions or acknowledgements. A program connects, sends a
// few texts to log in and to subscribe, and parses the messages that come.
//
// This program subscribes to the trades of a server and prints them. It goes on after
// a lost connection: the client reconnects with backoff and sends the text again.
//
//	package main
//
//	import (
//		"context"
//		"fmt"
//		"log"
//		"log/slog"
//
//		"github.com/limpet-go/limpet"
//		"github.com/limpet-go/limpet/wire"
//		"github.com/limpet-go/limpet/wire/raw"
//	)
//
//	func main() {
//		client, err := limpet.New("wss://example.com/feed", &limpet.Options{
//			Dialect: raw.New(raw.Options{OnOpen: subscribe}),
//			Logger:  slog.Default(), // says why it does not connect
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer client.Close()
//		trades, err := client.Subscribe(context.Background(), "*", nil)
//		if err != nil {
//			log.Fatal(err)
//		}
//		for m, err := range trades.Messages(context.Background()) {
//			if err != nil {
//				log.Fatal(err) // the client has ended: the server refuses it, for example
//			}
//			if m.Loss != nil { // a Reset at each reconnect, a Gap if this loop is too slow
//				fmt.Println(m.Kind, m.Loss.Cause)
//				continue
//			}
//			fmt.Println(string(m.Payload))
//		}
//	}
//
//	// subscribe returns the texts to send first on every connection.
//	func subscribe(wire.Resume) [][]byte {
//		return [][]byte{[]byte(`{"op":"subscribe","channel":"trades"}`)}
//	}
//
// # Subscriptions
//
// Without Options.Topic there is one topic, "*", which gets every message. Use
// limpet.New and subscribe at once: the first message waits for the first Subscribe, at most
// until one second after New. Any other message that arrives before there is a
// subscription for it is not kept. It is counted in Stats.Unrequested and reported
// once for each topic, as MessageSkipped and in the log.
//
// With Options.Topic each message goes to the one topic that the function names, and
// "*" gets the messages to which it gives no name. "*" is no wildcard: for every
// message in one stream, leave Options.Topic out.
//
// A subscription sends nothing to the server, and its end sends nothing either. What
// is to be received is up to OnOpen. To change that on an open connection, publish
// the text that does it, and let OnOpen return it from then on.
//
// # What a reconnect costs
//
// Such a server cannot say what it sent while there was no connection. So a message
// of kind Reset (CauseUnverifiable) precedes the first message after a reconnect, in
// each stream without numbers. There your program fetches the state again, from the
// server's HTTP interface for example, or marks its data as incomplete. If the
// server numbers its messages, Options.Topic can return the number: then nothing
// precedes the next number, a Gap with the count stands where numbers are missing, and
// a Reset (CauseRestarted) where the server counts from a lower number again.
//
// A text that is not UTF-8 ends the connection with 1007, as RFC 6455, section 8.1
// demands.
//
// # Publishing
//
// Client.Publish to the topic "*" sends the payload as one frame: a binary one if
// PublishOptions.Type is TypeBinary, otherwise a text. The outcome is Written: the
// frame was handed to the network, and what the server did with it is not known. A
// text that is not UTF-8, and a message with a header, are rejected.
//
// Client.SendStream sends a payload of unknown size, in the same two forms, as one message in
// fragments. Until its end no other data frame is sent: an Options.Ping and an answer of
// Options.Answer wait, while WebSocket pings pass. To receive one message in pieces is not
// offered.
//
// # Functions
//
// The functions of Options run on goroutines of the client. They must not wait for
// anything, and must not change or keep the frame that they get. Two of them may run
// at the same time. A panic in one of them costs the connection and no more: the
// client backs off and reconnects, and State.Cause has the error with the stack.
// docs/ending.md lists what ends a client.
package raw

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// The content types of received messages, and of messages to publish.
const (
	TypeText   = "text/plain; charset=utf-8" // a text frame, JSON included
	TypeBinary = "application/octet-stream"  // a binary frame
)

// rest is the topic of messages without a name, and the one to publish to.
const rest = "*"

const (
	maxTopic  = 255     // bytes of a topic
	maxAnswer = 4 << 10 // bytes of an answer; at most 1024 of them wait for the server to read
)

// Options describe the server. The zero value is right for a server that sends
// messages without being asked and answers WebSocket pings.
type Options struct {
	// OnOpen returns the texts to send first on every connection: a login, or what
	// is to be received. Resume.Token is the credential that Options.Auth of the
	// client returned for this connection, and Resume.Subs are the subscriptions
	// that exist already, with the Position of their last message. The texts are
	// copied. A text that is not UTF-8 ends the connection.
	OnOpen func(wire.Resume) [][]byte

	// Ping is a text that the client sends for every interval of Options.Heartbeat,
	// such as "ping". It needs Pong or IsPong. If Ping is empty, the client sends
	// WebSocket pings. Either way a server that gives no sign of life for 2.5
	// intervals counts as lost, and anything that it sends is one.
	Ping string

	// Pong is the exact text with which the server answers Ping, or which it sends
	// from time to time to show that it is there. Such a text is no message.
	Pong string

	// IsPong is for servers whose answer is not always the same text: it reports
	// whether the frame is such an answer. It excludes Pong.
	IsPong func(wire.Frame) bool

	// Answer is for servers that ping in texts of their own: it returns the text to
	// answer with, of at most 4096 bytes, or nil if the frame is no ping. A ping is
	// no message. The text is copied. One that is longer or not UTF-8 is not sent,
	// and counts in Stats.Malformed.
	Answer func(wire.Frame) []byte

	// Topic names the topic of a message, and its number if it has one. It is not
	// called for pings and pongs. Without it the topic is "*".
	Topic func(wire.Frame) Label

	// Limits are what the server allows one connection: how many messages in a time, the
	// texts of OnOpen included, and its age. The client stays within them: see
	// wire.ConnectionLimits. Limits.Subscriptions must be zero, since a subscription sends
	// nothing.
	Limits wire.ConnectionLimits

	// Subprotocols are offered in the upgrade request. The server must choose one of
	// them; otherwise the attempt fails with ErrSubprotocol. A server that takes its
	// credential there gets it from Credential.Subprotocols of limpet.Options.Auth.
	Subprotocols []string
}

// Label is what Options.Topic says of a message.
type Label struct {
	// Topic is the topic, of at most 255 bytes of UTF-8 without control characters.
	// Empty stands for "*". A message with another topic is skipped and counts in
	// Stats.Malformed.
	Topic string

	// Number is the number of the message in its topic, if Numbered is true. The next
	// message of a topic has the next number: a higher one is a Gap, the same one a
	// duplicate, which is dropped, and a lower one a Reset.
	Number uint64

	// Numbered means that the message has a Number.
	Numbered bool

	// Time is when the server made or sent the message, by its own clock. It becomes
	// limpet.Message.Time. Zero, or a time before 1970 or after April 2262, means that the
	// message does not say.
	Time time.Time
}

// OptionError says which field of Options is wrong.
type OptionError struct {
	Field   string // for example "Subprotocols[0]"
	Problem string // with what to do
}

// Error returns the field and the problem.
func (e *OptionError) Error() string { return fmt.Sprintf("raw.Options.%s %s", e.Field, e.Problem) }

// TopicError says why a topic cannot be used.
type TopicError struct {
	Topic   string // at most 255 bytes; a longer one is cut
	Problem string // with what to do
}

// Error returns the topic and the problem.
func (e *TopicError) Error() string { return fmt.Sprintf("raw: topic %q %s", e.Topic, e.Problem) }

// New returns the dialect for the server that o describes. If o is wrong, limpet.New
// and limpet.Dial return an error that wraps an *OptionError. New keeps no reference
// to the slices of o.
func New(o Options) wire.Dialect {
	o.Subprotocols = slices.Clone(o.Subprotocols)
	return &dialect{options: o}
}

// dialect is immutable.
type dialect struct {
	wire.Base
	options Options
}

// Check reports the first option that is wrong.
func (d *dialect) Check() error {
	o := &d.options
	switch {
	case !utf8.ValidString(o.Ping):
		return &OptionError{"Ping", "is not UTF-8; a text must be"}
	case !utf8.ValidString(o.Pong):
		return &OptionError{"Pong", "is not UTF-8; a text must be"}
	case o.Pong != "" && o.IsPong != nil:
		return &OptionError{"Pong", "excludes IsPong; remove one of them"}
	case o.Ping != "" && o.Pong == "" && o.IsPong == nil:
		return &OptionError{"Ping", "needs Pong or IsPong; otherwise each answer would be a message"}
	case o.Limits.Subscriptions != 0:
		return &OptionError{"Limits.Subscriptions", "has no effect, since a subscription sends nothing; leave it out"}
	}
	if name, problem := o.Limits.Check(); name != "" {
		return &OptionError{"Limits." + name, problem}
	}
	for i, name := range o.Subprotocols {
		field := fmt.Sprintf("Subprotocols[%d]", i)
		if name == "" || strings.ContainsFunc(name, notToken) {
			return &OptionError{field, "is no token (RFC 6455, section 4.1); use letters, digits, '-' and '.'"}
		}
		if slices.Contains(o.Subprotocols[:i], name) {
			return &OptionError{field, "is offered twice; remove one of them"}
		}
	}
	return nil
}

// notToken reports whether r may not be in a token (RFC 9110, section 5.6.2).
func notToken(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune("()<>@,;:\\\"/[]?={}", r)
}

func (d *dialect) Name() string { return "raw" }

func (d *dialect) Traits() wire.Traits {
	t := wire.Traits{Publish: true, Streams: true, StartSubs: 1 << 30, Connection: d.options.Limits}
	if d.options.Ping != "" {
		t.Ping = wire.PingOp
	}
	return t
}

// CheckTopic refuses what no message would ever be received for, and topics to publish
// to, since a frame has no room for a topic.
func (d *dialect) CheckTopic(use wire.Use, topic string) error {
	shown := topic[:min(len(topic), maxTopic)]
	switch {
	case topic == rest:
		return nil
	case use == wire.UsePublish:
		return &TopicError{shown, `cannot be sent with a frame; publish to "*"`}
	case d.options.Topic == nil:
		return &TopicError{shown, `has no messages without raw.Options.Topic; subscribe to "*"`}
	case !validTopic(topic):
		return &TopicError{shown, "is no topic; use 1 to 255 bytes of UTF-8 without control characters"}
	}
	return nil
}

func validTopic(topic string) bool {
	return topic != "" && len(topic) <= maxTopic && utf8.ValidString(topic) && !strings.ContainsFunc(topic, unicode.IsControl)
}

func (d *dialect) Attempt(a *wire.Attempt) error {
	a.Subprotocols = slices.Clone(d.options.Subprotocols)
	a.Dial = true
	return nil
}

func (d *dialect) Open(r wire.Resume) (wire.Codec, error) {
	return &codec{options: &d.options, resume: r}, nil
}
