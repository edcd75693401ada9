package test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// eventDialect is a language whose frames are events in JSON: a test says what a
// dialect may decode. Its server hears from where each subscription resumes.
type eventDialect struct{ traits wire.Traits }

func (eventDialect) Name() string                               { return "events" }
func (d eventDialect) Traits() wire.Traits                      { return d.traits }
func (eventDialect) CheckTopic(wire.Use, string) error          { return nil }
func (eventDialect) Attempt(a *wire.Attempt) error              { a.Dial = true; return nil }
func (d eventDialect) Open(r wire.Resume) (wire.Codec, error)   { return eventCodec{r}, nil }
func (eventDialect) Verdict(wire.Failure) (none wire.Verdict)   { return none }
func (c eventCodec) Encode(ops []wire.Op, _ *wire.Frames) error { return nil }

type eventCodec struct{ r wire.Resume }

func (c eventCodec) Start(out *wire.Frames) error {
	text := "hello"
	for _, s := range c.r.Subs {
		text += fmt.Sprintf(" %s/%d/%s", s.Position.Epoch, s.Position.Offset, s.Position.Tag)
	}
	out.Append(wire.Text, []byte(text))
	return nil
}

func (c eventCodec) Decode(f wire.Frame, out *wire.Events) error {
	var e wire.Event
	if err := json.Unmarshal(f.Data, &e); err != nil {
		return err
	}
	*out.Append(e.Kind) = e
	return nil
}

func eventText(e wire.Event) string {
	text, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// eventServer sends the events of the nth connection, to a client with one
// subscription.
func eventServer(t *testing.T, traits wire.Traits, conns ...[]wire.Event) (*toyServer, *limpet.Client, *limpet.Subscription) {
	srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
		hear()
		for _, e := range conns[min(conn, len(conns))-1] {
			e.Key = 1
			say(eventText(e))
		}
	})
	srv.host.Inject(limpettest.Stall(time.Millisecond)) // so that the first connection carries the subscription
	traits.StartSubs, traits.Confirms = 10, true
	c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: eventDialect{traits}}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	s, err := c.Subscribe(context.Background(), "topic", nil)
	if err != nil {
		t.Fatal(err)
	}
	return srv, c, s
}

func dataAt(epoch string, prev, offset uint64) wire.Event {
	return wire.Event{Kind: wire.EventData, Numbered: true, Prev: prev, Position: wire.Position{Epoch: epoch, Offset: offset, Tag: "t"}}
}

func subscribedAt(c wire.Continuity, epoch string, offset uint64) wire.Event {
	return wire.Event{Kind: wire.EventSubscribed, Continuity: c, Position: wire.Position{Epoch: epoch, Offset: offset, Tag: "t"}}
}

// story tells what a consumer got: numbers of messages, and losses.
func story(ms []limpet.Message) string {
	var words []string
	for _, m := range ms {
		switch {
		case m.Loss != nil:
			words = append(words, fmt.Sprintf("%s(%d,%d]x%d:%s", m.Kind, m.Loss.After.Offset, m.Loss.To.Offset, m.Loss.Count, m.Loss.Cause))
		default:
			words = append(words, fmt.Sprintf("%s%d", m.Position.Epoch, m.Position.Offset))
		}
	}
	return strings.Join(words, " ")
}

// TestOwnPositionIsNotRefused: whatever a position came from, the client takes it for
// its own when a server proves continuity there.
func TestOwnPositionIsNotRefused(t *testing.T) {
	for _, row := range []struct {
		name          string
		first, second []wire.Event
		resumed, want string
	}{
		{"an epoch in data, none in the confirmation",
			[]wire.Event{subscribedAt(wire.ContinuityByNumber, "", 0), dataAt("e", 8, 9)},
			[]wire.Event{subscribedAt(wire.ContinuityProved, "e", 9), dataAt("e", 9, 10)}, "e/9/t", "e9 e10"},
		{"data before any confirmation",
			[]wire.Event{dataAt("e", 8, 9)},
			[]wire.Event{subscribedAt(wire.ContinuityProved, "e", 9), dataAt("", 9, 10)}, "e/9/t", "e9 e10"},
		{"data before a confirmation without an epoch",
			[]wire.Event{dataAt("e", 8, 9), subscribedAt(wire.ContinuityNone, "", 9)},
			[]wire.Event{subscribedAt(wire.ContinuityProved, "e", 9), dataAt("e", 9, 10)}, "e/9/t", "e9 e10"},
		{"data before the confirmation of another position",
			[]wire.Event{dataAt("e", 8, 9), subscribedAt(wire.ContinuityNone, "f", 2)},
			[]wire.Event{subscribedAt(wire.ContinuityProved, "f", 9), dataAt("f", 9, 10)}, "f/9/t", "e9 reset(9,9]x0:epoch f10"},
		{"another epoch within a connection",
			[]wire.Event{subscribedAt(wire.ContinuityNone, "e", 8), dataAt("e", 8, 9), dataAt("f", 1, 2)},
			[]wire.Event{subscribedAt(wire.ContinuityProved, "f", 2), dataAt("f", 2, 3)}, "f/2/t", "e9 reset(9,1]x0:epoch f2 f3"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, c, s := eventServer(t, wire.Traits{ByKey: true, Resume: true}, row.first, row.second)
				words := strings.Fields(row.want)
				got := story(collect(t, s, len(words)-1))
				synctest.Wait()
				srv.host.Network.CutAll()
				if got += " " + story(collect(t, s, 1)); got != row.want {
					t.Errorf("got %q, want %q", got, row.want)
				}
				if !strings.Contains(srv.all(), row.resumed) {
					t.Errorf("the client resumed at %s, want %s", srv.all(), row.resumed)
				}
				if n := c.Stats().Connections; n != 2 {
					t.Errorf("%d connections: %v", n, c.State().Cause)
				}
			})
		})
	}
}

// TestMessageWithoutNumberMovesNothing: a message without a number has no place in a
// numbered stream, for the next connection and for the consumer.
func TestMessageWithoutNumberMovesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _, s := eventServer(t, wire.Traits{ByKey: true, Resume: true},
			[]wire.Event{subscribedAt(wire.ContinuityNone, "e", 8), dataAt("", 8, 9), {Kind: wire.EventData}},
			[]wire.Event{subscribedAt(wire.ContinuityProved, "e", 9), dataAt("", 9, 10)})
		ms := collect(t, s, 2)
		if want := (limpet.Position{Epoch: "e", Offset: 9, Tag: "t"}); ms[1].Position != want {
			t.Errorf("the message without a number is at %v, want %v", ms[1].Position, want)
		}
		synctest.Wait()
		srv.host.Network.CutAll()
		if got := story(collect(t, s, 1)); got != "e10" || !strings.Contains(srv.all(), "e/9/t") {
			t.Errorf("got %s after %s", got, srv.all())
		}
	})
}

// TestBreakWithoutNumbersIsAReset: neither a confirmation that leaves the proof to
// numbers nor none at all proves anything to messages without numbers.
func TestBreakWithoutNumbersIsAReset(t *testing.T) {
	plain := wire.Event{Kind: wire.EventData}
	for name, conns := range map[string][2][]wire.Event{
		"numbers before":                {{subscribedAt(wire.ContinuityNone, "e", 8), dataAt("", 8, 9)}, {subscribedAt(wire.ContinuityByNumber, "", 0), plain}},
		"none at all":                   {{subscribedAt(wire.ContinuityByNumber, "", 0), plain}, {subscribedAt(wire.ContinuityByNumber, "", 0), plain}},
		"none, no confirmation":         {{plain}, {plain}},
		"message first, then confirmed": {{plain}, {subscribedAt(wire.ContinuityNone, "", 0), plain}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, _, s := eventServer(t, wire.Traits{ByKey: true}, conns[0], conns[1])
				collect(t, s, 1)
				synctest.Wait()
				srv.host.Network.CutAll()
				if ms := collect(t, s, 2); ms[0].Kind != limpet.Reset || ms[0].Loss.Cause != limpet.CauseUnverifiable || ms[1].Kind != limpet.Data {
					t.Errorf("got %s", story(ms))
				}
			})
		})
	}
}

// TestBreakBeforeAnyMessageIsAReset: without confirmations a subscription is live once it
// was asked for. What came and went before the next connection is not known.
func TestBreakBeforeAnyMessageIsAReset(t *testing.T) {
	for _, e := range []wire.Event{{Kind: wire.EventData}, dataAt("e", 8, 9)} {
		synctest.Test(t, func(t *testing.T) {
			srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
				hear()
				if e.Key = 1; conn > 1 {
					say(eventText(e))
				}
			})
			srv.host.Inject(limpettest.Stall(time.Millisecond))
			c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(),
				Dialect: eventDialect{wire.Traits{ByKey: true, StartSubs: 1}}}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			s := subscribeLive(t, c, "topic", nil)
			synctest.Wait()
			srv.host.Network.CutAll()
			if ms := collect(t, s, 2); ms[0].Kind != limpet.Reset || ms[0].Loss.Cause != limpet.CauseUnverifiable || ms[1].Kind != limpet.Data {
				t.Errorf("got %s", story(ms))
			}
		})
	}
}

// TestConfirmationBeyondThePosition: a server that goes on after messages that the
// client did not receive has lost them.
func TestConfirmationBeyondThePosition(t *testing.T) {
	first := []wire.Event{subscribedAt(wire.ContinuityNone, "e", 8), dataAt("", 8, 9)}
	t.Run("holes are losses", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv, c, s := eventServer(t, wire.Traits{ByKey: true, Resume: true}, first,
				[]wire.Event{subscribedAt(wire.ContinuityProved, "e", 12)})
			collect(t, s, 1)
			synctest.Wait()
			srv.host.Network.CutAll()
			if got := story(collect(t, s, 1)); got != "gap(9,12]x3:lost" || c.Stats().Connections != 2 {
				t.Errorf("got %s on %d connections", got, c.Stats().Connections)
			}
		})
	})
	t.Run("holes are faults", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv, c, s := eventServer(t, wire.Traits{ByKey: true, Holes: wire.HolesFault, Resume: true}, first,
				[]wire.Event{subscribedAt(wire.ContinuityProved, "e", 12)},
				[]wire.Event{subscribedAt(wire.ContinuityProved, "e", 9), dataAt("", 9, 10)})
			collect(t, s, 1)
			synctest.Wait()
			srv.host.Network.CutAll()
			if got := story(collect(t, s, 1)); got != "e10" || c.Stats().Connections != 3 {
				t.Errorf("got %s on %d connections", got, c.Stats().Connections)
			}
		})
	})
}
