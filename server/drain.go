package server

import (
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire/native"
)

// DrainOptions are the options of Drain. Nil means the zero value; a negative duration counts
// as zero.
type DrainOptions struct {
	// After is the time before which no client leaves.
	After time.Duration

	// Spread is the window behind After in which the clients leave, each at a random moment:
	// for n clients, of which r can come back in a second, n / r seconds.
	Spread time.Duration

	// Deadline closes the connections that are still there, with 4300, this long after the
	// call. Defaults to none: the server waits for Shutdown or Close.
	Deadline time.Duration

	// URL is where the clients make their next connection: only those whose Options.Redirects
	// allow it. Defaults to their own URLs. A URL of more than 8 KiB, or one that is not UTF-8,
	// is left out: no client could read it.
	URL string
}

const maxMoveURL = 8 << 10 // bytes

// Drain asks every client that is connected to make another connection, and returns how many
// there are. Each goes on with the connection that it has until the next one is there, so
// nothing is lost and nothing pauses (docs/protocol.md, section 8). The server goes on as
// before: clients that a balancer sends here again are accepted. Before a process ends, take it
// out of the balancer, call Drain, and Shutdown once Stats says that the clients have left, or
// after the Deadline. Drain does not block.
func (s *Server) Drain(o *DrainOptions) (connections int) {
	if o == nil {
		o = &DrainOptions{}
	}
	millis := func(d time.Duration) uint64 { return uint64(max(d, 0).Milliseconds()) }
	f := native.Frame{Type: native.TypeGoAway, GoAway: &native.GoAway{
		Code: native.CloseGoingAway, After: millis(o.After), Spread: millis(o.Spread), DL: millis(o.Deadline), URL: o.URL, Res: true,
	}}
	if len(o.URL) > maxMoveURL || !utf8.ValidString(o.URL) {
		f.GoAway.URL = ""
	}
	s.mu.Lock()
	asked := make([]*peer, 0, len(s.peers))
	for p := range s.peers {
		asked = append(asked, p)
	}
	s.mu.Unlock()
	s.opt.Logger.Info("drain", "connections", len(asked), "after", max(o.After, 0), "spread", max(o.Spread, 0), "deadline", max(o.Deadline, 0))
	for _, p := range asked {
		p.askToLeave(f)
	}
	if o.Deadline > 0 {
		time.AfterFunc(o.Deadline, func() {
			for _, p := range asked {
				p.stop(native.CloseGoingAway, "going away", false)
			}
		})
	}
	return len(asked)
}

// askToLeave queues a goaway, whatever else waits.
func (p *peer) askToLeave(f native.Frame) {
	p.leaves.Store(true)
	p.mu.Lock()
	if p.end == nil {
		p.queue = append(p.queue, order{frame: f})
	}
	p.mu.Unlock()
	p.poke()
}
