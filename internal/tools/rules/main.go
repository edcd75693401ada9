// Command rules checks what gofmt, go vet and staticcheck cannot know about this code base: the
// rules of CONTRIBUTING.md that a program can decide from the text of the tree.
package main

import (
	"fmt"
	"io/fs"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: rules DIR")
		os.Exit(2)
	}
	found, read, err := check(os.DirFS(os.Args[1]))
	if err != nil {
		fmt.Fprintln(os.Stderr, "rules:", err)
		os.Exit(2)
	}
	for _, f := range found {
		fmt.Println(f)
	}
	fmt.Printf("%d files read, %d rules, %d findings\n", read, len(rules), len(found))
	if len(found) > 0 {
		os.Exit(1)
	}
}

// check reads the tree once and applies every rule to it. A tree without Go files is an error:
// it is the wrong folder, and nothing would ever be found in it.
func check(fsys fs.FS) (found []finding, read int, err error) {
	t, err := load(fsys)
	if err != nil {
		return nil, 0, err
	}
	if len(t.goFiles) == 0 {
		return nil, 0, fmt.Errorf("no Go file found")
	}
	for _, r := range rules {
		for _, f := range r.check(t) {
			f.rule = r.name
			found = append(found, f)
		}
	}
	return found, len(t.text), nil
}
