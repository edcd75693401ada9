package file

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/server"
)

// What a record of a segment has, one after the other. No kind is zero, so that padding is none of them.
const (
	isMessage = 1 + iota // a message, which is the next one
	isEntry              // a message that was carried from an earlier segment
	isID
	isRecord
	isRemoved // a record is removed
)

const overhead = 96 // bytes of what is kept besides its content, at most or about

func appendEntry(b []byte, kind byte, e *server.Entry) []byte {
	b = append(b, kind)
	b = append(b, e.ID[:]...)
	b = binary.AppendUvarint(b, e.Offset)
	b = segment.AppendTime(b, e.Time)
	b = segment.AppendBytes(b, e.Topic)
	b = segment.AppendBytes(b, e.Payload)
	b = segment.AppendBytes(b, e.Type)
	b = binary.AppendUvarint(b, uint64(len(e.Header)))
	for name, value := range e.Header {
		b = segment.AppendBytes(segment.AppendBytes(b, name), value)
	}
	b = binary.AppendVarint(b, int64(e.TTL))
	return binary.LittleEndian.AppendUint64(b, e.Hash)
}

func appendID(b []byte, k *id) []byte {
	b = append(b, isID)
	b = append(b, k.id[:]...)
	b = segment.AppendBytes(b, k.who)
	b = segment.AppendTime(segment.AppendTime(b, k.at), k.until)
	b = binary.AppendUvarint(binary.AppendUvarint(b, k.Code), k.Offset)
	return binary.LittleEndian.AppendUint64(b, k.Hash)
}

func appendRecord(b []byte, r *record) []byte {
	bound := byte(0)
	if r.bound {
		bound = 1
	}
	b = segment.AppendBytes(append(b, isRecord), r.session)
	b = binary.AppendUvarint(b, r.version)
	b = append(segment.AppendTime(b, r.expires), bound)
	return segment.AppendBytes(b, r.data)
}

var errEncoding = errors.New("its content makes no sense")

// decode adds what a record of a segment has to a state. It keeps copies.
func (s *state) decode(body []byte, number uint64) error {
	return s.decodeWith(body, number, func(kind byte, e *server.Entry) error {
		if (kind == isMessage) != (e.Offset == s.head+1) {
			return errEncoding
		}
		s.add(e, number)
		return nil
	})
}

// decodeWith does what decode does, but calls message with the messages.
func (s *state) decodeWith(body []byte, number uint64, message func(kind byte, e *server.Entry) error) error {
	d := segment.Decoder{B: body}
	for len(d.B) > 0 && d.B[0] != 0 {
		switch kind := d.Byte(); kind {
		case isMessage, isEntry:
			e := decodeEntry(&d)
			if d.Bad {
				return errEncoding
			}
			if err := message(kind, e); err != nil {
				return err
			}
		case isID:
			s.remember(decodeID(&d, number))
		case isRecord:
			s.put(decodeRecord(&d, number))
		case isRemoved:
			if r := s.records[string(d.Bytes())]; r != nil {
				s.drop(r)
			}
		default:
			return errEncoding
		}
		if d.Bad {
			return errEncoding
		}
	}
	if !d.Padding() {
		return errEncoding
	}
	return nil
}

func decodeEntry(d *segment.Decoder) *server.Entry {
	e := &server.Entry{}
	copy(e.ID[:], d.Take(uint64(len(e.ID))))
	e.Offset, e.Time = d.Uvarint(), d.Time()
	e.Topic, e.Payload, e.Type = string(d.Bytes()), append([]byte{}, d.Bytes()...), string(d.Bytes())
	if n := d.Count(2); n > 0 {
		e.Header = make(map[string]string, n)
		for range n {
			name := string(d.Bytes())
			e.Header[name] = string(d.Bytes())
		}
	}
	e.TTL = time.Duration(d.Varint())
	e.Hash = decodeHash(d)
	return e
}

func decodeHash(d *segment.Decoder) uint64 {
	if b := d.Take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func decodeID(d *segment.Decoder, number uint64) *id {
	k := &id{segment: number}
	copy(k.id[:], d.Take(uint64(len(k.id))))
	k.who = string(d.Bytes())
	k.at, k.until = d.Time(), d.Time()
	k.Code, k.Offset = d.Uvarint(), d.Uvarint()
	k.Hash = decodeHash(d)
	k.ID = k.id
	return k
}

func decodeRecord(d *segment.Decoder, number uint64) *record {
	r := &record{session: string(d.Bytes()), version: d.Uvarint(), segment: number}
	r.expires, r.bound = d.Time(), d.Byte() != 0
	r.data = append([]byte{}, d.Bytes()...)
	return r
}
