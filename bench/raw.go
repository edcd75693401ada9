package main

import (
	"encoding/binary"
	"net/http"
	"sync"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// raw is the smallest language that the client can use: a WebSocket message is an
// application message of the only subscription, of any size, and the client sends
// nothing but credit. The cost of limpet with it is that of the client without a
// codec.
type raw struct{}

func (raw) Name() string                         { return "raw" }
func (raw) Traits() wire.Traits                  { return wire.Traits{ByKey: true, Credit: true} }
func (raw) CheckTopic(wire.Use, string) error    { return nil }
func (raw) Attempt(a *wire.Attempt) error        { a.Dial = true; return nil }
func (raw) Open(wire.Resume) (wire.Codec, error) { return raw{}, nil }
func (raw) Verdict(wire.Failure) wire.Verdict    { return wire.Verdict{} }
func (raw) Start(*wire.Frames) error             { return nil }

func (raw) Decode(f wire.Frame, out *wire.Events) error {
	e := out.Append(wire.EventData)
	e.Key = 1 // the first subscription
	e.Message.Payload = append([]byte(nil), f.Data...)
	return nil
}

func (raw) Encode(ops []wire.Op, out *wire.Frames) error {
	for i := range ops {
		c := ops[i].Credit
		switch ops[i].Kind {
		case wire.OpSubscribe:
			c = ops[i].Subscribe.Credit
		case wire.OpCredit:
		default:
			continue
		}
		b := binary.BigEndian.AppendUint64(out.Buffer(16), c.N)
		out.Append(wire.Binary, binary.BigEndian.AppendUint64(b, c.Bytes))
	}
	return nil
}

// creditBlast is the other end: it sends prepared messages as the credit allows.
func creditBlast(w http.ResponseWriter, r *http.Request) {
	b := &blaster{order: orderOf(r), chans: []uint64{1}, credit: map[uint64]native.Credit{}}
	b.room = sync.NewCond(&b.mu)
	b.bytes = rawStream(b.order)
	for i := range b.Messages {
		b.ends = append(b.ends, len(b.bytes)/b.Messages*(i+1))
	}
	var err error
	if b.peer, err = upgrade(w, r); err != nil {
		return
	}
	defer b.Close()
	for first := true; ; first = false {
		data, err := b.next()
		b.mu.Lock()
		if b.ended = err != nil || len(data) != 16; !b.ended {
			b.credit[1] = native.Credit{N: binary.BigEndian.Uint64(data), B: binary.BigEndian.Uint64(data[8:])}
		}
		ended := b.ended
		b.mu.Unlock()
		b.room.Broadcast()
		if ended {
			return
		}
		if first {
			go b.blast()
		}
	}
}
