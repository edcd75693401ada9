package test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/native"
)

// What a consumer was given stays as it was, and what a publisher passed may
// be used again at once, whatever memory the client lends and takes back.
func TestMessagesAreOwned(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		for _, enc := range []native.Encoding{native.JSON, native.Binary} {
			for _, batches := range []bool{false, true} {
				t.Run(fmt.Sprintf("plain %t, %s, batches %t", plain, native.Subprotocol(enc), batches), func(t *testing.T) {
					messagesAreOwned(t, &limpet.Options{PlainFrames: plain, Dialect: native.New(&native.Options{Encoding: enc})}, batches)
				})
			}
		}
	}
}

func messagesAreOwned(t *testing.T, o *limpet.Options, batches bool) {
	n := reduced(3000, 1000)
	srv := limpettest.NewServer(t, nil)
	from, to := dial(t, srv, o), dial(t, srv, o)
	sub := subscribeLive(t, to, "own/*", nil)
	ctx := context.Background()
	sums := make(map[uuid.UUID][32]byte, n)
	rnd := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 100_000)
	header := map[string]string{}
	next := func() limpet.Outgoing {
		size := []int{rnd.IntN(3), rnd.IntN(66), rnd.IntN(300), rnd.IntN(3000), len(buf) * (rnd.IntN(50) / 49)}[rnd.IntN(5)]
		m := limpet.Outgoing{Topic: fmt.Sprint("own/", rnd.IntN(3)), Payload: buf[:size]}
		for i := range m.Payload {
			m.Payload[i] = byte(rnd.Uint32())
		}
		if rnd.IntN(2) == 0 && size > 2 { // travels as it stands in JSON
			for i := range m.Payload {
				m.Payload[i] = 'a' + m.Payload[i]%26
			}
			m.Payload[0], m.Payload[size-1] = '"', '"'
		}
		m.ID = uuid.UUID{byte(len(sums) >> 8), byte(len(sums)), 6: 0x70, 8: 0x80}
		if rnd.IntN(5) == 0 {
			header["k"] = fmt.Sprint(rnd.Uint32())
			m.Type, m.Header = fmt.Sprint("type ", rnd.IntN(9)), header
		}
		sums[m.ID] = digest(m.Topic, m.Payload, m.Type, m.Header)
		return m
	}
	done := make(chan error, 1)
	var got []limpet.Message
	var positions []string
	go func() {
		add := func(m limpet.Message) bool {
			got, positions = append(got, m), append(positions, m.Position.String())
			return len(got) < n
		}
		if !batches {
			for m, err := range sub.Messages(ctx) {
				if err != nil || !add(m) {
					done <- err
					return
				}
			}
		}
		for ms, err := range sub.Batches(ctx) {
			if err != nil || slices.ContainsFunc(ms, func(m limpet.Message) bool { return !add(m) }) {
				done <- err
				return
			}
		}
	}()
	for len(sums) < n {
		var err error
		if rnd.IntN(2) == 0 || len(sums) > n-8 {
			m := next()
			_, err = from.Publish(ctx, m.Topic, m.Payload, &m.PublishOptions)
		} else {
			var ms []limpet.Outgoing
			for range 8 {
				m := next()
				m.Payload, m.Header = slices.Clone(m.Payload), maps.Clone(m.Header)
				ms = append(ms, m)
			}
			_, err = from.PublishBatch(ctx, ms)
			for _, m := range ms {
				clear(m.Payload)
				clear(m.Header)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for i, m := range got {
		if m.Kind != limpet.Data || sums[m.ID] != digest(m.Topic, m.Payload, m.Type, m.Header) || m.Position.String() != positions[i] {
			t.Fatalf("message %d is not what it was: %v %q, %d bytes", i, m.Kind, m.Topic, len(m.Payload))
		}
		delete(sums, m.ID)
		// What its owner does with it affects no one else.
		clear(m.Payload[:cap(m.Payload)])
		clear(m.Header)
	}
}

func digest(topic string, payload []byte, kind string, header map[string]string) [32]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s %s %s %s", topic, kind, header["k"], payload))
}
