package frame_test

import (
	"context"
	"net"
	"testing"

	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/internal/frame"
	"github.com/limpet-go/limpet/limpettest"
)

func init() { frame.Pipe = pipe }

// pipe returns both ends of a connection in memory, which holds buffer bytes on the way.
func pipe(t *testing.T, buffer int) (client, server net.Conn) {
	t.Helper()
	n := limpettest.NewNetwork(&limpettest.NetworkOptions{Buffer: buffer})
	l, err := n.Listen("peer:1")
	assert.NoError(t, err)
	client, err = n.DialContext(context.Background(), "tcp", "peer:1")
	assert.NoError(t, err)
	server, err = l.Accept()
	assert.NoError(t, err)
	t.Cleanup(func() { client.Close(); server.Close(); l.Close() })
	return client, server
}
