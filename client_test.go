package limpet_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

// closeAndWait ends c; a bubble must not be left before its goroutines end.
func closeAndWait(t testing.TB, c *limpet.Client) {
	t.Helper()
	c.Close()
	<-c.Done()
}

func dial(t testing.TB, srv *limpettest.Server, o *limpet.Options) *limpet.Client {
	t.Helper()
	var opts limpet.Options
	if o != nil {
		opts = *o
	}
	opts.HTTPClient = srv.HTTPClient()
	c, err := limpet.Dial(context.Background(), srv.URL(), &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

func live(t testing.TB, c *limpet.Client, topic string, o *limpet.SubscribeOptions) *limpet.Subscription {
	t.Helper()
	s, err := c.Subscribe(context.Background(), topic, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WaitLive(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s
}

// collect takes n messages of any kind.
func collect(t testing.TB, s *limpet.Subscription, n int) []limpet.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var ms []limpet.Message
	for m, err := range s.Messages(ctx) {
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", len(ms), n, err)
		}
		if ms = append(ms, m); len(ms) == n {
			m.Ack()
			break
		}
	}
	return ms
}

func publish(t testing.TB, srv *limpettest.Server, topic string, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if _, err := srv.Server.Publish(context.Background(), topic, []byte(p), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func numbers(from, to int) []string {
	var ps []string
	for i := from; i <= to; i++ {
		ps = append(ps, fmt.Sprint(i))
	}
	return ps
}

func payloads(ms []limpet.Message) string {
	var ps []string
	for _, m := range ms {
		switch m.Kind {
		case limpet.Gap:
			ps = append(ps, fmt.Sprintf("gap(%d,%d]", m.Gap.After.Offset, m.Gap.To.Offset))
		case limpet.Reset:
			ps = append(ps, "reset")
		default:
			ps = append(ps, string(m.Payload))
		}
	}
	return strings.Join(ps, " ")
}

func TestPublishAndSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := live(t, c, "quotes/*", nil)
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

func TestResumeAfterEveryKindOfBreak(t *testing.T) {
	for _, f := range []limpettest.Fault{
		limpettest.CutAfterFrames(limpettest.Down, 0), limpettest.ResetAfterFrames(limpettest.Both, 0),
		limpettest.BlackHole(limpettest.Both), limpettest.BlackHole(limpettest.Up), limpettest.BlackHole(limpettest.Down),
		limpettest.CloseWith(1001, "bye", 0), limpettest.CloseWith(1011, "oops", 0), limpettest.CloseWith(4200, "busy", 0),
		limpettest.CloseWith(4302, "restart", 0), limpettest.CloseWith(4400, "expired", 0),
	} {
		t.Run(f.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, nil)
				s := live(t, c, "a", nil)
				publish(t, srv, "a", numbers(1, 3)...)
				got := collect(t, s, 3)
				srv.Network.Strike(f)
				publish(t, srv, "a", numbers(4, 6)...)
				r, err := c.Publish(context.Background(), "up", []byte("x"), nil)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, collect(t, s, 3)...)
				if want := strings.Join(numbers(1, 6), " "); payloads(got) != want {
					t.Errorf("got %q, want %q", payloads(got), want)
				}
				if ack, err := r.Wait(context.Background()); err != nil || ack.Outcome != limpet.Acked {
					t.Errorf("publish across the break: %v %v", ack, err)
				}
				if st := s.Stats(); st.Gaps+st.Resets != 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

func TestHalfOpenIsNoticedInTime(t *testing.T) {
	for _, dirs := range []limpettest.Dir{limpettest.Both, limpettest.Up, limpettest.Down} {
		t.Run(dirs.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, &limpet.Options{Heartbeat: limpet.Heartbeat{Interval: 10 * time.Second}})
				time.Sleep(time.Minute)
				if g := c.State().Generation; g != 1 {
					t.Fatalf("generation %d before the fault", g)
				}
				srv.Network.Strike(limpettest.BlackHole(dirs))
				at := time.Now()
				s, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Phase != limpet.Ready })
				if err != nil {
					t.Fatal(err)
				}
				// A dead uplink shows when the server gives up on us.
				limit := 25 * time.Second
				if dirs == limpettest.Up {
					limit += 50 * time.Second
				}
				if took := time.Since(at); took > limit {
					t.Errorf("noticed after %v: %v", took, s.Cause)
				}
				if dirs != limpettest.Up && !errors.Is(s.Cause, limpet.ErrHeartbeat) {
					t.Errorf("cause %v", s.Cause)
				}
			})
		})
	}
}

func TestIdleConnectionStaysUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		time.Sleep(24 * time.Hour)
		if s := c.State(); s.Generation != 1 || s.Phase != limpet.Ready {
			t.Errorf("after an idle day: %+v", s)
		}
	})
}

func TestStoppedConsumerHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The log of the server is in this process, too: a short one, so that
		// the heap shows what the client holds.
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Retention: server.Retention{Count: 100}}})
		c := dial(t, srv, nil)
		const bytes, rounds = 256 << 10, 3600
		stopped := live(t, c, "slow", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 1 << 20, Bytes: bytes}})
		other := live(t, c, "fast", nil)
		body := strings.Repeat("x", 1000)
		before := limpettest.HeapInUse()
		for i := range rounds {
			publish(t, srv, "slow", body)
			publish(t, srv, "fast", fmt.Sprint(i))
			if got := collect(t, other, 1); payloads(got) != fmt.Sprint(i) {
				t.Fatalf("round %d: %q", i, payloads(got))
			}
			time.Sleep(time.Second)
		}
		if grown := limpettest.HeapInUse() - before; grown > bytes+2<<20 {
			t.Errorf("heap grew by %d bytes", grown)
		}
		st := stopped.Stats()
		if held := int(st.Waiting) * len(body); held < bytes-len(body) || held > bytes+len(body) || st.Dropped != 0 {
			t.Errorf("%d bytes wait, %d allowed; %+v", held, bytes, st)
		}
		if g := c.State().Generation; g != 1 {
			t.Errorf("reconnected %d times", g-1)
		}
		// What the log has forgotten meanwhile is a gap; nothing is silent.
		next, lost := uint64(1), uint64(0)
		for m, err := range stopped.Messages(context.Background()) {
			if err != nil {
				t.Fatal(err)
			}
			if m.Kind == limpet.Gap {
				lost += (m.Gap.To.Offset - m.Gap.After.Offset) / 2
				next = m.Gap.To.Offset + 1 + m.Gap.To.Offset%2
				continue
			}
			if m.Position.Offset != next {
				t.Fatalf("offset %d, want %d", m.Position.Offset, next)
			}
			if next += 2; next > 2*rounds {
				break
			}
		}
		if got := stopped.Stats().Delivered + lost; got < rounds-1 || got > rounds+1 {
			t.Errorf("%d delivered and lost of %d", got, rounds)
		}
	})
}

func TestOverflow(t *testing.T) {
	for _, tc := range []struct {
		policy limpet.Overflow
		want   string
	}{
		{limpet.DropOldest, "gap(0,6] 7 8 9 10"},
		{limpet.DropNewest, "1 2 3 4 gap(4,10]"},
		{limpet.Block, "1 2 3 4 5 6 7 8 9 10"},
	} {
		t.Run(tc.want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, nil)
				s := live(t, c, "a", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 4, Overflow: tc.policy}})
				publish(t, srv, "a", numbers(1, 10)...)
				synctest.Wait()
				if got := payloads(collect(t, s, len(strings.Fields(tc.want)))); got != strings.ReplaceAll(tc.want, ",", ",") {
					t.Errorf("got %q, want %q", got, tc.want)
				}
				st := s.Stats()
				if st.Received != st.Delivered+st.Dropped+st.Conflated+st.Waiting || st.Received != 10 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

func TestEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := live(t, c, "a", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Every: time.Second}})
		var mu sync.Mutex
		var at []time.Time
		n := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ms, err := range s.Batches(context.Background()) {
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				at = append(at, time.Now())
				n += len(ms)
				mu.Unlock()
				if n == 100 {
					return
				}
			}
		}()
		for i := range 100 {
			publish(t, srv, "a", fmt.Sprint(i))
			time.Sleep(100 * time.Millisecond)
		}
		<-done
		for i := 1; i < len(at); i++ {
			if gap := at[i].Sub(at[i-1]); gap < time.Second {
				t.Errorf("hand-over %d came %v after the one before", i, gap)
			}
		}
		if len(at) > 12 {
			t.Errorf("%d hand-overs in ten seconds", len(at))
		}
	})
}

func TestDeliveryChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := live(t, c, "a", nil)
		publish(t, srv, "a", numbers(1, 5)...)
		for i := 1; i <= 3; i++ {
			if m := <-s.C(); string(m.Payload) != fmt.Sprint(i) {
				t.Fatalf("message %d is %q", i, m.Payload)
			}
		}
		synctest.Wait()
		if st := s.Stats(); st.Delivered != 3 || st.Waiting != 2 {
			t.Errorf("%+v", st)
		}
		if p := s.Committed(); p.Offset != 2 {
			t.Errorf("committed %v, want the message before the last one taken", p.Offset)
		}
		s.Close()
		if _, open := <-s.C(); open {
			t.Error("a message after Close")
		}
		synctest.Wait()
		if st := s.Stats(); st.Dropped != 2 || st.Waiting != 0 || s.Err() != nil {
			t.Errorf("%+v, %v", st, s.Err())
		}
	})
}

func TestManualAckCommitsAPrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := live(t, c, "a", &limpet.SubscribeOptions{ManualAck: true, Delivery: limpet.Delivery{Buffer: 4}})
		publish(t, srv, "a", numbers(1, 10)...)
		var ms []limpet.Message
		for m := range s.Messages(context.Background()) {
			if ms = append(ms, m); len(ms) == 4 {
				break
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		for m, err := range s.Messages(ctx) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("a fifth message is out unacknowledged: %v %v", m.Position, err)
			}
		}
		ms[2].Ack()
		ms[1].Ack()
		if p := s.Committed(); !p.IsZero() {
			t.Errorf("committed %v with message 1 open", p.Offset)
		}
		ms[0].Ack()
		ms[0].Ack()
		if p := s.Committed(); p.Offset != 3 {
			t.Errorf("committed %d, want 3", p.Offset)
		}
		rest := 0
		for m := range s.Messages(context.Background()) {
			m.Ack()
			if rest++; rest == 3 {
				break
			}
		}
		if p := s.Committed(); p.Offset != 3 {
			t.Errorf("committed %d over message 4, which is open", p.Offset)
		}
		ms[3].Ack()
		if p := s.Committed(); p.Offset != 7 {
			t.Errorf("committed %d, want 7", p.Offset)
		}
		if got := payloads(collect(t, s, 3)); got != "8 9 10" {
			t.Errorf("then %q", got)
		}
	})
}

func TestResumeInANewClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		publish(t, srv, "a", numbers(1, 10)...)
		c := dial(t, srv, nil)
		s := live(t, c, "a", &limpet.SubscribeOptions{From: limpet.FromFirst})
		collect(t, s, 4)
		text, err := s.Committed().MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		closeAndWait(t, c)
		var p limpet.Position
		if err := p.UnmarshalText(text); err != nil {
			t.Fatal(err)
		}
		s = live(t, dial(t, srv, nil), "a", &limpet.SubscribeOptions{From: limpet.FromResume, Position: p})
		if got := payloads(collect(t, s, 6)); got != strings.Join(numbers(5, 10), " ") {
			t.Errorf("got %q", got)
		}
		p.Epoch = "another"
		s = live(t, dial(t, srv, nil), "a", &limpet.SubscribeOptions{From: limpet.FromResume, Position: p})
		if got := collect(t, s, 1)[0]; got.Kind != limpet.Reset || got.Gap.Cause.String() != "epoch" {
			t.Errorf("resume in another epoch gave %v", got.Kind)
		}
	})
}

func TestRetentionShowsAsGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Retention: server.Retention{Count: 5}}})
		c := dial(t, srv, nil)
		s := live(t, c, "a", nil)
		publish(t, srv, "a", "1")
		collect(t, s, 1)
		srv.Stop()
		publish(t, srv, "a", numbers(2, 10)...)
		srv.Start()
		if got := payloads(collect(t, s, 6)); got != "gap(1,5] 6 7 8 9 10" {
			t.Errorf("got %q", got)
		}
	})
}

func TestTTLExpiresBeforeTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := live(t, c, "a", nil)
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

func TestShutdownFlushesAndDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := live(t, c, "a", nil)
		publish(t, srv, "a", numbers(1, 5)...)
		synctest.Wait()
		r, _ := c.Publish(context.Background(), "b", []byte("x"), nil)
		var got []limpet.Message
		consumed := make(chan struct{})
		go func() {
			defer close(consumed)
			for m, err := range s.Messages(context.Background()) {
				if err != nil {
					t.Error(err)
				}
				got = append(got, m)
				time.Sleep(time.Second)
			}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		<-consumed
		if payloads(got) != "1 2 3 4 5" || r.Outcome() != limpet.Acked {
			t.Errorf("consumed %q, receipt %v", payloads(got), r.Outcome())
		}
		synctest.Wait()
		if n := srv.Server.Stats().Sessions; n != 0 {
			t.Errorf("server keeps %d sessions after an ordered end", n)
		}
	})
}

func TestShutdownIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := live(t, c, "a", nil)
		publish(t, srv, "a", "nobody takes this")
		synctest.Wait()
		srv.Network.Strike(limpettest.BlackHole(limpettest.Both))
		synctest.Wait()
		c.Publish(context.Background(), "b", []byte("x"), nil)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		at := time.Now()
		err := c.Shutdown(ctx)
		if took := time.Since(at); took > time.Second+100*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", took, err)
		}
		<-c.Done()
		if st := s.Stats(); st.Dropped != 1 {
			t.Errorf("%+v", st)
		}
	})
}

func TestAuth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const good = "canary-token-b"
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			Authenticate: func(_ context.Context, _ *http.Request, token string) (server.Principal, error) {
				if token != good {
					return server.Principal{}, errors.New("no")
				}
				return server.Principal{ID: "p"}, nil
			}}}})
		var infos []limpet.AttemptInfo
		c := dial(t, srv, &limpet.Options{Auth: func(_ context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
			infos = append(infos, info)
			if !info.Refresh {
				return limpet.Credential{Token: "canary-token-a"}, nil
			}
			return limpet.Credential{Token: good}, nil
		}})
		if len(infos) != 2 || infos[0].Refresh || !infos[1].Refresh || limpet.Class(infos[1].Cause) != limpet.ClassAuth {
			t.Errorf("Auth was asked %+v", infos)
		}
		if s := c.State(); s.Phase != limpet.Ready || strings.Contains(fmt.Sprintf("%+v", s), "canary") {
			t.Errorf("%+v", s)
		}
	})
}

func TestRefusedTwiceIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Network.Each(func(int) limpettest.Fault { return limpettest.RefuseUpgrade(401, nil) })
		calls := 0
		_, err := limpet.Dial(context.Background(), srv.URL(), &limpet.Options{
			HTTPClient: srv.HTTPClient(),
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				calls++
				return limpet.Credential{Header: http.Header{"Authorization": {"Bearer canary"}}}, nil
			}})
		var p *limpet.PermanentError
		if !errors.As(err, &p) || p.Class != limpet.ClassAuth || calls != 2 {
			t.Errorf("after %d calls: %v", calls, err)
		}
		if strings.Contains(fmt.Sprintf("%+v %#v", err, err), "canary") {
			t.Errorf("the error holds the credential: %+v", err)
		}
	})
}

func TestHangingAuthHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		release := make(chan struct{})
		var calls atomic.Int32
		c, err := limpet.New(srv.URL(), &limpet.Options{
			HTTPClient: srv.HTTPClient(),
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				calls.Add(1)
				<-release // regardless of ctx
				return limpet.Credential{}, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if n := calls.Load(); n != 1 {
			t.Errorf("Auth runs %d times at once", n)
		}
		at := time.Now()
		closeAndWait(t, c)
		if took := time.Since(at); took > 100*time.Millisecond {
			t.Errorf("Close took %v", took)
		}
		close(release)
	})
}

// A consumer that publishes must not hang, however small the window.
func TestReentrance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		observed := make(chan limpet.Event, 1000)
		c := dial(t, srv, &limpet.Options{Window: limpet.Window{Messages: 4}, Observer: observer(func(e limpet.Event) { observed <- e })})
		s := live(t, c, "ping", nil)
		back := live(t, c, "pong", nil)
		go func() {
			for i := range 50 {
				c.Publish(context.Background(), "ping", []byte(fmt.Sprint(i)), nil)
				if i%10 == 5 {
					srv.Network.CutAll()
				}
			}
		}()
		go func() {
			for m, err := range s.Messages(context.Background()) {
				if err != nil {
					return
				}
				if _, err := c.Send(context.Background(), "pong", m.Payload, nil); err != nil {
					return
				}
			}
		}()
		if got := payloads(collect(t, back, 50)); got != strings.Join(numbers(0, 49), " ") {
			t.Errorf("got %q", got)
		}
		if len(observed) == 0 {
			t.Error("the observer saw nothing")
		}
	})
}

type observer func(limpet.Event)

func (f observer) Observe(e limpet.Event) { f(e) }

// Receipts resolve when the truth is known, not when the client closes.
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
