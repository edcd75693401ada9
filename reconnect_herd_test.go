package limpet

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/limpet-go/limpet/internal/headers"
	"github.com/limpet-go/limpet/internal/policy"
	"github.com/limpet-go/limpet/internal/verdict"
	"github.com/limpet-go/limpet/wire"
)

// What a herd does to a server that comes back, in virtual time: the policy and
// the verdicts are the real ones, the network and the server are a model
// (docs/reconnect.md, section 1).

// herd is a server and the clients that lose it at the same moment.
type herd struct {
	name  string
	n     int           // clients
	rate  int           // handshakes a second
	down  time.Duration // how long connections are refused
	queue time.Duration // the work that may wait; beyond it the answer is 503
	shed  float64       // what a 503 costs, in handshakes

	slower  float64 // by how much a full queue delays a handshake: 0.25 is a quarter
	silent  bool    // it hangs while it is down: no answer instead of a refusal, until all connections break
	told    float64 // the rate that its window and its slots are for, as a share of rate; 0: all of it
	inOrder bool    // each client has the window for those that were there when it came
	foreign bool    // it announces no window and gives no slots
}

const (
	herdRTT      = 50 * time.Millisecond
	herdPatience = 10 * time.Second // the dial timeout
	herdHorizon  = 10               // times the optimum: what is not back then never comes
)

// herdClient decides when a client comes again. It gets the reason and the
// time; a negative wait means never.
type herdClient interface {
	again(now time.Duration, why *wire.Failure) time.Duration
	patience() time.Duration
}

// ours is what the loop does between connections.
type ours struct {
	policy.Policy
	spread time.Duration
}

func newOurs(h *herd, _ *time.Duration) herdClient {
	if h.foreign {
		return &ours{Policy: newTestPolicy()}
	}
	window := time.Duration(h.n-1) * h.toldStep() // as the reference server tells it
	if h.inOrder {
		window = policy.Uniform(window)
	}
	return &ours{newTestPolicy(), min(window, policy.MaxSpread)}
}

func (o *ours) again(now time.Duration, why *wire.Failure) time.Duration {
	if why.Err == context.DeadlineExceeded {
		o.ExtendDialTimeout()
	}
	d := verdict.Decide(why, func(wire.Failure) (wire.Verdict, error) { return wire.Verdict{}, nil })
	return max(o.NextDelay(d, o.spread, time.Unix(0, 0).Add(now)), d.After)
}

func (o *ours) patience() time.Duration { return o.DialTimeout }

// library is backoff/v4 as it comes, and a client that reads no Retry-After.
type library struct{ *backoff.ExponentialBackOff }

type herdClock struct{ now *time.Duration }

func (c herdClock) Now() time.Time { return time.Time{}.Add(*c.now) }

func newLibrary(_ *herd, now *time.Duration) herdClient {
	return library{backoff.NewExponentialBackOff(backoff.WithClockProvider(herdClock{now}))}
}

func (l library) again(time.Duration, *wire.Failure) time.Duration { return l.NextBackOff() }
func (l library) patience() time.Duration                          { return herdPatience }

type attempts []struct {
	at time.Duration
	c  herdClient
}

func (a attempts) Len() int           { return len(a) }
func (a attempts) Less(i, j int) bool { return a[i].at < a[j].at }
func (a attempts) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *attempts) Push(any)          { panic("a client makes one attempt at a time") }
func (a *attempts) Pop() any {
	last := len(*a) - 1
	*a = (*a)[:last]
	return nil
}

// herdResult is how it went; the times are shares of the least possible.
type herdResult struct {
	all   float64 // until the last client was back; herdHorizon if it was not
	half  float64 // until half of them were
	back  float64 // share of the clients
	peak  float64 // attempts in the worst second, in handshakes that the server can make in it
	tries float64 // attempts of a client
}

var (
	errHerdLost    = &wire.Failure{Stage: wire.StageOpen, Err: io.EOF}
	errHerdRefused = &wire.Failure{Stage: wire.StageDial, Err: syscall.ECONNREFUSED}
	errHerdBroken  = &wire.Failure{Stage: wire.StageDial, Err: io.EOF}
	errHerdLate    = &wire.Failure{Stage: wire.StageDial, Err: context.DeadlineExceeded}
)

func (h *herd) run(client func(*herd, *time.Duration) herdClient) herdResult {
	var now, half, last time.Duration
	var at herdServer
	optimum := h.down + time.Duration(h.n)*h.handshake() + herdRTT
	horizon := herdHorizon * max(optimum, time.Duration(h.n)*h.toldStep())
	waiting := make(attempts, h.n)
	for i := range waiting {
		c := client(h, &now)
		waiting[i].c, waiting[i].at = c, c.again(0, errHerdLost)
	}
	heap.Init(&waiting)
	tries, back, peak := 0, 0, 0
	var recent []time.Duration // attempts of the last second
	for len(waiting) > 0 {
		a := &waiting[0]
		began := a.at
		if began >= horizon {
			break
		}
		tries++
		for recent = append(recent, began); began-recent[0] >= time.Second; {
			recent = recent[1:]
		}
		peak = max(peak, len(recent))
		why, told := at.answer(h, began, a.c.patience())
		if why == nil {
			if back++; back == h.n/2 {
				half = told
			}
			last = max(last, told)
			heap.Pop(&waiting)
			continue
		}
		now = told
		wait := a.c.again(told, why)
		if wait < 0 {
			heap.Pop(&waiting)
			continue
		}
		a.at = max(told+wait, began+minBetweenAttempts)
		heap.Fix(&waiting, 0)
	}
	r := herdResult{
		all: herdHorizon, back: float64(back) / float64(h.n),
		half: float64(half) / float64(optimum), peak: float64(peak) / float64(h.rate), tries: float64(tries) / float64(h.n),
	}
	if back == h.n {
		r.all = float64(last) / float64(optimum)
	}
	return r
}

func (h *herd) handshake() time.Duration { return time.Second / time.Duration(h.rate) }

// toldStep is what a handshake takes at the rate that the server tells.
func (h *herd) toldStep() time.Duration {
	return time.Duration(float64(h.handshake()) / cmp.Or(h.told, 1))
}

// herdServer is what the server of a herd remembers.
type herdServer struct {
	busyUntil time.Duration
	slot      time.Duration // the last one it gave
}

// answer returns how an attempt ends, nil for a connection, and when the client knows it.
func (s *herdServer) answer(h *herd, began, patience time.Duration) (why *wire.Failure, told time.Duration) {
	handshake := h.handshake()
	s.busyUntil = max(s.busyUntil, began)
	waits := s.busyUntil - began
	switch {
	case began < h.down && h.silent && began+patience > h.down:
		return errHerdBroken, h.down
	case began < h.down && h.silent:
		return errHerdLate, began + patience
	case began < h.down:
		return errHerdRefused, began + herdRTT
	case waits > h.queue:
		s.busyUntil += time.Duration(h.shed * float64(handshake))
		why = &wire.Failure{Stage: wire.StageUpgrade, Status: 503}
		if !h.foreign {
			s.slot = min(max(s.slot+h.toldStep()*4/3, began+500*time.Millisecond), began+policy.MaxSpread) // as the reference server gives them
			why.Header = http.Header{headers.RetryMilliseconds: {strconv.FormatInt((s.slot - began).Milliseconds(), 10)}}
		}
		return why, began + herdRTT
	}
	s.busyUntil += handshake + time.Duration(h.slower*float64(handshake)*float64(waits)/float64(h.queue)) // also if the client has gone by then
	if told = s.busyUntil + herdRTT; told-began > patience {
		return errHerdLate, began + patience
	}
	return nil, told
}

// herdOf is a herd of n whose server makes 1,000 handshakes a second and answers 503 when a
// second of work waits.
func herdOf(n int, down time.Duration) herd {
	return herd{n: n, rate: 1_000, down: down, queue: time.Second, shed: 0.1}
}

// Every client of a small herd and of a large one is back soon after it could be, and the
// server is never asked for more than 1.7 times what it can do, however long it was
// down. Chance is not seeded: the results of many runs differ by less than the room in the
// bounds.
func TestHerd(t *testing.T) {
	for _, of := range []struct {
		n    int
		down []int // s
		all  float64
	}{
		{100, []int{20}, 1.45},
		{1_000, []int{0, 5, 8, 13, 20, 30, 60}, 1.35},
		{10_000, []int{0, 5, 8, 20, 60, 90}, 1.1},
		{100_000, []int{60}, 1.1},
	} {
		for _, down := range of.down {
			h := herdOf(of.n, time.Duration(down)*time.Second)
			r := h.run(newOurs)
			t.Logf("%d clients, down for %d s: %+v", of.n, down, r)
			if r.back < 1 || r.all > of.all || r.peak > 1.7 {
				t.Errorf("%d clients, down for %d s: %+v, want all back by %v and a peak of 1.7 at most", of.n, down, r, of.all)
			}
		}
	}
}

// The attempts that a server holds when it hangs fail together. The herd comes back spread all
// the same, since a place does not depend on how long the attempt took.
func TestHerdWithoutAnswer(t *testing.T) {
	h := herdOf(50_000, 45*time.Second)
	h.silent = true
	if r := h.run(newOurs); r.back < 1 || r.all > 1.1 || r.peak > 2 {
		t.Errorf("%+v", r)
	}
}

// A server that makes clients wait for longer than their patience serves only
// clients that have left, for ever, unless they spread and learn to wait.
func TestHerdMetastable(t *testing.T) {
	h := herd{n: 10_000, rate: 100, down: 5 * time.Second, queue: 30 * time.Second}
	if r := h.run(newOurs); r.back < 1 || r.all > 1.1 || r.peak > 2 {
		t.Errorf("%+v", r)
	}
	if r := h.run(newLibrary); r.back > 0.5 {
		t.Errorf("the defaults of the library recover too, %+v: this is not the case it is meant to be", r)
	}
}

// A server that overload makes slower is slow until all are back, but not for ever. One that
// tells a rate below what it can do is not overloaded.
func TestHerdSlowsItsServer(t *testing.T) {
	h := herdOf(20_000, 5*time.Second)
	h.slower = 0.5
	if r := h.run(newOurs); r.back < 1 || r.all > 1.7 || r.peak > 2 {
		t.Errorf("%+v", r)
	}
	h.told = 0.9
	if r := h.run(newOurs); r.back < 1 || r.all > 1.2 || r.peak > 1.5 {
		t.Errorf("told nine tenths of the rate: %+v", r)
	}
}

// The clients of a node that dies come to the 49 that are left. They have its window: where the
// nodes share out what the engine can take, it is long, and there is no storm. Where each node
// announces all of it, they are back about as soon as the engine can take them.
func TestHerdOfADeadNode(t *testing.T) {
	h := herd{n: 20_000, rate: 4_900, queue: time.Second, shed: 0.1}
	r := h.run(newOurs)
	t.Logf("each node announces the rate of all: %+v", r)
	if r.back < 1 || r.all > 1.1 || r.peak > 1.3 {
		t.Errorf("%+v", r)
	}
	h.told = 100.0 / 4_900
	r = h.run(newOurs)
	t.Logf("each node announces its share: %+v", r)
	if window := 20_000.0 / 100 / 4.13; r.back < 1 || r.all > 1.05*window || r.half > 0.6*window || r.peak > 0.05 {
		t.Errorf("%+v", r)
	}
}

// A server of another protocol tells neither window nor slots. The herd is a burden for it, about
// the same as with the library's defaults, and is back sooner.
func TestHerdOfAForeignServer(t *testing.T) {
	h := herdOf(10_000, 5*time.Second)
	h.foreign = true
	r, other := h.run(newOurs), h.run(newLibrary)
	if r.back < 1 || r.all > other.all || r.peak > 1.5*other.peak {
		t.Errorf("%+v, and with the defaults of the library %+v", r, other)
	}
}

func BenchmarkHerd(b *testing.B) {
	var herds []herd
	for _, n := range []int{1_000, 10_000, 100_000} {
		for _, down := range []int{0, 5, 20, 60} {
			h := herdOf(n, time.Duration(down)*time.Second)
			h.name = fmt.Sprintf("%d,000 clients, down %d s", n/1000, down)
			herds = append(herds, h)
		}
	}
	million := herdOf(1_000_000, time.Minute)
	million.name, million.rate = "1,000,000 clients, down 60 s", 10_000
	silent := herdOf(100_000, time.Minute)
	silent.name, silent.silent = "100,000 clients, no answer for 60 s", true
	long := herd{name: "100,000 clients, long queue", n: 100_000, rate: 1_000, down: 5 * time.Second, queue: 30 * time.Second}
	slower := herdOf(100_000, 5*time.Second)
	slower.name, slower.slower = "100,000 clients, slower when busy", 0.25
	careful := slower
	careful.name, careful.told = "100,000 clients, slower when busy, 0.9 told", 0.9
	inOrder := herdOf(100_000, 5*time.Second)
	inOrder.name, inOrder.inOrder = "100,000 clients, windows in order", true
	foreign := herdOf(10_000, 5*time.Second)
	foreign.name, foreign.foreign = "10,000 clients, no window and no slots", true
	for _, h := range append(herds, million, silent, long, slower, careful, inOrder, foreign) {
		for _, c := range []struct {
			name       string
			herdClient func(*herd, *time.Duration) herdClient
		}{{"limpet", newOurs}, {"backoff v4 defaults", newLibrary}} {
			b.Run(h.name+"/"+c.name, func(b *testing.B) {
				var r herdResult
				for b.Loop() {
					r = h.run(c.herdClient)
				}
				b.ReportMetric(r.all, "all/opt")
				b.ReportMetric(r.peak, "peak/R")
				b.ReportMetric(r.tries, "tries")
				b.ReportMetric(r.back, "back")
			})
		}
	}
}

func newTestPolicy() policy.Policy {
	return policy.New(policy.Backoff{First: 500 * time.Millisecond, Initial: 500 * time.Millisecond, Max: 15 * time.Second, Multiplier: 1.5}, 10*time.Second)
}
