package socket

import (
	"encoding/binary"
	"sync/atomic"
)

// whole counts the messages whose last byte has passed on its way to the
// library, which does not tell whether it would wait for the next one. It
// follows frames (RFC 6455, section 5.2) and checks nothing: the library does.
type whole struct {
	messages atomic.Uint64
	header   [14]byte
	have     int    // bytes of header
	left     uint64 // bytes of payload to come
	last     bool   // the frame ends a message
}

func (w *whole) follow(b []byte) {
	for {
		if n := min(w.left, uint64(len(b))); n > 0 {
			w.left -= n
			b = b[n:]
		}
		if w.left == 0 && w.last {
			w.last = false
			w.messages.Add(1)
		}
		if len(b) == 0 {
			return
		}
		for w.have < w.size() && len(b) > 0 {
			w.header[w.have] = b[0]
			w.have++
			b = b[1:]
		}
		if w.have < w.size() {
			return
		}
		switch n := w.header[1] & 0x7f; n {
		case 126:
			w.left = uint64(binary.BigEndian.Uint16(w.header[2:]))
		case 127:
			w.left = binary.BigEndian.Uint64(w.header[2:])
		default:
			w.left = uint64(n)
		}
		const fin, control = 0x80, 0x08
		w.last = w.header[0]&fin != 0 && w.header[0]&control == 0
		w.have = 0
	}
}

// size is how many bytes the present header has, as far as is known. The
// library takes masked frames too, so the key is counted.
func (w *whole) size() int {
	if w.have < 2 {
		return 2
	}
	n := 2 + int(w.header[1]>>7)*4
	switch w.header[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	return n
}
