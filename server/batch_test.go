package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet/wire/native"
)

// TestChains compares the p chain of many subscriptions with a naive model:
// what matches the pattern, in the order of the log.
func TestChains(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	level := func(wild bool) string {
		if wild && rng.IntN(3) == 0 {
			return "*"
		}
		return string(rune('a' + rng.IntN(2)))
	}
	topic := func(wild bool) string {
		s := level(wild)
		for range rng.IntN(3) {
			s += "/" + level(wild)
		}
		if wild && rng.IntN(4) == 0 {
			s += "/**"
		}
		return s
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		type entry struct {
			offset uint64
			topic  string
		}
		var all []entry
		publish := func(n int) {
			for range n {
				e := entry{topic: topic(false)}
				var err error
				if e.offset, err = r.srv.Publish(context.Background(), e.topic, []byte(e.topic), nil); err != nil {
					t.Fatal(err)
				}
				all = append(all, e)
			}
		}
		publish(150)
		c := r.connect(native.Binary)
		c.hello(native.Hello{CN: 1})
		type chain struct {
			pattern string
			start   uint64
			last    uint64
			got     []uint64
			credit  uint64
		}
		chains := map[uint64]*chain{}
		for ch := uint64(1); ch <= 40; ch++ {
			p := topic(true)
			from := []native.From{native.FromFirst, native.FromNew}[rng.IntN(2)]
			chains[ch] = &chain{pattern: p, credit: uint64(1 + rng.IntN(20))}
			c.send(sub(ch, p, from, chains[ch].credit))
		}
		take := func() {
			synctest.Wait()
			c.send(native.Frame{Type: native.TypePing})
			for {
				f, err := c.read()
				if err != nil {
					t.Fatal(err)
				}
				switch f.Type {
				case native.TypePong:
					return
				case native.TypeSubOK:
					chains[f.SubOK.Ch].start, chains[f.SubOK.Ch].last = f.SubOK.O, f.SubOK.O
				case native.TypeMsg:
					ch := chains[f.Msg.Ch]
					if f.Msg.P != ch.last || f.Msg.S <= ch.last {
						t.Fatalf("%s: message %d after %d, last was %d", ch.pattern, f.Msg.S, f.Msg.P, ch.last)
					}
					if want := all[f.Msg.S-1].topic; string(f.Msg.Payload) != want || f.Msg.Topic != "" && f.Msg.Topic != want {
						t.Fatalf("message %d is of %q, want %q", f.Msg.S, f.Msg.Payload, want)
					}
					ch.last = f.Msg.S
					ch.got = append(ch.got, f.Msg.S)
					if uint64(len(ch.got)) > ch.credit {
						t.Fatalf("%s: %d messages with credit for %d", ch.pattern, len(ch.got), ch.credit)
					}
				default:
					t.Fatal(show(f))
				}
			}
		}
		for range 30 {
			take()
			publish(rng.IntN(30))
			for ch, c2 := range chains {
				if rng.IntN(2) == 0 {
					c2.credit += uint64(rng.IntN(30))
					c.send(credit(ch, c2.credit, 1<<40))
				}
			}
		}
		for ch, c2 := range chains {
			c2.credit = 1 << 30
			c.send(credit(ch, c2.credit, 1<<40))
		}
		take()
		for _, ch := range chains {
			var want []uint64
			for _, e := range all {
				if e.offset > ch.start && native.Match(ch.pattern, e.topic) {
					want = append(want, e.offset)
				}
			}
			if !slices.Equal(ch.got, want) {
				t.Errorf("%s: got %v, want %v", ch.pattern, ch.got, want)
			}
		}
	})
}

// TestBatches: small messages share a WebSocket message of 64 KiB at most, and a
// bigger one travels alone, whole.
func TestBatches(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		r := newRig(t, nil)
		sizes := []int{0}
		for i := range 400 {
			sizes = append(sizes, 1000+i)
		}
		sizes = append(sizes, 200_000, 40_000, 40_000, 256<<10, 10)
		for i, n := range sizes {
			payload := bytes.Repeat([]byte{byte(i)}, n)
			if _, err := r.srv.Publish(context.Background(), "t", payload, nil); err != nil {
				t.Fatal(err)
			}
		}
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1})
		c.send(sub(1, "t", native.FromFirst, 1<<20))
		batches := 0
		for got := 0; got < len(sizes); {
			_, data, err := c.ws.Read(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			frames, err := native.Decode(nil, enc, native.FromServer, data, native.DefaultLimits)
			if err != nil {
				t.Fatal(err)
			}
			if len(frames) > 1 && len(data) > 64<<10 {
				t.Fatalf("a batch of %d frames has %d bytes", len(frames), len(data))
			}
			batches++
			for _, f := range frames {
				if f.Type != native.TypeMsg {
					continue
				}
				if !bytes.Equal(f.Msg.Payload, bytes.Repeat([]byte{byte(got)}, sizes[got])) {
					t.Fatalf("payload %d is damaged", got)
				}
				got++
			}
		}
		if batches > 30 {
			t.Errorf("%d batches for %d messages", batches, len(sizes))
		}
	})
}

// TestFragments: a long message is written in pieces, between which the library
// can answer a ping.
func TestFragments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		payload := make([]byte, 100<<10)
		r.srv.Publish(context.Background(), "t", payload, nil)
		conn, err := r.dial(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := upgradeTo("localhost", "limpet.v1.bin").Write(conn); err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(conn)
		if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != 101 {
			t.Fatalf("%v, %v", res, err)
		}
		hello := native.Frame{Type: native.TypeHello, Hello: &native.Hello{CN: 1}}
		data, _ := native.Append(nil, native.Binary, []native.Frame{hello, sub(1, "t", native.FromFirst, 1)})
		frame := append([]byte{0x82, 0x80 | byte(len(data)), 0, 0, 0, 0}, data...) // a mask of zeros
		if _, err := conn.Write(frame); err != nil {
			t.Fatal(err)
		}
		fragments, total := 0, 0
		for total < len(payload) {
			var head [2]byte
			io.ReadFull(br, head[:])
			n := int(head[1])
			switch n {
			case 126:
				var b [2]byte
				io.ReadFull(br, b[:])
				n = int(binary.BigEndian.Uint16(b[:]))
			case 127:
				var b [8]byte
				io.ReadFull(br, b[:])
				n = int(binary.BigEndian.Uint64(b[:]))
			}
			if n > 32<<10 {
				t.Fatalf("a frame of %d bytes", n)
			}
			if head[0]&0x0f == 0 || head[0]&0x80 == 0 {
				fragments, total = fragments+1, total+n
			}
			if _, err := br.Discard(n); err != nil {
				t.Fatal(err)
			}
		}
		if fragments < 4 {
			t.Errorf("%d fragments", fragments)
		}
	})
}
