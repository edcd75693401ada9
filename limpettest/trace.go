package limpettest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
)

// Event is one thing that a test observed: Sent, Outcome, Subscribed, Delivered,
// Gap, Reset, Committed or Held. Events about one message, and events about one
// subscription, must be recorded in the order in which they happened. Sub is any name
// that the test gives a subscription; Epoch and Offset are those of wire.Position.
type Event interface{ event() }

// Sent is a message that is about to be published by a client, or by the server if
// ID is zero. It must be recorded before the publish: see NewSent.
type Sent struct {
	Producer  string    // see Stamp
	Counter   uint64    // see Stamp
	ID        uuid.UUID // message id
	Sum       uint32    // checksum of the payload
	MayRepeat bool      // published in a way that allows it to be delivered twice
}

// Outcome is how a publish ended. Kind is one of Acked, Written, Rejected, Expired,
// Unsent, Stored and Unknown, in upper or lower case. A publish that was refused at
// once has no outcome: do not record it as Sent, or record Rejected.
type Outcome struct {
	ID   uuid.UUID
	Kind string
}

// Subscribed is where delivery to a new subscription begins: after Offset.
type Subscribed struct {
	Sub, Epoch string
	Offset     uint64
}

// Delivered is a message that the consumer of a subscription received: see
// NewDelivered.
type Delivered struct {
	Sub, Epoch string
	Offset     uint64 // 0: the protocol has no numbers, so only I1 is checked
	Prev       uint64 // offset of the message before it
	HasPrev    bool   // Prev is known
	ID         uuid.UUID
	Producer   string // see Stamp
	Counter    uint64 // see Stamp
	Sum        uint32 // checksum of the payload
	Damaged    bool   // the payload does not match its checksum
	Snapshot   bool   // a part of a snapshot, which has no place in the numbering
	Key        string // set under the policy Latest: order is per key, and conflation is no loss
}

// Gap reports that the offsets in (From, To] are lost to the consumer.
type Gap struct {
	Sub, Epoch string
	From, To   uint64
}

// Reset reports that the stream continues after Offset of Epoch, independent of
// what came before.
type Reset struct {
	Sub, Epoch string
	Offset     uint64
}

// Committed is the position up to which everything on a subscription counts as
// processed.
type Committed struct {
	Sub, Epoch string
	Offset     uint64
}

// Held is the part of the server's log that matches a subscription, read at the end
// of a test or at any time before. Several Held for one subscription add up. With
// it Check can decide that nothing acknowledged is missing in the log (I5), and that
// nothing in the log between the subscription's beginning and its last delivery was
// skipped (I4), even where Prev is not known. With an empty Sub only the former is
// decided.
type Held struct {
	Sub, Epoch string
	Entries    []HeldEntry

	// Complete means that the subscription was read to the end of the log, so
	// that nothing may be missing at the end either.
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

// Trace is what a Recorder has recorded, in order.
type Trace []Event

// Violation is a promise of docs/protocol.md, section 6, that was not kept.
type Violation struct {
	Invariant string // for example "I4"; "trace" or "wire" if the input itself is wrong
	Index     int    // of the event or of the captured message; -1: found at the end of the trace
	What      string
}

// String returns the invariant, the place and the description.
func (v Violation) String() string {
	if v.Index < 0 {
		return fmt.Sprintf("%s at the end: %s", v.Invariant, v.What)
	}
	return fmt.Sprintf("%s at %d: %s", v.Invariant, v.Index, v.What)
}

// Recorder collects a Trace. The zero value is ready for use. A Recorder is safe for
// concurrent use. It keeps everything.
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

// Trace returns a copy of what has been recorded.
func (r *Recorder) Trace() Trace {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.trace)
}

// Verify checks the trace and, if n is not nil and captures messages, those messages. It
// fails tb with the violations, and with the faults of n's dials. At most 20 of each
// are listed.
func (r *Recorder) Verify(tb testing.TB, n *Network) {
	tb.Helper()
	found := Check(r.Trace())
	if n != nil && n.capture {
		found = append(found, CheckFrames(n.Captured())...)
	}
	if len(found) == 0 {
		return
	}
	const shown = 20
	var b strings.Builder
	for i, v := range found {
		if i == shown {
			fmt.Fprintf(&b, "\n  and %d more", len(found)-shown)
			break
		}
		fmt.Fprintf(&b, "\n  %s", v)
	}
	if n != nil {
		fmt.Fprintf(&b, "\nfaults by dial:")
		for i, d := range n.Dials() {
			if i == shown {
				fmt.Fprintf(&b, "\n  and %d more", len(n.Dials())-shown)
				break
			}
			fmt.Fprintf(&b, "\n  %s %s %s", d.At.Format("15:04:05.000"), d.Addr, d.Fault)
		}
	}
	tb.Errorf("%d violations:%s", len(found), b.String())
}
