package test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
)

// TestStreamContext: a ctx that ends before the first byte costs nothing, wherever the stream is. Later it
// costs the connection.
func TestStreamContext(t *testing.T) {
	eachFrameLayer(t, func(t *testing.T, plain bool) {
		p := newStreamPeer(t)
		c := p.client(t, raw.Options{}, limpet.Options{PlainFrames: plain})
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		sendStream(cancelled, c, iotest.ErrReader(errors.New("must not be read")), nil).notSent(t, "before the call", context.Canceled, "")

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		idle := newSource()
		sendStream(ctx, c, idle, nil).notSent(t, "before the reader", context.DeadlineExceeded, "the caller's context ended before the message was sent")

		first := newSource()
		running := sendStream(t.Context(), c, first, nil)
		first.give("a")
		synctest.Wait()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		sendStream(ctx, c, strings.NewReader("queued"), nil).notSent(t, "while another one is sent", context.DeadlineExceeded, "")
		running.running(t, "another one is cancelled")
		first.end()
		running.written(t, "in peace")
		if g := c.State().Generation; g != 1 {
			t.Errorf("connection %d", g)
		}

		ctx, cancel = context.WithCancel(t.Context())
		second := newSource()
		call := sendStream(ctx, c, second, nil)
		second.give("b")
		synctest.Wait()
		cancel()
		call.unknown(t, "after the first part", context.Canceled, "")
		if _, err := c.Send(t.Context(), "*", []byte("next"), nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if _, messages := p.seen(); fmt.Sprint(messages) != "[text a text next]" || c.State().Generation != 2 {
			t.Errorf("messages %q, connection %d", messages, c.State().Generation)
		}
		idle.end()
		second.end()
	})
}

// TestStreamOverALostConnection: what was begun is Unknown and never sent again. What waits is sent
// on the next connection. It is the same for a peer that does not read.
func TestStreamOverALostConnection(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		eachFrameLayer(t, func(t *testing.T, plain bool) {
			p := newStreamPeer(t)
			login := func(wire.Resume) [][]byte { return [][]byte{[]byte("login")} }
			c := p.client(t, raw.Options{OnOpen: login}, limpet.Options{PlainFrames: plain, Heartbeat: limpet.Heartbeat{Interval: time.Hour}})
			r := newSource()
			call := sendStream(t.Context(), c, r, nil)
			r.give("begun")
			synctest.Wait()
			waits := sendStream(t.Context(), c, strings.NewReader("waits"), nil)
			synctest.Wait()
			if deaf {
				p.stopReading()
				stop := make(chan struct{})
				go func() {
					for {
						select {
						case r.given <- func(p []byte) (int, error) { return len(p), nil }:
						case <-stop:
							return
						}
					}
				}()
				go func() {
					for range r.calls {
					}
				}()
				began := time.Now()
				call.unknown(t, "deaf", nil, "")
				took := time.Since(began)
				synctest.Wait() // the state follows
				if cause := c.State().Cause; took < 15*time.Second || took > 16*time.Second || !errors.Is(cause, limpet.ErrStalled) {
					t.Errorf("after %v: %v", took, cause)
				}
				p.mu.Lock()
				p.deaf = false
				p.mu.Unlock()
				close(stop)
				defer close(r.calls)
			} else {
				p.host.Network.CutAll()
				call.unknown(t, "cut", nil, "")
			}
			waits.written(t, "on the next connection")
			synctest.Wait()
			if _, messages := p.seen(); fmt.Sprint(messages) != "[text login text login text waits]" {
				t.Errorf("messages %.100q", messages)
			}
			if !deaf {
				r.end()
			}
		})
	}
}

// TestStreamAtTheEnd: Close leaves what was begun Unknown and the rest unsent. Shutdown waits for
// both, and takes no more.
func TestStreamAtTheEnd(t *testing.T) {
	eachFrameLayer(t, func(t *testing.T, plain bool) {
		for _, graceful := range []bool{false, true} {
			p := newStreamPeer(t)
			c := p.client(t, raw.Options{}, limpet.Options{PlainFrames: plain})
			r, idle := newSource(), newSource()
			begun := sendStream(t.Context(), c, r, nil)
			r.give("begun")
			synctest.Wait()
			waits := sendStream(t.Context(), c, strings.NewReader("waits"), nil)
			unread := sendStream(t.Context(), c, idle, nil)
			synctest.Wait()
			if !graceful {
				c.Close()
				begun.unknown(t, "Close", nil, "")
				waits.notSent(t, "Close", limpet.ErrClosed, "")
				unread.notSent(t, "Close", limpet.ErrClosed, "")
				<-c.Done()
			} else {
				ended := make(chan error, 1)
				go func() { ended <- c.Shutdown(t.Context()) }()
				synctest.Wait()
				sendStream(t.Context(), c, strings.NewReader("late"), nil).notSent(t, "Shutdown", limpet.ErrClosed, "")
				r.give(" ended")
				time.Sleep(10 * time.Second)
				unread.running(t, "Shutdown")
				r.end()
				begun.written(t, "Shutdown")
				waits.written(t, "Shutdown")
				idle.give("unread")
				idle.end()
				unread.written(t, "Shutdown")
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if _, messages := p.seen(); fmt.Sprint(messages) != "[text begun ended text waits text unread]" {
					t.Errorf("messages %q", messages)
				}
			}
			sendStream(t.Context(), c, strings.NewReader("late"), nil).notSent(t, "ended", limpet.ErrClosed, "")
			if !graceful {
				r.end()
				idle.end()
			}
		}
	})
}

// TestStreamToASlowPeer: a peer that takes little at a time is no peer that stalls, and its
// slowness is not that of the reader.
func TestStreamToASlowPeer(t *testing.T) {
	eachFrameLayer(t, func(t *testing.T, plain bool) {
		p := newStreamPeerBehind(t, &limpettest.NetworkOptions{Buffer: 1 << 10, Up: time.Second}) // 1 KiB a second
		c := p.client(t, raw.Options{}, limpet.Options{PlainFrames: plain, Heartbeat: limpet.Heartbeat{Interval: 4 * time.Second}})
		began := time.Now()
		sendStream(t.Context(), c, strings.NewReader(strings.Repeat("x", 100<<10)), nil).written(t, "slowly")
		if took := time.Since(began); took < 90*time.Second || c.State().Generation != 1 {
			t.Errorf("after %v: %v", took, c.State())
		}
	})
}

// TestStreamIsNotQuiet: a connection is not replaced for its age while a stream lasts, as long
// as there is time.
func TestStreamIsNotQuiet(t *testing.T) {
	eachFrameLayer(t, func(t *testing.T, plain bool) {
		p := newStreamPeer(t)
		o := raw.Options{Limits: wire.ConnectionLimits{Age: time.Hour}} // it is left from minute 54 on, in any case at 58:30
		c := p.client(t, o, limpet.Options{PlainFrames: plain, Heartbeat: limpet.Heartbeat{Interval: time.Hour}})
		time.Sleep(53 * time.Minute)
		r := newSource()
		call := sendStream(t.Context(), c, r, nil)
		for range 30 {
			r.give("x")
			time.Sleep(10 * time.Second)
		}
		r.end()
		call.written(t, "before the connection is old")
		if g := c.State().Generation; g != 1 {
			t.Errorf("connection %d", g)
		}
		time.Sleep(10 * time.Minute)
		if g := c.State().Generation; g != 2 {
			t.Errorf("connection %d", g)
		}
	})
}

// TestStreamHasItsTurn: a server that asks for signs of life faster than it takes messages does
// not keep a stream from its turn.
func TestStreamHasItsTurn(t *testing.T) {
	eachFrameLayer(t, func(t *testing.T, plain bool) {
		p := newStreamPeer(t)
		o := raw.Options{Limits: wire.ConnectionLimits{Messages: 10, Per: 10 * time.Second}}
		c := p.client(t, o, limpet.Options{PlainFrames: plain, Heartbeat: limpet.Heartbeat{Interval: time.Hour}})
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Second): // 0.8 are taken
					p.say(0x89, "ping")
				}
			}
		}()
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		sendStream(ctx, c, strings.NewReader("x"), nil).written(t, "within a minute")
		close(stop)
		time.Sleep(time.Second)
	})
}
