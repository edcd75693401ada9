// Package calls is the table of requests that wait for their reply. It has neither a clock nor a
// goroutine: the loop of a client owns it.
package calls

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// MaxOpen is how many calls have no reply on one connection at a time; others wait.
const MaxOpen = 64

// Fate is how a call ended.
type Fate uint8

// The fates of a call.
const (
	Replied     Fate = iota + 1 // Reply is the reply
	Refused                     // Reply says why: the server refused it
	Unencodable                 // the dialect cannot send it: Err
	Unsupported                 // the server takes no calls; nothing has left
	Unsent                      // nothing has left: Err
	Unknown                     // it may have left, and no reply comes: Err
)

// Result is how a call ended.
type Result struct {
	Fate  Fate
	Reply wire.Event
	Err   error
	At    time.Time // when the reply came
}

// Call is one request. Its caller and the loop share it.
type Call struct {
	result chan Result // one slot
	state  atomic.Uint32

	// Of the loop.
	message  wire.Message
	deadline time.Time // zero: none
	again    bool
	earlier  bool   // it was sent on an earlier connection
	queued   bool   // it waits to be sent
	number   uint64 // 0: not sent on this connection
}

// ErrRefusedAgain is why a refusal leaves the outcome open.
var ErrRefusedAgain = errors.New("it was sent again after a connection was lost, and then refused; the server may have taken it the first time")

// The states of a call, as its caller sees it.
const (
	waiting uint32 = iota // it was never handed to the network
	sent                  // it may have left
	left                  // its caller waits no longer
)

// New returns a call. again says that it is sent again after a connection is lost. The call
// owns m, whose TTL it sets from the deadline.
func New(m wire.Message, deadline time.Time, again bool) *Call {
	return &Call{result: make(chan Result, 1), message: m, deadline: deadline, again: again}
}

// Topic returns the topic of c.
func (c *Call) Topic() string { return c.message.Topic }

// Wait calls make, after which Table.Add must follow, and returns the result, or how the call has ended when
// ctx did: then it calls leave, after which Table.Left must follow. If ctx has ended before, it calls neither.
func (c *Call) Wait(ctx context.Context, make, leave func()) Result {
	if ctx.Err() != nil {
		return Result{Fate: Unsent, Err: ctx.Err()}
	}
	make()
	select {
	case r := <-c.result:
		return r
	case <-ctx.Done():
	}
	unsent := c.state.Swap(left) == waiting
	leave()
	select {
	case r := <-c.result: // it came at the same time
		return r
	default:
	}
	if unsent {
		return Result{Fate: Unsent, Err: ctx.Err()}
	}
	return Result{Fate: Unknown, Err: ctx.Err()}
}

// End gives c a result without a reply, by whether it may have left.
func (c *Call) End(err error) {
	fate := Unknown
	if c.state.Load() == waiting {
		fate = Unsent
	}
	c.resolve(Result{Fate: fate, Err: err})
}

func (c *Call) resolve(r Result) {
	select {
	case c.result <- r:
	default: // one has a result already
	}
}

// Table holds the calls without a result. The zero value is empty.
type Table struct {
	queue []*Call          // to be sent, the next first, and some that are not queued any more
	gone  int              // how many those are: fewer than half
	open  map[uint64]*Call // sent on this connection, by number
	last  uint64           // number so far; none is used twice, on whatever connection
}

// Add queues c.
func (t *Table) Add(c *Call) {
	c.queued = true
	t.queue = append(t.queue, c)
}

// Len returns how many calls have no result.
func (t *Table) Len() int { return len(t.queue) - t.gone + len(t.open) }

// Open returns how many calls may have left on this connection and wait for their reply.
func (t *Table) Open() int { return len(t.open) }

// Sendable reports whether Next has something to send.
func (t *Table) Sendable() bool { return len(t.queue) > t.gone && len(t.open) < MaxOpen }

// Next appends the operations for the calls to send now: at most room of them, of at most about bytes
// together. From then on they may have left.
func (t *Table) Next(ops []wire.Op, now time.Time, room, bytes int) []wire.Op {
	for ; room > 0 && bytes > 0 && t.Sendable(); t.queue = t.queue[1:] {
		c := t.queue[0]
		t.queue[0] = nil
		if !c.queued {
			t.gone--
			continue
		}
		c.queued = false
		if !c.deadline.IsZero() && !now.Before(c.deadline) {
			c.End(context.DeadlineExceeded)
			continue
		}
		if !c.state.CompareAndSwap(waiting, sent) && c.state.Load() == left {
			continue
		}
		if !c.deadline.IsZero() {
			c.message.TTL = c.deadline.Sub(now)
		}
		t.last++
		c.number = t.last
		if t.open == nil {
			t.open = make(map[uint64]*Call)
		}
		t.open[c.number] = c
		ops = append(ops, wire.Op{Kind: wire.OpCall, Cmd: c.number * 4, N: c.number, Topic: c.message.Topic, Message: &c.message})
		room, bytes = room-1, bytes-len(c.message.Payload)
	}
	t.compact()
	return ops
}

// Answer gives the call that ev answers its result, and returns it. It returns nil if no
// caller waits for that number.
func (t *Table) Answer(ev *wire.Event, now time.Time) *Call {
	c := t.take(ev.N)
	if c == nil {
		return nil
	}
	ev.OwnPayload()
	r := Result{Fate: Replied, Reply: *ev, At: now}
	switch {
	case ev.Code != 0 && c.earlier:
		r.Fate, r.Err = Unknown, ErrRefusedAgain
	case ev.Code != 0:
		r.Fate = Refused
	}
	c.resolve(r)
	return c
}

// Reject ends a call that the dialect cannot encode.
func (t *Table) Reject(number uint64, err error) {
	c := t.take(number)
	switch {
	case c == nil:
	case c.earlier:
		c.resolve(Result{Fate: Unknown, Err: err})
	default:
		c.resolve(Result{Fate: Unencodable, Err: err})
	}
}

func (t *Table) take(number uint64) *Call {
	c := t.open[number]
	delete(t.open, number)
	return c
}

// Left forgets c, whose caller has left. A reply to it changes nothing.
func (t *Table) Left(c *Call) {
	if t.open[c.number] == c {
		delete(t.open, c.number)
		return
	}
	if c.queued { // many may leave at a time: each costs a constant number of steps, on average
		c.queued = false
		t.gone++
		t.compact()
	}
}

// compact removes the calls that are not queued any more, once they are half of the queue.
func (t *Table) compact() {
	switch {
	case t.gone == len(t.queue):
		t.queue, t.gone = nil, 0
	case 2*t.gone >= len(t.queue):
		t.queue, t.gone = slices.DeleteFunc(t.queue, func(c *Call) bool { return !c.queued }), 0
	}
}

// Lost follows when the connection is lost: what may have left on it is queued again, before the
// others, or has no known outcome.
func (t *Table) Lost() {
	var again []*Call
	for _, c := range t.sent() {
		if c.again {
			c.number, c.queued, c.earlier = 0, true, true
			again = append(again, c)
		} else {
			c.End(nil)
		}
	}
	clear(t.open)
	t.queue = append(again, t.queue...)
}

// sent returns the open calls in the order in which they were sent.
func (t *Table) sent() []*Call {
	return slices.SortedFunc(maps.Values(t.open), func(a, b *Call) int { return cmp.Compare(a.number, b.number) })
}

// Refuse ends the calls that wait, at a server that takes none.
func (t *Table) Refuse() {
	for _, c := range t.queue {
		if c.state.Load() == waiting {
			c.resolve(Result{Fate: Unsupported})
		} else {
			c.End(nil)
		}
	}
	t.queue, t.gone = nil, 0
}

// End ends all calls because of err.
func (t *Table) End(err error) {
	for _, c := range append(t.sent(), t.queue...) {
		c.End(err)
	}
	t.open, t.queue, t.gone = nil, nil, 0
}
