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
)

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
