package server_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// The record of a session stays in the store for as long as its connection lives, however long
// the client publishes nothing.
func TestSessionInUseDoesNotExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, &server.Options{SessionTTL: time.Second, Heartbeat: time.Minute, Store: server.NewMemoryStore(nil)})
		c := r.connect(native.Binary)
		w := c.hello(native.Hello{CN: 1})
		for range 240 {
			time.Sleep(time.Minute)
			c.send(native.Frame{Type: native.TypePing, N: 1})
			c.next(native.TypePong)
		}
		c.send(msg(1, idOf(1), "t", "x"))
		c.acked(1)
		c.ws.CloseNow()
		synctest.Wait()
		c = r.connect(native.Binary)
		if w = c.hello(resume(w, 2, 2, 1)); !w.Res || w.Ack != 1 {
			t.Fatalf("welcome %+v", w)
		}
	})
}
