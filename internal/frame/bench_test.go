package frame

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
	"nhooyr.io/websocket"
)

var benchSizes = []int{64, 512, 4096}

// endless is a stream that repeats the same frames without end and discards what is
// written.
type endless struct {
	block []byte
	at    int
}

func endlessOf(size int) *endless {
	frame := binmsg(strings.Repeat("x", size))
	var block []byte
	for len(block) < 1<<20 {
		block = append(block, frame...)
	}
	return &endless{block: block}
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.block[e.at:])
	if e.at += n; e.at == len(e.block) {
		e.at = 0
	}
	return n, nil
}
func (e *endless) Write(p []byte) (int, error) { return len(p), nil }
func (e *endless) Close() error                { return nil }

// feed is a loopback connection whose other end sends without end, or reads
// everything.
func feed(b *testing.B, size int, sends bool) net.Conn {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NoError(b, err)
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	assert.NoError(b, err)
	peer, err := l.Accept()
	assert.NoError(b, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if sends {
			_, _ = io.CopyBuffer(struct{ io.Writer }{peer}, endlessOf(size), make([]byte, 64<<10))
		} else {
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{peer}, make([]byte, 256<<10))
		}
	}()
	b.Cleanup(func() { client.Close(); peer.Close(); <-done })
	return client
}

func streams(b *testing.B, sends bool, f func(b *testing.B, size int, stream io.ReadWriteCloser)) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("%d/memory", size), func(b *testing.B) { f(b, size, endlessOf(size)) })
		b.Run(fmt.Sprintf("%d/loopback", size), func(b *testing.B) { f(b, size, feed(b, size, sends)) })
	}
}

func BenchmarkRead(b *testing.B) {
	streams(b, true, func(b *testing.B, size int, stream io.ReadWriteCloser) {
		c := New(stream, Options{ReadLimit: testLimit, Kill: func() {}})
		b.SetBytes(int64(size))
		b.ReportAllocs()
		for n := 0; n < b.N; {
			batch, err := c.Receive(false)
			assert.NoError(b, err)
			n += len(batch)
		}
	})
}

func BenchmarkReadLibrary(b *testing.B) {
	streams(b, true, func(b *testing.B, size int, stream io.ReadWriteCloser) {
		ws := library(b, stream, testLimit)
		defer ws.CloseNow()
		buf := make([]byte, size)
		b.SetBytes(int64(size))
		b.ReportAllocs()
		for range b.N {
			_, r, err := ws.Reader(context.Background())
			assert.NoError(b, err)
			_, err = io.ReadFull(r, buf)
			assert.NoError(b, err)
			if _, err = r.Read(buf); err != io.EOF {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkWrite writes batches of 64 messages.
func BenchmarkWrite(b *testing.B) {
	streams(b, false, func(b *testing.B, size int, stream io.ReadWriteCloser) {
		c := New(stream, Options{ReadLimit: testLimit, Kill: func() {}})
		ms := make([]wire.Frame, 64)
		for i := range ms {
			ms[i] = wire.Frame{Type: wire.Binary, Data: make([]byte, size)}
		}
		b.SetBytes(int64(size))
		b.ReportAllocs()
		for n := 0; n < b.N; n += len(ms) {
			assert.NoError(b, c.Send(ms))
		}
	})
}

func BenchmarkWriteLibrary(b *testing.B) {
	streams(b, false, func(b *testing.B, size int, stream io.ReadWriteCloser) {
		ws := library(b, stream, testLimit)
		defer ws.CloseNow()
		buf := make([]byte, size)
		b.SetBytes(int64(size))
		b.ReportAllocs()
		for range b.N {
			assert.NoError(b, ws.Write(context.Background(), websocket.MessageBinary, buf))
		}
	})
}

func TestAllocations(t *testing.T) {
	for _, size := range benchSizes {
		c := New(endlessOf(size), Options{ReadLimit: testLimit, Kill: func() {}})
		const messages = 10_000
		if n := testing.AllocsPerRun(10, func() {
			for n := 0; n < messages; {
				batch, err := c.Receive(false)
				assert.NoError(t, err)
				n += len(batch)
			}
		}); n > messages/1000 {
			t.Errorf("%v allocations for %d received messages of %d bytes", n, messages, size)
		}
		ms := make([]wire.Frame, 64)
		for i := range ms {
			ms[i] = wire.Frame{Type: wire.Text, Data: make([]byte, size)}
		}
		if n := testing.AllocsPerRun(100, func() { assert.NoError(t, c.Send(ms)) }); n > 0.1 {
			t.Errorf("%v allocations for %d sent messages of %d bytes", n, len(ms), size)
		}
	}
}
