package test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// From Shutdown on every call is refused at once, and for this reason, whatever ends
// the client in the meantime.
func TestCallsDuringShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScriptedServer(t, func(p *scriptedConn) {
			p.sendFrames(append([]native.Frame{p.welcome()}, p.confirmations()...)...)
			p.sendFrames(dataFrame(1, 0, "not taken"))
			time.Sleep(10 * time.Second)
			p.ws.Close(4008, "")
		})
		c, _ := s.start(limpet.Options{Heartbeat: rareHeartbeats})
		time.Sleep(time.Second)
		go c.Shutdown(context.Background())
		synctest.Wait()
		refused := func(when string) {
			at := time.Now()
			_, subscribed := c.Subscribe(context.Background(), "b", nil)
			_, published := c.Publish(context.Background(), "b", nil, nil)
			var p *limpet.PermanentError
			for _, err := range []error{subscribed, published} {
				if !errors.Is(err, limpet.ErrClosed) || errors.As(err, &p) || time.Since(at) > 0 {
					t.Errorf("%s, after %v: %v", when, time.Since(at), err)
				}
			}
		}
		refused("during Shutdown")
		select {
		case <-c.Done():
			t.Error("the client has ended: this proves nothing")
		default:
		}
		<-c.Done()
		if limpet.ClassOf(c.Err()) == limpet.ClassClosed {
			t.Errorf("the client ended with %v: this proves nothing", c.Err())
		}
		refused("after a permanent failure")
	})
}

// A dialect hears of the end of a session once, and only if it has the trait.
func TestByeNeedsTheTrait(t *testing.T) {
	for _, fin := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			srv := newToyServer(t, func(_ int, say func(string), _ func() string) { say("ready") })
			var byes atomic.Int32
			d := recordingDialect{newToyDialect(), func(op wire.Op) {
				if op.Kind == wire.OpBye {
					byes.Add(1)
				}
			}}
			d.traits.Fin = fin
			c, err := limpet.Dial(context.Background(), srv.host.URL(), options(&limpet.Options{HTTPClient: srv.host.HTTPClient(), Dialect: d}))
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Shutdown(within(t, time.Minute)); err != nil {
				t.Error(err)
			}
			<-c.Done()
			if n := byes.Load(); n != map[bool]int32{true: 1}[fin] {
				t.Errorf("with the trait %v: %d", fin, n)
			}
		})
	}
}
