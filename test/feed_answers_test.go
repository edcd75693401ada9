package test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire/feed"
	"github.com/limpet-go/limpet/wire/jsonrpc"
)

// A server that answers late was asked twice for a topic. Its subscription is closed and
// the topic subscribed again, while answers to the earlier requests are still to come:
// none of them makes the topic free before the server has finished with it.
func TestAnswersToARepeatedRequestOfAClosedSubscription(t *testing.T) {
	const refusedA = `{"type":"error","channel":"trades","symbol":"A","text":"not now"}`
	for name, tc := range map[string]struct {
		kind         string
		live         bool // the first request is confirmed before the close
		first, later []string
	}{
		"confirmed, refused":         {"ends", true, []string{subscribedA}, []string{alreadyA, tradeOfA, unsubscribedA}},
		"confirmed late, refused":    {"ends", false, nil, []string{subscribedA, alreadyA, tradeOfA, unsubscribedA}},
		"refused, confirmed":         {"ends", false, nil, []string{refusedA, subscribedA, tradeOfA, unsubscribedA}},
		"refused, confirmed, no end": {"each", false, nil, []string{refusedA, subscribedA}},
		"confirmed, refused, no end": {"each", true, []string{subscribedA}, []string{tradeOfA, alreadyA}},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := script(t, newVenue(t, tc.kind, false), func(say func(string), hear func() string) {
				hear()
				hear()
				for _, text := range tc.first {
					say(text)
				}
				hear() // the end
				time.Sleep(time.Second)
				for _, text := range tc.later {
					say(text)
					time.Sleep(time.Second)
				}
				hear()
				time.Sleep(time.Second)
				say(subscribedA)
				say(`{"type":"trade","symbol":"A","n":1,"life":2}`)
			})
			s := subscribe(t, c, "trades/A")
			if tc.live {
				if err := s.WaitLive(within(t, time.Minute)); err != nil {
					t.Fatal(err)
				}
			} else {
				time.Sleep(13 * time.Second)
			}
			s.Close()
			closed := time.Now()
			s = subscribe(t, c, "trades/A")
			if err := s.WaitLive(within(t, time.Minute)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			want := time.Duration(len(tc.later)+2) * time.Second
			got := collect(t, s, 1)
			synctest.Wait()
			if payloads(got) != `{"type":"trade","symbol":"A","n":1,"life":2}` || time.Since(closed) != want || s.State().Phase != limpet.SubLive {
				t.Errorf("%s: %s after %v, want it after %v; %+v", name, payloads(got), time.Since(closed), want, s.State())
			}
		})
	}
}

// An error that says that there is none is none, in a confirmation of a feed and in an
// answer of JSON-RPC.
func TestEmptyErrorIsNone(t *testing.T) {
	table := feed.Table{
		Name: "empty", Subscribe: feed.Request{JSON: `{"op":"subscribe","args":["$stream","..."],"id":"#id"}`}, ID: "id",
		Stream: "topic", StreamName: "channel.product", Channels: []feed.Channel{{Name: "t"}},
		Confirm: feed.Confirm{Type: "op=subscribe"}, Error: feed.ErrorMessage{Type: "error=*", Text: "error"},
	}
	for value, refused := range map[string]bool{`null`: false, `""`: false, `false`: false, `[]`: false, `{}`: false, `"no"`: true, `1`: true} {
		synctest.Test(t, func(t *testing.T) {
			_, c := tableClient(t, table, limpet.Options{}, func(_ int, request string, say func(string)) {
				if request != "" {
					say(fmt.Sprintf(`{"op":"subscribe","id":%d,"error":%s}`, parseRPC(t, request).ID, value))
				}
			})
			s := subscribe(t, c, "t/A")
			if err := s.WaitLive(within(t, time.Minute)); (err != nil) != refused {
				t.Errorf("a feed, %s: %v", value, err)
			}
		})
		synctest.Test(t, func(t *testing.T) {
			srv := newRPCServer(t, func(_ int, r rpcRequest) []string {
				return []string{fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":"0x1","error":%s}`, r.ID, value)}
			})
			c := srv.client(t, jsonrpc.Ethereum(), limpet.Options{})
			s := subscribe(t, c, "newHeads")
			if err := s.WaitLive(within(t, time.Minute)); (err != nil) != refused {
				t.Errorf("JSON-RPC, %s: %v", value, err)
			}
		})
	}
}

// A confirmation, or an end, that names a channel without a product is counted: what it was
// about is not known. One of a channel that is not in the table is not for this client.
func TestConfirmationWithoutAProduct(t *testing.T) {
	for text, want := range map[string]uint64{
		`{"event":"unsubscribe","arg":{"channel":"trades"}}`:          1,
		`{"event":"subscribe","arg":{"channel":"trades"}}`:            1,
		`{"event":"subscribe","arg":{"channel":"none","instId":"A"}}`: 0,
	} {
		synctest.Test(t, func(t *testing.T) {
			_, c := tableClient(t, feed.OKX(), limpet.Options{}, func(_ int, request string, say func(string)) {
				if request != "" {
					say(`{"event":"subscribe","arg":{"channel":"trades","instId":"A"}}`)
					say(text)
				}
			})
			subscribeLive(t, c, "trades/A", nil)
			synctest.Wait()
			if got := c.Stats(); got.Malformed != want || got.Connections != 1 {
				t.Errorf("%s: %d malformed, %d connections", text, got.Malformed, got.Connections)
			}
		})
	}
}
