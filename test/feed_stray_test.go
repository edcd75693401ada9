package test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
)

// An answer to a message that was never sent, whether it accepts or refuses, changes
// nothing: the connection stays, and the message that later has the id gets its own answer.
func TestAnswersToNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := ownClient(t, ownDialect(t, nil), func(conn int, n note, say func(note)) {
			switch {
			case n.Op == "sub":
				for seq := range uint64(3) {
					say(note{ID: (seq+1)*4 + 3, OK: &no, Text: "no such message"})
					say(note{ID: (seq+1)*4 + 3, OK: &yes})
				}
				say(note{ID: 1<<63 + 3, OK: &no, Text: "no such message"})
				say(note{ID: n.ID, OK: &yes})
			case n.Text == "bad":
				say(note{ID: n.ID, OK: &no, Text: "bad"})
			default:
				say(note{ID: n.ID, OK: &yes})
			}
		})
		subscribeLive(t, c, "a", nil)
		synctest.Wait()
		for text, want := range map[string]limpet.Outcome{"good": limpet.Acked, "bad": limpet.Rejected} {
			r, err := c.Publish(t.Context(), "a", []byte(text), nil)
			assert.NoError(t, err)
			if ack, _ := r.Wait(t.Context()); ack.Outcome != want {
				t.Errorf("%s: %v", text, ack.Outcome)
			}
		}
		if st := c.State(); st.Generation != 1 || st.Phase != limpet.Ready {
			t.Errorf("the stray answers have cost a connection: %+v", st)
		}
	})
}

// A message that waits for its turn cannot be refused yet.
func TestRefusedBeforeItIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := ownDialect(t, func(f *feed.Funcs) { f.Limits = wire.ConnectionLimits{Messages: 5, Per: time.Minute} })
		_, c := ownClient(t, d, func(conn int, n note, say func(note)) {
			say(note{ID: n.ID, OK: &yes})
			if n.Op == "sub" {
				time.Sleep(time.Second)
				say(note{ID: 1*4 + 3, OK: &no, Text: "no such message"})
			}
		})
		subscribeLive(t, c, "a", nil)
		r, err := c.Publish(t.Context(), "a", []byte("x"), nil)
		assert.NoError(t, err)
		began := time.Now()
		if ack, err := r.Wait(t.Context()); ack.Outcome != limpet.Acked || time.Since(began) < 5*time.Second {
			t.Errorf("after %v: %v, %v", time.Since(began), ack.Outcome, err)
		}
	})
}

// A login that cannot be made ends the connection at once and says why, whether or not it
// waits for a challenge: no server answers what was never sent.
func TestLoginThatCannotBeMade(t *testing.T) {
	for _, challenge := range []string{"", "challenge"} {
		synctest.Test(t, func(t *testing.T) {
			table := login()
			table.Login.Challenge = challenge
			table.Login.Message = func(string, []byte) ([]byte, error) { return nil, errors.New("no key for the signature") }
			_, c := tableClient(t, table, limpet.Options{}, func(_ int, request string, say func(string)) {
				if request == "" && challenge != "" {
					say(`{"event":"challenge","nonce":"n"}`)
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			began := time.Now()
			err := c.WaitReady(ctx)
			if took := time.Since(began); took > 10*time.Second || err == nil || !strings.Contains(err.Error(), "no key for the signature") {
				t.Errorf("challenge %q: after %v: %v", challenge, took, err)
			}
		})
	}
}

// What Funcs.Read says after it has returned belongs to nothing any more: it must not get
// into the events of another message, or of another client. It is counted.
func TestSayAfterReadHasReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := ownDialect(t, func(f *feed.Funcs) {
			read := f.Read
			var late func(feed.Item)
			f.Read = func(data []byte, say func(feed.Item)) error {
				if late != nil {
					late(feed.Item{Topic: "a", Payload: []byte("late"), Number: 2})
				}
				late = say
				return read(data, say)
			}
		})
		_, c := ownClient(t, d, func(conn int, n note, say func(note)) {
			say(note{ID: n.ID, OK: &yes})
			say(note{Topic: "a", Text: "one", Seq: 1})
			say(note{Topic: "a", Text: "two", Seq: 2})
		})
		s, err := c.Subscribe(t.Context(), "a", nil)
		assert.NoError(t, err)
		if got := payloads(collect(t, s, 2)); got != "one two" {
			t.Errorf("received %s", got)
		}
		synctest.Wait()
		if st := c.Stats(); st.Malformed != 2 {
			t.Errorf("%d messages counted as malformed, want 2", st.Malformed)
		}
	})
}

// A refusal for now is not final: what was refused is asked for again after the time that
// the server names, by its id, by its topic, or by neither.
func TestRefusedForNow(t *testing.T) {
	for _, by := range []string{"id", "topic", "nothing"} {
		synctest.Test(t, func(t *testing.T) {
			const pause = 20 * time.Second
			d := ownDialect(t, func(f *feed.Funcs) {
				read := f.Read
				f.Read = func(data []byte, say func(feed.Item)) error {
					return read(data, func(it feed.Item) {
						if it.Kind == feed.Refused {
							it.Retry, it.Topic = pause, it.Reason
							if by != "id" && it.ID%4 == 1 {
								it.ID = 0
							}
							if by == "nothing" {
								it.Topic = ""
							}
						}
						say(it)
					})
				}
			})
			asked := map[string]int{}
			_, c := ownClient(t, d, func(_ int, n note, say func(note)) {
				if asked[n.Op]++; asked[n.Op] == 1 {
					say(note{ID: n.ID, OK: &no, Text: "a"})
				} else {
					say(note{ID: n.ID, OK: &yes})
				}
			})
			began := time.Now()
			s, err := c.Subscribe(t.Context(), "a", nil)
			assert.NoError(t, err)
			r, err := c.Publish(t.Context(), "a", []byte("x"), nil)
			assert.NoError(t, err)
			ack, err := r.Wait(t.Context())
			if took := time.Since(began); ack.Outcome != limpet.Acked || took < pause || took > 2*pause {
				t.Errorf("by %s: the message: %v after %v, %v", by, ack.Outcome, took, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := s.WaitLive(ctx); err != nil || time.Since(began) < pause || time.Since(began) > 2*pause+pause/2 {
				t.Errorf("by %s: the subscription: after %v: %v", by, time.Since(began), err)
			}
		})
	}
}

// A server may ask for a new connection before it has greeted the client: it gets one after
// its greeting.
func TestGoAwayBeforeTheWelcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := ownDialect(t, func(f *feed.Funcs) {
			read := f.Read
			f.Greeting = true
			f.Read = func(data []byte, say func(feed.Item)) error {
				switch {
				case strings.Contains(string(data), `"bye"`):
					say(feed.Item{Kind: feed.GoAway})
				case strings.Contains(string(data), `"welcome"`):
					say(feed.Item{Kind: feed.Welcome})
				default:
					return read(data, say)
				}
				return nil
			}
		})
		srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
			if conn == 1 {
				say(`{"op":"bye"}`)
				time.Sleep(5 * time.Second)
			}
			say(`{"op":"welcome"}`)
			hear()
		})
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		time.Sleep(4 * time.Second)
		if st := c.State(); st.Phase != limpet.Handshaking {
			t.Errorf("after 4 s: %+v", st)
		}
		time.Sleep(10 * time.Second)
		if st := c.State(); st.Phase != limpet.Ready || st.Generation != 2 {
			t.Errorf("after 14 s: %+v", st)
		}
	})
}
