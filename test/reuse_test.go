package test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// A program that publishes under the same id again, after a crash, learns that the first message
// was accepted; another message under that id is refused by name.
func TestSameIDAfterACrash(t *testing.T) {
	for _, encoding := range []native.Encoding{native.JSON, native.Binary} {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, nil)
			id := uuid.Must(uuid.NewV7())
			ctx := context.Background()
			send := func(topic, text string) (limpet.Ack, error) {
				c := dial(t, srv, &limpet.Options{Dialect: native.New(&native.Options{Encoding: encoding})})
				defer closeAndWait(t, c)
				return c.Send(ctx, topic, []byte(text), &limpet.PublishOptions{ID: id})
			}
			if ack, err := send("t", "paid"); err != nil || ack.Duplicate {
				t.Fatalf("first: %+v, %v", ack, err)
			}
			if ack, err := send("t", "paid"); err != nil || !ack.Duplicate || ack.Outcome != limpet.Acked {
				t.Fatalf("again: %+v, %v", ack, err)
			}
			for topic, text := range map[string]string{"t": "paid twice", "u": "paid"} {
				ack, err := send(topic, text)
				if ack.Outcome != limpet.Rejected || !errors.Is(err, limpet.ErrIDReused) || !errors.Is(err, limpet.ErrRejected) || limpet.SafeToRetry(err) {
					t.Fatalf("%s on %s: %+v, %v", text, topic, ack, err)
				}
			}
			if head := srv.Log.View().Head; head != 1 {
				t.Fatalf("%d messages in the log", head)
			}
		})
	}
}

// That a message was a duplicate is not lost with the acknowledgement: WELCOME repeats it.
func TestDuplicateIsToldAfterReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		id := uuid.Must(uuid.NewV7())
		ctx := context.Background()
		first := dial(t, srv, nil)
		if _, err := first.Send(ctx, "t", []byte("x"), &limpet.PublishOptions{ID: id}); err != nil {
			t.Fatal(err)
		}
		closeAndWait(t, first)
		c := dial(t, srv, &limpet.Options{Heartbeat: limpet.Heartbeat{Interval: time.Second}})
		srv.Network.Strike(limpettest.BlackHole(limpettest.Down))
		ack, err := c.Send(ctx, "t", []byte("x"), &limpet.PublishOptions{ID: id})
		synctest.Wait() // the resume is counted after the outcomes
		if err != nil || !ack.Duplicate || c.Stats().Resumes == 0 {
			t.Fatalf("%+v, %v, %d resumes", ack, err, c.Stats().Resumes)
		}
		closeAndWait(t, c)
	})
}

// Beyond the horizon an id is not known: what may have been accepted before is Unknown, not
// accepted a second time.
func TestIDBeyondTheHorizon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Dedup: time.Minute, SessionTTL: time.Second}})
		c := dial(t, srv, &limpet.Options{Heartbeat: limpet.Heartbeat{Interval: time.Second}})
		srv.Network.Strike(limpettest.BlackHole(limpettest.Down)) // the server accepts it, and its ack is lost
		r, err := c.Publish(context.Background(), "t", []byte("x"), nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		srv.Stop()
		time.Sleep(3 * time.Minute)
		srv.Start()
		ack, err := r.Wait(context.Background())
		if ack.Outcome != limpet.Unknown || !errors.Is(err, limpet.ErrOutcomeUnknown) || srv.Log.View().Head != 1 {
			t.Fatalf("%+v, %v, %d messages in the log", ack, err, srv.Log.View().Head)
		}
		closeAndWait(t, c)
	})
}
