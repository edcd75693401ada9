package limpet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

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
		{"ws://notlocalhost", o{}, "url", limpet.ClassInput},
		{"ws://[fe80::1%25lo]", o{}, "url", limpet.ClassInput},
		{"ws://localhost", o{Header: http.Header{"x-key": {"canary"}, "X-Key": {"canary"}}}, "Options.Header", limpet.ClassInput},
		{"ws://localhost", o{Header: http.Header{"Host": {"canary"}}}, "Options.Header", limpet.ClassInput},
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
		{"ws://localhost", o{ReadLimit: 1}, "Options.ReadLimit", limpet.ClassInput},
		{"ws://localhost", o{ReadLimit: 64<<10 - 1}, "Options.ReadLimit", limpet.ClassInput},
		{"ws://localhost", o{Memory: -1}, "Options.Memory", limpet.ClassInput},
		{"ws://localhost", o{Memory: 8<<20 - 1}, "Options.Memory", limpet.ClassInput},
	} {
		c, err := limpet.New(tc.url, options(&tc.o))
		var e *limpet.Error
		if c != nil || !errors.As(err, &e) || e.Field != tc.field || e.Class != tc.class {
			t.Errorf("New(%q): %v", tc.url, err)
			continue
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

// Each of these can be this machine. What it is shows when it is dialled.
func TestLoopbackNames(t *testing.T) {
	for _, host := range []string{"localhost", "LOCALHOST", "localhost.", "api.LocalHost.", "127.0.0.1", "127.1.2.3", "[::1]", "[::1%25lo]", "[::ffff:127.0.0.1]"} {
		c, err := limpet.New("ws://"+host+":1", options(nil))
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		closeAndWait(t, c)
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
			{"a", so{Token: "a\n"}, nil}, {"a", so{Delivery: d{Every: -1}}, nil}, {"a", so{Delivery: d{Overflow: 77}}, nil},
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
			c, err := limpet.New(srv.URL(), options(&o))
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
		c, err := limpet.Dial(context.Background(), srv.URL()+"/?key=canary", options(&o))
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
