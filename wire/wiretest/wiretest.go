// Package wiretest is the conformance suite for dialects: it tries a wire.Dialect, with
// the client, against a model of its server, and reports where the dialect does not keep
// what its Traits promise.
//
// The suite needs one thing that only the author of a dialect can write: the server's
// half of the protocol, as a Peer. A Peer says what a frame of the client asks for, and
// spells what the model server answers. Everything else, from sessions to lost
// connections, is in the suite.
//
//	func TestConformance(t *testing.T) {
//		wiretest.Run(t, wiretest.Subject{
//			Dialect: mydialect.New(mydialect.Options{}),
//			Peer:    func(*http.Request) wiretest.Peer { return &peer{} },
//			Topics:  [2]string{"a", "b"},
//		})
//	}
//
// The suite checks what Traits promise, so a dialect that promises little is checked for
// little: the log of Run names the checks that did not apply, and why. It runs in virtual
// time (testing/synctest) on the in-memory network of limpettest, and takes a few seconds.
// Run it with -race too: what Encode and Decode share without a lock is found only there.
package wiretest

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// Subject is a dialect and what the suite needs to try it.
type Subject struct {
	// Dialect is the dialect under test.
	Dialect wire.Dialect

	// Peer returns the server's half of a new connection. The argument is the
	// upgrade request.
	Peer func(*http.Request) Peer

	// Topics are two different topics that a client may subscribe to. For a dialect
	// with one topic only, the second is empty.
	Topics [2]string

	// Publish is a topic to publish to. It defaults to Topics[0].
	Publish string

	// Call is a topic to call, with the trait Calls. It defaults to Publish.
	Call string

	// Pushes means that the server sends the messages of all topics on each
	// connection from its beginning, or from the greeting on: the client does not ask
	// for them.
	Pushes bool

	// Replay means that the server sends what a resumed session has missed before
	// the EventReady that resumes it, as Socket.IO does. Hello.Session names the session,
	// and Hello.Subs the topics with the position to go on from. It needs Pushes and the
	// trait Greeting.
	Replay bool

	// Once means that the server delivers each message once, acknowledged or not, as a
	// broker does not. It counts with ProcessedEach.
	Once bool

	// Asks means, with Once, that each message asks for its acknowledgement.
	Asks bool

	// Beat is how often the server sends an EventPing on each connection that is ready.
	// Zero means never. Set it with the trait PingNone, since such a server must send
	// something.
	Beat time.Duration

	// Strict means that the protocol demands the end of the connection after a message that
	// cannot be read, as limpet.v1 does. Otherwise Decode must report it as EventMalformed, and
	// go on.
	Strict bool

	// Refusal is how the server refuses a credential. Nil means that it has none.
	Refusal *Refusal

	// Allocs bounds the allocations for decoding one message and encoding one
	// publish. It defaults to 64.
	Allocs int

	// Options changes the options of the client, for example Auth. Dialect,
	// HTTPClient, Backoff and Heartbeat belong to the suite. It may be nil.
	Options func(*limpet.Options)
}

// Refusal is how a server refuses the credential of a client.
type Refusal struct {
	Frames []wire.Frame // sent in place of the greeting
	Code   uint16       // of the close frame that follows; zero: the connection stays open
}

// Peer is the server's half of the protocol on one connection. It owns no goroutine and
// no clock, and the suite calls it from one goroutine at a time. It may keep state, such
// as the ids of subscriptions, but decides nothing: the suite does.
//
// Messages of the suite have a payload such as {"n":17}, some with more members and up to
// 70,015 bytes. A protocol whose message is a larger JSON text must contain it unchanged.
type Peer interface {
	// Open returns what the server sends first, before the client has sent anything.
	Open() []wire.Frame

	// Decode returns what one frame of the client asks for, in order. An error means
	// that the frame is not of the protocol: the suite reports it.
	Decode(f wire.Frame) ([]Request, error)

	// Encode returns the frames with which the server says e, or nil if the protocol
	// has no form for it. The suite sends
	//
	//	EventReady         Conn, Session, Resumed, Ack (To, Cmd, credit), Tag
	//	EventSubscribed    Key, Name, Position, Continuity, Head
	//	EventUnsubscribed  Key, Name, Code (0 or 1), Reason
	//	EventData          Key, Name, Numbered, Position, Prev, Message (ID, Topic, Payload, Redelivered)
	//	EventAck           To, Cmd, credit; Rejects (Seq, Code, Reason)
	//	EventPing          N: the server asks for a sign of life
	//	EventPong          N, of the OpPing that it answers
	//	EventAuth          Expires, or Wanted, with the trait Refresh
	//	EventReply         with the trait Calls: N of the request; Message.Payload, or Code 1 and Reason
	//
	// A message that is not Numbered has no number, if the protocol has such messages beside others.
	// Position.Tag of a message is its number as a text; a protocol with cursors of
	// its own may use it. An EventAck has the Cmd of its request in either case: with
	// Rejects it refuses the message, without it accepts. Rejects[0].Seq is that Cmd
	// divided by 4, or the Message.Seq of the request.
	Encode(e wire.Event) []wire.Frame
}

// Request is one thing that a client asks for.
type Request struct {
	// Op is the request, with as much of it as the protocol carries. The suite uses
	//
	//	OpSubscribe    Key, Topic, Subscribe (From, Position.Offset)
	//	OpUnsubscribe  Key or Name
	//	OpPublish      Cmd, Message (Seq, ID, Payload)
	//	OpAck          Key or Name, Position.Offset: the number of the message
	//	OpRelease      as OpAck
	//	OpPing, OpPong N
	//	OpAuth         Token, with the trait Refresh
	//	OpCall         N, as the server knows it, and Message.Payload, with the trait Calls
	//
	// Anything else is ignored. With a cursor of its own, the Peer sets
	// Position.Offset to the number of the message that the cursor stands for.
	wire.Op

	// Hello means that the client has said all that the server needs to answer with
	// EventReady: Conn, Session, Token, Uplink and Subs, which are then subscribed to. See also
	// Subject.Replay.
	Hello *wire.Resume

	// Reply is sent at once: a step of the protocol that decides nothing.
	Reply []wire.Frame
}

// patience is how long one trial may take on a clock of the real world. Virtual time stands
// still while a goroutine waits for a lock, so nothing else ends such a trial.
const patience = time.Minute

// Run runs the suite, each check as a subtest. A dialect or a Peer that waits for something
// is a finding after a minute of real time, and ends the suite: its goroutine is abandoned.
func Run(t *testing.T, s Subject) {
	t.Helper()
	if problem := s.problem(); problem != "" {
		t.Fatal(problem)
	}
	for _, c := range checks {
		hangs := false
		t.Run(c.name, func(t *testing.T) {
			r := s.run(t, c, patience)
			for _, finding := range r.found() {
				t.Error(finding)
			}
			hangs = r.hangs
		})
		if hangs {
			t.Fatal("the other checks were not tried")
		}
	}
}

// problem says what is missing in s, or nothing.
func (s Subject) problem() string {
	switch {
	case s.Dialect == nil:
		return "Subject.Dialect is nil: set it to the dialect under test"
	case s.Peer == nil:
		return "Subject.Peer is nil: set it to a function that returns the server's half of a connection"
	case s.Topics[0] == "":
		return "Subject.Topics[0] is empty: set it to a topic that a client may subscribe to"
	case s.Topics[0] == s.Topics[1]:
		return "Subject.Topics are equal: set two different ones, or leave the second empty"
	}
	return ""
}

// run runs one check and returns what it found.
func (s Subject) run(t *testing.T, c check, patience time.Duration) *report {
	if s.Publish == "" {
		s.Publish = s.Topics[0]
	}
	if s.Allocs == 0 {
		s.Allocs = 64
	}
	r := &report{}
	s.try(t, c, r, patience)
	if skipped := r.reason(); skipped != "" && len(r.found()) == 0 {
		t.Log("does not apply: " + skipped)
	}
	return r
}

func (s Subject) try(t *testing.T, c check, r *report, patience time.Duration) {
	if !r.within(patience, func() {
		if s.Dialect.Traits().Ping == wire.PingNone && s.Beat == 0 {
			r.add("the trait Ping is PingNone, so the server must send something: set Subject.Beat")
		}
	}) {
		return
	}
	if c.pure != nil {
		r.within(patience, func() { c.pure(&s, r) })
		return
	}
	var faults []limpettest.Fault
	if !r.within(patience, func() { faults = c.faults(&s, r) }) {
		return
	}
	for _, f := range faults {
		if !r.within(patience, func() {
			synctest.Test(t, func(t *testing.T) {
				defer r.recover("the suite or the dialect")
				x := newTrial(t, &s, f, r)
				c.client(x)
				x.end()
			})
		}) {
			return
		}
	}
}

// peer returns the server's half of a new connection. Its panics say whose they are.
func (s *Subject) peer(q *http.Request) Peer {
	defer blame()
	p := s.Peer(q)
	if p == nil {
		panic("Subject.Peer returned nil")
	}
	return guard{p}
}
