package test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
)

// tokenDialect is a dialect whose server answers with tokens of its own size: "ok 3" or
// "no 3". There are four of them, so a token is used again once it was answered. Start
// tells the server how often to beat.
type tokenDialect struct{ pushDialect }

func (tokenDialect) Open(r wire.Resume) (wire.Codec, error) {
	return &tokenCodec{open: wire.NewLedger[int, uint64](tokens4), beat: r.Heartbeat}, nil
}

const tokens4 = 4

type tokenCodec struct {
	open *wire.Ledger[int, uint64] // the command, by token
	beat time.Duration
	next int // of Encode
}

func (c *tokenCodec) Start(out *wire.Frames) error {
	out.Append(wire.Text, fmt.Appendf(nil, "beat %v", c.beat))
	return nil
}

func (c *tokenCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	for i, op := range ops {
		if op.Kind != wire.OpPublish {
			continue
		}
		token := c.next % tokens4
		if _, used := c.open.Get(token); used {
			return &wire.OpError{Index: i, Err: &wire.LedgerError{Limit: tokens4}}
		}
		if err := c.open.Put(token, op.Cmd); err != nil {
			return err
		}
		c.next++
		out.Append(wire.Text, fmt.Appendf(nil, "publish %d %s", token, op.Message.Payload))
	}
	return nil
}

func (c *tokenCodec) Decode(f wire.Frame, out *wire.Events) error {
	var word string
	var token int
	if _, err := fmt.Sscan(string(f.Data), &word, &token); err != nil {
		return err
	}
	cmd, ok := c.open.Take(token)
	if !ok {
		out.Append(wire.EventMalformed).Reason = "a token that nothing waits for"
		return nil
	}
	ack := &wire.Ack{Cmd: cmd}
	if word == "no" {
		ack = &wire.Ack{Rejects: []wire.Reject{{Seq: cmd / 4, Code: wire.CodeRefused}}}
	}
	out.Append(wire.EventAck).Ack = ack
	return nil
}

// Encode passes to Decode what a token stands for, which the server uses in answers in any
// order, and which counts for one answer alone. Open knows the client's interval.
func TestAnswersByToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newToyServer(t, func(conn int, say func(string), hear func() string) {
			hear() // beat
			for {
				for range tokens4 {
					if hear() == "" {
						return // the connection has ended
					}
				}
				for token := tokens4 - 1; token >= 0; token-- {
					say(fmt.Sprint(map[bool]string{true: "no ", false: "ok "}[token == 1], token))
				}
				say("ok 2") // once more
			}
		})
		d := tokenDialect{pushDialect{wire.Traits{Publish: true, Acks: true}}}
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d, Heartbeat: limpet.Heartbeat{Interval: 7 * time.Second}}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		for round := range 3 {
			var receipts []*limpet.Receipt
			for i := range tokens4 {
				r, err := c.Publish(t.Context(), "topic", fmt.Append(nil, round*tokens4+i), nil)
				assert.NoError(t, err)
				receipts = append(receipts, r)
			}
			synctest.Wait()
			for i, r := range receipts {
				if want := map[bool]limpet.Outcome{true: limpet.Rejected, false: limpet.Acked}[i == 1]; r.Outcome() != want {
					t.Errorf("round %d: message %d is %v, want %v", round, i, r.Outcome(), want)
				}
			}
		}
		if st := c.Stats(); st.Malformed != 3 || st.Connections != 1 || !strings.Contains(srv.all(), "beat 7s") {
			t.Errorf("%+v, the server heard\n%s", st, srv.all())
		}
	})
}

// A dialect sees the code of a fatal error frame and the close code apart.
func TestTwoCodesOfAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newPlainServer(t, func(p *plainConn) {
			p.text(eventText(wire.Event{Kind: wire.EventError, Fatal: true, Code: 77, Reason: "resource taken"}))
			p.ws.Close(4000, "bye")
		})
		d := verdictRecorder{flexDialect{}, make(chan wire.Failure, 1)}
		c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		if f := <-d.last; f.Code != 77 || f.CloseCode != 4000 || f.Reason != "resource taken" {
			t.Errorf("code %d, close code %d, %q", f.Code, f.CloseCode, f.Reason)
		}
	})
}
