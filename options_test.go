package limpet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/server"
)

type noStore struct{ outbox.Store }

func TestBadOptionsAreNamed(t *testing.T) {
	type o = limpet.Options
	for _, tc := range []struct {
		url   string
		o     o
		field string
		class limpet.ErrorClass
	}{
		{"http://localhost", o{}, "url", limpet.ClassInput},
		{"", o{}, "url", limpet.ClassInput},
		{"ws://", o{}, "url", limpet.ClassInput},
		{"ws://:80", o{}, "url", limpet.ClassInput},
		{"ws://[::1", o{}, "url", limpet.ClassInput},
		{"wss://u:canary@h/", o{}, "url", limpet.ClassInput},
		{"wss://h/#canary", o{}, "url", limpet.ClassInput},
		{"ws://h\x7f?token=canary", o{}, "url", limpet.ClassInput},
		{"ws://example.com/?token=canary", o{}, "url", limpet.ClassInput},
		{"ws://localhost", o{Backoff: limpet.Backoff{Initial: -1}}, "Options.Backoff.Initial", limpet.ClassInput},
		{"ws://localhost", o{Backoff: limpet.Backoff{Max: time.Millisecond}}, "Options.Backoff.Max", limpet.ClassInput},
		{"ws://localhost", o{Backoff: limpet.Backoff{Multiplier: 0.5}}, "Options.Backoff.Multiplier", limpet.ClassInput},
		{"ws://localhost", o{Backoff: limpet.Backoff{StableAfter: -1}}, "Options.Backoff.StableAfter", limpet.ClassInput},
		{"ws://localhost", o{Backoff: limpet.Backoff{MaxElapsed: -1}}, "Options.Backoff.MaxElapsed", limpet.ClassInput},
		{"ws://localhost", o{Heartbeat: limpet.Heartbeat{Interval: -1}}, "Options.Heartbeat.Interval", limpet.ClassInput},
		{"ws://localhost", o{DialTimeout: -1}, "Options.DialTimeout", limpet.ClassInput},
		{"ws://localhost", o{SessionTTL: -1}, "Options.SessionTTL", limpet.ClassInput},
		{"ws://localhost", o{Window: limpet.Window{Messages: -1}}, "Options.Window.Messages", limpet.ClassInput},
		{"ws://localhost", o{Window: limpet.Window{Bytes: -1}}, "Options.Window.Bytes", limpet.ClassInput},
		{"ws://localhost", o{ReadLimit: -1}, "Options.ReadLimit", limpet.ClassInput},
		{"ws://localhost", o{Endpoints: []string{"wss://b"}}, "Options.Endpoints", limpet.ClassUnsupported},
		{"ws://localhost", o{Outbox: noStore{}}, "Options.Outbox", limpet.ClassUnsupported},
		{"ws://localhost", o{Compression: true}, "Options.Compression", limpet.ClassUnsupported},
	} {
		c, err := limpet.New(tc.url, options(&tc.o))
		var e *limpet.Error
		if c != nil || !errors.As(err, &e) || e.Field != tc.field || e.Class != tc.class {
			t.Errorf("New(%q): %v", tc.url, err)
			continue
		}
		if (tc.class == limpet.ClassUnsupported) != errors.Is(err, limpet.ErrUnsupported) {
			t.Errorf("New(%q): %v", tc.url, err)
		}
		if strings.Contains(fmt.Sprintf("%+v", err), "canary") {
			t.Errorf("the error repeats a secret: %v", err)
		}
	}
	_, err := limpet.New("ftp://x", options(&limpet.Options{ReadLimit: -1, DialTimeout: -1}))
	for _, field := range []string{"url", "ReadLimit", "DialTimeout"} {
		if !strings.Contains(fmt.Sprint(err), field) {
			t.Errorf("several faults at once, %s is not named: %v", field, err)
		}
	}
}

func TestBadSubscribeAndPublishAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		ctx := context.Background()
		type d = limpet.Delivery
		type so = limpet.SubscribeOptions
		for _, tc := range []struct {
			topic string
			o     so
			want  error
		}{
			{"", so{}, limpet.ErrTopic}, {"a//b", so{}, limpet.ErrTopic}, {"**/a", so{}, limpet.ErrTopic},
			{"a\x00", so{}, limpet.ErrTopic}, {"a\xff", so{}, limpet.ErrTopic},
			{strings.Repeat("a/", 16) + "a", so{}, limpet.ErrTopic}, {strings.Repeat("a", 256), so{}, limpet.ErrTopic},
			{"a", so{From: 9}, nil}, {"a", so{From: limpet.FromResume}, nil},
			{"a", so{Position: limpet.Position{Epoch: "e"}}, nil},
			{"a", so{Delivery: d{Buffer: -1}}, nil}, {"a", so{Delivery: d{Bytes: -1}}, nil},
			{"a", so{Delivery: d{Every: -1}}, nil}, {"a", so{Delivery: d{Overflow: 77}}, nil},
			{"a", so{Delivery: d{Overflow: limpet.Latest}}, limpet.ErrUnsupported},
			{"a", so{Delivery: d{Rate: 1}}, limpet.ErrUnsupported}, {"a", so{Delivery: d{Burst: 1}}, limpet.ErrUnsupported},
			{"a", so{Delivery: d{Key: func(limpet.Message) string { return "" }}}, limpet.ErrUnsupported},
		} {
			_, err := c.Subscribe(ctx, tc.topic, &tc.o)
			var e *limpet.Error
			if !errors.As(err, &e) || e.Field == "" || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("Subscribe(%q, %+v): %v", tc.topic, tc.o, err)
			}
		}
		for _, tc := range []struct {
			topic   string
			payload int
			o       limpet.PublishOptions
			want    error
		}{
			{"a/*", 0, limpet.PublishOptions{}, limpet.ErrTopic}, {"**", 0, limpet.PublishOptions{}, limpet.ErrTopic},
			{"", 0, limpet.PublishOptions{}, limpet.ErrTopic},
			{"a", 256<<10 + 1, limpet.PublishOptions{}, limpet.ErrTooBig},
			{"a", 0, limpet.PublishOptions{TTL: -1}, nil},
			{"a", 0, limpet.PublishOptions{Header: map[string]string{"k": strings.Repeat("v", 9<<10)}}, nil},
			{"a", 0, limpet.PublishOptions{Type: strings.Repeat("t", 9<<10)}, nil},
		} {
			_, err := c.Publish(ctx, tc.topic, make([]byte, tc.payload), &tc.o)
			var e *limpet.Error
			if !errors.As(err, &e) || e.Field == "" || tc.want != nil && !errors.Is(err, tc.want) || !limpet.SafeToRetry(err) {
				t.Errorf("Publish(%q, %d bytes, %+v): %v", tc.topic, tc.payload, tc.o, err)
			}
		}
		if s := c.State(); s.Generation != 1 || c.Stats().Published != 0 {
			t.Errorf("bad arguments reached the connection: %+v", s)
		}
	})
}

// Payloads of every size come back as they were, fragments included.
func TestPayloadSizes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		s := live(t, c, "a", nil)
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
		s := live(t, c, "a", nil)
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

func TestSecretsDoNotPrint(t *testing.T) {
	cred := limpet.Credential{Token: "canary", Header: map[string][]string{"Authorization": {"canary"}}}
	opts := limpet.SubscribeOptions{Token: "canary"}
	js, err := json.Marshal(struct {
		C limpet.Credential
		O limpet.Secret
	}{cred, opts.Token})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		fmt.Sprint(cred), fmt.Sprintf("%+v", cred), fmt.Sprintf("%#v", cred), fmt.Sprintf("%+v", opts), fmt.Sprintf("%#v", opts),
		fmt.Sprintf("%s %q %v %x", cred.Token, cred.Token, cred.Token, cred.Token), string(js),
	} {
		if strings.Contains(s, "canary") || strings.Contains(s, fmt.Sprintf("%x", "canary")) {
			t.Errorf("printed: %s", s)
		}
	}
}

func TestOptionsAreCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{}})
		h := map[string][]string{"X-A": {"1"}}
		o := &limpet.Options{HTTPClient: srv.HTTPClient(), Header: h}
		a, err := limpet.New(srv.URL(), options(o))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, a)
		o.HTTPClient, h["X-A"] = nil, nil
		if err := a.WaitReady(context.Background()); err != nil {
			t.Error(err)
		}
	})
}
