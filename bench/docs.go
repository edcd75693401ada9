package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The prose of docs/performance.md is written by hand. The text between
//
//	<!-- begin KIND LABEL [ROW] --> and <!-- end -->
//
// is written by this program from the figures that are kept under LABEL.
var section = regexp.MustCompile(`(?s)(<!-- begin (\w+) (\w+)(?: ([^>]*?))? -->\n).*?(<!-- end -->)`)

func writeDocs(dir string) error {
	file := filepath.Join(dir, "performance.md")
	text, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	out := section.ReplaceAllFunc(text, func(found []byte) []byte {
		m := section.FindSubmatch(found)
		res := load(string(m[3]))
		var body string
		switch string(m[2]) {
		case "conditions":
			body = conditions(res)
		case "verdicts":
			body = verdicts(res)
		case "figures":
			body = figures(res, string(m[4]))
		case "profile":
			body = "```\n" + res.Profiles[string(m[4])] + "```\n"
		default:
			body = "no such section\n"
		}
		return []byte(string(m[1]) + body + string(m[5]))
	})
	if err := os.WriteFile(file, out, 0o644); err != nil {
		return err
	}
	return charts(dir)
}

func conditions(r *results) string {
	var b strings.Builder
	fmt.Fprintf(&b, "* Machine: %s.\n* Frames of limpet: %s.\n* Compared: %s.\n", r.Machine, r.Path, strings.Join(r.Versions, ", "))
	return b.String()
}

func verdicts(r *results) string {
	var b strings.Builder
	b.WriteString("| # | comparison, median of the rounds | measured | spread | floor | goal | reached |\n|---|---|---|---|---|---|---|\n")
	for i := range rows {
		def := &rows[i]
		res, ok := r.Rows[def.id]
		if !ok {
			continue
		}
		for _, c := range def.compare {
			j := c.judge(def, res)
			if j.samples == 0 {
				continue
			}
			word := map[string]string{"goal": "**goal**", "floor": "floor", "missed": "**missed**"}[j.verdict]
			fmt.Fprintf(&b, "| %s | %s | **%s** | %v | %s | %s | %s |\n", c.row(def), c.what(def), number(j.median), j.spread, number(c.floor), number(c.goal), word)
		}
	}
	return b.String()
}

func figures(r *results, id string) string {
	i := slices.IndexFunc(rows, func(def row) bool { return def.id == id })
	res, ok := r.Rows[id]
	if i < 0 || !ok {
		return "not measured\n"
	}
	def := &rows[i]
	keys := res.order(def)
	var metrics []string
	for _, m := range metricOrder {
		if slices.ContainsFunc(keys, func(k string) bool { return slices.Contains(res.metrics(k), m) }) {
			metrics = append(metrics, m)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Measured %s UTC, load average %s.\n\n| | |", res.Taken, res.Load)
	for _, m := range metrics {
		fmt.Fprintf(&b, " %s |", metricWords[m])
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(metrics)) + "\n")
	for _, k := range keys {
		variant, name, _ := strings.Cut(k, "|")
		fmt.Fprintf(&b, "| %s | %s |", variant, name)
		for _, m := range metrics {
			if !slices.Contains(res.metrics(k), m) {
				b.WriteString(" |")
				continue
			}
			s := res.metric(variant, name, m)
			fmt.Fprintf(&b, " %s", number(s.median))
			if m == def.metric && s.lo != s.hi {
				fmt.Fprintf(&b, " (%v)", s)
			}
			b.WriteString(" |")
		}
		b.WriteString("\n")
	}
	return b.String()
}
