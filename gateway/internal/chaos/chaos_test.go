package main

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// quiet is a run without a fault.
var quiet = run{name: "quiet", faults: func(ctx context.Context, s *scene) error {
	s.counted("faults", 0, 1)
	return pass(ctx, time.Second)
}}

// make1 makes one run with Redis and HAProxy.
func make1(t *testing.T, r *run, sabotage string) *result {
	t.Helper()
	at, err := prepare(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Log("seed", seed)
	res := r.make(t.Context(), at, "redis", "haproxy", true, seed, sabotage)
	if res.err != nil {
		t.Fatal(res.err)
	}
	t.Log(res)
	return res
}

// A run without a fault breaks no promise, and fails because it shows nothing.
func TestQuiet(t *testing.T) {
	res := make1(t, &quiet, "")
	for _, what := range res.verdict.wrong {
		t.Error(what)
	}
	if list := res.failures(); len(list) != 1 || !strings.Contains(list[0], "the run shows nothing") {
		t.Errorf("failures %q, want that there was no fault", list)
	}
	if !strings.HasPrefix(res.String(), "FAIL") {
		t.Error(res.String())
	}
}

// Planted faults are noticed, each for its reason.
func TestSabotage(t *testing.T) {
	for name, invariant := range map[string]string{"drop": "I5", "double": "I1", "swap": "I2", "hole": "I4"} {
		t.Run(name, func(t *testing.T) {
			for _, what := range make1(t, &quiet, name).verdict.wrong {
				if strings.Contains(what, invariant) {
					return
				}
			}
			t.Errorf("no violation of %s", invariant)
		})
	}
}

// A message without an outcome, and a client that has ended, are failures.
func TestStuck(t *testing.T) {
	stuck := run{name: "stuck", faults: func(ctx context.Context, s *scene) error {
		s.load.clients[0].Close()
		for _, g := range s.fleet.gateways {
			if err := g.kill(); err != nil {
				return err
			}
		}
		s.settle()
		for _, g := range s.fleet.gateways {
			if err := g.again(ctx); err != nil {
				return err
			}
		}
		return nil
	}}
	list := strings.Join(make1(t, &stuck, "").failures(), "\n")
	for _, want := range []string{" after the fault: ", "client 0 has ended"} {
		if !strings.Contains(list, want) {
			t.Errorf("no %q in %s", want, list)
		}
	}
}

// Names that are none are refused, and so is a choice without a run.
func TestFlags(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"-run", "nodes,x"}, `-run: there is no "x"; use nodes, zombies`, 2},
		{[]string{"-engine", "x"}, `-engine: there is no "x"; use redis, jetstream`, 2},
		{[]string{"-proxy", "x"}, `-proxy: there is no "x"; use haproxy, nginx`, 2},
		{[]string{"-sabotage", "x"}, `-sabotage: there is no "x"; use drop`, 2},
		{[]string{"-x"}, "-x", 2},
		{[]string{"-run", "leader", "-engine", "redis"}, "no run has this engine and this proxy", 2},
	} {
		var out strings.Builder
		if code := chaos(t.Context(), tc.args, &out); code != tc.code || !strings.Contains(out.String(), tc.want) {
			t.Errorf("%v: exit status %d, %s", tc.args, code, &out)
		}
	}
}
