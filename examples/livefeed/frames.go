package main

// stream follows one direction of a WebSocket connection from its first byte: the
// HTTP head, then the frames (RFC 6455, section 5.2). It validates nothing and only
// tracks the position.
type stream struct {
	bytes  int      // bytes seen
	status []byte   // first bytes, enough for "HTTP/1.1 101"
	crlf   int      // bytes seen of the blank line that ends the head
	framed bool     // the head has ended
	frames int      // complete frames seen
	head   [14]byte // header of the current frame
	pos    int      // bytes seen of the current frame; 0: between frames
	size   int      // bytes of the current frame, header included; 0: not known yet
}

const statusSize = len("HTTP/1.1 101")

// step takes the next byte.
func (s *stream) step(b byte) {
	s.bytes++
	if !s.framed {
		if len(s.status) < statusSize {
			s.status = append(s.status, b)
		}
		switch {
		case b == "\r\n\r\n"[s.crlf]:
			s.crlf++
		case b == '\r':
			s.crlf = 1
		default:
			s.crlf = 0
		}
		s.framed = s.crlf == 4
		return
	}
	if s.pos < len(s.head) {
		s.head[s.pos] = b
	}
	s.pos++
	if s.size == 0 {
		s.size = frameSize(s.head[:min(s.pos, len(s.head))])
	}
	if s.size > 0 && s.pos >= s.size {
		s.pos, s.size = 0, 0
		s.frames++
	}
}

// open reports whether the server has upgraded the connection and sent a frame on it:
// in limpet.v1, WELCOME.
func (s *stream) open() bool { return s.frames > 0 && string(s.status) == "HTTP/1.1 101" }

// within reports whether the stream is inside a frame, past the given part of it and
// before its last byte.
func (s *stream) within(part float64) bool {
	return s.size > 0 && s.pos > 0 && s.pos >= 1+int(part*float64(s.size-2))
}

// frameSize returns the size of the frame that begins with head, or 0 if head is too
// short.
func frameSize(head []byte) int {
	if len(head) < 2 {
		return 0
	}
	size, length := 2, uint64(head[1]&0x7f)
	if head[1]&0x80 != 0 {
		size += 4
	}
	extended := 0
	switch length {
	case 126:
		extended = 2
	case 127:
		extended = 8
	}
	if len(head) < 2+extended {
		return 0
	}
	if extended > 0 {
		length = 0
		for _, b := range head[2 : 2+extended] {
			length = length<<8 | uint64(b)
		}
	}
	return size + extended + int(length&(1<<40-1))
}
