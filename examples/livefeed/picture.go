package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// record collects the data for the picture.
type record struct {
	mu        sync.Mutex // leaf
	start     time.Time
	published []time.Duration
	delivered []time.Duration
	acked     []time.Duration
	away      []span // without a connection
}

// span is a period; if open is set it lasts to the end of the run.
type span struct {
	from, to time.Duration
	open     bool
}

func newRecord() *record { return &record{start: time.Now()} }

func (r *record) note(list *[]time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*list = append(*list, time.Since(r.start))
}

// connected records a change between having a connection and not.
func (r *record) connected(yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Since(r.start)
	n := len(r.away)
	isAway := n > 0 && r.away[n-1].open
	switch {
	case yes && isAway:
		r.away[n-1] = span{from: r.away[n-1].from, to: now}
	case !yes && !isAway:
		r.away = append(r.away, span{from: now, open: true})
	}
}

// The drawing area, in SVG user units.
const (
	picWidth, picHeight = 960.0, 560.0
	picLeft, picRight   = 64.0, 936.0
	sumTop, sumBottom   = 96.0, 320.0 // events so far
	markY               = 78.0        // faults
	lagTop, lagBottom   = 372.0, 476.0
	ackY                = 340.0 // alerts
)

const (
	inkColour       = "#1f2933"
	paleColour      = "#5f6b7a"
	publishedColour = "#e69f00"
	deliveredColour = "#0072b2"
	lagColour       = "#0072b2"
	awayColour      = "#e8ebef"
	holeColour      = "#c4cad2"
	ackColour       = "#009e73"
)

// faultColours can be distinguished by colour-blind readers too; in addition each kind
// has its own shape.
var faultColours = [kinds]string{cut: "#d55e00", reset: "#b0307a", blackhole: "#111111", refuse: "#7a5195"}

// picture draws a run as SVG: what was published and delivered over time, the
// lag between the two, where there was no connection, and every fault.
func picture(r *record, faults []mark, total int, caption string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := time.Second
	for _, list := range [][]time.Duration{r.published, r.delivered, r.acked} {
		if len(list) > 0 {
			end = max(end, list[len(list)-1])
		}
	}
	for _, m := range faults {
		end = max(end, m.at.Sub(r.start))
	}
	end += end / 50

	x := func(d time.Duration) float64 { return picLeft + (picRight-picLeft)*float64(min(d, end))/float64(end) }
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }

	p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="system-ui, sans-serif" font-size="13" role="img">`, picWidth, picHeight)
	p(`<title>A live feed through a bad network</title>`)
	p(`<rect width="%.0f" height="%.0f" rx="8" fill="#ffffff"/>`, picWidth, picHeight)
	p(`<text x="%.0f" y="30" font-size="18" font-weight="600" fill="%s">A live feed through a bad network</text>`, picLeft, inkColour)
	p(`<text x="%.0f" y="50" fill="%s">%s</text>`, picLeft, paleColour, escape(caption))

	drawAway(p, r, faults, x, end)

	maxLag := 0
	lags := lagSteps(r.published, r.delivered)
	for _, s := range lags {
		maxLag = max(maxLag, s.n)
	}
	sum := axis(p, sumTop, sumBottom, total)
	lagY := axis(p, lagTop, lagBottom, maxLag)
	p(`<text x="%.0f" y="%.0f" fill="%s">events so far</text>`, picLeft+8, sumTop+16, inkColour)
	p(`<text x="%.0f" y="%.0f" fill="%s">lag: published, not yet delivered</text>`, picLeft+8, lagTop-8, inkColour)
	for s := range int(end/time.Second) + 1 {
		d := time.Duration(s) * time.Second
		p(`<text x="%.1f" y="%.0f" text-anchor="middle" fill="%s">%d s</text>`, x(d), lagBottom+18, paleColour, s)
	}

	p(`<path d="%s" fill="none" stroke="%s" stroke-width="1.5"/>`, stairs(counts(r.published), x, sum, end), publishedColour)
	p(`<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`, stairs(counts(r.delivered), x, sum, end), deliveredColour)
	line := stairs(lags, x, lagY, end)
	p(`<path d="%s L%.1f %.1f L%.1f %.1fZ" fill="%s" fill-opacity="0.25"/>`, line, x(end), lagBottom, picLeft, lagBottom, lagColour)
	p(`<path d="%s" fill="none" stroke="%s" stroke-width="1.2"/>`, line, lagColour)
	for _, d := range r.acked {
		p(`<line x1="%.1f" x2="%.1f" y1="%.0f" y2="%.0f" stroke="%s" stroke-width="1.5"/>`, x(d), x(d), ackY-5, ackY+5, ackColour)
	}
	legend(p, drawFaults(p, faults, func(at time.Time) float64 { return x(at.Sub(r.start)) }), len(r.acked))
	p(`</svg>`)
	return b.String()
}

// drawAway draws when there was no connection, and when one was a black hole.
func drawAway(p func(string, ...any), r *record, faults []mark, x func(time.Duration) float64, end time.Duration) {
	for _, s := range r.away {
		to := s.to
		if s.open {
			to = end
		}
		p(`<rect x="%.1f" y="%.0f" width="%.1f" height="%.0f" fill="%s"/>`,
			x(s.from), sumTop, max(x(to)-x(s.from), 0.5), lagBottom-sumTop, awayColour)
	}
	for _, m := range faults {
		if m.kind == blackhole {
			from, to := x(m.from.Sub(r.start)), x(m.at.Sub(r.start))
			p(`<rect x="%.1f" y="%.0f" width="%.1f" height="%.0f" fill="%s"/>`, from, sumTop, to-from, lagBottom-sumTop, holeColour)
		}
	}
}

// drawFaults draws each fault at its time, and returns how many there are of each kind.
func drawFaults(p func(string, ...any), faults []mark, x func(time.Time) float64) (n [kinds]int) {
	for _, m := range faults {
		at := x(m.at)
		p(`<line x1="%.1f" x2="%.1f" y1="%.0f" y2="%.0f" stroke="%s" stroke-width="0.7" stroke-dasharray="2 3"/>`,
			at, at, markY+6, lagBottom, faultColours[m.kind])
		p(`%s`, glyph(m.kind, at, markY))
		n[m.kind]++
	}
	return n
}

// legend names the lines in one row and the faults in the next.
func legend(p func(string, ...any), n [kinds]int, acked int) {
	at, y := picLeft, lagBottom+46
	entry := func(shape, text string) {
		p(`%s<text x="%.1f" y="%.0f" fill="%s">%s</text>`, shape, at+24, y+4, inkColour, text)
		at += 44 + 7.2*float64(len(text))
	}
	stroke := func(colour string, width float64) string {
		return fmt.Sprintf(`<line x1="%.1f" x2="%.1f" y1="%.0f" y2="%.0f" stroke="%s" stroke-width="%.1f"/>`, at, at+18, y, y, colour, width)
	}
	entry(stroke(publishedColour, 1.5), "published by the server")
	entry(stroke(deliveredColour, 2), "delivered to the consumer")
	entry(fmt.Sprintf(`<rect x="%.1f" y="%.0f" width="18" height="12" fill="%s"/>`, at, y-6, awayColour), "no connection")
	entry(fmt.Sprintf(`<line x1="%.1f" x2="%.1f" y1="%.0f" y2="%.0f" stroke="%s" stroke-width="1.5"/>`, at+9, at+9, y-6, y+6, ackColour),
		fmt.Sprintf("%d alerts acknowledged", acked))
	at, y = picLeft, y+24
	for k := range kinds {
		entry(glyph(k, at+9, y), fmt.Sprintf("%d × %s", n[k], faultNames[k]))
	}
}

var faultNames = [kinds]string{
	cut: "cut (FIN)", reset: "reset inside a frame", blackhole: "black hole, in dark grey", refuse: "refused dial",
}

// glyph draws the symbol of a fault.
func glyph(k kind, x, y float64) string {
	c := faultColours[k]
	switch k {
	case cut:
		return fmt.Sprintf(`<path d="M%.1f %.1fl-6 -10h12z" fill="%s"/>`, x, y+5, c)
	case reset:
		return fmt.Sprintf(`<path d="M%.1f %.1fl10 10m0 -10l-10 10" stroke="%s" stroke-width="3"/>`, x-5, y-5, c)
	case blackhole:
		return fmt.Sprintf(`<circle cx="%.1f" cy="%.1f" r="5.5" fill="%s"/>`, x, y, c)
	}
	return fmt.Sprintf(`<rect x="%.1f" y="%.1f" width="9" height="9" fill="none" stroke="%s" stroke-width="2"/>`, x-4.5, y-4.5, c)
}

// axis draws a scale from 0 to high and returns the function from values to
// coordinates.
func axis(p func(string, ...any), top, bottom float64, high int) func(int) float64 {
	high = max(high, 1)
	y := func(n int) float64 { return bottom - (bottom-top)*float64(n)/float64(high) }
	for _, n := range []int{0, high / 2, high} {
		p(`<line x1="%.0f" x2="%.0f" y1="%.1f" y2="%.1f" stroke="#d5dae0" stroke-width="1"/>`, picLeft, picRight, y(n), y(n))
		p(`<text x="%.0f" y="%.1f" text-anchor="end" fill="%s">%d</text>`, picLeft-8, y(n)+4, paleColour, n)
	}
	return y
}

// step is a value that holds from a moment on.
type step struct {
	at time.Duration
	n  int
}

func counts(at []time.Duration) []step {
	out := make([]step, len(at))
	for i, d := range at {
		out[i] = step{d, i + 1}
	}
	return out
}

// lagSteps returns the difference of two counts over time, from their ascending times.
func lagSteps(published, delivered []time.Duration) []step {
	var out []step
	i, j := 0, 0
	for i < len(published) || j < len(delivered) {
		if j == len(delivered) || i < len(published) && published[i] <= delivered[j] {
			out = append(out, step{published[i], i + 1 - j})
			i++
			continue
		}
		out = append(out, step{delivered[j], max(i-j-1, 0)})
		j++
	}
	return out
}

// stairs returns the path of a step function. Within one unit of the picture only the
// extremes and the last value are drawn.
func stairs(steps []step, x func(time.Duration) float64, y func(int) float64, end time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "M%.1f %.1f", picLeft, y(0))
	last := 0
	for i := 0; i < len(steps); {
		at, high := x(steps[i].at), steps[i].n
		fmt.Fprintf(&b, " L%.1f %.1f", at, y(last))
		for ; i < len(steps) && x(steps[i].at) < at+1; i++ {
			high, last = max(high, steps[i].n), steps[i].n
		}
		if high != last {
			fmt.Fprintf(&b, " V%.1f", y(high))
		}
		fmt.Fprintf(&b, " V%.1f", y(last))
	}
	fmt.Fprintf(&b, " L%.1f %.1f", x(end), y(last))
	return b.String()
}

var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;")

func escape(s string) string { return escaper.Replace(s) }
