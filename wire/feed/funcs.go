package feed

import (
	"strings"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Funcs describes the wire protocol of one server with functions, for a server that no
// Table describes or that takes messages. One connection calls Read on one goroutine at
// a time and the others on another; several connections may call them at the same time,
// so they must be safe for concurrent use. None may block, and what they return must not
// be changed later. What holds for one connection only, such as ids that the server hands
// out, belongs to functions that Open of a dialect of your own makes for it: see the example
// of NewFuncs.
type Funcs struct {
	// Name is the name of the dialect: lower-case letters, digits and '-'.
	Name string

	// Subprotocols are the subprotocols to offer (RFC 6455, section 1.9). The server must
	// choose one of them. Optional.
	Subprotocols []string

	// Read decodes one WebSocket message and calls say for each thing in it, in order.
	// data, what aliases it and say are valid only during the call. If it returns an error,
	// the message is skipped and counted in Stats.Malformed, and what it said does not
	// count: the topics of its messages get a Gap. An Item that is wrong is skipped alone. The
	// text of the error, up to 200 bytes of it, is reported (limpet.MessageSkipped) and
	// logged: leave out what must stay secret. After a *wire.CodeError the connection ends.
	Read func(data []byte, say func(Item)) error

	// Hello returns the first message of a connection, for the client's token.
	// Optional.
	Hello func(token string) ([]byte, error)

	// Refresh returns the message that gives the server a new token on the open connection,
	// for one that ends a connection whose token has expired. The client sends it when the
	// server wants one (Credential), and by itself after 80 % of Item.Valid. Optional: without
	// it a new token is for a new connection.
	Refresh func(token string) ([]byte, error)

	// Greeting means that the server sends a Welcome, before which only Hello is sent.
	Greeting bool

	// Subscribe returns the message that subscribes to a topic. Optional if Publish is
	// set.
	Subscribe func(Ask) ([]byte, error)

	// Unsubscribe returns the message that ends a subscription. Optional.
	Unsubscribe func(Ask) ([]byte, error)

	// Confirms means that the server answers each Subscribe; ConfirmsEnd that it answers
	// each Unsubscribe.
	Confirms, ConfirmsEnd bool

	// Numbered means that messages have numbers, dense for each topic.
	Numbered bool

	// Resume means that a subscription can begin where Ask.From and Ask.After say.
	Resume bool

	// Publish returns the message that publishes m. cmd is new for each message, and
	// the same if it is sent again. Optional.
	Publish func(cmd uint64, m wire.Message) ([]byte, error)

	// Acks means that the server answers each Publish with its cmd: with Answered if it
	// has taken the message, or with Refused. Without it a receipt ends as Written.
	//
	// When a connection is lost, every message without an answer ends as Unknown;
	// limpet.Options.Window bounds how many. With PublishOptions.Resend AtLeastOnce it is sent
	// again with the same cmd instead. cmd begins again in each client: m.ID is the key
	// for a server that recognises duplicates; uuid.UUID(m.ID).String() is that of
	// Receipt.ID as a text. A message that the server never answers
	// stays pending until the connection ends, and once the window is full of later
	// messages nothing more can be published: have Read report every answer, Refused
	// for one that it does not know.
	Acks bool

	// Check returns nil if topic is valid for use, otherwise what is wrong with it.
	// Optional: a topic has 1 to 255 bytes of UTF-8, and no '*'.
	Check func(use wire.Use, topic string) error

	// Ping returns the message that asks for a sign of life. Optional: without it the
	// client sends WebSocket pings.
	Ping func() ([]byte, error)

	// Pong returns the answer to a Question with that N. Optional.
	Pong func(n uint64) ([]byte, error)

	// Binary means that messages are sent in binary frames instead of text frames.
	Binary bool

	// Limits are what the server allows one connection. The client stays within them: see
	// wire.ConnectionLimits. Optional.
	Limits wire.ConnectionLimits
}

// Ask is a request for one topic.
type Ask struct {
	ID    uint64 // new for each request of a connection, and the cmd of no message
	Topic string
	From  wire.From     // where to begin, with Funcs.Resume; return an error for what the server cannot do
	After wire.Position // the last position received, with Funcs.Resume; zero if there is none
	Token string        // of the subscription; empty if there is none
}

// ItemKind says what a server has sent.
type ItemKind uint8

// The kinds of Item, each with the fields that it uses.
const (
	Data       ItemKind = iota // a message: Topic, Payload, Type, Number, Prev, Time
	Snapshot                   // a message that holds the whole state: as Data
	Repeat                     // a message that was sent before: as Data
	Answered                   // a request or a Publish was accepted: ID, or Topic for a Subscribe
	Refused                    // it was refused: as Answered, and Code, Reason and Retry. With neither ID nor Topic: the oldest request
	Ended                      // a subscription has ended: Topic, Retry
	Welcome                    // the connection is ready, with Funcs.Greeting
	Question                   // the server asks for a sign of life: N
	Alive                      // a sign of life
	Notice                     // a text for people: Code, Reason
	GoAway                     // the server asks for a new connection, as with Table.GoAway: Reason
	Credential                 // the token is valid for Valid; zero means that the server wants a new one now. With Funcs.Refresh
)

// Item is one thing that a server has sent. Only the fields named at its kind count.
type Item struct {
	Kind    ItemKind
	ID      uint64 // of the request, or cmd of the message
	Topic   string
	Payload []byte    // copied; nil means the whole WebSocket message
	Type    string    // becomes Message.Type
	Number  uint64    // with Funcs.Numbered; zero means that the message has none
	Prev    uint64    // number of the message before it; zero means Number - 1
	Time    time.Time // when the server made or sent it; zero means that it does not say: see wire.TimeOf
	N       uint64
	Code    int64 // the server's own code, of Refused and Notice; zero means that there is none
	Reason  string

	// Valid is how long the token remains valid, of Credential.
	Valid time.Duration

	// Retry is when to ask again, at most 15 minutes: a refusal is not final then, and a
	// message that was refused stays Pending. Zero means that the server does not say:
	// then a refusal is final.
	Retry time.Duration
}

// FuncsError says which field of Funcs is wrong.
type FuncsError struct {
	Field   string // for example "Read"
	Problem string
}

// Error returns the field and the problem.
func (e *FuncsError) Error() string { return "feed: field " + e.Field + " of Funcs: " + e.Problem }

// NewFuncs checks f and returns its dialect. The error is a *FuncsError.
func NewFuncs(f Funcs) (wire.Dialect, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	return &funcs{Funcs: f}, nil
}

// check reports the first field of f that is wrong.
func (f *Funcs) check() error {
	switch {
	case f.Name == "" || strings.Trim(f.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
		return &FuncsError{"Name", "want lower-case letters, digits and '-'"}
	case f.Read == nil:
		return &FuncsError{"Read", "is nil"}
	case f.Subscribe == nil && f.Publish == nil:
		return &FuncsError{"Subscribe", "is nil, and so is Publish; want one of them"}
	case f.Subscribe == nil && (f.Unsubscribe != nil || f.Confirms || f.ConfirmsEnd || f.Resume):
		return &FuncsError{"Subscribe", "is nil, but other fields are about subscriptions"}
	case f.Unsubscribe == nil && f.ConfirmsEnd:
		return &FuncsError{"Unsubscribe", "is nil, but ConfirmsEnd is set"}
	case f.Resume && !f.Numbered:
		return &FuncsError{"Resume", "needs Numbered"}
	case f.Publish == nil && f.Acks:
		return &FuncsError{"Publish", "is nil, but Acks is set"}
	}
	if name, problem := f.Limits.Check(); name != "" {
		return &FuncsError{"Limits." + name, problem}
	}
	for _, p := range f.Subprotocols {
		if !isToken(p) {
			return &FuncsError{"Subprotocols", "want tokens (RFC 9110, section 5.6.2)"}
		}
	}
	return nil
}
