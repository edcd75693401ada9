package test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

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
				s := subscribeLive(t, c, "a", nil)
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

// A message that is published right after Subscribe is delivered: the server applies
// the two in order, whatever its goroutines do meanwhile.
func TestPublishRightAfterSubscribe(t *testing.T) {
	srv := limpettest.NewServer(t, &limpettest.ServerOptions{Loopback: true})
	c := dial(t, srv, nil)
	for i := range 200 {
		topic := fmt.Sprint("t/", i)
		s, err := c.Subscribe(context.Background(), topic, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Publish(context.Background(), topic, []byte("x"), nil); err != nil {
			t.Fatal(err)
		}
		if got := payloads(collect(t, s, 1)); got != "x" {
			t.Fatalf("subscription %d: %q", i, got)
		}
		s.Close()
	}
}
