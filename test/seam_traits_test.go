package test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// flexDialect is a dialect whose server sends events in JSON, as eventDialect does, and
// hears each op as a line. Open says with which session and state.
type flexDialect struct {
	traits wire.Traits
	encode func(op wire.Op, out *wire.Frames) error // nil: nothing special
}

func (flexDialect) Name() string                             { return "flex" }
func (d flexDialect) Traits() wire.Traits                    { return d.traits }
func (flexDialect) CheckTopic(wire.Use, string) error        { return nil }
func (flexDialect) Attempt(a *wire.Attempt) error            { a.Dial = true; return nil }
func (flexDialect) Verdict(wire.Failure) (none wire.Verdict) { return none }

func (d flexDialect) Open(r wire.Resume) (wire.Codec, error) { return flexCodec{r: r, d: d}, nil }

// errNoFrame is what encode returns for an op that needs no frame.
var errNoFrame = errors.New("no frame")

type flexCodec struct {
	eventCodec
	r wire.Resume
	d flexDialect
}

func (c flexCodec) Start(out *wire.Frames) error {
	out.Append(wire.Text, fmt.Appendf(nil, "open %q", c.r.Session.ID))
	return nil
}

func (c flexCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	for i, op := range ops {
		if c.d.encode != nil {
			switch err := c.d.encode(op, out); {
			case err == errNoFrame:
				continue
			case err != nil:
				return &wire.OpError{Index: i, Err: err}
			}
		}
		text := fmt.Sprintf("op %d", op.Kind)
		switch op.Kind {
		case wire.OpSubscribe:
			text = "subscribe " + op.Topic
		case wire.OpPublish:
			text = fmt.Sprintf("publish %d %s", op.Message.Seq, op.Message.Payload)
		case wire.OpStep:
			text = fmt.Sprintf("step %v", op.Step)
		case wire.OpUnsubscribe:
			text = "unsubscribe " + op.Topic
		}
		out.Append(wire.Text, []byte(text))
	}
	return nil
}

// flexServer sends the events of the nth connection after the first frame, and a client
// of it.
func flexServer(t *testing.T, d flexDialect, conns ...[]wire.Event) (*toyServer, *limpet.Client) {
	srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
		hear()
		for _, e := range conns[min(conn, len(conns))-1] {
			say(eventText(e))
		}
	})
	c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	return srv, c
}

func readyEvent(r wire.Ready) wire.Event { return wire.Event{Kind: wire.EventReady, Ready: &r} }

// Nothing is written after a fatal error: what is published is sent on the next
// connection. A server that stays open is left at once.
func TestNothingFollowsAFatalError(t *testing.T) {
	for _, staysOpen := range []bool{false, true} {
		t.Run(fmt.Sprint(staysOpen), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := flexDialect{traits: wire.Traits{Publish: true, Acks: true, Greeting: true, ErrorStaysOpen: staysOpen}}
				srv, c := flexServer(t, d, []wire.Event{readyEvent(wire.Ready{}), {Kind: wire.EventError, Fatal: true, Reason: "go away"}}, []wire.Event{readyEvent(wire.Ready{})})
				assert.NoError(t, c.WaitReady(t.Context()))
				synctest.Wait()
				began := time.Now()
				r, err := c.Publish(t.Context(), "a", []byte("late"), nil)
				assert.NoError(t, err)
				for c.State().Generation != 2 || c.State().Phase != limpet.Ready {
					if !staysOpen && time.Since(began) < 900*time.Millisecond && strings.Contains(srv.all(), "late") {
						t.Fatal("sent after the fatal error")
					}
					time.Sleep(10 * time.Millisecond)
				}
				synctest.Wait()
				if r.Outcome() != limpet.Pending || strings.Count(srv.all(), "publish 1 late") != 1 {
					t.Errorf("outcome %v\n%s", r.Outcome(), srv.all())
				}
				if _, after, _ := strings.Cut(srv.all(), "publish 1 late"); strings.Contains(after, "open") {
					t.Errorf("sent on the first connection:\n%s", srv.all())
				}
			})
		})
	}
}

// A server that leaves the connection open after a fatal error does not cost a second.
func TestErrorStaysOpen(t *testing.T) {
	for staysOpen, want := range map[bool]time.Duration{false: time.Second, true: 0} {
		synctest.Test(t, func(t *testing.T) {
			d := flexDialect{traits: wire.Traits{Greeting: true, ErrorStaysOpen: staysOpen}}
			_, c := flexServer(t, d, []wire.Event{readyEvent(wire.Ready{}), {Kind: wire.EventError, Fatal: true, Reason: "go away"}}, []wire.Event{readyEvent(wire.Ready{})})
			began := time.Now()
			for c.State().Phase != limpet.Waiting {
				time.Sleep(time.Millisecond)
			}
			if took := time.Since(began).Round(100 * time.Millisecond); took != want {
				t.Errorf("stays open %v: left after %v, want %v", staysOpen, took, want)
			}
		})
	}
}

// The session that a server states during a connection is that of the next Open, with
// and without a greeting.
func TestSessionThatMoves(t *testing.T) {
	for _, greeting := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			moved := func(id string) wire.Event {
				return wire.Event{Kind: wire.EventSession, Ready: &wire.Ready{Session: wire.Session{ID: id}}}
			}
			first := []wire.Event{moved("s2"), moved("s3")}
			if greeting {
				first = append([]wire.Event{readyEvent(wire.Ready{Session: wire.Session{ID: "s1"}})}, first...)
			}
			srv, c := flexServer(t, flexDialect{traits: wire.Traits{Greeting: greeting}}, first, nil)
			time.Sleep(time.Second)
			srv.host.Network.Strike(limpettest.CutAfterBytes(limpettest.Down, 0))
			time.Sleep(time.Minute)
			if got := srv.all(); !strings.Contains(got, `open ""`) || !strings.Contains(got, `open "s3"`) {
				t.Errorf("greeting %v, connection %d, heard\n%s", greeting, c.State().Generation, got)
			}
		})
	}
}

// Without a greeting, a session that was stated once is that of every later connection.
func TestSessionOutlivesAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := []wire.Event{{Kind: wire.EventSession, Ready: &wire.Ready{Session: wire.Session{ID: "s2"}}}}
		srv, c := flexServer(t, flexDialect{}, first, nil)
		for range 2 {
			time.Sleep(time.Minute)
			srv.host.Network.Strike(limpettest.CutAfterBytes(limpettest.Down, 0))
		}
		time.Sleep(time.Minute)
		if n := strings.Count(srv.all(), `open "s2"`); n != 2 || c.State().Generation != 3 {
			t.Errorf("connection %d, %d of them with the session", c.State().Generation, n)
		}
	})
}

// A step waits as long as the server says, and steps keep the order of their times.
func TestStepsThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		step := func(name string, after time.Duration) wire.Event {
			return wire.Event{Kind: wire.EventStep, Step: name, Delay: after}
		}
		var mu sync.Mutex // guards at
		var at [3]time.Duration
		began := time.Now()
		d := flexDialect{traits: wire.Traits{Greeting: true}, encode: func(op wire.Op, _ *wire.Frames) error {
			if op.Kind == wire.OpStep {
				mu.Lock()
				defer mu.Unlock()
				at[op.Step.(string)[0]-'a'] = time.Since(began)
			}
			return nil
		}}
		srv, _ := flexServer(t, d, []wire.Event{step("c", 3*time.Second), step("b", 1500*time.Millisecond), step("a", 0)})
		time.Sleep(5 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if at != [3]time.Duration{0, 1500 * time.Millisecond, 3 * time.Second} || !strings.HasSuffix(srv.all(), "step a\nstep b\nstep c") {
			t.Errorf("steps at %v\n%s", at, srv.all())
		}
	})
}

// A welcome may lower the traits: then the client relies on less.
func TestWelcomeLowersTraits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := flexDialect{traits: wire.Traits{Publish: true, Acks: true, Greeting: true, Unsubscribe: true}}
		srv, c := flexServer(t, d, []wire.Event{readyEvent(wire.Ready{Traits: &wire.Traits{Sessions: true}})}, []wire.Event{readyEvent(wire.Ready{})})
		ack, err := c.Send(t.Context(), "a", []byte("x"), nil)
		if err != nil || ack.Outcome != limpet.Written {
			t.Errorf("outcome %v: %v", ack.Outcome, err)
		}
		s, err := c.Subscribe(t.Context(), "topic", nil)
		assert.NoError(t, err)
		assert.NoError(t, s.WaitLive(t.Context()))
		s.Close()
		time.Sleep(time.Second)
		if strings.Contains(srv.all(), "unsubscribe") {
			t.Error("the client unsubscribes where the server cannot")
		}
		srv.host.Network.Strike(limpettest.CutAfterBytes(limpettest.Down, 0))
		time.Sleep(time.Minute)
		r, err := c.Publish(t.Context(), "a", []byte("y"), nil)
		assert.NoError(t, err)
		time.Sleep(time.Second)
		if c.State().Generation != 2 || r.Outcome() != limpet.Pending {
			t.Errorf("connection %d has all traits again, but the outcome is %v", c.State().Generation, r.Outcome())
		}
	})
}

// A dialect may confirm a subscription that its server does not answer.
func TestDialectConfirms(t *testing.T) {
	for i := range 4 {
		byKey, noFrame := i%2 == 1, i >= 2
		synctest.Test(t, func(t *testing.T) {
			d := flexDialect{traits: wire.Traits{ByKey: byKey, Confirms: true, Holes: map[bool]wire.Holes{true: wire.HolesFault}[byKey]}, encode: func(op wire.Op, out *wire.Frames) error {
				if op.Kind == wire.OpSubscribe && op.Topic == "quiet" {
					out.Confirm(op.Key)
					if noFrame {
						return errNoFrame
					}
				}
				return nil
			}}
			_, c := flexServer(t, d, nil)
			assert.NoError(t, c.WaitReady(t.Context()))
			time.Sleep(time.Second)
			quiet, err := c.Subscribe(t.Context(), "quiet", nil)
			assert.NoError(t, err)
			time.Sleep(time.Second)
			if p := quiet.State().Phase; p != limpet.SubLive {
				t.Errorf("by key %v, no frame %v: the one without an answer is %v", byKey, noFrame, p)
			}
			loud, err := c.Subscribe(t.Context(), "loud", nil)
			assert.NoError(t, err)
			time.Sleep(time.Second)
			if p := loud.State().Phase; p != limpet.SubPending {
				t.Errorf("by key %v: the one that was not answered is %v", byKey, p)
			}
			time.Sleep(10 * time.Minute)
			if err := loud.State().Err; !errors.Is(err, limpet.ErrUnanswered) || quiet.State().Phase != limpet.SubLive {
				t.Errorf("by key %v: %v, the other is %v", byKey, err, quiet.State().Phase)
			}
		})
	}
}

// Without the trait Dedup, what was sent in a session that is lost has an unknown
// outcome; only AtLeastOnce sends it again. With it, it is sent again.
func TestSessionIsLost(t *testing.T) {
	for _, row := range []struct {
		dedup   bool
		lowered *wire.Traits
		want    limpet.Outcome
		sent    int
	}{
		{false, nil, limpet.Unknown, 1},
		{true, nil, limpet.Pending, 2},
		{true, &wire.Traits{}, limpet.Unknown, 1},
	} {
		t.Run(fmt.Sprint(row.dedup, row.lowered != nil), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := flexDialect{traits: wire.Traits{Publish: true, Acks: true, Sessions: true, Dedup: row.dedup, Greeting: true}}
				credit := wire.Ack{HasCredit: true, Credit: wire.Credit{N: 100, Bytes: 1 << 20}}
				srv, c := flexServer(t, d,
					[]wire.Event{readyEvent(wire.Ready{Session: wire.Session{ID: "s1"}, Ack: credit})},
					[]wire.Event{readyEvent(wire.Ready{Session: wire.Session{ID: "s2"}, Ack: credit, Traits: row.lowered})})
				once, err := c.Publish(t.Context(), "a", []byte("once"), nil)
				assert.NoError(t, err)
				twice, err := c.Publish(t.Context(), "a", []byte("twice"), &limpet.PublishOptions{Resend: limpet.AtLeastOnce})
				assert.NoError(t, err)
				time.Sleep(time.Second)
				srv.host.Network.Strike(limpettest.CutAfterBytes(limpettest.Down, 0))
				time.Sleep(time.Minute)
				if c.State().Generation != 2 {
					t.Fatal("the fault did not happen")
				}
				if got := strings.Count(srv.all(), " once"); once.Outcome() != row.want || got != row.sent {
					t.Errorf("outcome %v, sent %d times", once.Outcome(), got)
				}
				if got := strings.Count(srv.all(), " twice"); twice.Outcome() != limpet.Pending || got != 2 {
					t.Errorf("AtLeastOnce: outcome %v, sent %d times", twice.Outcome(), got)
				}
			})
		})
	}
}

// A message that was sent and that the dialect then refuses to send again may have been
// accepted: its outcome is unknown, not rejected.
func TestRefusalToSendAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := flexDialect{traits: wire.Traits{Publish: true, Acks: true, Sessions: true, Dedup: true, Greeting: true}, encode: func(op wire.Op, _ *wire.Frames) error {
			if op.Kind == wire.OpPublish && op.Message.Resent {
				return errors.New("no second time")
			}
			return nil
		}}
		credit := wire.Ack{HasCredit: true, Credit: wire.Credit{N: 100, Bytes: 1 << 20}}
		srv, c := flexServer(t, d, []wire.Event{readyEvent(wire.Ready{Session: wire.Session{ID: "s1"}, Ack: credit})},
			[]wire.Event{readyEvent(wire.Ready{Session: wire.Session{ID: "s2"}, Ack: credit})})
		r, err := c.Publish(t.Context(), "a", []byte("x"), nil)
		assert.NoError(t, err)
		time.Sleep(time.Second)
		srv.host.Network.Strike(limpettest.CutAfterBytes(limpettest.Down, 0))
		time.Sleep(time.Minute)
		if _, err := r.Wait(t.Context()); r.Outcome() != limpet.Unknown || !errors.Is(err, limpet.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "no second time") {
			t.Errorf("outcome %v: %v", r.Outcome(), err)
		}
	})
}

// Encode passes what a reply means to Decode through a Ledger, which is bounded.
func TestLedger(t *testing.T) {
	l := wire.NewLedger[uint16, string](2)
	for token := range uint16(2) {
		assert.NoError(t, l.Put(token, fmt.Sprint(token)))
	}
	assert.NoError(t, l.Put(1, "again"))
	var full *wire.LedgerError
	if err := l.Put(2, "x"); !errors.As(err, &full) || full.Limit != 2 {
		t.Errorf("a full ledger: %v", err)
	}
	if v, ok := l.Get(1); v != "again" || !ok {
		t.Error(v, ok)
	}
	if v, ok := l.Take(1); v != "again" || !ok || l.Len() != 1 {
		t.Error(v, ok, l.Len())
	}
	if v, ok := l.Take(1); v != "" || ok {
		t.Error(v, ok)
	}
}

// A server that keeps subscriptions in the session is not asked for them again: their
// streams go on without a Reset. One that was closed while offline is ended at the
// server, until it confirms that. In a new session everything is asked for.
func TestServerKeepsSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := flexDialect{traits: wire.Traits{ByKey: true, Greeting: true, Confirms: true, ConfirmsEnd: true, Unsubscribe: true, KeepsSubs: true}}
		ready := func(session string, resumed bool) string {
			return eventText(readyEvent(wire.Ready{Session: wire.Session{ID: session}, Resumed: resumed}))
		}
		data := func(key uint64) string {
			return eventText(wire.Event{Kind: wire.EventData, Key: key, Message: wire.Message{Payload: []byte("x")}})
		}
		confirm := func(key uint64, kind wire.EventKind) string { return eventText(wire.Event{Kind: kind, Key: key}) }
		srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
			hear() // open
			switch conn {
			case 1:
				say(ready("s1", false))
				hear()
				hear()
				say(confirm(1, wire.EventSubscribed))
				say(confirm(2, wire.EventSubscribed))
				say(data(1))
			case 2, 3, 4:
				say(ready("s1", true))
				say(data(1))
				if conn == 3 {
					hear()
					say(confirm(2, wire.EventUnsubscribed))
				}
			default:
				say(ready("s2", false))
				hear()
				say(confirm(1, wire.EventSubscribed))
			}
		})
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		s, err := c.Subscribe(t.Context(), "one", nil)
		assert.NoError(t, err)
		two, err := c.Subscribe(t.Context(), "two", nil)
		assert.NoError(t, err)
		assert.NoError(t, two.WaitLive(t.Context()))
		synctest.Wait() // the message of the first connection has come
		next := func(n uint64) {
			t.Helper()
			srv.host.Network.CutAll()
			time.Sleep(time.Minute)
			if c.State().Generation != n {
				t.Fatalf("connection %d, want %d", c.State().Generation, n)
			}
		}
		srv.host.Network.CutAll()
		two.Close() // offline
		time.Sleep(time.Minute)
		next(3)
		next(4)
		if s.State().Phase != limpet.SubLive {
			t.Errorf("the subscription is %v", s.State().Phase)
		}
		if got := payloads(collect(t, s, 4)); got != "x x x x" {
			t.Errorf("a stream that goes on: %s", got)
		}
		next(5)
		want := `/ open "" subscribe one subscribe two / open "s1" unsubscribe two / open "s1" unsubscribe two / open "s1" / open "s1" subscribe one`
		if got := strings.Join(strings.Fields(srv.all()), " "); got != want {
			t.Errorf("the server heard\n%s\nwant\n%s", got, want)
		}
	})
}
