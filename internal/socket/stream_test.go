package socket

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/assert"
)

// One long write to a socket whose peer reads a little and then waits: progress
// is recorded before the write has ended, and every byte arrives.
func TestLongWriteShowsProgress(t *testing.T) {
	assert.NoLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NoError(t, err)
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	assert.NoError(t, err)
	defer client.Close()
	peer, err := l.Accept()
	assert.NoError(t, err)
	defer peer.Close()

	s := newStream(client, client)
	const size = 32 << 20
	type result struct {
		n   int
		err error
	}
	wrote := make(chan result, 1)
	go func() {
		n, err := s.Write(make([]byte, size))
		wrote <- result{n, err}
	}()
	_, err = io.ReadFull(peer, make([]byte, 1<<20))
	assert.NoError(t, err)
	for deadline := time.After(30 * time.Second); s.lastWrite.Load() <= 1; {
		select {
		case r := <-wrote:
			t.Fatalf("32 MiB went into the buffers of the system: %+v", r)
		case <-deadline:
			t.Fatal("no progress shows")
		case <-time.After(10 * time.Millisecond):
		}
	}
	_, err = io.ReadFull(peer, make([]byte, size-1<<20))
	assert.NoError(t, err)
	if r := <-wrote; r.n != size || r.err != nil {
		t.Errorf("wrote %d bytes, %v", r.n, r.err)
	}
	// A deadline that has passed does no harm.
	s.writeDeadline = time.Duration(s.sinceEpoch()) + time.Minute
	assert.NoError(t, client.SetWriteDeadline(time.Now().Add(-time.Second)))
	n, err := s.Write([]byte("x"))
	assert.NoError(t, err)
	if n != 1 {
		t.Errorf("wrote %d bytes", n)
	}
}

// The library may keep the stream that it was given; it finds it closed.
func TestDetachedStreamIsClosed(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	d := &detachableStream{newStream(near, nil)}
	d.detach()
	assert.NoError(t, d.Close())
	_, err := d.Read(make([]byte, 1))
	assert.ErrorIs(t, err, net.ErrClosed)
	_, err = d.Write(make([]byte, 1))
	assert.ErrorIs(t, err, net.ErrClosed)
}
