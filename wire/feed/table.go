// Package feed speaks sequenced JSON feeds, the kind that exchanges publish.
//
// There is no common protocol: a client sends a subscribe message for some
// channels and products, then the server pushes JSON objects with a type, a
// product and perhaps a number. What differs from one server to the next is
// data, so a Table describes it and New turns the table into a wire.Dialect.
//
// A topic is "channel/product", for example "matches/BTC-USD". Data arrives
// with the object as its payload, byte for byte, and the object's type as
// Message.Type. What continuity can be claimed depends on the channel:
//
//   - A channel with a Number: the numbers of one product are dense, so a
//     missing one is a Gap and a repeated one is dropped, across connections.
//   - A channel without: nothing is known after a reconnect, so the client
//     reports a Reset; most such channels then send a snapshot.
//   - Table.Sequence counts the messages of one connection. A hole in it cannot
//     be blamed on one topic, so every subscription without numbers of its own
//     gets a Reset (CauseLost) at that place.
package feed

import "github.com/limpet-go/limpet/wire"

// Table describes one server's language. A member is always the name of a
// member at the top level of a message. The zero value of an optional field
// means that the server has no such thing.
type Table struct {
	Name string // of the dialect: lower-case letters, digits and '-'

	Subscribe   Request
	Unsubscribe Request // optional

	Type     string // member that holds the type of a message
	Channel  string // optional: member that names the channel; without it the type tells the channel
	Product  string // member that holds the product
	Sequence string // optional: member that counts all messages of a connection, by one

	Channels []Channel

	Confirm    Confirm      // optional
	Error      ErrorMessage // optional
	Heartbeats []string     // types that only say that the server lives
	Ignored    []string     // types that are of no interest

	// Ping is how an idle server is asked for a sign of life: wire.PingControl
	// or wire.PingNone.
	Ping wire.Ping
}

// Channel is one kind of stream. Without Table.Channel a type belongs to one
// channel only.
type Channel struct {
	Name string // in topics and in requests: no '/', no '*'

	Types     []string // of ordinary messages
	Snapshots []string // of messages that hold the whole state
	Repeats   []string // of messages that repeat the last one; marked Redelivered

	// Number is the member that counts the messages of one product, by one: a
	// JSON number or a decimal string below 2^64, in every message of the
	// channel. Empty means that messages are not numbered.
	Number string

	// Replay is how many messages before the last one the server may repeat
	// after a subscribe. A first number on a connection that is further back
	// than that means that the feed has restarted; within a connection a number
	// that was passed is a late repeat.
	Replay uint64
}

// Request is how a set of topics is subscribed or unsubscribed: a JSON object
// of Fields followed by the products and the channels. Several topics share a
// message where the lists allow it.
type Request struct {
	Fields []Field

	// At most one of each pair. Channel and Product hold one string, Channels
	// and Products a list of strings. A table of one channel may omit both
	// Channel and Channels.
	Channel, Channels string
	Product, Products string

	Max int // products in one message; 0 means 100
}

// Field is a constant member of a request.
type Field struct {
	Name string
	JSON string // the value as JSON text
}

// Confirm is the message that tells what is subscribed.
type Confirm struct {
	Type  string // of the confirmation; empty: the server sends none
	Ended string // optional: type of a message of the same shape that confirms an unsubscribe

	List     string // optional: member that holds a list of entries; without it the message is the one entry
	Channel  string // member of an entry: one channel or a list of them
	Products string // member of an entry: one product or a list of them

	// Complete says that a confirmation lists all that is subscribed, so that
	// what an earlier one listed and this one does not is subscribed no longer.
	Complete bool
}

// ErrorMessage is how the server complains. A complaint that names a channel
// and a product ends that subscription; any other is reported and changes
// nothing.
type ErrorMessage struct {
	Type             string
	Text, Detail     string // optional members that hold words for a person
	Channel, Product string // optional members, both or none
}

// TableError says which field of a Table is wrong.
type TableError struct {
	Field   string // for example "Channels[1].Types[0]"
	Problem string
}

func (e *TableError) Error() string { return "feed: table field " + e.Field + ": " + e.Problem }
