package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet"
)

// exactRow measures correctness under load: run it with -rows P14 or P14full, also
// with the race detector (go run -race).
var exactRow = row{
	id: "P14", title: "acked messages through random kills (P14)", metric: "wrong", unit: "messages lost, duplicated or out of order", rounds: 1,
	variants: []variant{
		{name: "100,000 messages, 20 kills", with: exactly(100_000, 20)},
		{name: "1,000,000 messages, 100 kills", with: exactly(1_000_000, 100)},
	},
	candidates: []contender{{"limpet", "limpet", exact}},
	compare: []comparison{
		{variant: "100,000 messages, 20 kills", ours: "limpet"},
		{variant: "1,000,000 messages, 100 kills", ours: "limpet"},
	},
}

func exactly(messages, kills int) func(*spec) {
	return func(s *spec) { s.Messages, s.Kills, s.Size = messages, kills, 64 }
}

// exact publishes numbered messages from one client to another, both behind a
// proxy that kills at random, while a burst of 100,000 messages of 512 B hits
// a second subscription. Client CPU is one core where taskset exists.
func exact(s spec) (outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute+time.Duration(s.Messages)*500*time.Microsecond) // the race detector is slow
	defer cancel()
	p, err := newProxy(s.Addr)
	if err != nil {
		return nil, err
	}
	o := &limpet.Options{Backoff: limpet.Backoff{First: -1, Initial: 10 * time.Millisecond, StableAfter: time.Millisecond}}
	url, topic := "ws://"+p.Addr().String()+"/", fmt.Sprintf("exact/%d", rand.Uint64())
	to, err := limpet.Dial(ctx, url, o)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	from, err := limpet.Dial(ctx, url, o)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	sub, err := subscribeLive(ctx, to, topic)
	if err != nil {
		return nil, err
	}
	burst, err := subscribeLive(ctx, to, "burst")
	if err != nil {
		return nil, err
	}

	var seen atomic.Int64
	killed := make(chan int, 1)
	go func() { killed <- killAtRandom(ctx, p, s, &seen) }()
	const burstSize = 100_000
	streams, errs := make(chan tally, 2), make(chan error, 4)
	count := func(sub *limpet.Subscription, n int, seen *atomic.Int64) {
		t, err := check(ctx, sub, n, seen)
		streams <- t
		errs <- err
	}
	go count(sub, s.Messages, &seen)
	go count(burst, burstSize, new(atomic.Int64))
	go func() { errs <- askForBurst(s.Addr, burstSize+1) }()

	m := startMeter(s)
	errs <- publishNumbers(ctx, from, topic, s, &seen)
	all := (<-streams).plus(<-streams)
	for range 4 {
		err = errors.Join(err, <-errs)
	}
	out := m.stop(s.Messages)
	kills := <-killed
	if err != nil {
		return nil, err
	}
	st := from.Stats()
	all.addTo(out)
	out["unacked"] = float64(s.Messages+1) - float64(st.Acked)
	out["wrong"] = out["lost"] + out["duplicated"] + out["reordered"] + out["gaps"] + out["unacked"]
	out["kills"], out["resumes"], out["resent"] = float64(kills), float64(st.Resumes+to.Stats().Resumes), float64(st.Resent)
	return out, nil
}

func subscribeLive(ctx context.Context, c *limpet.Client, topic string) (*limpet.Subscription, error) {
	sub, err := c.Subscribe(ctx, topic, nil)
	if err != nil {
		return nil, err
	}
	return sub, sub.WaitLive(ctx)
}

// killAtRandom kills the connections behind p s.Kills times, spread over the messages that
// were seen, and returns how often it did.
func killAtRandom(ctx context.Context, p *proxy, s spec, seen *atomic.Int64) (kills int) {
	each := int64(s.Messages / (s.Kills + 1))
	for at := rand.Int64N(each); kills < s.Kills && ctx.Err() == nil; at += each/2 + rand.Int64N(each) {
		for seen.Load() < min(at, int64(s.Messages-1)) && ctx.Err() == nil {
			<-time.After(time.Millisecond)
		}
		p.kill()
		kills++
	}
	return kills
}

// askForBurst makes the server publish n messages of 512 B, after a moment.
func askForBurst(addr string, n int) error {
	<-time.After(100 * time.Millisecond)
	r, err := http.Post("http://"+addr+"/burst"+order{Messages: n, Size: 512}.query(), "", nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	return err
}

// putNumber makes payload message i, and numberOf reads it again.
func putNumber(payload []byte, i uint64) {
	binary.BigEndian.PutUint64(payload, i)
	binary.BigEndian.PutUint64(payload[len(payload)-8:], ^i)
}

func numberOf(payload []byte) (i uint64, ok bool) {
	if len(payload) < 16 {
		return 0, false
	}
	i = binary.BigEndian.Uint64(payload)
	return i, binary.BigEndian.Uint64(payload[len(payload)-8:]) == ^i
}

// publishNumbers publishes numbered messages and, when all of them have their outcome,
// one more: it ends the stream, so that a repetition of the last ones is detected too.
// It stays within 8,192 messages of the consumer, so that the kills affect both
// directions to the end.
func publishNumbers(ctx context.Context, c *limpet.Client, topic string, s spec, seen *atomic.Int64) error {
	payload := make([]byte, s.Size)
	for i := range s.Messages {
		for int64(i) > seen.Load()+8192 && ctx.Err() == nil {
			<-time.After(100 * time.Microsecond)
		}
		putNumber(payload, uint64(i))
		if _, err := c.Publish(ctx, topic, payload, nil); err != nil {
			return err
		}
	}
	if err := c.Flush(ctx); err != nil {
		return err
	}
	putNumber(payload, uint64(s.Messages))
	_, err := c.Send(ctx, topic, payload, nil)
	return err
}

type tally struct{ lost, again, order, gaps int }

func (t tally) addTo(out outcome) {
	out["lost"], out["duplicated"], out["reordered"], out["gaps"] = float64(t.lost), float64(t.again), float64(t.order), float64(t.gaps)
}

func (t tally) plus(other tally) tally {
	return tally{t.lost + other.lost, t.again + other.again, t.order + other.order, t.gaps + other.gaps}
}

// check receives n numbered messages and the last one, and counts the differences from
// what was sent.
func check(ctx context.Context, sub *limpet.Subscription, n int, seen *atomic.Int64) (tally, error) {
	var t tally
	next := uint64(0)
	had := make([]bool, n)
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			return t, fmt.Errorf("%s after %d of %d messages: %w", sub.Topic(), next, n, err)
		}
		if m.Kind != limpet.Data {
			t.gaps++
			continue
		}
		i, ok := numberOf(m.Payload)
		if !ok || i > uint64(n) {
			return t, fmt.Errorf("%s: message %d of %d, %d bytes", sub.Topic(), i, n, len(m.Payload))
		}
		if i == uint64(n) {
			break
		}
		switch {
		case had[i]:
			t.again++
		case i < next:
			t.order++
		}
		had[i] = true
		next = max(next, i+1)
		seen.Store(int64(next))
	}
	for _, ok := range had {
		if !ok {
			t.lost++
		}
	}
	return t, nil
}
