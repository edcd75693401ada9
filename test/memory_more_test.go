package test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
)

// Headers cost memory, although they are not part of Delivery.Bytes, and so does a Gap.
func TestMemoryBesidePayloads(t *testing.T) {
	header := map[string]string{"h": strings.Repeat("x", 7000)}
	for _, tc := range []struct {
		overflow       limpet.Overflow
		subs, messages int
	}{{limpet.Block, 6, 40}, {limpet.DropOldest, 50, 1}, {limpet.DropNewest, 50, 1}, {limpet.Latest, 50, 1}} {
		synctest.Test(t, func(t *testing.T) {
			srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{MaxPayload: mebibyte}})
			c := dial(t, srv, memoryOptions())
			for i := range tc.subs {
				subscribeLive(t, c, fmt.Sprint("t", i), large(tc.overflow))
			}
			for i := range tc.subs {
				topic := fmt.Sprint("t", i)
				for range tc.messages {
					if _, err := srv.Server.Publish(t.Context(), topic, nil, &server.PublishOptions{Header: header}); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait() // the last ones come when nothing is left
			}
			st := c.Stats()
			waiting := int(st.Messages.Waiting)
			if waiting != tc.subs*tc.messages || st.Memory < waiting*7000 {
				t.Errorf("%v: %d bytes are in use, with %d of %d messages of 7,000 waiting", tc.overflow, st.Memory, waiting, tc.subs*tc.messages)
			}
			if tc.overflow == limpet.Block {
				return // its window has room for a gap
			}
			subscribeLive(t, c, "gap", large(tc.overflow))
			before := c.Stats().Memory
			publish(t, srv, "gap", strings.Repeat("x", mebibyte*3/4)) // beyond ReadLimit
			synctest.Wait()
			if n := c.Stats().Memory; n <= before {
				t.Errorf("%v: a gap that waits costs nothing", tc.overflow)
			}
			for range 200 {
				if _, err := srv.Server.Publish(t.Context(), "gap", nil, &server.PublishOptions{Header: header}); err != nil {
					t.Fatal(err)
				}
				checkMemory(t, c, mebibyte)
			}
		})
	}
}

// What takes the place of a message with the same key makes no other subscription drop messages,
// however many keys there are.
func TestUpdatesNeedNoMoreMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, memoryOptions())
		o := large(limpet.Latest)
		o.Delivery.Key = func(m limpet.Message) string { return string(m.Payload) }
		subscribeLive(t, c, "keys", o)
		other := subscribeLive(t, c, "other", large(limpet.DropOldest))
		for other.Stats().Dropped == 0 {
			publish(t, srv, "other", strings.Repeat("x", 500))
			synctest.Wait()
		}
		for i := range 700 {
			publish(t, srv, "keys", fmt.Sprint(i))
			synctest.Wait()
			before := other.Stats().Dropped
			publish(t, srv, "keys", fmt.Sprint(i))
			synctest.Wait()
			if n := other.Stats().Dropped - before; n > 20 { // a 128th of the memory
				t.Errorf("with %d keys, an update made another subscription drop %d messages", i+1, n)
			}
		}
		checkMemory(t, c, mebibyte)
	})
}

// A queue that gives back what it holds without need, for its own message, still counts the
// whole message.
func TestMemoryThatAQueueHeldWithoutNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{MaxPayload: mebibyte}})
		c := dial(t, srv, memoryOptions())
		o := large(limpet.DropNewest)
		o.Delivery.Buffer = 100
		s := subscribeLive(t, c, "s", o)
		subscribeLive(t, c, "other", large(limpet.DropOldest))
		for range 100 {
			publish(t, srv, "s", strings.Repeat("x", 3600))
			synctest.Wait()
		}
		publish(t, srv, "s", strings.Repeat("x", 200_000)) // reserved, and dropped
		publish(t, srv, "other", strings.Repeat("x", 330_000))
		checkMemory(t, c, mebibyte)
		publish(t, srv, "s", strings.Repeat("x", 450_000))
		checkMemory(t, c, mebibyte)
		if st := s.Stats(); st.Dropped < 2 {
			t.Errorf("nothing gave way: the test shows nothing: %+v", st)
		}
	})
}
