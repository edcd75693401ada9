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
		b = segment.AppendTime(binary.AppendUvarint(b, c.Sent.Seq), c.Sent.Time)
	}
	b = appendRanges(b, c.Void)
	b = appendRanges(b, c.Settled)
	if c.State != nil {
		b = segment.AppendBytes(b, c.State)
	}
	return b
}

func appendMessage(b []byte, m *outbox.Message) []byte {
	b = append(b, bitIf(!m.Sent.IsZero(), isSent)|bitIf(m.Void, isVoid)|bitIf(m.Settled, isSettled)|bitIf(m.Type != "", hasType)|
		bitIf(len(m.Header) > 0, hasHeader)|bitIf(!m.Added.IsZero(), hasAdded)|bitIf(m.TTL != 0, hasTTL)|bitIf(m.Resend != 0, hasResend))
	b = append(b, m.ID[:]...)
	b = segment.AppendBytes(b, m.Topic)
	b = segment.AppendBytes(b, m.Payload)
	if m.Type != "" {
		b = segment.AppendBytes(b, m.Type)
	}
	if len(m.Header) > 0 {
		b = binary.AppendUvarint(b, uint64(len(m.Header)))
		for name, value := range m.Header {
			b = segment.AppendBytes(segment.AppendBytes(b, name), value)
		}
	}
	if !m.Added.IsZero() {
		b = segment.AppendTime(b, m.Added)
	}
	if m.TTL != 0 {
		b = binary.AppendVarint(b, int64(m.TTL))
	}
	if !m.Sent.IsZero() {
		b = segment.AppendTime(b, m.Sent)
	}
	if m.Resend != 0 {
		b = append(b, m.Resend)
	}
	return b
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
	d := decoder{segment.Decoder{B: body}}
	for len(d.B) > 0 && d.B[0] != 0 {
		c := d.change()
		if d.Bad {
			return errEncoding
		}
		if err := each(c); err != nil {
			return err
		}
	}
	if !d.Padding() {
		return errEncoding
	}
	return nil
}

type decoder struct{ segment.Decoder }

func (d *decoder) change() *outbox.Change {
	c, has := &outbox.Change{}, d.Byte()
	d.Bad = d.Bad || has&hasChange == 0 || has&^(hasState<<1-1) != 0
	c.Reset = has&hasReset != 0
	if has&hasMessages != 0 {
		const least = 19 // bytes of a message: its flags, its ID, and two lengths
		c.Messages = make([]outbox.Message, d.Count(least))
		seq := d.Uvarint()
		for i := range c.Messages {
			c.Messages[i].Seq = seq + uint64(i)
			d.message(&c.Messages[i])
		}
	}
	if has&hasSent != 0 {
		c.Sent = outbox.Sent{Seq: d.Uvarint(), Time: d.Time()}
	}
	if has&hasVoid != 0 {
		c.Void = d.ranges()
	}
	if has&hasSettled != 0 {
		c.Settled = d.ranges()
	}
	if has&hasState != 0 {
		c.State = append([]byte{}, d.Bytes()...)
	}
	return c
}

func (d *decoder) message(m *outbox.Message) {
	has := d.Byte()
	copy(m.ID[:], d.Take(uint64(len(m.ID))))
	m.Topic, m.Payload = string(d.Bytes()), d.Bytes()
	m.Void, m.Settled = has&isVoid != 0, has&isSettled != 0
	if has&hasType != 0 {
		m.Type = string(d.Bytes())
	}
	if has&hasHeader != 0 {
		n := d.Count(2)
		m.Header = make(map[string]string, n)
		for range n {
			name := string(d.Bytes())
			m.Header[name] = string(d.Bytes())
		}
	}
	if has&hasAdded != 0 {
		m.Added = d.Time()
	}
	if has&hasTTL != 0 {
		m.TTL = time.Duration(d.Varint())
	}
	if has&isSent != 0 {
		m.Sent = d.Time()
	}
	if has&hasResend != 0 {
		m.Resend = d.Byte()
	}
}

func (d *decoder) ranges() []outbox.Range {
	ranges := make([]outbox.Range, d.Count(2))
	for i := range ranges {
		ranges[i] = outbox.Range{Lo: d.Uvarint(), Hi: d.Uvarint()}
	}
	return ranges
}
