// Package jsonrpc is the dialect for servers that speak JSON-RPC 2.0 over WebSocket:
// calls with answers, notifications, and subscriptions such as eth_subscribe of
// Ethereum nodes.
//
// This program prints the blocks of an Ethereum node. It goes on after a lost
// connection, and shows which blocks it has missed.
//
//	package main
//
//	import (
//		"context"
//		"fmt"
//		"log"
//
//		"github.com/limpet-go/limpet"
//		"github.com/limpet-go/limpet/wire/jsonrpc"
//	)
//
//	func main() {
//		client, err := limpet.New("wss://example.com/node", &limpet.Options{
//			Dialect: jsonrpc.New(jsonrpc.Ethereum()),
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer client.Close()
//		heads, err := client.Subscribe(context.Background(), "newHeads", nil)
//		if err != nil {
//			log.Fatal(err)
//		}
//		for m, err := range heads.Messages(context.Background()) {
//			switch {
//			case err != nil:
//				log.Fatal(err) // the node refuses the subscription, for example
//			case m.Loss != nil:
//				fmt.Println(m.Kind, "after block", m.Loss.After.Offset, "up to", m.Loss.To.Offset)
//			default:
//				fmt.Println("block", m.Position.Offset, string(m.Payload))
//			}
//		}
//	}
//
// # Subscriptions
//
// Options.Subscribe says which method asks for a topic. The result is the server's id
// for the subscription, a string or a number, and notifications carry it as
// params.subscription beside params.result, which is the payload. An id is valid on one
// connection only: the client asks again on each. Notifications that come before the
// answer wait for it, at most 256 of them with 1 MiB; a Gap (CauseDropped) stands for what
// exceeds that. A refusal ends the subscription with ErrRejected, unless Options.Retry
// names a time. If params has an error in place of a result, the server has ended the
// subscription.
//
// Without Options.Subscribe, and for a topic for which it returns no method, a topic is
// the method of notifications, and nothing is sent to subscribe: the payload is params.
//
// JSON-RPC cannot resume. After a reconnect a Reset shows where messages may be missing,
// unless Options.Locate numbers them: then a Gap holds the first and the last number that
// are missing, or nothing is missing at all.
//
// # Publishing
//
// A topic to publish to is a method, and the payload its params: a JSON array or object,
// or nothing. The message is a request (JSON-RPC 2.0, section 4). A result ends it as
// Acked, with the result in limpet.Ack.Reply, an error (section 5.1) as Rejected with the code and the text. Codes are negative
// numbers as a rule: limpet.Error.Code is the number without its sign, and the text
// begins with the code as the server wrote it. If the connection is lost before the
// answer, the outcome is Unknown. A message that the server never answers stays Pending
// until the connection ends. With Options.Notify a message is a notification (section
// 4.1) instead and ends as Written.
//
// # Calls
//
// Client.Call makes a request like a published message, with Notify too, and returns the result:
//
//	block, err := client.Call(ctx, "eth_blockNumber", nil, nil)
//
// An error of the server is a limpet.ErrRejected with the code, as above. Options.Again is not asked:
// the caller decides.
//
// # Hostile servers
//
// What is not JSON, and what belongs to no request and to no subscription, is skipped and
// counted in Stats.Malformed or Stats.Unrequested. A text that is not UTF-8 ends the
// connection with 1007 (RFC 6455, section 8.1), an array of more than 4096 objects with
// 1002. A request of the server is answered with the error -32601.
package jsonrpc

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// TypeJSON is the content type of received messages, and the only one to publish.
const TypeJSON = "application/json"

// Options describe the server. The zero value is right for a server that sends
// notifications without being asked. The functions run on goroutines of the client,
// several at a time: they must not wait for anything, and must not change or keep what
// they get. A panic in one of them costs the connection and no more.
type Options struct {
	// Subscribe returns the call that subscribes to a topic, or an error if the topic
	// is wrong. Its result depends on the topic alone. Without a method nothing is
	// sent, and the topic is the method of notifications.
	Subscribe func(topic string) (Call, error)

	// Unsubscribe returns the call that ends the subscription with the server's id, a
	// JSON string or number. It is needed with Subscribe: without it the server would go
	// on sending.
	Unsubscribe func(topic string, id []byte) Call

	// Locate returns the place of a message in its topic. Without it messages have
	// none, and a Reset follows each reconnect.
	Locate func(topic string, payload []byte) Place

	// LookBack is how far below the last number the server may repeat messages that
	// have no Place.ID: see wire.Traits.LookBack.
	LookBack uint64

	// Retry returns after which time a subscription that was refused with e may be
	// requested again. Zero means never: the subscription ends. At most 15 minutes.
	Retry func(e Error) time.Duration

	// Again returns after which time a published message that was refused with e is sent
	// again: the server must not have executed it. Zero means never: the message is
	// Rejected, as without Again. At most 15 minutes. With Ethereum, Retry can stand here
	// too. The messages behind it do not wait for it. One that is refused each time ends
	// only with PublishOptions.TTL.
	Again func(e Error) time.Duration

	// Ping is a method without params that the client calls for every interval of
	// Options.Heartbeat of the client, for a server behind a proxy that answers
	// WebSocket pings by itself. Any answer is a sign of life. If it is empty, the client
	// sends WebSocket pings.
	Ping string

	// Batch is how many requests one WebSocket message may hold, as an array (JSON-RPC
	// 2.0, section 6): 0 to 1000. With 0 and 1 there are no arrays.
	Batch int

	// Notify makes each published message a notification: the server does not answer
	// it, and it ends as Written.
	Notify bool
}

// Call is a method with its params.
type Call struct {
	Method string // UTF-8
	Params []byte // a JSON array or object; empty: none
}

// Place is where a message stands in its topic. The zero value means no place.
type Place struct {
	// Number is the number of the message, if Numbered is true. The next message has
	// the next number: a higher one shows a Gap.
	Number uint64

	// Numbered means that the message has a Number.
	Numbered bool

	// ID identifies the message, and Prev the message with the number before: hashes of
	// blocks, for example. Each is optional and has at most 256 bytes. The same number
	// with another ID, the next number with another Prev, and a lower number whose Prev
	// is one of the last 64 IDs of the connection, are a reorganisation: a Reset
	// (CauseDiverged) whose Loss.To is the number before, and then the message. Another
	// lower number is a Reset (CauseRestarted).
	ID, Prev string
}

// Error is the error object of an answer (JSON-RPC 2.0, section 5.1).
type Error struct {
	Code    int64  // zero if it cannot be read
	Message string // at most 512 bytes
	Data    []byte // JSON; nil if there is none
}

// OptionError says which field of Options is wrong.
type OptionError struct {
	Field   string // for example "Batch"
	Problem string // with what to do
}

// Error returns the field and the problem.
func (e *OptionError) Error() string {
	return fmt.Sprintf("jsonrpc.Options.%s %s", e.Field, e.Problem)
}

// TopicError says why a topic cannot be used.
type TopicError struct {
	Topic   string // at most 255 bytes; a longer one is cut
	Problem string // with what to do
}

// Error returns the topic and the problem.
func (e *TopicError) Error() string { return fmt.Sprintf("jsonrpc: topic %q %s", e.Topic, e.Problem) }

// The limits of the dialect.
const (
	maxTopic      = 16 << 10 // bytes of a topic: a filter may be part of it
	maxMethod     = 255      // bytes of a method
	maxID         = 256      // bytes of an id, and of Place.ID
	maxReason     = 512      // bytes of the text of an error
	maxBatch      = 1000     // requests in an array to send
	maxElements   = 4096     // objects in an array that is received
	maxEarly      = 256      // notifications that wait for the id of their subscription
	maxEarlyBytes = 1 << 20  // of their payloads
	maxPending    = 1 << 20  // requests without an answer, and subscriptions
)

// New returns the dialect for the server that o describes. If o is wrong, limpet.New and
// limpet.Dial return an error that wraps an *OptionError.
func New(o Options) wire.Dialect { return &dialect{options: o} }

// dialect is immutable.
type dialect struct {
	wire.Base // the token is a header, and JSON-RPC has no close codes
	options   Options
}

// Check reports the first option that is wrong.
func (d *dialect) Check() error {
	o := &d.options
	switch {
	case o.Unsubscribe != nil && o.Subscribe == nil:
		return &OptionError{"Unsubscribe", "needs Subscribe; remove it or set Subscribe"}
	case o.Subscribe != nil && o.Unsubscribe == nil:
		return &OptionError{"Unsubscribe", "is needed with Subscribe; return the call that ends a subscription"}
	case o.Retry != nil && o.Subscribe == nil:
		return &OptionError{"Retry", "needs Subscribe; remove it or set Subscribe"}
	case o.Again != nil && o.Notify:
		return &OptionError{"Again", "has no meaning with Notify: no answer comes; remove one of them"}
	case o.LookBack > 0 && o.Locate == nil:
		return &OptionError{"LookBack", "needs Locate; remove it or set Locate"}
	case o.Ping != "" && !validName(o.Ping, maxMethod):
		return &OptionError{"Ping", "is no method; use 1 to 255 bytes of UTF-8 without control characters"}
	case o.Batch < 0 || o.Batch > maxBatch:
		return &OptionError{"Batch", fmt.Sprintf("is %d; use 0 to %d", o.Batch, maxBatch)}
	}
	return nil
}

func (d *dialect) Name() string { return "jsonrpc" }

func (d *dialect) Traits() wire.Traits {
	o := &d.options
	t := wire.Traits{
		ByKey: true, Confirms: true, Unsubscribe: true, Publish: true, Acks: !o.Notify, Calls: true, LookBack: o.LookBack,
	}
	if o.Ping != "" {
		t.Ping = wire.PingOp
	}
	return t
}

func (d *dialect) CheckTopic(use wire.Use, topic string) error {
	shown := strings.ToValidUTF8(topic[:min(len(topic), 255)], "")
	switch {
	case use == wire.UsePublish && !validName(topic, maxMethod):
		return &TopicError{shown, "is no method; use 1 to 255 bytes of UTF-8 without control characters"}
	case use == wire.UsePublish:
		return nil
	case !validName(topic, maxTopic):
		return &TopicError{shown, "is no topic; use 1 to 16384 bytes of UTF-8 without control characters"}
	case d.options.Subscribe == nil:
		return nil
	}
	call, err := d.options.Subscribe(topic)
	if err == nil && call.Method != "" {
		err = call.check()
	}
	if err != nil {
		return &TopicError{shown, err.Error()}
	}
	return nil
}

func validName(s string, limit int) bool {
	return s != "" && len(s) <= limit && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func (d *dialect) Open(wire.Resume) (wire.Codec, error) {
	return &codec{
		options:  &d.options,
		asks:     wire.NewLedger[uint64, ask](maxPending),
		requests: wire.NewLedger[uint64, request](maxPending),
		ids:      wire.NewLedger[uint64, string](maxPending),
		leaving:  wire.NewLedger[uint64, bool](maxPending),
		open:     wire.NewLedger[uint64, batch](maxPending),
		local:    wire.NewLedger[string, uint64](maxPending),
		routes:   map[string]*route{},
		early:    map[string]*waiting{},
	}, nil
}
