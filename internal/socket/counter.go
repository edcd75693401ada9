package socket

import (
	"encoding/binary"
	"sync/atomic"
)

// messageCounter counts the complete messages that have passed to the library,
// which cannot say whether its next read would block. It follows frames (RFC 6455,
// section 5.2) and checks nothing: the library does.
type messageCounter struct {
	complete atomic.Uint64

	header       [14]byte
	headerBytes  int    // of header, so far
	payloadBytes uint64 // still to come
	final        bool   // the frame ends a message
	data         bool   // the frame is part of a message
	closing      bool   // the frame is a close frame
	closed       []byte // payload of the close frame
}

// count follows the bytes that have passed, and reports whether payload of a message
// is among them. It calls pinged for each ping.
func (c *messageCounter) count(b []byte, pinged func()) (grew bool) {
	for {
		if n := min(c.payloadBytes, uint64(len(b))); n > 0 {
			c.payloadBytes -= n
			if c.closing {
				c.closed = append(c.closed, b[:n]...)
			}
			grew = grew || c.data
			b = b[n:]
		}
		if c.payloadBytes == 0 && c.final {
			c.final = false
			c.complete.Add(1)
		}
		if len(b) == 0 {
			return grew
		}
		for c.headerBytes < c.headerSize() && len(b) > 0 {
			c.header[c.headerBytes] = b[0]
			c.headerBytes++
			b = b[1:]
		}
		if c.headerBytes < c.headerSize() {
			return grew
		}
		switch n := c.header[1] & 0x7f; n {
		case 126:
			c.payloadBytes = uint64(binary.BigEndian.Uint16(c.header[2:]))
		case 127:
			c.payloadBytes = binary.BigEndian.Uint64(c.header[2:])
		default:
			c.payloadBytes = uint64(n)
		}
		const fin, control, opcode, ping = 0x80, 0x08, 0x0f, 0x09
		const closeFrame, masked, maxControl = 0x88, 0x80, 125
		if c.header[0]&opcode == ping {
			pinged()
		}
		c.closing = c.header[0] == closeFrame && c.header[1] < masked && c.payloadBytes <= maxControl && c.closed == nil
		c.data = c.header[0]&control == 0
		c.final = c.data && c.header[0]&fin != 0
		c.headerBytes = 0
	}
}

// headerSize is the size of the current header as far as it is known. The
// library accepts masked frames too, so the key counts.
func (c *messageCounter) headerSize() int {
	if c.headerBytes < 2 {
		return 2
	}
	n := 2 + int(c.header[1]>>7)*4
	switch c.header[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	return n
}
