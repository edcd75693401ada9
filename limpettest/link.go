package limpettest

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// link is one connection: two halves under one leaf lock. No goroutine blocks while
// it holds the lock, except on its condition, which blocks durably in a
// testing/synctest bubble.
type link struct {
	mu   sync.Mutex
	cond sync.Cond

	net   *Network
	id    int
	addr  string // address dialled
	up    half
	down  half
	rules []Fault // faults that are not due yet
	ended bool    // cut, reset or closed at both ends

	clientClosed, serverClosed bool
	captured                   []Message

	willVanish, willStall bool // a fault has acted whose effect shows with the next bytes
}

// half carries bytes in one direction, at most max at a time.
type half struct {
	dir     Direction
	max     int
	latency time.Duration
	meter   meter

	buf   []byte // buf[off:] is in flight
	off   int
	slots []slot    // when these bytes arrive; empty: they have arrived
	hold  time.Time // a stall: nothing sent arrives before

	writing bool      // one writer at a time
	hole    bool      // what is written vanishes
	gone    bool      // there is no reader any more: writers get EPIPE
	fin     bool      // there is no writer any more: readers get EOF after buf
	finAt   time.Time // when the EOF arrives
	rst     bool      // both ends get ECONNRESET, the reader after buf

	readBy, writeBy deadline
}

// slot says when the next n bytes arrive.
type slot struct {
	n  int
	at time.Time
}

// deadline is a read or write deadline; the zero value is none.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func newLink(n *Network, id int, addr string, faults []Fault) *link {
	l := &link{net: n, id: id, addr: addr, rules: faults}
	l.cond.L = &l.mu
	l.up = half{dir: Up, max: n.buffer, latency: n.up}
	l.down = half{dir: Down, max: n.buffer, latency: n.down}
	l.up.meter.capture, l.down.meter.capture = n.capture, n.capture
	return l
}

// wake wakes all waiting goroutines. It is called by timers.
func (l *link) wake() {
	l.mu.Lock()
	l.cond.Broadcast()
	l.mu.Unlock()
}

// wait waits for a change, or until at if that is set. The caller holds mu.
func (l *link) wait(at time.Time) {
	if at.IsZero() {
		l.cond.Wait()
		return
	}
	t := time.AfterFunc(time.Until(at), l.wake)
	l.cond.Wait()
	t.Stop()
}

// setDeadline changes d and wakes all waiting goroutines. The caller holds mu.
func (l *link) setDeadline(d *deadline, at time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = at
	if !at.IsZero() && !d.passed() {
		d.timer = time.AfterFunc(time.Until(at), l.wake)
	}
	l.cond.Broadcast()
}

// arrived returns how many bytes can be read now, and when more arrive.
func (h *half) arrived() (n int, next time.Time) {
	if len(h.slots) == 0 {
		return h.flight(), time.Time{}
	}
	now := time.Now()
	for _, s := range h.slots {
		if s.at.After(now) {
			return n, s.at
		}
		n += s.n
	}
	return n, time.Time{}
}

// flight returns how many bytes are in flight.
func (h *half) flight() int { return len(h.buf) - h.off }

// take moves bytes that have arrived to p.
func (h *half) take(p []byte, arrived int) int {
	n := copy(p, h.buf[h.off:h.off+arrived])
	if h.off += n; h.off == len(h.buf) {
		h.buf, h.off = h.buf[:0], 0
	}
	for left := n; left > 0 && len(h.slots) > 0; {
		k := min(left, h.slots[0].n)
		left -= k
		if h.slots[0].n -= k; h.slots[0].n == 0 {
			h.slots = h.slots[1:]
		}
	}
	return n
}

// put puts p in flight.
func (h *half) put(p []byte) {
	if len(p) == 0 {
		return
	}
	before := h.flight()
	if h.off > 0 && len(h.buf)+len(p) > cap(h.buf) {
		h.buf = h.buf[:copy(h.buf, h.buf[h.off:])]
		h.off = 0
	}
	h.buf = append(h.buf, p...)
	at := h.arrival()
	if at.IsZero() && len(h.slots) == 0 {
		return
	}
	if len(h.slots) == 0 && before > 0 {
		h.slots = append(h.slots, slot{before, time.Time{}})
	}
	h.slots = append(h.slots, slot{len(p), at})
}

// arrival returns when bytes sent now arrive; zero means at once.
func (h *half) arrival() time.Time {
	now := time.Now()
	at := now.Add(h.latency)
	if h.hold.After(at) {
		at = h.hold
	}
	if !at.After(now) {
		return time.Time{}
	}
	return at
}

// end ends the stream: the reader gets EOF after what is in flight.
func (h *half) end() {
	if !h.fin && !h.hole {
		h.fin, h.finAt = true, h.arrival()
	}
}

// transit passes p through the meter into the buffer and applies the faults that
// fall due. p must fit into the buffer. It returns how much of p it has taken: up
// to the next frame boundary or the next fault.
func (l *link) transit(h *half, p []byte) int {
	q := p
	for _, f := range l.rules {
		if f.when.dir&h.dir != 0 {
			if n, ok := h.meter.room(f.when); ok && n > 0 {
				q = q[:min(int64(len(q)), n)]
			}
		}
	}
	n, k := h.meter.step(q)
	if !h.hole && !h.gone {
		h.put(q[:n])
	}
	l.noteBytes(h)
	switch k {
	case markHead:
		l.headEnd(h)
	case markMessage:
		if l.net.capture {
			l.captured = append(l.captured, Message{
				Conn: l.id, Direction: h.dir, Seq: l.net.seq.Add(1), At: time.Now(),
				Text: h.meter.op == 1, Skipped: h.meter.skip, Data: h.meter.payload,
			})
			h.meter.payload = nil
		}
	}
	l.strike()
	return n
}

// noteBytes counts the faults whose effect shows with bytes in h.
func (l *link) noteBytes(h *half) {
	if l.willVanish && h.hole {
		l.willVanish = false
		l.net.count(KindBlackHole)
	}
	if l.willStall && !h.hole && !h.gone {
		l.willStall = false
		if time.Now().Before(h.hold) {
			l.net.count(KindStall)
		}
	}
}

// noteEnd counts a fault that ends the connection, unless it has ended.
func (l *link) noteEnd(k Kind) {
	if l.ended {
		return
	}
	l.willVanish, l.willStall = false, false
	l.net.count(k)
	if k != KindCloseWith && (l.up.meter.midFrame() || l.down.meter.midFrame()) {
		l.net.midFrame.Add(1)
	}
}

// headEnd handles the end of an HTTP head: after a 101 both directions carry frames.
func (l *link) headEnd(h *half) {
	switch status := h.meter.status(); {
	case h.dir == Up:
		h.meter.state = inHTTP
	case status == http.StatusSwitchingProtocols:
		l.up.meter.upgrade()
		l.down.meter.upgrade()
	case status/100 == 1:
		h.meter.again()
	default:
		h.meter.state = inHTTP
	}
}

// strike applies every fault that is due. No fault makes another one due, because
// counts do not change here.
func (l *link) strike() {
	keep := l.rules[:0]
	for _, f := range l.rules {
		if l.due(f) {
			l.act(f)
		} else {
			keep = append(keep, f)
		}
	}
	l.rules = keep
}

// due reports whether the moment of f has come.
func (l *link) due(f Fault) bool {
	if f.kind == KindRefuseUpgrade {
		return l.up.meter.state != inHead
	}
	w := f.when
	return w.unit == unitNone || w.dir&Up != 0 && l.up.meter.reached(w) || w.dir&Down != 0 && l.down.meter.reached(w)
}

// act applies f.
func (l *link) act(f Fault) {
	switch f.kind {
	case KindCut:
		l.noteEnd(f.kind)
		l.cut()
	case KindReset:
		l.noteEnd(f.kind)
		l.reset()
	case KindBlackHole:
		l.willVanish = true
		if f.dirs&Up != 0 {
			l.up.hole = true
		}
		if f.dirs&Down != 0 {
			l.down.hole = true
		}
	case KindStall:
		l.willStall = true
		until := time.Now().Add(f.d)
		for _, h := range []*half{&l.up, &l.down} {
			if until.After(h.hold) { // never earlier: bytes in flight keep their order
				h.hold = until
			}
		}
	case KindCloseWith:
		l.noteEnd(f.kind)
		l.up.hole, l.down.hole = false, false // as with a cut, both ends see the end
		l.down.put(closeFrame(f.code, f.reason))
		l.down.end()
		l.down.gone = true
		l.up.end()
		l.up.hole = true // the client's answer is lost
		l.ended = true
	case KindRefuseUpgrade:
		l.net.count(f.kind)
		l.down.put(answer(f.status, f.header))
		l.down.end()
		l.up.hole = true
	}
	l.cond.Broadcast()
}

// cut ends both directions with FIN.
func (l *link) cut() {
	for _, h := range []*half{&l.up, &l.down} {
		h.hole = false // both ends see the end
		h.end()
		h.gone = true
	}
	l.ended = true
	l.cond.Broadcast()
}

// reset ends both directions with RST.
func (l *link) reset() {
	for _, h := range []*half{&l.up, &l.down} {
		h.rst, h.gone = true, true
	}
	l.ended = true
	l.cond.Broadcast()
}

// closeFrame returns an unmasked close frame (RFC 6455, section 5.5.1). Its reason is
// cut to 123 bytes.
func closeFrame(code uint16, reason string) []byte {
	reason = reason[:min(len(reason), 123)]
	b := []byte{0x88, byte(2 + len(reason))}
	b = binary.BigEndian.AppendUint16(b, code)
	return append(b, reason...)
}

// answer returns an HTTP response whose body is the text of its status.
func answer(status int, header http.Header) []byte {
	h := header.Clone()
	if h == nil {
		h = http.Header{}
	}
	if h.Get("Date") == "" {
		h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	body := http.StatusText(status) + "\n"
	h.Set("Content-Length", fmt.Sprint(len(body)))
	h.Set("Connection", "close")
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %03d %s\r\n", status, http.StatusText(status))
	_ = h.Write(&b) // a strings.Builder does not fail
	b.WriteString("\r\n" + body)
	return []byte(b.String())
}
