// Package stomp is the dialect for message brokers that speak STOMP 1.2 over WebSocket,
// such as RabbitMQ with its Web STOMP plugin. A topic is a destination of the broker:
// /queue/orders, /topic/prices.eur.
//
// This program works off the orders of a queue. A message whose loop body finishes is
// acknowledged; all others come again, to this program or to another one.
//
//	package main
//
//	import (
//		"context"
//		"fmt"
//		"log"
//
//		"github.com/limpet-go/limpet"
//		"github.com/limpet-go/limpet/wire/stomp"
//	)
//
//	func main() {
//		client, err := limpet.New("wss://broker.example.com:15673/ws", &limpet.Options{
//			Dialect: stomp.New(stomp.Options{Login: "heron", Passcode: "s3cret"}),
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer client.Close()
//		orders, err := client.Subscribe(context.Background(), "/queue/orders", nil)
//		if err != nil {
//			log.Fatal(err)
//		}
//		for m, err := range orders.Messages(context.Background()) {
//			if err != nil {
//				log.Fatal(err) // the broker refuses the login or the subscription, for example
//			}
//			if m.Kind == limpet.Data {
//				fmt.Println(m.Redelivered, string(m.Payload))
//			}
//		}
//	}
//
// # Subscriptions
//
// Each SUBSCRIBE asks for a RECEIPT, which confirms it. By default each message is
// acknowledged by itself once it is processed (ack:client-individual): the broker keeps
// it until then, and sends no more than Options.Prefetch messages without one. So a slow
// consumer slows the broker down and loses nothing. Message.Nack, and the end of a
// subscription, give messages back (NACK), and the broker delivers them again. With
// Subscription.Auto the broker forgets each message when it has sent it.
//
// The promise is at least once. What was not acknowledged when a connection ends comes
// again, with Message.Redelivered, under another message-id: a message that your program
// has processed may be among them. Message.ID is the same in both copies, if limpet has
// published the message. STOMP cannot prove that nothing is missing after a reconnect,
// so a Reset comes first. A durable queue has kept its messages; a topic has not.
//
// Message.Header has the headers of the MESSAGE without those that have a place of their
// own or belong to the connection. Message.Topic is its destination.
//
// # Publishing
//
// Each SEND asks for a RECEIPT, and a message ends as Acked when that comes: the broker
// has it. PublishOptions.Header become headers of the frame, such as "persistent":"true",
// and PublishOptions.Type its content-type. The id goes as the header amqp-message-id.
// STOMP has no sessions: a message without an answer when the connection ends is Unknown,
// or with PublishOptions.Resend AtLeastOnce sent again.
//
// # Errors
//
// An ERROR of the broker ends the connection (STOMP 1.2, "ERROR"). If it names a request,
// by its receipt-id or its destination, or if only one request has no answer, then that
// subscription or message is refused. The client reconnects without it. docs/dialects/stomp.md
// has the table of what each error means.
package stomp

import (
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

const (
	maxTopic     = 1024     // bytes of a destination
	maxHead      = 64 << 10 // bytes of the command and the headers of a frame
	maxHeaders   = 1024     // of a received frame; brokers allow about 1000
	maxPending   = 1 << 20  // requests without an answer on one connection
	maxPrefetch  = 1<<16 - 1
	defaultLimit = 1 << 20 // bytes of a frame, if the client has no limit
)

// Options describe the broker. The zero value is right for RabbitMQ with its default
// virtual host and credentials from limpet.Options.Auth.
type Options struct {
	// Login and Passcode are the user and the password. A token from Options.Auth of
	// the client stands in place of Passcode, and can be refreshed. Neither may hold
	// control characters.
	Login, Passcode string

	// Host is the virtual host. Defaults to "/".
	Host string

	// Prefetch is how many messages of a subscription the broker may send before the
	// first of them is acknowledged (the header prefetch-count). Defaults to half of
	// Delivery.Buffer of the subscription, and is never more than Delivery.Buffer. It
	// has no meaning with Subscription.Auto.
	Prefetch int

	// Subscribe returns how to subscribe to a destination. Without it every subscription
	// is as the zero Subscription. It is called for each SUBSCRIBE, must not wait, and
	// must be safe for concurrent use if several clients share the dialect.
	Subscribe func(destination string) Subscription

	// NoReceipts is for brokers that send no RECEIPT, such as the simple broker of
	// Spring. Then a subscription counts as live once it was asked for, a published
	// message ends as Written, and the client sends WebSocket pings.
	NoReceipts bool

	// NoSubprotocol is for servers that choose no subprotocol. Otherwise the client
	// offers v12.stomp, v11.stomp and v10.stomp, and the server must choose one.
	NoSubprotocol bool

	// CSRF is the path of an address that returns a token, such as "/csrf", for servers with
	// the WebSocket security of Spring, which want one in CONNECT. The client asks for it
	// by HTTP before each connection, on the host of the URL and with the headers of the
	// upgrade. The answer is Spring's CsrfToken as JSON: {"headerName": ..., "token": ...}.
	// Its cookies go into the upgrade. If it is refused, that counts as a refused upgrade.
	CSRF string

	// EscapeConnect writes a backslash in Login, Passcode and Host as two, as RabbitMQ
	// wants it. STOMP 1.2, "Value Encoding", wants one, and says nothing of it else.
	EscapeConnect bool
}

// Subscription is how to subscribe to a destination.
type Subscription struct {
	// Auto means that the broker needs no acknowledgements (ack:auto). It may send
	// faster than the consumer takes: Delivery.Overflow decides what is dropped.
	Auto bool

	// Prefetch is used in place of Options.Prefetch if it is not zero.
	Prefetch int

	// Header holds more headers of the SUBSCRIBE, such as "durable", "auto-delete",
	// "x-queue-type" or "selector". A durable subscription to a topic needs
	// "x-queue-name": without it RabbitMQ names the queue after an id that changes.
	// The end of a subscription leaves a durable queue in place.
	Header map[string]string
}

// OptionError says which field of Options is wrong.
type OptionError struct {
	Field   string // for example "Prefetch"
	Problem string // with what to do
}

// Error returns the field and the problem.
func (e *OptionError) Error() string { return fmt.Sprintf("stomp.Options.%s %s", e.Field, e.Problem) }

// TopicError says why a topic is no destination.
type TopicError struct {
	Topic   string // at most 255 bytes; a longer one is cut
	Problem string // with what to do
}

// Error returns the topic and the problem.
func (e *TopicError) Error() string { return fmt.Sprintf("stomp: topic %q %s", e.Topic, e.Problem) }

// HeaderError says which header cannot be sent.
type HeaderError struct {
	Name    string // at most 255 bytes; a longer one is cut
	Problem string // with what to do
}

// Error returns the name of the header and the problem.
func (e *HeaderError) Error() string { return fmt.Sprintf("stomp: header %q %s", e.Name, e.Problem) }

// New returns the dialect for the broker that o describes. If o is wrong, limpet.New
// and limpet.Dial return an error that wraps an *OptionError.
func New(o Options) wire.Dialect {
	if o.Host == "" {
		o.Host = "/"
	}
	return &dialect{o}
}

// dialect is immutable.
type dialect struct{ options Options }

// String hides the passcode from a print of the dialect.
func (d *dialect) String() string { return "stomp.Dialect" }

// GoString is String.
func (d *dialect) GoString() string { return d.String() }

// Check reports the first option that is wrong.
func (d *dialect) Check() error {
	o := &d.options
	for _, field := range []struct{ name, value string }{{"Login", o.Login}, {"Passcode", o.Passcode}, {"Host", o.Host}} {
		if !utf8.ValidString(field.value) || strings.ContainsFunc(field.value, unicode.IsControl) {
			return &OptionError{field.name, "is not UTF-8 or holds a control character; use strings.TrimSpace for what comes from a file"}
		}
	}
	if o.Prefetch < 0 || o.Prefetch > maxPrefetch {
		return &OptionError{"Prefetch", "is not in the range that a broker knows; use 0 to 65535"}
	}
	if path, err := url.Parse(o.CSRF); err != nil || o.CSRF != "" && (path.Host != "" || !strings.HasPrefix(o.CSRF, "/")) {
		return &OptionError{"CSRF", `is no path; use one that begins with "/", such as "/csrf"`}
	}
	return nil
}

func (d *dialect) Name() string { return "stomp" }

func (d *dialect) Traits() wire.Traits {
	receipts := !d.options.NoReceipts
	t := wire.Traits{
		Publish: true, Acks: receipts, Unsubscribe: true, Greeting: true, Confirms: receipts, ByKey: true,
		ErrorStaysOpen: true, Fin: true, Processed: wire.ProcessedEach, Release: true, Ping: wire.PingControl,
	}
	if receipts {
		t.Ping = wire.PingOp
	}
	return t
}

// CheckTopic refuses what a header cannot hold. Which destinations exist is for the
// broker to say.
func (d *dialect) CheckTopic(_ wire.Use, topic string) error {
	if topic == "" || len(topic) > maxTopic || !utf8.ValidString(topic) || strings.ContainsFunc(topic, unicode.IsControl) {
		return &TopicError{topic[:min(len(topic), 255)], "is no destination; use 1 to 1024 bytes of UTF-8 without control characters"}
	}
	return nil
}

func (d *dialect) Attempt(a *wire.Attempt) error {
	if !d.options.NoSubprotocol {
		a.Subprotocols = []string{"v12.stomp", "v11.stomp", "v10.stomp"}
	}
	switch {
	case d.options.CSRF == "":
	case a.Response == nil:
		return d.requestCSRF(a)
	default:
		if err := d.takeCSRF(a); err != nil {
			return err
		}
	}
	a.Dial = true
	return nil
}

func (d *dialect) Open(r wire.Resume) (wire.Codec, error) {
	c := &codec{options: &d.options, resume: r, requests: wire.NewLedger[uint64, request](maxPending)}
	c.encoder = encoder{version: v12, live: map[uint64]string{}}
	c.decoder = decoder{
		scanner: scanner{limit: int(r.ReadLimit), version: v12}, interval: r.Heartbeat, oldest: 1,
		secrets: [2]string{d.options.Passcode},
	}
	if token, ok := r.State.(csrfToken); ok {
		c.secrets[1] = token.token
	}
	if r.ReadLimit <= 0 {
		c.limit = defaultLimit
	}
	return c, nil
}
