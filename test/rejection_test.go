package test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// rejectingDialect is a dialect that cannot spell one word.
type rejectingDialect struct{ wire.Dialect }

type rejectingCodec struct{ wire.Codec }

func (d rejectingDialect) Open(r wire.Resume) (wire.Codec, error) {
	c, err := d.Dialect.Open(r)
	return rejectingCodec{c}, err
}

func (c rejectingCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	for i, op := range ops {
		if op.Kind == wire.OpPublish && string(op.Message.Payload) == "unspeakable" {
			if err := c.Codec.Encode(ops[:i], out); err != nil {
				return err
			}
			return &wire.OpError{Index: i, Err: errors.New("no word for it")}
		}
	}
	return c.Codec.Encode(ops, out)
}

// A message that cannot be spelled is rejected alone, at once, and neither
// delays the others nor uses up the server's credit.
func TestUnspellableMessageHarmsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Dialect: rejectingDialect{native.New(nil)}})
		bad := limpet.Outgoing{Topic: "a", Payload: []byte("unspeakable")}
		big := make([]byte, 60<<10)
		at := time.Now()
		for round := range 200 {
			rs, err := c.PublishBatch(context.Background(), []limpet.Outgoing{bad, {Topic: "a", Payload: big}, bad, {Topic: "a"}})
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range rs {
				want := limpet.Acked
				if i%2 == 0 {
					want = limpet.Rejected
				}
				if ack, err := r.Wait(context.Background()); ack.Outcome != want {
					t.Fatalf("round %d, message %d: %v, %v", round, i, ack.Outcome, err)
				}
			}
		}
		if took := time.Since(at); took > time.Second {
			t.Errorf("took %v", took)
		}
		if st := c.Stats(); st.Resent != 0 {
			t.Errorf("%d messages were sent twice on one connection", st.Resent)
		}
	})
}

// tooBigServer takes messages, closes 1009 on the payload "big", and
// acknowledges a second late.
func tooBigServer(t *testing.T, took *[]string) *scriptedServer {
	var accepted []wire.ID
	return newScriptedServer(t, func(p *scriptedConn) {
		w := p.welcome()
		to := uint64(len(accepted))
		w.Welcome.Res, w.Welcome.Ack = p.number > 1, to
		if to > 0 {
			w.Welcome.Tag = accepted[to-1]
		}
		p.sendFrames(append([]native.Frame{w}, p.confirmations()...)...)
		for f := p.read(); f != nil; f = p.read() {
			for _, f := range f {
				if f.Type == native.TypeMsg && string(f.Msg.Payload) == "big" {
					p.ws.Close(1009, "")
					return
				}
			}
			for _, f := range f {
				if f.Type == native.TypeMsg && f.Msg.S == to+1 {
					to++
					accepted = append(accepted, f.Msg.ID)
					if f.Msg.Flags&native.FlagVoid == 0 {
						*took = append(*took, string(f.Msg.Payload))
					}
					late := native.Frame{Type: native.TypeAck, Ack: &native.Ack{To: to, HasTo: true}}
					timer := time.AfterFunc(time.Second, func() { p.sendFrames(late) })
					defer timer.Stop()
				}
			}
		}
	})
}

// Only the message that is too big is rejected, wherever it stands and however
// slow the server is with its acknowledgements.
func TestTooBigBlamesTheRightMessage(t *testing.T) {
	for at := range 4 {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var took []string
				s := tooBigServer(t, &took)
				c, _ := s.start(limpet.Options{})
				var ms []limpet.Outgoing
				for i := range 4 {
					body := fmt.Sprint(i)
					if i == at {
						body = "big"
					}
					ms = append(ms, limpet.Outgoing{Topic: "a", Payload: []byte(body)})
				}
				rs, err := c.PublishBatch(context.Background(), ms)
				if err != nil {
					t.Fatal(err)
				}
				for i, r := range rs {
					ack, err := r.Wait(context.Background())
					if want := map[bool]limpet.Outcome{true: limpet.Rejected, false: limpet.Acked}[i == at]; ack.Outcome != want {
						t.Errorf("message %d: %v, %v", i, ack.Outcome, err)
					}
					if i == at && !errors.Is(err, limpet.ErrTooBig) {
						t.Errorf("message %d: %v", i, err)
					}
				}
				if len(took) != 3 {
					t.Errorf("the server took %q", took)
				}
			})
		})
	}
}

// A server that finds the handshake too big says nothing about a message that
// went out on an earlier connection.
func TestTooBigHandshakeBlamesNoMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(t, func(p *scriptedConn) {
			switch p.number {
			case 1:
				p.sendFrames(append([]native.Frame{p.welcome()}, p.confirmations()...)...)
				p.read() // takes the message and does not answer
				p.ws.CloseNow()
			case 2:
				p.ws.Close(1009, "")
			default:
				w := p.welcome()
				w.Welcome.Res, w.Welcome.Ack, w.Welcome.Tag = true, 1, p.hello.Up.Tag
				w.Welcome.Tag = wire.ID{}
				p.sendFrames(append([]native.Frame{w}, p.confirmations()...)...)
			}
		})
		c, _ := s.start(limpet.Options{})
		if ack, err := c.Send(context.Background(), "a", []byte("x"), nil); ack.Outcome != limpet.Acked {
			t.Errorf("%v, %v", ack.Outcome, err)
		}
	})
}

// A language without sessions gives a message up that is too big, even one
// that would rather be sent twice.
func TestTooBigWithoutSessions(t *testing.T) {
	for resend := range limpet.Never + 1 {
		synctest.Test(t, func(t *testing.T) {
			srv := newToyServer(t, func(conn int, say func(string), hear func() string) { say("ready") })
			srv.host.Network.Each(func(int) limpettest.Fault { return limpettest.CloseWith(1009, "", 1).AfterFrames(limpettest.Up, 1) })
			d := newToyDialect()
			d.traits.Acks = true
			c, err := limpet.New(srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: retryNowDialect{d}}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			r, err := c.Publish(context.Background(), "x", []byte("hello"), &limpet.PublishOptions{Resend: resend})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			if _, err := r.Wait(ctx); r.Outcome() != limpet.Rejected && r.Outcome() != limpet.Unknown {
				t.Errorf("Resend %v: %v after %d connections, %v", resend, r.Outcome(), c.State().Generation, err)
			}
		})
	}
}
