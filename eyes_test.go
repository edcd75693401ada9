package limpet_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/native"
)

// Sizes and durations that no machine has are refused by name; they must not
// overflow into their opposite.
func TestAbsurdBoundsAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		for _, o := range []limpet.SubscribeOptions{
			{Delivery: limpet.Delivery{Buffer: math.MaxInt}},
			{Token: limpet.Secret(strings.Repeat("x", 8<<10+1))},
			{Token: "\xff"},
		} {
			s, err := c.Subscribe(context.Background(), "a", &o)
			var e *limpet.Error
			if !errors.As(err, &e) || e.Field == "" {
				t.Errorf("Subscribe: %v", err)
				if s != nil {
					s.Close()
				}
			}
		}
		for _, o := range []limpet.Options{
			{Backoff: limpet.Backoff{Max: math.MaxInt64}},
			{Backoff: limpet.Backoff{Initial: math.MaxInt64, Max: math.MaxInt64}},
			{Backoff: limpet.Backoff{First: math.MaxInt64}},
			{Heartbeat: limpet.Heartbeat{Interval: math.MaxInt64}},
		} {
			o.HTTPClient = srv.HTTPClient()
			c, err := limpet.New(srv.URL(), &o)
			var e *limpet.Error
			if !errors.As(err, &e) || e.Field == "" {
				t.Errorf("New: %v", err)
				if c != nil {
					closeAndWait(t, c)
				}
			}
		}
	})
}

// Printing what the caller holds shows no secret that it gave.
func TestPrintedClientsShowNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		o := limpet.Options{Header: map[string][]string{"Authorization": {"canary"}}, HTTPClient: srv.HTTPClient()}
		c, err := limpet.Dial(context.Background(), srv.URL()+"/?key=canary", &o)
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		s, err := c.Subscribe(context.Background(), "a", &limpet.SubscribeOptions{Token: "canary"})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, v := range []any{c, s} {
			for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
				if text := fmt.Sprintf(format, v); strings.Contains(text, "canary") {
					t.Errorf("%s of a %T prints a secret", format, v)
				}
			}
		}
	})
}

// A credit is no acknowledged message: a server that only grants and drops is
// not stable after five seconds.
func TestCreditIsNoProofOfStability(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(p *scripted) {
			p.say(append([]native.Frame{p.welcome()}, p.subok()...)...)
			p.say(native.Frame{Type: native.TypeAck, Ack: &native.Ack{Cr: &native.Credit{N: 200, B: 1 << 20}}})
			time.Sleep(6 * time.Second)
			p.ws.CloseNow()
		})
		c, _ := s.start(limpet.Options{})
		time.Sleep(2 * time.Minute)
		if a := c.State().Attempt; a < 5 {
			t.Errorf("%d failures in a row after two minutes of drops", a)
		}
	})
}

// What waits when the server ended a subscription survives the permanent end
// of the client, as everything else that waits does.
func TestPermanentEndKeepsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(p *scripted) {
			p.say(append([]native.Frame{p.welcome()}, p.subok()...)...)
			p.say(message(1, 0, "1"), message(2, 1, "2"))
			p.say(native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: 1, Code: native.CodeRevoked}})
			time.Sleep(time.Second)
			p.ws.Close(4008, "")
		})
		c, sub := s.start(limpet.Options{})
		<-c.Done()
		if got := payloads(collect(t, sub, 2)); got != "1 2" {
			t.Errorf("%q", got)
		}
	})
}

func TestTenThousandSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		subs := make([]*limpet.Subscription, 10_000)
		for i := range subs {
			s, err := c.Subscribe(context.Background(), fmt.Sprint("t/", i), nil)
			if err != nil {
				t.Fatal(err)
			}
			subs[i] = s
		}
		check := func(payload string) {
			for _, s := range subs {
				if err := s.WaitLive(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			for i := 0; i < len(subs); i += 100 {
				publish(t, srv, fmt.Sprint("t/", i), payload)
			}
			for i := 0; i < len(subs); i += 100 {
				if got := payloads(collect(t, subs[i], 1)); got != payload {
					t.Fatalf("subscription %d: %q", i, got)
				}
			}
		}
		check("1")
		srv.Network.CutAll()
		check("2")
		if err := c.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
}
