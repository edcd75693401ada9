package limpettest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Direction is a direction of travel, or both.
type Direction uint8

// The directions.
const (
	Up   Direction = 1 << iota // client to server
	Down                       // server to client
	Both = Up | Down
)

// String returns the name of the constant.
func (d Direction) String() string {
	switch d {
	case Up:
		return "Up"
	case Down:
		return "Down"
	case Both:
		return "Both"
	}
	return fmt.Sprintf("Direction(%d)", uint8(d))
}

// Kind says what a Fault does.
type Kind uint8

// The kinds of fault.
const (
	KindClean         Kind = iota // nothing
	KindRefuse                    // the dial is refused
	KindRefuseUpgrade             // the upgrade is answered with another status
	KindCut                       // FIN in both directions
	KindReset                     // RST in both directions
	KindBlackHole                 // bytes vanish and neither end notices
	KindStall                     // nothing arrives for a while
	KindCloseWith                 // a WebSocket close frame from the server's side, then FIN
	KindAll                       // several faults on one connection
)

// Fault is one thing that goes wrong on one connection. A Fault is a value: it
// prints as the expression that made it, so a failing test can show its script.
// The zero Fault is Clean.
//
// Counts begin with the first byte of the connection. Frames are WebSocket data
// frames (text, binary, continuation; RFC 6455, section 5.6); control frames are
// not counted. A count of 0 frames is reached with the upgrade, a count of 0
// bytes when the connection is made.
type Fault struct {
	kind   Kind
	n      int           // KindRefuse: dials
	dirs   Direction     // KindBlackHole
	d      time.Duration // KindStall
	status int           // KindRefuseUpgrade
	header http.Header   // KindRefuseUpgrade
	code   uint16        // KindCloseWith
	reason string        // KindCloseWith
	when   when
	parts  []Fault // KindAll
}

// when is the moment at which a fault takes effect. The zero value is the beginning
// of the connection.
type when struct {
	unit     unit
	dir      Direction
	n        int64
	upgraded bool // bytes are counted from the upgrade
}

// unit is what a moment is counted in.
type unit uint8

const (
	unitNone unit = iota
	unitBytes
	unitFrames
)

// Clean is no fault. It stands for a dial in a script that succeeds.
func Clean() Fault { return Fault{} }

// Refuse refuses the next n dials with ECONNREFUSED. On a loopback host, where the
// kernel accepts the dial, the connection is reset at once.
func Refuse(n int) Fault { return Fault{kind: KindRefuse, n: n} }

// RefuseUpgrade answers the HTTP request on the connection with status and header
// instead of passing it to the server, then closes the connection. A Date is added
// if header has none.
func RefuseUpgrade(status int, header http.Header) Fault {
	return Fault{kind: KindRefuseUpgrade, status: status, header: header.Clone()}
}

// CutAfterBytes ends the connection with FIN in both directions once n bytes have
// passed in dir. The write that reaches n succeeds, as with a kernel's buffer, but
// its bytes beyond n are lost.
func CutAfterBytes(dir Direction, n int) Fault { return Fault{kind: KindCut}.AfterBytes(dir, n) }

// CutAfterFrames ends the connection with FIN in both directions once n data
// frames have passed in dir.
func CutAfterFrames(dir Direction, n int) Fault { return Fault{kind: KindCut}.AfterFrames(dir, n) }

// ResetAfterBytes is CutAfterBytes with RST. Bytes that have passed can still be
// read, as on Linux.
func ResetAfterBytes(dir Direction, n int) Fault { return Fault{kind: KindReset}.AfterBytes(dir, n) }

// ResetAfterFrames is CutAfterFrames with RST.
func ResetAfterFrames(dir Direction, n int) Fault { return Fault{kind: KindReset}.AfterFrames(dir, n) }

// BlackHole drops everything that is sent in dirs, FIN and RST included, from the
// first byte of the connection on; AfterBytes and AfterFrames choose a later
// moment. Writes succeed. BlackHole(Both) is a half-open connection: each end
// believes that the other is there.
func BlackHole(dirs Direction) Fault { return Fault{kind: KindBlackHole, dirs: dirs} }

// Stall makes the dial take d. With AfterBytes or AfterFrames, bytes that are sent
// from that moment on, in either direction, arrive only after d; in the meantime
// buffers fill and writers block.
func Stall(d time.Duration) Fault { return Fault{kind: KindStall, d: d} }

// CloseWith ends the connection once n data frames have passed from the server: the
// client receives a WebSocket close frame with code and reason, at a frame
// boundary, then FIN. The server sees EOF.
func CloseWith(code uint16, reason string, n int) Fault {
	return Fault{kind: KindCloseWith, code: code, reason: reason}.AfterFrames(Down, n)
}

// All applies several faults to one connection.
func All(faults ...Fault) Fault { return Fault{kind: KindAll, parts: slices.Clone(faults)} }

// AfterBytes returns f at the moment when n bytes have passed in dir. Both means in
// whichever direction reaches n first.
func (f Fault) AfterBytes(dir Direction, n int) Fault {
	f.when = when{unit: unitBytes, dir: dir, n: int64(n)}
	return f
}

// AfterFrames returns f at the moment when n data frames have passed in dir.
func (f Fault) AfterFrames(dir Direction, n int) Fault {
	f.when = when{unit: unitFrames, dir: dir, n: int64(n)}
	return f
}

// Upgraded returns f with its bytes counted from the upgrade, so that the length of
// the HTTP exchange does not matter.
func (f Fault) Upgraded() Fault {
	f.when.upgraded = true
	return f
}

// Kind returns what f does.
func (f Fault) Kind() Kind { return f.kind }

// String returns the Go expression that makes f.
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

// suffix returns the end of a name such as CutAfterBytes, with its arguments.
func (w when) suffix() string { return strings.TrimPrefix(w.method(), ".") }

// method returns the method calls that set w.
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

// flat returns the faults that f applies to one connection.
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
