package test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// wild is a dialect that does anything but wait: its events, frames, errors and verdicts are
// made at random, within its traits or not.
type wild struct {
	traits wire.Traits
	tame   int // one in that many calls is wild

	mu  sync.Mutex
	rng *rand.Rand
}

func (d *wild) int(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.IntN(n)
}

func (d *wild) is() bool { return d.int(d.tame) == 0 }

func (d *wild) text() string {
	return []string{"", "a", "b", "c", "\xff\x00", "a\nb", string(make([]byte, 300)), "feed"}[d.int(8)]
}

func (d *wild) number() uint64 {
	return []uint64{0, 1, 2, 3, 5, 7, 9, uint64(d.int(40)), uint64(d.int(1000)), 1 << 62, 1<<63 + 3, math.MaxUint64}[d.int(12)]
}

func (d *wild) duration() time.Duration {
	return []time.Duration{0, 0, -1, 1, time.Millisecond, time.Second, time.Hour, math.MaxInt64, math.MinInt64}[d.int(9)]
}

func (d *wild) code() uint16 {
	return []uint16{0, 1, 7, 999, 1000, 1001, 1005, 1006, 1008, 1011, 1012, 1013, 1015, 2000, 3000, 4000, 4999, 5000, wire.CodeRefused}[d.int(19)]
}

func (d *wild) error() error {
	switch d.int(6) {
	case 0:
		return errors.New(d.text())
	case 1:
		return &wire.CodeError{Code: d.code(), Reason: d.text()}
	case 2:
		return &wire.OpError{Index: d.int(5) - 1}
	case 3:
		return &wire.OpError{Index: d.int(2), Err: errors.New(d.text())}
	case 4:
		return &wire.StatusError{Status: d.int(700) - 50}
	}
	return &wire.LedgerError{}
}

func (d *wild) Name() string                      { return "wild" }
func (d *wild) Traits() wire.Traits               { return d.traits }
func (d *wild) CheckTopic(wire.Use, string) error { return nil }

func (d *wild) Attempt(a *wire.Attempt) error {
	a.Dial = true
	if d.is() && d.int(4) == 0 {
		return d.error()
	}
	return nil
}

func (d *wild) Open(wire.Resume) (wire.Codec, error) {
	if d.is() && d.int(4) == 0 {
		return nil, d.error()
	}
	return wildCodec{d}, nil
}

func (d *wild) Verdict(wire.Failure) (v wire.Verdict) {
	if d.is() {
		v = wire.Verdict{Action: wire.Action(d.int(8)), After: d.duration(), Spread: d.duration(), Class: d.text(), TooBig: d.int(2) == 0}
		if v.Action == wire.ActionStop {
			v.Action = wire.ActionBackOff // the client is to last
		}
	}
	return v
}

type wildCodec struct{ *wild }

func (c wildCodec) Start(out *wire.Frames) error {
	out.Append(wire.Text, []byte("hello"))
	if c.is() && c.int(4) == 0 {
		return c.error()
	}
	return nil
}

func (c wildCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	for i := range ops {
		if op := &ops[i]; op.Kind == wire.OpPublish && op.Message != nil {
			out.Append(wire.Text, append([]byte(nil), op.Message.Payload...))
		} else {
			out.Append(wire.Text, []byte(op.Kind.String()))
		}
		if c.is() {
			out.Append(wire.FrameType(c.int(4)), nil)
			out.Confirm(c.number())
			out.Prefetch(c.number(), c.int(5)-2)
			return c.error()
		}
	}
	return nil
}

// usual is what the server says as a rule: what a dialect of these traits owes.
func (c wildCodec) usual(data []byte, out *wire.Events) {
	topic, key := []string{"a", "b", "c"}[c.int(3)], uint64(1+c.int(6))
	e := out.Append([]wire.EventKind{wire.EventData, wire.EventData, wire.EventData, wire.EventSubscribed, wire.EventUnsubscribed}[c.int(5)])
	if e.Name = topic; c.traits.ByKey {
		e.Name, e.Key = "", key
	}
	e.Numbered, e.Position.Offset = c.int(2) == 0, uint64(c.int(50))
	e.Message.Payload, e.Borrowed = data, true
}

func (c wildCodec) Decode(f wire.Frame, out *wire.Events) error {
	if c.int(4) == 0 {
		out.Append(wire.EventStep)
	}
	if c.traits.Greeting && string(f.Data) == "3" {
		out.Append(wire.EventReady).Ready = &wire.Ready{Session: wire.Session{ID: "s"}, Ack: wire.Ack{HasCredit: true, Credit: wire.Credit{N: 1 << 40, Bytes: 1 << 40}}}
	}
	if c.usual(f.Data, out); !c.is() {
		return nil
	}
	for range 1 + c.int(20) {
		e := out.Append(wire.EventKind(c.int(20)))
		e.Key, e.Name, e.N, e.Count, e.Prev, e.Head = c.number(), c.text(), c.number(), c.number(), c.number(), c.number()
		e.Position = wire.Position{Epoch: c.text(), Offset: c.number(), Tag: c.text()}
		e.Numbered, e.Fatal, e.Wanted = c.int(2) == 0, c.int(8) == 0, c.int(2) == 0
		e.Continuity, e.Cause = wire.Continuity(c.int(5)), wire.Cause(c.int(20))
		e.Code, e.PeerCode, e.Reason, e.Detail = c.code(), int64(c.number()), c.text(), c.text()
		e.Retry, e.Delay, e.Spread, e.Expires = c.duration(), c.duration(), c.duration(), c.duration()
		e.Message = wire.Message{Seq: c.number(), Topic: c.text(), Payload: []byte(c.text()), TTL: c.duration(), Time: int64(c.number()), Snapshot: c.int(2) == 0, Redelivered: c.int(2) == 0}
		e.Borrowed = c.int(2) == 0
		ack := wire.Ack{To: c.number(), Cmd: c.number(), HasCredit: c.int(2) == 0, Credit: wire.Credit{N: c.number(), Bytes: c.number()}, Reply: []byte(c.text())}
		ack.Ranges = []wire.Range{{Lo: c.number(), Hi: c.number()}}[c.int(2):]
		ack.Rejects = []wire.Reject{{Seq: c.number(), Code: c.code(), Reason: c.text(), Unknown: c.int(2) == 0, Retry: c.duration()}}[c.int(2):]
		if c.int(2) == 0 {
			e.Ack = &ack
		}
		if c.int(2) == 0 {
			e.Ready = &wire.Ready{Conn: c.number(), Session: wire.Session{ID: c.text(), Key: []byte(c.text()), Epoch: c.number()}, Resumed: c.int(2) == 0, Ack: ack,
				Heartbeat: c.duration(), Spread: c.duration(), Expires: c.duration(),
				Limits: wire.Limits{Batch: c.int(100) - 50, Payload: c.int(100) - 50, Headers: c.int(10) - 5, HeaderSize: c.int(10) - 5}, Traits: &wire.Traits{Processed: wire.Processed(c.int(9))}}
		}
	}
	if c.int(20) == 0 {
		return c.error()
	}
	return nil
}

// wildTraits returns traits that a client accepts.
func wildTraits(rng *rand.Rand) wire.Traits {
	is := func() bool { return rng.IntN(2) == 0 }
	t := wire.Traits{Publish: is(), Resume: is(), Credit: is(), Unsubscribe: is(), Greeting: is(), Confirms: is(), ConfirmsEnd: is(), ByKey: is(),
		ErrorStaysOpen: is(), Fin: is(), Refresh: is(), Processed: wire.Processed(rng.IntN(3)), Ping: wire.Ping(rng.IntN(3)), StartSubs: rng.IntN(3), DedupWindow: rng.IntN(3)}
	t.Acks = t.Publish && is()
	t.Sessions = t.Acks && is()
	t.Dedup = t.Sessions && is()
	t.Release = t.Processed == wire.ProcessedEach && is()
	t.KeepsSubs = t.Greeting && t.ByKey && is()
	if t.Confirms && is() {
		t.Holes = wire.HolesFault
	} else {
		t.LookBack = uint64(rng.IntN(4))
	}
	return t
}

// Whatever a dialect does, short of waiting, the client neither panics nor hangs nor
// connects without a pause, and its memory stays bounded.
func TestWildDialects(t *testing.T) {
	for seed := range uint64(reduced(wildSeeds, wildSeeds/5)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { wildTrial(t, rand.New(rand.NewPCG(seed, 9))) })
		})
	}
}

const wildSeeds = 200

func wildTrial(t *testing.T, rng *rand.Rand) {
	srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
		for n := range 400 {
			say(fmt.Sprint(n))
			time.Sleep(50 * time.Millisecond)
		}
	})
	srv.host.Inject(limpettest.Stall(time.Millisecond))
	d := &wild{traits: wildTraits(rng), tame: []int{5, 20, 60, 200}[rng.IntN(4)], rng: rng}
	c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d, Backoff: limpet.Backoff{KeepTrying: true}}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var readers sync.WaitGroup
	for _, topic := range []string{"a", "b", "c"} {
		readers.Go(func() {
			for range 3 {
				s, err := c.Subscribe(ctx, topic, nil)
				if err != nil {
					return
				}
				for range s.Messages(ctx) {
				}
				time.Sleep(time.Second)
			}
		})
	}
	for n := range 60 {
		if d.traits.Publish && ctx.Err() == nil {
			c.Publish(ctx, "a", fmt.Appendf(nil, "m%d", n), &limpet.PublishOptions{Resend: limpet.Resend(n % 3)})
		}
		time.Sleep(time.Second)
	}
	began := time.Now()
	c.Close()
	<-c.Done()
	cancel()
	readers.Wait()
	if took := time.Since(began); took > time.Minute {
		t.Errorf("Done after %v", took)
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.conns > 300 {
		t.Errorf("%d connections in a minute", srv.conns)
	}
}
