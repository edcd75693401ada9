package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

const module = "github.com/limpet-go/limpet"

const (
	// once is how often per message a file must run: a read from the socket, which holds up to 32
	// messages here, counts; a grant of credit, for a thousand, does not.
	once = 1. / 64
	// few statements in a file are an accessor or two, not a stop on the way.
	few = 4
)

// candidate is the part of the specification of a run of bench that is used here.
type candidate struct {
	Row, Candidate, Addr string
	Messages, Size       int
}

var walks = []struct {
	title, server string
	candidate
}{
	{"a message received, from the socket to the iterator", "blast", candidate{"P1", "limpet Messages, Buffer 4096", "", 20_000, 2048}},
	{"a message published, from the call to its acknowledgement", "limpet", candidate{"P5", "limpet Send", "", 5_000, 64}},
}

// printPaths builds the program bench of a checkout with counters of its client's statements, sends
// n and 2n messages and prints the files whose counters grew with them.
func printPaths(out io.Writer, dir string) error {
	tmp, err := os.MkdirTemp("", "measure-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	program, err := filepath.Abs(filepath.Join(tmp, "bench"))
	if err != nil {
		return err
	}
	list, err := run(dir, "go", "list", "-deps", "-f", "{{with .Module}}{{if .Main}}{{$.ImportPath}}{{end}}{{end}}", ".")
	if err != nil {
		return err
	}
	// Without counters in the main package a program does not write any.
	packages := strings.Join(append(strings.Fields(list), module+"/bench"), ",")
	if _, err := run(filepath.Join(dir, "bench"), "go", "build", "-cover", "-covermode=atomic", "-coverpkg="+packages, "-o", program, "."); err != nil {
		return err
	}
	for _, w := range walks {
		files, err := w.walk(tmp, program, w.server)
		if err != nil {
			return err
		}
		printPath(out, w.title, files)
	}
	return nil
}

func printPath(out io.Writer, title string, files map[string]usage) {
	root, busy := 0, 0
	for name, u := range files {
		if !strings.Contains(name, "/") {
			root++
		}
		if u.statements > few {
			busy++
		}
	}
	fmt.Fprintf(out, "%s: %d files, %d of them in the root, %d with more than %d statements\n", title, len(files), root, busy, few)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "times a message\tstatements\t  file")
	for _, name := range slices.SortedFunc(maps.Keys(files), func(a, b string) int {
		return cmp.Or(cmp.Compare(files[b].times, files[a].times), cmp.Compare(a, b))
	}) {
		fmt.Fprintf(w, "%.2f\t%d\t  %s\n", files[name].times, files[name].statements, name)
	}
	w.Flush()
}

func run(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off")
	text, err := cmd.Output()
	if exit, ok := err.(*exec.ExitError); ok {
		err = fmt.Errorf("%s: %w\n%s", cmd, err, exit.Stderr)
	}
	return string(text), err
}

func (c candidate) walk(tmp, program, server string) (map[string]usage, error) {
	serve := exec.Command(program, "serve", server)
	serve.Env = append(os.Environ(), "GOCOVERDIR="+tmp)
	stdin, err := serve.StdinPipe() // the server ends with it
	if err != nil {
		return nil, err
	}
	stdout, err := serve.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := serve.Start(); err != nil {
		return nil, err
	}
	defer serve.Wait()
	defer stdin.Close()
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", server, err)
	}
	c.Addr = strings.TrimSpace(addr)
	var counts [2]map[string]block
	for i := range counts {
		n := c
		n.Messages *= i + 1
		if counts[i], err = n.count(tmp, program); err != nil {
			return nil, err
		}
	}
	return grown(counts[0], counts[1], c.Messages), nil
}

// count runs the candidate once and returns how often each block ran.
func (c candidate) count(tmp, program string) (map[string]block, error) {
	dir, err := os.MkdirTemp(tmp, "counters-*")
	if err != nil {
		return nil, err
	}
	spec, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "candidate", string(spec))
	cmd.Env, cmd.Stderr = append(os.Environ(), "GOCOVERDIR="+dir), os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w", cmd, err)
	}
	profile := filepath.Join(dir, "profile")
	if _, err := run(dir, "go", "tool", "covdata", "textfmt", "-i="+dir, "-o="+profile); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(profile)
	if err != nil {
		return nil, err
	}
	return parseProfile(string(text))
}

// block is a run of statements that are executed together.
type block struct{ statements, count int }

// parseProfile reads a cover profile: lines of "file:from,to statements count". A block may occur
// more than once.
func parseProfile(text string) (map[string]block, error) {
	blocks := map[string]block{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == "mode:" {
			continue
		}
		if len(f) != 3 {
			return nil, fmt.Errorf("not a line of a cover profile: %q", line)
		}
		statements, err := strconv.Atoi(f[1])
		if err != nil {
			return nil, err
		}
		count, err := strconv.Atoi(f[2])
		if err != nil {
			return nil, err
		}
		blocks[f[0]] = block{statements, blocks[f[0]].count + count}
	}
	return blocks, nil
}

// usage is how often a message runs the busiest block of a file, and how many statements run.
type usage struct {
	times      float64
	statements int
}

// grown returns the files of the client with blocks that ran at least once per message more often
// when there were messages more of them.
func grown(before, after map[string]block, messages int) map[string]usage {
	files := map[string]usage{}
	for where, b := range after {
		file, _, _ := strings.Cut(where, ":")
		file = strings.TrimPrefix(file, module+"/")
		times := float64(b.count-before[where].count) / float64(messages)
		if times < once || strings.HasPrefix(file, "bench/") {
			continue
		}
		u := files[file]
		files[file] = usage{max(u.times, times), u.statements + b.statements}
	}
	return files
}
