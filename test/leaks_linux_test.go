package test

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
)

// What a client has once it is connected does not grow with the number of its connections,
// however they end.

// endConnection ends a connection of host in one of four ways.
func endConnection(host *limpettest.Host, nc net.Conn, number int) {
	switch number % 4 {
	case 0: // FIN
	case 1: // a close frame
		nc.Write(rawFrame(0x88, closePayload(1012, "")))
		nc.SetReadDeadline(time.Now().Add(time.Second))
		drain(nc)
	case 2: // RST
		host.Network.ResetAll()
	case 3: // in the middle of a message
		nc.Write(rawFrame(0x82, "half a message")[:5])
	}
}

// reconnectAtOnce reconnects without a wait, but for the 100 ms between two attempts.
var reconnectAtOnce = limpet.Backoff{First: -1, Initial: time.Millisecond, Max: time.Millisecond}

func TestManyReconnectsLeaveNothing(t *testing.T) {
	many := uint64(manyReconnects(2000, 100_000))
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			var number atomic.Int32 // of connections
			var host *limpettest.Host
			host = limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
				time.Sleep(10 * time.Millisecond)
				endConnection(host, nc, int(number.Add(1)))
			}), &limpettest.HostOptions{Network: &limpettest.NetworkOptions{Dials: 16}})
			c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawDialect{}, Backoff: reconnectAtOnce, PlainFrames: plain}))
			assert.NoError(t, err)
			_, err = c.Subscribe(t.Context(), "x", nil)
			assert.NoError(t, err)
			var goroutines, conns int
			var heap int64 // timers that are left show here
			for _, generation := range []uint64{100, many} {
				_, err := c.WaitState(within(t, 100*time.Hour), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation >= generation })
				assert.NoError(t, err)
				time.Sleep(5 * time.Millisecond)
				synctest.Wait()
				runtime.GC() // and once more: pools give up what they hold in two collections
				n, open, bytes := runtime.NumGoroutine(), host.Network.Conns(), limpettest.HeapInUse()
				if goroutines == 0 {
					goroutines, conns, heap = n, open, bytes
				}
				t.Logf("plain %v: after %d reconnects %d goroutines, %d connections, heap %d bytes", plain, generation, n, open, bytes)
				if bytes > heap+64<<10+10*int64(generation) {
					t.Errorf("plain %v: %d bytes of heap after %d reconnects, %d after 100", plain, bytes, generation, heap)
				}
				if n > goroutines+5 || open > conns+2 { // what the last connection leaves is about to end
					t.Errorf("plain %v: %d goroutines and %d connections after %d reconnects, %d and %d after 100", plain, n, open, generation, goroutines, conns)
				}
			}
			at := time.Now()
			closeAndWait(t, c)
			if took := time.Since(at); took > 100*time.Millisecond {
				t.Errorf("plain %v: the end took %v", plain, took)
			}
		})
	}
}

// descriptors returns how many descriptors of this process are open.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	assert.NoError(t, err)
	return len(entries)
}

func TestManyReconnectsOnSocketsLeaveNothing(t *testing.T) {
	numClients, each := manyReconnects(5, 50), uint64(manyReconnects(40, 200))
	for _, plain := range bothFrameLayers() {
		t.Run(fmt.Sprintf("plain %v", plain), func(t *testing.T) {
			assert.NoLeaks(t)
			defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection closes sockets that were lost
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			before := descriptors(t)
			var clients []*limpet.Client
			for range numClients {
				var number atomic.Int32
				hosts := make(chan *limpettest.Host, 1)
				host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
					host := <-hosts
					hosts <- host
					endConnection(host, nc, int(number.Add(1)))
				}), &limpettest.HostOptions{Loopback: true})
				hosts <- host
				c, err := limpet.New(host.URL(), options(&limpet.Options{Dialect: rawDialect{}, Backoff: reconnectAtOnce, PlainFrames: plain})) // the default transport
				assert.NoError(t, err)
				clients = append(clients, c)
			}
			for _, c := range clients {
				if st, err := c.WaitState(ctx, func(s limpet.State) bool { return s.Generation >= each || s.Phase == limpet.Ended }); err != nil || st.Phase == limpet.Ended {
					t.Fatalf("%+v: %v", st, err)
				}
			}
			// Listeners, and of each client both ends of the sockets that are about to be closed.
			n := descriptors(t)
			t.Logf("%d descriptors after %d connections of %d clients, %d before", n, numClients*int(each), numClients, before)
			if n > before+8*numClients {
				t.Errorf("%d descriptors after %d connections, %d before", n, numClients*int(each), before)
			}
			for _, c := range clients {
				closeAndWait(t, c)
			}
		})
	}
}
