package frame

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// parkAfter is how many small reads in a row return the large buffer to the pool.
// One of them may be the rest of a message that did not fit into the small buffer.
const parkAfter = 2

// controlWindow is the time in which at most controlBudget frames without data are
// accepted. A well-behaved peer pings a few times a minute.
const controlWindow = 10 * time.Second

// input is the state of reading. It belongs to the goroutine that holds
// Conn.reading.
type input struct {
	buf        []byte // memory of parked, or of win
	r, w       int    // buf[r:w] is not parsed yet
	smallReads int    // reads in a row that found little

	batch []wire.Frame // returned by the last Receive
	err   error        // final

	// A message that is not complete in buf: it comes in fragments, or its
	// payload is still arriving.
	msg        []byte
	checked    int    // msg[:checked] is valid UTF-8
	left       uint64 // payload bytes of the current frame still to come
	key        uint32 // masks its next byte with the lowest eight bits; 0: it is not masked
	unfinished bool   // the message has not ended
	text       bool   // it is a text message
	inFrame    bool   // the payload of a frame is arriving
	final      bool   // the current frame ends the message
	grew       bool   // msg has grown since the last report
	reported   bool   // Options.Grew was called with true
	handed     bool   // msg is in batch and must not be written to

	server bool      // Options.Server
	own    bool      // detached: buf does not change any more
	budget int       // frames without data that may still come
	since  time.Time // when the budget was renewed

	win    *window // nil while parked
	parked [parkedSize]byte
	frames [parkedBatch]wire.Frame
}

// window is the large buffer of a connection with traffic, and its batch.
type window struct {
	data  [windowSize]byte
	batch [windowBatch]wire.Frame
}

var windows = sync.Pool{New: func() any { return new(window) }}

// Receive blocks until at least one message has arrived and returns all that are
// complete. They are valid until the next call. Receive answers pings and drops
// pongs. With idle, for a time in which nothing is expected soon, it holds little
// memory.
//
// The error is a *CloseError once the peer has closed; a *wire.CodeError if the peer
// broke the protocol (nothing has been sent to it: call Close with that code);
// ErrClosing if Close has taken over; io.EOF or io.ErrUnexpectedEOF if the stream
// ended without a close frame; or the error of the stream. An error is final.
// Messages that arrived before it are returned first.
func (c *Conn) Receive(idle bool) ([]wire.Frame, error) {
	if !c.reading.CompareAndSwap(false, true) {
		return nil, ErrClosing
	}
	if idle {
		c.in.smallReads = parkAfter
	}
	batch, err := c.read()
	c.reading.Store(false)
	if c.closing.Load() {
		c.out.wake() // Close may be waiting to read
	}
	return batch, err
}

func (c *Conn) read() ([]wire.Frame, error) {
	in := &c.in
	in.batch = in.batch[:0]
	if in.handed {
		in.handed = false
		if in.msg = in.msg[:0]; cap(in.msg) > keptMessage {
			in.msg = nil
		}
	}
	for in.err == nil {
		more, err := c.parse()
		in.err = err
		if len(in.batch) > 0 {
			return in.batch, nil
		}
		if more && err == nil {
			in.err = c.fill()
		}
	}
	return nil, in.err
}

// parse moves complete messages to the batch until the batch is full, or until no
// complete frame is left in the buffer: then more is true.
func (c *Conn) parse() (more bool, err error) {
	in := &c.in
	for len(in.batch) < cap(in.batch) {
		if in.inFrame {
			done, err := in.payload(c.o.ReadLimit)
			if err != nil || !done {
				return true, err
			}
			continue
		}
		b := in.buf[in.r:in.w]
		// The fast path: nearly every frame is a complete message below 64 KiB.
		if len(b) >= 4 && !in.unfinished && !c.o.Server {
			n, h := int(b[1]), 2
			if n == length16 {
				n, h = int(binary.BigEndian.Uint16(b[2:])), 4
			}
			if (b[0] == finBit|opText || b[0] == finBit|opBinary) && b[1] <= length16 &&
				(h == 2 || n >= length16) && n <= len(b)-h && int64(n) <= c.o.ReadLimit {
				f := wire.Frame{Type: wire.FrameType(b[0] & 3), Data: b[h : h+n : h+n]}
				if f.Type == wire.Text && !utf8.Valid(f.Data) {
					return false, refuse(codeInvalid, "text message is not UTF-8")
				}
				in.batch = append(in.batch, f)
				in.r += h + n
				continue
			}
		}
		h, err := parseHeader(b, in.unfinished, c.o.Server)
		if err != nil || h.size == 0 {
			return true, err
		}
		if h.op()&control != 0 {
			if len(b) < h.size+int(h.length) {
				return true, nil
			}
			in.r += h.size + int(h.length)
			p := b[h.size : h.size+int(h.length)]
			mask(p, h.key)
			if err := c.control(h.op(), p); err != nil {
				return false, err
			}
			continue
		}
		if c.o.Server && in.whole(h, b[h.size:], c.o.ReadLimit) {
			continue
		}
		if in.handed {
			return false, nil // msg is in the batch, which must be returned first
		}
		if err := c.begin(h); err != nil {
			return false, err
		}
		in.r += h.size
	}
	return false, nil
}

// whole adds a frame of a client to the batch if it is a whole message and b has all of it.
func (in *input) whole(h header, b []byte, limit int64) bool {
	if in.unfinished || !h.fin() || h.length > uint64(len(b)) || h.length > uint64(limit) {
		return false
	}
	f := wire.Frame{Type: wire.FrameType(h.op()), Data: b[:h.length:h.length]}
	mask(f.Data, h.key)
	in.batch = append(in.batch, f)
	in.r += h.size + int(h.length)
	return true
}

// begin begins a data frame whose payload goes to msg.
func (c *Conn) begin(h header) error {
	in := &c.in
	if h.length > uint64(c.o.ReadLimit) || uint64(len(in.msg))+h.length > uint64(c.o.ReadLimit) {
		size := uint64(len(in.msg)) + h.length
		if c.o.Server {
			return refuse(codeTooBig, fmt.Sprintf("message of %d bytes or more; at most %d", size, c.o.ReadLimit))
		}
		return refuse(codeTooBig, fmt.Sprintf("message of %d bytes or more exceeds Options.ReadLimit, %d bytes; raise it or send less", size, c.o.ReadLimit))
	}
	if h.op() != opContinuation {
		in.unfinished, in.grew = true, true
		in.text, in.checked = h.op() == opText, 0
	}
	if h.length == 0 && !h.fin() {
		if err := in.spend(); err != nil {
			return err
		}
	}
	in.inFrame, in.left, in.key, in.final = true, h.length, h.key, h.fin()
	return nil
}

// payload moves the available payload of the current frame to msg and reports
// whether the frame has ended.
func (in *input) payload(limit int64) (done bool, err error) {
	n := int(min(in.left, uint64(in.w-in.r)))
	if n > 0 {
		in.reserve(n, limit)
		in.msg = append(in.msg, in.buf[in.r:in.r+n]...)
		in.unmask(n)
		in.r += n
		in.left -= uint64(n)
		in.grew = true
	}
	if in.text && !in.server {
		var ok bool
		if in.checked, ok = checkText(in.msg, in.checked, in.left == 0 && in.final); !ok {
			return false, refuse(codeInvalid, "text message is not UTF-8")
		}
	}
	if in.left > 0 {
		return false, nil
	}
	in.inFrame = false
	if in.final {
		f := wire.Frame{Type: wire.Binary, Data: in.msg}
		if in.text {
			f.Type = wire.Text
		}
		in.batch = append(in.batch, f)
		in.unfinished, in.handed = false, true
	}
	return true, nil
}

// unmask unmasks the last n bytes of msg, which have just come.
func (in *input) unmask(n int) {
	if in.key != 0 {
		mask(in.msg[len(in.msg)-n:], in.key)
		in.key = bits.RotateLeft32(in.key, -8*(n%4))
	}
}

// reserve makes room for n more bytes of msg. The memory depends on what has
// arrived, not on the length that the peer claims: a peer must send at least a
// quarter of what it makes the client allocate.
func (in *input) reserve(n int, limit int64) {
	need := len(in.msg) + n
	if need <= cap(in.msg) {
		return
	}
	size := max(need, 4*cap(in.msg))
	if in.final {
		limit = int64(len(in.msg)) + int64(in.left)
	}
	size = int(min(int64(size), limit))
	in.msg = append(make([]byte, 0, size), in.msg...)
}

// control handles a complete control frame.
func (c *Conn) control(op byte, p []byte) error {
	switch op {
	case opClose:
		err := ParseClose(p)
		if ce, ok := err.(*CloseError); ok {
			c.closed.Store(true)
			c.echo(ce)
		}
		return err
	case opPing:
		if c.o.Pinged != nil {
			c.o.Pinged()
		}
		c.pong(p)
	case opPong:
		if c.o.Ponged != nil {
			c.o.Ponged()
		}
	}
	return c.in.spend()
}

// spend counts a frame that carries no data.
func (in *input) spend() error {
	if in.budget == 0 {
		now := time.Now()
		if !in.since.IsZero() && now.Sub(in.since) < controlWindow {
			return refuse(codePolicy, "too many frames without data")
		}
		in.budget, in.since = controlBudget, now
	}
	in.budget--
	return nil
}

// fill reads from the stream once. Everything in the buffer has been parsed, except
// for the beginning of a header or of a control frame.
func (c *Conn) fill() error {
	in := &c.in
	c.reportGrowth()
	if in.inFrame && in.left >= windowSize/2 && in.r == in.w {
		return c.fillMessage()
	}
	switch {
	case in.own:
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	case in.smallReads == 0 && in.win == nil:
		in.open()
	case in.smallReads >= parkAfter:
		in.park()
	default:
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	space := in.buf[in.w:]
	n, err := c.readSome(space)
	in.w += n
	in.countRead(n, len(space))
	return err
}

// countRead counts small reads: a read of n bytes into the given space is one if it
// neither fills the space nor finds parkedSize bytes.
func (in *input) countRead(n, space int) {
	if n == space || n >= parkedSize {
		in.smallReads = 0
	} else {
		in.smallReads++
	}
}

// fillMessage reads a long payload directly into msg.
func (c *Conn) fillMessage() error {
	in := &c.in
	if len(in.msg) == cap(in.msg) {
		in.reserve(int(min(in.left, windowSize)), c.o.ReadLimit)
	}
	at := len(in.msg)
	n, err := c.readSome(in.msg[at:min(uint64(cap(in.msg)), uint64(at)+in.left)])
	in.msg = in.msg[:at+n]
	in.unmask(n)
	in.left -= uint64(n)
	in.grew = in.grew || n > 0
	in.countRead(n, parkedSize)
	return err
}

// readSome reads at least one byte, or fails.
func (c *Conn) readSome(p []byte) (int, error) {
	for range 100 {
		n, err := c.stream.Read(p)
		switch {
		case n > 0:
			return n, nil // an error is returned again by the next Read
		case err == io.EOF && (c.in.unfinished || c.in.r < c.in.w):
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// reportGrowth calls Options.Grew if an unfinished message has grown or has ended.
func (c *Conn) reportGrowth() {
	in := &c.in
	changed := in.grew
	if !in.unfinished {
		changed = in.reported
	}
	if changed && c.o.Grew != nil {
		c.o.Grew(in.unfinished)
	}
	in.grew, in.reported = false, in.unfinished
}

// open takes a window from the pool, because there is traffic.
func (in *input) open() {
	in.win = windows.Get().(*window)
	in.w = copy(in.win.data[:], in.buf[in.r:in.w])
	in.r = 0
	in.buf, in.batch = in.win.data[:], in.win.batch[:0]
}

// detach leaves the memory of the last batch to its receiver, which may still use it
// on another goroutine, and continues in new memory.
func (in *input) detach() {
	own := new(window)
	in.w = copy(own.data[:], in.buf[in.r:in.w])
	in.r = 0
	in.buf, in.batch, in.own = own.data[:], own.batch[:0], true
	in.win = nil // not returned to the pool: the batch is in it
	if in.handed {
		in.msg, in.handed = nil, false
	}
}

// park returns the window to the pool and forgets the last batch, so that a
// connection that waits holds little memory.
func (in *input) park() {
	in.w = copy(in.parked[:], in.buf[in.r:in.w])
	in.r = 0
	in.buf, in.batch = in.parked[:], in.frames[:0]
	clear(in.frames[:])
	if in.win != nil {
		clear(in.win.batch[:])
		windows.Put(in.win)
		in.win = nil
	}
	if len(in.msg) == 0 && cap(in.msg) > parkedSize {
		in.msg = nil
	}
}
