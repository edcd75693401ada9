package limpettest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"hash/crc32"
	"strconv"

	"github.com/google/uuid"

	"github.com/limpet-go/limpet/wire"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stamped is the JSON form of a stamped payload.
type stamped struct {
	Producer string `json:"p"`
	Counter  uint64 `json:"n"`
	Sum      string `json:"c"`
	Body     []byte `json:"b"`
}

// Stamp returns a JSON payload that holds body, its producer, the producer's counter
// and a checksum over all three. A producer is one ordered source that counts from
// 1: goroutines that publish concurrently need different names, because their order
// is not defined.
func Stamp(producer string, counter uint64, body []byte) []byte {
	name, _ := json.Marshal(producer) // a string always marshals
	b := make([]byte, 0, len(name)+len(body)*4/3+64)
	b = append(append(b, `{"p":`...), name...)
	b = append(b, `,"n":`...)
	b = strconv.AppendUint(b, counter, 10)
	b = append(b, `,"c":"`...)
	b = appendSum(b, sum(producer, counter, body))
	b = append(b, `","b":"`...)
	b = base64.StdEncoding.AppendEncode(b, body)
	return append(b, `"}`...)
}

// Unstamp reads a payload that Stamp made. crc is the checksum of the content as it
// was received. ok reports whether payload is, byte for byte, what Stamp makes of
// that content.
func Unstamp(payload []byte) (producer string, counter uint64, crc uint32, ok bool) {
	var s stamped
	if json.Unmarshal(payload, &s) != nil || s.Sum == "" {
		return "", 0, crc32.Checksum(payload, castagnoli), false
	}
	crc = sum(s.Producer, s.Counter, s.Body)
	return s.Producer, s.Counter, crc, bytes.Equal(payload, Stamp(s.Producer, s.Counter, s.Body))
}

func appendSum(b []byte, crc uint32) []byte {
	const hex = "0123456789abcdef"
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, hex[crc>>shift&0xf])
	}
	return b
}

// sum returns the checksum over producer, counter and body.
func sum(producer string, counter uint64, body []byte) uint32 {
	b := append([]byte(producer), 0)
	b = strconv.AppendUint(b, counter, 10)
	b = append(b, 0)
	return crc32.Update(crc32.Checksum(b, castagnoli), castagnoli, body)
}

// NewSent returns the event for a stamped payload that is about to be published as
// id. Use the zero id for messages that the server itself publishes: no outcome is
// expected for them.
func NewSent(id uuid.UUID, payload []byte) Sent {
	producer, counter, crc, _ := Unstamp(payload)
	return Sent{Producer: producer, Counter: counter, ID: id, Sum: crc}
}

// NewDelivered returns the event for a payload as a consumer of sub received it. The
// caller sets Prev and the flags.
func NewDelivered(sub string, at wire.Position, id uuid.UUID, payload []byte) Delivered {
	producer, counter, crc, ok := Unstamp(payload)
	return Delivered{
		Sub: sub, Epoch: at.Epoch, Offset: at.Offset, ID: id,
		Producer: producer, Counter: counter, Sum: crc, Damaged: !ok,
	}
}
