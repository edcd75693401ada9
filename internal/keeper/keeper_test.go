package keeper

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/wire"
)

// rig is a Keeper of strings, the changes that it has committed, and their results.
type rig struct {
	t       *testing.T
	k       *Keeper[string]
	last    uint64 // message that is kept
	changes []*outbox.Change
	err     error
	later   atomic.Int32
	hang    chan struct{} // nil: commits end at once
	leaving []outbox.Range
}

func (r *rig) Load(context.Context) (*outbox.Content, error) { return new(outbox.Content), nil }

func (r *rig) Commit(_ context.Context, c *outbox.Change) error {
	if r.hang != nil {
		<-r.hang
	}
	r.changes = append(r.changes, c)
	return r.err
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t}
	o, err := Open[string](r, "d", time.Now(), func(v any, _ []byte) error { return fmt.Errorf("%v", v) })
	if err != nil {
		t.Fatal(err)
	}
	r.k, r.changes = o.Keeper, nil
	return r
}

func (r *rig) view() View[string] {
	return View[string]{
		Now: time.Now(), LastSeq: r.last,
		Leaving: func() []outbox.Range { return r.leaving },
		Kept:    func() []outbox.Message { return make([]outbox.Message, r.last) },
		Prepare: func(rec *Record[string]) ([]string, error) { return rec.Items, nil },
		Message: func(s string) outbox.Message { return outbox.Message{Topic: s} },
	}
}

func (r *rig) begin() { r.k.Begin(r.view(), func() {}, func() { r.later.Add(1) }) }

// commit begins a commit, if one is due, and waits for its end.
func (r *rig) commit() (res Result[string], ok bool) {
	r.begin()
	synctest.Wait()
	if res, ok = r.k.End(); ok && res.Err == nil {
		r.last += uint64(len(res.Items))
	}
	return res, ok
}

func (r *rig) newest() *outbox.Change { return r.changes[len(r.changes)-1] }

// What is to be kept is in one change, and nothing is committed twice.
func TestOneChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a, b := NewRecord([]string{"1", "2"}), NewRecord([]string{"3"})
		r.k.Add(a)
		r.k.Add(b)
		res, _ := r.commit()
		if c := r.newest(); len(c.Messages) != 3 || c.Messages[2].Seq != 3 || !c.Messages[0].Sent.IsZero() || c.Lazy || c.State != nil || len(res.Records) != 2 {
			t.Errorf("%+v, %+v", c, res)
		}
		r.k.Welcome(wire.Session{ID: "s", Key: []byte("k")}, 7)
		if r.k.MaySend() || r.k.Durable() {
			t.Error("messages may be sent before the session is durable")
		}
		r.k.Settle(1)
		r.k.Settle(2)
		r.k.Hold(3, "3", true)
		r.commit()
		c := r.newest()
		if s, err := decode(c.State); err != nil || s.Session.ID != "s" || s.Conn < 7+numbersAhead || c.Sent.Seq != 3 || c.Lazy ||
			!reflect.DeepEqual(c.Settled, []outbox.Range{{Lo: 1, Hi: 2}}) || !reflect.DeepEqual(c.Void, []outbox.Range{{Lo: 3, Hi: 3}}) {
			t.Errorf("%+v, %+v, %v", c, s, err)
		}
		if !r.k.MaySend() {
			t.Error("messages may not be sent although everything is durable")
		}
		r.k.Add(NewRecord([]string{"4"}))
		r.commit()
		if c := r.newest(); c.Messages[0].Sent.IsZero() || c.Messages[0].Seq != 4 {
			t.Errorf("a message that is sent at once: %+v", c.Messages)
		}
		if _, ok := r.commit(); ok {
			t.Error("a commit of nothing")
		}
		if r.k.Hold(4, "4", false); r.k.MaySend() {
			t.Error("messages may be sent before an outcome is durable")
		}
		if r.commit(); !r.k.MaySend() {
			t.Error("messages may not be sent although the outcome is durable")
		}
		r.k.Lost()
		if r.k.MaySend() {
			t.Error("messages may be sent without a connection")
		}
	})
}

// What a crash may forget waits for a short time, for a commit that is made anyway.
func TestLazy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.k.Settle(1)
		if _, ok := r.commit(); ok || r.later.Load() > 0 {
			t.Error("it did not wait")
		}
		time.Sleep(lazyPause)
		synctest.Wait()
		r.k.Due()
		if _, ok := r.commit(); !ok || r.later.Load() != 1 || !r.newest().Lazy {
			t.Errorf("later was called %d times, %+v", r.later.Load(), r.changes)
		}
	})
}

// After a commit that failed its records are refused, and the rest is in the next one: after a pause, or
// with the next record.
func TestFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.err = errors.New("full")
		r.k.Welcome(wire.Session{ID: "s"}, 1)
		r.k.Settle(5)
		r.k.Hold(6, "6", false)
		r.k.Add(NewRecord([]string{"7"}))
		res, _ := r.commit()
		if res.Err != r.err || !res.First || res.Final || len(res.Items) != 1 || len(res.Held) > 0 || r.k.Durable() || r.k.MaySend() {
			t.Errorf("%+v", res)
		}
		if _, ok := r.commit(); ok {
			t.Error("tried again at once")
		}
		r.k.Add(NewRecord([]string{"8"}))
		if res, ok := r.commit(); !ok || res.First || len(r.newest().Settled) != 1 || r.newest().State == nil {
			t.Errorf("with another record: %+v, %+v", res, r.newest())
		}
		r.err = nil
		time.Sleep(maxRetry)
		r.k.Due()
		res, _ = r.commit()
		if c := r.newest(); res.Err != nil || len(res.Held) != 1 || len(res.Items) > 0 || !reflect.DeepEqual(c.Settled, []outbox.Range{{Lo: 5, Hi: 6}}) || !r.k.MaySend() {
			t.Errorf("%+v, %+v", res, c)
		}
	})
}

// A message that leaves is removed in a commit that must be made, together with its outcome, and nothing is sent before.
// The numbers are those of the moment at which the commit begins. At the end of the client nothing is removed any more.
func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.last = 5
		r.k.Welcome(wire.Session{ID: "s"}, 1)
		r.commit()
		r.k.Leave("3")
		r.k.Leave("4")
		r.k.Add(NewRecord([]string{"6"}))
		r.leaving, r.err = []outbox.Range{{Lo: 3, Hi: 4}}, errors.New("full")
		if r.k.MaySend() {
			t.Error("messages may be sent before the outcomes are durable")
		}
		res, ok := r.commit()
		if c := r.newest(); !ok || c.Lazy || !reflect.DeepEqual(c.Removed, r.leaving) || c.Messages[0].Seq != 6 || len(res.Held) > 0 || r.k.MaySend() {
			t.Errorf("%+v, %+v", c, res)
		}
		r.err, r.hang, r.leaving = nil, make(chan struct{}), []outbox.Range{{Lo: 1, Hi: 1}, {Lo: 3, Hi: 4}}
		r.k.Leave("1")
		r.k.Due()
		r.begin()
		if r.k.MaySend() {
			t.Error("messages may be sent during the commit")
		}
		r.k.Leave("2")
		close(r.hang)
		synctest.Wait()
		res, _ = r.k.End()
		if c := r.newest(); !reflect.DeepEqual(c.Removed, r.leaving) || !reflect.DeepEqual(res.Held, []string{"3", "4", "1"}) || r.k.MaySend() {
			t.Errorf("%+v, %+v", c, res)
		}
		commits := len(r.changes)
		r.hang = nil
		r.k.Settle(1)
		unkept := r.k.Finish(r.view(), time.Second, func(res Result[string]) {
			if len(res.Held) > 0 {
				t.Errorf("at the end: %+v", res)
			}
		})
		if len(r.changes) != commits+1 || r.newest().Removed != nil || !reflect.DeepEqual(unkept, []string{"2"}) {
			t.Errorf("%v is not kept, the last change is %+v", unkept, r.newest())
		}
	})
}

// Numbers of an earlier session do not outlive it: what a commit in progress has of them is not tried again.
func TestRenumberDuringACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.last, r.err, r.hang = 9, errors.New("full"), make(chan struct{})
		r.k.Settle(8)
		r.k.Hold(9, "9", false)
		r.begin()
		r.k.Settle(7)
		r.k.Renumber()
		r.last = 7
		r.k.Welcome(wire.Session{ID: "s2"}, 1)
		close(r.hang)
		synctest.Wait()
		r.k.End()
		r.err, r.hang = nil, nil
		r.k.Add(NewRecord([]string{"8"}))
		res, _ := r.commit()
		if c := r.newest(); !c.Reset || len(c.Messages) != 8 || c.Messages[7].Seq != 8 || len(c.Settled) > 0 || c.Sent.Seq != 8 || c.State == nil || len(res.Held) != 1 {
			t.Errorf("%+v, %+v", c, res)
		}
		if r.k.Settle(1); r.k.reset {
			t.Error("the numbers are to be reset again")
		}
	})
}

// A connection may begin once the state is durable, with a number that was reserved.
func TestMayBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		if !r.k.MayBegin(numbersAhead - 1) {
			t.Error("the first numbers are not reserved")
		}
		for range 2 {
			if r.k.MayBegin(numbersAhead) {
				t.Error("a number that is not reserved")
			}
		}
		r.commit()
		if !r.k.MayBegin(numbersAhead) || !r.k.MayBegin(2*numbersAhead-1) || r.k.MayBegin(2*numbersAhead) {
			t.Error("after the commit")
		}
		r.commit()
		r.k.Welcome(wire.Session{}, 1)
		if r.k.MayBegin(1) {
			t.Error("a session that is not durable")
		}
	})
}

// The end waits for the commit in progress, and makes a last one; it does not wait for ever.
func TestFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, hangs := range []bool{false, true} {
			r := newRig(t)
			rec := NewRecord([]string{"1"})
			r.k.Add(rec)
			r.hang = make(chan struct{})
			r.begin()
			r.k.Hold(3, "3", false)
			waits := NewRecord([]string{"2"})
			r.k.Add(waits)
			if refused := r.k.RefuseWaiting(); len(refused) != 1 || refused[0] != waits {
				t.Errorf("refused: %v", refused)
			}
			if !hangs {
				close(r.hang)
			}
			var results []Result[string]
			began := time.Now()
			unkept := r.k.Finish(r.view(), 10*time.Second, func(res Result[string]) { results = append(results, res) })
			switch {
			case hangs && (time.Since(began) != 10*time.Second || len(unkept) != 1 || len(results) != 1 || !errors.Is(results[0].Err, outbox.ErrUncertain)):
				t.Errorf("hangs: %v, %v, %+v", time.Since(began), unkept, results)
			case !hangs && (len(unkept) > 0 || len(results) != 2 || len(results[1].Held) != 1 || len(r.newest().Settled) != 1):
				t.Errorf("%v, %+v", unkept, results)
			}
			if hangs {
				close(r.hang)
			}
		}
	})
}

// A State is read as it was written; anything else is an error.
func TestState(t *testing.T) {
	s := State{Dialect: "limpet.v1", Conn: 1 << 40, Session: wire.Session{ID: "sid", Key: []byte{0, 1, 255}, Epoch: 3}, Clock: time.Unix(1, 2)}
	b := s.encode()
	if got, err := decode(b); err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("%+v, %v", got, err)
	}
	for n := 1; n < len(b); n++ {
		if _, err := decode(b[:n]); !errors.Is(err, outbox.ErrCorrupt) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	if _, err := decode(append(b, 0)); !errors.Is(err, outbox.ErrCorrupt) {
		t.Errorf("one byte more: %v", err)
	}
	b[0]++
	if _, err := decode(b); !errors.Is(err, outbox.ErrFormat) {
		t.Errorf("a later version: %v", err)
	}
	if got, err := decode(nil); err != nil || !reflect.DeepEqual(got, State{}) {
		t.Errorf("nothing: %+v, %v", got, err)
	}
}
