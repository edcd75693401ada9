package socket

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// Whatever the frames and however the stream is cut, a message counts when its
// last byte has passed and not before.
func TestCounterCountsCompleteMessages(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		var stream []byte
		var ends []int // of messages
		put := func(first byte, n int) {
			masked := byte(0)
			if rnd.IntN(4) == 0 {
				masked = 0x80 // not allowed, but the library takes it
			}
			stream = append(stream, first)
			switch {
			case n < 126:
				stream = append(stream, masked|byte(n))
			case n < 1<<16:
				stream = binary.BigEndian.AppendUint16(append(stream, masked|126), uint16(n))
			default:
				stream = binary.BigEndian.AppendUint64(append(stream, masked|127), uint64(n))
			}
			if masked != 0 {
				stream = binary.BigEndian.AppendUint32(stream, rnd.Uint32())
			}
			for range n {
				stream = append(stream, byte(rnd.Uint32()))
			}
		}
		pings, pinged := 0, 0
		for range 30 {
			size := []int{0, 1, rnd.IntN(126), 126 + rnd.IntN(500), 1 << 16}[rnd.IntN(40)*5/40]
			first := byte(1 + rnd.IntN(2))
			for rnd.IntN(3) == 0 {
				put(first, rnd.IntN(50))
				first = 0
				if rnd.IntN(2) == 0 {
					opcode := 0x89 + byte(rnd.IntN(2)) // a ping or a pong in between
					put(opcode, rnd.IntN(20))
					if opcode == 0x89 {
						pings++
					}
				}
			}
			put(0x80|first, size)
			ends = append(ends, len(stream))
		}
		var c messageCounter
		for at := 0; at < len(stream); {
			n := min(len(stream)-at, 1+rnd.IntN([]int{2, 20, 1 << 14}[seed%3]))
			c.count(stream[at:at+n], func() { pinged++ })
			at += n
			want := 0
			for want < len(ends) && ends[want] <= at {
				want++
			}
			if got := int(c.complete.Load()); got != want {
				t.Fatalf("seed %d: %d messages after %d bytes, want %d", seed, got, at, want)
			}
		}
		if pinged != pings {
			t.Fatalf("seed %d: %d pings, want %d", seed, pinged, pings)
		}
	}
}
