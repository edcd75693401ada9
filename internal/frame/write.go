package frame

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// output is the state of writing. Its lock is a leaf, held only to look and to
// append. The goroutine that has set writing is the active writer, which alone may
// use the stream; others wait on cond.
type output struct {
	mu      sync.Mutex
	cond    sync.Cond
	writing bool
	pongs   []byte // pongs to be written: a byte of length and the payload each
	ping    bool   // a ping is to be written
	closing bool   // only the close frame may follow
	payload []byte // of the close frame
	shut    bool   // the close frame was passed to the stream
	err     error  // of the stream; final

	masks bool // frames are masked

	// Of the active writer.
	unit int // bytes passed to the stream at a time
}

// slowWrite is how long a write may take before the next ones are made shorter, so
// that a pong does not have to wait for long.
const slowWrite = 200 * time.Millisecond

// buffers holds the memory for one write of the stream.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, 0, writeSize)
	return &b
}}

// Send writes messages and returns when the stream has accepted all of them. It
// joins messages to writes of up to 64 KiB and splits messages above 32 KiB into
// fragments, so that control frames can pass between them; for a slow peer both
// sizes are 4 KiB. The error is ErrClosing once a close frame has been sent, or that
// of the stream, which is final.
func (c *Conn) Send(ms []wire.Frame) error {
	if err := c.out.acquire(); err != nil {
		return err
	}
	p := buffers.Get().(*[]byte)
	err := c.write((*p)[:0], ms)
	return c.release(p, err)
}

// acquire makes the caller the active writer. It blocks while there is another one.
func (o *output) acquire() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.writing {
		o.cond.Wait()
	}
	if o.err != nil {
		return o.err
	}
	if o.shut {
		return ErrClosing
	}
	o.writing = true
	return nil
}

// write writes the waiting control frames, then ms. b is an empty buffer.
func (c *Conn) write(b []byte, ms []wire.Frame) (err error) {
	if b, err = c.due(b); err != nil {
		return err
	}
	for _, m := range ms {
		first, rest := byte(m.Type), m.Data
		for {
			part := rest[:min(len(rest), fragment, c.out.unit)]
			rest = rest[len(part):]
			if len(rest) == 0 {
				first |= finBit
			}
			if len(b) > 0 && len(b)+maxHeader+len(part) > c.out.unit {
				if b, err = c.flush(b); err != nil {
					return err
				}
			}
			b = c.out.append(b, first, part)
			if len(rest) == 0 {
				break
			}
			if b, err = c.flush(b); err != nil {
				return err
			}
			first = opContinuation
		}
	}
	return c.put(b)
}

// SendPart writes a part of a message of type t and returns when the stream has accepted it:
// the first part begins the message, the last one ends it. A part that does not end the message must
// not be empty. Until the end only control frames may be written. It fails as Send does.
func (c *Conn) SendPart(t wire.FrameType, p []byte, first, last bool) error {
	if err := c.out.acquire(); err != nil {
		return err
	}
	op := byte(opContinuation)
	if first {
		op = byte(t)
	}
	b := buffers.Get().(*[]byte)
	err := c.writePart((*b)[:0], op, p, last)
	return c.release(b, err)
}

// writePart writes p in fragments, of which the first has the opcode op, and the waiting
// control frames in between. b is an empty buffer.
func (c *Conn) writePart(b []byte, op byte, p []byte, last bool) (err error) {
	for {
		part := p[:min(len(p), fragment, c.out.unit)]
		p = p[len(part):]
		if len(p) == 0 && last {
			op |= finBit
		}
		if b = c.out.append(b, op, part); len(p) == 0 {
			return c.put(b)
		}
		if b, err = c.flush(b); err != nil {
			return err
		}
		op = opContinuation
	}
}

// flush writes b and begins the next buffer.
func (c *Conn) flush(b []byte) ([]byte, error) {
	if err := c.put(b); err != nil {
		return b, err
	}
	return c.due(b[:0])
}

// due appends the waiting control frames to b. If a close frame is among them it
// writes b and returns ErrClosing.
func (c *Conn) due(b []byte) ([]byte, error) {
	o := &c.out
	o.mu.Lock()
	b = o.controls(b)
	shut := o.shut
	o.mu.Unlock()
	if !shut {
		return b, nil
	}
	if err := c.put(b); err != nil {
		return b, err
	}
	return b, ErrClosing
}

// controls moves the waiting control frames to b.
func (o *output) controls(b []byte) []byte {
	for p := o.pongs; len(p) > 0; p = p[1+int(p[0]):] {
		b = o.append(b, finBit|opPong, p[1:1+int(p[0])])
	}
	if o.pongs = o.pongs[:0]; cap(o.pongs) > 2*maxControl {
		o.pongs = nil
	}
	if o.ping {
		o.ping = false
		b = o.append(b, finBit|opPing, nil)
	}
	if o.closing && !o.shut {
		o.shut = true
		b = o.append(b, finBit|opClose, o.payload)
	}
	return b
}

// release writes the control frames that have been queued in the meantime, then lets
// the next writer continue. It returns err, or the error of its own writes.
func (c *Conn) release(p *[]byte, err error) error {
	o := &c.out
	for {
		o.mu.Lock()
		if err != nil && err != ErrClosing && o.err == nil {
			o.err = err
		}
		b := o.controls((*p)[:0])
		if len(b) == 0 || o.err != nil {
			o.writing = false
			o.cond.Broadcast()
			o.mu.Unlock()
			buffers.Put(p)
			return err
		}
		o.mu.Unlock()
		if failed := c.put(b); failed != nil {
			err = failed
		}
	}
}

// put writes b and adapts unit to the time that this takes.
func (c *Conn) put(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	o := &c.out
	if len(b) < minUnit/2 {
		_, err := c.stream.Write(b)
		return err
	}
	began := time.Now()
	_, err := c.stream.Write(b)
	switch took := time.Since(began); {
	case took > slowWrite:
		o.unit = minUnit
	case took < slowWrite/4:
		o.unit = min(2*o.unit, writeSize)
	}
	return err
}

// settle returns when the waiting control frames have been written, by this
// goroutine or by another writer.
func (c *Conn) settle() error {
	if err := c.out.acquire(); err != nil {
		return err
	}
	return c.release(buffers.Get().(*[]byte), nil)
}

// Ping sends a ping and returns when it is written. The answer shows as bytes
// received. Ping fails as Send does.
func (c *Conn) Ping() error {
	c.out.mu.Lock()
	c.out.ping = !c.out.closing
	c.out.mu.Unlock()
	return c.settle()
}

// pong queues the answer to a ping. If too many are queued, the oldest are dropped,
// as RFC 6455, section 5.5.3 permits.
func (c *Conn) pong(p []byte) {
	o := &c.out
	o.mu.Lock()
	if o.closing {
		o.mu.Unlock()
		return
	}
	for len(o.pongs)+1+len(p) > maxPongs {
		o.pongs = o.pongs[:copy(o.pongs, o.pongs[1+int(o.pongs[0]):])]
	}
	o.pongs = append(append(o.pongs, byte(len(p))), p...)
	c.startLocked()
}

// echo queues the answer to the peer's close frame (RFC 6455, section 5.5.1).
func (c *Conn) echo(ce *CloseError) {
	c.out.mu.Lock()
	c.out.close(ce.Code, "")
	c.startLocked()
}

// startLocked unlocks mu and starts a writer for the control frames if there is no
// active one.
func (c *Conn) startLocked() {
	o := &c.out
	start := !o.writing && o.err == nil
	o.writing = o.writing || start
	o.mu.Unlock()
	if start && !c.o.Go(func() { _ = c.release(buffers.Get().(*[]byte), nil) }) { // the next writer gets the error
		o.mu.Lock()
		o.writing = false
		o.cond.Broadcast()
		o.mu.Unlock()
	}
}

// close queues the one close frame.
func (o *output) close(code uint16, reason string) {
	if o.closing {
		return
	}
	o.closing, o.ping = true, false // queued pongs are still written first
	if code == codeNoStatus {
		return
	}
	if !onWire(code) {
		code = codeInternal
	}
	o.payload = append(binary.BigEndian.AppendUint16(nil, code), CloseReason(reason)...)
}

// wake wakes the goroutines that wait on cond.
func (o *output) wake() {
	o.mu.Lock()
	o.cond.Broadcast()
	o.mu.Unlock()
}

// append appends a frame.
func (o *output) append(b []byte, first byte, payload []byte) []byte {
	masked := byte(0)
	if o.masks {
		masked = maskBit
	}
	switch n := len(payload); {
	case n < length16:
		b = append(b, first, masked|byte(n))
	case n < 1<<16:
		b = append(b, first, masked|length16, byte(n>>8), byte(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, first, masked|length64), uint64(n))
	}
	if !o.masks {
		return append(b, payload...)
	}
	key := rand.Uint32() // from ChaCha8, which the runtime seeds from the system: RFC 6455, section 10.3
	b = binary.LittleEndian.AppendUint32(b, key)
	at := len(b)
	b = append(b, payload...)
	mask(b[at:], key)
	return b
}

// mask masks b in place, beginning with the first byte of key. A table to XOR with
// would not be faster and would make the stack of every new writer grow.
func mask(b []byte, key uint32) {
	k := uint64(key)<<32 | uint64(key)
	for len(b) >= 64 {
		v := b[:64]
		binary.LittleEndian.PutUint64(v[0:], binary.LittleEndian.Uint64(v[0:])^k)
		binary.LittleEndian.PutUint64(v[8:], binary.LittleEndian.Uint64(v[8:])^k)
		binary.LittleEndian.PutUint64(v[16:], binary.LittleEndian.Uint64(v[16:])^k)
		binary.LittleEndian.PutUint64(v[24:], binary.LittleEndian.Uint64(v[24:])^k)
		binary.LittleEndian.PutUint64(v[32:], binary.LittleEndian.Uint64(v[32:])^k)
		binary.LittleEndian.PutUint64(v[40:], binary.LittleEndian.Uint64(v[40:])^k)
		binary.LittleEndian.PutUint64(v[48:], binary.LittleEndian.Uint64(v[48:])^k)
		binary.LittleEndian.PutUint64(v[56:], binary.LittleEndian.Uint64(v[56:])^k)
		b = b[64:]
	}
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^k)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= byte(k >> (8 * i))
	}
}
