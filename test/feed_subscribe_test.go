package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/feed"
	"nhooyr.io/websocket"
)

// tickers answers every request with the list of what is subscribed, as
// Coinbase does, and a new ticker subscription with one ticker.
func tickers(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	say := func(text string) { ws.Write(context.Background(), websocket.MessageText, []byte(text)) }
	var live []string
	for n := 1; ; n++ {
		_, text, err := ws.Read(context.Background())
		if err != nil {
			return
		}
		var m struct {
			Type     string   `json:"type"`
			Products []string `json:"product_ids"`
		}
		if json.Unmarshal(text, &m) != nil {
			return
		}
		live = nil
		if m.Type == "subscribe" {
			live = m.Products
		}
		say(confirmation(live, "ticker"))
		for _, product := range live {
			say(fmt.Sprintf(`{"type":"ticker","product_id":"%s","request":%d}`, product, n))
		}
	}
}

// A topic that was closed can be subscribed again at once. The server's
// confirmation of the end of the old subscription must not end the new one.
func TestFeedTopicAgainOnOneConnection(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			dialect, err := feed.New(feed.Coinbase())
			if err != nil {
				t.Fatal(err)
			}
			host := limpettest.NewHandler(t, http.HandlerFunc(tickers), nil)
			c, err := limpet.Dial(context.Background(), host.URL(), options(&limpet.Options{Dialect: dialect, HTTPClient: host.HTTPClient()}))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closeAndWait(t, c) })
			for round := range 3 {
				s := subscribeLive(t, c, "ticker/A", nil)
				if got, want := payloads(collect(t, s, 1)), fmt.Sprintf(`{"type":"ticker","product_id":"A","request":%d}`, 2*round+1); got != want {
					t.Errorf("round %d: got %s, want %s and no reset", round, got, want)
				}
				if st := s.State(); st.Phase != limpet.SubLive || st.Generation != 1 {
					t.Errorf("round %d: %+v, want it live on the first connection", round, st)
				}
				s.Close()
				time.Sleep(pause)
			}
			if _, err := c.Publish(context.Background(), "ticker/A", nil, nil); !errors.Is(err, limpet.ErrUnsupported) {
				t.Errorf("publish: %v, want ErrUnsupported", err)
			}
			if _, err := c.Subscribe(context.Background(), "none/A", nil); !errors.Is(err, limpet.ErrTopic) {
				t.Errorf("an unknown channel: %v, want ErrTopic", err)
			}
		})
	}
}
