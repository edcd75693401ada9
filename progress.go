package limpet

import (
	"sort"

	"github.com/limpet-go/limpet/internal/fifo"
	"github.com/limpet-go/limpet/wire"
)

// maxUnacked bounds, without ManualAck, what is remembered behind a message
// whose loop body was left and that nobody acknowledged.
const maxUnacked = 16 << 10

// progress follows what consumers took until they have processed it, and
// commits the contiguous prefix. It is used under the lock of its queue.
type progress struct {
	each      bool // every message stands for itself, else those that were taken together
	processed wire.Processed
	most      int
	only      span            // what is open, where that is one run of messages: in place of open
	open      fifo.Queue[run] // what is open, in order
	committed Position
	stuck     bool // a message was left unacknowledged for so long that nothing after it will be committed
}

// span is messages by their numbers in the queue. The zero value is none.
type span struct{ from, to uint64 }

// run is messages that were taken together, or one that was cut off them. A
// loss needs no acknowledgement and belongs to no connection.
type run struct {
	span
	position Position // of the last, if acked or alone
	gen      uint64   // the connection it came on
	acked    bool
}

// done is messages that were processed: all of a run that was taken, or of
// more than one. The zero value is none.
type done struct {
	from uint64
	last *Message
}

// took adds what a consumer has taken, with so many losses in it.
func (p *progress) took(ms []Message, losses int) {
	if p.open.Len() == 0 && p.only.to == 0 && losses == 0 && !p.each && !p.stuck {
		p.only = span{ms[0].number, ms[len(ms)-1].number}
		return
	}
	p.spread()
	for len(ms) > 0 && !p.stuck {
		if p.open.Len() >= p.most {
			p.stuck = true
			p.open.Reset()
			return
		}
		n := 1
		for !p.each && n < len(ms) && ms[0].Loss == nil && ms[n].Loss == nil {
			n++
		}
		last := &ms[n-1]
		p.open.Push(run{span{ms[0].number, last.number}, last.Position, last.gen, ms[0].Loss != nil})
		ms = ms[n:]
	}
}

// spread moves only to open.
func (p *progress) spread() {
	if p.only.to != 0 {
		p.open.Push(run{span: p.only})
		p.only.to = 0
	}
}

// ack marks what is done as processed and returns what the server wants to
// hear.
func (p *progress) ack(d done) (told []run) {
	if d.last == nil {
		return nil
	}
	to := d.last.number
	if p.only.to == to && p.only.from == d.from {
		p.only.to, p.committed = 0, d.last.Position
		if p.processed == wire.ProcessedCumulative && d.last.gen != 0 {
			told = []run{{position: d.last.Position, gen: d.last.gen}}
		}
		return told
	}
	p.spread()
	for i := p.find(d.from); i < p.open.Len() && p.open.At(i).to <= to; i++ {
		r := p.open.At(i)
		if r.acked {
			continue
		}
		if r.acked = true; r.to == to && r.gen == 0 { // else it is known, and the caller may have changed his copy
			r.position, r.gen = d.last.Position, d.last.gen
		}
		if p.processed == wire.ProcessedEach && r.gen != 0 {
			told = append(told, *r)
		}
	}
	if last := p.advance(); p.processed == wire.ProcessedCumulative && last.gen != 0 {
		told = append(told, last)
	}
	return told
}

// ackOne is ack for one message, which may have been taken with others: then
// it is cut off them.
func (p *progress) ackOne(m *Message) (told []run) {
	if p.only != (span{m.number, m.number}) {
		p.spread()
		if i := p.find(m.number); i < p.open.Len() && p.open.At(i).from <= m.number {
			p.cut(i, m.number)
		}
	}
	return p.ack(done{m.number, m})
}

// find is the index of the run that number is in, or of the first after it.
func (p *progress) find(number uint64) int {
	return sort.Search(p.open.Len(), func(i int) bool { return p.open.At(i).to >= number })
}

// cut makes a run of its own of one message in the run at i. Where a part ends
// is told when it is acknowledged.
func (p *progress) cut(i int, number uint64) {
	if r := p.open.At(i); r.from < number && !r.acked {
		before := run{span: span{r.from, number - 1}}
		r.from = number
		p.open.Insert(i, before)
		i++
	}
	if r := p.open.At(i); r.to > number && !r.acked {
		r.from = number + 1
		p.open.Insert(i, run{span: span{number, number}})
	}
}

// advance commits the acknowledged prefix and returns its last run that is no
// loss.
func (p *progress) advance() (last run) {
	n := 0
	for n < p.open.Len() && p.open.At(n).acked {
		r := p.open.At(n)
		p.committed = r.position
		if r.gen != 0 {
			last = *r
		}
		n++
	}
	if n > 0 {
		p.open.Drop(n)
	}
	return last
}
