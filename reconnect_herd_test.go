package limpet

import (
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
	policy
	spread time.Duration
}

func newOurs(h *herd, _ *time.Duration) herdClient {
	window := time.Duration(h.n-1) * time.Second / time.Duration(h.rate) // as the reference server tells it
	return &ours{newTestPolicy(), min(window, maxSpread)}
}

func (o *ours) again(_ time.Duration, why *wire.Failure) time.Duration {
	if why.Err == context.DeadlineExceeded {
		o.extendDialTimeout()
	}
	d := verdict.Decide(why, func(wire.Failure) (wire.Verdict, error) { return wire.Verdict{}, nil })
	return max(o.nextDelay(d, o.spread), d.After)
}

func (o *ours) patience() time.Duration { return o.dialTimeout }

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
	back  float64 // share of the clients
	peak  float64 // attempts in the worst second, in handshakes that the server can make in it
	tries float64 // attempts of a client
}

var (
	errHerdLost    = &wire.Failure{Stage: wire.StageOpen, Err: io.EOF}
	errHerdRefused = &wire.Failure{Stage: wire.StageDial, Err: syscall.ECONNREFUSED}
	errHerdLate    = &wire.Failure{Stage: wire.StageDial, Err: context.DeadlineExceeded}
)

func (h *herd) run(client func(*herd, *time.Duration) herdClient) herdResult {
	var now, busyUntil, slot, last time.Duration
	handshake := time.Second / time.Duration(h.rate)
	optimum := h.down + time.Duration(h.n)*handshake + herdRTT
	horizon := herdHorizon * optimum
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
		why, told := (*wire.Failure)(nil), began+herdRTT
		busyUntil = max(busyUntil, began)
		switch {
		case began < h.down:
			why = errHerdRefused
		case busyUntil-began > h.queue:
			busyUntil += time.Duration(h.shed * float64(handshake))
			slot = min(max(slot+handshake*4/3, began+500*time.Millisecond), began+maxSpread) // as the reference server gives them
			ms := strconv.FormatInt((slot - began).Milliseconds(), 10)
			why = &wire.Failure{Stage: wire.StageUpgrade, Status: 503, Header: http.Header{"X-Limpet-Retry-Ms": {ms}}}
		default:
			busyUntil += handshake // also if the client has gone by then
			if told = busyUntil + herdRTT; told-began > a.c.patience() {
				why, told = errHerdLate, began+a.c.patience()
			}
		}
		if why == nil {
			back++
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
		peak: float64(peak) / float64(h.rate), tries: float64(tries) / float64(h.n),
	}
	if back == h.n {
		r.all = float64(last) / float64(optimum)
	}
	return r
}

// Every client of a small herd and of a large one is back soon after it could
// be, and the server is never asked for much more than it can do. Chance is not
// seeded: the results of many runs differ by less than the room in the bounds.
func TestHerd(t *testing.T) {
	for _, of := range []struct {
		n   int
		all float64
	}{{1_000, 1.5}, {10_000, 1.15}} {
		for _, down := range []time.Duration{0, 5 * time.Second, time.Minute} {
			h := herd{n: of.n, rate: 1_000, down: down, queue: time.Second, shed: 0.1}
			r := h.run(newOurs)
			t.Logf("%d clients, down for %v: %+v", of.n, down, r)
			if r.back < 1 || r.all > of.all || r.peak > 3 {
				t.Errorf("%d clients, down for %v: %+v, want all back by %v and a peak of 3 at most", of.n, down, r, of.all)
			}
		}
	}
}

// A server that makes clients wait for longer than their patience serves only
// clients that have left, for ever, unless they spread and learn to wait.
func TestHerdMetastable(t *testing.T) {
	h := herd{n: 10_000, rate: 100, down: 5 * time.Second, queue: 30 * time.Second}
	if r := h.run(newOurs); r.back < 1 || r.all > 1.15 || r.peak > 3 {
		t.Errorf("%+v", r)
	}
	if r := h.run(newLibrary); r.back > 0.5 {
		t.Errorf("the defaults of the library recover too, %+v: this is not the case it is meant to be", r)
	}
}

func BenchmarkHerd(b *testing.B) {
	var herds []herd
	for _, n := range []int{10_000, 100_000} {
		for _, down := range []int{0, 5, 60} {
			herds = append(herds, herd{
				fmt.Sprintf("%d,000 clients, down %d s", n/1000, down),
				n, 1_000, time.Duration(down) * time.Second, time.Second, 0.1,
			})
		}
	}
	herds = append(herds, herd{"100,000 clients, long queue", 100_000, 1_000, 5 * time.Second, 30 * time.Second, 0})
	for _, h := range herds {
		for name, client := range map[string]func(*herd, *time.Duration) herdClient{
			"limpet": newOurs, "backoff v4 defaults": newLibrary,
		} {
			b.Run(h.name+"/"+name, func(b *testing.B) {
				var r herdResult
				for b.Loop() {
					r = h.run(client)
				}
				b.ReportMetric(r.all, "all/opt")
				b.ReportMetric(r.peak, "peak/R")
				b.ReportMetric(r.tries, "tries")
				b.ReportMetric(r.back, "back")
			})
		}
	}
}
