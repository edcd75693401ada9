package socket

import (
	"errors"
	"io"
	"net"
	"testing"

	"github.com/limpet-go/limpet/internal/assert"
)

// panickingConn panics in Write.
type panickingConn struct{ net.Conn }

func (panickingConn) Write([]byte) (int, error) { panic("a test") }

// net/http closes a connection whose Write has failed. The read in progress fails because
// of that, and its error may be the one that is reported: it must be the panic too.
func TestPanicOfAConnectionIsItsReason(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	nc := guardConn("DialContext", panickingConn{near})
	_, err := nc.Write([]byte("a"))
	var first, second *Panic
	if !errors.As(err, &first) {
		t.Fatalf("Write: %v", err)
	}
	assert.NoError(t, nc.Close())
	if n, err := nc.Read(make([]byte, 1)); n != 0 || !errors.As(err, &second) || second != first {
		t.Errorf("Read after the panic: %d, %v", n, err)
	}

	near, far = net.Pipe()
	nc = guardConn("DialContext", panickingConn{near})
	assert.NoError(t, far.Close())
	if _, err := nc.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read without a panic: %v", err)
	}
}
