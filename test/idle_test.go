package test

import (
	"context"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

// goroutinesIn returns the numbers of the goroutines that are inside function.
func goroutinesIn(function string) []string {
	b := make([]byte, 1<<20)
	var numbers []string
	for _, g := range strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n") {
		if strings.Contains(g, function+"(") {
			numbers = append(numbers, strings.Fields(g)[1])
		}
	}
	return numbers
}

// A stack never shrinks to its first size, so after a rare message the waiting
// goes on on a new one. Messages that follow each other closely have one
// goroutine, and one loop.
func TestStacksOfIdleConnections(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			send := make(chan bool)
			host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
				for range send {
					nc.Write([]byte{0x82, 1, 'x'})
				}
			}), nil)
			c, err := limpet.Dial(context.Background(), host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawDialect{}, PlainFrames: plain}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			defer close(send)
			// message sends one after a pause, wakes the loop as well, and
			// returns who waits for the next.
			message := func(pause time.Duration) (reader string, loops int) {
				time.Sleep(pause)
				send <- true
				c.ReconnectNow()
				synctest.Wait()
				readers := goroutinesIn("limpet.(*reader).run")
				if len(readers) != 1 {
					t.Fatalf("plain %v: %d readers", plain, len(readers))
				}
				return readers[0], len(goroutinesIn("limpet.(*loop).run"))
			}
			first, _ := message(time.Second)
			if second, loops := message(time.Second); second == first || loops != 0 {
				t.Errorf("plain %v: a rare message left reader %s, before %s, and %d loops", plain, second, first, loops)
			}
			for range 40 {
				message(time.Millisecond)
			}
			first, _ = message(time.Millisecond)
			if second, loops := message(time.Millisecond); second != first || loops != 1 {
				t.Errorf("plain %v: messages in close succession have readers %s and %s and %d loops", plain, first, second, loops)
			}
			first, _ = message(time.Millisecond)
			if second, loops := message(time.Second); second == first || loops != 0 {
				t.Errorf("plain %v: the first rare message left reader %s, before %s, and %d loops", plain, second, first, loops)
			}
		})
	}
}

// What a big message needed is given back when the connection waits for long.
func TestBigMessageIsForgotten(t *testing.T) {
	const size = 3 << 20
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
				nc.Write(rawFrame(0x82, "x"))
				time.Sleep(time.Second)
				nc.Write(rawFrame(0x82, strings.Repeat("x", size)))
				drain(nc)
			}), nil)
			c, err := limpet.Dial(context.Background(), host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawDialect{}, PlainFrames: plain}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			sub, err := c.Subscribe(context.Background(), "x", nil)
			if err != nil {
				t.Fatal(err)
			}
			collect(t, sub, 1)
			before := limpettest.HeapInUse()
			if got := collect(t, sub, 1); len(got[0].Payload) != len("b:")+size {
				t.Fatalf("%d bytes", len(got[0].Payload))
			}
			time.Sleep(time.Second)
			if grown := limpettest.HeapInUse() - before; grown > size/2 {
				t.Errorf("plain %v: %d bytes are held after a message of %d", plain, grown, size)
			}
		})
	}
}

// An idle connection is its reader, and on the plain path a goroutine of the
// library's: the loop rests.
func TestIdleCost(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			host := limpettest.NewHandler(t, rawServer(drain), nil)
			c, err := limpet.Dial(context.Background(), host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawDialect{}, PlainFrames: plain}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			synctest.Wait()
			b := make([]byte, 1<<20)
			ours, library := 0, 0
			for _, g := range strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n") {
				switch {
				case strings.Contains(g, "timeoutLoop"):
					library++
				case strings.Contains(g, "limpet-go/limpet.(*"):
					ours++
				}
			}
			if ours != 1 || (library == 1) != plain {
				t.Errorf("plain %v: %d goroutines of the client, %d of the library:\n%s", plain, ours, library, b)
			}
		})
	}
}

func TestIdleConnectionStaysUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		time.Sleep(24 * time.Hour)
		if s := c.State(); s.Generation != 1 || s.Phase != limpet.Ready {
			t.Errorf("after an idle day: %+v", s)
		}
	})
}
