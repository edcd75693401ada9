package limpettest

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// Script is a list of faults for successive dials.
type Script []Fault

// String returns the script as Go source, one fault per line.
func (s Script) String() string { return join(s, ",\n") }

var allKinds = []Kind{KindClean, KindRefuse, KindRefuseUpgrade, KindCut, KindReset, KindBlackHole, KindStall, KindCloseWith}

// Schedule makes n faults of the given kinds from seed; without kinds it uses all
// except KindAll. The same arguments always give the same faults. All faults are
// transient: statuses and close codes after which a client reconnects, stalls of up
// to 3 s, and counts that are reached within a short conversation. A test should
// print the seed when it fails.
func Schedule(seed uint64, n int, kinds ...Kind) Script {
	if len(kinds) == 0 {
		kinds = allKinds
	}
	r := rand.New(rand.NewPCG(seed, 0x11adb2a7))
	s := make(Script, n)
	for i := range s {
		s[i] = draw(r, kinds)
	}
	return s
}

// draw makes one fault of one of kinds.
func draw(r *rand.Rand, kinds []Kind) Fault {
	dir := func() Direction { return []Direction{Up, Down}[r.IntN(2)] }
	moment := func(f Fault) Fault {
		if r.IntN(2) == 0 {
			return f.AfterFrames(dir(), r.IntN(16))
		}
		f = f.AfterBytes(dir(), r.IntN(2048))
		if r.IntN(4) > 0 {
			f = f.Upgraded()
		}
		return f
	}
	k := kinds[r.IntN(len(kinds))]
	switch k {
	case KindRefuse:
		return Refuse(1 + r.IntN(3))
	case KindRefuseUpgrade:
		if r.IntN(2) == 0 {
			return RefuseUpgrade(http.StatusServiceUnavailable, http.Header{"Retry-After": {"1"}})
		}
		return RefuseUpgrade([]int{429, 500, 502, 503, 504}[r.IntN(5)], nil)
	case KindCut, KindReset:
		return moment(Fault{kind: k})
	case KindBlackHole:
		return moment(BlackHole([]Direction{Up, Down, Both}[r.IntN(3)]))
	case KindStall:
		d := time.Duration(1+r.IntN(30)) * 100 * time.Millisecond
		if r.IntN(3) == 0 {
			return Stall(d)
		}
		return moment(Stall(d))
	case KindCloseWith:
		code := []uint16{1001, 1011, 1012, 1013, 4200, 4202, 4205, 4302}[r.IntN(8)]
		return CloseWith(code, "scheduled", r.IntN(16))
	case KindAll:
		rest := slices.DeleteFunc(slices.Clone(kinds), func(k Kind) bool { return k == KindAll || k == KindRefuse })
		if len(rest) == 0 {
			return Clean()
		}
		return All(draw(r, rest), draw(r, rest))
	}
	return Clean()
}
