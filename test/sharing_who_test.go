package test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
	"github.com/limpet-go/limpet/wire/graphqlws"
	"github.com/limpet-go/limpet/wire/jsonrpc"
	"github.com/limpet-go/limpet/wire/native"
	"github.com/limpet-go/limpet/wire/raw"
	"github.com/limpet-go/limpet/wire/socketio"
	"github.com/limpet-go/limpet/wire/stomp"
)

func traitsWith(change func(*wire.Traits)) wire.Traits {
	t := byName
	change(&t)
	return t
}

// What a second subscription to a topic asks for decides whether it shares the first one. The error
// says what stands in the way, and what to do.
func TestWhoMayShare(t *testing.T) {
	none := func(*stateScene) {}
	for name, tc := range map[string]struct {
		traits        wire.Traits
		first, second limpet.SubscribeOptions
		before        func(*stateScene)
		field, text   string // of the error; "": it is shared
	}{
		"nothing special":                  {byName, limpet.SubscribeOptions{}, limpet.SubscribeOptions{}, none, "", ""},
		"a server that confirms nothing":   {wire.Traits{}, limpet.SubscribeOptions{}, limpet.SubscribeOptions{}, none, "", ""},
		"another way to deliver":           {byName, limpet.SubscribeOptions{}, limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.Latest, Every: time.Second}, Priority: 3, ManualAck: true}, none, "", ""},
		"the same token":                   {byName, limpet.SubscribeOptions{Token: "t"}, limpet.SubscribeOptions{Token: "t"}, none, "", ""},
		"another token":                    {byName, limpet.SubscribeOptions{Token: "t"}, limpet.SubscribeOptions{Token: "canary"}, none, "SubscribeOptions.Token", "use the same one"},
		"a token after none":               {byName, limpet.SubscribeOptions{}, limpet.SubscribeOptions{Token: "canary"}, none, "SubscribeOptions.Token", "use the same one"},
		"messages came":                    {byName, limpet.SubscribeOptions{}, limpet.SubscribeOptions{}, func(s *stateScene) { s.say(tick("1")) }, "", ""},
		"a snapshot came":                  {byName, limpet.SubscribeOptions{}, limpet.SubscribeOptions{}, func(s *stateScene) { s.say(snapshot("1")) }, "topic", "begin with a snapshot"},
		"a snapshot came, then a message":  {byName, limpet.SubscribeOptions{}, limpet.SubscribeOptions{}, func(s *stateScene) { s.say(snapshot("1")); s.say(tick("2")) }, "topic", "begin with a snapshot"},
		"acknowledgements of each message": {traitsWith(func(t *wire.Traits) { t.Processed = wire.ProcessedEach }), limpet.SubscribeOptions{}, limpet.SubscribeOptions{}, none, "topic", "acknowledgements"},
		"acknowledgements of the last one": {traitsWith(func(t *wire.Traits) { t.Processed = wire.ProcessedCumulative }), limpet.SubscribeOptions{}, limpet.SubscribeOptions{}, none, "topic", "acknowledgements"},
		"credit":                           {traitsWith(func(t *wire.Traits) { t.Credit = true }), limpet.SubscribeOptions{}, limpet.SubscribeOptions{}, none, "topic", "room"},
		"positions":                        {traitsWith(func(t *wire.Traits) { t.Resume = true }), limpet.SubscribeOptions{}, limpet.SubscribeOptions{From: limpet.FromFirst}, none, "topic", "goes on after the last message"},
		"kept in the session":              {traitsWith(func(t *wire.Traits) { t.ConfirmsEnd, t.KeepsSubs, t.Greeting, t.StartSubs = false, true, true, 9 }), limpet.SubscribeOptions{}, limpet.SubscribeOptions{}, none, "topic", "goes on after the last message"},
		"missing numbers are faults":       {traitsWith(func(t *wire.Traits) { t.Holes = wire.HolesFault }), limpet.SubscribeOptions{}, limpet.SubscribeOptions{}, none, "topic", "promises"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, tc.traits, &tc.first)
				if !tc.traits.Greeting {
					s.reach(limpet.SubLive)
				}
				tc.before(s)
				synctest.Wait()
				memory := s.c.Stats().Memory
				second, err := s.c.Subscribe(t.Context(), "a", &tc.second)
				if tc.field == "" {
					assert.NoError(t, err)
					assert.NoError(t, second.WaitLive(within(t, time.Second)))
					if n := strings.Count(s.srv.all(), "subscribe a"); n != 1 || len(s.c.Subscriptions()) != 2 {
						t.Errorf("%d requests, %d subscriptions", n, len(s.c.Subscriptions()))
					}
					return
				}
				var e *limpet.Error
				if !errors.Is(err, limpet.ErrDuplicate) || !errors.As(err, &e) || e.Field != tc.field || !strings.Contains(e.Error(), tc.text) || limpet.Retryable(err) {
					t.Errorf("%v", err)
				}
				synctest.Wait()
				if strings.Contains(fmt.Sprint(err), "canary") || len(s.c.Subscriptions()) != 1 || s.c.Stats().Memory > memory {
					t.Errorf("%v, %d subscriptions, %d bytes", err, len(s.c.Subscriptions()), s.c.Stats().Memory)
				}
			})
		})
	}
}

// The dialects: which of them share. A topic that is shared has one place at the server.
func TestWhichDialectsShare(t *testing.T) {
	tables := func(table feed.Table) wire.Dialect {
		d, err := feed.New(table)
		assert.NoError(t, err)
		return d
	}
	offline := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("offline") })}
	for name, tc := range map[string]struct {
		dialect wire.Dialect
		topic   string
		want    error
	}{
		"coinbase":  {tables(feed.Coinbase()), "ticker/BTC-USD", nil},
		"binance":   {tables(feed.Binance()), "trade/BTCUSDT", nil},
		"bitstamp":  {tables(feed.Bitstamp()), "live_trades/btcusd", nil},
		"bybit":     {tables(feed.Bybit()), "publicTrade/BTCUSDT", nil},
		"kraken":    {tables(feed.Kraken()), "trade/BTC/USD", nil},
		"okx":       {tables(feed.OKX()), "tickers/BTC-USDT", nil},
		"raw":       {raw.New(raw.Options{}), "*", nil},
		"socket.io": {socketio.New(socketio.Options{}), "news", limpet.ErrDuplicate},
		"limpet.v1": {native.New(nil), "a", limpet.ErrTooManySubscriptions}, // each has its own
		"stomp":     {stomp.New(stomp.Options{}), "/topic/a", limpet.ErrTooManySubscriptions},
		"graphql":   {graphqlws.New(graphqlws.Options{}), "subscription { a }", limpet.ErrTooManySubscriptions},
		"json-rpc":  {jsonrpc.New(jsonrpc.Options{}), "newHeads", limpet.ErrTooManySubscriptions},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := limpet.New("wss://limpet.invalid", options(&limpet.Options{Dialect: tc.dialect, Limits: wire.ConnectionLimits{Subscriptions: 1}, HTTPClient: offline}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			_, err = c.Subscribe(t.Context(), tc.topic, nil)
			assert.NoError(t, err)
			if _, err := c.Subscribe(t.Context(), tc.topic, nil); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
		})
	}
}
