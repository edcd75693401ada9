package limpet

import (
	"time"

	"github.com/limpet-go/limpet/internal/socket"
	"github.com/limpet-go/limpet/wire"
)

const (
	closeTimeout = time.Second      // of the close handshake, then the socket is closed
	stallTimeout = 15 * time.Second // a write must move bytes within it
)

// conn is a connection and what the client keeps beside it.
type conn struct {
	*socket.Conn
	gen   uint64
	ahead ahead

	// Of the reader.
	codec wire.Codec
	names names
	pace  pace
}

// abandon closes without a word of ours.
func (k *conn) abandon() { k.Close(0, "", goodbye) }

// write writes frames and says how it went.
func (c *Client) write(k *conn, frames *wire.Frames, through uint64) {
	err := k.Send(frames.List)
	if err == nil {
		n := 0
		for _, f := range frames.List {
			n += len(f.Data)
		}
		c.counters.bytesWritten.Add(uint64(n))
	}
	frames.Reset()
	framesPool.Put(frames)
	c.inbox.post(wrote{k, err, through})
}
