package limpettest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Dir is a direction of travel, or both.
type Dir uint8

const (
	Up   Dir = 1 << iota // client to server
	Down                 // server to client
	Both = Up | Down
)

func (d Dir) String() string {
	switch d {
	case Up:
		return "Up"
	case Down:
		return "Down"
	case Both:
		return "Both"
	}
	return fmt.Sprintf("Dir(%d)", uint8(d))
}

// Kind says what a Fault does.
type Kind uint8

const (
	KindClean         Kind = iota // nothing
	KindRefuse                    // the dial is refused
	KindRefuseUpgrade             // the upgrade is answered with another status
	KindCut                       // FIN in both directions
	KindReset                     // RST in both directions
	KindBlackHole                 // bytes vanish, nobody is told
	KindStall                     // nothing arrives for a while
	KindCloseWith                 // a WebSocket close frame from the server's side, then FIN
	KindAll                       // several faults on one connection
)

// Fault is one thing that goes wrong with one connection. A Fault is a value:
// it prints as the expression that made it, so a failing test can show its
// script. The zero Fault is Clean.
//
// Counts begin with the first byte of the connection. Frames are WebSocket data
// frames (text, binary, continuation; RFC 6455, section 5.6); control frames
// are not counted. A count of 0 frames is reached with the upgrade, a count of
// 0 bytes with the connection itself.
type Fault struct {
	kind   Kind
	n      int // KindRefuse: dials
	dirs   Dir // KindBlackHole
	d      time.Duration
	status int
	header http.Header
	code   uint16
	reason string
	when   when
	parts  []Fault
}

// when is the moment at which a fault acts; the zero value is the connection's
// beginning.
type when struct {
	unit     unit
	dir      Dir
	n        int64
	upgraded bool // bytes are counted from the upgrade
}

type unit uint8

const (
	unitNone unit = iota
	unitBytes
	unitFrames
)

// Clean is a dial without a fault: it fills a place in a script.
func Clean() Fault { return Fault{} }

// Refuse refuses the next n dials: ECONNREFUSED. On a loopback host, whose
// dials a real kernel accepts, the connection is reset at once.
func Refuse(n int) Fault { return Fault{kind: KindRefuse, n: n} }

// RefuseUpgrade answers the HTTP request on the connection with status and
// header instead of passing it to the server, and closes. A Date is added if
// header has none.
func RefuseUpgrade(status int, header http.Header) Fault {
	return Fault{kind: KindRefuseUpgrade, status: status, header: header.Clone()}
}

// CutAfterBytes ends the connection with FIN in both directions once n bytes
// have passed in dir. The write that reaches n succeeds, as a kernel's would;
// its bytes beyond n are lost.
func CutAfterBytes(dir Dir, n int) Fault { return Fault{kind: KindCut}.AfterBytes(dir, n) }

// CutAfterFrames ends the connection with FIN in both directions once n data
// frames have passed in dir.
func CutAfterFrames(dir Dir, n int) Fault { return Fault{kind: KindCut}.AfterFrames(dir, n) }

// ResetAfterBytes is CutAfterBytes with RST. What has passed can still be read,
// as on Linux.
func ResetAfterBytes(dir Dir, n int) Fault { return Fault{kind: KindReset}.AfterBytes(dir, n) }

// ResetAfterFrames is CutAfterFrames with RST.
func ResetAfterFrames(dir Dir, n int) Fault { return Fault{kind: KindReset}.AfterFrames(dir, n) }

// BlackHole lets what is sent in dirs vanish, FIN and RST included, from the
// connection's first byte on; AfterBytes and AfterFrames choose a later moment.
// Writes succeed. BlackHole(Both) is a half-open connection: each end believes
// that the other is there.
func BlackHole(dirs Dir) Fault { return Fault{kind: KindBlackHole, dirs: dirs} }

// Stall makes the dial take d. With AfterBytes or AfterFrames, what is sent from
// that moment on, in either direction, arrives when d has passed; buffers fill
// and writers wait meanwhile.
func Stall(d time.Duration) Fault { return Fault{kind: KindStall, d: d} }

// CloseWith ends the connection, once n data frames have passed from the server,
// with a WebSocket close frame of code and reason and then FIN. The frame is put
// at a frame boundary. The server sees EOF.
func CloseWith(code uint16, reason string, n int) Fault {
	return Fault{kind: KindCloseWith, code: code, reason: reason}.AfterFrames(Down, n)
}

// All puts several faults on one connection.
func All(faults ...Fault) Fault { return Fault{kind: KindAll, parts: slices.Clone(faults)} }

// AfterBytes moves f to the moment when n bytes have passed in dir; Both means
// in whichever direction gets there first.
func (f Fault) AfterBytes(dir Dir, n int) Fault {
	f.when = when{unit: unitBytes, dir: dir, n: int64(n)}
	return f
}

// AfterFrames moves f to the moment when n data frames have passed in dir.
func (f Fault) AfterFrames(dir Dir, n int) Fault {
	f.when = when{unit: unitFrames, dir: dir, n: int64(n)}
	return f
}

// Upgraded makes the bytes of f count from the upgrade, so that the length of
// the HTTP exchange does not matter.
func (f Fault) Upgraded() Fault {
	f.when.upgraded = true
	return f
}

// Kind is what f does.
func (f Fault) Kind() Kind { return f.kind }

// String is the Go expression that makes f.
func (f Fault) String() string {
	switch f.kind {
	case KindClean:
		return "Clean()"
	case KindRefuse:
		return fmt.Sprintf("Refuse(%d)", f.n)
	case KindRefuseUpgrade:
		return fmt.Sprintf("RefuseUpgrade(%d, %s)", f.status, headerString(f.header))
	case KindCut:
		return "Cut" + f.when.suffix()
	case KindReset:
		return "Reset" + f.when.suffix()
	case KindBlackHole:
		return fmt.Sprintf("BlackHole(%s)", f.dirs) + f.when.method()
	case KindStall:
		return fmt.Sprintf("Stall(%s)", durationString(f.d)) + f.when.method()
	case KindCloseWith:
		return fmt.Sprintf("CloseWith(%d, %q, %d)", f.code, f.reason, f.when.n)
	case KindAll:
		return "All(" + join(f.parts, ", ") + ")"
	}
	return fmt.Sprintf("Kind(%d)", uint8(f.kind))
}

func (w when) suffix() string { return strings.TrimPrefix(w.method(), ".") }

func (w when) method() string {
	s := ""
	switch w.unit {
	case unitBytes:
		s = fmt.Sprintf(".AfterBytes(%s, %d)", w.dir, w.n)
	case unitFrames:
		s = fmt.Sprintf(".AfterFrames(%s, %d)", w.dir, w.n)
	}
	if w.upgraded {
		s += ".Upgraded()"
	}
	return s
}

func durationString(d time.Duration) string {
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{time.Hour, "time.Hour"}, {time.Minute, "time.Minute"}, {time.Second, "time.Second"}, {time.Millisecond, "time.Millisecond"}} {
		if d != 0 && d%u.d == 0 {
			return fmt.Sprintf("%d*%s", d/u.d, u.name)
		}
	}
	return fmt.Sprintf("%d", int64(d))
}

func headerString(h http.Header) string {
	if len(h) == 0 {
		return "nil"
	}
	var b strings.Builder
	b.WriteString("http.Header{")
	for i, k := range slices.Sorted(maps.Keys(h)) {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q: {", k)
		for j, v := range h[k] {
			if j > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "%q", v)
		}
		b.WriteString("}")
	}
	b.WriteString("}")
	return b.String()
}

func join(faults []Fault, sep string) string {
	parts := make([]string, len(faults))
	for i, f := range faults {
		parts[i] = f.String()
	}
	return strings.Join(parts, sep)
}

// flat lists what f does on one connection.
func (f Fault) flat() []Fault {
	if f.kind != KindAll {
		return []Fault{f}
	}
	var all []Fault
	for _, p := range f.parts {
		all = append(all, p.flat()...)
	}
	return all
}
