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
)

func main() {
	only := flag.String("run", "", "only the mutations whose name matches this regular expression")
	n := flag.Int("sample", 0, "break this many statements instead, drawn at random")
	seed := flag.Uint64("seed", 0, "with -sample: draw the same statements again; 0: others")
	flag.Parse()
	if err := inCopy(func(dir string) error {
		if *n > 0 {
			if *seed == 0 {
				*seed = rand.Uint64N(1e6) + 1
			}
			return sample(dir, sampled, *n, *seed, os.Stdout)
		}
		return mutate(dir, *only)
	}); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// inCopy calls f with a copy of the tree.
func inCopy(f func(dir string) error) error {
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := copyTree(".", dir); err != nil {
		return err
	}
	return f(dir)
}

func mutate(dir, only string) error {
	re, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	var chosen []mutation
	for _, m := range table {
		if re.MatchString(m.name) {
			chosen = append(chosen, m)
		}
	}
	return run(dir, chosen, os.Stdout)
}
