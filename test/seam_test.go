package test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"nhooyr.io/websocket"
)

// pushDialect is the smallest useful dialect: every frame is a message of the one
// topic, published messages are frames, and it owes the client nothing else.
type pushDialect struct{ traits wire.Traits }

func (pushDialect) Name() string                             { return "push" }
func (d pushDialect) Traits() wire.Traits                    { return d.traits }
func (pushDialect) CheckTopic(wire.Use, string) error        { return nil }
func (pushDialect) Attempt(a *wire.Attempt) error            { a.Dial = true; return nil }
func (pushDialect) Open(wire.Resume) (wire.Codec, error)     { return pushCodec{}, nil }
func (pushDialect) Verdict(wire.Failure) (none wire.Verdict) { return none }

type pushCodec struct{}

func (pushCodec) Start(*wire.Frames) error { return nil }

func (pushCodec) Decode(f wire.Frame, out *wire.Events) error {
	e := out.Append(wire.EventData)
	e.Name, e.Message.Payload = "feed", append([]byte(nil), f.Data...)
	if _, err := fmt.Sscan(string(f.Data), &e.Position.Offset); err == nil {
		e.Numbered = true
	}
	return nil
}

func (pushCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	for _, op := range ops {
		if op.Kind == wire.OpPublish {
			out.Append(wire.Text, append([]byte(nil), op.Message.Payload...))
		}
	}
	return nil
}

// feedOf returns the subscription of a client to a server that sends the nth list of
// texts on connection n, and ends all but the last connection.
func feedOf(t *testing.T, traits wire.Traits, conns ...[]string) (*toyServer, *limpet.Client, *limpet.Subscription) {
	srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
		for _, text := range conns[min(conn, len(conns))-1] {
			say(text)
		}
	})
	srv.host.Inject(limpettest.Stall(time.Millisecond)) // so that the subscription is there
	c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: pushDialect{traits}}))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	s, err := c.Subscribe(context.Background(), "feed", nil)
	assert.NoError(t, err)
	return srv, c, s
}

// A dialect that owes nothing works: messages without numbers are received from the
// first one on, on every connection, without any confirmation.
func TestServerThatOwesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, c, s := feedOf(t, wire.Traits{Publish: true}, []string{"a", "b"}, []string{"c", "d"})
		if got := payloads(collect(t, s, 2)); got != "a b" {
			t.Errorf("first connection: %s", got)
		}
		receipt, err := c.Publish(t.Context(), "feed", []byte("hello"), nil)
		assert.NoError(t, err)
		ack, err := receipt.Wait(t.Context())
		if err != nil || ack.Outcome != limpet.Written {
			t.Errorf("outcome %v: %v", ack.Outcome, err)
		}
		srv.host.Network.Strike(limpettest.CutAfterBytes(limpettest.Down, 0))
		if got := payloads(collect(t, s, 3)); got != "reset c d" {
			t.Errorf("second connection: %s", got)
		}
		if !strings.Contains(srv.all(), "hello") {
			t.Error("the server did not get the message")
		}
	})
}

// Every kind of number is either the next one, a repeat, or is reported.
func TestNumbersThatGoBack(t *testing.T) {
	for _, row := range []struct {
		name   string
		traits wire.Traits
		conns  [][]string
		want   string
	}{
		{"restart on the connection", wire.Traits{}, [][]string{{"7", "8", "1", "2"}}, "7 8 reset(8,0]x0:restarted 1 2"},
		{"restart on the next connection", wire.Traits{}, [][]string{{"7", "8"}, {"1", "2"}}, "7 8 reset(8,0]x0:restarted 1 2"},
		{"restart at zero", wire.Traits{}, [][]string{{"7", "0", "1"}}, "7 reset(7,0]x0:restarted 0 1"},
		{"the last one again", wire.Traits{}, [][]string{{"7", "8", "8", "9"}, {"9", "10"}}, "7 8 9 10"},
		{"a hole without Prev", wire.Traits{}, [][]string{{"7", "10"}, {"12"}}, "7 gap(7,9]x2:lost 10 gap(10,11]x1:lost 12"},
		{"late within the look back", wire.Traits{LookBack: 2}, [][]string{{"7", "8", "9", "7", "10"}, {"8", "9", "10", "11"}}, "7 8 9 10 11"},
		{"restart beyond the look back", wire.Traits{LookBack: 2}, [][]string{{"7", "8", "9", "6", "7"}}, "7 8 9 reset(9,5]x0:restarted 6 7"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, c, s := feedOf(t, row.traits, row.conns...)
				var got []limpet.Message
				for n := range row.conns {
					if n > 0 {
						srv.host.Network.Strike(limpettest.CutAfterBytes(limpettest.Down, 0))
					}
					time.Sleep(time.Minute)
					if c.State().Generation != uint64(n+1) {
						t.Fatalf("connection %d after %d faults", c.State().Generation, n)
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				for m, err := range s.Messages(ctx) {
					if err != nil {
						break // everything was taken
					}
					got = append(got, m)
				}
				if text := story(got); text != row.want {
					t.Errorf("got  %s\nwant %s", text, row.want)
				}
			})
		})
	}
}

// A server that resumes before messages that were received may repeat them.
func TestConfirmedPositionAllowsRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _, s := eventServer(t, wire.Traits{ByKey: true, Resume: true},
			[]wire.Event{subscribedAt(wire.ContinuityNone, "e", 4), dataAt("e", 4, 5), dataAt("e", 5, 6), dataAt("e", 6, 7)},
			[]wire.Event{subscribedAt(wire.ContinuityProved, "e", 4), dataAt("e", 4, 5), dataAt("e", 5, 6), dataAt("e", 6, 7), dataAt("e", 7, 8), dataAt("e", 4, 5)})
		got := collect(t, s, 3)
		srv.host.Network.Strike(limpettest.CutAfterBytes(limpettest.Down, 0))
		got = append(got, collect(t, s, 3)...)
		if text := story(got); text != "e5 e6 e7 e8 reset(8,4]x0:restarted e5" {
			t.Error(text)
		}
	})
}

// Traits that contradict each other are refused by New, which names the trait.
func TestContradictoryTraits(t *testing.T) {
	for trait, traits := range map[string]wire.Traits{
		"Acks": {Acks: true}, "Sessions": {Publish: true, Sessions: true}, "MaxPayload": {MaxPayload: 1}, "StartBytes": {StartBytes: 1},
		"Holes": {Holes: wire.HolesFault}, "LookBack": {Holes: wire.HolesFault, Confirms: true, LookBack: 1},
		"Silent": {Silent: true, Publish: true}, "Streams": {Streams: true},
	} {
		_, err := limpet.New("ws://127.0.0.1", options(&limpet.Options{Dialect: pushDialect{traits}}))
		var e *limpet.Error
		if !errors.As(err, &e) || e.Field != "Options.Dialect" || e.Class != limpet.ClassInput || !strings.Contains(e.Error(), "its trait "+trait+" ") {
			t.Errorf("%s: %v", trait, err)
		}
	}
}

// hangingDialect blocks in one method until it is released.
type hangingDialect struct {
	pushDialect
	method  string
	release chan struct{}
}

func (d hangingDialect) Attempt(a *wire.Attempt) error {
	if d.method == "Attempt" {
		<-d.release
	}
	return d.pushDialect.Attempt(a)
}

func (d hangingDialect) Open(wire.Resume) (wire.Codec, error) { return hangingCodec{d: d}, nil }

type hangingCodec struct {
	pushCodec
	d hangingDialect
}

func (c hangingCodec) Decode(f wire.Frame, out *wire.Events) error {
	if c.d.method == "Decode" && string(f.Data) == "b" {
		<-c.d.release
	}
	return c.pushCodec.Decode(f, out)
}

// Decode or Attempt that does not return ends the client after 10 seconds, with the
// stack of its goroutine, whatever the other durations are.
func TestDialectThatHangs(t *testing.T) {
	for _, method := range []string{"Decode", "Attempt"} {
		for _, dialTimeout := range []time.Duration{time.Second, time.Minute} {
			t.Run(fmt.Sprint(method, dialTimeout), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					began := time.Now()
					srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
						say("a")
						time.Sleep(4 * time.Second)
						say("b")
						began = time.Now()
					})
					d := hangingDialect{method: method, release: make(chan struct{})}
					var log lockedBuffer
					c, err := limpet.New(srv.host.URL(), options(&limpet.Options{
						HTTPClient: srv.host.HTTPClient(), Dialect: d, DialTimeout: dialTimeout,
						Logger: slog.New(slog.NewTextHandler(&log, nil)),
					}))
					assert.NoError(t, err)
					s, err := c.Subscribe(t.Context(), "feed", nil)
					assert.NoError(t, err)
					if method == "Decode" {
						if got := payloads(collect(t, s, 1)); got != "a" {
							t.Fatal(got)
						}
					}
					<-c.Done()
					if took := time.Since(began).Round(100 * time.Millisecond); took < 10*time.Second || took > 10*time.Second+200*time.Millisecond {
						t.Errorf("the client ended after %v", took)
					}
					var permanent *limpet.PermanentError
					var hang *limpet.HangError
					if err := c.Err(); !errors.As(err, &permanent) || permanent.Class != limpet.ClassUser || !errors.As(err, &hang) ||
						hang.Method != method || !strings.Contains(string(hang.Stack), "hanging") || !strings.Contains(string(hang.Stack), "."+method+"(") {
						t.Errorf("%v\n%s", err, hang.Stack)
					}
					synctest.Wait()
					if text := log.String(); !strings.Contains(text, "hanging") {
						t.Errorf("no stack in the log:\n%s", text)
					}
					close(d.release) // the abandoned goroutine ends
				})
			})
		}
	}
}

// steppingDialect makes an HTTP request before the dial, and passes what the answer says
// to the connection.
type steppingDialect struct{ pushDialect }

func (steppingDialect) Attempt(a *wire.Attempt) error {
	switch {
	case a.Response == nil:
		a.State = "asked"
		a.Request = &wire.Request{Method: "GET", URL: "http" + strings.TrimPrefix(a.URL, "ws") + "/ticket"}
	case a.Response.Status != http.StatusOK:
		return &wire.StatusError{Status: a.Response.Status, Header: a.Response.Header, Body: a.Response.Body}
	default:
		a.State = fmt.Sprint(a.State, " and got ", string(a.Response.Body))
		a.Dial = true
	}
	return nil
}

func (d steppingDialect) Open(r wire.Resume) (wire.Codec, error) {
	return steppingCodec{state: r.State}, nil
}

type steppingCodec struct {
	pushCodec
	state any
}

func (c steppingCodec) Start(out *wire.Frames) error {
	out.Append(wire.Text, fmt.Append(nil, c.state))
	return nil
}

// A request before the dial that is refused counts as a refused upgrade: its Retry-After
// is obeyed, and 403 ends a client that was never ready. State passes to the connection.
func TestRefusedStep(t *testing.T) {
	for _, row := range []struct {
		status int
		ends   bool
	}{{http.StatusServiceUnavailable, false}, {http.StatusForbidden, true}} {
		t.Run(fmt.Sprint(row.status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var attempts []time.Time
				var heard string
				host := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/ticket" {
						if attempts = append(attempts, time.Now()); len(attempts) == 1 {
							if !row.ends {
								w.Header().Set("Retry-After", "77")
							}
							w.WriteHeader(row.status)
							return
						}
						fmt.Fprint(w, "t1")
						return
					}
					ws, err := websocket.Accept(w, r, nil)
					if err != nil {
						return
					}
					defer ws.CloseNow()
					_, data, _ := ws.Read(context.Background())
					heard = string(data)
					ws.Read(context.Background())
				}), nil)
				c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: steppingDialect{}}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				err = c.WaitReady(t.Context())
				if row.ends {
					var permanent *limpet.PermanentError
					if !errors.As(err, &permanent) || permanent.Class != limpet.ClassAuth || len(attempts) != 1 || !strings.Contains(err.Error(), "403 Forbidden") {
						t.Errorf("%d attempts: %v", len(attempts), err)
					}
					return
				}
				assert.NoError(t, err)
				synctest.Wait()
				if wait := attempts[1].Sub(attempts[0]); wait < 77*time.Second || heard != "asked and got t1" {
					t.Errorf("the next attempt after %v, then %q", wait, heard)
				}
			})
		})
	}
}

// A subscription was closed while its consumer is at work, so its end is still to be sent.
// Another one to its topic is not asked for before: where names say which is meant, that
// end would be the end of both.
func TestSubscribeAgainWhileAConsumerFinishes(t *testing.T) {
	for _, confirms := range []bool{false, true} {
		t.Run(fmt.Sprint("confirms ", confirms), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := flexDialect{traits: wire.Traits{Confirms: confirms, Unsubscribe: true, Processed: wire.ProcessedEach}}
				confirm := wire.Event{Kind: wire.EventSubscribed, Name: "one"}
				srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
					hear() // open
					hear()
					if confirms {
						say(eventText(confirm))
					}
					say(eventText(wire.Event{Kind: wire.EventData, Name: "one", Message: wire.Message{Payload: []byte("x")}}))
					for text := hear(); text != ""; text = hear() {
						if confirms && strings.HasPrefix(text, "subscribe") {
							say(eventText(confirm))
						}
					}
				})
				c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				first, err := c.Subscribe(t.Context(), "one", nil)
				assert.NoError(t, err)
				var again *limpet.Subscription
				for range first.Messages(t.Context()) {
					assert.NoError(t, first.Close())
					again, err = c.Subscribe(t.Context(), "one", nil)
					assert.NoError(t, err)
					time.Sleep(time.Second) // the consumer works
				}
				began := time.Now()
				assert.NoError(t, again.WaitLive(t.Context()))
				if took := time.Since(began); confirms && took > time.Second {
					t.Errorf("it waited %v for its topic", took)
				}
				synctest.Wait()
				heard := strings.Join(strings.Fields(srv.all()), " ")
				want := fmt.Sprintf(`/ open "" subscribe one op %d unsubscribe one subscribe one`, wire.OpAck)
				if heard != want {
					t.Errorf("the server heard\n%s\nwant\n%s", heard, want)
				}
			})
		})
	}
}

// While this process stands still, the time in which messages of an earlier subscription
// may come does not pass: they wait to be read.
func TestStandstillOfTheProcessFreesNoTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := flexDialect{traits: wire.Traits{Unsubscribe: true, Publish: true}, encode: func(op wire.Op, _ *wire.Frames) error {
			if op.Kind == wire.OpPublish {
				time.Sleep(14 * time.Second)
			}
			return nil
		}}
		srv, c := flexServer(t, d, nil)
		subscribeLive(t, c, "one", nil).Close()
		again := subscribe(t, c, "one")
		time.Sleep(2 * time.Second)
		if _, err := c.Publish(t.Context(), "x", []byte("x"), nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(23 * time.Second)
		if n := strings.Count(srv.all(), "\nsubscribe one"); n != 1 {
			t.Errorf("9 s after the process went on, the topic was asked for %d times, want once", n)
		}
		if err := again.WaitLive(within(t, 2*time.Second)); err != nil {
			t.Error(err)
		}
	})
}

// A write during which this process stood still has not stalled.
func TestStandstillOfTheProcessIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := flexDialect{traits: wire.Traits{Publish: true}, encode: func(op wire.Op, _ *wire.Frames) error {
			time.Sleep(30 * time.Second)
			return nil
		}}
		_, c := flexServer(t, d, nil)
		if err := c.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Publish(t.Context(), "x", []byte("x"), nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if st := c.State(); st.Phase != limpet.Ready || st.Generation != 1 {
			t.Errorf("%+v", st)
		}
	})
}
