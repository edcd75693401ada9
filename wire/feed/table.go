// Package feed speaks sequenced JSON feeds, the kind that exchanges publish.
//
// There is no common protocol: a client sends a subscribe message for some
// channels and products, then the server pushes JSON objects with a type, a
// product and perhaps a number. What differs from one server to the next is
// data: a Table describes it, and New turns the table into a wire.Dialect.
//
// A topic is "channel/product", for example "matches/BTC-USD". Data arrives
// with the object as its payload, byte for byte, and the object's type as
// Message.Type. What continuity can be claimed depends on the channel:
//
//   - A channel with a Number: the numbers of one product are dense, so a
//     missing one is a Gap and a repeated one is dropped, across connections.
//   - A channel without a Number: nothing is known after a reconnect, so the
//     client reports a Reset. Most such channels then send a snapshot.
//   - Table.Sequence counts the messages of one connection. A hole in it cannot
//     be attributed to one topic, so every subscription without numbers of its
//     own gets a Reset (CauseLost) at that place.
//
// A message that cannot be read or placed is skipped: text that is not a JSON object,
// a value that is not JSON, a missing product or number, a member of the wrong
// type, a binary message. The client counts it in Stats.Malformed and reports each
// kind once for each connection. If the message shows its channel, the subscription
// that it belongs to gets a Gap (CauseMalformed), or every subscription of the
// channel if the product cannot be read. In a channel with a Number that Gap comes
// with the next message, if numbers are missing there.
package feed

import "github.com/limpet-go/limpet/wire"

// Table describes the wire protocol of one server. A member is always the name of a
// member at the top level of a message. The zero value of an optional field
// means that the server has no such feature.
type Table struct {
	// Name is the name of the dialect: lower-case letters, digits and '-'.
	Name string

	// Subscribe is the message that subscribes.
	Subscribe Request

	// Unsubscribe is the message that unsubscribes. Optional.
	Unsubscribe Request

	// Type is the member that holds the type of a message.
	Type string

	// Channel is the member that names the channel of a message. Optional:
	// without it the type of a message determines its channel.
	Channel string

	// Product is the member that holds the product.
	Product string

	// Sequence is the member that counts all messages of a connection, in steps
	// of one. Optional. Without Confirm, a hole also counts for a topic that is asked
	// for later on the connection: its first message comes with a Reset.
	Sequence string

	// Channels are the streams that can be subscribed to. There must be at
	// least one.
	Channels []Channel

	// Confirm is the message that confirms subscriptions. Optional.
	Confirm Confirm

	// Error is the message that reports an error. Optional.
	Error ErrorMessage

	// Heartbeats are the types of messages that only show that the server is
	// alive.
	Heartbeats []string

	// Ignored are the types of messages to ignore.
	Ignored []string

	// Ping is how an idle server is asked for a sign of life: wire.PingControl
	// or wire.PingNone. Defaults to wire.PingControl.
	Ping wire.Ping

	// Strict makes a message that cannot be read or placed end the connection, for
	// tests of a server. Without it such a message is skipped: see the package
	// comment.
	Strict bool
}

// Channel is one kind of stream. Without Table.Channel a type belongs to one
// channel only.
type Channel struct {
	// Name is the channel's name in topics. It has no '/', no '*' and at most 253
	// bytes.
	Name string

	// Request is the channel's name in requests. Defaults to Name.
	Request string

	// Aliases are further names that the server gives the channel, for example in
	// confirmations. Optional: Name and Request need not be repeated.
	Aliases []string

	// Types are the types of ordinary messages.
	Types []string

	// Snapshots are the types of messages that hold the whole state.
	Snapshots []string

	// Repeats are the types of messages that repeat the last one. They are
	// marked as Redelivered.
	Repeats []string

	// Number is the member that counts the messages of one product, in steps of
	// one: a JSON number or a decimal string below 2^64, present in every
	// message of the channel. Empty means that messages are not numbered.
	Number string

	// Replay is how many messages before the last one the server may repeat
	// after a subscribe. A number that is further back means that the feed has
	// restarted. Where the channels of a table differ, the largest Replay decides,
	// except for the first number on a connection.
	Replay uint64
}

// Request is how topics are subscribed or unsubscribed: a JSON object of Fields
// followed by the products and the channels. Several topics share a message
// where the lists allow it.
type Request struct {
	// Fields are the constant members.
	Fields []Field

	// Channel is the member for one channel, a string; Channels is the member
	// for a list of them. At most one may be set. A table with one channel may
	// omit both.
	Channel, Channels string

	// Product is the member for one product, a string; Products is the member
	// for a list of them. Exactly one must be set.
	Product, Products string

	// Max is the largest number of products in one message. Defaults to 100;
	// with Product it is 1.
	Max int
}

// Field is a constant member of a request.
type Field struct {
	Name string
	JSON string // the value as JSON text
}

// Confirm is the message that says what is subscribed.
type Confirm struct {
	// Type is the type of the confirmation. Empty means that the server sends
	// none.
	Type string

	// Ended is the type of a message of the same shape that confirms an
	// unsubscribe. Optional; excludes Complete. Set one of the two if the server
	// can: without either, the end of a subscription is not seen, and a topic that
	// is subscribed again on one connection starts late (see wire.Traits.ByKey).
	Ended string

	// List is the member that holds a list of entries. Optional: without it the
	// message itself is the only entry.
	List string

	// Channel is the member of an entry that names one channel or a list of
	// them.
	Channel string

	// Products is the member of an entry that names one product or a list of
	// them.
	Products string

	// Complete means that a confirmation lists everything that is subscribed, on
	// the whole connection: a subscription that an earlier one listed and this one
	// does not has ended. The client asks again for one that it has not closed.
	Complete bool
}

// ErrorMessage is how the server reports an error. An error that names a channel
// and a product refuses or ends that subscription. Any other is reported; if a
// request has no answer yet, it also means that a topic was refused, which the
// client finds by asking in parts. So a table should have an Error if the server
// reports refusals, with Channel and Product if they name the topic.
type ErrorMessage struct {
	// Type is the type of the message. Empty means that the server sends none.
	Type string

	// Text and Detail are the members that hold a text for people. Optional.
	Text, Detail string

	// Channel and Product are the members that name the subscription. Set both
	// or neither.
	Channel, Product string
}

// TableError says which field of a Table is wrong.
type TableError struct {
	Field   string // for example "Channels[1].Types[0]"
	Problem string
}

// Error returns the field and the problem.
func (e *TableError) Error() string { return "feed: table field " + e.Field + ": " + e.Problem }
