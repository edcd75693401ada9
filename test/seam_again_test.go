package test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// busyServer takes each message that it hears, or does with it what answer says: it gets
// the time of the message, and how often that was heard before.
func busyServer(t *testing.T, answer func(payload string, times int) *wire.Ack) (*toyServer, *limpet.Client) {
	times := map[string]int{}
	srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
		hear() // open
		for text := hear(); text != ""; text = hear() {
			var seq uint64
			var payload string
			if _, err := fmt.Sscanf(text, "publish %d %s", &seq, &payload); err != nil {
				continue
			}
			ack := answer(payload, times[payload])
			times[payload]++
			switch {
			case ack == nil:
				ack = &wire.Ack{Cmd: seq*4 + 3}
			case len(ack.Rejects) > 0:
				ack.Rejects[0].Seq = seq
			default:
				continue // no answer
			}
			say(eventText(wire.Event{Kind: wire.EventAck, Ack: ack}))
		}
	})
	d := flexDialect{traits: wire.Traits{Publish: true, Acks: true}}
	c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	assert.NoError(t, c.WaitReady(t.Context()))
	return srv, c
}

func later(d time.Duration) *wire.Ack {
	return &wire.Ack{Rejects: []wire.Reject{{Code: 429, Reason: "busy", Retry: d}}}
}

// published returns the texts of what a server has heard, and of which connection.
func published(srv *toyServer) string {
	var all []string
	for i, conn := range strings.Split(srv.all(), "/") {
		for _, line := range strings.Split(conn, "\n") {
			if _, text, ok := strings.Cut(line, "publish "); ok {
				_, payload, _ := strings.Cut(text, " ")
				all = append(all, fmt.Sprint(i, ":", payload))
			}
		}
	}
	return strings.Join(all, " ")
}

// A message that the server has not taken is sent again at the time that it named, and not
// those that were sent behind it.
func TestNotTakenIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, c := busyServer(t, func(payload string, times int) *wire.Ack {
			switch {
			case payload == "b" && times < 2:
				return later(3 * time.Second)
			case payload == "c":
				return &wire.Ack{} // open all the time
			}
			return nil
		})
		began := time.Now()
		var receipts []*limpet.Receipt
		for _, payload := range []string{"a", "b", "c", "d"} {
			r, err := c.Publish(t.Context(), "topic", []byte(payload), nil)
			assert.NoError(t, err)
			receipts = append(receipts, r)
		}
		time.Sleep(5 * time.Second)
		r, err := c.Publish(t.Context(), "topic", []byte("e"), nil)
		assert.NoError(t, err)
		receipts = append(receipts, r)
		ack, err := receipts[1].Wait(t.Context())
		if took := time.Since(began); err != nil || ack.Outcome != limpet.Acked || took < 6*time.Second || took > 7*time.Second {
			t.Errorf("%v after %v: %v", ack.Outcome, took, err)
		}
		synctest.Wait()
		if got := published(srv); got != "1:a 1:b 1:c 1:d 1:b 1:e 1:b" {
			t.Errorf("the server heard %s", got)
		}
		for i, want := range []limpet.Outcome{limpet.Acked, limpet.Acked, limpet.Pending, limpet.Acked, limpet.Acked} {
			if got := receipts[i].Outcome(); got != want {
				t.Errorf("message %d is %v", i, got)
			}
		}
		if st := c.Stats(); st.Resent != 0 || st.Connections != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// What was not taken is sent on the next connection, when its time has come: it has no
// unknown outcome. It expires like a message that was never sent, and is Unsent at the end.
func TestNotTakenOverALostConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, c := busyServer(t, func(payload string, times int) *wire.Ack {
			switch {
			case payload == "kept" && times > 0 || payload == "soon" && times > 1:
				return nil
			case payload == "open":
				return &wire.Ack{}
			}
			return later(time.Minute)
		})
		publish := func(payload string, o *limpet.PublishOptions) *limpet.Receipt {
			r, err := c.Publish(t.Context(), "topic", []byte(payload), o)
			assert.NoError(t, err)
			return r
		}
		began := time.Now()
		open, kept := publish("open", nil), publish("kept", nil)
		short, never := publish("short", &limpet.PublishOptions{TTL: 10 * time.Second}), publish("never", nil)
		synctest.Wait()
		srv.host.Network.Strike(limpettest.CutAfterBytes(limpettest.Down, 0))
		time.Sleep(30 * time.Second)
		if c.State().Generation != 2 || published(srv) != "1:open 1:kept 1:short 1:never" {
			t.Errorf("connection %d, the server heard %s", c.State().Generation, published(srv))
		}
		if open.Outcome() != limpet.Unknown || short.Outcome() != limpet.Expired {
			t.Errorf("without an answer: %v, expired: %v", open.Outcome(), short.Outcome())
		}
		ack, err := kept.Wait(t.Context())
		if took := time.Since(began); err != nil || ack.Outcome != limpet.Acked || took < time.Minute || took > 61*time.Second {
			t.Errorf("%v after %v: %v", ack.Outcome, took, err)
		}
		synctest.Wait()
		if got := published(srv); got != "1:open 1:kept 1:short 1:never 2:kept 2:never" {
			t.Errorf("the server heard %s", got)
		}
		assert.NoError(t, c.Close())
		if _, err := never.Wait(context.Background()); never.Outcome() != limpet.Unsent || !errors.Is(err, limpet.ErrUnsent) {
			t.Errorf("%v: %v", never.Outcome(), err)
		}
	})
}

// A message that is sent again and that the dialect then refuses to encode takes none of
// those back that are in flight.
func TestNotTakenAndThenUnencodable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tried := 0
		d := flexDialect{traits: wire.Traits{Publish: true, Acks: true}, encode: func(op wire.Op, _ *wire.Frames) error {
			if op.Kind == wire.OpPublish && string(op.Message.Payload) == "b" {
				if tried++; tried > 1 {
					return errors.New("no second time")
				}
			}
			return nil
		}}
		srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
			for text := hear(); text != ""; text = hear() {
				if strings.HasSuffix(text, " b") {
					ack := later(time.Second)
					ack.Rejects[0].Seq = 2
					say(eventText(wire.Event{Kind: wire.EventAck, Ack: ack}))
				}
			}
		})
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		var receipts []*limpet.Receipt
		for _, payload := range []string{"a", "b", "c"} {
			r, err := c.Publish(t.Context(), "topic", []byte(payload), nil)
			assert.NoError(t, err)
			receipts = append(receipts, r)
		}
		time.Sleep(900 * time.Millisecond)
		synctest.Wait()
		time.Sleep(time.Second)
		_, err = c.Publish(t.Context(), "topic", []byte("d"), nil)
		assert.NoError(t, err)
		synctest.Wait()
		if got := published(srv); got != "1:a 1:b 1:c 1:d" {
			t.Errorf("the server heard %s", got)
		}
		if receipts[0].Outcome() != limpet.Pending || receipts[1].Outcome() != limpet.Rejected || receipts[2].Outcome() != limpet.Pending {
			t.Errorf("%v, %v, %v", receipts[0].Outcome(), receipts[1].Outcome(), receipts[2].Outcome())
		}
	})
}

// Messages are sent again in the order of their times. One whose TTL has passed while it was
// in flight expires when the server has not taken it.
func TestNotTakenInOrderOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waits := map[string]time.Duration{"a": 5 * time.Second, "b": 2 * time.Second, "c": 3 * time.Second, "d": 5 * time.Second}
		slow := make(chan struct{})
		srv, c := busyServer(t, func(payload string, times int) *wire.Ack {
			if payload == "slow" {
				<-slow
				return later(time.Minute)
			}
			if times > 0 {
				return nil
			}
			return later(waits[payload])
		})
		for _, payload := range []string{"a", "b", "c", "d"} {
			_, err := c.Publish(t.Context(), "topic", []byte(payload), nil)
			assert.NoError(t, err)
		}
		time.Sleep(10 * time.Second)
		if got := published(srv); got != "1:a 1:b 1:c 1:d 1:b 1:c 1:a 1:d" {
			t.Errorf("the server heard %s", got)
		}
		r, err := c.Publish(t.Context(), "topic", []byte("slow"), &limpet.PublishOptions{TTL: time.Second})
		assert.NoError(t, err)
		time.Sleep(5 * time.Second)
		if r.Outcome() != limpet.Pending {
			t.Fatalf("in flight: %v", r.Outcome())
		}
		close(slow)
		synctest.Wait()
		if r.Outcome() != limpet.Expired {
			t.Errorf("not taken after its time: %v", r.Outcome())
		}
	})
}
