package main

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// latest returns the newest figures of a row.
func latest(id string) (*row, rowResult, bool) {
	for i := range rows {
		if rows[i].id != id {
			continue
		}
		for _, label := range []string{"current", "before"} {
			if res, ok := load(label).Rows[id]; ok {
				return &rows[i], res, true
			}
		}
	}
	return nil, rowResult{}, false
}

func charts(dir string) error {
	write := func(name, svg string) error {
		if svg == "" {
			return nil
		}
		return os.WriteFile(filepath.Join(dir, name), []byte(svg), 0o644)
	}
	for _, c := range []struct{ file, id, title, metric string }{
		{"performance-receive.svg", "P1", "Receive: client CPU per message, ns (log scale)", ""},
		{"performance-publish.svg", "P3", "Acked publish, asynchronous: client CPU per message, ns (log scale)", ""},
		{"performance-waiting.svg", "P4", "Acked publish, 256 waiting goroutines: client CPU per message, ns (log scale)", ""},
		{"performance-roundtrip.svg", "P5", "Acked round trip, one in flight: p50, µs (log scale)", ""},
		{"performance-idle.svg", "P7", "Idle client with one subscription: heap + stack, bytes (log scale)", ""},
		{"performance-recovery.svg", "P9", "Kill to first message, fastest settings: median, µs (log scale)", ""},
		{"performance-herd.svg", "P15", "A herd comes back: time until the last client is back, as a multiple of the minimum (log scale)", ""},
		{"performance-herd-peak.svg", "P15", "A herd comes back: attempts in the worst second / handshakes that the server can make (log scale)", "peak"},
	} {
		if err := write(c.file, barsOf(c.id, c.title, c.metric)); err != nil {
			return err
		}
	}
	if err := write("performance-goals.svg", goalsChart()); err != nil {
		return err
	}
	for _, c := range []struct{ file, id, title, x, metric, y string }{
		{"performance-scale-clients.svg", "S1", "Cost per message, by number of clients", "clients in one process", "cpu", "client CPU ns per message"},
		{"performance-scale-clients-memory.svg", "S1", "Memory per idle client, by number of clients", "clients in one process", "memory", "heap + stack bytes per client"},
		{"performance-scale-subscriptions.svg", "S2", "Cost per message, by number of subscriptions", "subscriptions of one client", "cpu", "client CPU ns per message"},
		{"performance-scale-subscriptions-memory.svg", "S2", "Memory per subscription", "subscriptions of one client", "memory", "heap + stack bytes per subscription"},
		{"performance-scale-sizes.svg", "S3", "Cost per message, by payload size", "payload bytes", "cpu", "client CPU ns per message"},
	} {
		if err := write(c.file, curvesOf(c.id, c.title, c.x, c.metric, c.y)); err != nil {
			return err
		}
	}
	return nil
}

const (
	inkColour   = "#222"
	faintColour = "#d8d8d8"
	oursColour  = "#0b6e6e"
	otherColour = "#9aa5b1"
	missColour  = "#b3402a"
	floorColour = "#c98a1b"
)

// canvas collects the elements of an SVG picture.
type canvas struct {
	strings.Builder
	w, h int
}

func newCanvas(w, h int, title string) *canvas {
	c := &canvas{w: w, h: h}
	fmt.Fprintf(c, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" role="img" aria-label="%s">`+"\n", w, h, html.EscapeString(title))
	fmt.Fprintf(c, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", w, h)
	c.text(16, 24, "start", inkColour, title, 15)
	return c
}

func (c *canvas) text(x, y float64, anchor, colour, s string, size int) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s" font-size="%d">%s</text>`+"\n", x, y, anchor, colour, size, html.EscapeString(s))
}

func (c *canvas) line(x1, y1, x2, y2 float64, colour string, width float64) {
	fmt.Fprintf(c, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%.1f"/>`+"\n", x1, y1, x2, y2, colour, width)
}

func (c *canvas) rect(x, y, w, h float64, colour string) {
	fmt.Fprintf(c, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, max(w, 0.5), h, colour)
}

func (c *canvas) done() string { return c.String() + "</svg>\n" }

// axis maps values to coordinates by their logarithm.
type axis struct{ lo, hi, from, to float64 }

func logAxis(lo, hi, from, to float64) axis {
	lo, hi = math.Pow(10, math.Floor(math.Log10(lo)*2)/2), math.Pow(10, math.Ceil(math.Log10(hi)*2)/2)
	if lo == hi {
		hi *= 10
	}
	return axis{lo, hi, from, to}
}

func (a axis) at(v float64) float64 {
	v = min(max(v, a.lo), a.hi)
	return a.from + (a.to-a.from)*math.Log(v/a.lo)/math.Log(a.hi/a.lo)
}

// ticks are 1, 2 and 5 times the powers of ten, or the powers alone.
func (a axis) ticks() (list []float64) {
	steps := []float64{1, 2, 5}
	if a.hi/a.lo > 2000 {
		steps = steps[:1]
	}
	for p := math.Pow(10, math.Floor(math.Log10(a.lo))); p <= a.hi; p *= 10 {
		for _, s := range steps {
			if v := p * s; v >= a.lo*0.999 && v <= a.hi*1.001 {
				list = append(list, v)
			}
		}
	}
	return list
}

func short(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 3, 64) + " M"
	case v >= 1e5:
		return strconv.FormatFloat(v/1e3, 'f', 0, 64) + " k"
	case v >= 1000:
		return number(v)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// barsOf draws a metric of a row, by default the one that is judged.
func barsOf(id, title, metric string) string {
	def, res, ok := latest(id)
	if !ok {
		return ""
	}
	metric = cmp.Or(metric, def.metric)
	keys := res.order(def)
	lo, hi := math.Inf(1), 0.0
	left := 300.0
	for _, k := range keys {
		variant, name, _ := strings.Cut(k, "|")
		s := res.metric(variant, name, metric)
		lo, hi = min(lo, s.lo), max(hi, s.hi)
		left = max(left, 16+6.2*float64(len(k))) // room for the name
	}
	const right, top, step = 830, 48, 22
	c := newCanvas(900, top+step*len(keys)+44, title)
	x := logAxis(lo/2, hi, left, right)
	bottom := float64(top + step*len(keys) + 6)
	for _, t := range x.ticks() {
		c.line(x.at(t), top-6, x.at(t), bottom, faintColour, 1)
		c.text(x.at(t), bottom+16, "middle", inkColour, short(t), 11)
	}
	for i, k := range keys {
		variant, name, _ := strings.Cut(k, "|")
		s := res.metric(variant, name, metric)
		y := float64(top + i*step)
		colour := otherColour
		if strings.HasPrefix(name, "limpet") {
			colour = oursColour
		}
		if len(def.variants) > 1 {
			name = variant + "  " + name
		}
		c.text(left-8, y+13, "end", inkColour, name, 12)
		c.rect(left, y, x.at(s.median)-left, step-6, colour)
		c.line(x.at(s.lo), y+8, x.at(s.hi), y+8, inkColour, 1.5)
		c.text(x.at(s.hi)+6, y+13, "start", inkColour, number(s.median), 11)
	}
	return c.done()
}

// goalsChart draws every comparison as a share of its goal: from 1 on, to the right,
// the goal is reached, whatever the direction of the figure.
func goalsChart() string {
	type bar struct {
		label        string
		share, floor float64
	}
	var bars []bar
	for i := range rows {
		def, res, ok := latest(rows[i].id)
		if !ok {
			continue
		}
		for _, c := range def.compare {
			j := c.judge(def, res)
			if j.samples == 0 || c.goal == 0 || j.median == 0 {
				continue
			}
			b := bar{c.row(def) + "  " + c.what(def), c.goal / j.median, c.goal / c.floor}
			if c.inverse {
				b.share, b.floor = 1/b.share, 1/b.floor
			}
			bars = append(bars, b)
		}
	}
	if len(bars) == 0 {
		return ""
	}
	const left, right, top, step = 480, 930, 66, 20
	c := newCanvas(960, top+step*len(bars)+44, "Results as a share of the goal (log scale; goal = 1)")
	c.text(16, 44, "start", floorColour, "| floor", 12)
	c.text(70, 44, "start", oursColour, "goal reached", 12)
	c.text(160, 44, "start", otherColour, "floor reached", 12)
	c.text(250, 44, "start", missColour, "missed", 12)
	x := axis{0.03, 4, left, right}
	bottom := float64(top + step*len(bars) + 4)
	for _, t := range []float64{0.05, 0.1, 0.2, 0.5, 1, 2, 4} {
		width := 1.0
		if t == 1 {
			width = 2.5
		}
		c.line(x.at(t), top-6, x.at(t), bottom, faintColour, width)
		c.text(x.at(t), bottom+16, "middle", inkColour, short(t), 11)
	}
	for i, b := range bars {
		y := float64(top + i*step)
		colour := missColour
		if b.share >= 0.995 {
			colour = oursColour
		} else if b.share >= b.floor*0.995 {
			colour = otherColour
		}
		c.text(left-8, y+12, "end", inkColour, b.label, 11)
		c.rect(left, y+1, x.at(b.share)-left, step-7, colour)
		c.line(x.at(b.floor), y-1, x.at(b.floor), y+step-4, floorColour, 2)
	}
	return c.done()
}

func curvesOf(id, title, xTitle, metric, yTitle string) string {
	def, res, ok := latest(id)
	if !ok {
		return ""
	}
	const left, right, top, bottom = 90, 720, 48, 360
	var xs []float64
	lo, hi := math.Inf(1), 0.0
	var present []variant
	for _, v := range def.variants {
		for _, cand := range def.candidates {
			s := res.metric(v.name, cand.name, metric)
			if s.hi > 0 {
				lo, hi = min(lo, s.lo), max(hi, s.hi)
			}
		}
		if _, ok := res.Samples[key(v.name, def.candidates[0].name)]; ok {
			n, _ := strconv.ParseFloat(v.name, 64)
			xs, present = append(xs, n), append(present, v)
		}
	}
	if len(xs) < 2 || lo <= 0 || math.IsInf(lo, 1) {
		return ""
	}
	c := newCanvas(900, bottom+56, title)
	x, y := axis{xs[0], xs[len(xs)-1], left, right}, logAxis(lo*0.8, hi*1.2, bottom, top)
	for _, t := range y.ticks() {
		c.line(left, y.at(t), right, y.at(t), faintColour, 1)
		c.text(left-8, y.at(t)+4, "end", inkColour, short(t), 11)
	}
	for _, n := range xs {
		c.line(x.at(n), top, x.at(n), bottom, faintColour, 1)
		c.text(x.at(n), bottom+16, "middle", inkColour, short(n), 11)
	}
	c.text((left+right)/2, bottom+40, "middle", inkColour, "x: "+xTitle+" (log scale); y: "+yTitle+" (log scale)", 12)
	colours := []string{oursColour, otherColour, floorColour, missColour}
	for i, cand := range def.candidates {
		var points []string
		for k, v := range present {
			s := res.metric(v.name, cand.name, metric)
			if s.median <= 0 {
				continue
			}
			last := y.at(s.median)
			points = append(points, fmt.Sprintf("%.1f,%.1f", x.at(xs[k]), last))
			c.line(x.at(xs[k]), y.at(s.lo), x.at(xs[k]), y.at(s.hi), colours[i], 1.5)
			fmt.Fprintf(c, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x.at(xs[k]), last, colours[i])
			if len(def.candidates) == 1 {
				c.text(x.at(xs[k])+4, last-6, "start", colours[i], short(math.Round(s.median)), 10)
			}
		}
		fmt.Fprintf(c, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), colours[i])
		c.text(right+10, float64(top+10+18*i), "start", colours[i], cand.name, 12)
	}
	return c.done()
}
