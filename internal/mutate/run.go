package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// mutation is one way to break guarded code.
type mutation struct {
	name    string // guard and breach: "oracle: forgets duplicates"
	file    string // from the root of the tree
	search  string // occurs exactly once in file
	replace string // must still compile
	test    string // the guard: arguments of go test, as narrow as possible, separated by spaces
	says    string // optional: a regular expression that the output of the failed test must match
}

// result is the result of a guard's test.
type result uint8

const (
	green    result = iota // passed, at least one test ran
	red                    // a test failed
	unbuilt                // nothing was tested: it does not compile
	untested               // nothing was tested: no test matches
)

func (r result) String() string {
	return [...]string{"green", "red", "does not compile", "no test ran"}[r]
}

// run applies each mutation to one of the copies of the tree, one at a time in each copy, and
// prints a table to out. Those that were not caught are named again at the end, where a log that
// was cut in the middle still has them. The error counts them. An empty table is an error too.
//
// After budget no further mutation begins, and the last line has the number of those that are
// left out; 0 means no bound. It is an error if not even one was tried.
func run(dirs []string, table []mutation, budget time.Duration, out io.Writer) error {
	if len(table) == 0 {
		return errors.New("no mutation to try")
	}
	start := time.Now()
	unbroken := guards{known: map[string]error{}}
	var mu sync.Mutex // guards out, missed and left
	var missed []string
	left := 0
	err := forEach(dirs, table, func(dir string, m mutation) error {
		began := time.Now()
		if budget > 0 && began.Sub(start) > budget {
			mu.Lock()
			left++
			mu.Unlock()
			return nil
		}
		verdict, output, err := "", "", unbroken.check(dir, m.test)
		if err == nil {
			verdict, output, err = try(dir, m)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if verdict != "caught" {
			missed = append(missed, fmt.Sprintf("%s: %s", m.name, verdict))
			if output != "" {
				fmt.Fprintf(out, "%s\n", tail(output))
			}
		}
		fmt.Fprintf(out, "%-44s %5.1fs  %s\n", m.name, time.Since(began).Seconds(), verdict)
		return nil
	})
	if err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	if len(missed) > 0 {
		return fmt.Errorf("%d of %d mutations not caught in %.0f s:\n\t%s", len(missed), len(table)-left, took, strings.Join(missed, "\n\t"))
	}
	if left == len(table) {
		return fmt.Errorf("the budget of %v is too short for any mutation", budget)
	}
	fmt.Fprintf(out, "%d mutations, all caught in %.0f s\n", len(table)-left, took)
	if left > 0 {
		fmt.Fprintf(out, "%d LEFT OUT: this machine is too slow for all of them in %v\n", left, budget)
	}
	return nil
}

// guards runs guards on the unchanged tree, each once and as they run on a broken one: a failure
// says something about a mutation only if the guard passes without it.
type guards struct {
	mu    sync.Mutex
	known map[string]error // by guard
}

func (g *guards) check(dir, guard string) error {
	g.mu.Lock()
	err, known := g.known[guard]
	g.mu.Unlock()
	if known {
		return err
	}
	r, output, err := goTest(dir, guard)
	if err == nil && r != green {
		err = fmt.Errorf("go test %s on the unchanged tree: %v\n%s", guard, r, tail(output))
	}
	g.mu.Lock()
	g.known[guard] = err
	g.mu.Unlock()
	return err
}

// forEach calls f for each mutation, in one goroutine for each directory. The first error ends it.
func forEach(dirs []string, table []mutation, f func(dir string, m mutation) error) error {
	next := make(chan mutation, len(table))
	for _, m := range table {
		next <- m
	}
	close(next)
	errs := make(chan error, len(dirs))
	for _, dir := range dirs {
		go func() {
			var err error
			for m := range next {
				if err = f(dir, m); err != nil {
					for range next { // the others end too
					}
				}
			}
			errs <- err
		}()
	}
	var all []error
	for range dirs {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// try applies m, runs its guard and restores the file. The verdict is "caught", or why not.
func try(dir string, m mutation) (verdict, output string, err error) {
	name := filepath.Join(dir, filepath.FromSlash(m.file))
	original, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return "NOT APPLIED: there is no " + m.file, "", nil
	}
	if err != nil {
		return "", "", err
	}
	if n := strings.Count(string(original), m.search); n != 1 {
		return fmt.Sprintf("NOT APPLIED: the search text occurs %d times in %s", n, m.file), "", nil
	}
	broken := strings.Replace(string(original), m.search, m.replace, 1)
	if err := os.WriteFile(name, []byte(broken), 0o644); err != nil {
		return "", "", err
	}
	r, output, err := goTest(dir, m.test)
	if err := errors.Join(err, os.WriteFile(name, original, 0o644)); err != nil {
		return "", "", err
	}
	switch {
	case r == green:
		return "SURVIVED", output, nil
	case r != red:
		return "PROVES NOTHING: " + r.String(), output, nil
	case m.says != "":
		re, err := regexp.Compile(m.says)
		if err != nil {
			return "", "", err
		}
		if !re.MatchString(output) {
			return "RED FOR ANOTHER REASON: no match for " + m.says, output, nil
		}
	}
	return "caught", output, nil
}

// buildFlags returns the flags for the tests of pkg. There is no debugging information, which
// takes longer to link than most guards run. What the scenario tests guard is compiled again for
// every mutation, and that takes a third less time without optimization.
func buildFlags(pkg string) []string {
	flags := []string{"-vet=off", "-trimpath", "-ldflags=-w"}
	if pkg == "./test" {
		flags = append(flags, "-gcflags=github.com/limpet-go/limpet/...=-N -l")
	}
	return flags
}

// goTest runs one guard: with the tests that it needs, or with all if that does not compile. The
// compiler and the linker do not collect garbage, which saves a third of their time; the test
// does. A minute is enough for it, and ends a mutation that makes a test hang.
func goTest(dir, args string) (result, string, error) {
	guard := strings.Fields(args)
	if len(guard) == 3 && guard[0] == "-run" && strings.HasPrefix(guard[2], ".") {
		to, err := os.MkdirTemp("", "stripped")
		if err != nil {
			return 0, "", err
		}
		defer os.RemoveAll(to)
		all, err := readTests(filepath.Join(dir, filepath.FromSlash(guard[2])))
		if err != nil {
			return 0, "", err
		}
		overlay, err := all.strip(guard[1], to)
		if err != nil {
			return 0, "", err
		}
		if overlay != "" {
			if r, output, err := goTestWith(dir, guard, "-overlay="+overlay); err != nil || r != unbuilt {
				return r, output, err
			}
		}
	}
	return goTestWith(dir, guard)
}

func goTestWith(dir string, guard []string, flags ...string) (result, string, error) {
	last := len(guard) - 1
	module, pkg, err := moduleOf(dir, guard[last])
	if err != nil {
		return 0, "", err
	}
	run := slices.Concat([]string{"test", "-json", "-count=1", "-timeout=60s", "-exec=env -u GOGC"}, flags, buildFlags(guard[last]), guard[:last], []string{pkg})
	cmd := exec.Command("go", run...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOGC=off")
	raw, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, "", err
	}
	return classify(raw, err == nil, exit)
}

// moduleOf returns the folder of the module that a package below dir is in, and the package as that module names it.
func moduleOf(dir, pkg string) (module, name string, err error) {
	if !strings.HasPrefix(pkg, ".") {
		return dir, pkg, nil
	}
	folder := filepath.Join(dir, filepath.FromSlash(pkg))
	for module = folder; module != dir && !exists(filepath.Join(module, "go.mod")); {
		if module = filepath.Dir(module); len(module) < len(dir) {
			return dir, pkg, nil // a pattern above dir
		}
	}
	relative, err := filepath.Rel(module, folder)
	return module, "./" + filepath.ToSlash(relative), err
}

// classify reads the events of test2json. A package whose build failed has FailedBuild in its
// fail event, which distinguishes a failed test from a tree that does not compile.
func classify(raw []byte, passed bool, exit *exec.ExitError) (result, string, error) {
	var text strings.Builder
	ran, unbuiltPackage, failed := false, false, false
	for line := range bytes.Lines(raw) {
		var e struct{ Action, Test, Output, FailedBuild string }
		if json.Unmarshal(line, &e) != nil {
			text.Write(line)
			continue
		}
		text.WriteString(e.Output)
		switch e.Action {
		case "run":
			ran = true
		case "build-fail":
			unbuiltPackage = true
		case "fail":
			failed = true
			unbuiltPackage = unbuiltPackage || e.FailedBuild != ""
		}
	}
	if exit != nil {
		text.Write(exit.Stderr)
	}
	switch {
	case unbuiltPackage:
		return unbuilt, text.String(), nil
	case passed && ran:
		return green, text.String(), nil
	case failed && ran:
		return red, text.String(), nil
	case passed || failed:
		return untested, text.String(), nil
	}
	return 0, "", fmt.Errorf("go test did not start: %s", text.String())
}

// tail returns the last 20 lines of s.
func tail(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// copyTree copies the files that git tracks and those that it would add, so that uncommitted work
// is included and build output is not.
func copyTree(from, to string) error {
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = from
	list, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("git ls-files: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list), "\x00"), "\x00") {
		info, err := os.Lstat(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, not yet committed
		}
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		dst := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(dst, b, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return nil
}
