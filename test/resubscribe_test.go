package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
)

// crowd is a program with 5,000 subscriptions at a venue that takes five requests a second of
// 100 topics each. On each connection the venue refuses by its name a topic that it took
// before, and it never answers for another one.
type crowd struct {
	whole    bool // with the topic the venue refuses all others of its request, without their names
	together bool // the one without an answer had answers before the last cut, and is in the request of the last one that is refused

	client *limpet.Client
	venue  *venue
	subs   []*limpet.Subscription

	mu         sync.Mutex
	gone       map[string]bool // is refused
	mute       string          // has no answer
	recent     []time.Time     // requests within a second
	violations int
	refusals   []time.Time
}

const (
	crowdTopics     = 5000
	crowdPerRequest = 100
	crowdPerSecond  = 5
	crowdCuts       = 10
)

func crowdTopic(i int) string { return fmt.Sprint("P", i) }

// goneAt is the topic that is refused from the n-th connection on; the last one is in the middle.
func goneAt(n int) int { return 10 + 450*((n+4)%(crowdCuts+1)) }

// refuse answers a request that has a topic which is gone.
func (w *crowd) refuse(symbols []string) string {
	i := slices.IndexFunc(symbols, func(symbol string) bool { return w.gone[symbol] })
	if i < 0 {
		return ""
	}
	w.refusals = append(w.refusals, time.Now())
	return fmt.Sprintf(`{"type":"error","channel":"trades","symbol":%q,"text":"no such symbol"}`, symbols[i])
}

// before counts a request. A venue that takes the others refuses the topic here.
func (w *crowd) before(say func(string), q *asking) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.recent = slices.DeleteFunc(append(w.recent, q.at), func(at time.Time) bool { return q.at.Sub(at) >= time.Second })
	if len(w.recent) > crowdPerSecond {
		w.violations++
	}
	if w.whole || q.Op != "subscribe" {
		return
	}
	if text := w.refuse(q.Symbols); text != "" {
		say(text)
		q.Symbols = slices.DeleteFunc(slices.Clone(q.Symbols), func(symbol string) bool { return w.gone[symbol] })
	}
}

// gather makes the client and its subscriptions.
func (w *crowd) gather(t *testing.T) {
	w.gone = map[string]bool{}
	w.venue = newVenue(t, "each", true)
	v := w.venue
	v.tick, v.lag, v.since, v.before = 10*time.Second, 20*time.Millisecond, time.Now(), w.before
	v.table.Limits = wire.ConnectionLimits{Messages: crowdPerSecond}
	v.table.Subscribe.Max = crowdPerRequest
	v.mute = func(symbol string) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return symbol == w.mute
	}
	if w.whole {
		v.refuse = func(symbols []string) string {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.refuse(symbols)
		}
	}
	w.change(1)
	dialect, err := feed.New(v.table) // nothing around it, which would hide how many topics fit into a request
	assert.NoError(t, err)
	c, err := limpet.New(v.host.URL(), options(&limpet.Options{Dialect: dialect, HTTPClient: v.host.HTTPClient()}))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	w.client = c
	for i := range crowdTopics {
		w.subs = append(w.subs, subscribe(t, c, "trades/"+crowdTopic(i)))
	}
}

// change is what the venue does from the n-th connection on.
func (w *crowd) change(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone[crowdTopic(goneAt(n))] = true
	if !w.together {
		w.mute = crowdTopic(1234)
	} else if n == crowdCuts+1 {
		w.mute = crowdTopic(goneAt(n) + 1)
	}
}

// good are the subscriptions that must be live.
func (w *crowd) good() (good []*limpet.Subscription) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, s := range w.subs {
		if topic := crowdTopic(i); !w.gone[topic] && topic != w.mute {
			good = append(good, s)
		}
	}
	return good
}

// Five thousand subscriptions, cut every 20 seconds, ten times: after each cut all are live
// as soon as the pace of the client allows, which is four fifths of what the venue does. A
// venue that refuses a whole request costs its other topics the 2 seconds in which they may
// still be answered and, if one has no answer, up to the 10 seconds of that one, of which some
// pass beside other requests: docs/reconnect.md, section 4. None is asked for twice on a
// connection, nothing is missing that is not reported, and the venue never counts too much.
func TestManySubscriptionsAreBackInTime(t *testing.T) {
	for name, tc := range map[string]struct {
		crowd    *crowd
		requests int // beyond one for each 100 topics
		late     time.Duration
	}{
		"the others are taken":    {&crowd{}, 1, 0},
		"the request is refused":  {&crowd{whole: true}, 3, 0},
		"with one without answer": {&crowd{whole: true, together: true}, 3, 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				pace := time.Second * 5 / (4 * crowdPerSecond)
				bound := time.Duration(crowdTopics/crowdPerRequest+tc.requests)*pace*11/10 + tc.late
				tc.crowd.check(t, bound)
			})
		})
	}
}

func (w *crowd) check(t *testing.T, bound time.Duration) {
	w.gather(t)
	cuts := []time.Time{time.Now()}
	for n := 1; n <= crowdCuts; n++ {
		time.Sleep(20 * time.Second)
		synctest.Wait()
		allLive(t, w.good(), uint64(n), 0)
		w.change(n + 1)
		w.venue.host.Network.CutAll()
		cuts = append(cuts, time.Now())
		synctest.Wait()
		w.subscribeAgain(t)
	}
	allLive(t, w.good(), crowdCuts+1, bound)
	t.Logf("all live %v after the last cut, at most %v", time.Since(cuts[crowdCuts]), bound)
	w.checkOthers(t, cuts)
	if w.violations > 0 {
		t.Errorf("the server counted too much %d times", w.violations)
	}
	w.checkAskedOnce(t, cuts)
	for _, s := range w.good() {
		checkLosses(t, s)
	}
}

// silent is the number of the topic without an answer; -1: there is none yet.
func (w *crowd) silent() int {
	return slices.IndexFunc(w.subs, func(s *limpet.Subscription) bool { return s.Topic() == "trades/"+w.mute })
}

// subscribeAgain has the program insist on the topic without an answer.
func (w *crowd) subscribeAgain(t *testing.T) {
	i := w.silent()
	if i < 0 || w.subs[i].State().Phase != limpet.SubEnded {
		return
	}
	if err := w.subs[i].Err(); !errors.Is(err, limpet.ErrUnanswered) {
		t.Errorf("%s ended with %v", w.subs[i].Topic(), err)
	}
	w.subs[i] = subscribe(t, w.client, w.subs[i].Topic())
}

// checkOthers demands the documented end of the topics that are refused, one on each
// connection, and of the one without an answer, which waits longer each time before it is
// asked for, since it may be why the connections are lost.
func (w *crowd) checkOthers(t *testing.T, cuts []time.Time) {
	for n := 1; n <= len(cuts); n++ {
		s := w.subs[goneAt(n)]
		if st := s.State(); st.Phase != limpet.SubEnded || !errors.Is(st.Err, limpet.ErrRejected) || limpet.ClassOf(st.Err) != limpet.ClassRejected {
			t.Errorf("connection %d: %s: %v, %v", n, s.Topic(), st.Phase, st.Err)
		}
		if !slices.ContainsFunc(w.refusals, func(at time.Time) bool { return within20s(at, cuts[n-1]) }) {
			t.Errorf("connection %d: nothing was refused", n)
		}
	}
	mute := w.subs[w.silent()]
	left := time.Now()
	for mute.State().Phase != limpet.SubEnded && time.Since(left) < 10*time.Minute {
		time.Sleep(time.Second)
	}
	if st := mute.State(); st.Phase != limpet.SubEnded || !errors.Is(st.Err, limpet.ErrUnanswered) {
		t.Errorf("%s after %v: %v, %v", mute.Topic(), time.Since(left), st.Phase, st.Err)
	}
	asked := 0
	for _, q := range w.venue.asked("subscribe") {
		if slices.Contains(q.Symbols, w.mute) {
			asked++
		}
	}
	t.Logf("the topic without an answer was asked for %d times and ended after %v", asked, time.Since(left))
}

func within20s(at, from time.Time) bool {
	return !at.Before(from) && at.Before(from.Add(20*time.Second))
}

// checkAskedOnce reports topics that were asked for twice between two cuts. Those of a request that
// was refused are asked for again.
func (w *crowd) checkAskedOnce(t *testing.T, cuts []time.Time) {
	t.Helper()
	all := w.venue.asked("subscribe")
	for i, from := range cuts {
		to := time.Now()
		if i < len(cuts)-1 {
			to = cuts[i+1]
		}
		times := make(map[string]int)
		for _, q := range all {
			if q.at.Before(from) || !q.at.Before(to) || w.whole && slices.Contains(q.Symbols, crowdTopic(goneAt(i+1))) {
				continue
			}
			for _, symbol := range q.Symbols {
				times[symbol]++
			}
		}
		for symbol, n := range times {
			if n > 1 && symbol != w.mute {
				t.Errorf("connection %d: asked %d times for %s", i+1, n, symbol)
			}
		}
	}
}

// checkLosses reports trades that are missing in what waits for s, and not reported, and trades that came twice.
func checkLosses(t *testing.T, s *limpet.Subscription) {
	t.Helper()
	waiting := s.Stats().Waiting
	var last aTrade
	reported := true
	for m, err := range s.Messages(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		var tr aTrade
		switch {
		case m.Kind != limpet.Data:
			reported = true
		case json.Unmarshal(m.Payload, &tr) != nil:
			t.Fatalf("%q", m.Payload)
		default:
			if tr.N <= last.N {
				t.Errorf("%s: %+v follows %+v", s.Topic(), tr, last)
			}
			if !reported && tr.N != last.N+1 {
				t.Errorf("%s: %+v follows %+v, and nothing says that trades are missing", s.Topic(), tr, last)
			}
			last, reported = tr, false
		}
		if waiting--; waiting == 0 {
			return
		}
	}
}
