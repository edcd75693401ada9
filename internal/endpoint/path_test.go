package endpoint

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

var (
	dead       = wire.Failure{Stage: wire.StageHandshake, Err: io.EOF}
	unanswered = wire.Failure{Stage: wire.StageDial, Err: &socket.AnswerError{Err: io.EOF}}
)

// A refused upgrade is not tried again at the same host for a minute, if the fallback worked.
func TestPathRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Path
		check := func(host string, want bool) {
			t.Helper()
			if got := p.SkipsUpgrade(host); got != want {
				t.Errorf("%s: skips the upgrade: %v, want %v", host, got, want)
			}
		}
		check("", false)
		check("a", false)
		p.FellBack("a", false)
		check("a", true)
		check("b", false)
		time.Sleep(time.Minute - 1)
		check("a", true)
		p.FellBack("a", true) // begins no minute: no upgrade was refused
		time.Sleep(time.Nanosecond)
		check("a", false)
		p.FellBack("a", false)
		p.FellBack("b", false)
		check("a", false)
		check("b", true)
		p.Forget()
		check("b", false)
	})
}

// Three connections in a row that die make the next attempt skip the upgrade at any host. The
// first fallback that works begins a minute for its host.
func TestPathKills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Path
		for range maxDied {
			if p.SkipsUpgrade("a") {
				t.Fatal("too early")
			}
			p.Lost(&dead)
		}
		if !p.SkipsUpgrade("a") || !p.SkipsUpgrade("b") {
			t.Error("the upgrade is tried after three that died")
		}
		p.FellBack("a", true)
		if !p.SkipsUpgrade("a") || p.SkipsUpgrade("b") {
			t.Error("not the host of the fallback alone")
		}
		time.Sleep(upgradeRefusedFor)
		if p.SkipsUpgrade("a") {
			t.Error("the upgrade is not tried after a minute")
		}
	})
}

func TestPathLost(t *testing.T) {
	for name, tc := range map[string]struct {
		f    wire.Failure
		died int32 // after two that died
	}{
		"dies":                       {dead, 3},
		"an error of the caller":     {wire.Failure{Stage: wire.StageHandshake, Err: &fault.User{Option: "x", Err: io.EOF}}, 2},
		"a close code":               {wire.Failure{Stage: wire.StageHandshake, Code: 1011}, 0},
		"a violation":                {wire.Failure{Stage: wire.StageHandshake, Err: &wire.CodeError{Code: 1002}}, 0},
		"one that was ready":         {wire.Failure{Stage: wire.StageOpen, Err: io.EOF}, 2},
		"an attempt without an open": {wire.Failure{Stage: wire.StageUpgrade, Status: 500}, 2},
	} {
		var p Path
		p.died.Store(2)
		if p.Lost(&tc.f); p.died.Load() != tc.died {
			t.Errorf("%s: %d died, want %d", name, p.died.Load(), tc.died)
		}
	}
}

func TestPathRefusesUpgrade(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	for name, tc := range map[string]struct {
		ctx       context.Context // default: one that lasts
		died      int32
		f         wire.Failure
		clearText bool
		want      bool
	}{
		"403":                       {f: wire.Failure{Stage: wire.StageUpgrade, Status: 403}, want: true},
		"401":                       {f: wire.Failure{Stage: wire.StageUpgrade, Status: 401}},
		"403 of a ticket":           {f: wire.Failure{Stage: wire.StageUpgrade, Status: 403, Err: &fault.User{Option: fault.OptionTicket, Err: io.EOF}}},
		"a dial":                    {f: wire.Failure{Stage: wire.StageDial, Err: errors.New("no route")}},
		"a proxy":                   {f: wire.Failure{Stage: wire.StageDial, Err: &socket.ProxyError{Status: 403}}},
		"a proxy in clear text":     {f: wire.Failure{Stage: wire.StageDial, Err: &socket.ProxyError{Status: 403}}, clearText: true, want: true},
		"no answer":                 {f: unanswered, died: 1},
		"no answer again":           {f: unanswered, died: 2, want: true},
		"no answer, and no time":    {f: unanswered, died: 2, ctx: ended},
		"no answer, and much later": {f: unanswered, died: 100, want: true},
	} {
		if tc.ctx == nil {
			tc.ctx = t.Context()
		}
		var p Path
		p.died.Store(tc.died)
		if got := p.RefusesUpgrade(tc.ctx, &tc.f, tc.clearText); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestPathReady(t *testing.T) {
	var p Path
	for i, step := range []struct{ fallback, changed bool }{{false, false}, {true, true}, {true, false}, {false, true}, {false, false}} {
		p.Lost(&dead)
		if changed := p.Ready(step.fallback); changed != step.changed {
			t.Errorf("step %d: changed: %v", i, changed)
		}
		if died := p.died.Load(); step.fallback != (died > 0) {
			t.Errorf("step %d: %d died", i, died)
		}
	}
	var first Path
	if !first.Ready(true) {
		t.Error("a first connection over the fallback is no change")
	}
}

// A connection that is lost counts while an attempt is in progress.
func TestPathOfTwoGoroutines(t *testing.T) {
	const each = 1000
	var p Path
	var wg sync.WaitGroup
	wg.Go(func() {
		for range each {
			p.Lost(&dead)
			p.Ready(true)
		}
	})
	wg.Go(func() {
		for range each {
			p.RefusesUpgrade(t.Context(), &unanswered, false)
			p.SkipsUpgrade("a")
		}
	})
	wg.Wait()
	if died := p.died.Load(); died != 2*each {
		t.Errorf("%d died, want %d", died, 2*each)
	}
	wg.Go(func() { p.Ready(false) })
	wg.Go(func() { p.FellBack("a", false) })
	wg.Wait()
	if died := p.died.Load(); died != 0 || !p.SkipsUpgrade("a") || p.SkipsUpgrade("b") {
		t.Errorf("%d died after both transports worked", died)
	}
}
