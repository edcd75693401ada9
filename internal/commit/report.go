package commit

import "github.com/limpet-go/limpet/wire"

// Report is what the server is to be sent of a message, or of all up to it.
type Report struct {
	Generation uint64 // the connection it came on
	Position   wire.Position
	Released   bool // it will not be processed
}

// duplicate is a duplicate of a message, at a server that waits for an acknowledgement of
// each message that it sends.
type duplicate struct {
	after uint64 // the message is this one or an earlier one
	id    wire.ID
	Report
}

// Reports returns how many reports TakeReports would return.
func (t *Tracker) Reports() int { return len(t.reports) }

// TakeReports returns what the server is to be sent, in order, and forgets it.
func (t *Tracker) TakeReports() []Report {
	reports := t.reports
	t.reports = nil
	return reports
}

// Release follows when a message will not be processed: nothing more is committed. It
// returns whether the server learns it.
func (t *Tracker) Release(number uint64, id wire.ID, p *wire.Position, generation uint64) bool {
	t.expand()
	t.abandoned = true
	before := len(t.reports)
	t.AcknowledgeOne(number, p, generation)
	for i := range t.reports[before:] {
		t.reports[before+i].Released = true
		for j := range t.copies {
			c := &t.copies[j]
			c.Released = c.Released || c.id == id && (c.id != wire.ID{} || c.Position == *p)
		}
	}
	return len(t.reports) > before
}

// Drop follows when a message is dropped that no consumer took. A server that waits for
// acknowledgements gets one.
func (t *Tracker) Drop(generation uint64, p wire.Position) {
	if t.Processed == wire.ProcessedEach {
		t.reports = append(t.reports, Report{Generation: generation, Position: p})
	}
}

// GiveUp remembers a message that no consumer will get, for a server that waits for an
// acknowledgement.
func (t *Tracker) GiveUp(generation uint64, p wire.Position) {
	if t.Processed != wire.ProcessedEach {
		return
	}
	r := Report{Generation: generation, Position: p, Released: true}
	if t.releasing {
		t.reports = append(t.reports, r)
	} else if len(t.unwanted) < t.Limit {
		t.unwanted = append(t.unwanted, r)
	}
}

// ReleaseRest returns the positions of the messages of connection generation that nothing has
// processed: those that were given up, and those that a consumer took and did not acknowledge.
// What is given up after it is reported at once.
func (t *Tracker) ReleaseRest(generation uint64) (all []wire.Position) {
	for i := range t.unwanted {
		if t.unwanted[i].Generation == generation {
			all = append(all, t.unwanted[i].Position)
		}
	}
	t.unwanted, t.releasing = nil, true
	for i := range t.unacked.All() {
		if r := t.unacked.At(i); !r.acked {
			r.acked = true
			if r.generation == generation {
				all = append(all, r.position)
			}
		}
	}
	return all
}

// KeepCopy keeps a duplicate of a message with a number of at most after until what came before
// it is processed: the server may hold nothing else of the message, if that came on an earlier
// connection. It reports false if the server does not wait for it, or if too many are kept.
func (t *Tracker) KeepCopy(after uint64, id wire.ID, p wire.Position, generation uint64) bool {
	if t.Processed != wire.ProcessedEach || len(t.copies) >= t.Limit {
		return false
	}
	t.copies = append(t.copies, duplicate{after, id, Report{Generation: generation, Position: p}})
	return true
}

// Copies returns how many duplicates are kept.
func (t *Tracker) Copies() int { return len(t.copies) }

// SettleCopies reports the duplicates of what is processed: of the messages below waiting, the
// number of the first one that no consumer has taken, that are acknowledged.
func (t *Tracker) SettleCopies(waiting uint64) {
	if oldest, ok := t.Oldest(); ok {
		waiting = min(waiting, oldest)
	}
	for len(t.copies) > 0 {
		c := &t.copies[0]
		if waiting <= c.after {
			return
		}
		t.reports = append(t.reports, c.Report)
		t.copies = t.copies[1:]
	}
	t.copies = nil
}

// GiveUpCopies gives up the duplicates of connection generation, as nothing more is processed,
// and forgets the others.
func (t *Tracker) GiveUpCopies(generation uint64) {
	for i := range t.copies {
		if c := &t.copies[i]; c.Generation == generation {
			t.GiveUp(c.Generation, c.Position)
		}
	}
	t.copies = nil
}

// ForgetCopies forgets the duplicates: their connection has ended.
func (t *Tracker) ForgetCopies() { t.copies = nil }
