package frame

import "encoding/binary"

// header is the header of a frame.
type header struct {
	first  byte   // FIN, RSV, opcode
	size   int    // bytes of the header
	length uint64 // bytes of the payload
	key    uint32 // of the mask; 0: none
}

func (h header) fin() bool { return h.first&finBit != 0 }
func (h header) op() byte  { return h.first & 0xf }

// parseHeader reads the header at the beginning of b. An invalid header is refused
// as soon as the bytes that show it are present. Size 0 means that more bytes are
// needed.
func parseHeader(b []byte, unfinished, masked bool) (h header, err error) {
	if len(b) == 0 {
		return h, nil
	}
	h.first = b[0]
	if err := checkFirst(b[0], unfinished); err != nil {
		return h, err
	}
	if len(b) < 2 {
		return h, nil
	}
	switch {
	case b[1]&maskBit != 0 && !masked:
		return h, refuse(codeProtocol, "masked frame")
	case b[1]&maskBit == 0 && masked:
		return h, refuse(codeProtocol, "frame without a mask")
	}
	n := b[1] &^ maskBit
	if h.op()&control != 0 && n > maxControl {
		return h, refuse(codeProtocol, "control frame longer than 125 bytes")
	}
	switch {
	case n < length16:
		h.size, h.length = 2, uint64(n)
	case n == length16 && len(b) >= 4:
		h.size, h.length = 4, uint64(binary.BigEndian.Uint16(b[2:]))
		if h.length < length16 {
			return h, refuse(codeProtocol, "length not in its shortest form")
		}
	case n == length64 && len(b) >= 10:
		h.size, h.length = 10, binary.BigEndian.Uint64(b[2:])
		if h.length>>63 != 0 {
			return h, refuse(codeProtocol, "length exceeds 2^63-1")
		}
		if h.length < 1<<16 {
			return h, refuse(codeProtocol, "length not in its shortest form")
		}
	}
	if masked && h.size > 0 {
		at := h.size
		if h.size += 4; len(b) < h.size {
			h.size = 0
			return h, nil
		}
		h.key = binary.LittleEndian.Uint32(b[at:])
	}
	return h, nil
}

// checkFirst checks the first byte of a frame; unfinished says whether a message has
// not ended yet.
func checkFirst(first byte, unfinished bool) error {
	if first&rsvBits != 0 {
		return refuse(codeProtocol, "reserved bit set")
	}
	switch op := first & 0xf; op {
	case opContinuation:
		if !unfinished {
			return refuse(codeProtocol, "continuation frame without a message")
		}
	case opText, opBinary:
		if unfinished {
			return refuse(codeProtocol, "new message before the last one ended")
		}
	case opClose, opPing, opPong:
		if first&finBit == 0 {
			return refuse(codeProtocol, "fragmented control frame")
		}
	default:
		return refuse(codeProtocol, "reserved opcode")
	}
	return nil
}
