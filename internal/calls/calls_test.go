package calls

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

var now = time.Unix(1000, 0)

func newCall(again bool) *Call { return New(wire.Message{Topic: "a"}, time.Time{}, again) }

// fate returns how c has ended; 0: it has not.
func (c *Call) fate() Fate {
	select {
	case r := <-c.result:
		return r.Fate
	default:
		return 0
	}
}

// Every end that a call can have, by what happened before it.
func TestFates(t *testing.T) {
	answer := func(n uint64, code uint16) func(*Table, *Call) {
		return func(t *Table, _ *Call) { t.Answer(&wire.Event{Kind: wire.EventReply, N: n, Code: code}, now) }
	}
	send := func(t *Table, _ *Call) { t.Next(nil, now, 1, 1) }
	lost := func(t *Table, _ *Call) { t.Lost() }
	refuse := func(t *Table, _ *Call) { t.Refuse() }
	end := func(t *Table, _ *Call) { t.End(errors.New("end")) }
	reject := func(t *Table, _ *Call) { t.Reject(1, errors.New("no")) }
	rejectSecond := func(t *Table, _ *Call) { t.Reject(2, errors.New("no")) }
	for _, tc := range []struct {
		name  string
		again bool
		steps []func(*Table, *Call)
		want  Fate
		left  int // calls in the table
	}{
		{"nothing", false, nil, 0, 1},
		{"sent", false, []func(*Table, *Call){send}, 0, 1},
		{"answered", false, []func(*Table, *Call){send, answer(1, 0)}, Replied, 0},
		{"refused", false, []func(*Table, *Call){send, answer(1, 2)}, Refused, 0},
		{"the answer to another", false, []func(*Table, *Call){send, answer(2, 0)}, 0, 1},
		{"an answer to what was not sent", false, []func(*Table, *Call){answer(0, 0), answer(1, 0)}, 0, 1},
		{"not encodable", false, []func(*Table, *Call){send, reject}, Unencodable, 0},
		{"lost before it was sent", false, []func(*Table, *Call){lost}, 0, 1},
		{"lost", false, []func(*Table, *Call){send, lost}, Unknown, 0},
		{"lost, again", true, []func(*Table, *Call){send, lost}, 0, 1},
		{"lost, again, the answer to the first", true, []func(*Table, *Call){send, lost, send, answer(1, 0)}, 0, 1},
		{"lost, again, answered", true, []func(*Table, *Call){send, lost, send, answer(2, 0)}, Replied, 0},
		{"lost, again, refused", true, []func(*Table, *Call){send, lost, send, answer(2, 2)}, Unknown, 0},
		{"lost, again, not encodable", true, []func(*Table, *Call){send, lost, send, rejectSecond}, Unknown, 0},
		{"lost, again, not supported", true, []func(*Table, *Call){send, lost, refuse}, Unknown, 0},
		{"lost, again, the end", true, []func(*Table, *Call){send, lost, end}, Unknown, 0},
		{"not supported", false, []func(*Table, *Call){refuse}, Unsupported, 0},
		{"the end before it was sent", false, []func(*Table, *Call){end}, Unsent, 0},
		{"the end", false, []func(*Table, *Call){send, end}, Unknown, 0},
	} {
		var table Table
		c := newCall(tc.again)
		table.Add(c)
		for _, step := range tc.steps {
			step(&table, c)
		}
		if table.Len() != tc.left {
			t.Errorf("%s: %d in the table", tc.name, table.Len())
		}
		if got := c.fate(); got != tc.want {
			t.Errorf("%s: fate %d, want %d", tc.name, got, tc.want)
		}
		if tc.want != 0 {
			continue
		}
		sent := len(tc.steps) > 0 && table.last > 0
		ctx, cancel := context.WithCancel(context.Background())
		r := c.Wait(ctx, cancel, func() { table.Left(c) })
		if want := map[bool]Fate{true: Unknown, false: Unsent}[sent]; r.Fate != want || !errors.Is(r.Err, context.Canceled) {
			t.Errorf("%s: %d after its caller has left, want %d", tc.name, r.Fate, want)
		}
		if ops := table.Next(nil, now, 9, 9); len(ops) > 0 || table.Len() > 0 {
			t.Errorf("%s: it is sent although its caller has left", tc.name)
		}
	}
}

// A caller that leaves before the loop knows is not served any more, and one whose time is over neither.
func TestNextLeavesOut(t *testing.T) {
	var table Table
	left, late, next := newCall(false), New(wire.Message{}, now, false), New(wire.Message{}, now.Add(time.Second), false)
	for _, c := range []*Call{left, late, next} {
		table.Add(c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	left.Wait(ctx, cancel, func() {})
	never := newCall(false)
	if r := never.Wait(ctx, func() { t.Error("a call after the end of its context") }, func() {}); r.Fate != Unsent {
		t.Errorf("after the end of its context: %d", r.Fate)
	}
	ops := table.Next(nil, now, 9, 9)
	if len(ops) != 1 || ops[0].N != 1 || ops[0].Cmd != 4 || ops[0].Message.TTL != time.Second || late.fate() != Unsent || table.Len() != 1 {
		t.Errorf("%+v, %d", ops, table.Len())
	}
}

// What is sent at once has bounds: of frames, of bytes, and of calls without a reply.
func TestBounds(t *testing.T) {
	var table Table
	for range 2 * MaxOpen {
		table.Add(New(wire.Message{Payload: make([]byte, 10)}, time.Time{}, false))
	}
	for i, step := range []struct{ room, bytes, want int }{{3, 1000, 3}, {0, 1000, 0}, {100, 0, 0}, {100, 1, 1}, {100, 11, 2}, {1000, 1 << 20, MaxOpen - 6}, {1000, 1000, 0}} {
		if n := len(table.Next(nil, now, step.room, step.bytes)); n != step.want {
			t.Errorf("step %d: %d", i, n)
		}
	}
	table.Answer(&wire.Event{N: 5}, now)
	if ops := table.Next(nil, now, 9, 9); len(ops) != 1 || ops[0].N != MaxOpen+1 {
		t.Errorf("%+v", ops)
	}
}

// Calls whose callers leave while they wait cost a constant number of steps each, and no memory: the queue is searched
// only when half of it has gone. The others keep their order.
func TestManyLeave(t *testing.T) {
	const n = 20_000
	var table Table
	all := make([]*Call, n)
	for i := range all {
		all[i] = newCall(false)
		table.Add(all[i])
	}
	searched, length := 0, n
	for i, c := range all {
		if i%1000 == 7 {
			continue
		}
		if table.Left(c); len(table.queue) != length {
			searched += length
			length = len(table.queue)
		}
		if want := n - i - 1 + (i+992)/1000; table.Len() != want || length > 2*want {
			t.Fatalf("after %d: %d of %d wait, want %d", i, table.Len(), length, want)
		}
	}
	if searched > 2*n {
		t.Errorf("%d calls were looked at for %d that have left", searched, n)
	}
	if table.Left(all[0]); table.Len() != n/1000 {
		t.Errorf("one has left twice: %d wait", table.Len())
	}
	ops := table.Next(nil, now, n, n)
	for i, op := range ops {
		if op.Message != &all[1000*i+7].message {
			t.Fatalf("number %d is not the next one", i)
		}
	}
	if len(ops) != n/1000 || table.Sendable() || table.queue != nil {
		t.Errorf("%d sent, %d in the queue", len(ops), len(table.queue))
	}
}

// After any steps each call has at most one result, its own, and what is sent again keeps its order.
func TestRandomSteps(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		var table Table
		var all []*Call
		sent := map[uint64]string{} // topics by number
		for range 200 {
			switch random.IntN(8) {
			case 0, 1:
				c := New(wire.Message{Topic: fmt.Sprint(len(all))}, time.Time{}, random.IntN(2) == 0)
				all = append(all, c)
				table.Add(c)
			case 2, 3:
				for _, op := range table.Next(nil, now, random.IntN(5), 100) {
					if sent[op.N] != "" {
						t.Fatalf("seed %d: number %d twice", seed, op.N)
					}
					sent[op.N] = op.Topic
				}
			case 4, 5:
				n := uint64(random.IntN(len(sent) + 2))
				if c := table.Answer(&wire.Event{N: n, Reason: sent[n]}, now); c != nil && c.Topic() != sent[n] {
					t.Fatalf("seed %d: the reply to %s for %s", seed, sent[n], c.Topic())
				}
			case 7:
				if len(all) > 0 {
					c := all[random.IntN(len(all))]
					c.state.Store(left)
					table.Left(c)
				}
			case 6:
				table.Lost()
				var order []string
				for _, c := range table.queue {
					if !c.queued {
						continue
					}
					order = append(order, fmt.Sprintf("%04s", c.Topic()))
				}
				if s := strings.Join(order, " "); s != sorted(order) {
					t.Fatalf("seed %d: the order is %s", seed, s)
				}
			}
		}
		queued := 0
		for _, c := range table.queue {
			if c.queued {
				queued++
			}
		}
		if table.Len() != queued+len(table.open) || table.gone != len(table.queue)-queued {
			t.Fatalf("seed %d: %d wait, want %d and %d", seed, table.Len(), queued, len(table.open))
		}
		table.End(nil)
		for _, c := range all {
			first, second := c.fate(), c.fate()
			if second != 0 || first == 0 && c.state.Load() != left {
				t.Fatalf("seed %d: call %s has no result, or two", seed, c.Topic())
			}
		}
	}
}

func sorted(s []string) string {
	s = append([]string(nil), s...)
	for i := range s {
		for j := range i {
			if s[i] < s[j] {
				s[i], s[j] = s[j], s[i]
			}
		}
	}
	return strings.Join(s, " ")
}

// BenchmarkLeft has calls that wait for a connection and leave, as when ctx of all of them ends.
func BenchmarkLeft(b *testing.B) {
	for _, n := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for range b.N {
				var table Table
				all := make([]*Call, n)
				for i := range all {
					all[i] = newCall(false)
					table.Add(all[i])
				}
				for _, i := range rand.Perm(n) {
					table.Left(all[i])
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/call")
		})
	}
}
