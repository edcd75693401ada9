package test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// recordingDialect shows what its codec is asked to encode.
type recordingDialect struct {
	toyDialect
	record func(wire.Op)
}

type recordingCodec struct {
	wire.Codec
	record func(wire.Op)
}

func (d recordingDialect) Open(r wire.Resume) (wire.Codec, error) {
	c, err := d.toyDialect.Open(r)
	return recordingCodec{c, d.record}, err
}

func (c recordingCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	for _, op := range ops {
		c.record(op)
		if op.Kind == wire.OpBye {
			out.Append(wire.Text, []byte("bye"))
		}
	}
	return c.Codec.Encode(ops, out)
}

// Without sessions the numbers of messages continue from connection to connection.
func TestNumbersWithoutSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var numbers []uint64
		srv := newToyServer(t, func(_ int, say func(string), _ func() string) { say("ready") })
		d := recordingDialect{newToyDialect(), func(op wire.Op) {
			if op.Kind == wire.OpPublish {
				mu.Lock()
				defer mu.Unlock()
				numbers = append(numbers, op.Message.Seq)
			}
		}}
		c, err := limpet.Dial(context.Background(), srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		for i := range 5 {
			if i == 3 {
				srv.host.Network.Strike(limpettest.CutAfterBytes(limpettest.Up, 0))
				synctest.Wait()
			}
			if err := c.WaitReady(context.Background()); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Send(context.Background(), "a", nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(numbers, []uint64{1, 2, 3, 4, 5}) || c.Stats().Connections != 2 {
			t.Errorf("%v on %d connections", numbers, c.Stats().Connections)
		}
	})
}
