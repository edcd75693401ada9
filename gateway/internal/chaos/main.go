// Chaos runs three gateways as processes behind a real proxy, on a real Redis or three real NATS servers, with clients
// that publish and subscribe, breaks parts of it, and decides with the oracle of package limpettest whether anything
// that was acknowledged was lost, doubled or reordered. It needs Linux and what gateway/install.sh installs.
//
//	cd gateway && go run ./internal/chaos
//
// The exit status is 1 if a promise was broken, something was stuck for ten seconds, a client ended, or a fault did not
// happen as often as it must for the run to show something.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(chaos(ctx, os.Args[1:], os.Stdout))
}

// choice is what the flags say.
type choice struct {
	runs, engines, proxies []string // empty: all
	short                  bool
	seed                   uint64
	sabotage               string
}

// chaos is main with its environment as arguments. It returns the exit status.
func chaos(ctx context.Context, args []string, out io.Writer) int {
	var names []string
	for _, r := range runs {
		names = append(names, r.name)
	}
	var c choice
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(out)
	only := flags.String("run", "", "comma-separated: only these of "+strings.Join(names, ", "))
	engines := flags.String("engine", "", "comma-separated: only these of redis, jetstream")
	proxies := flags.String("proxy", "", "comma-separated: only these of haproxy, nginx")
	flags.BoolVar(&c.short, "short", false, "smaller, and without -run and -proxy only nodes, zombies, cut and deploy with haproxy")
	flags.Uint64Var(&c.seed, "seed", rand.Uint64N(1<<32), "of the load and the times of faults")
	flags.StringVar(&c.sabotage, "sabotage", "", "plant a fault that must be noticed, one of "+strings.Join(sabotages, ", "))
	connections := flags.Int("sizing", 0, "instead: measure what that many connections to one gateway cost")
	keep := flags.Bool("keep", false, "keep the files of the processes also if all is well")
	if flags.Parse(args) != nil {
		return 2
	}
	c.runs, c.engines, c.proxies = list(*only), list(*engines), list(*proxies)
	if wrong := c.wrong(names); wrong != "" {
		fmt.Fprintln(out, wrong)
		return 2
	}
	dir, err := os.MkdirTemp("", "limpet-chaos-")
	if err != nil {
		fmt.Fprintln(out, "FAIL:", err)
		return 1
	}
	ok := true
	if *connections > 0 {
		if err := size(ctx, dir, append([]string{"memory"}, bothEngines...), *connections, out); err != nil {
			fmt.Fprintln(out, "FAIL:", err)
			ok = false
		}
	} else {
		ok = c.all(ctx, dir, out)
	}
	if *keep || !ok {
		fmt.Fprintln(out, "logs of the processes:", dir)
	} else {
		os.RemoveAll(dir)
	}
	if !ok {
		return 1
	}
	return 0
}

// list splits a list of names.
func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// wrong says which name is none.
func (c *choice) wrong(names []string) string {
	for _, f := range []struct {
		flag        string
		given, some []string
	}{{"run", c.runs, names}, {"engine", c.engines, bothEngines}, {"proxy", c.proxies, bothProxies}, {"sabotage", list(c.sabotage), sabotages}} {
		for _, name := range f.given {
			if !slices.Contains(f.some, name) {
				return fmt.Sprintf("-%s: there is no %q; use %s", f.flag, name, strings.Join(f.some, ", "))
			}
		}
	}
	if len(c.chosen()) == 0 {
		return "no run has this engine and this proxy; see -h"
	}
	return ""
}

// one is a run with an engine and a proxy.
type one struct {
	*run
	engine, proxy string
}

// chosen returns the runs that the flags choose.
func (c *choice) chosen() (list []one) {
	for i := range runs {
		r := &runs[i]
		for _, engine := range r.engines {
			for _, proxy := range r.proxies {
				if c.has(r, engine, proxy) {
					list = append(list, one{r, engine, proxy})
				}
			}
		}
	}
	return list
}

// has reports whether a run with an engine and a proxy was chosen.
func (c *choice) has(r *run, engine, proxy string) bool {
	chosen := func(names []string, name string, otherwise bool) bool {
		return len(names) == 0 && otherwise || slices.Contains(names, name)
	}
	return chosen(c.runs, r.name, r.short || !c.short) && chosen(c.engines, engine, true) && chosen(c.proxies, proxy, proxy == "haproxy" || !c.short)
}

// all makes the runs that were chosen, and reports whether all are well.
func (c *choice) all(ctx context.Context, dir string, out io.Writer) bool {
	fmt.Fprintln(out, "seed", c.seed)
	at, err := prepare(ctx, dir)
	if err != nil {
		fmt.Fprintln(out, "FAIL:", err)
		return false
	}
	table, ok := []string{tableHead}, true
	for _, r := range c.chosen() {
		res := r.make(ctx, at, r.engine, r.proxy, c.short, c.seed, c.sabotage)
		wrong := res.failures()
		fmt.Fprintln(out, res)
		for _, what := range wrong[:min(len(wrong), 20)] {
			fmt.Fprintln(out, "     ", what)
		}
		ok = ok && len(wrong) == 0
		table = append(table, res.row())
		if ctx.Err() != nil {
			return false
		}
	}
	fmt.Fprintln(out, "\n"+strings.Join(table, "\n"))
	return ok
}
