package server

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// BenchmarkAccept decodes and accepts messages of 64 bytes, some to a batch.
func BenchmarkAccept(b *testing.B) {
	for _, batch := range []int{1, 64} {
		b.Run(fmt.Sprint(batch), func(b *testing.B) {
			srv, err := New(&Options{Window: 4096, Retention: Retention{Count: 20_000}, MaxIDs: 20_000})
			if err != nil {
				b.Fatal(err)
			}
			defer srv.Close()
			p := idlePeer(srv)
			p.enc = native.Binary
			s, _, err := srv.sessions.create(p.ctx, p, &native.Hello{CN: 1}, "", time.Hour)
			if err != nil {
				b.Fatal(err)
			}
			p.session = s
			p.creditN.Store(1 << 62)
			p.creditB.Store(1 << 62)
			frames := make([]native.Frame, batch)
			payload := make([]byte, 64)
			lim := native.DefaultLimits
			seq := uint64(0)
			var data []byte
			b.ReportAllocs()
			for b.Loop() {
				for i := range frames {
					seq++
					var id wire.ID
					binary.BigEndian.PutUint64(id[:], seq)
					frames[i] = native.Frame{Type: native.TypeMsg, Msg: native.Msg{S: seq, ID: id, Topic: "orders/eu", Payload: payload}}
				}
				if data, err = native.Append(nil, native.Binary, frames); err != nil {
					b.Fatal(err)
				}
				if err := p.batch(native.Binary.FrameType(), data, lim); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/message")
		})
	}
}
