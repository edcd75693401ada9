package limpet_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

func TestTTLExpiresBeforeTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "a", nil)
		srv.Stop()
		synctest.Wait()
		ctx := context.Background()
		short, _ := c.Publish(ctx, "a", []byte("short"), &limpet.PublishOptions{TTL: time.Second})
		long, _ := c.Publish(ctx, "a", []byte("long"), &limpet.PublishOptions{TTL: time.Hour})
		at := time.Now()
		_, err := short.Wait(ctx)
		if !errors.Is(err, limpet.ErrExpired) || !limpet.SafeToRetry(err) || short.Outcome() != limpet.Expired || time.Since(at) != time.Second {
			t.Errorf("after %v: %v, %v", time.Since(at), short.Outcome(), err)
		}
		srv.Start()
		if _, err := long.Wait(ctx); err != nil {
			t.Error(err)
		}
		if got := payloads(collect(t, s, 1)); got != "long" {
			t.Errorf("delivered %q", got)
		}
	})
}

func TestFullWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Window: limpet.Window{Messages: 2}})
		srv.Stop()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		for range 2 {
			if _, err := c.Publish(ctx, "a", nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		_, err := c.Publish(ctx, "a", nil, nil)
		if !errors.Is(err, context.DeadlineExceeded) || !limpet.SafeToRetry(err) {
			t.Errorf("full window: %v", err)
		}
		admitted := make(chan error, 1)
		go func() {
			_, err := c.Publish(context.Background(), "a", nil, nil)
			admitted <- err
		}()
		srv.Start()
		if err := <-admitted; err != nil {
			t.Error(err)
		}
		if err := c.Flush(context.Background()); err != nil {
			t.Error(err)
		}
		if st := c.Stats(); st.Acked != 3 {
			t.Errorf("%+v", st)
		}
	})
}

func TestFailFastWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Window: limpet.Window{Messages: 1, FailFast: true}})
		srv.Stop()
		if _, err := c.Publish(context.Background(), "a", nil, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Publish(context.Background(), "a", nil, nil); !errors.Is(err, limpet.ErrWindowFull) || !limpet.SafeToRetry(err) {
			t.Errorf("full window: %v", err)
		}
	})
}

func TestCloseGivesEveryMessageItsOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		srv.Network.Strike(limpettest.BlackHole(limpettest.Both))
		ctx := context.Background()
		sent, _ := c.Publish(ctx, "a", []byte("left"), nil)
		synctest.Wait()
		srv.Stop()
		synctest.Wait()
		kept, _ := c.Publish(ctx, "a", []byte("kept"), nil)
		at := time.Now()
		c.Close()
		<-c.Done()
		if took := time.Since(at); took > 100*time.Millisecond {
			t.Errorf("Close took %v", took)
		}
		if _, err := sent.Wait(ctx); sent.Outcome() != limpet.Unknown || !errors.Is(err, limpet.ErrOutcomeUnknown) || limpet.SafeToRetry(err) {
			t.Errorf("sent: %v %v", sent.Outcome(), err)
		}
		if _, err := kept.Wait(ctx); kept.Outcome() != limpet.Unsent || !errors.Is(err, limpet.ErrUnsent) || !limpet.SafeToRetry(err) {
			t.Errorf("kept: %v %v", kept.Outcome(), err)
		}
		if _, err := c.Publish(ctx, "a", nil, nil); !errors.Is(err, limpet.ErrClosed) {
			t.Errorf("Publish after Close: %v", err)
		}
		if _, err := c.Subscribe(ctx, "a", nil); !errors.Is(err, limpet.ErrClosed) {
			t.Errorf("Subscribe after Close: %v", err)
		}
		if err := c.WaitReady(ctx); !errors.Is(err, limpet.ErrClosed) || !errors.Is(c.Err(), limpet.ErrClosed) {
			t.Errorf("WaitReady after Close: %v", err)
		}
		c.Close()
		if err := c.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestReceiptsSurviveAReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		srv.Network.Strike(limpettest.BlackHole(limpettest.Both))
		var rs []*limpet.Receipt
		for i := range 5 {
			r, err := c.Publish(context.Background(), "a", []byte(fmt.Sprint(i)), nil)
			if err != nil {
				t.Fatal(err)
			}
			rs = append(rs, r)
		}
		n := 0
		for range c.Receipts() {
			n++
		}
		if n != 5 {
			t.Errorf("%d receipts are pending", n)
		}
		for i, r := range rs {
			if _, err := r.Wait(context.Background()); err != nil {
				t.Errorf("message %d: %v", i, err)
			}
		}
		if st := c.Stats(); st.Resent == 0 || st.Acked != 5 {
			t.Errorf("%+v", st)
		}
	})
}

// An expired message frees its bytes at once: the window of an offline client
// does not fill with expired messages.
func TestExpiredMessagesGiveTheirBytesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Window: limpet.Window{Messages: 100, Bytes: 1000, FailFast: true}})
		srv.Stop()
		synctest.Wait()
		ctx := context.Background()
		for round := range 10 {
			r, err := c.Publish(ctx, "a", make([]byte, 900), &limpet.PublishOptions{TTL: time.Second})
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if _, err := r.Wait(ctx); !errors.Is(err, limpet.ErrExpired) {
				t.Fatal(err)
			}
		}
		srv.Start()
		if _, err := c.Send(ctx, "a", make([]byte, 900), nil); err != nil {
			t.Error(err)
		}
		if st := c.Stats(); st.Expired != 10 || st.Acked != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// Flush waits for what was published before it, and for nothing else.
func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		ctx := context.Background()
		if err := c.Flush(ctx); err != nil {
			t.Errorf("with nothing to wait for: %v", err)
		}
		srv.Stop()
		synctest.Wait()
		first, _ := c.Publish(ctx, "a", []byte("1"), &limpet.PublishOptions{TTL: time.Second})
		early := make(chan error, 2)
		go func() { early <- c.Flush(ctx) }()
		go func() { early <- c.Flush(ctx) }()
		synctest.Wait()
		second, _ := c.Publish(ctx, "a", []byte("2"), nil)
		for range 2 {
			if err := <-early; err != nil || first.Outcome() == limpet.Pending {
				t.Errorf("%v, the first is %v", err, first.Outcome())
			}
		}
		if second.Outcome() != limpet.Pending {
			t.Errorf("the second is %v", second.Outcome())
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := c.Flush(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with the second pending: %v", err)
		}
		late := make(chan error, 1)
		go func() { late <- c.Flush(ctx) }()
		synctest.Wait()
		c.Close()
		if err := <-late; err != nil || second.Outcome() != limpet.Unsent {
			t.Errorf("%v, the second is %v", err, second.Outcome())
		}
	})
}

// An id tells when its message was published, however long the client slept.
func TestIDsFollowTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		for i := range 3 {
			time.Sleep(time.Duration(i)*time.Hour + 17*time.Millisecond)
			rs, err := c.PublishBatch(context.Background(), []limpet.Outgoing{{Topic: "a"}, {Topic: "a"}})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rs {
				sec, nsec := r.ID().Time().UnixTime()
				if at := time.Unix(sec, nsec); time.Since(at).Abs() > time.Millisecond {
					t.Errorf("an id of %v says %v", time.Now(), at)
				}
			}
		}
	})
}

// When a caller learns of an outcome, the room of the message is free and the
// message is counted.
func TestOutcomeComesLast(t *testing.T) {
	srv := limpettest.NewServer(t, nil)
	c := dial(t, srv, &limpet.Options{Window: limpet.Window{Messages: 1, Bytes: 1, FailFast: true}})
	for i := range 2000 {
		if _, err := c.Send(context.Background(), "a", []byte("x"), nil); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if st := c.Stats(); st.Acked != uint64(i)+1 {
			t.Fatalf("%d of %d messages counted", st.Acked, i+1)
		}
	}
}

// Payloads of every size come back as they were, fragments included.
func TestPayloadSizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "a", nil)
		for _, n := range []int{0, 1, 125, 126, 65535, 65536, 100_000, 256 << 10} {
			want := strings.Repeat("\x00\xffé", n/4+1)[:n]
			if _, err := c.Send(context.Background(), "a", []byte(want), nil); err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
			if m := collect(t, s, 1)[0]; string(m.Payload) != want {
				t.Errorf("%d bytes came back as %d", n, len(m.Payload))
			}
		}
	})
}

func TestPublishBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Window: limpet.Window{Messages: 10}})
		s := subscribeLive(t, c, "a", nil)
		ctx := context.Background()
		var ms []limpet.Outgoing
		for i := range 10 {
			ms = append(ms, limpet.Outgoing{Topic: "a", Payload: []byte(fmt.Sprint(i))})
		}
		rs, err := c.PublishBatch(ctx, ms)
		if err != nil || len(rs) != 10 {
			t.Fatal(rs, err)
		}
		if err := c.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		for i, r := range rs {
			if r.Outcome() != limpet.Acked {
				t.Errorf("message %d: %v", i, r.Outcome())
			}
		}
		if got := payloads(collect(t, s, 10)); got != strings.Join(numbers(0, 9), " ") {
			t.Errorf("%q", got)
		}
		if _, err := c.PublishBatch(ctx, append(ms, limpet.Outgoing{Topic: "a"})); !errors.Is(err, limpet.ErrTooBig) {
			t.Errorf("a batch beyond the window: %v", err)
		}
		ms[9].Topic = "*"
		if _, err := c.PublishBatch(ctx, ms); !errors.Is(err, limpet.ErrTopic) {
			t.Errorf("a batch with one bad topic: %v", err)
		}
		if n := c.Stats().Published; n != 10 {
			t.Errorf("%d messages admitted", n)
		}
	})
}

func TestPublishAndSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "quotes/*", nil)
		id := uuid.New()
		ack, err := c.Send(context.Background(), "quotes/ab", []byte(`{"px": 1}`), &limpet.PublishOptions{
			ID: id, Type: "application/json", Header: map[string]string{"k": "v"}})
		if err != nil || ack.Outcome != limpet.Acked || ack.ID != id {
			t.Fatalf("ack %+v, error %v", ack, err)
		}
		m := collect(t, s, 1)[0]
		if m.Kind != limpet.Data || m.Topic != "quotes/ab" || string(m.Payload) != `{"px": 1}` || m.ID != id ||
			m.Type != "application/json" || m.Header["k"] != "v" || m.Position.IsZero() {
			t.Errorf("message %+v", m)
		}
	})
}

// Messages without payload cost no bytes in either direction: neither an empty one
// nor an expired slot is a violation when the bytes are used up.
func TestEmptyMessagesCostNoBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{WindowBytes: 1000}})
		c := dial(t, srv, nil)
		s := subscribeLive(t, c, "t", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Bytes: 1000}})
		srv.Stop()
		synctest.Wait()
		ctx := context.Background()
		want := []limpet.Outcome{limpet.Acked, limpet.Acked, limpet.Expired, limpet.Acked}
		var receipts []*limpet.Receipt
		for i, size := range []int{2000, 0, 100, 0} {
			o := &limpet.PublishOptions{}
			if want[i] == limpet.Expired {
				o.TTL = time.Second
			}
			r, err := c.Publish(ctx, "t", make([]byte, size), o)
			if err != nil {
				t.Fatal(err)
			}
			receipts = append(receipts, r)
		}
		time.Sleep(3 * time.Second)
		connections := c.Stats().Connections
		srv.Start()
		for i, r := range receipts {
			if r.Wait(ctx); r.Outcome() != want[i] {
				t.Errorf("message %d: %v, want %v", i, r.Outcome(), want[i])
			}
		}
		collect(t, s, 3)
		time.Sleep(time.Minute)
		if n := c.Stats().Connections; n != connections+1 || c.Err() != nil {
			t.Errorf("%d connections after the outage, want 1; client: %v", n-connections, c.Err())
		}
	})
}
