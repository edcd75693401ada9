package server_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// What the server is accepting while Shutdown begins is acknowledged before the connection is
// closed. The client may go to another server, which does not know what this one has accepted.
func TestShutdownAcknowledgesWhatItIsAccepting(t *testing.T) {
	both(t, func(t *testing.T, enc native.Encoding) {
		log := &gatedLog{Log: server.NewMemoryLog(server.Retention{})}
		log.hold()
		r := newRig(t, &server.Options{Log: log})
		c := r.connect(enc)
		c.hello(native.Hello{CN: 1})
		c.publish(1, "t", "x")
		synctest.Wait() // the message is with the log
		done := make(chan error, 1)
		go func() { done <- r.srv.Shutdown(context.Background()) }()
		c.next(native.TypeGoAway) // at once: the client must not wait for the log
		time.Sleep(200 * time.Millisecond)
		log.open()
		c.acked(1)
		c.wantClose(native.CloseGoingAway)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A log or a hook that takes too long does not hold up the close frame.
func TestShutdownWaitsForNoLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &gatedLog{Log: server.NewMemoryLog(server.Retention{})}
		log.hold()
		r := newRig(t, &server.Options{Log: log})
		c := r.connect(native.JSON)
		c.hello(native.Hello{CN: 1})
		c.publish(1, "t", "x")
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- r.srv.Shutdown(ctx) }()
		c.next(native.TypeGoAway)
		c.wantClose(native.CloseGoingAway)
		if took := time.Since(began); took > time.Second {
			t.Errorf("closed after %v", took)
		}
		log.open()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// What was read when the connection began to end is not accepted: its acknowledgement would come
// after the last one.
func TestShutdownAcceptsNothingMore(t *testing.T) {
	if server.BeginsAfterTheEnd() {
		t.Error("a batch is applied although the connection is ending")
	}
}

// An operator sees in the log that the clients are asked to leave, how many, and in which time.
func TestDrainInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := newRig(t, &server.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
		c := r.connect(native.JSON)
		c.hello(native.Hello{CN: 1})
		r.srv.Drain(&server.DrainOptions{Spread: 2 * time.Second, URL: "ws://127.0.0.1/?ticket=canary"})
		c.next(native.TypeGoAway)
		if text := out.String(); !strings.Contains(text, "level=INFO msg=drain connections=1 after=0s spread=2s deadline=0s") || strings.Contains(text, "canary") {
			t.Errorf("%s", text)
		}
	})
}
