package main

import (
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// sampled are the files whose statements are broken: where state is kept.
var sampled = []string{
	"loop*.go", "queue*.go", "window.go", "ack.go", "registry.go", "topics.go", "conn.go", "credential.go", "reconnect.go", "rotation.go",
	"internal/commit/*.go", "internal/dispatch/*.go", "internal/endpoint/*.go", "internal/guard/*.go", "internal/inbox/*.go", "internal/names/*.go",
	"internal/pace/*.go", "internal/schedule/*.go", "internal/sequence/*.go", "internal/socket/*.go", "internal/verdict/*.go", "server/*.go",
}

// equivalents are breakages that no test can notice, because behaviour stays what
// it was. Each needs a reason that holds for every input. Slower code, or code that
// is wrong only rarely, is not equivalent.
var equivalents = []struct{ breakage, reason string }{
	{"server/peer.go over: true became false", "with code 0 stop closes the socket: what write still sends fails, as after a stop a moment later"},
	{"server/write.go watch: 0 became 1", "a wait of a nanosecond, or a limit that differs by one"},
	{"internal/socket/counter.go headerSize: without `if c.headerBytes < 2 { return 2 }`", "the size of the frame before is at least 2, and the second byte replaces it"},
}

// sample breaks n statements of the tree in dir, which seed selects, one at a time.
// The error counts those that no test noticed.
func sample(dir string, files []string, n int, seed uint64, out io.Writer) error {
	began := time.Now()
	fmt.Fprintf(out, "%d statements, seed %d\n", n, seed)
	statements, err := statementsOf(dir, files)
	if err != nil {
		return err
	}
	if err := checkSampleGreen(dir, statements, out); err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(seed, seed))
	random.Shuffle(len(statements), func(i, j int) { statements[i], statements[j] = statements[j], statements[i] })
	var survived []string
	broken, equivalent := 0, 0
	for _, ways := range statements {
		if broken == n {
			break
		}
		random.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
		for _, b := range ways {
			at := time.Now()
			verdict, err := tryBreakage(dir, b)
			if err != nil {
				return fmt.Errorf("%v: %w", b, err)
			}
			if verdict == "" {
				continue // it does not compile
			}
			broken++
			switch reason := reasonOf(b); {
			case verdict != "SURVIVED":
			case reason != "":
				equivalent++
				verdict = "equivalent: " + reason
			default:
				survived = append(survived, b.String())
			}
			fmt.Fprintf(out, "%v\n\t%s (%.1f s)\n", b, verdict, time.Since(at).Seconds())
			break
		}
	}
	fmt.Fprintf(out, "\n%d statements broken with seed %d in %.0f s: %d caught, %d equivalent, %d survived\n",
		broken, seed, time.Since(began).Seconds(), broken-equivalent-len(survived), equivalent, len(survived))
	for _, s := range survived {
		fmt.Fprintf(out, "SURVIVED %s\n", s)
	}
	if len(survived) > 0 {
		return fmt.Errorf("%d of %d broken statements survived", len(survived), broken)
	}
	if broken == 0 {
		return fmt.Errorf("no statement to break")
	}
	return nil
}

func reasonOf(b breakage) string {
	for _, e := range equivalents {
		if e.breakage == b.key() {
			return e.reason
		}
	}
	return ""
}

// checkSampleGreen runs on the unchanged tree every test that may be run on a broken
// one. A test that fails once and then passes is named, but ends nothing: the verdicts
// in which it occurs are in doubt.
func checkSampleGreen(dir string, statements [][]breakage, out io.Writer) error {
	var all []string
	for _, ways := range statements {
		all = append(all, testsOf(dir, ways[0].file)...)
	}
	slices.Sort(all)
	for _, args := range slices.Compact(all) {
		r, output, err := goTest(dir, args)
		if r == red {
			fmt.Fprintf(out, "NOT STEADY on the unchanged tree: %s\n", failedTest(output))
			r, output, err = goTest(dir, args)
		}
		if err != nil {
			return err
		}
		if r != green && r != untested {
			return fmt.Errorf("go test %s on the unchanged tree: %v\n%s", args, r, tail(output))
		}
	}
	return nil
}

// testsOf returns the tests that can notice a broken file, the narrowest first, as
// arguments of go test.
func testsOf(dir, file string) []string {
	const flags = "-failfast -timeout=90s "
	packages := []string{"./" + path.Dir(file), "./.", "./server", "./test"}
	var tests []string
	for _, p := range packages {
		args := flags + p
		if _, err := os.Stat(filepath.Join(dir, p)); err == nil && !slices.Contains(tests, args) {
			tests = append(tests, args)
		}
	}
	if path.Dir(file) == "internal/socket" {
		tests = append(tests, flags+". ./test -plain") // half of it serves only library frames
	}
	return tests
}

// tryBreakage applies b, runs the tests and restores the file. The verdict is empty
// if the tree does not compile.
func tryBreakage(dir string, b breakage) (verdict string, err error) {
	name := filepath.Join(dir, b.file)
	original, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	broken := slices.Concat(original[:b.from], []byte(b.text), original[b.to:])
	if err := os.WriteFile(name, broken, 0o644); err != nil {
		return "", err
	}
	defer func() { err = cmp.Or(err, os.WriteFile(name, original, 0o644)) }()
	build := exec.Command("go", "build", "./"+path.Dir(b.file))
	build.Dir = dir
	build.Env = append(os.Environ(), "GOWORK=off")
	if build.Run() != nil {
		return "", nil
	}
	for _, args := range testsOf(dir, b.file) {
		r, output, err := goTest(dir, args)
		switch {
		case err != nil:
			return "", err
		case r == unbuilt:
			return "", nil
		case r == red:
			return "caught by " + failedTest(output) + " in " + strings.Join(strings.Fields(args)[2:], " "), nil
		}
	}
	return "SURVIVED", nil
}

var (
	failLine  = regexp.MustCompile(`--- FAIL: (\S+)`)
	lateLine  = regexp.MustCompile(`panic: test timed out after \S+\s+running tests:\s+(\S+)`)
	panicLine = regexp.MustCompile(`(?m)^(panic|fatal error): .*`)
)

// failedTest returns what noticed, from the output of go test.
func failedTest(output string) string {
	if m := failLine.FindStringSubmatch(output); m != nil {
		return m[1]
	}
	if m := lateLine.FindStringSubmatch(output); m != nil {
		return m[1] + ", which did not end,"
	}
	return cmp.Or(panicLine.FindString(output), "the end of the process")
}

// statementsOf returns, for each statement in files, the ways to break it.
func statementsOf(dir string, files []string) ([][]breakage, error) {
	var statements [][]breakage
	for _, pattern := range files {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			source, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			relative, err := filepath.Rel(dir, name)
			if err != nil {
				return nil, err
			}
			found, err := breakagesIn(filepath.ToSlash(relative), source)
			if err != nil {
				return nil, err
			}
			statements = append(statements, found...)
		}
	}
	return statements, nil
}
