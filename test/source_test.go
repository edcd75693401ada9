package test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
	"github.com/limpet-go/limpet/wire/raw"
)

// clockTable is a feed whose messages have the time of the server's clock.
func clockTable() feed.Table {
	return feed.Table{
		Name: "clock", Type: "type", Product: "p", Time: "at",
		Subscribe: feed.Request{JSON: `{"channels":["$channel"],"products":["$product"]}`},
		Channels:  []feed.Channel{{Name: "a", Types: []string{"news"}, Snapshots: []string{"all"}, Repeats: []string{"old"}}},
	}
}

// clockServer returns a subscription of a client whose server sends what is sent to the
// channel.
func clockServer(t *testing.T, o limpet.Options) (chan<- string, *limpet.Client, *limpet.Subscription) {
	t.Helper()
	texts := make(chan string, 300)
	_, c := tableClient(t, clockTable(), o, func(_ int, request string, say func(string)) {
		for request != "" {
			text, ok := <-texts
			if !ok {
				return
			}
			say(text)
		}
	})
	t.Cleanup(func() { close(texts) })
	return texts, c, subscribe(t, c, "a/x")
}

// news is a message that the server made before, by its clock.
func news(typ string, before time.Duration) string {
	return fmt.Sprintf(`{"type":%q,"p":"x","at":%d}`, typ, time.Now().Add(-before).UnixMilli())
}

// Source is from the server's time to the hand-over: the way to here, and the wait for the
// consumer.
func TestSourceTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		texts, c, s := clockServer(t, limpet.Options{Histograms: true})
		start := time.Now()
		texts <- news("news", 3*time.Second)
		synctest.Wait()
		time.Sleep(2 * time.Second) // the consumer is late, too
		m := collect(t, s, 1)[0]
		if got := m.Time(); !got.Equal(start.Add(-3*time.Second).Truncate(time.Millisecond)) || got.Location() != time.UTC {
			t.Errorf("the server's time is %v", got)
		}
		if h := c.Histograms(); h.Source.Count != 1 || h.Source.Sum.Round(time.Second) != 5*time.Second || h.Delivery.Sum.Round(time.Second) != 2*time.Second {
			t.Errorf("source %v, delivery %v", h.Source, h.Delivery)
		}

		texts <- news("news", -time.Hour) // the server's clock is ahead
		collect(t, s, 1)
		if h := c.Histograms(); h.Source.Count != 2 || h.Source.Sum.Round(time.Second) != 5*time.Second || h.Source.Buckets[0] != 1 {
			t.Errorf("from the future: source %v", h.Source)
		}
	})
}

// Snapshots, repeated messages and those without a time do not count.
func TestSourceTimeOfNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		texts, c, s := clockServer(t, limpet.Options{Histograms: true})
		for _, text := range []string{news("all", time.Hour), news("old", time.Hour), `{"type":"news","p":"x"}`, news("news", time.Minute)} {
			time.Sleep(time.Second)
			texts <- text
			m := collect(t, s, 1)[0]
			if m.Time().IsZero() != (text == `{"type":"news","p":"x"}`) {
				t.Errorf("%s has the time %v", text, m.Time())
			}
		}
		if h := c.Histograms(); h.Source.Count != 1 || h.Source.Sum.Round(time.Second) != time.Minute+4*time.Second || h.Delivery.Count != 4 {
			t.Errorf("source %v, delivery %v", h.Source, h.Delivery)
		}
	})
}

// Messages between two that are measured count as the later one, those with a time only.
func TestSourceTimeIsMeasuredSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		texts, c, s := clockServer(t, limpet.Options{Histograms: true})
		for i := range 200 {
			text := news("news", time.Minute)
			if i%2 == 1 {
				text = `{"type":"news","p":"x"}`
			}
			texts <- text
		}
		synctest.Wait()
		collect(t, s, 200)
		h := c.Histograms()
		if h.Source.Count > 100 || h.Source.Count < 100-64 || h.Source.Sum.Round(time.Second) != time.Duration(h.Source.Count)*time.Minute {
			t.Errorf("source %v, delivery %v", h.Source, h.Delivery)
		}
	})
}

// A feed that has times is not measured unless it is asked for.
func TestSourceTimeIsOptional(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		texts, c, s := clockServer(t, limpet.Options{})
		texts <- news("news", time.Minute)
		if m := collect(t, s, 1)[0]; time.Since(m.Time()).Round(time.Second) != time.Minute {
			t.Errorf("the server's time is %v", m.Time())
		}
		if h := c.Histograms(); h.Measured || h.Source.Count != 0 {
			t.Errorf("source %v", h.Source)
		}
	})
}

// A time that cannot be meant, such as one in a wrong unit, is none, in every dialect whose
// functions return times.
func TestTimesThatCannotBeMeant(t *testing.T) {
	for _, at := range []time.Time{time.Unix(1_700_000_000_000, 0), time.Date(1500, 1, 1, 0, 0, 0, 0, time.UTC)} {
		funcs, err := feed.NewFuncs(feed.Funcs{
			Name: "clock", Subscribe: func(feed.Ask) ([]byte, error) { return []byte("sub"), nil },
			Read: func(_ []byte, say func(feed.Item)) error {
				say(feed.Item{Kind: feed.Data, Topic: "t", Time: at})
				return nil
			},
		})
		assert.NoError(t, err)
		for _, dialect := range []wire.Dialect{funcs, raw.New(raw.Options{Topic: func(wire.Frame) raw.Label { return raw.Label{Topic: "t", Time: at} }})} {
			synctest.Test(t, func(t *testing.T) {
				srv := newToyServer(t, func(_ int, say func(string), _ func() string) {
					time.Sleep(time.Second)
					say("x")
				})
				c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: dialect}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				if m := collect(t, subscribe(t, c, "t"), 1)[0]; !m.Time().IsZero() {
					t.Errorf("%s: %v became %v", dialect.Name(), at, m.Time())
				}
			})
		}
	}
}
