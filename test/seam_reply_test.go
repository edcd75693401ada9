package test

import (
	"bytes"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
)

// replyDialect publishes a frame, and takes a frame of the server for the reply to the
// oldest one.
type replyDialect struct{ pushDialect }

func (replyDialect) Traits() wire.Traits                  { return wire.Traits{Publish: true, Acks: true} }
func (replyDialect) Open(wire.Resume) (wire.Codec, error) { return &replyCodec{}, nil }

type replyCodec struct {
	pushCodec
	answered uint64
}

func (c *replyCodec) Decode(f wire.Frame, out *wire.Events) error {
	c.answered++
	out.Append(wire.EventAck).Ack = &wire.Ack{Cmd: c.answered*4 + 3, Reply: bytes.Clone(f.Data)}
	return nil
}

// What a server replies to a message reaches its publisher with the outcome: by Wait, as
// often as it is called, and in PublishOptions.Done. An empty reply is none.
func TestReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
			for text := hear(); text != ""; text = hear() {
				say(text[1:])
			}
		})
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: replyDialect{}}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		done := make(chan string, 2)
		for _, payload := range []string{"-one", "-"} {
			r, err := c.Publish(t.Context(), "feed", []byte(payload), &limpet.PublishOptions{Done: func(r *limpet.Receipt) {
				ack, _ := r.Wait(t.Context())
				done <- string(ack.Reply)
			}})
			assert.NoError(t, err)
			for range 2 {
				ack, err := r.Wait(t.Context())
				if err != nil || ack.Outcome != limpet.Acked || string(ack.Reply) != payload[1:] || payload == "-" && ack.Reply != nil {
					t.Errorf("%s: %v, %q, %v", payload, ack.Outcome, ack.Reply, err)
				}
			}
			if reply := <-done; reply != payload[1:] {
				t.Errorf("Done got %q", reply)
			}
		}
	})
}
