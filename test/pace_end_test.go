package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
)

// Close does not wait for what waits, and Shutdown sends it.
func TestEndWhileRequestsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 5)
		c := g.client(t, g.language(wire.ConnectionLimits{Messages: 5}), limpet.Options{})
		allLive(t, subscribeAll(t, c, 100)[:5], 1, 10*time.Second)
		began := time.Now()
		closeAndWait(t, c)
		if d := time.Since(began); d > 200*time.Millisecond {
			t.Errorf("Close took %v", d)
		}
		c = g.client(t, g.language(wire.ConnectionLimits{Messages: 5}), limpet.Options{})
		subs := subscribeAll(t, c, 10)
		allLive(t, subs, 1, 10*time.Second)
		var written atomic.Int32
		for range 20 {
			if _, err := c.Publish(t.Context(), "t0", []byte("x"), &limpet.PublishOptions{Done: func(r *limpet.Receipt) {
				if r.Outcome() == limpet.Written {
					written.Add(1)
				}
			}}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		if err := c.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if n := len(g.sent("unsub")); n != 10 || written.Load() != 20 {
			t.Errorf("%d ends were sent, %d messages written", n, written.Load())
		}
		c = g.client(t, g.language(wire.ConnectionLimits{Messages: 5}), limpet.Options{})
		allLive(t, subscribeAll(t, c, 10), 1, 10*time.Second)
		if err := c.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if n := len(g.sent("unsub")); n != 20 {
			t.Errorf("%d ends were sent by both clients, want 20", n)
		}
		g.check(t, 3)
	})
}

// A topic that was closed is asked for again only when its end was written and confirmed,
// however long it waited to be written.
func TestEndsThatWaitHaveTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge(t, 30)
		g.per, g.lag = time.Minute, 6*time.Second
		c := g.client(t, g.language(wire.ConnectionLimits{Messages: 30, Per: time.Minute}), limpet.Options{})
		subs := subscribeAll(t, c, 30)
		allLive(t, subs, 1, 3*time.Minute)
		for _, s := range subs {
			s.Close()
		}
		again := subscribe(t, c, "t29") // its end is the last
		if err := again.WaitLive(within(t, 3*time.Minute)); err != nil {
			t.Fatal(err)
		}
		ends, asked := g.sent("unsub t29"), g.sent("sub t29")
		if len(ends) != 1 || len(asked) != 2 || asked[1].at.Before(ends[0].at.Add(g.lag)) {
			t.Errorf("the end: %v; the requests: %v", ends, asked)
		}
		g.check(t, 1)
	})
}

// Where the first texts take minutes, pings and the answers to the server's come between
// them, also if the server asks all the time: then the texts have their turns.
func TestSignsOfLifeComeBetweenTheFirstTexts(t *testing.T) {
	for name, row := range map[string]struct {
		every, within time.Duration // of the server's questions
		texts, pings  int           // at least, within ten minutes
	}{"from time to time": {20 * time.Second, 3 * time.Second, 120, 20}, "all the time": {700 * time.Millisecond, time.Hour, 20, 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGauge(t, 1)
				var asked []time.Time
				g.greet = func(say func(byte, string)) {
					go func() {
						for end := time.Now().Add(570 * time.Second); time.Now().Before(end); time.Sleep(row.every) {
							g.mu.Lock()
							asked = append(asked, time.Now())
							g.mu.Unlock()
							say(opText, "question")
						}
					}()
				}
				c := g.clientOf(t, raw.New(raw.Options{
					Limits: wire.ConnectionLimits{Messages: 1}, Ping: "ping", Pong: "pong",
					OnOpen: func(wire.Resume) (texts [][]byte) {
						for i := range 120 {
							texts = append(texts, fmt.Appendf(nil, "first %d", i))
						}
						return texts
					},
					Answer: func(f wire.Frame) []byte {
						if string(f.Data) == "question" {
							return []byte("answer")
						}
						return nil
					},
				}), limpet.Options{})
				subscribe(t, c, "*")
				time.Sleep(10 * time.Minute)
				g.check(t, 1)
				texts, answers, pings := g.sent("first"), g.sent("answer"), g.sent("ping")
				if len(texts) < row.texts || len(pings) < row.pings {
					t.Errorf("%d texts, %d pings", len(texts), len(pings))
				}
				for i, l := range texts {
					if l.text != fmt.Sprintf("first %d", i) {
						t.Fatalf("%q at place %d", l.text, i)
					}
				}
				g.mu.Lock()
				defer g.mu.Unlock()
				for i, l := range answers {
					if d := l.at.Sub(asked[i]); d > row.within {
						t.Errorf("answered after %v", d)
					}
				}
			})
		})
	}
}

// named is a dialect whose server refuses a subscription with the rest of a text after "refuse ".
type named struct{ wire.Dialect }

func (d named) Open(r wire.Resume) (wire.Codec, error) {
	c, err := d.Dialect.Open(r)
	return namedCodec{c}, err
}

type namedCodec struct{ wire.Codec }

func (c namedCodec) Decode(f wire.Frame, out *wire.Events) error {
	how, text, _ := strings.Cut(string(f.Data), " ")
	switch how {
	case "named":
		e := out.Append(wire.EventUnsubscribed)
		e.Name, _, _ = strings.Cut(text, " ")
		e.Code, e.Reason = 404, text
	case "nameless":
		e := out.Append(wire.EventError)
		e.Code, e.Reason = 404, text
	default:
		return c.Codec.Decode(f, out)
	}
	return nil
}

// The name of a topic is no complaint of the server that the client sends too much.
func TestTopicIsNoComplaint(t *testing.T) {
	for _, how := range []string{"named", "nameless"} {
		for _, topic := range []string{"flood-warnings", "Throttle/7", "rate_limit"} {
			t.Run(how+" "+topic, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := newToyServer(t, func(_ int, say func(string), hear func() string) {
						for text := hear(); text != ""; text = hear() {
							var n note
							json.Unmarshal([]byte(text), &n)
							switch {
							case n.Op == "sub":
								say(how + " " + topic + " is unknown")
							case n.Op == "pub" && n.Topic == topic:
								say(noteText(note{ID: n.ID, OK: &no, Text: topic + " is unknown"}))
							}
						}
					})
					c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: named{ownDialect(t, nil)}}))
					assert.NoError(t, err)
					defer closeAndWait(t, c)
					for range 10 {
						_, err := c.Publish(t.Context(), "x", nil, nil)
						assert.NoError(t, err)
					}
					if _, err := c.Send(t.Context(), topic, nil, nil); !errors.Is(err, limpet.ErrRejected) {
						t.Errorf("%v", err)
					}
					s := subscribe(t, c, topic)
					if err := s.WaitLive(within(t, time.Minute)); !errors.Is(err, limpet.ErrRejected) {
						t.Errorf("%v", err)
					}
					if p := c.Stats().SendPace; p != 0 {
						t.Errorf("the pace is %v", p)
					}
				})
			})
		}
	}
}
