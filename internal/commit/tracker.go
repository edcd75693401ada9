// Package commit follows the messages that consumers have taken until they are acknowledged,
// and commits the contiguous prefix. It also keeps what the server is to be sent.
package commit

import (
	"sort"
	"sync"

	"github.com/limpet-go/limpet/internal/fifo"
	"github.com/limpet-go/limpet/wire"
)

// MaxUnacked bounds, without manual acknowledgement, how many runs are remembered behind
// one that is never acknowledged because its loop body did not finish.
const MaxUnacked = 16 << 10

// Many idle trackers share the memory of a few busy ones.
var pool sync.Pool

// Config says what a Tracker follows.
type Config struct {
	PerMessage bool           // each message is a run of its own, else those taken together are one
	ByMarks    bool           // what is committed is the position of a mark
	Processed  wire.Processed // what the server must be sent
	Limit      int            // of the runs, the duplicates and the unwanted messages that are remembered
}

// Tracker follows the messages of one subscription, which have ascending numbers above 0. A
// loss has a number too. It is not safe for concurrent use.
type Tracker struct {
	Config
	single    numberRange // what is unacknowledged, if that is one run without a loss: unacked is empty then
	unacked   fifo.Queue[run]
	losses    int // how many of unacked are losses; only with PerMessage
	committed wire.Position
	through   uint64           // the number of the last message that is committed
	abandoned bool             // Limit was exceeded, or a message released: nothing more is committed
	forgotten int              // messages that are not acknowledged and not in unacked
	marks     fifo.Queue[mark] // in the order of their numbers; only with ByMarks

	reports   []Report    // what the server is to be sent
	unwanted  []Report    // what nothing will process, for ReleaseRest
	copies    []duplicate // duplicates of what may not be processed yet, the oldest first
	releasing bool        // what is not wanted is reported at once
}

// mark is the position to commit once every message up to number is acknowledged.
type mark struct {
	number   uint64
	position wire.Position
}

// numberRange is a range of message numbers. The zero value is empty.
type numberRange struct{ first, last uint64 }

// run is a run of messages that were taken together, or a part of one. A
// loss is a run of its own: it is acknowledged from the start and belongs to no
// connection.
type run struct {
	numberRange
	position   wire.Position // of the last message; unknown in a run that came from single or was split
	generation uint64        // the connection it came on; 0: none, or position is unknown
	acked      bool
}

// New returns a tracker of no messages.
func New(c Config) Tracker {
	return Tracker{Config: c, unacked: fifo.Queue[run]{Pool: &pool}}
}

// ResumeFrom makes p the committed position.
func (t *Tracker) ResumeFrom(p wire.Position) { t.committed = p }

// Take follows the messages first to last, n of them and no losses, that a consumer took
// together. It reports false if it must learn of each of them, with TakeOne.
func (t *Tracker) Take(first, last uint64, n int) bool {
	if t.unacked.Len() > 0 || t.single.last != 0 || t.PerMessage || t.abandoned || last-first != uint64(n-1) {
		return false
	}
	t.single = numberRange{first, last}
	return true
}

// TakeOne follows a message that a consumer took, or a loss, which has generation 0. With
// together it was taken with the one before.
func (t *Tracker) TakeOne(number uint64, p *wire.Position, generation uint64, together bool) {
	t.expand()
	loss := generation == 0
	if !t.extend(number, p, generation, together) {
		if t.unacked.Len() >= t.Limit {
			t.forgetOldest()
		}
		t.unacked.Push(run{numberRange{number, number}, *p, generation, loss})
		if loss && t.PerMessage {
			t.losses++
		}
	}
	if loss {
		t.commitPrefix() // it needs no acknowledgement
	}
}

// extend adds a message or a loss to the run before it, if they are one.
func (t *Tracker) extend(number uint64, p *wire.Position, generation uint64, together bool) bool {
	n := t.unacked.Len()
	if n == 0 {
		return false
	}
	r := t.unacked.At(n - 1)
	if t.PerMessage {
		if r.generation != 0 || generation != 0 {
			return false
		}
	} else if !together || r.generation == 0 || generation == 0 || number != r.last+1 {
		return false // a number that no message has would stay unacknowledged
	}
	r.last, r.position, r.generation = number, *p, generation
	return true
}

// forgetOldest forgets the oldest run, which is not acknowledged: nothing more is
// committed.
func (t *Tracker) forgetOldest() {
	r := t.unacked.At(0)
	t.abandoned = true
	t.forgotten += int(r.last-r.first) + 1
	t.unacked.Drop(1)
	t.commitPrefix()
}

// Window returns how many messages were taken from the oldest one on that is not
// acknowledged; only with PerMessage.
func (t *Tracker) Window() int { return t.unacked.Len() - t.losses }

// Oldest returns the first number of the oldest run that is remembered, but for one that
// Take followed; ok is false if there is none.
func (t *Tracker) Oldest() (number uint64, ok bool) {
	if t.unacked.Len() == 0 {
		return 0, false
	}
	return t.unacked.At(0).first, true
}

// expand moves single to unacked.
func (t *Tracker) expand() {
	if t.single.last != 0 {
		t.unacked.Push(run{numberRange: t.single})
		t.single.last = 0
	}
}

// Acknowledge follows when a consumer has processed everything that it took at once, the
// messages first to last. The last one has position p and came on connection generation.
func (t *Tracker) Acknowledge(first, last uint64, p *wire.Position, generation uint64) {
	if t.single == (numberRange{first, last}) && !t.ByMarks && t.Processed != wire.ProcessedCumulative {
		// The usual case. Field by field: see sequence.Receiver.CopyPosition.
		t.single.last, t.through = 0, last
		t.committed.Epoch, t.committed.Offset, t.committed.Tag = p.Epoch, p.Offset, p.Tag
		return
	}
	before := t.committed
	if t.single == (numberRange{first, last}) {
		t.single.last = 0
		t.commit(last, *p)
		t.reportCumulative(Report{Generation: generation, Position: *p}, before)
		return
	}
	for i := t.indexOf(first); i < t.unacked.Len() && t.unacked.At(i).last <= last; i++ {
		r := t.unacked.At(i)
		if r.acked {
			continue
		}
		r.acked = true
		if r.last == last && r.generation == 0 {
			// Only if the run has no position: the caller may have changed its copy.
			r.position, r.generation = *p, generation
		}
		if t.Processed == wire.ProcessedEach && r.generation != 0 {
			t.reports = append(t.reports, Report{Generation: r.generation, Position: r.position})
		}
	}
	t.reportCumulative(t.commitPrefix(), before)
}

// reportCumulative reports r, of the last run that was committed, if the server takes it
// for all before. before is what was committed before.
func (t *Tracker) reportCumulative(r Report, before wire.Position) {
	if t.Processed != wire.ProcessedCumulative || r.Generation == 0 {
		return
	}
	if t.ByMarks {
		if t.committed == before {
			return
		}
		r.Position = t.committed
	}
	t.reports = append(t.reports, r)
}

// AcknowledgeOne acknowledges one message. If others were taken with it, their
// run is split.
func (t *Tracker) AcknowledgeOne(number uint64, p *wire.Position, generation uint64) {
	if t.single != (numberRange{number, number}) {
		t.expand()
		if i := t.indexOf(number); i < t.unacked.Len() && t.unacked.At(i).first <= number {
			t.split(i, number)
		}
	}
	t.Acknowledge(number, number, p, generation)
}

// indexOf returns the index of the run that contains number, or else of the
// first run after it.
func (t *Tracker) indexOf(number uint64) int {
	return sort.Search(t.unacked.Len(), func(i int) bool { return t.unacked.At(i).last >= number })
}

// split makes the message with number, in the run at i, a run of its own. The
// parts learn their positions when they are acknowledged.
func (t *Tracker) split(i int, number uint64) {
	if r := t.unacked.At(i); r.first < number && !r.acked {
		before := run{numberRange: numberRange{r.first, number - 1}}
		r.first = number
		t.unacked.Insert(i, before)
		i++
	}
	if r := t.unacked.At(i); r.last > number && !r.acked {
		r.first = number + 1
		t.unacked.Insert(i, run{numberRange: numberRange{number, number}})
	}
}

// Mark says what to commit once every message up to number is acknowledged; only with
// ByMarks.
func (t *Tracker) Mark(number uint64, p wire.Position) {
	known := t.committed
	if n := t.marks.Len(); n > 0 {
		known = t.marks.At(n - 1).position
	}
	if p != known && !t.abandoned {
		t.marks.Push(mark{number, p})
	}
}

// commit follows when every message up to number is acknowledged; p is the position of
// the last one.
func (t *Tracker) commit(number uint64, p wire.Position) {
	t.through = number
	if !t.ByMarks {
		t.committed = p
		return
	}
	for t.marks.Len() > 0 && t.marks.At(0).number <= number {
		t.committed = t.marks.At(0).position
		t.marks.Drop(1)
	}
}

// commitPrefix commits the acknowledged prefix and returns a report of the last run in it
// that is not a loss. Once the tracker commits nothing more, it only forgets the prefix.
func (t *Tracker) commitPrefix() (last Report) {
	n := 0
	for n < t.unacked.Len() && t.unacked.At(n).acked {
		r := t.unacked.At(n)
		if !t.abandoned {
			t.commit(r.last, r.position)
		}
		if r.generation == 0 && t.PerMessage {
			t.losses--
		} else if r.generation != 0 && !t.abandoned {
			last = Report{Generation: r.generation, Position: r.position}
		}
		n++
	}
	if n > 0 {
		t.unacked.Drop(n)
	}
	return last
}

// Open returns how many messages are not acknowledged.
func (t *Tracker) Open() int {
	n := t.forgotten
	if t.single.last != 0 {
		n = int(t.single.last-t.single.first) + 1
	}
	for _, r := range t.unacked.All() {
		if !r.acked {
			n += int(r.last-r.first) + 1
		}
	}
	return n
}

// Committed returns the end of the acknowledged prefix.
func (t *Tracker) Committed() wire.Position { return t.committed }

// Through returns the number of the last message that is committed.
func (t *Tracker) Through() uint64 { return t.through }
