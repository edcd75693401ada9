// Package feed speaks sequenced JSON feeds, the kind that exchanges publish.
//
// There is no common protocol: a client sends a subscribe message for some
// channels and products, then the server pushes JSON messages with a channel, a
// product and perhaps a number. What differs from one server to the next is
// data: a Table describes it, and New turns the table into a wire.Dialect. For a
// server that no table describes, NewFuncs makes a dialect of a few functions.
//
// A topic is "channel/product", for example "matches/BTC-USD" or
// "kline_1m/BTCUSDT". Data arrives with the message as its payload, byte for byte,
// and the message's type as Message.Type. What continuity can be claimed depends on
// the channel:
//
//   - A channel with a Number: the numbers of one product in it are dense, so a
//     missing one is a Gap and a repeated one is dropped, across connections. With
//     Prev each message names the number before it instead.
//   - A channel without a Number: nothing is known after a reconnect, so the
//     client reports a Reset. Most such channels then send a snapshot.
//   - Table.Sequence counts the messages of one connection. A hole in it cannot
//     be attributed to one topic, so every subscription without numbers of its
//     own gets a Reset (CauseLost) at that place.
//
// A message that cannot be read or placed is skipped: text that is not JSON,
// a value that is not JSON, a missing product or number, a member of the wrong
// type, a type or a channel that the table does not name, a binary message. The client
// counts it in Stats.Malformed and reports each
// kind once for each connection, with the name of the type. If the message shows its channel, the subscription
// that it belongs to gets a Gap (CauseMalformed), or every subscription of the
// channel if the product cannot be read. In a channel with a Number that Gap comes
// with the next message, if numbers are missing there.
//
// # Paths
//
// Where a field of a Table holds the path of a member, it is names joined with dots,
// from the top level of a message: "type", "arg.instId". "[n]" is element n of a list,
// "[-1]" its last one: "data[0].symbol". If Table.Entries is set, "[]" is the current
// entry of that list: "data[].symbol". In a table with a path that begins with "[", a
// message may be a list, for example "[-1]" for its last element; in any other table
// a list at the top level is a list of messages. A list has indices from -4 to 99.
//
// # Matches
//
// Where a field of a Table recognises a message, it is a match:
//
//   - "x": the member at Table.Type has the value x.
//   - "path=x": the member at path has the value x: the text of a string, otherwise
//     the JSON text, as in "success=false".
//   - "path=*": there is a member at path with any value but null. As the match of an
//     error it takes no value that says that there is none: false, an empty text, list or
//     object. "path=null" is for a member that is null.
//   - "=x": the whole message is the text x, which need not be JSON, for example "=pong".
package feed

import (
	"time"

	"github.com/limpet-go/limpet/wire"
)

// Table describes the wire protocol of one server: see the package comment for paths
// and matches. The zero value of an optional field means that the server has no such
// feature.
//
// If several matches recognise a message, the first of these counts: Login, Error,
// Confirm.Ended, Confirm.Type, GoAway, Question, Heartbeats and Ignored, then those of
// the channel: Repeats, Snapshots, Types.
type Table struct {
	// Name is the name of the dialect: lower-case letters, digits and '-'.
	Name string

	// Subprotocols are the subprotocols to offer (RFC 6455, section 1.9). The server must
	// choose one of them. Optional.
	Subprotocols []string

	// Login authenticates the connection before the first request. Optional.
	Login Login

	// Subscribe is the message that subscribes. Required, unless each channel has one.
	Subscribe Request

	// Unsubscribe is the message that unsubscribes. Optional.
	Unsubscribe Request

	// ID is the path at which an answer repeats the "#id" or "$id" of its request.
	// Optional: without it answers must name their topics.
	ID string

	// Type is the path of a message's type. Optional if Channel or Stream is set. A
	// message without it has the empty type: where messages have no type, name a member that
	// they do not have.
	Type string

	// Channel is the path of the channel's name. Optional: without it the type
	// determines the channel, or Stream does.
	Channel string

	// Product is the path of the product. Required, unless Stream is set or each channel
	// has a Product.
	Product string

	// Stream is the path of one name for channel and product together. It replaces
	// Channel and Product.
	Stream string

	// StreamName says how that name is made: the words channel and product with a
	// separator between them, as in "product@channel". If the product comes first
	// it ends at the first separator, otherwise it begins after the last one. It
	// also makes the "$stream" of requests. Required with Stream.
	StreamName string

	// LowerCase means that the server's names for products are in lower case. In
	// topics they are in upper case.
	LowerCase bool

	// Entries is the path of a list whose entries are messages, for example a batch
	// of trades: each becomes a message with its own number, and the entry as
	// payload. Of more than 8,192 entries the rest is skipped. A message where the path
	// leads to no list is one message as a whole. Optional.
	Entries string

	// Time is the path of when the server made or sent a message: a text of RFC 3339, or
	// a number, also in a string, of seconds, milliseconds, microseconds or nanoseconds
	// since 1970 (see wire.ParseTime). It becomes limpet.Message.Time. A message without
	// it, or with another value there, has no time and is read all the same. It costs some
	// 50 ns for each message. Optional.
	Time string

	// Sequence is the path of a number that counts all messages of a connection, in
	// steps of one. Optional. Without Confirm, a hole also counts for a topic that is
	// asked for later on the connection: its first message comes with a Reset.
	Sequence string

	// Channels are the streams that can be subscribed to. There must be at
	// least one.
	Channels []Channel

	// Limits are what the server allows one connection. The client stays within them: see
	// wire.ConnectionLimits. Optional. How many products one request may name is in
	// Request.Max.
	Limits wire.ConnectionLimits

	// Confirm is the message that confirms subscriptions. Optional.
	Confirm Confirm

	// Error is the message that reports an error. Optional.
	Error ErrorMessage

	// Heartbeats are matches of messages that only show that the server is alive,
	// the answer to PingText among them.
	Heartbeats []string

	// Ignored are matches of messages to ignore: every other message that no match takes
	// is counted as malformed.
	Ignored []string

	// GoAway is the match of a message by which the server asks for a new connection.
	// The client does so in the next quiet second, after 3 seconds at the latest; it backs
	// off from a server that asks on each connection. Optional.
	GoAway string

	// Ping is how an idle server is asked for a sign of life: wire.PingControl,
	// wire.PingNone, or wire.PingOp for PingText. Defaults to wire.PingControl, with
	// PingText to wire.PingOp.
	Ping wire.Ping

	// PingText is the text message that asks for a sign of life, at the client's
	// Heartbeat.Interval: "ping", or a JSON text, in which "#time", "$time", "#time_ms"
	// and "$time_ms" stand for the time as in a Request. Its answer belongs in Heartbeats,
	// for example "=pong"; otherwise each answer counts as malformed. Optional.
	PingText string

	// Question is the match of a message by which the server asks for a sign of life.
	// Optional.
	Question string

	// Answer is the text message that answers it. With a Question such as "ping=*",
	// "#n" in quotes stands for the number at that path, a whole number below 2^64:
	// {"pong":"#n"}. "#time" and the like stand for the time as in PingText. Required
	// with Question.
	Answer string

	// Strict makes a message that cannot be read or placed end the connection, for
	// tests of a server. Without it such a message is skipped: see the package
	// comment.
	Strict bool
}

// Channel is one kind of stream. In a table with neither Channel nor Stream a type
// belongs to one channel only.
type Channel struct {
	// Name is the channel's name in topics. It has no '/' and at most 253 bytes. A
	// '*' stands for a parameter, which is a part of the topic: "kline_*" makes
	// topics such as "kline_1m/BTCUSDT". A name without '*' takes precedence, then
	// the earlier channel does.
	Name string

	// Request is the channel's name in messages. Defaults to Name. With a '*' the
	// parameter is a part of it; without one, Param says where it is.
	Request string

	// Aliases are further names that the server gives the channel, for example in
	// confirmations. Optional: Name and Request need not be repeated.
	Aliases []string

	// Product is the path of the product in messages of this channel. Defaults to
	// Table.Product.
	Product string

	// Param is the path of the parameter in a message, if Name has a '*' and the
	// channel's name in messages has none, or does not show.
	Param string

	// Time is the path of the time in messages of this channel. Defaults to Table.Time.
	Time string

	// Subscribe and Unsubscribe replace those of the table for this channel.
	// Optional.
	Subscribe, Unsubscribe Request

	// Types are matches of ordinary messages. Empty means every message of the
	// channel that is neither in Snapshots nor in Repeats, if Table.Channel or
	// Table.Stream shows the channel.
	Types []string

	// Snapshots are matches of messages that hold the whole state; "*" means every
	// message.
	Snapshots []string

	// Repeats are matches of messages that repeat the last one. They are
	// marked as Redelivered.
	Repeats []string

	// Number is the path of the number that counts the messages of one product in this
	// channel, in steps of one: a JSON number or a decimal string below 2^64, present in
	// every message of the channel, snapshots included. Numbers that the channels of a
	// product share would show holes in each of them: leave Number out. Empty means that
	// messages are not numbered.
	Number string

	// First, Count or Prev is for a channel whose numbers are not in steps of one. At
	// most one of them may be set, and only with Number.
	//
	// First is the path of the first number that a message stands for; Number is
	// then the last one.
	First string

	// Count is the path of how many numbers a message stands for, Number being the
	// last of them. A message without it stands for one.
	Count string

	// Prev is the path of the number of the message before. Numbers may then skip
	// and fall. A message whose Prev is absent, null, zero or negative begins a new chain: it
	// comes with a Reset if the subscription had a position.
	Prev string

	// NewestFirst means that a list at Table.Entries begins with its newest message, as the
	// snapshot of a channel of trades often does: its entries are delivered from the last
	// one to the first. It counts for every list of the channel, so leave it out if
	// updates come in lists with the oldest entry first.
	NewestFirst bool

	// Cursor is the path of a value from which the stream can be resumed, for example
	// a number that rises with holes: "$cursor" in a Subscribe is its last value. It
	// proves nothing: a Reset follows a reconnect, unless the server repeats the last
	// message. Excludes Number.
	Cursor string

	// Replay is how many messages before the last one the server may repeat
	// after a subscribe. A number that is further back means that the feed has
	// restarted. Where the channels of a table differ, the largest Replay decides,
	// except for the first number on a connection.
	Replay uint64
}

// Request is how topics are subscribed or unsubscribed.
type Request struct {
	// JSON is the message, with strings in it that stand for something else:
	//
	//	"$channel"  the channel's name in requests
	//	"$product"  the product
	//	"$stream"   both, joined as Table.StreamName says
	//	"$param"    the channel's parameter; "#param" writes it without quotes
	//	"#id"       a number that is new for each request; "$id" writes it in quotes
	//	"#time"     the time in seconds since 1970; "$time" writes it in quotes
	//	"#time_ms"  the same in milliseconds; "$time_ms" writes it in quotes
	//	"$cursor"   the last Channel.Cursor, as a string; null if there is none
	//
	// A list of one element and "..." has that element for each topic of the request,
	// or each channel or each product if the element names no more than that:
	// {"op":"subscribe","args":["$stream","..."]}. A request without such a list is
	// for one topic.
	JSON string

	// Max is the largest number of products in one message. Defaults to 100.
	Max int
}

// Confirm is the message that says what is subscribed. It names the topics, or
// repeats the request's id: see Table.ID. With both it answers for the topics that it
// names; the others of the request wait for an answer of their own.
type Confirm struct {
	// Type is the match of the confirmation. Empty means that the server sends
	// none. The match must not hold for a refusal: prefer the value that only a success
	// has, such as "result.status=success", to one that repeats the request, such as
	// "event=subscribe". A match that holds for both needs an Error, which comes first.
	Type string

	// Ended is the match of a message of the same shape that confirms an
	// unsubscribe, or that the server ends a subscription by itself. A message that names no
	// topic where the table says is malformed. Optional; excludes Complete. Set one of the two if the server
	// can, unless Table.ID shows which request is confirmed: without any, the end of
	// a subscription is not seen, and a topic that is subscribed again on one
	// connection starts late (see wire.Traits.ByKey).
	Ended string

	// List is the path of a list of entries. Optional: without it the
	// message itself is the only entry.
	List string

	// Channel is the path at which an entry names one channel or a list of
	// them. Optional if the table has one channel, without a parameter.
	Channel string

	// Products is the path at which an entry names one product or a list of
	// them.
	Products string

	// Streams is the path at which an entry names one stream or a list of them. It
	// replaces Channel and Products.
	Streams string

	// EndedProducts and EndedStreams are the paths in a message that Ended matches, where
	// they are others than Products and Streams. Optional.
	EndedProducts, EndedStreams string

	// Complete means that a confirmation lists everything that is subscribed, on
	// the whole connection: a subscription that an earlier one listed and this one
	// does not has ended. The client asks again for one that it has not closed.
	Complete bool
}

// ErrorMessage is how the server reports an error. An error that names a channel
// and a product, or repeats the id of a request for one topic, refuses or ends that
// subscription. Any other is reported; if a
// request has no answer yet, it also means that a topic was refused, which the
// client finds by asking in parts. So a table should have an Error if the server
// reports refusals, with Channel and Product if they name the topic.
type ErrorMessage struct {
	// Type is the match of the message. Empty means that the server sends none.
	Type string

	// Text and Detail are the paths of a text for people. Optional.
	Text, Detail string

	// Code is the path of the server's own code: a whole number, or one in a string.
	// It becomes the Code of limpet.Error and limpet.ServerNotice. Optional.
	Code string

	// Channel and Product are the paths that name the subscription. Set both
	// or neither; Product alone is enough if the table has one channel, without a
	// parameter.
	Channel, Product string

	// Retry is the path of when to ask again: a number of RetryUnit, with decimals or not,
	// also in a string. At most 15 minutes count. The subscription that the error refuses
	// is then not refused for good: the client asks again after that time. An error in
	// place of Login.Accepted says with it when to connect again, and the client asks for no
	// new credential. A message without it, or with another value there, gives no time.
	// Optional.
	Retry string

	// RetryUnit is the unit of Retry. Zero means a second.
	RetryUnit time.Duration
}

// Login authenticates a connection. No request is sent before the server has accepted
// it. An Error before that is final for the connection: the client asks for a new
// credential once.
type Login struct {
	// Message returns the message that authenticates, for the client's token.
	// challenge is the server's message that Challenge matches, nil without
	// Challenge. The result must not be changed later. Message is called on the
	// client's loop: it must not block. It must be safe for concurrent use.
	Message func(token string, challenge []byte) ([]byte, error)

	// Challenge is the match of a message to wait for before Message. Optional.
	Challenge string

	// Accepted is the match of the message by which the server accepts. Required.
	Accepted string
}

// TableError says which field of a Table is wrong.
type TableError struct {
	Field   string // for example "Channels[1].Types[0]"
	Problem string
}

// Error returns the field and the problem.
func (e *TableError) Error() string { return "feed: table field " + e.Field + ": " + e.Problem }
