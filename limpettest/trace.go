package limpettest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
)

// Event is one thing that a test saw: Sent, Outcome, Subscribed, Delivered, Gap,
// Reset, Committed or Held. The order of events about one message, and of events
// about one subscription, must be the order in which they happened.
type Event interface{ event() }

// Sent is a message that was given to a client to publish, or with a zero ID
// made by the server. It is recorded before the publish.
type Sent struct {
	Producer  string
	Counter   uint64
	ID        uuid.UUID
	Sum       uint32
	MayRepeat bool // published in a way that may deliver it twice
}

// Outcome is how a publish ended. Kind is one of Acked, Written, Rejected,
// Expired, Unsent, Stored, Unknown, in any case of letters. A publish that was
// refused at once has no outcome: do not record it as Sent, or record Rejected.
type Outcome struct {
	ID   uuid.UUID
	Kind string
}

// Subscribed is where delivery to a new subscription begins: after Offset.
type Subscribed struct {
	Sub, Epoch string
	Offset     uint64
}

// Delivered is a message handed to the consumer of a subscription.
type Delivered struct {
	Sub, Epoch string
	Offset     uint64 // 0: the language has no numbers, only I1 is decided
	Prev       uint64
	HasPrev    bool // Prev is known
	ID         uuid.UUID
	Producer   string
	Counter    uint64
	Sum        uint32
	Damaged    bool   // its payload does not sum up
	Snapshot   bool   // a part of a snapshot: outside the numbering
	Key        string // set under the policy Latest: order is per key, and conflation is no loss
}

// Gap says that the offsets in (From, To] are lost to the consumer.
type Gap struct {
	Sub, Epoch string
	From, To   uint64
}

// Reset says that the stream goes on after Offset of Epoch, whatever came before.
type Reset struct {
	Sub, Epoch string
	Offset     uint64
}

// Committed is a position stored for a subscription, up to which everything
// counts as processed.
type Committed struct {
	Sub, Epoch string
	Offset     uint64
}

// Held is what the server's log holds that matches a subscription, read at the
// end of a test or whenever it is known; several Held add up. With it, nothing
// acknowledged may be missing from the log (I5), and nothing in the log from the
// subscription's beginning to its last delivery may be skipped (I4), also where
// Prev is not known. An empty Sub is a log nobody need have read.
type Held struct {
	Sub, Epoch string
	Entries    []HeldEntry
	// Complete says that the subscription was read until the log's end: then
	// nothing at its end may be missing either.
	Complete bool
}

// HeldEntry is one message in a log.
type HeldEntry struct {
	Offset uint64
	ID     uuid.UUID
}

func (Sent) event()       {}
func (Outcome) event()    {}
func (Subscribed) event() {}
func (Delivered) event()  {}
func (Gap) event()        {}
func (Reset) event()      {}
func (Committed) event()  {}
func (Held) event()       {}

// Trace is what a Recorder saw, in the order of recording.
type Trace []Event

// Violation is a promise of docs/protocol.md, section 6, that was not kept.
type Violation struct {
	Invariant string // "I4"
	Index     int    // of the event, or of the tapped message; -1: known at the end only
	What      string
}

func (v Violation) String() string {
	if v.Index < 0 {
		return fmt.Sprintf("%s at the end: %s", v.Invariant, v.What)
	}
	return fmt.Sprintf("%s at %d: %s", v.Invariant, v.Index, v.What)
}

// Recorder collects a Trace. The zero value is ready for use, and it is safe for
// concurrent use. Everything recorded is kept.
type Recorder struct {
	mu    sync.Mutex
	trace Trace
}

// Record appends an event.
func (r *Recorder) Record(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trace = append(r.trace, e)
}

// Trace returns a copy of what was recorded.
func (r *Recorder) Trace() Trace {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.trace)
}

// Verify fails tb with every violation in the trace and, if n is not nil, in
// the messages that n tapped.
func (r *Recorder) Verify(tb testing.TB, n *Network) {
	tb.Helper()
	found := Check(r.Trace())
	if n != nil && n.tap {
		found = append(found, CheckFrames(n.Tapped())...)
	}
	if len(found) == 0 {
		return
	}
	const most = 20
	var b strings.Builder
	for i, v := range found {
		if i == most {
			fmt.Fprintf(&b, "\n  and %d more", len(found)-most)
			break
		}
		fmt.Fprintf(&b, "\n  %s", v)
	}
	if n != nil {
		fmt.Fprintf(&b, "\nfaults by dial:")
		for i, d := range n.Dials() {
			if i == most {
				fmt.Fprintf(&b, "\n  and %d more", len(n.Dials())-most)
				break
			}
			fmt.Fprintf(&b, "\n  %s %s %s", d.At.Format("15:04:05.000"), d.Addr, d.Fault)
		}
	}
	tb.Errorf("%d violations:%s", len(found), b.String())
}
