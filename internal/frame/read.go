package frame

import (
	"encoding/binary"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// rested is after how many reads in a row that found little the window goes
// back. One of them may be the rest of a message that did not fit in parked.
const rested = 2

// controlWindow bounds a flood of frames that carry no data: controlBudget of
// them in it. An honest peer pings a few times a minute.
const controlWindow = 10 * time.Second

// input is what has been read. It belongs to whoever holds Conn.reading.
type input struct {
	buf    []byte // of parked or of win
	r, w   int    // buf[r:w] is not parsed yet
	little int    // reads in a row that found little

	batch []wire.Frame // handed out by the last Receive
	err   error        // why nothing more will come

	// A message that is not whole in buf: fragments, or one that is still
	// coming.
	msg        []byte
	checked    int    // msg[:checked] is valid UTF-8
	left       uint64 // of the payload of the present frame
	unfinished bool
	text       bool
	inFrame    bool
	final      bool // the present frame ends the message
	grew       bool
	told       bool // Options.Grew knows of it
	handed     bool // msg is in batch: it must not be written to

	own    bool // detached: buf stays the same
	budget int
	since  time.Time // of the budget

	win    *window
	parked [parkedSize]byte
	frames [parkedBatch]wire.Frame
}

// window is the large buffer of a connection with traffic.
type window struct {
	data  [windowSize]byte
	batch [windowBatch]wire.Frame
}

var windows = sync.Pool{New: func() any { return new(window) }}

// Receive blocks until at least one message has come and returns all that are
// whole. They are valid until the next call. Pings are answered and pongs
// dropped on the way. While nothing is expected soon, idle makes it hold little
// memory. The error is a *CloseError once the peer has closed, a
// *wire.CodeError if it broke the protocol (nothing was sent to it: call Close
// with that code), ErrClosing if Close took over, io.EOF or
// io.ErrUnexpectedEOF if the stream ended without a close frame, or the
// stream's own. It is final; messages that came before it are returned first.
func (c *Conn) Receive(idle bool) ([]wire.Frame, error) {
	if !c.reading.CompareAndSwap(false, true) {
		return nil, ErrClosing
	}
	if idle {
		c.in.little = rested
	}
	batch, err := c.read()
	c.reading.Store(false)
	if c.closing.Load() {
		c.out.wake() // Close may be waiting for its turn to read
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

// parse takes whole messages into the batch until it is full or no whole frame
// is left in the buffer; then more is true.
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
		// Nearly every frame is a whole message of less than 64 KiB.
		if len(b) >= 4 && !in.unfinished {
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
		h, err := parseHeader(b, in.unfinished)
		if err != nil || h.size == 0 {
			return true, err
		}
		if h.op()&control != 0 {
			if len(b) < h.size+int(h.length) {
				return true, nil
			}
			in.r += h.size + int(h.length)
			if err := c.control(h.op(), b[h.size:h.size+int(h.length)]); err != nil {
				return false, err
			}
			continue
		}
		if in.handed {
			return false, nil // msg is in the batch: it must be taken first
		}
		if err := c.begin(h); err != nil {
			return false, err
		}
		in.r += h.size
	}
	return false, nil
}

// begin begins a data frame whose payload goes to msg.
func (c *Conn) begin(h header) error {
	in := &c.in
	if h.length > uint64(c.o.ReadLimit) || uint64(len(in.msg))+h.length > uint64(c.o.ReadLimit) {
		return refuse(codeTooBig, "message exceeds the read limit")
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
	in.inFrame, in.left, in.final = true, h.length, h.fin()
	return nil
}

// payload takes what there is of the present frame into msg and reports
// whether the frame has ended.
func (in *input) payload(limit int64) (done bool, err error) {
	n := int(min(in.left, uint64(in.w-in.r)))
	if n > 0 {
		in.reserve(n, limit)
		in.msg = append(in.msg, in.buf[in.r:in.r+n]...)
		in.r += n
		in.left -= uint64(n)
		in.grew = true
	}
	if in.text {
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

// reserve makes room for n more bytes of msg. It follows what has come, not
// what is claimed: the peer must send a quarter of what it makes us hold.
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

// control acts on a whole control frame.
func (c *Conn) control(op byte, p []byte) error {
	switch op {
	case opClose:
		err := parseClose(p)
		if ce, ok := err.(*CloseError); ok {
			c.echo(ce)
		}
		return err
	case opPing:
		c.pong(p)
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

// fill reads from the stream once. Everything in the buffer has been parsed
// but the beginning of a header or of a control frame.
func (c *Conn) fill() error {
	in := &c.in
	c.tell()
	if in.inFrame && in.left >= windowSize/2 && in.r == in.w {
		return c.fillMessage()
	}
	switch {
	case in.own:
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	case in.little == 0 && in.win == nil:
		in.open()
	case in.little >= rested:
		in.park()
	default:
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	space := in.buf[in.w:]
	n, err := c.readSome(space)
	in.w += n
	in.found(n, len(space))
	return err
}

// found judges the traffic by a read.
func (in *input) found(n, space int) {
	if n == space || n >= parkedSize {
		in.little = 0
	} else {
		in.little++
	}
}

// fillMessage reads a long payload where it belongs.
func (c *Conn) fillMessage() error {
	in := &c.in
	if len(in.msg) == cap(in.msg) {
		in.reserve(int(min(in.left, windowSize)), c.o.ReadLimit)
	}
	at := len(in.msg)
	n, err := c.readSome(in.msg[at:min(uint64(cap(in.msg)), uint64(at)+in.left)])
	in.msg = in.msg[:at+n]
	in.left -= uint64(n)
	in.grew = in.grew || n > 0
	in.found(n, parkedSize)
	return err
}

func (c *Conn) readSome(p []byte) (int, error) {
	for range 100 {
		n, err := c.stream.Read(p)
		switch {
		case n > 0:
			return n, nil // an error is told again
		case err == io.EOF && (c.in.unfinished || c.in.r < c.in.w):
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// tell reports the growth of an unfinished message, and its end.
func (c *Conn) tell() {
	in := &c.in
	news := in.grew
	if !in.unfinished {
		news = in.told
	}
	if news && c.o.Grew != nil {
		c.o.Grew(in.unfinished)
	}
	in.grew, in.told = false, in.unfinished
}

// open takes a window: there is traffic.
func (in *input) open() {
	in.win = windows.Get().(*window)
	in.w = copy(in.win.data[:], in.buf[in.r:in.w])
	in.r = 0
	in.buf, in.batch = in.win.data[:], in.win.batch[:0]
}

// detach leaves the memory of the last batch to its receiver, who may still be
// at it on another goroutine, and goes on in memory of its own.
func (in *input) detach() {
	own := new(window)
	in.w = copy(own.data[:], in.buf[in.r:in.w])
	in.r = 0
	in.buf, in.batch, in.own = own.data[:], own.batch[:0], true
	in.win = nil // not given back: the batch is in it
	if in.handed {
		in.msg, in.handed = nil, false
	}
}

// park gives the window back and forgets the last batch: a connection that waits
// holds little.
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
