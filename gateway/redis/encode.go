package redis

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// An entry in the stream is its id, its hash, and the rest. The scripts know the places of the first two.
func appendEntry(b []byte, e *server.Entry) []byte {
	b = append(b, e.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, e.Hash)
	b = binary.AppendVarint(b, int64(e.TTL))
	b = segment.AppendBytes(b, e.Topic)
	b = segment.AppendBytes(b, e.Type)
	b = binary.AppendUvarint(b, uint64(len(e.Header)))
	for name, value := range e.Header {
		b = segment.AppendBytes(segment.AppendBytes(b, name), value)
	}
	return append(b, e.Payload...)
}

// sizeOf returns about how many bytes an entry takes.
func sizeOf(e *server.Entry) int {
	n := len(e.Payload) + len(e.Topic) + len(e.Type) + 64
	for k, v := range e.Header {
		n += len(k) + len(v) + 8
	}
	return n
}

// decodeEntry keeps no part of text but the payload, which is a copy.
func decodeEntry(offset uint64, text, milliseconds string) (*server.Entry, error) {
	d := segment.Decoder{B: []byte(text)}
	at, err := strconv.ParseInt(milliseconds, 10, 64)
	e := &server.Entry{Offset: offset, Time: time.UnixMilli(at)}
	copy(e.ID[:], d.Take(16))
	if hash := d.Take(8); hash != nil {
		e.Hash = binary.BigEndian.Uint64(hash)
	}
	e.TTL, e.Topic, e.Type = time.Duration(d.Varint()), string(d.Bytes()), string(d.Bytes())
	if n := d.Count(2); n > 0 {
		e.Header = make(map[string]string, n)
		for range n {
			name := string(d.Bytes())
			e.Header[name] = string(d.Bytes())
		}
	}
	if d.Bad || err != nil {
		return nil, fmt.Errorf("%w (entry %d)", ErrForeign, offset)
	}
	e.Payload = d.B
	return e, nil
}

// A record is its version in 16 hexadecimal digits, the offset of the last entry of the change that wrote it in 16 digits,
// its kind, and its bytes.
const (
	recordHead = 33
	kindRecord = 'r'
	kindNone   = 'x' // there is no record; what remains recognises the change when it is repeated
)

func hexVersion(v uint64) string { return fmt.Sprintf("%016x", v) }

func (s *Store) decodeRecord(text string) ([]byte, uint64, error) {
	if len(text) >= recordHead && text[recordHead-1] == kindNone {
		return nil, 0, nil
	}
	if len(text) >= recordHead && text[recordHead-1] == kindRecord {
		if version, err := strconv.ParseUint(text[:16], 16, 64); err == nil {
			return []byte(text[recordHead:]), version, nil
		}
	}
	return nil, 0, fmt.Errorf("%w (the record of a session)", ErrForeign)
}

// The value of an id is 'a', the offset in 16 digits and the hash; or 'r', the code in 16 digits and the hash.
func refusedValue(r *server.Refusal) string {
	return string(binary.BigEndian.AppendUint64(fmt.Appendf(nil, "r%016d", r.Code), r.Hash))
}

func (s *Store) decodeID(id wire.ID, text string) (server.KnownID, error) {
	k := server.KnownID{ID: id}
	if len(text) > 17 {
		n, err := strconv.ParseUint(text[1:len(text)-8], 10, 64)
		if hash := text[len(text)-8:]; err == nil {
			k.Hash = binary.BigEndian.Uint64([]byte(hash))
		}
		switch {
		case err != nil:
		case text[0] == 'a':
			k.Offset = n
			return k, nil
		case text[0] == 'r':
			k.Code = n
			return k, nil
		}
	}
	return k, fmt.Errorf("%w (a message id)", ErrForeign)
}
