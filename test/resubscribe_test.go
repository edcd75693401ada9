package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
)

// Five thousand subscriptions at a server that takes five requests a second of 100 topics
// each, cut every 20 seconds, ten times: after the last cut all are live as soon as the pace of
// the client allows, but one that is refused and one that is not answered. None is
// asked for twice on a connection, nothing is missing that is not reported, and the server
// never counts too much.
func TestManySubscriptionsAreBackInTime(t *testing.T) {
	const many, perRequest, perSecond = 5000, 100, 5
	synctest.Test(t, func(t *testing.T) {
		v := newVenue(t, "each", true)
		v.tick, v.lag, v.since, v.mute = 10*time.Second, 20*time.Millisecond, time.Now(), "MUTE"
		v.table.Limits = wire.ConnectionLimits{Messages: perSecond}
		v.table.Subscribe.Max = perRequest
		v.refuse = func(symbols []string) string {
			if i := slices.IndexFunc(symbols, func(s string) bool { return strings.HasPrefix(s, "BAD") }); i >= 0 {
				return fmt.Sprintf(`{"type":"error","channel":"trades","symbol":%q,"text":"no such symbol"}`, symbols[i])
			}
			return ""
		}
		var mu sync.Mutex
		var last []time.Time // requests within a second
		violations := 0
		v.before = func(_ func(string), q *asking) {
			mu.Lock()
			defer mu.Unlock()
			last = slices.DeleteFunc(append(last, q.at), func(at time.Time) bool { return q.at.Sub(at) >= time.Second })
			if len(last) > perSecond {
				violations++
			}
		}
		dialect, err := feed.New(v.table)
		if err != nil {
			t.Fatal(err)
		}
		c, err := limpet.New(v.host.URL(), options(&limpet.Options{Dialect: dialect, HTTPClient: v.host.HTTPClient()}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeAndWait(t, c) })
		bad, mute := subscribe(t, c, "trades/BAD0"), subscribe(t, c, "trades/MUTE0")
		var subs []*limpet.Subscription
		for i := range many {
			subs = append(subs, subscribe(t, c, fmt.Sprintf("trades/P%d", i)))
		}
		cuts := []time.Time{time.Now()}
		for range 10 {
			time.Sleep(20 * time.Second)
			v.host.Network.CutAll()
			cuts = append(cuts, time.Now())
		}
		bad2, mute2 := subscribe(t, c, "trades/BAD1"), subscribe(t, c, "trades/MUTE1")
		// The client uses four fifths of what the server allows. Two requests are more: the rest
		// of the one that is refused, and the topic that was not answered.
		requests := many/perRequest + 2
		bound := time.Duration(requests) * time.Second * 5 / (4 * perSecond) * 11 / 10
		allLive(t, subs, 11, bound)
		took := time.Since(cuts[10])
		time.Sleep(time.Minute)
		if st := mute.State(); st.Phase == limpet.SubLive || !errors.Is(st.Err, limpet.ErrUnanswered) { // it waits longer each time, since it may be why
			t.Errorf("%s: %v, %v", mute.Topic(), st.Phase, st.Err)
		}
		for s, want := range map[*limpet.Subscription]error{bad: limpet.ErrRejected, bad2: limpet.ErrRejected, mute2: limpet.ErrUnanswered} {
			if st := s.State(); st.Phase != limpet.SubEnded || !errors.Is(st.Err, want) {
				t.Errorf("%s: %v, %v; want %v", s.Topic(), st.Phase, st.Err, want)
			}
		}
		t.Logf("all live %v after the last cut", took)
		if violations > 0 {
			t.Errorf("the server counted too much %d times", violations)
		}
		v.checkAskedOnce(t, cuts)
		for _, s := range subs[:200] {
			checkLosses(t, s)
		}
	})
}

// checkAskedOnce reports topics that were asked for twice between two cuts, except in requests
// that were refused.
func (v *venue) checkAskedOnce(t *testing.T, cuts []time.Time) {
	t.Helper()
	for i, from := range cuts {
		to := time.Now()
		if i < len(cuts)-1 {
			to = cuts[i+1]
		}
		times := make(map[string]int)
		for _, q := range v.asked("subscribe") {
			refused := slices.ContainsFunc(q.Symbols, func(s string) bool { return strings.HasPrefix(s, "BAD") })
			if !refused && !q.at.Before(from) && q.at.Before(to) {
				for _, symbol := range q.Symbols {
					times[symbol]++
				}
			}
		}
		for symbol, n := range times {
			if n > 1 && !strings.HasPrefix(symbol, "MUTE") {
				t.Errorf("connection %d: asked %d times for %s", i+1, n, symbol)
			}
		}
	}
}

// checkLosses reports trades that are missing in what waits for s, and not reported.
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
