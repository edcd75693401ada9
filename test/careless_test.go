package test

import (
	"context"
	"errors"
	"math"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// careless is what a caller in a hurry passes, and what the error must say.
type careless struct {
	name  string
	call  func(*carelessFixture) error
	field string
	class limpet.ErrorClass
}

// carelessFixture has a client in each state that matters.
type carelessFixture struct {
	ready, closed, full *limpet.Client
	sub                 *limpet.Subscription // closed, of ready
	cancelled, expired  context.Context
}

// advice is how a text says what to do.
var advice = regexp.MustCompile(`\b(use|must|write|raise|remove|split|create|pass|needs|subscribe again|share|is only for|the limit is|ended before|wait for|takes no|pick|choose)\b`)

const canary = "canary"

// Each careless input has an error that names the argument, has the right class,
// says what to do and holds no secret. None of it ends the process.
func TestCarelessInputs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newCarelessFixture(t)
		rows := carelessRows()
		if len(rows) < 100 {
			t.Fatalf("%d rows", len(rows))
		}
		for _, row := range rows {
			err := row.call(f)
			var e *limpet.Error
			if !errors.As(err, &e) {
				t.Errorf("%s: %v", row.name, err)
				continue
			}
			if e.Field != row.field || limpet.ClassOf(err) != row.class {
				t.Errorf("%s: field %q, class %q: %v", row.name, e.Field, limpet.ClassOf(err), err)
			}
			if text := err.Error(); !advice.MatchString(text) || strings.Contains(text, canary) || strings.ContainsAny(text, "\r\n\x00") {
				t.Errorf("%s: its text: %q", row.name, text)
			}
			if limpet.Retryable(err) {
				t.Errorf("%s: a loop would try again: %v", row.name, err)
			}
		}
		if s := f.ready.State(); s.Generation != 1 || s.Phase != limpet.Ready || f.ready.Stats().Published != 0 {
			t.Errorf("careless inputs reached the connection: %+v", s)
		}
	})
}

func newCarelessFixture(t *testing.T) *carelessFixture {
	srv := limpettest.NewServer(t, nil)
	f := &carelessFixture{ready: dial(t, srv, nil), closed: dial(t, srv, nil)}
	f.full = newClient(t, limpettest.NewServer(t, nil), limpet.Options{Window: limpet.Window{Messages: 1}, Auth: func(ctx context.Context, _ limpet.AttemptInfo) (limpet.Credential, error) {
		<-ctx.Done() // never connected
		return limpet.Credential{}, ctx.Err()
	}})
	if _, err := f.full.Publish(context.Background(), "a", nil, nil); err != nil {
		t.Fatal(err)
	}
	f.sub = subscribeLive(t, f.ready, "closed", nil)
	f.sub.Close()
	closeAndWait(t, f.closed)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	expired, cancel := context.WithTimeout(context.Background(), -1)
	t.Cleanup(cancel)
	f.cancelled, f.expired = cancelled, expired
	return f
}

func carelessRows() []careless {
	var rows []careless
	rows = append(rows, carelessURLs()...)
	rows = append(rows, carelessOptions()...)
	rows = append(rows, carelessDialects()...)
	rows = append(rows, carelessSubscribes()...)
	rows = append(rows, carelessPublishes()...)
	return append(rows, carelessCalls()...)
}

func newError(url string, o limpet.Options) error {
	c, err := limpet.New(url, options(&o))
	if c != nil {
		c.Close()
	}
	return err
}

func carelessURLs() []careless {
	var rows []careless
	for _, url := range []string{
		"", " ", "127.0.0.1:8080", "localhost:8080", "localhost", "example.com/?token=canary", "/path", "//host", "ws:host", "ws:/host",
		"http://localhost/?token=canary", "https://localhost", "ftp://canary", "canary://h", "ws://", "ws://:80", "ws://[::1", "ws://[canary]",
		"wss://user:canary@h/", "wss://canary@h/", "wss://h/#canary", "ws://h\x7f?token=canary", "wss://h/\n?token=canary",
		"ws://example.com/?token=canary", "ws://0.0.0.0", "wss://h:99999/?token=canary", "wss://h:0", "wss://h:-1", "wss://h:canary",
		"wss://h:65536", "wss://h:80:90", "wss://h/%zz?canary", " wss://h", "wss://h/canary ",
	} {
		rows = append(rows, careless{"url " + url, func(*carelessFixture) error { return newError(url, limpet.Options{}) }, "url", limpet.ClassInput})
	}
	return rows
}

func carelessOptions() []careless {
	type o = limpet.Options
	var rows []careless
	header := func(name, value string) o { return o{Header: http.Header{name: {value}}} }
	for _, tc := range []struct {
		field string
		o     o
	}{
		{"Options.Heartbeat.Interval", o{Heartbeat: limpet.Heartbeat{Interval: -1}}},
		{"Options.Heartbeat.Interval", o{Heartbeat: limpet.Heartbeat{Interval: 20}}},
		{"Options.Heartbeat.Interval", o{Heartbeat: limpet.Heartbeat{Interval: 2 * time.Millisecond}}},
		{"Options.Heartbeat.Interval", o{Heartbeat: limpet.Heartbeat{Interval: math.MaxInt64}}},
		{"Options.DialTimeout", o{DialTimeout: -1}},
		{"Options.DialTimeout", o{DialTimeout: 5}},
		{"Options.HTTPClient.Timeout", o{HTTPClient: &http.Client{Timeout: 5}}},
		{"Options.HTTPClient.Timeout", o{HTTPClient: &http.Client{Timeout: -time.Second}}},
		{"Options.HTTPClient.Transport", o{HTTPClient: &http.Client{Transport: (*http.Transport)(nil)}}},
		{"Options.HTTPClient.Transport.TLSHandshakeTimeout", o{HTTPClient: &http.Client{Transport: &http.Transport{TLSHandshakeTimeout: 5}}}},
		{"Options.HTTPClient.Transport.ResponseHeaderTimeout", o{HTTPClient: &http.Client{Transport: &http.Transport{ResponseHeaderTimeout: -1}}}},
		{"Options.DialTimeout", o{DialTimeout: math.MaxInt64}},
		{"Options.SessionTTL", o{SessionTTL: -1}},
		{"Options.SessionTTL", o{SessionTTL: 300}},
		{"Options.Backoff.First", o{Backoff: limpet.Backoff{First: 1}}},
		{"Options.Backoff.Initial", o{Backoff: limpet.Backoff{Initial: -1}}},
		{"Options.Backoff.Initial", o{Backoff: limpet.Backoff{Initial: 5}}},
		{"Options.Backoff.Max", o{Backoff: limpet.Backoff{Max: time.Millisecond}}},
		{"Options.Backoff.Max", o{Backoff: limpet.Backoff{Max: math.MaxInt64}}},
		{"Options.Backoff.Multiplier", o{Backoff: limpet.Backoff{Multiplier: 0.5}}},
		{"Options.Backoff.Multiplier", o{Backoff: limpet.Backoff{Multiplier: -2}}},
		{"Options.Backoff.Multiplier", o{Backoff: limpet.Backoff{Multiplier: math.NaN()}}},
		{"Options.Backoff.Multiplier", o{Backoff: limpet.Backoff{Multiplier: math.Inf(1)}}},
		{"Options.Backoff.StableAfter", o{Backoff: limpet.Backoff{StableAfter: -1}}},
		{"Options.Backoff.StableAfter", o{Backoff: limpet.Backoff{StableAfter: 30}}},
		{"Options.Backoff.MaxElapsed", o{Backoff: limpet.Backoff{MaxElapsed: 60}}},
		{"Options.Window.Messages", o{Window: limpet.Window{Messages: -1}}},
		{"Options.Window.Messages", o{Window: limpet.Window{Messages: math.MaxInt}}},
		{"Options.Window.Bytes", o{Window: limpet.Window{Bytes: -1}}},
		{"Options.Window.Bytes", o{Window: limpet.Window{Bytes: math.MaxInt}}},
		{"Options.ReadLimit", o{ReadLimit: -1}},
		{"Options.ReadLimit", o{ReadLimit: 1}},
		{"Options.ReadLimit", o{ReadLimit: 1 << 40}},
		{"Options.Memory", o{Memory: -1}},
		{"Options.Memory", o{Memory: 64}}, // megabytes were meant
		{"Options.Memory", o{Memory: 7 << 20}},
		{"Options.Memory", o{Memory: 10 << 20, ReadLimit: 6 << 20}},
		{"Options.Header", header("X-A\n", canary)},
		{"Options.Header", header("X A", canary)},
		{"Options.Header", header("", canary)},
		{"Options.Header", header("Bearer canary", "")},
		{"Options.Header", header("Authorization", "canary\r\nX-B: 1")},
		{"Options.Header", header("Authorization", "canary\n")},
		{"Options.Header", header("Authorization", "canary\x00")},
		{"Options.Header", header("Upgrade", canary)},
		{"Options.Header", header("upgrade", canary)},
		{"Options.Header", header("Connection", canary)},
		{"Options.Header", header("Host", canary)},
		{"Options.Header", header("Content-Length", canary)},
		{"Options.Header", header("Sec-WebSocket-Key", canary)},
		{"Options.Header", header("Sec-Websocket-Protocol", canary)},
		{"Options.Header", header("Sec-WebSocket-Extensions", canary)},
		{"Options.Header", header("X-A", strings.Repeat(canary, 1<<16))},
	} {
		rows = append(rows, careless{tc.field, func(*carelessFixture) error { return newError("wss://h", tc.o) }, tc.field, limpet.ClassInput})
	}
	return rows
}

// oddTraits is limpet.v1 with other traits.
type oddTraits struct {
	wire.Dialect
	traits wire.Traits
}

func (d oddTraits) Traits() wire.Traits { return d.traits }

func carelessDialects() []careless {
	var rows []careless
	for _, traits := range []wire.Traits{
		{Ping: 77}, {DedupWindow: -4}, {DedupWindow: math.MaxInt}, {Holes: 9}, {Processed: 9}, {StartSubs: -1}, {MaxPayload: -1}, {StartBytes: -1}, {MinReadLimit: -1},
		{CloseCode: 1}, {CloseCode: 1005}, {CloseCode: 5000},
	} {
		rows = append(rows, careless{"traits", func(*carelessFixture) error {
			return newError("wss://h", limpet.Options{Dialect: oddTraits{native.New(nil), traits}})
		}, "Options.Dialect", limpet.ClassInput})
	}
	return rows
}

func carelessSubscribes() []careless {
	type so = limpet.SubscribeOptions
	type d = limpet.Delivery
	var rows []careless
	for _, tc := range []struct {
		field, topic string
		o            so
	}{
		{"topic", "", so{}}, {"topic", "a//b", so{}}, {"topic", "**/a", so{}}, {"topic", "a\x00", so{}}, {"topic", "a\xff", so{}},
		{"topic", strings.Repeat("a/", 16) + "a", so{}}, {"topic", strings.Repeat("a", 256), so{}},
		{"SubscribeOptions.From", "a", so{From: 9}},
		{"SubscribeOptions.Position", "a", so{From: limpet.FromResume}},
		{"SubscribeOptions.Position", "a", so{Position: limpet.Position{Epoch: "e"}}},
		{"SubscribeOptions.Token", "a", so{Token: limpet.Secret(strings.Repeat(canary, 8<<10))}},
		{"SubscribeOptions.Token", "a", so{Token: canary + "\xff"}},
		{"Delivery.Buffer", "a", so{Delivery: d{Buffer: -1}}}, {"Delivery.Buffer", "a", so{Delivery: d{Buffer: math.MaxInt}}},
		{"Delivery.Bytes", "a", so{Delivery: d{Bytes: -1}}}, {"Delivery.Bytes", "a", so{Delivery: d{Bytes: math.MaxInt}}},
		{"Delivery.Every", "a", so{Delivery: d{Every: -1}}}, {"Delivery.Every", "a", so{Delivery: d{Every: 5}}},
		{"Delivery.Every", "a", so{Delivery: d{Every: math.MaxInt64}}},
		{"Delivery.Overflow", "a", so{Delivery: d{Overflow: 77}}},
		{"Delivery.Rate", "a", so{Delivery: d{Rate: math.NaN()}}}, {"Delivery.Rate", "a", so{Delivery: d{Rate: math.Inf(1)}}},
		{"Delivery.Rate", "a", so{Delivery: d{Rate: -1}}}, {"Delivery.Rate", "a", so{Delivery: d{Rate: 1e-9}}},
		{"Delivery.Rate", "a", so{Delivery: d{Rate: 1e9, Every: time.Hour}}},
		{"Delivery.Burst", "a", so{Delivery: d{Burst: 1}}}, {"Delivery.Burst", "a", so{Delivery: d{Rate: 1, Burst: -1}}},
		{"Delivery.Burst", "a", so{Delivery: d{Rate: 1, Burst: math.MaxInt}}},
		{"Delivery.Burst", "a", so{Delivery: d{Rate: 100, Burst: 1, Every: time.Second}}},
		{"Delivery.Key", "a", so{Delivery: d{Key: func(limpet.Message) string { return "" }}}},
		{"SubscribeOptions.Lend", "a", so{Lend: true, Delivery: d{Overflow: limpet.Latest}}},
	} {
		rows = append(rows, careless{"Subscribe " + tc.field, func(f *carelessFixture) error {
			_, err := f.ready.Subscribe(context.Background(), tc.topic, &tc.o)
			return err
		}, tc.field, limpet.ClassInput})
	}
	return rows
}

func carelessPublishes() []careless {
	type po = limpet.PublishOptions
	var rows []careless
	many := map[string]string{}
	for i := range 33 {
		many[strings.Repeat("k", i)] = canary
	}
	for _, tc := range []struct {
		field, topic string
		payload      int
		o            po
	}{
		{"topic", "", 0, po{}}, {"topic", "a/*", 0, po{}}, {"topic", "**", 0, po{}}, {"topic", "a\xff", 0, po{}}, {"topic", "/", 0, po{}},
		{"payload", "a", 256<<10 + 1, po{}},
		{"PublishOptions.TTL", "a", 0, po{TTL: -1}}, {"PublishOptions.TTL", "a", 0, po{TTL: 30}},
		{"PublishOptions.TTL", "a", 0, po{TTL: math.MaxInt64}},
		{"PublishOptions.Type", "a", 0, po{Type: canary + "\xff"}},
		{"PublishOptions.Header", "a", 0, po{Type: strings.Repeat(canary, 9<<10)}},
		{"PublishOptions.Header", "a", 0, po{Header: map[string]string{"k": strings.Repeat(canary, 9<<10)}}},
		{"PublishOptions.Header", "a", 0, po{Header: map[string]string{canary + "\xff": ""}}},
		{"PublishOptions.Header", "a", 0, po{Header: map[string]string{"k": canary + "\xff"}}},
		{"PublishOptions.Header", "a", 0, po{Header: many}},
	} {
		payload := make([]byte, tc.payload)
		rows = append(rows, careless{"Publish " + tc.field, func(f *carelessFixture) error {
			_, err := f.ready.Publish(context.Background(), tc.topic, payload, &tc.o)
			return err
		}, tc.field, limpet.ClassInput}, careless{"PublishBatch " + tc.field, func(f *carelessFixture) error {
			_, err := f.ready.PublishBatch(context.Background(), []limpet.Outgoing{{Topic: "a"}, {Topic: tc.topic, Payload: payload, PublishOptions: tc.o}})
			if err != nil && !strings.Contains(err.Error(), "message 1 of the batch") {
				return nil // which fails the row
			}
			return err
		}, tc.field, limpet.ClassInput})
	}
	return append(rows, careless{"PublishBatch of too many", func(f *carelessFixture) error {
		ms := make([]limpet.Outgoing, 5000)
		for i := range ms {
			ms[i].Topic = "a"
		}
		_, err := f.ready.PublishBatch(context.Background(), ms)
		return err
	}, "payload", limpet.ClassInput})
}

// carelessCalls are calls with a context that has ended or is nil, and calls to
// what was closed.
func carelessCalls() []careless {
	publish := func(c *limpet.Client, ctx context.Context) error {
		_, err := c.Publish(ctx, "a", []byte(canary), nil)
		return err
	}
	subscribe := func(c *limpet.Client, ctx context.Context) error {
		_, err := c.Subscribe(ctx, "a", nil)
		return err
	}
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		context.AfterFunc(ctx, cancel)
		return ctx
	}
	bg := context.Background()
	var none context.Context // nil
	return []careless{
		{"Publish, ctx cancelled", func(f *carelessFixture) error { return publish(f.ready, f.cancelled) }, "", limpet.ClassCanceled},
		{"Publish, ctx expired", func(f *carelessFixture) error { return publish(f.ready, f.expired) }, "", limpet.ClassTimeout},
		{"Publish, no room before ctx ends", func(f *carelessFixture) error { return publish(f.full, soon()) }, "", limpet.ClassFull},
		{"Publish, ctx cancelled, full", func(f *carelessFixture) error { return publish(f.full, f.cancelled) }, "", limpet.ClassCanceled},
		{"Publish, nil ctx", func(f *carelessFixture) error { return publish(f.ready, none) }, "ctx", limpet.ClassInput},
		{"Publish, closed", func(f *carelessFixture) error { return publish(f.closed, bg) }, "", limpet.ClassClosed},
		{"PublishBatch, closed", func(f *carelessFixture) error {
			_, err := f.closed.PublishBatch(bg, []limpet.Outgoing{{Topic: "a"}})
			return err
		}, "", limpet.ClassClosed},
		{"Send, nil ctx", func(f *carelessFixture) error { _, err := f.ready.Send(none, "a", nil, nil); return err }, "ctx", limpet.ClassInput},
		{"Subscribe, ctx cancelled", func(f *carelessFixture) error { return subscribe(f.ready, f.cancelled) }, "", limpet.ClassCanceled},
		{"Subscribe, nil ctx", func(f *carelessFixture) error { return subscribe(f.ready, none) }, "ctx", limpet.ClassInput},
		{"Subscribe, closed", func(f *carelessFixture) error { return subscribe(f.closed, bg) }, "", limpet.ClassClosed},
		{"WaitLive, closed", func(f *carelessFixture) error { return f.sub.WaitLive(bg) }, "", limpet.ClassClosed},
		{"WaitLive, nil ctx", func(f *carelessFixture) error { return f.sub.WaitLive(none) }, "ctx", limpet.ClassInput},
		{"Messages, nil ctx", func(f *carelessFixture) error {
			for _, err := range f.sub.Messages(none) {
				return err
			}
			return nil
		}, "ctx", limpet.ClassInput},
		{"Batches, nil ctx", func(f *carelessFixture) error {
			for _, err := range f.sub.Batches(none) {
				return err
			}
			return nil
		}, "ctx", limpet.ClassInput},
		{"WaitReady, ctx expired", func(f *carelessFixture) error { return f.full.WaitReady(f.expired) }, "", limpet.ClassTimeout},
		{"WaitReady, ctx cancelled", func(f *carelessFixture) error { return f.full.WaitReady(f.cancelled) }, "", limpet.ClassCanceled},
		{"WaitReady, closed", func(f *carelessFixture) error { return f.closed.WaitReady(bg) }, "", limpet.ClassClosed},
		{"WaitReady, nil ctx", func(f *carelessFixture) error { return f.ready.WaitReady(none) }, "ctx", limpet.ClassInput},
		{"WaitState, nil ctx", func(f *carelessFixture) error { _, err := f.ready.WaitState(none, nil); return err }, "ctx", limpet.ClassInput},
		{"WaitState, nil ok", func(f *carelessFixture) error { _, err := f.ready.WaitState(bg, nil); return err }, "ok", limpet.ClassInput},
		{"Flush, nil ctx", func(f *carelessFixture) error { return f.ready.Flush(none) }, "ctx", limpet.ClassInput},
		{"Shutdown, nil ctx", func(f *carelessFixture) error { return f.ready.Shutdown(none) }, "ctx", limpet.ClassInput},
		{"Dial, nil ctx", func(*carelessFixture) error {
			_, err := limpet.Dial(none, "wss://h", options(nil))
			return err
		}, "ctx", limpet.ClassInput},
	}
}
