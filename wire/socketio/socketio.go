// Package socketio is the dialect of Socket.IO servers: version 5 of the Socket.IO
// protocol over version 4 of the Engine.IO protocol, as servers since Socket.IO 3 speak
// it, with the WebSocket transport alone.
//
// This program prints the events "price" of a server, and sends one event:
//
//	package main
//
//	import (
//		"context"
//		"fmt"
//		"log"
//
//		"github.com/limpet-go/limpet"
//		"github.com/limpet-go/limpet/wire/socketio"
//	)
//
//	func main() {
//		client, err := limpet.New("wss://example.com", &limpet.Options{
//			Dialect: socketio.New(socketio.Options{}),
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer client.Close()
//		prices, err := client.Subscribe(context.Background(), "price", nil)
//		if err != nil {
//			log.Fatal(err)
//		}
//		// socket.emit("watch", {"symbol": "PEARL"}, callback): Send waits for the callback.
//		if _, err := client.Send(context.Background(), "watch", []byte(`{"symbol":"PEARL"}`), nil); err != nil {
//			log.Fatal(err)
//		}
//		for m, err := range prices.Messages(context.Background()) {
//			if err != nil {
//				log.Fatal(err) // the client has ended: the server refuses it, for example
//			}
//			if m.Kind == limpet.Reset {
//				fmt.Println("reconnected: what the server sent meanwhile is lost")
//				continue
//			}
//			fmt.Println(string(m.Payload))
//		}
//	}
//
// # Topics and payloads
//
// A topic is the name of an event. The topic [All] gets every event, also those that have
// a subscription of their own; Message.Topic is the name of the event.
//
// An event has arguments. If it has one, Payload is that argument as JSON, byte for byte
// as the server sent it, and Type is [TypeJSON]. Otherwise Payload is a JSON array with
// the arguments, and Type is [TypeArguments]. If the only argument is binary, Payload is
// its bytes, and Type is [TypeBinary]. In JSON a binary part is a string in base64, which
// encoding/json reads into a []byte, and the header [HeaderBinary] has the number of
// these parts. To publish, the same types mean the same; an empty payload without a type
// stands for no argument. Binary parts inside JSON cannot be published.
//
// # Acknowledgements
//
// Publish emits an event and asks for an acknowledgement: the receipt is Acked when the
// server's handler has called its callback. Handlers that never do so leave receipts open
// until the connection ends, and then Unknown. For them set Options.NoAcks: receipts end
// as Written. limpet.Ack.Reply is what the server has passed to the callback, as a JSON
// array; it is nil if that was nothing.
//
// An event for which the server asks for an acknowledgement is acknowledged once your
// program has processed it, without arguments, and never if it has not: see
// limpet.Message.Ack. With a subscription to the event and one to [All], the former counts.
//
// # What a reconnect costs
//
// A server with connection state recovery (Socket.IO 4.6, option connectionStateRecovery)
// keeps what it sends for a while. The client names the last event that it has got, and
// the server sends what came after it: then nothing marks the reconnect in the stream.
// If the server does not recover, a message of kind Reset stands where events may be
// missing. Such a server does not keep events that are volatile or ask for an
// acknowledgement. So there is a Reset, too, in a stream that has had such an event.
//
// A server with recovery appends an offset to an event: a text, as the last argument. The
// client removes it. A volatile event has none, but its last argument may be a text: name
// such events in Options.Volatile.
//
// # Rooms
//
// In Socket.IO a client does not subscribe: the server sends what it likes. Many servers
// have an event of their own that asks for more, such as "join". Options.Join says which,
// for each topic; the client emits it on every connection on which the server does not
// know it yet. A subscription is live when the server has acknowledged it.
//
// docs/dialects/socketio.md has what each promise of the client becomes, the verdicts and
// the limits.
package socketio

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// All is the topic of every event.
const All = "*"

// The content types of received messages, and of messages to publish.
const (
	TypeJSON      = "application/json"                        // the only argument
	TypeArguments = "application/vnd.socketio.arguments+json" // a JSON array with all arguments
	TypeBinary    = "application/octet-stream"                // the only argument, which is binary
)

// HeaderBinary is the header of a received message that says how many strings in its JSON
// are binary parts, in base64 (RFC 4648, section 4).
const HeaderBinary = "Binary-Parts"

// Options describe the server. The zero value is right for one that listens at the
// default path and has no credentials.
type Options struct {
	// Path is the path of the server's option with the same name. If it is empty,
	// it is "/socket.io/". It comes after the path of the URL, unless that ends with it.
	// A "/" at its end is added, as servers do.
	Path string

	// Namespace is the namespace to connect to. If it is empty, it is "/", the main one.
	Namespace string

	// Auth returns what the server's middleware finds in socket.handshake.auth: a
	// value that becomes a JSON object. Nil sends none. token is the credential that
	// Options.Auth of the client returned for this connection; it may be empty.
	// Without Auth, a token is sent as {"token": token}.
	Auth func(token string) any

	// NoAcks means that published events ask for no acknowledgement: their receipts
	// end as Written.
	NoAcks bool

	// Rejected reads what the server passes to the callback of an event that was
	// published or that Join returned: a JSON array of arguments. If they say that the
	// server has refused it, Rejected returns why, in words; otherwise it returns an
	// empty text. Without Rejected every callback means success.
	Rejected func(event string, arguments []byte) string

	// Volatile are the names of the events that the server sends as volatile: their
	// last argument is never taken for an offset.
	Volatile []string

	// Join returns the event that asks the server for a topic, and its arguments, which
	// are encoded as JSON. An empty name means that nothing is to be sent, as without
	// Join. The server must call the callback of the event. It is called for All, too.
	Join func(wire.Subscribe) (event string, arguments []any)

	// Leave returns the event that ends what Join has asked for. It needs Join.
	Leave func(topic string) (event string, arguments []any)

	// Refused says what to do when the server refuses the connection to the namespace
	// (connect_error) with this message and data, which is JSON or empty, and the
	// earliest time of the next attempt; zero leaves it to the client. Without Refused,
	// and for ActionDefault, the client asks for a new credential once. For ActionRetryNow
	// with a time of at most 5 s, it waits and asks again on the same connection, once.
	Refused func(message string, data []byte) (wire.Action, time.Duration)

	// Return means that the client connects again, after a pause, when the server has
	// disconnected it with socket.disconnect. Without it the client ends, as a client of
	// Socket.IO does.
	Return bool
}

// OptionError says which field of Options is wrong.
type OptionError struct {
	Field   string // for example "Namespace"
	Problem string // with what to do
}

// Error returns the field and the problem.
func (e *OptionError) Error() string {
	return fmt.Sprintf("socketio.Options.%s %s", e.Field, e.Problem)
}

// TopicError says why a topic cannot be used.
type TopicError struct {
	Topic   string // at most 255 bytes; a longer one is cut
	Problem string // with what to do
}

// Error returns the topic and the problem.
func (e *TopicError) Error() string { return fmt.Sprintf("socketio: topic %q %s", e.Topic, e.Problem) }

// New returns the dialect for the server that o describes. If o is wrong, limpet.New and
// limpet.Dial return an error that wraps an *OptionError. New keeps no reference to the
// slices of o. The functions of o run on goroutines of the client and must not wait for
// anything; what they get is theirs.
func New(o Options) wire.Dialect {
	o.Volatile = slices.Clone(o.Volatile)
	if o.Path == "" {
		o.Path = "/socket.io/"
	}
	if o.Namespace == "" {
		o.Namespace = "/"
	}
	return &dialect{o}
}

// dialect is immutable.
type dialect struct{ options Options }

// Check reports the first option that is wrong.
func (d *dialect) Check() error {
	o := &d.options
	switch {
	case !strings.HasPrefix(o.Path, "/") || strings.ContainsAny(o.Path, "?#") || !plain(o.Path):
		return &OptionError{"Path", `is not a path; use one that begins with "/", such as "/socket.io/"`}
	case !strings.HasPrefix(o.Namespace, "/") || strings.ContainsAny(o.Namespace, ",?") || !plain(o.Namespace):
		return &OptionError{"Namespace", `is not a namespace; use "/" and a name without "," and "?", such as "/admin"`}
	case o.Leave != nil && o.Join == nil:
		return &OptionError{"Leave", "needs Join; remove it, or set both"}
	}
	for i, name := range o.Volatile {
		if !plain(name) {
			return &OptionError{fmt.Sprintf("Volatile[%d]", i), "is not the name of an event; use UTF-8 without control characters"}
		}
	}
	return nil
}

// plain reports whether s is UTF-8 without control characters.
func plain(s string) bool {
	return s != "" && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func (d *dialect) Name() string { return "socketio" }

// Traits. Unsubscribe sends something only with Leave; then a room that was closed without
// a connection is left, too, since a session that is recovered keeps its rooms. Release
// sends nothing: what was not processed must not be acknowledged.
func (d *dialect) Traits() wire.Traits {
	return wire.Traits{
		Publish: true, Acks: !d.options.NoAcks, Greeting: true, Confirms: true, Unsubscribe: true, StartSubs: maxSubs,
		KeepsSubs: d.options.Leave != nil,
		Processed: wire.ProcessedEach, Release: true, ErrorStaysOpen: true, Ping: wire.PingNone,
	}
}

const (
	maxSubs  = 1 << 20
	maxTopic = 255 // bytes
)

// reserved are the names that no event of a program has.
var reserved = []string{"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}

func (d *dialect) CheckTopic(use wire.Use, topic string) error {
	shown := topic[:min(len(topic), maxTopic)]
	switch {
	case len(topic) > maxTopic || !plain(topic):
		return &TopicError{shown, "is not the name of an event; use 1 to 255 bytes of UTF-8 without control characters"}
	case slices.Contains(reserved, topic):
		return &TopicError{shown, "is a name that Socket.IO has reserved; use another one"}
	case use == wire.UsePublish && topic == All:
		return &TopicError{shown, "is not an event; publish to the name of one"}
	}
	return nil
}

// Attempt makes the URL: Engine.IO protocol, section "URL".
func (d *dialect) Attempt(a *wire.Attempt) error {
	u, err := url.Parse(a.URL)
	if err != nil {
		return err
	}
	if path := strings.TrimSuffix(d.options.Path, "/"); !strings.HasSuffix(strings.TrimSuffix(u.Path, "/"), path) {
		u = u.JoinPath(d.options.Path)
	}
	if !strings.HasSuffix(u.Path, "/") {
		u = u.JoinPath("/") // a server answers only there, unless its option addTrailingSlash is false: then also there
	}
	q := u.Query()
	if q.Get("EIO") != "4" || q.Get("transport") != "websocket" || q.Has("sid") {
		q.Del("EIO")
		q.Del("sid")
		q.Del("transport")
		rest := ""
		if len(q) > 0 {
			rest = q.Encode() + "&"
		}
		u.RawQuery = rest + "EIO=4&transport=websocket"
	}
	a.URL, a.Dial = u.String(), true
	return nil
}

// auth returns the payload of the CONNECT packet: what the server is to know, with what
// it needs to recover the session.
func (o *Options) auth(token string, s session) ([]byte, error) {
	var value any
	switch {
	case o.Auth != nil:
		value = o.Auth(token)
	case token != "":
		value = map[string]string{"token": token}
	}
	data, err := json.Marshal(value)
	if err != nil {
		return nil, &OptionError{"Auth", "returned a value that is not JSON: " + err.Error()}
	}
	if string(data) == "null" {
		if !s.recoverable() {
			return nil, nil
		}
		data = []byte("{}")
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, &OptionError{"Auth", "returned a value that is not a JSON object; return a map or a struct"}
	}
	if !s.recoverable() {
		return data, nil
	}
	members["pid"], members["offset"] = quote(s.pid), quote(s.offset)
	return json.Marshal(members)
}

func quote(s string) []byte {
	b, _ := json.Marshal(s) // of a string it does not fail
	return b
}
