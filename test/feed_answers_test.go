package test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
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
