package test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
)

// A large payload needs no more room with Lend than without: others drop nothing for it.
func TestALargePayloadThatIsLentFits(t *testing.T) {
	for _, lend := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{MaxPayload: mebibyte}})
			c := dial(t, srv, memoryOptions())
			small := subscribeLive(t, c, "small", large(limpet.DropOldest))
			for range 200 {
				publish(t, srv, "small", strings.Repeat("y", 500))
			}
			o := large(limpet.DropOldest)
			o.Lend = lend
			big := subscribeLive(t, c, "big", o)
			publish(t, srv, "big", strings.Repeat("x", 490_000))
			checkMemory(t, c, mebibyte)
			if st := big.Stats(); st.Waiting != 1 {
				t.Errorf("lend %v: the large message: %+v", lend, st)
			}
			if st := small.Stats(); st.Dropped > 0 || st.Received != 200 {
				t.Errorf("lend %v: the others: %+v", lend, st)
			}
		})
	}
}

// Where nothing can give way, a queue takes no more than what is left, whatever the size of
// the next block of payloads or of places is.
func TestMemoryThatIsLeftIsNotExceeded(t *testing.T) {
	for _, overflow := range []limpet.Overflow{limpet.DropOldest, limpet.DropNewest} {
		for _, lend := range []bool{false, true} {
			for _, size := range reduced([]int{90, 600, 4000, 9000}, []int{600}) {
				for _, blocks := range reduced([]int{150, 310}, []int{310}) {
					synctest.Test(t, func(t *testing.T) { fillWhatIsLeft(t, overflow, lend, size, blocks) })
				}
			}
		}
	}
}

// fillWhatIsLeft sends payloads of up to size bytes to a queue without a consumer, where blocks
// subscriptions with Block hold most of the memory.
func fillWhatIsLeft(t *testing.T, overflow limpet.Overflow, lend bool, size, blocks int) {
	srv := limpettest.NewServer(t, nil)
	c := dial(t, srv, memoryOptions())
	for i := range blocks {
		subscribeLive(t, c, fmt.Sprint("t", i), large(limpet.Block))
	}
	o := large(overflow)
	o.Lend = lend
	s := subscribeLive(t, c, "q", o)
	most := 0
	for i := range 1000 + 500_000/(300+size) {
		publish(t, srv, "q", strings.Repeat("x", 1+i*7919%size))
		if i%30 == 0 || i > 800 { // first several that come together, then each alone
			synctest.Wait()
			most = max(most, c.Stats().Memory)
		}
	}
	if st := s.Stats(); most > mebibyte || st.Dropped == 0 || st.Waiting == 0 && blocks < 200 {
		t.Errorf("%v, lend %v, %d bytes each, %d with Block: %d of %d bytes in use; %+v", overflow, lend, size, blocks, most, mebibyte, st)
	}
}

// Payloads of all sizes are right in their batch and, if nothing lends them, for ever, also where
// they lie in frames whose memory is used again.
func TestLentPayloadsOfAllSizes(t *testing.T) {
	sizes := []int{0, 1, 4095, 4096, 4097, 20_000}
	const rounds = 50
	want := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, sizes[i%len(sizes)]) }
	for _, plain := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			srv := newPlainServer(t, func(p *plainConn) {
				for i := range rounds * len(sizes) {
					p.text(string(want(i)))
				}
			})
			all := func(wire.Frame) raw.Label { return raw.Label{Topic: "all"} }
			c, _ := srv.client(t, raw.Options{Topic: all}, limpet.Options{PlainFrames: plain})
			s, err := c.Subscribe(t.Context(), "all", &limpet.SubscribeOptions{Lend: true, Delivery: limpet.Delivery{Bytes: 4 * mebibyte}})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			next := 0
			check := func(payload []byte) {
				if !bytes.Equal(payload, want(next)) {
					t.Fatalf("plain %v: %d bytes, %.20q, at place %d", plain, len(payload), payload, next)
				}
				next++
			}
			owned := collect(t, s, rounds*len(sizes)/2)
			for ms, err := range s.Batches(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				if next == 0 {
					for _, m := range owned {
						check(m.Payload)
					}
				}
				for _, m := range ms {
					check(m.Payload)
				}
				if next == rounds*len(sizes) {
					break
				}
			}
		})
	}
}
