package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// What happens inside one process is measured by Go benchmarks beside the
// code; this program runs them and keeps their figures with the rest.

var deliveryRow = row{
	id: "P11", title: "the delivery channel, put in and taken out (P11)", metric: "cpu", unit: "CPU ns a message",
	goBench: &goBench{".", "BenchmarkDelivery", "BenchmarkDelivery/"},
	compare: []comparison{
		{variant: "", ours: "Batches, offered by 64", floor: 140, goal: 30},
		{variant: "", ours: "Batches", floor: 140, goal: 30},
		{variant: "", ours: "Messages", floor: 140, goal: 30},
		{variant: "", ours: "C", floor: 500, goal: 200},
		{variant: "", ours: "Latest, 64 keys, offered by 64", floor: 140, goal: 60},
		{variant: "", ours: "Rate, offered by 64", floor: 140, goal: 40},
		{variant: "", ours: "Every, offered by 64", floor: 140, goal: 40},
	},
}

var codecRow = row{
	id: "P12", title: "codec: an envelope of 194 B in JSON (P12)", metric: "cpu", unit: "CPU ns an envelope",
	goBench: &goBench{"wire/native", "BenchmarkAppend|BenchmarkDecode|BenchmarkEvents", "Benchmark"},
	compare: []comparison{
		{ours: "Append/limpet.v1.json", floor: 150, goal: 100},
		{ours: "Append/limpet.v1.bin", floor: 150, goal: 100},
		{ours: "Decode/limpet.v1.json/1", floor: 400, goal: 200},
		{ours: "Decode/limpet.v1.bin/1", floor: 400, goal: 200},
		{ours: "Events/limpet.v1.json/1", floor: 400, goal: 200},
		{ours: "Events/limpet.v1.bin/1", floor: 400, goal: 200},
	},
}

var herdRow = row{
	id: "P15", title: "a herd comes back, in virtual time (P15)", metric: "all", unit: "last client / least possible",
	variants: []variant{
		{name: "1,000 clients, down 0 s"}, {name: "1,000 clients, down 5 s"}, {name: "1,000 clients, down 20 s"}, {name: "1,000 clients, down 60 s"},
		{name: "10,000 clients, down 0 s"}, {name: "10,000 clients, down 5 s"}, {name: "10,000 clients, down 20 s"}, {name: "10,000 clients, down 60 s"},
		{name: "100,000 clients, down 0 s"}, {name: "100,000 clients, down 5 s"}, {name: "100,000 clients, down 20 s"}, {name: "100,000 clients, down 60 s"},
		{name: "1,000,000 clients, down 60 s"},
		{name: "100,000 clients, no answer for 60 s"},
		{name: "100,000 clients, long queue"},
		{name: "100,000 clients, slower when busy"}, {name: "100,000 clients, slower when busy, 0.9 told"},
		{name: "100,000 clients, windows in order"},
		{name: "10,000 clients, no window and no slots"},
	},
	candidates: []contender{{name: "limpet"}, {name: "backoff v4 defaults"}},
	simulate:   herdBench,
	compare: herdVerdicts("1,000 clients, down 20 s", "10,000 clients, down 5 s", "10,000 clients, down 60 s", "100,000 clients, down 5 s", "100,000 clients, down 60 s",
		"1,000,000 clients, down 60 s", "100,000 clients, no answer for 60 s", "100,000 clients, long queue",
		"100,000 clients, slower when busy", "100,000 clients, slower when busy, 0.9 told", "100,000 clients, windows in order"),
}

func herdVerdicts(variants ...string) (list []comparison) {
	for _, v := range variants {
		list = append(list,
			comparison{variant: v, ours: "limpet", floor: 1.5, goal: 1.1},
			comparison{variant: v, ours: "limpet", metric: "peak", floor: 3, goal: 2})
	}
	return list
}

// testBinary is the test binary of a package.
type testBinary struct{ path, dir string }

func buildTests(dir string) (testBinary, error) {
	tmp, err := os.MkdirTemp("", "bench-micro-*")
	if err != nil {
		return testBinary{}, err
	}
	t := testBinary{filepath.Join(tmp, "bench.test"), dir}
	build := exec.Command("go", "test", "-c", "-o", t.path, ".")
	build.Dir, build.Env = dir, append(os.Environ(), "GOWORK=off")
	if text, err := build.CombinedOutput(); err != nil {
		t.remove()
		return testBinary{}, fmt.Errorf("%s: %w\n%s", build, err, text)
	}
	return t, nil
}

func (t testBinary) remove() { os.RemoveAll(filepath.Dir(t.path)) }

// run runs benchmarks and returns what they print and the CPU time they took.
func (t testBinary) run(pattern, times string) (string, time.Duration, error) {
	cmd := exec.Command(t.path, "-test.run", "^$", "-test.bench", pattern, "-test.benchmem", "-test.benchtime", times, "-test.cpu", "1")
	cmd.Dir = t.dir
	text, err := cmd.CombinedOutput()
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w\n%s", cmd, err, text)
	}
	return string(text), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

var benchLine = regexp.MustCompile(`(?m)^(Benchmark\S+)\s+\d+\s+(.*)$`)

// goBench is some benchmarks of one package. Each runs in a process of its own
// for a fixed number of iterations, and is judged by the CPU time of the
// process: the wall time that go test reports is worthless on a busy machine.
type goBench struct {
	dir     string // below the root of the module
	pattern string
	prefix  string // of their names, which is not shown
}

// builtBench is a goBench of one checkout, ready to run.
type builtBench struct {
	testBinary
	empty time.Duration // CPU time of a process that runs no benchmark
	list  []goBenchmark
}

type goBenchmark struct {
	pattern, name string
	op            float64 // ns of wall time of one iteration, in a short run
}

func (g *goBench) build(root string) (*builtBench, error) {
	tests, err := buildTests(filepath.Join(root, g.dir))
	if err != nil {
		return nil, err
	}
	built := &builtBench{testBinary: tests}
	if err := built.find(g); err != nil {
		tests.remove()
		return nil, err
	}
	return built, nil
}

func (t *builtBench) find(g *goBench) (err error) {
	if _, t.empty, err = t.run("^$", "1x"); err != nil {
		return err
	}
	text, _, err := t.run(g.pattern, "20ms")
	if err != nil {
		return err
	}
	for _, m := range benchLine.FindAllStringSubmatch(text, -1) {
		figures, err := benchFigures(m[2])
		if err != nil {
			return err
		}
		t.list = append(t.list, goBenchmark{
			pattern: "^" + strings.ReplaceAll(regexp.QuoteMeta(m[1]), "/", "$/^") + "$",
			name:    strings.ReplaceAll(strings.TrimPrefix(m[1], g.prefix), "_", " "),
			op:      figures["op"],
		})
	}
	if len(t.list) == 0 {
		return fmt.Errorf("%s: no benchmark matches %s", t.dir, g.pattern)
	}
	return nil
}

// once runs one benchmark for about the duration last.
func (t *builtBench) once(g goBenchmark, last time.Duration) (outcome, error) {
	n := int(max(1, float64(last)/g.op))
	text, cpu, err := t.run(g.pattern, strconv.Itoa(n)+"x")
	if err != nil {
		return nil, err
	}
	line := benchLine.FindStringSubmatch(text)
	if line == nil {
		return nil, fmt.Errorf("%s: no benchmark matches %s", t.dir, g.pattern)
	}
	out, err := benchFigures(line[2])
	if err != nil {
		return nil, err
	}
	per := max(1, out["per"])
	// The testing package runs one iteration more, first.
	return outcome{"cpu": float64(cpu-t.empty) / float64(n+1) / per, "allocs": out["allocs"] / per}, nil
}

const goBenchLasts = 300 * time.Millisecond

// rounds runs each benchmark once a round.
func (g *goBench) rounds(b *bench, r *row) error {
	built, err := g.build("..")
	if err != nil {
		return err
	}
	defer built.remove()
	res := rowResult{Samples: map[string][]outcome{}}
	rounds, last := b.rounds, goBenchLasts
	if b.quick {
		rounds, last = 1, 20*time.Millisecond
	}
	for round := range rounds {
		b.progress(r, round, rounds)
		for _, one := range built.list {
			out, err := built.once(one, last)
			if err != nil {
				return err
			}
			k := key("", one.name)
			res.Samples[k] = append(res.Samples[k], out)
		}
	}
	b.results.Rows[r.id] = res
	return nil
}

// herdBench runs the simulation of a herd once a round. Its figures are not of
// time, so a busy machine does not matter.
func herdBench(b *bench, r *row) error {
	tests, err := buildTests("..")
	if err != nil {
		return err
	}
	defer tests.remove()
	pattern, rounds := "^BenchmarkHerd$", b.rounds
	if b.quick {
		pattern, rounds = "^BenchmarkHerd$/^10,000", 1
	}
	res := rowResult{Samples: map[string][]outcome{}}
	for round := range rounds {
		b.progress(r, round, rounds)
		text, _, err := tests.run(pattern, "1x")
		if err != nil {
			return err
		}
		for _, m := range benchLine.FindAllStringSubmatch(text, -1) {
			out, err := benchFigures(m[2])
			if err != nil {
				return err
			}
			variant, name, _ := strings.Cut(strings.ReplaceAll(strings.TrimPrefix(m[1], "BenchmarkHerd/"), "_", " "), "/")
			k := key(variant, name)
			res.Samples[k] = append(res.Samples[k], outcome{"all": out["all"], "peak": out["peak"], "tries": out["tries"], "back": out["back"]})
		}
	}
	b.results.Rows[r.id] = res
	return nil
}

// benchFigures reads what follows the number of iterations.
func benchFigures(line string) (outcome, error) {
	out := outcome{}
	f := strings.Fields(line)
	for i := 0; i+1 < len(f); i += 2 {
		v, err := strconv.ParseFloat(f[i], 64)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		switch f[i+1] {
		case "ns/op":
			out["op"] = v
		case "allocs/op":
			out["allocs"] = v
		case "messages/op":
			out["per"] = v
		case "all/opt":
			out["all"] = v
		case "peak/R":
			out["peak"] = v
		case "tries", "back":
			out[f[i+1]] = v
		}
	}
	return out, nil
}
