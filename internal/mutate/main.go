// Command mutate shows that the guards of this repository can fail. For each entry of its table
// it breaks the guarded code in a copy of the tree and requires the guard's test to fail. A guard
// that still passes guards nothing.
//
// With -sample it breaks statements drawn at random instead, to find those that no test guards.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"time"
)

func main() {
	only := flag.String("run", "", "only the mutations whose name matches this regular expression")
	n := flag.Int("sample", 0, "break this many statements instead, drawn at random")
	seed := flag.Uint64("seed", 0, "with -sample: draw the same statements again; 0: others")
	budget := flag.Duration("budget", 0, "begin no mutation after this time; which ones are left out is drawn from -seed; 0: no bound")
	flag.Parse()
	var err error
	if *seed == 0 {
		*seed = rand.Uint64N(1e6) + 1
	}
	if *n > 0 {
		err = inCopies(1, func(dirs []string) error { return sample(dirs[0], sampled, *n, *seed, os.Stdout) })
	} else {
		err = inCopies(min(runtime.NumCPU(), 4), func(dirs []string) error { return mutate(dirs, *only, *budget, *seed) })
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// inCopies calls f with n copies of the tree.
func inCopies(n int, f func(dirs []string) error) error {
	var dirs []string
	for range n {
		dir, err := os.MkdirTemp("", "mutate")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if err := copyTree(".", dir); err != nil {
			return err
		}
		dirs = append(dirs, dir)
	}
	return f(dirs)
}

func mutate(dirs []string, only string, budget time.Duration, seed uint64) error {
	re, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	if err := checkCompiles(".", table); err != nil {
		return err
	}
	var chosen []mutation
	for _, m := range table {
		if re.MatchString(m.name) {
			chosen = append(chosen, m)
		}
	}
	if budget > 0 {
		fmt.Printf("seed %d\n", seed)
		rand.New(rand.NewPCG(seed, 0)).Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	}
	return run(dirs, chosen, budget, os.Stdout)
}
