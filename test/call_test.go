package test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/jsonrpc"
	"github.com/limpet-go/limpet/wire/native"
)

// callServer runs a server whose OnCall is hook.
func callServer(t *testing.T, hook func(context.Context, server.Message) (server.Reply, error)) *limpettest.Server {
	return limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
		Authorize: func(_ server.Principal, verb server.Verb, topic string) error {
			if verb == server.VerbCall && topic == "forbidden" {
				return errors.New("no")
			}
			return nil
		},
		OnCall: func(ctx context.Context, _ server.Principal, m server.Message) (server.Reply, error) {
			return hook(ctx, m)
		},
	}}})
}

func echo(_ context.Context, m server.Message) (server.Reply, error) {
	return server.Reply{Payload: m.Payload, Type: m.Type}, nil
}

// call calls with payload and checks that the reply is the same one.
func call(t *testing.T, c *limpet.Client, payload string) {
	t.Helper()
	m, err := c.Call(t.Context(), "a", []byte(payload), &limpet.CallOptions{Type: "text/plain"})
	if err != nil || string(m.Payload) != payload || m.Type != "text/plain" || m.Topic != "a" || m.Kind != limpet.Data {
		t.Errorf("%q: %q, %q, %v", payload, m.Payload, m.Type, err)
	}
}

// checkCall checks the error of a call that is not served.
func checkCall(t *testing.T, what string, err error, want []error, safe bool) {
	t.Helper()
	for _, e := range want {
		if !errors.Is(err, e) {
			t.Errorf("%s: %v, want %v", what, err, e)
		}
	}
	if err != nil && strings.Contains(err.Error(), "publish") {
		t.Errorf("%s: %v: a call is not published", what, err)
	}
	var e *limpet.Error
	if !errors.As(err, &e) || e.Op != "Call" || limpet.SafeToRetry(err) != safe {
		t.Errorf("%s: %v: safe to retry %v", what, err, limpet.SafeToRetry(err))
	}
}

// Each of 150 calls has its own reply, whatever the order, and at most 64 are served at a time.
func TestCall(t *testing.T) {
	for _, enc := range []native.Encoding{native.JSON, native.Binary} {
		for _, plain := range bothFrameLayers() {
			synctest.Test(t, func(t *testing.T) {
				var now, most atomic.Int64
				srv := callServer(t, func(ctx context.Context, m server.Message) (server.Reply, error) {
					most.Store(max(most.Load(), now.Add(1)))
					defer now.Add(-1)
					time.Sleep(time.Duration(len(m.Payload)) * time.Millisecond)
					return echo(ctx, m)
				})
				c := dial(t, srv, &limpet.Options{Dialect: native.New(&native.Options{Encoding: enc}), PlainFrames: plain})
				var calls sync.WaitGroup
				for i := range 150 {
					calls.Go(func() { call(t, c, strings.Repeat("x", 200-i)) })
				}
				calls.Wait()
				if most.Load() != 64 {
					t.Errorf("%d calls at a time", most.Load())
				}
				call(t, c, "")
				if st := c.Stats(); st.Connections != 1 || st.Published != 0 {
					t.Errorf("%d connections, %d published", st.Connections, st.Published)
				}
			})
		}
	}
}

// A refusal has the code of the server. It costs nothing else.
func TestCallRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := callServer(t, func(ctx context.Context, m server.Message) (server.Reply, error) {
			switch string(m.Payload) {
			case "code":
				return server.Reply{}, &server.Error{Code: native.CodeNotFound, Reason: "no such thing"}
			case "error":
				return server.Reply{}, errors.New("secret")
			case "undecided":
				return server.Reply{}, context.Canceled
			case "panic":
				panic("boom")
			case "big":
				return server.Reply{Payload: make([]byte, 256<<10+1)}, nil
			case "long":
				return server.Reply{Payload: make([]byte, 100<<10)}, nil
			case "type":
				return server.Reply{Type: "\xff"}, nil
			}
			return echo(ctx, m)
		})
		c := dial(t, srv, &limpet.Options{ReadLimit: 64 << 10})
		for _, tc := range []struct {
			topic, payload, detail string
			code                   int
		}{
			{"a", "code", "no such thing", native.CodeNotFound}, {"a", "error", "bad_request", native.CodeBadRequest},
			{"a", "undecided", "unavailable", native.CodeUnavailable}, {"a", "panic", "internal", native.CodeInternal},
			{"a", "big", "too_big", native.CodeTooBig}, {"a", "long", "too_big", native.CodeTooBig},
			{"a", "type", "internal", native.CodeInternal}, {"forbidden", "", "forbidden", native.CodeForbidden},
		} {
			_, err := c.Call(t.Context(), tc.topic, []byte(tc.payload), nil)
			checkCall(t, tc.payload, err, []error{limpet.ErrRejected}, false)
			var e *limpet.Error
			if !errors.As(err, &e) || e.Code != tc.code || !strings.Contains(e.Detail, tc.detail) || e.Class != limpet.ClassRejected {
				t.Errorf("%s %s: %+v", tc.topic, tc.payload, e)
			}
		}
		_, err := c.Call(t.Context(), "a", make([]byte, 256<<10+1), nil)
		checkCall(t, "a payload that is too big", err, []error{limpet.ErrTooBig}, true)
		_, err = c.Call(t.Context(), "*", nil, nil)
		checkCall(t, "a pattern", err, []error{limpet.ErrTopic}, true)
		_, err = c.Call(t.Context(), "a", nil, &limpet.CallOptions{Resend: 9})
		var e *limpet.Error
		if !errors.As(err, &e) || e.Field != "CallOptions.Resend" {
			t.Errorf("%v", err)
		}
		call(t, c, "still there")
		if n := c.Stats().Connections; n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// A call ends with its context. The hook learns that, and a late reply changes nothing.
func TestCallEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends atomic.Int64
		srv := callServer(t, func(ctx context.Context, m server.Message) (server.Reply, error) {
			if string(m.Payload) == "slow" {
				if m.TTL != 0 {
					<-ctx.Done()
					ends.Add(1)
				}
				time.Sleep(time.Second)
			}
			return echo(ctx, m)
		})
		c := dial(t, srv, nil)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := c.Call(ctx, "a", []byte("slow"), nil)
		checkCall(t, "deadline", err, []error{limpet.ErrOutcomeUnknown, context.DeadlineExceeded}, false)
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("it took %v", d)
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		_, err = c.Call(ctx, "a", []byte("slow"), nil)
		checkCall(t, "cancelled", err, []error{limpet.ErrOutcomeUnknown, context.Canceled}, false)
		for i := range 20 {
			call(t, c, fmt.Sprint(i))
			time.Sleep(100 * time.Millisecond)
		}
		if ends.Load() != 1 || c.Stats().Connections != 1 {
			t.Errorf("%d hooks ended, %d connections", ends.Load(), c.Stats().Connections)
		}
	})
}

// A call that may have left when its connection is lost has no known outcome, unless the caller
// allows it to be served twice.
func TestCallOverALostConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var served, ended atomic.Int64
		srv := callServer(t, func(ctx context.Context, m server.Message) (server.Reply, error) {
			served.Add(1)
			select {
			case <-ctx.Done():
				ended.Add(1)
				return server.Reply{}, ctx.Err()
			case <-time.After(time.Second):
			}
			return echo(ctx, m)
		})
		c := dial(t, srv, nil)
		for _, tc := range []struct {
			resend limpet.Resend
			fails  bool
			served int64
		}{{limpet.Exact, true, 1}, {limpet.Never, true, 1}, {limpet.AtLeastOnce, false, 2}} {
			served.Store(0)
			ended.Store(0)
			time.AfterFunc(500*time.Millisecond, srv.Network.CutAll)
			m, err := c.Call(t.Context(), "a", []byte("x"), &limpet.CallOptions{Resend: tc.resend})
			if tc.fails {
				checkCall(t, "lost", err, []error{limpet.ErrOutcomeUnknown}, false)
			} else if err != nil || string(m.Payload) != "x" {
				t.Errorf("%v: %q, %v", tc.resend, m.Payload, err)
			}
			_, err = c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready })
			assert.NoError(t, err)
			time.Sleep(5 * time.Second)
			if served.Load() != tc.served || ended.Load() != 1 {
				t.Errorf("%v: served %d times, %d ended with the connection", tc.resend, served.Load(), ended.Load())
			}
		}
	})
}

// Without a connection a call waits, and is certain not to have left.
func TestCallWithoutAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var served atomic.Int64
		srv := callServer(t, func(ctx context.Context, m server.Message) (server.Reply, error) {
			served.Add(1)
			return echo(ctx, m)
		})
		srv.Network.Each(func(int) limpettest.Fault { return limpettest.Refuse(0) })
		c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
		assert.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err = c.Call(ctx, "a", nil, nil)
		checkCall(t, "no server", err, []error{limpet.ErrUnsent, context.DeadlineExceeded}, true)
		if limpet.Retryable(err) {
			t.Error("retryable with a context that has ended")
		}
		time.AfterFunc(time.Minute, func() { srv.Network.Each(nil) })
		call(t, c, "later")
		if served.Load() != 1 {
			t.Errorf("served %d", served.Load())
		}
		closeAndWait(t, c)
		_, err = c.Call(t.Context(), "a", nil, nil)
		checkCall(t, "closed", err, []error{limpet.ErrUnsent, limpet.ErrClosed}, true)
	})
}

// What the server cannot do is refused before anything is sent.
func TestCallUnsupported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		_, err := c.Call(t.Context(), "a", nil, nil)
		checkCall(t, "no OnCall", err, []error{limpet.ErrUnsupported}, true)
		if n := c.Stats().Connections; n != 1 {
			t.Errorf("%d connections", n)
		}
		_, dialects, _ := tableDialects(t)
		for name, dialect := range dialects {
			if dialect.Traits().Calls {
				continue
			}
			other, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient(), Dialect: dialect}))
			assert.NoError(t, err)
			_, err = other.Call(t.Context(), "a", nil, nil)
			checkCall(t, name, err, []error{limpet.ErrUnsupported}, true)
			closeAndWait(t, other)
		}
	})
}

// A client that is asked to leave waits for its replies, and Shutdown does. Close does not.
func TestCallBeforeTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := callServer(t, func(ctx context.Context, m server.Message) (server.Reply, error) {
			time.Sleep(12 * time.Second)
			return echo(ctx, m)
		})
		c := dial(t, srv, nil)
		var calls sync.WaitGroup
		calls.Go(func() { call(t, c, "on the old one") })
		time.Sleep(time.Second)
		srv.Server.Drain(nil)
		time.Sleep(time.Second)
		calls.Go(func() { call(t, c, "on the old one or the next one") })
		calls.Wait()
		time.Sleep(20 * time.Second)
		if st := c.Stats(); st.Outages != 0 || c.State().Generation < 2 {
			t.Errorf("%d outages, connection %d", st.Outages, c.State().Generation)
		}
		calls.Go(func() { call(t, c, "before the end") })
		time.AfterFunc(2*time.Second, func() {
			_, err := c.Call(t.Context(), "a", nil, nil)
			checkCall(t, "after Shutdown", err, []error{limpet.ErrUnsent, limpet.ErrClosed}, true)
		})
		time.Sleep(time.Second)
		assert.NoError(t, c.Shutdown(t.Context()))
		calls.Wait()

		c = dial(t, srv, nil)
		for i := range 65 {
			calls.Go(func() {
				_, err := c.Call(t.Context(), "a", nil, nil)
				if errors.Is(err, limpet.ErrUnsent) == errors.Is(err, limpet.ErrOutcomeUnknown) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		time.Sleep(time.Second)
		closeAndWait(t, c)
		calls.Wait()
	})
}

// A call to a JSON-RPC server is a request: its result or error comes back, and after a lost
// connection the outcome is unknown.
func TestCallOfJSONRPC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var waiting []string
		s := newRPCServer(t, func(_ int, r rpcRequest) []string {
			switch r.Method {
			case "eth_blockNumber":
				return []string{rpcResult(r.ID, `"0x10"`)}
			case "swapped": // the answers to two calls come in the other order
				if waiting = append(waiting, rpcResult(r.ID, string(r.Params))); len(waiting) < 2 {
					return nil
				}
				return []string{waiting[1], waiting[0]}
			case "never0", "never1", "never2":
				return nil
			}
			return []string{rpcError(r.ID, -32601, "no such method")}
		})
		c := s.client(t, jsonrpc.Options{}, limpet.Options{})
		m, err := c.Call(t.Context(), "eth_blockNumber", nil, nil)
		if err != nil || string(m.Payload) != `"0x10"` || m.Type != jsonrpc.TypeJSON {
			t.Errorf("%q, %v", m.Payload, err)
		}
		_, err = c.Call(t.Context(), "unknown", []byte("[]"), nil)
		checkCall(t, "unknown", err, []error{limpet.ErrRejected}, false)
		var e *limpet.Error
		if !errors.As(err, &e) || e.Code != 32601 {
			t.Errorf("%+v", e)
		}
		var calls sync.WaitGroup
		for _, params := range []string{"[1]", "[2]"} {
			calls.Go(func() {
				if m, err := c.Call(t.Context(), "swapped", []byte(params), nil); err != nil || string(m.Payload) != params {
					t.Errorf("%s: %q, %v", params, m.Payload, err)
				}
			})
		}
		calls.Wait()
		_, err = c.Call(t.Context(), "a", []byte("1"), nil)
		checkCall(t, "params that are a number", err, []error{limpet.ErrRejected}, false)
		for resend, sent := range map[limpet.Resend]int{limpet.Exact: 1, limpet.Never: 1, limpet.AtLeastOnce: 2} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			method, before := fmt.Sprint("never", resend), c.State().Generation
			calls.Go(func() {
				_, err := c.Call(ctx, method, nil, &limpet.CallOptions{Resend: resend})
				checkCall(t, "lost", err, []error{limpet.ErrOutcomeUnknown}, false)
				if errors.Is(err, context.DeadlineExceeded) != (resend == limpet.AtLeastOnce) {
					t.Errorf("%v: %v", resend, err)
				}
			})
			synctest.Wait()
			s.cut(t, c)
			calls.Wait()
			cancel()
			if first, second := s.count(fmt.Sprint(before, " ", method)), s.count(fmt.Sprint(before+1, " ", method)); first != 1 || first+second != sent {
				t.Errorf("%v: sent %d and %d times", resend, first, second)
			}
		}
	})
}

// Calls count for the limit of the server on messages.
func TestCallsKeepTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newRPCServer(t, func(_ int, r rpcRequest) []string { return []string{rpcResult(r.ID, "1")} })
		c := s.client(t, jsonrpc.Options{}, limpet.Options{Limits: wire.ConnectionLimits{Messages: 5}})
		_, err := c.WaitState(t.Context(), func(st limpet.State) bool { return st.Phase == limpet.Ready })
		assert.NoError(t, err)
		began := time.Now()
		var calls sync.WaitGroup
		for range 40 {
			calls.Go(func() {
				_, err := c.Call(t.Context(), "a", nil, nil)
				assert.NoError(t, err)
			})
		}
		calls.Wait()
		if d := time.Since(began); d < 6*time.Second || d > 12*time.Second {
			t.Errorf("40 calls took %v at 5 a second", d)
		}
	})
}
