package limpet

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/limpet-go/limpet/cursor"
	"github.com/limpet-go/limpet/internal/governor"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/wire"
)

// Options configure a Client. The zero value, like nil, means the defaults. A
// Client keeps a copy: one Options may serve several clients.
type Options struct {
	// Endpoints are further URLs of the same service, beside the first argument of New. The
	// client tries all of them in a random order of its own, and begins with the last that
	// worked. After a failed attempt the next one follows at once: when all have failed, one
	// wait of Backoff follows. See docs/reconnect.md, section 5. They must have the scheme of
	// the first one; at most 1,023. Defaults to none.
	Endpoints []string

	// Resolver returns the URLs of the service. The client calls it before each attempt, on a
	// goroutine of its own, one call at a time; it may block until ctx ends, after
	// DialTimeout. Its answer replaces the first argument of New and Endpoints. The same
	// rules hold for its URLs: those that break them are not used. If it fails, panics or
	// returns no usable URL, the last list is used, and CallbackFailed reports that; before
	// the first answer that is the first argument of New with Endpoints. New needs that URL
	// in any case, for the scheme.
	// Defaults to none.
	Resolver func(ctx context.Context) ([]string, error)

	// Governor gives the attempts of several clients their turns. Defaults to one that all
	// clients with the same HTTPClient.Transport share, and that has no limit until a host is
	// overloaded.
	Governor *Governor

	// Dialect is the wire protocol. Defaults to limpet.v1, binary preferred.
	Dialect wire.Dialect

	// HTTPClient dials. Its CheckRedirect is not used: see Redirects. Each attempt uses a copy of
	// an *http.Transport and closes what that has opened when the attempt ends: no
	// socket is pooled, and MaxConnsPerHost bounds nothing across attempts. A
	// Transport of another type must end its work when the context of the request
	// ends, must not read the body of a 101, and must return one that can be written
	// to. The dial functions must end with the context too: once eight calls of them hang,
	// attempts fail. HTTP/2 cannot be upgraded. The timeouts that you set in it hold for every attempt and do not grow.
	// Defaults to a client on a shared transport that honours HTTP_PROXY,
	// HTTPS_PROXY and NO_PROXY and requires TLS 1.2 or later.
	HTTPClient *http.Client

	// Redirects is where a server may redirect the upgrade request. Defaults to nowhere.
	Redirects Redirects

	// Header is sent with every upgrade request. What belongs to the handshake
	// (Host, Connection, Upgrade, Sec-WebSocket-*) is refused. At most 256 KiB.
	Header http.Header

	// Auth returns the credential for an attempt. The client calls it at the
	// start of each attempt, one call at a time, on a goroutine of its own. It
	// may block until ctx ends: when the attempt times out or the client ends.
	// An error or a panic fails the attempt; an error made with Permanent ends
	// the client, and one that wraps a *wire.StatusError counts as that answer to
	// the upgrade: its Retry-After is obeyed.
	//
	// Where the dialect has the trait Refresh, as limpet.v1, Auth is also called for the
	// connection in use, with AttemptInfo.Connected: when the server wants a new
	// credential, and by itself once 80 % of the time have passed that the server gave the
	// last one, if that had a Token. It may block until ctx ends: after DialTimeout, or
	// when the connection ends; never two calls run at once, and they start at least a
	// second apart. The Token is sent on that connection and on no other. After an error
	// or a panic Auth is called again with backoff, and CredentialNotRefreshed reports it;
	// the connection goes on until the server ends it. After an error made with Permanent
	// Auth is not called again, the connection is used for as long as it lasts, and then the
	// client ends: CredentialsEnded. See docs/credentials.md. Defaults to no credential.
	Auth func(ctx context.Context, info AttemptInfo) (Credential, error)

	// Ticket returns query parameters for the URL of an attempt: a ticket that can be used
	// once. It is the only credential that belongs into a URL, which servers and proxies
	// log. The client calls it at each attempt, after Auth, whose credential is in info,
	// and in the same way: one call at a time, on a goroutine of its own; it may block
	// until ctx ends, and an error made with Permanent ends the client. The values, of 8
	// KiB at most, replace parameters of the same names in the URL, and appear in no log,
	// error or metric. TicketFrom makes such a function for the usual servers. Defaults to
	// none.
	Ticket func(ctx context.Context, info AttemptInfo) (url.Values, error)

	// StrictURL refuses credentials in the URL: New returns an error for a query parameter
	// whose name suggests one (token, key, auth, secret, password, sig, ticket, jwt,
	// credential, or a longer name with one of them in it) and for Ticket, and an attempt
	// fails whose dialect adds one. Without it such a parameter in the URL of New is
	// reported as CredentialInURL.
	StrictURL bool

	// Verdict overrules what the client would do after a lost connection or a failed
	// attempt. It gets the failure, without the secrets that the client sent and without
	// cookies, and what the client would do: the verdict of the dialect or, where that has
	// none, of the tables in docs/reconnect.md and docs/ending.md, with Action, After and
	// Class filled in. Failure.Err is the *Error that State.Cause would be. What it returns
	// counts, in the same way as the verdict of a dialect: wire.ActionStop ends the client,
	// also with Backoff.KeepTrying; wire.ActionRefresh without Auth and without Ticket, or
	// for the second time within 60 seconds without a welcome in between, does so too;
	// wire.ActionRetryNow backs off from the second failure in a row on. The zero Verdict,
	// or an Action, Class or Spread of zero, leaves that to the client. After is up to 366
	// days; the client does not return earlier than the server asked for. What Verdict
	// changes is not counted by the tables, which begin their counts again.
	//
	// It is not asked after Close, about an error made with Permanent, about a failure
	// that the dialect's own defects make final (docs/ending.md), or about
	// Backoff.MaxElapsed.
	//
	// Verdict must only compute. It runs on a goroutine of its own, one call at a time,
	// but the client does nothing else until it returns, only Close does not wait for
	// it. A panic, runtime.Goexit, a call that has not returned for 10 seconds, and a
	// verdict that makes no sense leave the decision to the client. CallbackFailed
	// reports them with an *Error of ClassUser, and State.Cause names them. Defaults to none.
	Verdict func(f wire.Failure, would wire.Verdict) wire.Verdict

	Backoff   Backoff
	Heartbeat Heartbeat
	Window    Window

	// Outbox keeps what is published, so that it outlives the process (outbox/file.Open): Publish returns once the
	// message is durable, and the next client with the same Outbox sends what has no outcome yet, in
	// order; Client.Receipts has it. Many calls share one commit. It also keeps the session, where
	// the dialect has sessions. New loads it, and blocks until it has. The messages count for Window,
	// which they may exceed at first. When the client ends they are Stored.
	//
	// A crash of the process or of the machine loses no message whose Publish has returned, and
	// makes no duplicate that a lost connection would not make. Rejected, Expired and Unknown are durable
	// before they are reported. PublishOptions.Done is not kept. SendStream is refused.
	//
	// An Outbox belongs to one client, one dialect and one service at a time: until Done is closed. An error of it that
	// passes, such as a full disk, fails the calls of Publish and is tried again; meanwhile the client sends
	// nothing that it could not answer for after a crash. One that does not pass ends the client
	// (docs/ending.md). It needs the trait Publish. Defaults to none: what has no outcome is lost with the process.
	Outbox outbox.Store

	// DialTimeout bounds one attempt, from the call of Auth to the end of the
	// upgrade. It grows by a factor of 1.6, up to a minute, with each attempt
	// that times out; a successful upgrade resets it. Defaults to 10 seconds; from
	// 1 millisecond to 366 days.
	DialTimeout time.Duration

	// SessionTTL is how long the server should keep the session, counted from the
	// loss of the connection. Defaults to the server's own choice; from 1
	// millisecond to 366
	// days.
	SessionTTL time.Duration

	// Limits are what the server allows one connection, such as five messages a second or an
	// age of 24 hours: the client keeps to them by itself. They replace those of the dialect:
	// Messages, Per and Burst together if Messages is not zero, Dials and DialsPer together if
	// Dials is not zero, Subscriptions and Age each if it is not zero. Defaults to those of the
	// dialect, if it knows any. What is not known is learned: see SendPaceChanged.
	Limits wire.ConnectionLimits

	// ReadLimit bounds one received WebSocket message, in bytes. Defaults to 4 MiB;
	// from 1 KiB to 1 GiB. There is no value for unlimited. limpet.v1 needs at least
	// 64 KiB, the size of a batch: many small messages travel in one WebSocket
	// message.
	//
	// A server of limpet.v1 learns the limit, and sends a Gap (CauseTooBig) in the place of
	// a longer message. Elsewhere such a message ends the connection with close code
	// 1009, and State.Cause names its size and the limit. Where the server can resume,
	// each subscription that was live then begins again at the newest message, with a
	// Reset (CauseTooBig), because the server would only send the message again.
	ReadLimit int64

	// Memory is how many bytes all delivery queues of the client may take together: what
	// waits in them, with 300 bytes or so for each message, and what servers may still send
	// to subscriptions with Block. It does not count what consumers have taken, nor what
	// waits to be sent (Options.Window). Defaults to 64 MiB, or twice ReadLimit if that is
	// more; at least 1 MiB and twice ReadLimit. There is no value for unlimited.
	//
	// When it is used up, subscriptions with another policy than Block drop messages as if
	// their own queues were full, those that hold most first. Half of it is for whoever asks
	// first. Of the other half, a subscription with Block may always fill an equal share,
	// and at least 2 KiB, before the server must wait; a share grows while its consumer
	// keeps up, if memory is left. A server may exceed what a subscription with Block was
	// granted by headers and by a part of one message. With Lend such a subscription may also
	// take up to twice the payloads that wait, and 1 KiB. Only where no other policy can give
	// way does that exceed Memory. Stats.Memory shows how much is in use.
	Memory int

	// PlainFrames leaves the frames of every connection to the WebSocket
	// library that dials it. Use it to rule out a defect in limpet's own frame
	// layer. A small message then costs several times the CPU, and a connection
	// one more goroutine. Frames from the server that are masked, or whose length
	// takes more bytes than needed, are accepted, and floods of control frames
	// are answered. Stats.PlainFrames reports which frames are in use.
	PlainFrames bool

	// Fallback continues over plain HTTP requests, a GET that streams down and POSTs up,
	// where the path refuses to upgrade a connection, or lets three in a row die in the
	// handshake. The session and all promises are the same; State.Transport shows which is
	// in use, and TransportChanged is logged. Each attempt tries WebSocket first, but not
	// within a minute of a refusal. Only dialects with wire.Traits.Fallback have it: limpet.v1.
	// A round trip is needed for 64 KiB of what is sent. docs/fallback.md has the limits.
	Fallback bool

	// AllowInsecure permits ws:// to other machines, and through a proxy. Without
	// it, ws:// reaches only this machine: the host is a loopback address,
	// localhost or a name below it, no proxy is used, and nothing is sent unless
	// the address that was dialled is a loopback address. The same is true of
	// http:// in the requests of a dialect.
	AllowInsecure bool

	// Logger logs events: see Event for the events and their levels. Defaults to
	// no logging.
	Logger *slog.Logger

	// Observer receives events. Defaults to none.
	Observer Observer

	// Histograms makes the client measure durations: see Client.Histograms. It costs
	// 1.4 KiB, 64 bytes for each subscription, and a clock read for each socket read and for
	// the outcomes that become known together. Without it nothing is measured but what
	// Stats has.
	Histograms bool
}

// Backoff is when to reconnect (docs/reconnect.md, section 1). A failure is a
// lost connection or a failed attempt. After the first failure the client waits
// U(0, max(First, W)): U is a uniform draw and W the reconnect window that the
// server announced. After the k-th failure in a row it waits v/2 + U(0, v/2),
// where v is Initial·Multiplier^(k-1) but at most Max, four times Max from the
// 20th failure on, and always at least W. Where W is the longer one, an attempt that
// failed in the window is made again W after it, or up to a tenth of W sooner but
// 250 ms at most, so that many clients stay spread. If the server says how long to
// wait, that replaces the draw.
type Backoff struct {
	// First is the longest wait after the first failure. With a negative value
	// the client does not wait, unless the server announced a reconnect window.
	// Defaults to 500 milliseconds; from 1 millisecond to 366 days.
	First time.Duration

	// Initial is v for k = 1. Defaults to 500 milliseconds; from 1 millisecond to
	// Max.
	Initial time.Duration

	// Max is the largest v, up to the 19th failure. Defaults to 15 seconds; at
	// least Initial, and at most 366 days.
	Max time.Duration

	// Multiplier is the factor by which v grows. Defaults to 1.5; from 1 to 10.
	Multiplier float64

	// StableAfter is how long a connection must stay ready before earlier
	// failures are forgotten. A sixth of it is enough once a message was
	// acknowledged or received. A server that ends each connection sooner, after 3
	// seconds for example, is met by waits that grow to the longest ones: the client is
	// connected for a small part of the time. Where that is normal, set it to less than
	// six times what a connection lasts. Defaults to 30 seconds; from 1 millisecond to
	// 366 days.
	StableAfter time.Duration

	// MaxElapsed ends the client with a PermanentError that wraps ErrMaxElapsed
	// after this time without a ready connection, counted from New or from the
	// loss of the last one. Defaults to 0: the client never gives up. From 1
	// millisecond to 366 days.
	MaxElapsed time.Duration

	// KeepTrying makes the client wait as long as Max and try again where the
	// tables of HTTP statuses and close codes would end it (docs/ending.md). The
	// verdict of a dialect, Options.Verdict, an error made with Permanent and
	// MaxElapsed still end it.
	KeepTrying bool
}

// Heartbeat is how a dead peer is noticed. Any received byte is a sign of life, and so
// are the bytes of a write that had to wait: a slow link is not a dead one.
type Heartbeat struct {
	// Interval is the time between two heartbeats. The server may shorten it. If
	// only the server sends heartbeats in the dialect's protocol, its interval
	// replaces this one. After 2.5 intervals without a sign of life the peer
	// counts as dead. limpet.v1 asks the server to send something as often.
	//
	// If the path drops idle connections sooner, the client learns that and shortens
	// the interval for the rest of its life, to 5 seconds at least: see
	// HeartbeatShortened and docs/reconnect.md, section 7. Stats.Heartbeat is the
	// interval in use.
	//
	// Defaults to 20 seconds; from 10 milliseconds to 366 days.
	Interval time.Duration
}

// Window bounds the published messages that are not settled. A message frees its
// bytes with its outcome, and its slot once it and all earlier ones are settled.
// A message that expires before it may have been sent gives back both at once.
type Window struct {
	// Messages is the number of messages. Defaults to 4,096; at most 2^30.
	Messages int

	// Bytes is the sum of their payloads, in bytes. Defaults to 16 MiB; at most 1 GiB.
	Bytes int

	// FailFast makes Publish return ErrWindowFull instead of waiting while the
	// window is full.
	FailFast bool
}

// Resend says whether a message is sent again.
type Resend uint8

const (
	// Exact sends a message again only if that cannot make a duplicate: by the session, where
	// there is one; in another session by the id, if the server recognises it (the trait Dedup).
	// Otherwise the outcome is Unknown.
	Exact Resend = iota
	// AtLeastOnce prefers a possible duplicate to an unknown outcome: the message is sent again
	// even if the server may have forgotten it.
	AtLeastOnce
	// Never sends no message twice, whatever the server knows. What may have left has the outcome
	// Unknown after a lost connection, unless the server has it.
	Never
)

// From is where a subscription starts.
type From = wire.From

// Where a subscription starts. All but FromNew need the trait Resume of the
// dialect.
const (
	FromNew    = wire.FromNew    // after the newest message
	FromFirst  = wire.FromFirst  // with the oldest message that the server holds
	FromLast   = wire.FromLast   // with the newest message that it holds
	FromResume = wire.FromResume // after SubscribeOptions.Position
)

// SubscribeOptions are the options of one subscription.
type SubscribeOptions struct {
	// From is where the subscription starts. Defaults to FromNew.
	From From

	// Position is where FromResume starts: the Position of an earlier message,
	// for example what Subscription.Committed returned in an earlier process.
	Position Position

	// Token is a credential for this subscription, for dialects that support one.
	// It must be UTF-8 of at most 8 KiB without control characters.
	Token Secret

	// Priority decides which subscriptions the server is asked for first, after New and after
	// each reconnect: those with a higher priority, and of the same one those that are older.
	// It has no effect on what is delivered. Defaults to 0; it may be negative.
	Priority int

	// Cursor keeps the position of the subscription across restarts, under Name. If the
	// store has a position, the subscription starts after it, and From and Position do
	// not count. If it has none, they do, and where the stream begins is saved when the
	// server confirms it with a position. Cursor needs the trait Resume.
	//
	// Subscribe calls Load, within its ctx. After messages were processed, a goroutine of
	// the subscription calls Save with the committed position, one call at a time, as
	// often as the store allows: see cursor.Every. The stream does not wait for it. A Save
	// that fails, panics or takes longer than 10 seconds is a CursorNotSaved event and is
	// tried again. What was processed but not saved is delivered again after a crash;
	// nothing is skipped once the first Save has returned. Shutdown waits until consumers have finished their loop bodies
	// and, with ManualAck, until every message taken is acknowledged. Client.Done is closed
	// after the last Save, or after 12 seconds; what is acknowledged after that is not
	// saved, unless the client has failed permanently.
	Cursor cursor.Store

	// Name is the name of the cursor in the store, of one subscription at a time. It must
	// be UTF-8 of 1 to 255 bytes without control characters. Subscribe with the name of a
	// subscription that was closed first waits for the Save of that one, for at most 12
	// seconds; what is acknowledged there later is not saved. Two clients must not use one
	// name of one store at the same time.
	Name string

	Delivery Delivery

	// Lend means that Batches lends payloads: they are valid until the loop body ends, and
	// then their memory is used again, so that a payload costs no allocation. Use
	// bytes.Clone to keep one; slices.Clone of a batch keeps messages without payloads.
	// Everything else of a message may be kept. After break, return or a panic in the loop
	// body the last batch stays valid. Payloads above 4 KiB have memory of their own.
	// Messages, C and Merge hand over copies, which cost what they cost without Lend.
	//
	// In a program built with -race, or with -tags limpetdebug, the memory is overwritten
	// with 0xDB instead, so that a payload that was kept shows itself.
	//
	// Lend excludes Latest, where one message may wait for long and would keep the memory
	// of many.
	Lend bool

	// ManualAck means that only Message.Ack acknowledges a message. The
	// subscription hands out at most Delivery.Buffer messages, counted from the
	// oldest unacknowledged one; then it waits. SubStats.Unacked counts them, and
	// DeliveryStopped reports a wait of 30 seconds.
	ManualAck bool
}

// Overflow is what happens to a message that finds the delivery queue full.
type Overflow uint8

// Overflow policies.
const (
	// OverflowDefault is Block if the dialect has the trait Credit, otherwise
	// DropOldest.
	OverflowDefault Overflow = iota

	// Block makes the server wait: it sends only as fast as the consumer reads.
	// It needs the trait Credit.
	Block

	// DropOldest drops the oldest waiting message. A Gap takes its place.
	DropOldest

	// DropNewest drops the message that arrives. A Gap takes its place.
	DropNewest

	// Latest keeps only the newest waiting message of each key, see Delivery.Key. It is
	// for feeds whose messages each hold the whole state of their key, such as prices. A
	// message takes the place of the earlier one with its key, so keys come in the order
	// in which they began to wait. The earlier one counts as SubStats.Conflated, and no
	// Gap stands for it. A message that comes after a Gap or a Reset stands behind it,
	// also if its key waited in front of it. If more keys wait than fit, the message of
	// the first one is dropped, and a Gap takes its place.
	//
	// Order holds for each key only. Subscription.Committed is the position before the
	// oldest message that was not processed, so that another process that resumes there
	// misses no key.
	Latest
)

// Delivery is the throttled delivery channel of a subscription: how much may wait
// for the consumer, what happens when the queue is full, and at which pace
// messages are handed over.
type Delivery struct {
	// Buffer is how many messages may wait. Defaults to 1,024; at most 2^30.
	Buffer int

	// Bytes is how many bytes of payload may wait. One message may exceed it.
	// Defaults to 1 MiB; at most 1 GiB.
	Bytes int

	// Overflow is what happens to a message that finds the queue full. Defaults
	// to OverflowDefault.
	Overflow Overflow

	// Key returns the key of a message for Latest, and is only for it. Nil means that
	// the topic is the key. The message has no Position yet. Key is called on the
	// goroutine that reads the connection, without a lock: while it runs, the client
	// receives nothing, so it must only compute. If it panics, the subscription ends
	// with a PanicError after the messages before. If it calls runtime.Goexit, the
	// subscription ends too, and the client makes a new connection. If it has not returned after 10
	// seconds, the client ends with a HangError.
	Key func(Message) string

	// Every hands messages over at most once in this interval: each time, all
	// that are waiting. When the stream ends, by Shutdown for example, what waits comes at
	// once, unless there is a Rate. Defaults to 0: at once. From 1 microsecond to 366 days.
	Every time.Duration

	// Rate is how many messages are handed over in a second at most, in the long run;
	// fractions are allowed. Losses do not count. With Every, each interval hands over no
	// more than the rate allows by then. It holds for what waits at the end, too: give
	// Shutdown that time. Defaults to 0: no limit. From 0.000001 to 1e9.
	Rate float64

	// Burst is how many messages are handed over at once at most, after a time without
	// messages, and is only for Rate. Defaults to what Rate allows in 10 milliseconds or,
	// if it is longer, in Every; at least 1, at most 2^30. It must not be less than what
	// Rate allows in Every.
	Burst int
}

// Governor gives the attempts of several clients their turns, so that many clients in one
// process are no herd. It counts for each host and port apart. A host that refuses an attempt
// with status 429 or 503, or ends a connection with close code 1008, gets 20 attempts a second
// from then on, and half as many after each second with further refusals, but at least one.
// The rate doubles every 30 seconds without a refusal, until there is no limit again. A server
// that gives each client its own time (X-Limpet-Retry-Ms) is not limited. An attempt that
// succeeds doubles the rate as well, at most once a second.
//
// Where a client states wire.ConnectionLimits.Dials, no host gets more attempts than that from the
// clients of the Governor, in any time DialsPer. The lowest limit that was stated for a host counts.
//
// A Governor may be used by any number of clients. See docs/reconnect.md, section 6.
type Governor struct{ turns *governor.Governor }

// NewGovernor returns a Governor that also bounds the attempts to a host that is not
// overloaded: to perSecond attempts a second, from 1e-6 to 1e6, and burst at once, from 1 to
// 1e6. The errors are of type *Error, class input.
func NewGovernor(perSecond float64, burst int) (*Governor, error) {
	const op = "NewGovernor"
	if !(perSecond >= 1e-6 && perSecond <= 1e6) {
		return nil, inputError(op, "perSecond", "is %v; use 1e-6 to 1e6 attempts a second", perSecond)
	}
	if burst < 1 || burst > 1e6 {
		return nil, inputError(op, "burst", "is %d; use 1 to 1e6", burst)
	}
	return &Governor{governor.New(perSecond, burst)}, nil
}
