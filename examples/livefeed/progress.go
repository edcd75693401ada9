package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// sample is the state of a run at one moment.
type sample struct {
	elapsed                     time.Duration
	total, published, delivered int
	alerts, acked               int
	reconnects, faults          int
	state                       string
}

// progress prints the state of the run: on a terminal one line that is overwritten,
// elsewhere one line per second. One goroutine does all the printing.
type progress struct {
	out   io.Writer
	live  bool
	look  func() sample
	notes chan string
	quit  chan struct{}
	done  chan struct{}
	past  []sample // those of the last second and the one before it, the oldest first
}

// onTerminal reports whether f is a terminal that understands carriage return.
func onTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

func startProgress(out io.Writer, live bool, look func() sample) *progress {
	p := &progress{out: out, live: live, look: look, past: []sample{{}},
		notes: make(chan string, 64), quit: make(chan struct{}), done: make(chan struct{})}
	go p.run()
	return p
}

// note prints a separate line.
func (p *progress) note(format string, args ...any) {
	select {
	case p.notes <- fmt.Sprintf(format, args...):
	case <-p.done:
	}
}

// stop prints the final state. Nothing is printed after it returns.
func (p *progress) stop() {
	close(p.quit)
	<-p.done
}

func (p *progress) run() {
	defer close(p.done)
	every := time.Second
	if p.live {
		every = 100 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case n := <-p.notes:
			p.print(n)
		case <-tick.C:
			p.show()
		case <-p.quit:
			for {
				select {
				case n := <-p.notes:
					p.print(n)
					continue
				default:
				}
				break
			}
			p.show()
			if p.live {
				fmt.Fprintln(p.out)
			}
			return
		}
	}
}

const clearLine = "\r\x1b[K"

func (p *progress) print(line string) {
	if p.live {
		line = clearLine + line
	}
	fmt.Fprintln(p.out, line)
}

func (p *progress) show() {
	s := p.look()
	rate := 0.0
	if d := s.elapsed - p.past[0].elapsed; d > 0 {
		rate = float64(s.delivered-p.past[0].delivered) / d.Seconds()
	}
	p.past = append(p.past, s)
	for len(p.past) > 1 && s.elapsed-p.past[1].elapsed >= time.Second {
		p.past = p.past[1:]
	}
	if p.live {
		fmt.Fprint(p.out, clearLine+liveLine(s, rate))
	} else {
		fmt.Fprintln(p.out, plainLine(s, rate))
	}
}

func lag(s sample) int { return max(s.published-s.delivered, 0) }

// liveLine returns a line of at most 80 columns.
func liveLine(s sample, rate float64) string {
	const width = 12
	full := 0
	if s.total > 0 {
		full = min(width*s.delivered/s.total, width)
	}
	return fmt.Sprintf("%5.1fs %s%s %4d/%d %4.0f/s lag %-4d alerts %d/%d reconn %-2d %s",
		s.elapsed.Seconds(), strings.Repeat("█", full), strings.Repeat("░", width-full),
		s.delivered, s.total, rate, lag(s), s.acked, s.alerts, s.reconnects, s.state)
}

func plainLine(s sample, rate float64) string {
	return fmt.Sprintf("%5.1fs events=%d/%d rate=%.0f/s lag=%d alerts=%d/%d reconnects=%d faults=%d state=%s",
		s.elapsed.Seconds(), s.delivered, s.total, rate, lag(s), s.acked, s.alerts, s.reconnects, s.faults, s.state)
}
