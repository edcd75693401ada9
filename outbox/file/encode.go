package file

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/outbox"
)

// What a change has. The first is always there, so that a change never begins with a zero.
const (
	hasChange = 1 << iota
	hasReset
	hasMessages
	hasSent
	hasVoid
	hasSettled
	hasState
)

// What a message has.
const (
	isSent = 1 << iota
	isVoid
	isSettled
	hasType
	hasHeader
	hasAdded
	hasTTL
	hasResend
)

func bitIf(is bool, bit byte) byte {
	if is {
		return bit
	}
	return 0
}

// appendChange appends a change, but for Lazy.
func appendChange(b []byte, c *outbox.Change) []byte {
	b = append(b, hasChange|bitIf(c.Reset, hasReset)|bitIf(len(c.Messages) > 0, hasMessages)|bitIf(c.Sent != outbox.Sent{}, hasSent)|
		bitIf(len(c.Void) > 0, hasVoid)|bitIf(len(c.Settled) > 0, hasSettled)|bitIf(c.State != nil, hasState))
	if len(c.Messages) > 0 {
		b = binary.AppendUvarint(b, uint64(len(c.Messages)))
		b = binary.AppendUvarint(b, c.Messages[0].Seq)
		for i := range c.Messages {
			b = appendMessage(b, &c.Messages[i])
		}
	}
	if c.Sent != (outbox.Sent{}) {
		b = appendTime(binary.AppendUvarint(b, c.Sent.Seq), c.Sent.Time)
	}
	b = appendRanges(b, c.Void)
	b = appendRanges(b, c.Settled)
	if c.State != nil {
		b = appendBytes(b, c.State)
	}
	return b
}

func appendMessage(b []byte, m *outbox.Message) []byte {
	b = append(b, bitIf(!m.Sent.IsZero(), isSent)|bitIf(m.Void, isVoid)|bitIf(m.Settled, isSettled)|bitIf(m.Type != "", hasType)|
		bitIf(len(m.Header) > 0, hasHeader)|bitIf(!m.Added.IsZero(), hasAdded)|bitIf(m.TTL != 0, hasTTL)|bitIf(m.Resend != 0, hasResend))
	b = append(b, m.ID[:]...)
	b = appendBytes(b, m.Topic)
	b = appendBytes(b, m.Payload)
	if m.Type != "" {
		b = appendBytes(b, m.Type)
	}
	if len(m.Header) > 0 {
		b = binary.AppendUvarint(b, uint64(len(m.Header)))
		for name, value := range m.Header {
			b = appendBytes(appendBytes(b, name), value)
		}
	}
	if !m.Added.IsZero() {
		b = appendTime(b, m.Added)
	}
	if m.TTL != 0 {
		b = binary.AppendVarint(b, int64(m.TTL))
	}
	if !m.Sent.IsZero() {
		b = appendTime(b, m.Sent)
	}
	if m.Resend != 0 {
		b = append(b, m.Resend)
	}
	return b
}

func appendBytes[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTime(b []byte, t time.Time) []byte {
	return binary.AppendUvarint(binary.AppendVarint(b, t.Unix()), uint64(t.Nanosecond()))
}

func appendRanges(b []byte, ranges []outbox.Range) []byte {
	if len(ranges) == 0 {
		return b
	}
	b = binary.AppendUvarint(b, uint64(len(ranges)))
	for _, r := range ranges {
		b = binary.AppendUvarint(binary.AppendUvarint(b, r.Lo), r.Hi)
	}
	return b
}

var errEncoding = errors.New("its content makes no sense")

// decodeChanges calls each with the changes of a record, in order. They share the memory of body, and
// are good during the call.
func decodeChanges(body []byte, each func(*outbox.Change) error) error {
	d := decoder{b: body}
	for len(d.b) > 0 && d.b[0] != 0 {
		c := d.change()
		if d.bad {
			return errEncoding
		}
		if err := each(c); err != nil {
			return err
		}
	}
	if len(d.b) >= segment.Alignment { // more than padding
		return errEncoding
	}
	for _, zero := range d.b {
		if zero != 0 {
			return errEncoding
		}
	}
	return nil
}

// decoder reads what b still has. What it returns means nothing once bad is set.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) change() *outbox.Change {
	c, has := &outbox.Change{}, d.byte()
	d.bad = d.bad || has&hasChange == 0 || has&^(hasState<<1-1) != 0
	c.Reset = has&hasReset != 0
	if has&hasMessages != 0 {
		const least = 19 // bytes of a message: its flags, its ID, and two lengths
		c.Messages = make([]outbox.Message, d.count(least))
		seq := d.uvarint()
		for i := range c.Messages {
			c.Messages[i].Seq = seq + uint64(i)
			d.message(&c.Messages[i])
		}
	}
	if has&hasSent != 0 {
		c.Sent = outbox.Sent{Seq: d.uvarint(), Time: d.time()}
	}
	if has&hasVoid != 0 {
		c.Void = d.ranges()
	}
	if has&hasSettled != 0 {
		c.Settled = d.ranges()
	}
	if has&hasState != 0 {
		c.State = append([]byte{}, d.bytes()...)
	}
	return c
}

func (d *decoder) message(m *outbox.Message) {
	has := d.byte()
	copy(m.ID[:], d.take(uint64(len(m.ID))))
	m.Topic, m.Payload = string(d.bytes()), d.bytes()
	m.Void, m.Settled = has&isVoid != 0, has&isSettled != 0
	if has&hasType != 0 {
		m.Type = string(d.bytes())
	}
	if has&hasHeader != 0 {
		n := d.count(2)
		m.Header = make(map[string]string, n)
		for range n {
			name := string(d.bytes())
			m.Header[name] = string(d.bytes())
		}
	}
	if has&hasAdded != 0 {
		m.Added = d.time()
	}
	if has&hasTTL != 0 {
		ttl, n := binary.Varint(d.b)
		d.skip(n)
		m.TTL = time.Duration(ttl)
	}
	if has&isSent != 0 {
		m.Sent = d.time()
	}
	if has&hasResend != 0 {
		m.Resend = d.byte()
	}
}

func (d *decoder) ranges() []outbox.Range {
	ranges := make([]outbox.Range, d.count(2))
	for i := range ranges {
		ranges[i] = outbox.Range{Lo: d.uvarint(), Hi: d.uvarint()}
	}
	return ranges
}

func (d *decoder) time() time.Time {
	seconds, n := binary.Varint(d.b)
	d.skip(n)
	return time.Unix(seconds, int64(d.uvarint()%1e9))
}

// count returns how many values of at least a number of bytes follow.
func (d *decoder) count(least int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/least) {
		d.bad = true
		return 0
	}
	return int(n)
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	d.skip(n)
	return v
}

func (d *decoder) skip(n int) {
	if n <= 0 {
		d.bad, d.b = true, nil
		return
	}
	d.b = d.b[n:]
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) bytes() []byte { return d.take(d.uvarint()) }

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	taken := d.b[:n:n]
	d.b = d.b[n:]
	return taken
}
