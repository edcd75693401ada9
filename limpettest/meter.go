package limpettest

import (
	"bytes"
	"encoding/binary"
)

// meter follows one direction of a connection: an HTTP head, and after an upgrade
// WebSocket frames. It counts bytes and frames, and copies messages if capture is set.
type meter struct {
	bytes      int64 // bytes that have passed
	frames     int64 // data frames that have ended
	upgradedAt int64 // bytes at the upgrade
	state      meterState

	line []byte // beginning of the HTTP head, enough for a status line
	tail uint32 // last four bytes of the HTTP head so far

	header [14]byte // of the current frame
	have   int      // bytes of header that are known
	want   int      // bytes of header that are needed
	left   uint64   // payload bytes of the frame still to come

	capture bool
	op      byte   // of the current message
	payload []byte // of the current message
	at      uint64 // payload bytes of the current frame so far, for the mask
	skip    bool   // the message is compressed or too long: not copied
}

// meterState is what a meter expects next.
type meterState uint8

const (
	inHead    meterState = iota // an HTTP head
	inHTTP                      // after a head, not upgraded
	inHeader                    // a frame header
	inPayload                   // a frame's payload
)

// mark is what a meter has reached at the end of a step.
type mark uint8

const (
	markNone    mark = iota
	markHead         // the end of an HTTP head
	markControl      // the end of a control frame
	markFrame        // the end of a data frame that does not end a message
	markMessage      // the end of a data frame that ends a message
)

// maxCaptured bounds the copy of one message, in bytes.
const maxCaptured = 4 << 20

// step consumes bytes of p up to the next mark.
func (m *meter) step(p []byte) (n int, k mark) {
	switch m.state {
	case inHead:
		n, k = m.head(p)
	case inHTTP:
		n = len(p)
	case inHeader:
		n, k = m.frameHeader(p)
	case inPayload:
		n = int(min(uint64(len(p)), m.left))
		m.copy(p[:n])
		m.left -= uint64(n)
		if m.left == 0 {
			k = m.frameEnd()
		}
	}
	m.bytes += int64(n)
	return n, k
}

// head consumes bytes of an HTTP head.
func (m *meter) head(p []byte) (int, mark) {
	for i, c := range p {
		if len(m.line) < 12 {
			m.line = append(m.line, c)
		}
		m.tail = m.tail<<8 | uint32(c)
		if m.tail == '\r'<<24|'\n'<<16|'\r'<<8|'\n' {
			return i + 1, markHead
		}
	}
	return len(p), markNone
}

// status returns the number in the status line, or 0 if there is none.
func (m *meter) status() int {
	if len(m.line) < 12 || !bytes.HasPrefix(m.line, []byte("HTTP/1.")) {
		return 0
	}
	s := 0
	for _, c := range m.line[9:12] {
		if c < '0' || c > '9' {
			return 0
		}
		s = s*10 + int(c-'0')
	}
	return s
}

// again expects another head, because the last one was informational.
func (m *meter) again() { m.state, m.line, m.tail = inHead, nil, 0 }

// upgrade expects frames from now on.
func (m *meter) upgrade() {
	m.state, m.want, m.upgradedAt = inHeader, 2, m.bytes
}

// frameHeader consumes bytes of a frame header (RFC 6455, section 5.2).
func (m *meter) frameHeader(p []byte) (n int, k mark) {
	for n < len(p) && m.have < m.want {
		m.header[m.have] = p[n]
		m.have++
		n++
		if m.have == 2 {
			m.want = 2 + [4]int{0, 0, 2, 8}[lengthClass(m.header[1])]
			if m.header[1]&0x80 != 0 {
				m.want += 4
			}
		}
	}
	if m.have < m.want {
		return n, markNone
	}
	switch lengthClass(m.header[1]) {
	case 2:
		m.left = uint64(binary.BigEndian.Uint16(m.header[2:]))
	case 3:
		m.left = binary.BigEndian.Uint64(m.header[2:])
	default:
		m.left = uint64(m.header[1] & 0x7f)
	}
	m.at = 0
	m.state = inPayload
	if op := m.header[0] & 0xf; op == 1 || op == 2 {
		m.op, m.payload, m.skip = op, nil, m.header[0]&0x70 != 0
	}
	if m.left == 0 {
		return n, m.frameEnd()
	}
	return n, markNone
}

// lengthClass returns 1 for a length in 7 bits, 2 for 16 bits and 3 for 64 bits.
func lengthClass(b byte) int {
	switch b & 0x7f {
	case 126:
		return 2
	case 127:
		return 3
	}
	return 1
}

// copy adds payload bytes to the copy of the current message, unmasked.
func (m *meter) copy(p []byte) {
	if !m.capture || m.header[0]&0x8 != 0 || m.skip {
		return
	}
	if len(m.payload)+len(p) > maxCaptured {
		m.payload, m.skip = nil, true
		return
	}
	from := len(m.payload)
	m.payload = append(m.payload, p...)
	if m.header[1]&0x80 != 0 {
		mask := m.header[m.want-4 : m.want]
		for i := from; i < len(m.payload); i++ {
			m.payload[i] ^= mask[m.at%4]
			m.at++
		}
	}
}

// frameEnd ends the current frame.
func (m *meter) frameEnd() mark {
	m.state, m.have, m.want = inHeader, 0, 2
	if m.header[0]&0x8 != 0 {
		return markControl
	}
	m.frames++
	if m.header[0]&0x80 != 0 {
		return markMessage
	}
	return markFrame
}

// room returns how many more bytes pass before w is reached. ok is false if w is not
// counted in bytes, or not yet.
func (m *meter) room(w when) (n int64, ok bool) {
	if w.unit != unitBytes || w.upgraded && m.state < inHeader {
		return 0, false
	}
	return w.n - m.count(w), true
}

// count returns the bytes that count for w.
func (m *meter) count(w when) int64 {
	if w.upgraded {
		return m.bytes - m.upgradedAt
	}
	return m.bytes
}

// reached reports whether the moment w has come in this direction.
func (m *meter) reached(w when) bool {
	switch w.unit {
	case unitBytes:
		return !(w.upgraded && m.state < inHeader) && m.count(w) >= w.n
	case unitFrames:
		return m.state >= inHeader && m.frames >= w.n
	}
	return true
}

// midFrame reports whether a frame has begun and not ended.
func (m *meter) midFrame() bool { return m.state == inPayload || m.state == inHeader && m.have > 0 }
