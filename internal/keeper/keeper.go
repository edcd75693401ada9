package keeper

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/wire"
)

const (
	numbersAhead = 1000                   // connection numbers that one commit reserves
	lazyPause    = 50 * time.Millisecond  // for which what may be lost waits for a commit that must be made
	firstRetry   = 100 * time.Millisecond // after a commit that failed; it doubles each time
	maxRetry     = 10 * time.Second
)

// Keeper collects what is to be kept in an outbox.Store. One commit runs at a time, and what
// comes meanwhile is the next one. It belongs to one goroutine at a time, but for Record.Wait. Use Open.
//
// The state has a version: what depends on it waits until the newest one is durable. A nil Keeper
// keeps nothing.
type Keeper[R any] struct {
	store outbox.Store
	calls caller

	state   State
	version uint64 // of the state
	durable uint64 // the newest version that is kept
	ready   bool   // there is a connection on which messages may be sent

	waiting []*Record[R]
	settled []outbox.Range // ascending
	void    []outbox.Range
	held    []R // whose outcomes wait for a commit
	leaving []R // the same, of messages that are removed with it
	reset   bool

	flight   *flight[R] // the commit in progress
	failures int        // in a row
	timer    *time.Timer
	due      bool // what may wait has waited
	closed   bool
	ending   bool // nothing is removed any more
}

// flight is a commit in progress.
type flight[R any] struct {
	change  *outbox.Change
	version uint64
	records []*Record[R]
	items   []R // of the records
	held    []R
	leaving []R
	stale   bool // the numbers in it count no more
	result  <-chan error
}

// View is what the owner of a Keeper knows when it begins a commit.
type View[R any] struct {
	Now     time.Time
	LastSeq uint64 // of the messages that are kept

	// Kept returns all of these messages: it is called after Renumber only.
	Kept func() []outbox.Message

	// Prepare returns the items of a record that are not kept yet. After an error the record is
	// finished with it, and nothing of it is kept.
	Prepare func(*Record[R]) (items []R, err error)

	// Leaving returns the numbers of all messages for which Leave was called and that are kept.
	Leaving func() []outbox.Range

	// Message returns an item as it is kept, without Seq and Sent.
	Message func(R) outbox.Message
}

// Result is what follows from the end of a commit.
type Result[R any] struct {
	Records []*Record[R] // to be finished, with Err
	Items   []R          // that they added: durable, unless there is Err
	Held    []R          // whose outcomes may be published; those of Leave are no longer kept
	Err     error        // nothing is kept
	First   bool         // Err is the first error in a row
	Final   bool         // after Err the store is of no more use
}

// Add adds what a call publishes.
func (k *Keeper[R]) Add(r *Record[R]) { k.waiting = append(k.waiting, r) }

// Settle records that a message is not needed any more. A crash may forget that.
func (k *Keeper[R]) Settle(seq uint64) { k.settled = AddTo(k.settled, seq) }

// Hold records that a message has an outcome that must be durable before it is published: the
// server needs to learn nothing about it any more, or it still has to with void.
func (k *Keeper[R]) Hold(seq uint64, r R, void bool) {
	k.held = append(k.held, r)
	if void {
		k.void = AddTo(k.void, seq)
	} else {
		k.Settle(seq)
	}
}

// Leave records that a message that was never sent has an outcome, which must be durable before it is published: then
// the message is not kept any more, and the numbers of those behind it are lower.
func (k *Keeper[R]) Leave(r R) {
	if k != nil {
		k.leaving = append(k.leaving, r)
	}
}

// AddTo adds seq to ranges, which mostly end just below it.
func AddTo(ranges []outbox.Range, seq uint64) []outbox.Range {
	if n := len(ranges); n > 0 && ranges[n-1].Hi+1 == seq {
		ranges[n-1].Hi = seq
		return ranges
	}
	return append(ranges, outbox.Range{Lo: seq, Hi: seq})
}

// Renumber records that the messages that are kept have other numbers now, from 1 on.
func (k *Keeper[R]) Renumber() {
	if k == nil {
		return
	}
	k.settled, k.void, k.reset = nil, nil, true
	if k.flight != nil {
		k.flight.stale = true
	}
}

// Welcome records that a connection of the session s is there: nothing is sent on it before that
// and the time are durable. number is the highest connection number so far.
func (k *Keeper[R]) Welcome(s wire.Session, number uint64) {
	k.state.Session, k.state.Conn = s, max(k.state.Conn, number+numbersAhead)
	k.version++
	k.ready = true
}

// Lost records that this connection has ended.
func (k *Keeper[R]) Lost() {
	if k != nil {
		k.ready = false
	}
}

// MayBegin reports whether another connection may be made, whose number is above number. If
// not, it may after a commit.
func (k *Keeper[R]) MayBegin(number uint64) bool {
	if !k.Durable() {
		return false
	}
	if number < k.state.Conn {
		return true
	}
	k.state.Conn = number + numbersAhead
	k.version++
	return false
}

// Durable reports whether the state is durable.
func (k *Keeper[R]) Durable() bool { return k.durable == k.version }

// MaySend reports whether messages may be sent. A server forgets a rejection when the client goes on
// as if it knew it, and takes a void message for the one whose number it has: so nothing is sent
// before these outcomes are durable.
func (k *Keeper[R]) MaySend() bool {
	return k.ready && k.Durable() && k.holds() == 0 && (k.flight == nil || len(k.flight.held)+len(k.flight.leaving) == 0)
}

// holds returns how many outcomes wait for the next commit.
func (k *Keeper[R]) holds() int { return len(k.held) + len(k.leaving) }

// Begin begins a commit if one is due. Its end is announced with ended, from another goroutine.
// later is called, from another goroutine too, when Begin should be called again.
func (k *Keeper[R]) Begin(v View[R], ended, later func()) {
	if k.flight != nil || k.closed {
		return
	}
	f := k.next(v)
	k.due = false
	if f == nil {
		if k.urgent() || len(k.settled) > 0 {
			k.wait(later)
		}
		return
	}
	k.stopTimer()
	f.result = k.calls.commit(k.store, f.change, ended)
	k.flight = f
}

// Busy reports whether a commit is in progress.
func (k *Keeper[R]) Busy() bool { return k.flight != nil }

// urgent reports whether something must become durable, besides records.
func (k *Keeper[R]) urgent() bool { return !k.Durable() || k.reset || k.holds() > 0 }

// wait makes later be called when what is to be kept has waited for long enough.
func (k *Keeper[R]) wait(later func()) {
	if k.timer != nil {
		return
	}
	pause := lazyPause
	if k.failures > 0 {
		pause = min(maxRetry, firstRetry<<min(k.failures-1, 10))
	}
	k.timer = time.AfterFunc(pause, later)
}

// Due follows when later was called.
func (k *Keeper[R]) Due() {
	k.stopTimer()
	k.due = true
}

func (k *Keeper[R]) stopTimer() {
	if k.timer != nil {
		k.timer.Stop()
		k.timer = nil
	}
}

// next returns the next commit, or nil if none is due.
func (k *Keeper[R]) next(v View[R]) *flight[R] {
	f := &flight[R]{change: new(outbox.Change), version: k.version}
	k.take(v, f)
	items := f.items
	if len(items) == 0 && !(k.urgent() && (k.failures == 0 || k.due)) && !(k.due && len(k.settled) > 0) {
		return nil
	}
	c := f.change
	c.Reset, c.Lazy = k.reset, len(items) == 0 && !k.urgent()
	if c.Reset {
		c.Messages = v.Kept()
	}
	sent := k.ready && k.Durable()
	last := v.LastSeq
	for _, r := range items {
		m := v.Message(r)
		last++
		m.Seq = last
		if sent {
			m.Sent = v.Now
		}
		c.Messages = append(c.Messages, m)
	}
	if !k.Durable() {
		if k.ready {
			c.Sent = outbox.Sent{Seq: last, Time: v.Now}
		}
		k.state.Clock = v.Now
		c.State = k.state.encode()
	}
	c.Settled, c.Void, f.held = k.settled, k.void, k.held
	k.settled, k.void, k.held, k.reset = nil, nil, nil, false
	if len(k.leaving) > 0 && !k.ending {
		c.Removed, f.leaving, k.leaving = v.Leaving(), k.leaving, nil
	}
	return f
}

// take takes the records that wait into f.
func (k *Keeper[R]) take(v View[R], f *flight[R]) {
	for _, r := range k.waiting {
		if !r.claim() {
			continue // its caller has given it up
		}
		added, err := v.Prepare(r)
		if err != nil {
			r.Finish(err)
			continue
		}
		f.items = append(f.items, added...)
		f.records = append(f.records, r)
	}
	k.waiting = nil
	if len(f.items) == 0 { // each of them repeats what is kept
		for _, r := range f.records {
			r.Finish(nil)
		}
		f.records = nil
	}
}

// End follows when a commit has ended. There is none if that is known already.
func (k *Keeper[R]) End() (r Result[R], ok bool) {
	if k.flight == nil {
		return r, false
	}
	select {
	case err := <-k.flight.result:
		return k.end(err), true
	default:
		return r, false
	}
}

func (k *Keeper[R]) end(err error) (r Result[R]) {
	f := k.flight
	k.flight, r.Records, r.Items = nil, f.records, f.items
	if err == nil {
		k.failures = 0
		if f.change.State != nil {
			k.durable = f.version
		}
		r.Held = append(f.held, f.leaving...)
		return r
	}
	k.failures++
	r.Err, r.First = err, k.failures == 1
	r.Final = errors.Is(err, outbox.ErrUncertain) || errors.Is(err, outbox.ErrClosed)
	k.closed = k.closed || r.Final
	k.held, k.leaving = append(f.held, k.held...), append(f.leaving, k.leaving...)
	if !f.stale {
		k.settled, k.void = append(f.change.Settled, k.settled...), append(f.change.Void, k.void...)
		k.reset = k.reset || f.change.Reset
	}
	return r
}

// RefuseWaiting returns the records that are in no commit: none of them will be.
func (k *Keeper[R]) RefuseWaiting() (refused []*Record[R]) {
	refused = slices.DeleteFunc(k.waiting, func(r *Record[R]) bool { return !r.claim() })
	k.waiting = nil
	return refused
}

// Finish ends the use of the store: it waits for the commit in progress, and makes a last one
// of what is not kept yet, unless the store has the numbers of an earlier session. The context of
// the calls ends after a fifth of limit; a commit that takes longer than limit has the error
// outbox.ErrUncertain. each is called with what follows from the end of a commit. unkept
// are held: their outcomes are not durable. What is leaving stays: its numbers may not be known any more.
func (k *Keeper[R]) Finish(v View[R], limit time.Duration, each func(Result[R])) (unkept []R) {
	k.ending = true
	timer, patience := time.NewTimer(limit), time.AfterFunc(limit/5, k.calls.cancel)
	defer timer.Stop()
	defer patience.Stop()
	for range 2 {
		if k.flight == nil && !k.closed && !k.reset && len(k.settled)+len(k.held) > 0 {
			k.failures, k.due = 0, true
			k.version = k.durable // there is no other connection
			k.Begin(v, func() {}, func() {})
		}
		if k.flight == nil {
			break
		}
		select {
		case err := <-k.flight.result:
			each(k.end(err))
		case <-timer.C:
			k.closed = true
			each(k.end(fmt.Errorf("%w: Commit has not returned for %v", outbox.ErrUncertain, limit)))
		}
	}
	k.closed = true
	k.stopTimer()
	k.calls.cancel()
	release(k.store)
	return append(k.held, k.leaving...)
}
