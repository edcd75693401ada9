package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// What happens inside one process is measured by Go benchmarks beside the
// code; this program runs them and keeps their figures with the rest.

var deliveryRow = row{
	id: "P11", title: "the delivery channel, put in and taken out (P11)", metric: "cpu", unit: "ns a message",
	micro: goBench("..", "BenchmarkDelivery", "BenchmarkDelivery/"),
	compare: []comparison{
		{variant: "", ours: "Batches, offered by 64", floor: 140, goal: 30},
		{variant: "", ours: "Batches", floor: 140, goal: 30},
		{variant: "", ours: "Messages", floor: 140, goal: 30},
		{variant: "", ours: "C", floor: 140, goal: 30},
	},
}

var codecRow = row{
	id: "P12", title: "codec: an envelope of 194 B in JSON (P12)", metric: "cpu", unit: "ns an envelope",
	micro: goBench("../wire/native", "BenchmarkAppend|BenchmarkDecode", "Benchmark"),
	compare: []comparison{
		{ours: "Append/limpet.v1.json", floor: 150, goal: 100},
		{ours: "Append/limpet.v1.bin", floor: 150, goal: 100},
		{ours: "Decode/limpet.v1.json/1", floor: 400, goal: 200},
		{ours: "Decode/limpet.v1.bin/1", floor: 400, goal: 200},
	},
}

var benchLine = regexp.MustCompile(`(?m)^(Benchmark\S+)\s+\d+\s+(.*)$`)

// goBench runs the benchmarks of one package, each as often as there are rounds.
func goBench(dir, pattern, prefix string) func(*bench, *row) error {
	return func(b *bench, r *row) error {
		n, t := b.rounds, "100ms"
		if b.quick {
			n, t = 1, "1ms"
		}
		cmd := exec.Command("go", "test", "-run", "^$", "-bench", pattern, "-benchmem", "-benchtime", t, "-cpu", "1", "-count", strconv.Itoa(n), ".")
		cmd.Dir = dir
		text, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", cmd, err, text)
		}
		res := rowResult{Samples: map[string][]outcome{}}
		for _, m := range benchLine.FindAllStringSubmatch(string(text), -1) {
			name := strings.ReplaceAll(strings.TrimPrefix(m[1], prefix), "_", " ")
			out := outcome{}
			f := strings.Fields(m[2])
			for i := 0; i+1 < len(f); i += 2 {
				v, err := strconv.ParseFloat(f[i], 64)
				if err != nil {
					return fmt.Errorf("%q: %w", m[0], err)
				}
				switch f[i+1] {
				case "ns/op":
					out["op"] = v
				case "allocs/op":
					out["allocs"] = v
				case "envelopes/op", "messages/op":
					out["per"] = v
				}
			}
			per := max(1, out["per"])
			out["cpu"], out["allocs"] = out["op"]/per, out["allocs"]/per
			res.Samples[key("", name)] = append(res.Samples[key("", name)], out)
		}
		if len(res.Samples) == 0 {
			return fmt.Errorf("%s: no benchmark ran\n%s", cmd, text)
		}
		b.results.Rows[r.id] = res
		return nil
	}
}
