package test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

func numberedTrade(n int) string {
	return fmt.Sprintf(`{"type":"trade","symbol":"A","n":%d}`, n)
}

// told is what a stream of numbered trades delivers within a minute: numbers, gaps and
// resets.
func told(t *testing.T, s *limpet.Subscription) string {
	t.Helper()
	text := ""
	for m, err := range s.Messages(within(t, time.Minute)) {
		switch {
		case err != nil:
			return text
		case m.Loss != nil:
			text += fmt.Sprintf("%v(%d,%d] ", m.Kind, m.Loss.After.Offset, m.Loss.To.Offset)
		default:
			text += fmt.Sprintf("%d ", m.Position.Offset)
		}
	}
	return text
}

// The first number after a break shows whether the feed began again. Then its messages
// are no repeats.
func TestFeedThatBeginsAgain(t *testing.T) {
	for _, tc := range []struct {
		number, before int
		want           string
	}{
		{101, 0, "99 100 101 102 "},
		{150, 0, "99 100 gap(100,149] 150 151 "},
		{100, 0, "99 100 101 "},
		{99, 0, "99 100 reset(100,98] 99 100 "},
		{1, 0, "99 100 reset(100,0] 1 2 "},
		{0, 0, "99 100 reset(100,0] 0 1 "},
		{97, 3, "99 100 "},
		{96, 3, "99 100 reset(100,95] 96 97 "},
	} {
		// The break: a new connection, or an end by the server, or both, where the server
		// does not answer at first.
		for _, way := range []string{"connection", "end", "silence"} {
			synctest.Test(t, func(t *testing.T) {
				v := newVenue(t, "ends", true)
				v.table.Channels[0].Replay = uint64(tc.before)
				conns := 0
				again := func(say func(string)) {
					say(subscribedA)
					say(numberedTrade(tc.number))
					say(numberedTrade(tc.number + 1))
				}
				c := script(t, v, func(say func(string), hear func() string) {
					hear()
					conns++
					switch {
					case conns == 1:
						say(subscribedA)
						say(numberedTrade(99))
						say(numberedTrade(100))
						if way == "end" {
							time.Sleep(time.Second)
							say(unsubscribedA)
							hear()
							again(say)
						}
					case way == "silence" && conns == 2:
					default:
						again(say)
					}
				})
				s := subscribeLive(t, c, "trades/A", nil)
				time.Sleep(time.Second)
				if way != "end" {
					v.host.Network.CutAll()
				}
				if way == "silence" {
					time.Sleep(11 * time.Second)
					v.host.Network.CutAll()
				}
				if got := told(t, s); got != tc.want {
					t.Errorf("%s, %d after 100 with replay %d: %s; want %s; %+v", way, tc.number, tc.before, got, tc.want, s.Stats())
				}
			})
		}
	}
}

// Without confirmations a subscription is live once it was asked for: a hole in the
// numbers of the connection is a Reset for it, also before its first message.
func TestHoleBeforeTheFirstMessage(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			v := newVenue(t, "nothing", false)
			v.table.Sequence = "n"
			v.host = newToyServer(t, func(_ int, say func(string), hear func() string) {
				hear()
				if late {
					hear()
				}
				say(numberedTrade(1))
				time.Sleep(time.Second)
				say(`{"type":"trade","symbol":"B","n":3}`) // 2 may have been for B
				say(`{"type":"trade","symbol":"B","n":4}`)
			}).host
			v.host.Inject(limpettest.Stall(time.Second)) // so that the first request names both
			c := v.dial(t, nil)
			a := subscribe(t, c, "trades/A")
			if late {
				if err := a.WaitLive(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			b := subscribe(t, c, "trades/B")
			for s, want := range map[*limpet.Subscription]string{a: "0 reset(0,0] ", b: "reset(0,0] 0 0 "} {
				if got := told(t, s); got != want {
					t.Errorf("late %v, %v: %s; want %s", late, s, got, want)
				}
			}
		})
	}
}
