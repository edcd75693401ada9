package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// fromClient appends a masked frame, as a client sends it.
func fromClient(b []byte, first byte, payload string, key uint32) []byte {
	switch n := len(payload); {
	case n < length16:
		b = append(b, first, maskBit|byte(n))
	case n < 1<<16:
		b = append(b, first, maskBit|length16, byte(n>>8), byte(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, first, maskBit|length64), uint64(n))
	}
	b = binary.BigEndian.AppendUint32(b, key)
	for i := range len(payload) {
		b = append(b, payload[i]^byte(key>>(24-8*(i%4))))
	}
	return b
}

// chopped is a stream that delivers at most size bytes at a time.
type chopped struct {
	in   []byte
	size int
	out  bytes.Buffer
}

func (p *chopped) Read(b []byte) (int, error) {
	if len(p.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.in)
	p.in = p.in[n:]
	return n, nil
}

func (p *chopped) Write(b []byte) (int, error) { return p.out.Write(b) }

// A server reads what a client masks, whole or in fragments, however the bytes arrive.
func TestServerReadsMaskedFrames(t *testing.T) {
	for _, size := range []int{1, 3, 7, 500, 1 << 20} {
		rnd := rand.New(rand.NewPCG(1, uint64(size)))
		p := &chopped{size: size}
		var want []string
		for _, n := range []int{0, 1, 5, 125, 126, 511, 513, 5000, 40_001, 70_003} {
			text := strings.Repeat("0123456789abcdefghi", n/19+1)[:n]
			want = append(want, text, text)
			p.in = fromClient(p.in, 0x82, text, rnd.Uint32())
			cut := n / 3
			p.in = fromClient(p.in, 0x01, text[:cut], rnd.Uint32())
			p.in = fromClient(p.in, 0x89, "ping", rnd.Uint32())
			p.in = fromClient(p.in, 0x80, text[cut:], rnd.Uint32())
		}
		c := New(p, Options{Server: true, ReadLimit: 1 << 20, Kill: func() {}, Go: func(f func()) bool { f(); return true }})
		var got []string
		for {
			batch, err := c.Receive(true)
			if err != nil {
				if err != io.EOF {
					t.Fatalf("in parts of %d: %v", size, err)
				}
				break
			}
			for _, f := range batch {
				got = append(got, string(f.Data))
			}
		}
		if len(got) != len(want) {
			t.Fatalf("in parts of %d: %d messages, want %d", size, len(got), len(want))
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("in parts of %d: message %d of %d bytes differs", size, i, len(want[i]))
			}
		}
		if pong := []byte("\x8a\x04ping"); bytes.Count(p.out.Bytes(), pong) != 10 || p.out.Len() != 60 {
			t.Errorf("in parts of %d: answered %q", size, p.out.Bytes())
		}
	}
}

// A server refuses frames without a mask, and what exceeds its limit.
func TestServerRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		in   []byte
		code uint16
	}{
		"without a mask":      {[]byte("\x82\x01a"), codeProtocol},
		"a ping without mask": {[]byte("\x89\x00"), codeProtocol},
		"beyond the limit":    {fromClient(nil, 0x82, strings.Repeat("x", 1001), 7), codeTooBig},
		"a reserved bit":      {fromClient(nil, 0xc2, "", 7), codeProtocol},
		"a long length":       {[]byte("\x82\xfe\x00\x01\x00\x00\x00\x00a"), codeProtocol},
	} {
		c := New(&chopped{in: tc.in, size: 99}, Options{Server: true, ReadLimit: 1000, Kill: func() {}})
		_, err := c.Receive(true)
		var refused *wire.CodeError
		if !errors.As(err, &refused) || refused.Code != tc.code {
			t.Errorf("%s: %v, want %d", name, err, tc.code)
		}
	}
}

// What a server writes has no mask, and the client's side of this package reads it.
func TestServerWrites(t *testing.T) {
	p := &chopped{size: 1 << 20}
	c := New(p, Options{Server: true, ReadLimit: 1000, Kill: func() {}})
	var want []string
	for _, n := range []int{0, 1, 126, 40_000, 70_000} {
		want = append(want, strings.Repeat("x", n))
		if err := c.Send(frames(want[len(want)-1])); err != nil {
			t.Fatal(err)
		}
	}
	d := New(&chopped{in: p.out.Bytes(), size: 1000}, Options{ReadLimit: 1 << 20, Kill: func() {}})
	for len(want) > 0 {
		batch, err := d.Receive(false)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range batch {
			if string(f.Data) != want[0] {
				t.Fatalf("%d bytes, want %d", len(f.Data), len(want[0]))
			}
			want = want[1:]
		}
	}
}

// A server closes the connection once both close frames are there; it does not wait for the
// client.
func TestServerClosesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := pipe(t, 256)
		killed := make(chan time.Duration, 2)
		began := time.Now()
		c := New(server, Options{Server: true, ReadLimit: 1000, Kill: func() { killed <- time.Since(began); server.Close() }})
		go func() {
			got := make([]byte, 8)
			if n, err := io.ReadFull(client, got); err != nil || fmt.Sprintf("%x", got) != "88060fa062796521"[:2*n] {
				t.Errorf("%x: %v", got[:n], err)
			}
			client.Write(fromClient(nil, 0x88, "\x0f\xa0", 7))
		}()
		c.Close(4000, "bye!", time.Minute)
		if took := <-killed; took != 0 || !c.Closed() {
			t.Errorf("killed after %v; closed by the peer: %v", took, c.Closed())
		}
	})
}
