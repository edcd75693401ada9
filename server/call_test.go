package server_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

func callFrame(n uint64, topic string, size int) native.Frame {
	return native.Frame{Type: native.TypeCall, Call: &native.Call{N: n, Topic: topic, Payload: make([]byte, size)}}
}

// greeted connects to a server that has the features given.
func greeted(r *rig, enc native.Encoding, features ...string) *client {
	c := r.connect(enc)
	if w := c.hello(native.Hello{CN: 1}); !slices.Equal(w.Feat, features) {
		r.t.Errorf("features %q, want %q", w.Feat, features)
	}
	return c
}

// replies returns the codes of the next n replies, by number.
func (c *client) replies(n int) map[uint64]uint64 {
	c.t.Helper()
	codes := map[uint64]uint64{}
	for len(codes) < n {
		if f := c.next(native.TypeReply); f.Reply != nil {
			codes[f.Reply.N] = f.Reply.Code
		} else {
			c.t.Fatalf("no reply: %+v", f)
		}
	}
	return codes
}

// However many calls come, a bounded number of hooks runs, with a bounded size of payloads. The others are refused.
func TestCallsAreBounded(t *testing.T) {
	for _, tc := range []struct{ calls, size, served int }{{300, 0, 256}, {40, 100 << 10, 10}, {3, 200 << 10, 5}} {
		synctest.Test(t, func(t *testing.T) {
			var now, most atomic.Int64
			r := newRig(t, &server.Options{WindowBytes: 1 << 20, Hooks: server.Hooks{
				OnCall: func(ctx context.Context, _ server.Principal, m server.Message) (server.Reply, error) {
					most.Store(max(most.Load(), now.Add(1)))
					defer now.Add(-1)
					time.Sleep(time.Second)
					return server.Reply{}, nil
				},
			}})
			c := greeted(r, native.Binary, native.FeatureCall)
			for i := range tc.calls {
				c.send(callFrame(uint64(i), "a", tc.size))
			}
			refused := 0
			for _, code := range c.replies(tc.calls) {
				switch code {
				case 0:
				case native.CodeRateLimited:
					refused++
				default:
					t.Errorf("code %d", code)
				}
			}
			if served := tc.calls - refused; served != min(tc.calls, tc.served) || int64(served) != most.Load() {
				t.Errorf("%d calls of %d bytes: %d served, %d at a time", tc.calls, tc.size, served, most.Load())
			}
			synctest.Wait()
			c.send(callFrame(1000, "a", tc.size))
			c.send(callFrame(1001, "a/*", 0))
			if codes := c.replies(2); codes[1000] != 0 || codes[1001] != native.CodeBadRequest {
				t.Errorf("afterwards: %v", codes)
			}
		})
	}
}

// The context of a hook ends with the connection, and the server waits for it.
func TestCallEndsWithTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended time.Time
		r := newRig(t, &server.Options{Hooks: server.Hooks{
			OnCall: func(ctx context.Context, _ server.Principal, m server.Message) (server.Reply, error) {
				<-ctx.Done()
				ended = time.Now()
				time.Sleep(time.Second)
				return server.Reply{}, ctx.Err()
			},
		}})
		c := greeted(r, native.JSON, native.FeatureCall)
		c.send(callFrame(1, "a", 0))
		time.Sleep(time.Second)
		began := time.Now()
		c.ws.CloseNow()
		synctest.Wait()
		if ended != began || r.srv.Stats().Conns != 1 {
			t.Errorf("ended after %v, %d connections", ended.Sub(began), r.srv.Stats().Conns)
		}
		time.Sleep(2 * time.Second)
		if n := r.srv.Stats().Conns; n != 0 {
			t.Errorf("%d connections", n)
		}
	})
}

// A server that takes no calls does not say that it does, and ends a connection on which one comes.
func TestNoCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := greeted(r, native.JSON)
		c.send(callFrame(1, "a", 0))
		c.wantClose(native.CloseProtocolError)
	})
}
