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
	"github.com/limpet-go/limpet/wire/stomp"
)

// A receipt confirms a subscription. Messages are received from the first one on, and
// acknowledged when they were processed. A published message ends as Acked.
func TestStompSubscribeAndPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		b.put("/queue/a", "a1", "a2")
		c := b.client(t, stomp.Options{Login: "heron", Passcode: "p"}, limpet.Options{})
		s := subscribeLive(t, c, "/queue/a", nil)
		got := collect(t, s, 2)
		if text := payloads(got); text != "a1 a2" || got[0].Topic != "/queue/a" || got[0].Redelivered || got[0].Header["message-id"] == "" || got[0].Header["receipt"] != "" {
			t.Errorf("%s %+v", text, got[0])
		}
		ack, err := c.Send(t.Context(), "/queue/a", []byte("a3"), &limpet.PublishOptions{Header: map[string]string{"persistent": "true"}})
		if err != nil || ack.Outcome != limpet.Acked {
			t.Errorf("%v, %v", ack.Outcome, err)
		}
		if text := payloads(collect(t, s, 1)); text != "a3" {
			t.Error(text)
		}
		synctest.Wait()
		if text := b.state(t); text != "acked a1 a2 a3, nacked , open 0, waiting 0" {
			t.Error(text)
		}
		if n := b.count("SEND", "persistent:true", "amqp-message-id:"+ack.ID.String()); n != 1 {
			t.Errorf("%d frames with the header and the id", n)
		}
	})
}

// What was not acknowledged comes again after a lost connection, as redelivered and under
// another message-id, behind a Reset: at least once.
func TestStompRedelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		b.put("/queue/a", "a1", "a2")
		c := b.client(t, stomp.Options{}, limpet.Options{})
		s := subscribeLive(t, c, "/queue/a", &limpet.SubscribeOptions{ManualAck: true})
		first := takeUnacked(t, s, 2)
		first[0].Ack()
		synctest.Wait()
		b.cut(t, c)
		first[1].Ack() // of a connection that is gone
		got := takeUnacked(t, s, 2)
		if text := payloads(got); text != "reset a2" || !got[1].Redelivered || got[1].Header["message-id"] == first[1].Header["message-id"] {
			t.Errorf("%s, redelivered %v", text, got[1].Redelivered)
		}
		got[1].Ack()
		synctest.Wait()
		if text := b.state(t); text != "acked a1 a2, nacked , open 0, waiting 0" {
			t.Error(text)
		}
	})
}

// A message that was sent and has no receipt when the connection ends is Unknown. With
// AtLeastOnce it is sent again.
func TestStompPublishCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		b.set(func() { b.noReceipt = true })
		c := b.client(t, stomp.Options{}, limpet.Options{})
		assert.NoError(t, c.WaitReady(t.Context()))
		once, err := c.Publish(t.Context(), "/queue/a", []byte("once"), nil)
		assert.NoError(t, err)
		again, err := c.Publish(t.Context(), "/queue/a", []byte("again"), &limpet.PublishOptions{Resend: limpet.AtLeastOnce})
		assert.NoError(t, err)
		synctest.Wait()
		if once.Outcome() != limpet.Pending || b.count("SEND") != 2 {
			t.Errorf("%v after %d frames", once.Outcome(), b.count("SEND"))
		}
		b.set(func() { b.noReceipt = false })
		b.cut(t, c)
		_, err = again.Wait(t.Context())
		if err != nil || once.Outcome() != limpet.Unknown || again.Outcome() != limpet.Acked || b.count("SEND", "once") != 1 || b.count("SEND", "again") != 2 {
			t.Errorf("%v, %v, %v", once.Outcome(), again.Outcome(), err)
		}
	})
}

// A refused subscription ends with a typed error, however the broker says which one it
// means. The connection ends with the ERROR, and at once; the others come back.
func TestStompRefusedSubscription(t *testing.T) {
	for _, row := range []struct {
		name, text string
		named      bool
		code       int
	}{
		{"by receipt-id", "nope||", true, stomp.CodeRefused},
		{"by destination", "Unknown destination||'/n/bad' is not a valid destination.|", false, stomp.CodeNotFound},
		{"by being alone", "access_refused||x", false, stomp.CodeForbidden},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newStompBroker(t)
				b.set(func() { b.refuses["/n/bad"], b.named = row.text, row.named })
				c := b.client(t, stomp.Options{}, limpet.Options{})
				var good []*limpet.Subscription
				for _, topic := range []string{"/queue/a", "/queue/b"} {
					s, err := c.Subscribe(t.Context(), topic, nil)
					assert.NoError(t, err)
					good = append(good, s)
				}
				bad, err := c.Subscribe(t.Context(), "/n/bad", nil)
				assert.NoError(t, err)
				began := time.Now()
				err = bad.WaitLive(t.Context())
				var e *limpet.Error
				if !errors.Is(err, limpet.ErrRejected) || !errors.As(err, &e) || e.Class != limpet.ClassRejected || e.Code != row.code {
					t.Errorf("%v", err)
				}
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("refused after %v", took)
				}
				time.Sleep(10 * time.Second)
				b.put("/queue/a", "a1")
				b.put("/queue/b", "b1")
				for i, want := range []string{"a1", "b1"} {
					got := collect(t, good[i], 1)
					if got[0].Kind == limpet.Reset {
						got = collect(t, good[i], 1)
					}
					if payloads(got) != want {
						t.Errorf("%s: %s", want, payloads(got))
					}
				}
				if c.State().Generation < 2 || b.count("SUBSCRIBE", "/n/bad") > 3 {
					t.Errorf("%d connections, asked %d times", c.State().Generation, b.count("SUBSCRIBE", "/n/bad"))
				}
			})
		})
	}
}

// An ERROR that names a message refuses it. What else was in flight is Unknown, or with
// AtLeastOnce sent again: the ERROR ends the connection.
func TestStompRefusedPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		b.set(func() { b.noReceipt = true })
		c := b.client(t, stomp.Options{}, limpet.Options{})
		assert.NoError(t, c.WaitReady(t.Context()))
		var receipts []*limpet.Receipt
		for _, o := range []*limpet.PublishOptions{{Resend: limpet.AtLeastOnce}, nil, {Resend: limpet.AtLeastOnce}} {
			r, err := c.Publish(t.Context(), "/queue/a", []byte("x"), o)
			assert.NoError(t, err)
			receipts = append(receipts, r)
		}
		synctest.Wait()
		b.set(func() { b.noReceipt = false })
		b.say("ERROR|receipt-id:1|message:no||")
		_, err := receipts[2].Wait(t.Context())
		assert.NoError(t, err)
		if a, b := receipts[0].Outcome(), receipts[1].Outcome(); a != limpet.Rejected || b != limpet.Unknown {
			t.Errorf("%v, %v", a, b)
		}
		if n := b.count("2 SEND"); n != 1 || b.count("1 SEND") != 3 {
			t.Errorf("%d messages on the second connection", n)
		}
	})
}

// Nothing is written after an ERROR, and the client closes at once: what is published then
// has a certain outcome on the next connection (rows R13 and S6).
func TestStompErrorEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		c := b.client(t, stomp.Options{}, limpet.Options{})
		assert.NoError(t, c.WaitReady(t.Context()))
		b.say("ERROR|message:Bad command||x")
		at := time.Now()
		_, err := c.WaitState(t.Context(), func(st limpet.State) bool { return st.Phase != limpet.Ready })
		assert.NoError(t, err)
		if took := time.Since(at); took > 100*time.Millisecond {
			t.Errorf("closed after %v", took)
		}
		ack, err := c.Send(t.Context(), "/queue/a", []byte("x"), nil)
		if err != nil || ack.Outcome != limpet.Acked || b.count("1 SEND") != 0 || b.count("2 SEND") != 1 {
			t.Errorf("%v, %v", ack.Outcome, err)
		}
		var e *limpet.Error
		if !errors.As(c.State().Cause, &e) || e.Class != limpet.ClassRejected || e.Code != stomp.CodeRefused {
			t.Errorf("%v", c.State().Cause)
		}
	})
}

// A login that the broker refuses ends the client, class auth. A token is refreshed first.
func TestStompLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		b.set(func() { b.passcode = "s3cret" })
		c := b.client(t, stomp.Options{Login: "heron", Passcode: "wrong"}, limpet.Options{})
		err := c.WaitReady(t.Context())
		var permanent *limpet.PermanentError
		if !errors.As(err, &permanent) || permanent.Class != limpet.ClassAuth || b.count("CONNECT ") != 1 || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%d attempts: %v", b.count("CONNECT "), err)
		}
		tokens := []limpet.Secret{"old", "s3cret"}
		c = b.client(t, stomp.Options{Login: "heron"}, limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			token := tokens[0]
			tokens = tokens[min(1, len(tokens)-1):]
			return limpet.Credential{Token: token}, nil
		}})
		assert.NoError(t, c.WaitReady(t.Context()))
		if b.count("CONNECT ", "passcode:old") != 1 || b.count("CONNECT ", "passcode:s3cret") != 1 {
			t.Errorf("%q", b.heard)
		}
	})
}

// The client sends a heartbeat in each interval, and notices a server that stops. One that
// does not beat, or too rarely, is asked; it is not taken for dead.
func TestStompHeartbeats(t *testing.T) {
	for _, beats := range []string{"20000,20000", "0,0", "60000,0"} {
		t.Run(beats, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newStompBroker(t)
				b.set(func() { b.beats = beats })
				c := b.client(t, stomp.Options{}, limpet.Options{})
				assert.NoError(t, c.WaitReady(t.Context()))
				stop := make(chan struct{})
				if beats == "20000,20000" {
					go func() {
						for range 30 {
							time.Sleep(20 * time.Second)
							b.set(func() { b.conn.ws.Write(context.Background(), 1, []byte("\n")) })
						}
						close(stop)
					}()
				} else {
					go func() { time.Sleep(10 * time.Minute); close(stop) }()
				}
				<-stop
				if st := c.State(); st.Generation != 1 || st.Phase != limpet.Ready {
					t.Fatalf("connection %d, %v", st.Generation, st.Cause)
				}
				if n := b.count("ABORT", "receipt:ping"); beats == "20000,20000" && n != 0 || beats != "20000,20000" && (n < 29 || n > 31) {
					t.Errorf("asked %d times", n)
				}
				b.set(func() { b.dead = true })
				at := time.Now()
				_, err := c.WaitState(t.Context(), func(st limpet.State) bool { return st.Phase != limpet.Ready })
				assert.NoError(t, err)
				if took := time.Since(at); took > 51*time.Second || !errors.Is(c.State().Cause, limpet.ErrHeartbeat) {
					t.Errorf("noticed after %v: %v", took, c.State().Cause)
				}
			})
		})
	}
}

// A broker that misses heartbeats closes with 1000 "STOMP died": the client comes back.
func TestStompClose1000(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		c := b.client(t, stomp.Options{}, limpet.Options{})
		for n := uint64(1); n < 4; n++ {
			_, err := c.WaitState(t.Context(), func(st limpet.State) bool { return st.Phase == limpet.Ready && st.Generation == n })
			assert.NoError(t, err)
			b.set(func() { go b.conn.ws.Close(1000, "STOMP died") })
		}
		time.Sleep(time.Minute)
		if st := c.State(); st.Phase != limpet.Ready || st.Generation != 4 {
			t.Errorf("%v on connection %d", st.Phase, st.Generation)
		}
	})
}
