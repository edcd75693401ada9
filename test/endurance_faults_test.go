package test

import (
	"context"
	"net/http"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

// seen is what the network and the client have noticed so far.
type seen struct {
	limpettest.Effects
	stats            limpet.Stats
	lost, failed     uint64
	slowed, goneAway int64
}

func (e *endurance) seen() seen {
	s := seen{Effects: e.srv.Network.Effects(), stats: e.c.Stats(), slowed: e.slowed.Load(), goneAway: e.goneAway.Load()}
	for _, n := range s.stats.Lost.All() {
		s.lost += n
	}
	for _, n := range s.stats.FailedAttempts.All() {
		s.failed += n
	}
	return s
}

// struckOf reports whether the network did it, and the client noticed: it lost a connection or
// an attempt.
func struckOf(k limpettest.Kind) func(a, b seen) bool {
	return func(a, b seen) bool {
		return b.ByKind[k] > a.ByKind[k] && b.lost+b.failed > a.lost+a.failed
	}
}

// failedOf reports whether the network did it, and an attempt failed.
func failedOf(k limpettest.Kind) func(a, b seen) bool {
	return func(a, b seen) bool { return b.ByKind[k] > a.ByKind[k] && b.failed > a.failed }
}

func held(a, b seen) bool {
	return b.ByKind[limpettest.KindStall] > a.ByKind[limpettest.KindStall]
}

func midFrame(a, b seen) bool {
	return b.MidFrame > a.MidFrame && b.lost+b.failed > a.lost+a.failed
}

func now(f limpettest.Fault) func(*endurance) {
	return func(e *endurance) { e.srv.Network.Strike(f) }
}

// next has a fault on the next dials.
func next(f func(e *endurance) limpettest.Fault) func(*endurance) {
	return func(e *endurance) {
		e.srv.Inject(f(e))
		e.srv.Network.CutAll()
	}
}

func (e *endurance) one(of ...int) int { return of[e.rnd.IntN(len(of))] }

func (e *endurance) millis(from, to int) time.Duration {
	return time.Duration(from+e.rnd.IntN(to-from)) * time.Millisecond
}

var (
	cutNow   = limpettest.CutAfterBytes(limpettest.Both, 0)
	resetNow = limpettest.ResetAfterBytes(limpettest.Both, 0)
)

// enduranceFault is a kind of fault. effect decides whether one has taken effect.
type enduranceFault struct {
	name   string
	strike func(e *endurance)
	effect func(before, after seen) bool
}

func enduranceFaults() []enduranceFault {
	return []enduranceFault{
		{"cut (FIN)", now(cutNow), struckOf(limpettest.KindCut)},
		{"reset (RST)", now(resetNow), struckOf(limpettest.KindReset)},
		{"cut in the middle of a frame", next(func(e *endurance) limpettest.Fault {
			return limpettest.CutAfterBytes(limpettest.Down, e.rnd.IntN(120)+3).Upgraded()
		}), midFrame},
		{"reset in the middle of a frame", next(func(e *endurance) limpettest.Fault {
			return limpettest.ResetAfterBytes(limpettest.Down, e.rnd.IntN(120)+3).Upgraded()
		}), midFrame},
		{"reset in the middle of what the client sends", next(func(e *endurance) limpettest.Fault {
			return limpettest.ResetAfterBytes(limpettest.Up, e.rnd.IntN(120)+3).Upgraded()
		}), struckOf(limpettest.KindReset)},
		{"cut after some frames", next(func(e *endurance) limpettest.Fault {
			return limpettest.CutAfterFrames(limpettest.Down, e.rnd.IntN(4))
		}), struckOf(limpettest.KindCut)},
		{"half-open", now(limpettest.BlackHole(limpettest.Both)), struckOf(limpettest.KindBlackHole)},
		{"half-open, what the client sends", now(limpettest.BlackHole(limpettest.Up)), struckOf(limpettest.KindBlackHole)},
		{"half-open, what the server sends", now(limpettest.BlackHole(limpettest.Down)), struckOf(limpettest.KindBlackHole)},
		{"stall", func(e *endurance) {
			e.srv.Network.Strike(limpettest.Stall(e.millis(200, 2000)).AfterBytes(limpettest.Both, 0))
		}, held},
		{"slow dial", next(func(e *endurance) limpettest.Fault { return limpettest.Stall(e.millis(500, 3000)) }), held},
		{"slow welcome", func(e *endurance) {
			e.slow.Store(true)
			e.srv.Network.ResetAll()
		}, func(a, b seen) bool { return b.slowed > a.slowed && b.stats.Connections > a.stats.Connections }},
		{"dials refused", next(func(e *endurance) limpettest.Fault { return limpettest.Refuse(1 + e.rnd.IntN(3)) }), failedOf(limpettest.KindRefuse)},
		{"status 4xx", next(func(e *endurance) limpettest.Fault {
			return limpettest.RefuseUpgrade(e.one(403, 404, 408, 421, 425, 429), nil)
		}), failedOf(limpettest.KindRefuseUpgrade)},
		{"status 5xx", next(func(e *endurance) limpettest.Fault {
			return limpettest.RefuseUpgrade(e.one(500, 502, 503, 504), nil)
		}), failedOf(limpettest.KindRefuseUpgrade)},
		{"status 503 with Retry-After", next(func(e *endurance) limpettest.Fault {
			return limpettest.RefuseUpgrade(503, http.Header{"Retry-After": {"1"}})
		}), failedOf(limpettest.KindRefuseUpgrade)},
		{"close frame", func(e *endurance) {
			e.srv.Network.Strike(limpettest.CloseWith(uint16(e.one(1001, 1011, 1012, 1013, 4200, 4202, 4205)), "", 0))
		}, struckOf(limpettest.KindCloseWith)},
		{"network restart", func(e *endurance) { e.srv.Restart() }, struckOf(limpettest.KindReset)},
		{"server crash", func(e *endurance) { e.srv.Reboot(nil) }, func(a, b seen) bool {
			return struckOf(limpettest.KindReset)(a, b) && b.stats.Connections-b.stats.Resumes > a.stats.Connections-a.stats.Resumes
		}},
		{"outage", func(e *endurance) {
			e.srv.Stop()
			time.Sleep(e.millis(500, 3000))
			e.srv.Start()
		}, func(a, b seen) bool { return b.lost > a.lost && b.failed > a.failed }},
		{"goaway and restart", func(e *endurance) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			e.srv.Server.Shutdown(ctx)
			e.srv.Reboot(nil)
		}, func(a, b seen) bool { return b.goneAway > a.goneAway }},
	}
}
