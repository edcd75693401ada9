// Command measure prints figures about the structure of a checkout of limpet.
//
//	go run ./measure names DIR    unexported names of the root package that mean two sorts of things
//	go run ./measure sizes DIR    functions over 60 lines and files over 500
//	go run ./measure path DIR     files that a message passes through in steady traffic; builds DIR/bench
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	measures := map[string]func(out io.Writer, dir string) error{"names": printNames, "sizes": printSizes, "path": printPaths}
	if len(os.Args) != 3 || measures[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: measure names|sizes|path DIR")
		os.Exit(2)
	}
	if err := measures[os.Args[1]](os.Stdout, os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}
