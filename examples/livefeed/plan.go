package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// kind is how a connection is ended.
type kind int

const (
	cut       kind = iota // FIN to both ends at any moment
	reset                 // RST to both ends inside a WebSocket frame
	blackhole             // TCP stays up and carries nothing, until the client gives up
	refuse                // the next dials are reset as soon as they are accepted
	kinds
)

func (k kind) String() string {
	switch k {
	case cut:
		return "cut"
	case reset:
		return "reset"
	case blackhole:
		return "blackhole"
	case refuse:
		return "refuse"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// fault is one thing that the proxy does to the next connection.
type fault struct {
	kind   kind
	after  time.Duration // time from the server's first frame
	answer int           // cut: after this many bytes of the server's answer, instead of after; 0: not used
	up     bool          // reset: in a frame of the client; otherwise of the server
	inside float64       // reset: how far into the frame, 0 to 1
	dials  int           // refuse: how many in a row
}

// level is a strength of the fault proxy: how many faults of each kind. A refusal
// always follows a fault of another kind, which makes the client dial.
type level struct {
	name   string
	counts [kinds]int
	life   time.Duration // the longest time a connection lives before its fault
}

// minFaults is how many faults a run must survive to prove anything.
const minFaults = 12

// levels. Their lives are such that the faults fill most of the ten seconds.
var levels = []level{
	{name: "none"},
	{"mild", [kinds]int{cut: 12, refuse: 2}, 1400 * time.Millisecond},
	{"harsh", [kinds]int{cut: 6, reset: 6, blackhole: 4, refuse: 3}, 760 * time.Millisecond},
}

func findLevel(name string) (level, error) {
	for _, l := range levels {
		if l.name == name {
			return l, nil
		}
	}
	return level{}, fmt.Errorf("-faults %q: want none, mild or harsh", name)
}

const (
	minLife        = 60 * time.Millisecond
	handshakeCuts  = 4   // one in four cuts happens in the handshake
	handshakeBytes = 600 // bytes within which the handshake ends, WELCOME included
)

// schedule returns the faults for seed at level l, which are the same on every
// machine. What they hit depends on the clock.
func schedule(l level, seed uint64) []fault {
	r := rand.New(rand.NewPCG(seed, 0x6c696d706574))
	var enders []fault
	for k := range refuse {
		for i := range l.counts[k] {
			f := fault{kind: k, after: minLife + time.Duration(r.Int64N(int64(l.life-minLife)))}
			switch {
			case k == cut && i%handshakeCuts == 0:
				f.answer = 1 + r.IntN(handshakeBytes)
			case k == reset:
				f.up, f.inside = r.IntN(2) == 0, r.Float64()
			}
			enders = append(enders, f)
		}
	}
	r.Shuffle(len(enders), func(i, j int) { enders[i], enders[j] = enders[j], enders[i] })

	// Each series of refusals follows a fault that ends a connection.
	follows := map[int]bool{}
	for _, i := range r.Perm(len(enders))[:min(l.counts[refuse], len(enders))] {
		follows[i] = true
	}
	var out []fault
	for i, f := range enders {
		out = append(out, f)
		if follows[i] {
			out = append(out, fault{kind: refuse, dials: 1 + r.IntN(2)})
		}
	}
	return out
}
