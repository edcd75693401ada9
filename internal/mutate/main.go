// Command mutate shows that the guards of this repository can fail. For each entry of its table
// it breaks the guarded code in a copy of the tree and requires the guard's test to fail. A guard
// that still passes guards nothing.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
)

func main() {
	only := flag.String("run", "", "only the mutations whose name matches this regular expression")
	flag.Parse()
	if err := mutate(*only); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func mutate(only string) error {
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
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := copyTree(".", dir); err != nil {
		return err
	}
	return run(dir, chosen, os.Stdout)
}
