package test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// A rejection by the server and an outcome that it does not know are reported
// as what they are, with the code of the server.
func TestRejectionsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			OnPublish: func(_ context.Context, _ server.Principal, m server.Message) error {
				switch string(m.Payload) {
				case "forbidden":
					return &server.Error{Code: native.CodeForbidden}
				case "unknown":
					return &server.Error{Code: native.CodeUnknownOutcome}
				}
				return nil
			},
		}}})
		c := dial(t, srv, nil)
		for _, want := range []struct {
			payload string
			outcome limpet.Outcome
			err     error
			code    int
		}{
			{"fine", limpet.Acked, nil, 0},
			{"forbidden", limpet.Rejected, limpet.ErrRejected, native.CodeForbidden},
			{"unknown", limpet.Unknown, limpet.ErrOutcomeUnknown, native.CodeUnknownOutcome},
		} {
			ack, err := c.Send(context.Background(), "a", []byte(want.payload), nil)
			var e *limpet.Error
			if ack.Outcome != want.outcome || !errors.Is(err, want.err) || errors.As(err, &e) && e.Code != want.code || limpet.SafeToRetry(err) {
				t.Errorf("%s: %v, %v", want.payload, ack.Outcome, err)
			}
		}
		if head := srv.Log.View().Head; head != 1 {
			t.Errorf("the log holds %d messages", head)
		}
	})
}

// readMessages takes messages until there are n of them.
func (p *scriptedConn) readMessages(n int) (ms []native.Msg) {
	for len(ms) < n {
		frames := p.read()
		if frames == nil {
			return ms
		}
		for _, f := range frames {
			if f.Type == native.TypeMsg {
				ms = append(ms, f.Msg)
			}
		}
	}
	return ms
}

// outage is how long the welcome of the second connection takes, at least.
const outage = 5 * time.Second

// resumeAfterBreak runs five messages through a connection of which the server
// acknowledges nothing, and returns what the next one brings after second has
// been said.
func resumeAfterBreak(t *testing.T, second func(w *native.Welcome, first []native.Msg) (expect int)) (first, again []native.Msg) {
	synctest.Test(t, func(t *testing.T) {
		taken := make(chan []native.Msg, 2)
		s := newScriptedServer(t, func(p *scriptedConn) {
			w := p.welcome()
			if p.number == 1 {
				p.sendFrames(append([]native.Frame{w}, p.confirmations()...)...)
				first = p.readMessages(5)
				p.sendFrames(native.Frame{Type: native.TypeAck, Ack: &native.Ack{To: 1, HasTo: true}})
				synctest.Wait()
				p.ws.CloseNow()
				return
			}
			time.Sleep(outage)
			n := second(w.Welcome, first)
			p.sendFrames(append([]native.Frame{w}, p.confirmations()...)...)
			taken <- p.readMessages(n)
		})
		c, _ := s.start(limpet.Options{})
		var ms []limpet.Outgoing
		for i := range 5 {
			ms = append(ms, limpet.Outgoing{Topic: "a", Payload: []byte(fmt.Sprint(i))})
		}
		if _, err := c.PublishBatch(context.Background(), ms); err != nil {
			t.Fatal(err)
		}
		again = <-taken
	})
	return first, again
}

func seqsAndIDs(ms []native.Msg) (seqs []uint64, ids []wire.ID) {
	for _, m := range ms {
		seqs, ids = append(seqs, m.S), append(ids, m.ID)
	}
	return seqs, ids
}

// What the server has, also out of order, is not sent again; the rest is, in
// order and with its age (docs/protocol.md, I10).
func TestSelectiveAckIsNotSentAgain(t *testing.T) {
	first, again := resumeAfterBreak(t, func(w *native.Welcome, first []native.Msg) int {
		w.Res, w.Ack, w.Tag, w.HasTag = true, 1, first[0].ID, true
		w.Sack = []wire.Range{{Lo: 3, Hi: 4}}
		return 2
	})
	seqs, ids := seqsAndIDs(again)
	if !slices.Equal(seqs, []uint64{2, 5}) || !slices.Equal(ids, []wire.ID{first[1].ID, first[4].ID}) {
		t.Errorf("sent again: %v", seqs)
	}
	for _, m := range again {
		if age := time.Duration(m.Age) * time.Millisecond; !m.HasAge || age < outage || age > 2*outage {
			t.Errorf("message %d without an age, or with the wrong one: %v", m.S, age)
		}
	}
}

// A server that lost the session gets what has no outcome under new numbers
// and the old ids, with its age: it may have accepted it before.
func TestLostSessionRenumbers(t *testing.T) {
	first, again := resumeAfterBreak(t, func(w *native.Welcome, _ []native.Msg) int {
		w.SID, w.SE = "another", 2
		return 4
	})
	seqs, ids := seqsAndIDs(again)
	_, want := seqsAndIDs(first[1:])
	if !slices.Equal(seqs, []uint64{1, 2, 3, 4}) || !slices.Equal(ids, want) {
		t.Errorf("sent again: %v", seqs)
	}
	for _, m := range again {
		if age := time.Duration(m.Age) * time.Millisecond; !m.HasAge || age < outage || age > 2*outage {
			t.Errorf("message %d without an age, or with the wrong one: %v", m.S, age)
		}
	}
}

// The window of the server holds, however large the client's own is.
func TestUplinkCreditHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{
			Network: &limpettest.NetworkOptions{Capture: true},
			Server:  &server.Options{Window: 64, WindowBytes: 1000},
		})
		c := dial(t, srv, nil)
		var ms []limpet.Outgoing
		for i := range 500 {
			ms = append(ms, limpet.Outgoing{Topic: "a", Payload: make([]byte, i%100)})
		}
		if _, err := c.PublishBatch(context.Background(), ms); err != nil {
			t.Fatal(err)
		}
		if err := c.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		for _, v := range limpettest.CheckFrames(srv.Network.Captured()) {
			t.Error(v)
		}
		if st := c.Stats(); st.Acked != 500 || st.Connections != 1 {
			t.Errorf("%+v", st)
		}
	})
}
