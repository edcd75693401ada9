package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/limpet-go/limpet"
)

// run is a kind of run.
type run struct {
	name    string
	engines []string
	proxies []string
	lossy   bool // the engine loses messages that were acknowledged, and a replica is needed
	unknown bool // outcomes may be unknown
	linked  bool // gateways can be cut off from the engine
	short   bool // a part of -short
	faults  func(ctx context.Context, s *scene) error
}

var (
	bothEngines = []string{"redis", "jetstream"}
	bothProxies = []string{"haproxy", "nginx"}
)

var runs = []run{
	{name: "nodes", engines: bothEngines, proxies: bothProxies, short: true, faults: killNodes},
	{name: "zombies", engines: bothEngines, proxies: bothProxies[:1], short: true, faults: stopNodes},
	{name: "cut", engines: bothEngines, proxies: bothProxies, linked: true, short: true, faults: cutOff},
	{name: "leader", engines: bothEngines[1:], proxies: bothProxies[:1], faults: killLeaders},
	{name: "deploy", engines: bothEngines, proxies: bothProxies, short: true, faults: deploy},
	{name: "purge", engines: bothEngines, proxies: bothProxies[:1], faults: purge},
	{name: "rewind", engines: bothEngines, proxies: bothProxies[:1], lossy: true, unknown: true, faults: rewind},
}

// scene is a run in progress.
type scene struct {
	engine  engine
	fleet   *fleet
	load    *load
	random  *rand.Rand
	short   bool
	counts  []count
	settled time.Duration
}

// scale is how much a run does.
type scale struct{ publishers, subscribers int }

func scaleOf(short bool) scale {
	if short {
		return scale{30, 2}
	}
	return scale{60, 4}
}

// runTimeout bounds a run.
const runTimeout = 5 * time.Minute

// make makes the run with an engine and a proxy.
func (r *run) make(ctx context.Context, at *places, engine, proxy string, short bool, seed uint64, sabotage string) (res *result) {
	began := time.Now()
	res = &result{run: r.name, engine: engine, proxy: proxy}
	defer func() { res.took = time.Since(began) }()
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	dir := filepath.Join(at.dir, r.name+"-"+engine+"-"+proxy)
	if res.err = os.Mkdir(dir, 0o700); res.err != nil {
		return res
	}
	s := &scene{short: short, random: rand.New(rand.NewPCG(seed, 0))}
	if s.engine, res.err = startEngine(ctx, at, dir, engine, r.lossy); res.err != nil {
		return res
	}
	defer s.engine.close()
	epoch := ""
	if epoch, res.err = epochOf(ctx, s.engine); res.err != nil {
		return res
	}
	if s.fleet, res.err = startFleet(ctx, at, dir, proxy, s.engine, r.linked); res.err != nil {
		return res
	}
	defer s.fleet.close()
	n := scaleOf(short)
	s.load, res.err = startLoad(ctx, s.fleet.url, epoch, n.publishers, n.subscribers, seed, sabotage)
	defer s.load.end()
	if res.err != nil {
		return res
	}
	s.load.settle()
	s.settled = 0 // that was the start
	if res.err = r.faults(ctx, s); res.err != nil {
		return res
	}
	s.load.finish()
	return r.judge(ctx, s, res)
}

// judge fills the result of a run that has ended.
func (r *run) judge(ctx context.Context, s *scene, res *result) *result {
	reader, err := s.engine.open(ctx)
	if err != nil {
		res.err = err
		return res
	}
	defer reader.Close()
	if res.verdict, res.err = s.load.judge(ctx, reader, r.lossy); res.err != nil {
		return res
	}
	res.counts, res.outcomes, res.recovered, res.settled = s.counts, s.load.outcomes, s.load.recovered(), s.settled
	res.worst, res.p99, res.resumed = s.load.quantile(&s.load.waits, 1), s.load.quantile(&s.load.waits, 0.99), s.load.quantile(&s.load.resumed, 0.99)
	for _, sub := range s.load.subs {
		res.delivered += sub.delivered.Load()
	}
	if r.lossy {
		res.counts = append(res.counts, count{"acknowledged messages lost", res.verdict.lost, 1})
	}
	for outcome, n := range res.outcomes {
		if outcome != limpet.Acked && (outcome != limpet.Unknown || !r.unknown) {
			res.verdict.wrong = append(res.verdict.wrong, fmt.Sprintf("%d messages ended as %v", n, outcome))
		}
	}
	return res
}

func startEngine(ctx context.Context, at *places, dir, name string, withReplica bool) (engine, error) {
	if name == "redis" {
		return startRedis(ctx, dir, withReplica)
	}
	return startNATS(ctx, at, dir)
}

// epochOf returns the epoch of the log, which it makes.
func epochOf(ctx context.Context, e engine) (string, error) {
	s, err := e.open(ctx)
	if err != nil {
		return "", err
	}
	return s.View().Epoch, s.Close()
}

// settle waits until everything moves after a fault.
func (s *scene) settle() { s.settled = max(s.settled, s.load.settle()) }

// times returns how many faults a run makes.
func (s *scene) times(full, short int) int {
	if s.short {
		return short
	}
	return full
}

// counted notes how often something has happened, and how often it must.
func (s *scene) counted(what string, n, least int) {
	s.counts = append(s.counts, count{what, n, least})
}

// killNodes kills gateways and starts them again.
func killNodes(ctx context.Context, s *scene) error {
	kills, cut := s.times(5, 2), 0
	for range kills {
		g, clients, err := s.fleet.busiest()
		if err != nil {
			return err
		}
		if err := errors.Join(g.kill(), pass(ctx, time.Duration(300+s.random.IntN(1200))*time.Millisecond), g.again(ctx)); err != nil {
			return err
		}
		cut += clients
		s.settle()
	}
	s.counted("kills", kills, kills)
	s.counted("connections cut", cut, 5*kills)
	s.counted("sessions recovered", int(s.load.recovered()), 1)
	return nil
}

// conflicts is the metric of changes that the engine refused because another gateway has the session.
const conflicts = `limpet_gateway_engine_commits_total{result="conflict"}`

// fenced is what a gateway logs of a connection whose messages were refused, because another gateway has the session.
const fenced = `reason="superseded by a newer connection"`

// stopNodes stops gateways for 2.5 seconds with SIGSTOP. HAProxy sends their clients elsewhere. What they go on with then is refused:
// messages that they had received, and records of sessions that they leave.
func stopNodes(ctx context.Context, s *scene) error {
	stops, refused, connections := s.times(4, 2), 0, 0
	for range stops {
		g, _, err := s.fleet.busiest()
		if err != nil {
			return err
		}
		before, err := g.metric(conflicts)
		if err != nil {
			return err
		}
		if err := errors.Join(g.signal(syscall.SIGSTOP), pass(ctx, 2500*time.Millisecond), g.signal(syscall.SIGCONT)); err != nil {
			return err
		}
		s.settle()
		if err := pass(ctx, time.Second); err != nil { // what it has read is committed by then
			return err
		}
		after, err := g.metric(conflicts)
		if err != nil {
			return err
		}
		refused += after - before
	}
	for _, g := range s.fleet.gateways {
		text, err := os.ReadFile(g.log)
		if err != nil {
			return err
		}
		connections += strings.Count(string(text), fenced)
	}
	s.counted("stops of 2.5 s", stops, stops)
	s.counted("commits fenced", refused, s.times(50, 10))
	s.counted("of them with messages", connections, s.times(50, 5))
	s.counted("sessions recovered", int(s.load.recovered()), 1)
	return nil
}

// elsewhereWithin is how long the clients of a gateway may stay that is cut off from its engine.
const elsewhereWithin = 10 * time.Second

// cutOff cuts gateways off from the engine: what they send is lost. Nothing tells them but silence.
func cutOff(ctx context.Context, s *scene) error {
	cuts, moved, longest := s.times(3, 1), 0, time.Duration(0)
	for range cuts {
		g, clients, err := s.fleet.busiest()
		if err != nil {
			return err
		}
		for _, link := range g.links {
			link.freeze()
		}
		for began, left := time.Now(), clients; left > 0; {
			if err := pass(ctx, 50*time.Millisecond); err != nil {
				return err
			}
			if left, err = s.notAtOthers(g); err != nil {
				return err
			}
			if longest = max(longest, time.Since(began)); longest > elsewhereWithin {
				return fmt.Errorf("%d of %d clients of a gateway without its engine are not at another one after %v", left, clients, longest)
			}
		}
		moved += clients
		s.settle()
		for _, link := range g.links {
			link.mend()
		}
		if err := g.healthy(ctx); err != nil {
			return err
		}
	}
	s.counted("cuts", cuts, cuts)
	s.counted("connections moved", moved, 5*cuts)
	s.counted("ms until the last one was elsewhere", int(longest.Milliseconds()), 1)
	return nil
}

// notAtOthers returns how many clients have no connection to another gateway than g.
func (s *scene) notAtOthers(g *gateway) (int, error) {
	left := len(s.load.clients)
	for _, other := range s.fleet.gateways {
		if other == g {
			continue
		}
		n, err := other.metric("limpet_server_connections{", `state="ready"`)
		if err != nil {
			return 0, err
		}
		left -= n
	}
	return max(0, left), nil
}

// killLeaders kills the server that leads the stream.
func killLeaders(ctx context.Context, s *scene) error {
	e, kills := s.engine.(*natsEngine), 2
	for range kills {
		old, err := e.leader(ctx)
		if err != nil {
			return err
		}
		if err := old.kill(); err != nil {
			return err
		}
		if _, err := e.leader(ctx); err != nil {
			return err
		}
		s.settle()
		if err := old.again(ctx); err != nil {
			return err
		}
		s.settle()
	}
	s.counted("leaders killed", kills, kills)
	return nil
}

// deploy ends each gateway with SIGTERM and starts it again.
func deploy(ctx context.Context, s *scene) error {
	moved := 0
	for _, g := range s.fleet.gateways {
		clients, err := g.metric("limpet_server_connections{", `state="ready"`)
		if err != nil {
			return err
		}
		if err := errors.Join(g.leave(20*time.Second), g.again(ctx)); err != nil {
			return err
		}
		moved += clients
		s.settle()
	}
	s.counted("gateways replaced", gateways, gateways)
	s.counted("connections moved", moved, 5*gateways)
	s.counted("sessions recovered", int(s.load.recovered()), 1)
	return nil
}

// oldLog is how old a log must be before a store knows for sure which ids were used in a session that is gone: a minute more than
// the age of a message. Before that the outcome of what is sent again is Unknown.
const oldLog = 75 * time.Second

// purge removes the records of all sessions.
func purge(ctx context.Context, s *scene) error {
	if err := pass(ctx, oldLog); err != nil {
		return err
	}
	purges, records := 3, 0
	for range purges {
		n, err := s.engine.purge(ctx)
		if err != nil {
			return err
		}
		records += n
		s.settle()
		if err := pass(ctx, 2*time.Second); err != nil {
			return err
		}
	}
	s.counted("purges", purges, purges)
	s.counted("records removed", records, purges*len(s.load.pubs))
	s.counted("sessions begun again", s.load.sessions()-len(s.load.clients), len(s.load.pubs))
	return nil
}

// rewind has the engine lose what it has taken in two seconds.
func rewind(ctx context.Context, s *scene) error {
	if err := s.engine.rewind(ctx, 2*time.Second); err != nil {
		return err
	}
	s.settle()
	s.counted("rewind", 1, 1)
	return nil
}
