package server

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// recordVersion is the first byte of a record in a store.
const recordVersion = 1

// errRecord means that a record in a store is not one of this version.
var errRecord = errors.New("server: the store holds a record that this version cannot read")

const (
	recordBound = 1 << iota
	recordTag
	recordPrev
)

// append appends what a store keeps of r. The window and the session id are not part of it.
func (r *record) append(b []byte) []byte {
	flags := byte(0)
	if r.bound {
		flags |= recordBound
	}
	if r.hasTag {
		flags |= recordTag
	}
	if r.prev != (keyHash{}) {
		flags |= recordPrev
	}
	b = append(b, recordVersion, flags)
	b = binary.AppendUvarint(b, uint64(len(r.principal)))
	b = append(b, r.principal...)
	b = append(b, r.key[:]...)
	if flags&recordPrev != 0 {
		b = append(b, r.prev[:]...)
	}
	for _, n := range [...]uint64{r.cn, r.se, r.carried, r.ack, uint64(r.ttl)} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	for _, at := range r.conflicts {
		b = binary.BigEndian.AppendUint64(b, uint64(at))
	}
	b = append(b, r.recent[:]...)
	if r.hasTag {
		b = append(b, r.tag[:]...)
	}
	b = binary.AppendUvarint(b, uint64(len(r.rejected)))
	for _, n := range r.rejected {
		b = binary.AppendUvarint(binary.AppendUvarint(b, n.S), n.Code)
	}
	b = binary.AppendUvarint(b, uint64(len(r.bitmap)))
	for _, w := range r.bitmap {
		b = binary.BigEndian.AppendUint64(b, w)
	}
	return b
}

// recordReader reads a record. After the first error it returns zeros.
type recordReader struct {
	b   []byte
	bad bool
}

func (r *recordReader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return make([]byte, min(n, sha256.Size)) // as long as the longest that is taken apart
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *recordReader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *recordReader) fixed() uint64 { return binary.BigEndian.Uint64(r.bytes(8)) }

// count reads how many items follow, each at least size bytes long.
func (r *recordReader) count(size int) uint64 {
	n := r.number()
	if n > uint64(len(r.b)/size) {
		r.bad = true
		return 0
	}
	return n
}

// decodeRecord reads a record of a store.
func decodeRecord(sid string, window uint64, data []byte) (record, error) {
	r := record{sid: sid, window: window}
	in := &recordReader{b: data}
	head := in.bytes(2)
	if in.bad || head[0] != recordVersion {
		return r, errRecord
	}
	flags := head[1]
	r.principal = string(in.bytes(in.count(1)))
	copy(r.key[:], in.bytes(uint64(len(r.key))))
	if flags&recordPrev != 0 {
		copy(r.prev[:], in.bytes(uint64(len(r.prev))))
	}
	r.bound, r.hasTag = flags&recordBound != 0, flags&recordTag != 0
	r.cn, r.se, r.carried, r.ack, r.ttl = in.fixed(), in.fixed(), in.fixed(), in.fixed(), time.Duration(in.fixed())
	for i := range r.conflicts {
		r.conflicts[i] = int64(in.fixed())
	}
	copy(r.recent[:], in.bytes(uint64(len(r.recent))))
	if r.hasTag {
		r.tag = wire.ID(in.bytes(16))
	}
	for n := in.count(2); n > 0; n-- {
		r.rejected = append(r.rejected, native.Reject{S: in.number(), Code: in.number()})
	}
	if n := in.count(8); n == window/64 {
		for ; n > 0; n-- {
			r.bitmap = append(r.bitmap, in.fixed())
		}
	} else if n != 0 {
		in.bad = true // of a server with another window
	}
	if in.bad || len(in.b) > 0 {
		return r, errRecord
	}
	return r, nil
}

// copy makes r a copy of other that shares nothing with it, in the memory that r has.
func (r *record) copy(other *record) {
	rejected, bitmap := r.rejected[:0], r.bitmap[:0]
	*r = *other
	r.rejected = append(rejected, other.rejected...)
	r.bitmap = nil
	if other.bitmap != nil {
		r.bitmap = append(bitmap, other.bitmap...)
	}
}
