package test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
)

// checkDials reports windows in which a host of c has got more dials than it allows.
func (c *cluster) checkDials(t *testing.T, dials int, per time.Duration) {
	t.Helper()
	at := map[string][]time.Time{}
	for _, d := range c.network.Dials() {
		at[d.Addr] = append(at[d.Addr], d.At)
	}
	for host, all := range at {
		slices.SortFunc(all, time.Time.Compare)
		for i := dials; i < len(all); i++ {
			if d := all[i].Sub(all[i-dials]); d <= per {
				t.Errorf("%s: %d dials within %v, want at most %d in %v", host, dials+1, d, dials, per)
				return
			}
		}
	}
}

// startMany starts clients with the same options, which must have a transport to share.
func (c *cluster) startMany(t *testing.T, n int, o limpet.Options) (all []*limpet.Client) {
	t.Helper()
	for range n {
		client, err := limpet.New(c.urls()[0], options(&o))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeAndWait(t, client) })
		all = append(all, client)
	}
	return all
}

// allReady waits until all are ready, and returns how long it took.
func allReady(t *testing.T, all []*limpet.Client) time.Duration {
	t.Helper()
	began := time.Now()
	for _, client := range all {
		if err := client.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return time.Since(began)
}

// A hundred clients at a server that takes 30 connections a minute from one address: it never
// gets more, and all are back as soon as it allows.
func TestDialsKeepTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const minimum = 3 * time.Minute // for a hundred
		c := newCluster(t, 1)
		all := c.startMany(t, 100, limpet.Options{HTTPClient: c.network.HTTPClient(), Limits: wire.ConnectionLimits{Dials: 30}})
		if took := allReady(t, all); took < minimum || took > minimum*11/10 {
			t.Errorf("ready after %v", took)
		}
		time.Sleep(5 * time.Minute)
		c.network.CutAll()
		synctest.Wait()
		if took := allReady(t, all); took < minimum || took > minimum*11/10 {
			t.Errorf("ready again after %v", took)
		}
		for range 5 { // a user who does not want to wait
			c.network.CutAll()
			for range 30 {
				time.Sleep(time.Second)
				for _, client := range all {
					client.ReconnectNow()
				}
			}
		}
		allReady(t, all)
		c.checkDials(t, 30, time.Minute)
	})
}

// Whatever dials counts: attempts whose Auth takes its time, rotations for an age, redirects,
// several endpoints, and clients of the same host that state no limit or a higher one.
func TestEveryDialKeepsTheLimit(t *testing.T) {
	limits := wire.ConnectionLimits{Dials: 10}
	for name, options := range map[string]limpet.Options{
		"slow Auth":         {Limits: limits},
		"an age":            {Limits: wire.ConnectionLimits{Dials: 10, Age: 2 * time.Minute}},
		"several endpoints": {Limits: limits},
		"redirects":         {Limits: limits},
		"a higher limit":    {Limits: wire.ConnectionLimits{Dials: 1000}},
		"no limit":          {},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 2)
			switch name {
			case "slow Auth":
				options.Auth = func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
					time.Sleep(rand.N(8 * time.Second))
					return limpet.Credential{}, nil
				}
			case "several endpoints":
				options.Endpoints = c.urls()[1:]
			case "redirects":
				c.nodes[0].header.Set("Location", c.urls()[1])
				c.nodes[0].status.Store(http.StatusTemporaryRedirect)
				options.Redirects.Hosts = []string{c.nodes[1].Host.Addr()}
			}
			options.HTTPClient = c.network.HTTPClient()
			all := c.startMany(t, 1, limpet.Options{Limits: limits, HTTPClient: options.HTTPClient, Redirects: options.Redirects})
			all = append(all, c.startMany(t, 39, options)...)
			allReady(t, all)
			for range reduced(3, 1) {
				time.Sleep(3 * time.Minute)
				c.network.CutAll()
				synctest.Wait()
				allReady(t, all)
			}
			if c.checkDials(t, 10, time.Minute); t.Failed() {
				t.Fatal(name)
			}
		})
	}
}

// A dial counts from when it is made, not from the turn of its attempt, which asked for a credential first.
func TestDialAfterASlowAuthCountsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		o := limpet.Options{HTTPClient: c.network.HTTPClient(), Limits: wire.ConnectionLimits{Dials: 1}}
		slow := o
		slow.Auth = func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			time.Sleep(8 * time.Second)
			return limpet.Credential{}, nil
		}
		all := c.startMany(t, 1, slow)
		allReady(t, all)
		all = append(all, c.startMany(t, 1, o)...)
		allReady(t, all)
		if dials := c.network.Dials(); len(dials) != 2 || dials[1].At.Sub(dials[0].At) < time.Minute {
			t.Errorf("dials %v, want a minute between them", dials)
		}
	})
}

// State.NextAttempt is when the attempt starts, with the turn that the governor gives.
func TestNextAttemptHasTheTurn(t *testing.T) {
	for _, limited := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 1)
			o := limpet.Options{HTTPClient: c.network.HTTPClient()}
			if limited {
				o.Limits = wire.ConnectionLimits{Dials: 1}
			} else {
				g, err := limpet.NewGovernor(1.0/63, 1)
				if err != nil {
					t.Fatal(err)
				}
				o.Governor = g
			}
			began := time.Now()
			all := c.startMany(t, 1, o)
			allReady(t, all)
			all = append(all, c.startMany(t, 1, o)...)
			synctest.Wait()
			if st := all[1].State(); st.Phase != limpet.Waiting || st.NextAttempt.Sub(began).Round(time.Second) != 63*time.Second {
				t.Errorf("limited %v: the first attempt of the second client: %v, after %v", limited, st.Phase, st.NextAttempt.Sub(began))
			}
			time.Sleep(time.Second)
			c.network.CutAll()
			for range 2 { // before and after its wait is over
				synctest.Wait()
				if st := all[0].State(); st.Phase != limpet.Waiting || st.NextAttempt.Sub(began).Round(time.Second) != 126*time.Second {
					t.Errorf("limited %v: the first client again: %v, after %v", limited, st.Phase, st.NextAttempt.Sub(began))
				}
				all[0].ReconnectNow()
				time.Sleep(10 * time.Second)
			}
			said := all[0].State().NextAttempt
			allReady(t, all)
			dials := c.network.Dials()
			if last := dials[len(dials)-1].At; len(dials) != 3 || last.Sub(said).Abs() > time.Second {
				t.Errorf("limited %v: %d dials, the last at %v; want it at %v", limited, len(dials), last.Sub(began), said.Sub(began))
			}
		})
	}
}

// RotationFailed.NextAttempt has the turn, too.
func TestNextRotationHasTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		failed := make(chan limpet.RotationFailed, 100)
		c.startMany(t, 1, limpet.Options{HTTPClient: c.network.HTTPClient(), Limits: wire.ConnectionLimits{Dials: 1, Age: 10 * time.Minute},
			Observer: observer(func(e limpet.Event) {
				if e, ok := e.(limpet.RotationFailed); ok {
					failed <- e
				}
			})})
		time.Sleep(time.Second)
		c.nodes[0].status.Store(http.StatusServiceUnavailable)
		for n := range 3 {
			said := (<-failed).NextAttempt
			time.Sleep(time.Until(said) + 100*time.Millisecond)
			dials := c.network.Dials()
			if last := dials[len(dials)-1].At; len(dials) != n+3 || last.Sub(said).Abs() > 100*time.Millisecond {
				t.Errorf("failure %d: %d dials, the last %v after the time that was said", n+1, len(dials), last.Sub(said))
			}
		}
	})
}

// A redirect to a host without room fails the attempt, with the time as its slot.
func TestRedirectWithoutATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		o := limpet.Options{HTTPClient: c.network.HTTPClient(), Limits: wire.ConnectionLimits{Dials: 2, DialsPer: time.Minute}}
		o.Redirects.Hosts = []string{c.nodes[1].Host.Addr()}
		c.nodes[0].header.Set("Location", c.urls()[1])
		c.nodes[0].status.Store(http.StatusTemporaryRedirect)
		began := time.Now()
		var all []*limpet.Client
		for range 2 { // the room of the second host
			client, err := limpet.New(c.urls()[1], options(&o))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closeAndWait(t, client) })
			all = append(all, client)
		}
		allReady(t, all)
		redirected := c.startMany(t, 1, o)
		synctest.Wait()
		st := redirected[0].State()
		if after := st.NextAttempt.Sub(began); st.Phase != limpet.Waiting || after < 63*time.Second || after > 70*time.Second || !strings.Contains(st.Cause.Error(), "Options.Limits.Dials") {
			t.Errorf("%v, the next attempt after %v: %v", st.Phase, after, st.Cause)
		}
		allReady(t, redirected)
		if n := len(c.network.Dials()); n != 5 {
			t.Errorf("%d dials, want 5", n)
		}
		c.checkDials(t, 2, time.Minute)
	})
}
