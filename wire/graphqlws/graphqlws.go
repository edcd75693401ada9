// Package graphqlws is the dialect for GraphQL servers that speak
// graphql-transport-ws: subscriptions, and mutations as published messages, over one
// WebSocket connection.
//
// This program prints the trades of a server. After a lost connection it subscribes
// again, from the number of the last trade on: a hole is a message of kind Gap.
//
//	package main
//
//	import (
//		"context"
//		"fmt"
//		"log"
//
//		"github.com/limpet-go/limpet"
//		"github.com/limpet-go/limpet/wire/graphqlws"
//	)
//
//	func main() {
//		client, err := limpet.New("wss://example.com/graphql", &limpet.Options{
//			Dialect: graphqlws.New(graphqlws.Options{Operations: map[string]graphqlws.Operation{
//				"trades": {
//					Query:  `subscription($after: Int) { trades(after: $after) { seq price } }`,
//					Cursor: &graphqlws.Cursor{Variable: "after", Path: "trades.seq", Number: true},
//				},
//			}}),
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer client.Close()
//		trades, err := client.Subscribe(context.Background(), "trades", nil)
//		if err != nil {
//			log.Fatal(err)
//		}
//		for m, err := range trades.Messages(context.Background()) {
//			if err != nil {
//				log.Fatal(err) // the server refuses the query, for example
//			}
//			if m.Loss != nil {
//				fmt.Println(m.Kind, m.Loss.Cause) // trades are missing here
//				continue
//			}
//			var result struct{ Trades struct{ Price float64 } }
//			if err := graphqlws.Unmarshal(m.Payload, &result); err != nil {
//				fmt.Println(err) // the result has errors
//				continue
//			}
//			fmt.Println(result.Trades.Price)
//		}
//	}
//
// # Topics
//
// A topic names one of Options.Operations, alone or with variables in JSON, which take
// precedence over Operation.Variables: "trades", or `trades:{"symbol":"PEARL"}`. A
// topic may also be the text of a query with one operation:
// "subscription { trades { price } }". Client.Subscribe takes subscriptions and
// queries, whose one result ends the stream; mutations are published. A query is
// sent again if the connection is lost before its result comes.
//
// # Messages
//
// The payload of a message is the execution result, as the server sent it: an object
// with data, errors and extensions (GraphQL, section 7.1). A result with errors is a
// message too; Unmarshal returns them. An error message of the server, which comes in
// place of results or after them, ends the subscription: its error wraps
// limpet.ErrRejected and has the text of the first GraphQL error.
//
// The protocol has no confirmation of a subscription. So it counts as live once the
// request is written; a refusal may follow.
//
// # What a reconnect costs
//
// The protocol has no numbers and no resumption, so without a Cursor each reconnect is
// a Reset. If the schema has an argument for where to begin, Operation.Cursor sends
// what the last message had there, and says what that proves.
//
// # Publishing
//
// Client.Publish sends a mutation: the topic names it, and the payload is a JSON object
// with its variables, or empty. The outcome is Acked when a result without errors and
// then the end of the operation have come. An error message, or a result with errors
// and no data, is Rejected. A result that has both is Unknown: a part was executed. A
// mutation that was on its way when the connection was lost is Unknown; with
// PublishOptions.Resend AtLeastOnce it is sent again, and may be executed twice. The result of
// one that is Acked is limpet.Ack.Reply; Unmarshal decodes it.
//
// # Protocol
//
// The source of rules is PROTOCOL.md of the library graphql-ws, "GraphQL over WebSocket
// Protocol". One thing differs. A message that cannot be read, or of an unknown type, is
// skipped and counts in Stats.Malformed, with a Gap in the stream that its id names. The
// protocol asks for a close with 4400, which would cost every other subscription its
// connection. The older protocol of subscriptions-transport-ws, whose subprotocol is
// called graphql-ws, is not spoken.
package graphqlws

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// Subprotocol is what the client offers. The server must choose it (PROTOCOL.md,
// "Communication").
const Subprotocol = "graphql-transport-ws"

// ContentType is the type of received messages: an execution result in JSON, named as
// by GraphQL over HTTP.
const ContentType = "application/graphql-response+json"

// The bounds of this package.
const (
	maxQuery  = 64 << 10 // bytes of a query, and of a topic
	maxOpen   = 1 << 16  // subscriptions, and mutations without an answer, of one connection
	maxEcho   = 4 << 10  // bytes of a ping's payload that its pong repeats; at most 1024 pongs wait
	maxReason = 255      // bytes of an error text
	maxTopic  = 255      // bytes of a topic in an error
)

// Options describe the server. Its functions must be safe for concurrent use; a panic in
// one of them costs the connection and no more. The zero value is right for topics that are queries, and
// for a server that needs no credential or takes it as the member "token".
type Options struct {
	// Operations are the operations that topics name. A name is a GraphQL name, other
	// than query, mutation, subscription and fragment.
	Operations map[string]Operation

	// Token is the member of the connection_init payload that carries the credential
	// that limpet.Options.Auth returns. It defaults to "token". It excludes Init.
	// Without a credential there is no payload.
	Token string

	// Init returns the payload of connection_init, a JSON object, or nil for none.
	// Resume.Token is the credential for this connection. Init runs on a goroutine of
	// the client and must not wait. An error ends the connection; before the client has
	// been ready, the third one in a row ends the client (docs/ending.md).
	Init func(wire.Resume) ([]byte, error)

	// OnAck gets the payload of connection_ack, JSON that it may keep, or nil if there
	// is none. It runs on a goroutine of the client and must not wait. An error ends the
	// connection with 4400, and the client as one of Init does.
	OnAck func(payload []byte) error

	// ControlPing makes the client ask for a sign of life with WebSocket ping frames,
	// for a server without the messages ping and pong: they came with version 5 of
	// graphql-ws. An earlier one closes with 4400 at a ping.
	ControlPing bool
}

// Operation is one GraphQL operation.
type Operation struct {
	// Query is the GraphQL document, of at most 64 KiB.
	Query string

	// Name is the operation to execute if Query has several.
	Name string

	// Variables are sent with each request. The topic and the payload of a published
	// message replace those of the same name. Values are encoded as JSON by New.
	Variables map[string]any

	// Cursor says how to resume a subscription. Nil means that it cannot: a reconnect
	// is a Reset.
	Cursor *Cursor
}

// Cursor says where a subscription goes on after a reconnect, or after the Position of
// another process (limpet.FromResume). Of what it has received, the client sends the
// last cursor in a variable.
type Cursor struct {
	// Variable is the variable that gets the cursor. Until a message has come it has
	// its value from Operation.Variables and the topic, if any.
	Variable string

	// Path is where the data of a result has the cursor: names joined by dots, such as
	// "trades.seq". A result without a value there moves no cursor.
	Path string

	// Read is for cursors that no Path reaches: it returns the cursor in an execution
	// result as a JSON value, or nil. It excludes Path. It runs on a goroutine of the
	// client, must not wait and must not keep or change result.
	Read func(result []byte) []byte

	// Number means that cursors are whole numbers, also as JSON strings, and that each
	// message has the next one. Then a number shows what is missing: a Gap. A repeated
	// message is dropped. Numbers that leave some out are no such numbers: leave
	// Number false.
	Number bool

	// Inclusive means that the server begins with the message at the cursor: that it
	// repeats it proves that none is missing, and it is dropped. If it does not, there
	// is a Reset. With Number it says nothing.
	Inclusive bool

	// Exact means that the server goes on right behind the cursor, or refuses it with
	// an error: that it sends results proves that none is missing. It is a promise of
	// the server that limpet cannot check. It excludes Number and Inclusive. With none of
	// the three, messages come from the cursor on, behind a Reset.
	Exact bool

	// Expired are the codes (extensions.code of the first error) with which the server
	// says that it does not hold the messages behind the cursor any more. Then the
	// operation is sent again without the cursor, and a Reset (CauseExpired) precedes
	// its first message. Another error ends the subscription.
	Expired []string
}

// OptionError says which field of Options is wrong.
type OptionError struct {
	Field   string // for example `Operations["trades"].Query`
	Problem string // with what to do
}

// Error returns the field and the problem.
func (e *OptionError) Error() string {
	return fmt.Sprintf("graphqlws.Options.%s %s", e.Field, e.Problem)
}

// TopicError says why a topic cannot be used.
type TopicError struct {
	Topic   string // at most 255 bytes; a longer one is cut
	Problem string // with what to do
}

// Error returns the topic and the problem.
func (e *TopicError) Error() string { return fmt.Sprintf("graphqlws: topic %q %s", e.Topic, e.Problem) }

// New returns the dialect for the server that o describes. If o is wrong, limpet.New
// and limpet.Dial return an error that wraps an *OptionError. New keeps no reference to
// the maps of o.
func New(o Options) wire.Dialect {
	d := &dialect{options: o, operations: map[string]*operation{}}
	if o.Token == "" {
		d.options.Token = "token"
	}
	d.problem = d.compile(o)
	d.options.Operations = nil
	return d
}

// dialect is immutable.
type dialect struct {
	options    Options
	operations map[string]*operation
	problem    error // an *OptionError
	resume     bool  // an operation has a cursor
}

func (d *dialect) compile(o Options) error {
	switch {
	case o.Token != "" && o.Init != nil:
		return &OptionError{"Token", "excludes Init; remove one of them"}
	case !utf8.ValidString(o.Token):
		return &OptionError{"Token", "is not UTF-8; use the name of a member of a JSON object"}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Operations)) {
		field := fmt.Sprintf("Operations[%q]", name)
		if !isName(name) || slices.Contains(keywords, name) {
			return &OptionError{field, "is no name for an operation; use letters, digits and '_', and no keyword of GraphQL"}
		}
		op, err := compile(field, o.Operations[name])
		if err != nil {
			return err
		}
		d.operations[name] = op
		d.resume = d.resume || op.cursor != nil
	}
	return nil
}

// compile checks one operation.
func compile(field string, o Operation) (*operation, error) {
	kind, problem := selectOperation(o.Query, o.Name)
	if problem != "" {
		return nil, &OptionError{field + ".Query", problem}
	}
	op := newOperation(kind, o.Query, o.Name)
	if len(o.Variables) > 0 {
		text, err := json.Marshal(o.Variables)
		if err != nil {
			return nil, &OptionError{field + ".Variables", "cannot be encoded as JSON: " + shorten(err.Error())}
		}
		op.variables = text
	}
	if o.Cursor == nil {
		return op, nil
	}
	c := *o.Cursor
	c.Expired = slices.Clone(c.Expired)
	field += ".Cursor"
	switch {
	case kind != "subscription":
		return nil, &OptionError{field, "is set for a " + kind + "; only a subscription goes on after a reconnect"}
	case !isName(c.Variable):
		return nil, &OptionError{field + ".Variable", "is no GraphQL name; name the variable of the query, without '$'"}
	case (c.Path == "") == (c.Read == nil):
		return nil, &OptionError{field + ".Path", "and Read: set one of them"}
	case c.Path != "" && slices.ContainsFunc(strings.Split(c.Path, "."), func(s string) bool { return !isName(s) }):
		return nil, &OptionError{field + ".Path", "is no path; use GraphQL names joined by dots, or Read"}
	case c.Exact && (c.Number || c.Inclusive):
		return nil, &OptionError{field + ".Exact", "excludes Number and Inclusive, which prove more; remove it"}
	case slices.Contains(c.Expired, ""):
		return nil, &OptionError{field + ".Expired", "has an empty code; use values of extensions.code"}
	}
	op.cursor, op.path = &c, strings.Split(c.Path, ".")
	return op, nil
}

// Check reports the first option that is wrong.
func (d *dialect) Check() error { return d.problem }

func (d *dialect) Name() string { return "graphqlws" }

func (d *dialect) Traits() wire.Traits {
	t := wire.Traits{Publish: true, Acks: true, Resume: d.resume, Unsubscribe: true, Greeting: true, Confirms: true, ByKey: true, Ping: wire.PingOp}
	if d.options.ControlPing {
		t.Ping = wire.PingControl
	}
	return t
}

// CheckTopic refuses topics without an operation, and mutations that would be sent again with
// each reconnect.
func (d *dialect) CheckTopic(use wire.Use, topic string) error {
	_, _, err := d.resolve(use, topic)
	return err
}

func (d *dialect) Attempt(a *wire.Attempt) error {
	a.Subprotocols = []string{Subprotocol}
	a.Dial = true
	return nil
}

func (d *dialect) Open(r wire.Resume) (wire.Codec, error) {
	if r.Subprotocol != Subprotocol {
		return nil, &wire.CodeError{Code: 1002, Reason: fmt.Sprintf("the server chose the subprotocol %q; want %s", shorten(r.Subprotocol), Subprotocol)}
	}
	return &codec{
		dialect: d, resume: r,
		subs:  wire.NewLedger[uint64, *subscription](maxOpen),
		calls: wire.NewLedger[uint64, *call](maxOpen),
	}, nil
}
