package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// A server that answers calls as it should not: twice, calls that there are not, after the deadline, in the connection after.
// Each caller has its own reply or none, and the connection stays. A reply that is longer than the client reads ends it.
func TestHostileReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reply := func(n uint64, payload string) native.Frame {
			return native.Frame{Type: native.TypeReply, Reply: &native.Reply{N: n, Payload: []byte(payload)}}
		}
		var late native.Frame
		s := newScriptedServer(t, func(p *scriptedConn) {
			welcome := p.welcome()
			welcome.Welcome.Feat = []string{native.FeatureCall}
			p.sendFrames(welcome)
			if late.Reply != nil { // to a call of the connection before
				p.sendFrames(late)
			}
			for frames := p.read(); frames != nil; frames = p.read() {
				for _, f := range frames {
					if f.Type != native.TypeCall {
						continue
					}
					n := f.Call.N
					switch string(f.Call.Payload) {
					case "twice":
						p.sendFrames(reply(n, "first"), reply(n, "second"), native.Frame{Type: native.TypeReply, Reply: &native.Reply{N: n, Code: native.CodeForbidden}})
					case "others":
						p.sendFrames(reply(0, "x"), reply(n+1, "x"), reply(n-1, "x"), reply(1<<60, "x"), reply(n, "mine"))
					case "late":
						time.Sleep(2 * time.Second)
						p.sendFrames(reply(n, "late"))
					case "huge":
						p.sendFrames(reply(n, strings.Repeat("x", 100_000)))
					case "next":
						late = reply(n, "of the connection before")
						p.ws.CloseNow()
					default:
						p.sendFrames(reply(n, string(f.Call.Payload)))
					}
				}
			}
		})
		c, err := limpet.New(s.host.URL(), options(&limpet.Options{HTTPClient: s.host.HTTPClient(), ReadLimit: 64 << 10}))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		made := func(payload, want string) {
			t.Helper()
			m, err := c.Call(t.Context(), "a", []byte(payload), nil)
			if err != nil || string(m.Payload) != want {
				t.Errorf("%s: %q, %v", payload, m.Payload, err)
			}
		}
		made("twice", "first")
		made("a", "a")
		made("others", "mine")
		made("b", "b")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err = c.Call(ctx, "a", []byte("late"), nil)
		cancel()
		checkCall(t, "late", err, []error{limpet.ErrOutcomeUnknown, context.DeadlineExceeded}, false)
		made("c", "c")
		if n := c.Stats().Connections; n != 1 {
			t.Errorf("%d connections", n)
		}
		_, err = c.Call(t.Context(), "a", []byte("huge"), nil)
		checkCall(t, "huge", err, []error{limpet.ErrOutcomeUnknown}, false)
		_, err = c.Call(t.Context(), "a", []byte("next"), nil)
		checkCall(t, "next", err, []error{limpet.ErrOutcomeUnknown}, false)
		made("d", "d")
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = c.Call(ctx, "a", []byte("huge"), &limpet.CallOptions{Resend: limpet.AtLeastOnce})
		checkCall(t, "huge, again and again", err, []error{limpet.ErrOutcomeUnknown, context.DeadlineExceeded}, false)
		if n := c.Stats().Connections; n > 30 {
			t.Errorf("%d connections in a minute", n)
		}
		made("e", "e")
	})
}

// Ten thousand calls at once, whose callers leave at any time, over lost connections, one of each kind of Resend: each has
// one result, its own, nothing is served twice without leave, and nothing is left.
func TestTenThousandCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		var mu sync.Mutex
		served := map[string]int{}
		srv := callServer(t, func(ctx context.Context, m server.Message) (server.Reply, error) {
			mu.Lock()
			served[string(m.Payload)]++
			pause := time.Duration(len(served)%50) * time.Millisecond
			mu.Unlock()
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			return echo(ctx, m)
		})
		c := dial(t, srv, nil)
		rnd := rand.New(rand.NewPCG(1, 2))
		var calls sync.WaitGroup
		var replied, unsent, unknown, refused atomic.Int64
		for i := range n {
			patience := time.Duration(rnd.IntN(20_000)) * time.Millisecond
			resend := limpet.Resend(rnd.IntN(3))
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				payload := fmt.Sprint(i)
				m, err := c.Call(ctx, "a", []byte(payload), &limpet.CallOptions{Resend: resend})
				mu.Lock()
				times := served[payload]
				mu.Unlock()
				switch {
				case err == nil:
					if replied.Add(1); string(m.Payload) != payload {
						t.Errorf("%s has the reply %s", payload, m.Payload)
					}
				case errors.Is(err, limpet.ErrUnsent):
					if unsent.Add(1); times > 0 {
						t.Errorf("%s was served, %v", payload, err)
					}
				case errors.Is(err, limpet.ErrOutcomeUnknown):
					unknown.Add(1)
				case errors.Is(err, limpet.ErrRejected):
					refused.Add(1)
				default:
					t.Errorf("%s: %v", payload, err)
				}
				if times > 1 && resend != limpet.AtLeastOnce {
					t.Errorf("%s was served %d times", payload, times)
				}
			})
		}
		for range 5 {
			time.Sleep(2 * time.Second)
			srv.Network.CutAll()
		}
		calls.Wait()
		t.Logf("%d replies, %d unsent, %d unknown, %d refused", replied.Load(), unsent.Load(), unknown.Load(), refused.Load())
		if replied.Load() < n/4 || unsent.Load() == 0 || unknown.Load() == 0 {
			t.Error("this proves little")
		}
		time.Sleep(time.Second)
		call(t, c, "afterwards")
		assert.NoError(t, c.Shutdown(t.Context())) // nothing is pending
	})
}

// Calls within the functions that a user gives: each ends, at the latest with its context, and holds nothing else up.
func TestCallsWithinCallbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := callServer(t, echo)
		var c atomic.Pointer[limpet.Client]
		var mu sync.Mutex
		results := map[string]error{}
		within := func(name string) {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			client := c.Load()
			if client == nil {
				return
			}
			_, err := client.Call(ctx, "a", []byte(name), nil)
			mu.Lock()
			results[name] = err
			mu.Unlock()
		}
		client, err := limpet.New(srv.URL(), options(&limpet.Options{
			HTTPClient: srv.HTTPClient(),
			Observer:   observer(func(limpet.Event) { within("Observer") }),
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				within("Auth")
				return limpet.Credential{}, nil
			},
		}))
		assert.NoError(t, err)
		c.Store(client)
		defer closeAndWait(t, client)
		assert.NoError(t, client.WaitReady(t.Context()))
		_, err = client.Publish(t.Context(), "a", nil, &limpet.PublishOptions{Done: func(*limpet.Receipt) { within("Done") }})
		assert.NoError(t, err)
		sub, err := client.Subscribe(t.Context(), "a", nil)
		assert.NoError(t, err)
		_, err = client.Publish(t.Context(), "a", nil, nil)
		assert.NoError(t, err)
		for range sub.Messages(t.Context()) {
			within("Messages")
			break
		}
		time.Sleep(time.Second) // those calls have their reply
		srv.Network.CutAll()
		time.Sleep(10 * time.Second)
		call(t, client, "still there")
		mu.Lock()
		defer mu.Unlock()
		for _, name := range []string{"Observer", "Done", "Messages"} {
			if err, called := results[name]; err != nil || !called {
				t.Errorf("%s: %v, called %v", name, err, called)
			}
		}
		if err, called := results["Auth"]; !called || !errors.Is(err, limpet.ErrUnsent) { // it waits for the connection that Auth is for
			t.Errorf("Auth: %v, called %v", err, called)
		}
	})
}

// A client that is asked to leave waits 21 s for its replies, and not longer. Then the call has no known outcome, or is made
// again on the next connection, if its caller allows that.
func TestCallOutlastsTheDrain(t *testing.T) {
	for _, resend := range []limpet.Resend{limpet.Exact, limpet.AtLeastOnce} {
		synctest.Test(t, func(t *testing.T) {
			srv := callServer(t, func(ctx context.Context, m server.Message) (server.Reply, error) {
				select {
				case <-time.After(25 * time.Second):
					return echo(ctx, m)
				case <-ctx.Done():
					return server.Reply{}, ctx.Err()
				}
			})
			c := dial(t, srv, nil)
			began := time.Now()
			time.AfterFunc(time.Second, func() { srv.Server.Drain(nil) })
			_, err := c.Call(t.Context(), "a", nil, &limpet.CallOptions{Resend: resend})
			took := time.Since(began).Round(time.Second)
			switch {
			case resend == limpet.AtLeastOnce && (err != nil || took != 47*time.Second):
				t.Errorf("with AtLeastOnce: %v after %v", err, took)
			case resend == limpet.Exact && (!errors.Is(err, limpet.ErrOutcomeUnknown) || took != 22*time.Second):
				t.Errorf("%v after %v", err, took)
			}
			if st := c.Stats(); st.Outages != 0 {
				t.Errorf("%d outages", st.Outages)
			}
		})
	}
}
