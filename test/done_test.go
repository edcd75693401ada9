package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

// calls are the calls of PublishOptions.Done.
type calls struct {
	mu    sync.Mutex
	lines []string
	last  time.Time
}

func (c *calls) add(r *limpet.Receipt, payload string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines, c.last = append(c.lines, payload+" "+r.Outcome().String()), time.Now()
}

// take returns the calls since the last take.
func (c *calls) take() string {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.lines = nil }()
	return strings.Join(c.lines, ", ")
}

// outgoing is a message with this payload, whose call c notes.
func (c *calls) outgoing(payload string) limpet.Outgoing {
	m := limpet.Outgoing{Topic: "a", Payload: []byte(payload)}
	m.Done = func(r *limpet.Receipt) { c.add(r, payload) }
	return m
}

func (c *calls) publish(t *testing.T, client *limpet.Client, payload string) *limpet.Receipt {
	t.Helper()
	m := c.outgoing(payload)
	r, err := client.Publish(context.Background(), m.Topic, m.Payload, &m.PublishOptions)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Done is called once with each outcome, in their order, for Publish, PublishBatch and
// Send, and not for what was not admitted.
func TestDoneIsCalledOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		var got calls
		r := got.publish(t, c, "1")
		if text := got.take(); text != "1 acked" || r.Outcome() != limpet.Acked {
			t.Errorf("Publish: %q", text)
		}
		if _, err := c.PublishBatch(t.Context(), []limpet.Outgoing{got.outgoing("2"), {Topic: "a"}, got.outgoing("3")}); err != nil {
			t.Fatal(err)
		}
		if text := got.take(); text != "2 acked, 3 acked" {
			t.Errorf("PublishBatch: %q", text)
		}
		m := got.outgoing("4")
		if _, err := c.Send(t.Context(), m.Topic, m.Payload, &m.PublishOptions); err != nil {
			t.Fatal(err)
		}
		if text := got.take(); text != "4 acked" {
			t.Errorf("Send: %q", text)
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Publish(cancelled, m.Topic, m.Payload, &m.PublishOptions); err == nil {
			t.Fatal("admitted although the context had ended")
		}
		closeAndWait(t, c)
		if _, err := c.Publish(t.Context(), m.Topic, m.Payload, &m.PublishOptions); !errors.Is(err, limpet.ErrClosed) {
			t.Fatal(err)
		}
		if text := got.take(); text != "" {
			t.Errorf("after refused messages and Close: %q", text)
		}
	})
}

// Calls come one at a time, and the next outcomes do not wait for a slow one.
func TestDoneIsOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		start := time.Now()
		var atWork atomic.Int32
		var got []string
		for i := range 4 {
			o := &limpet.PublishOptions{Done: func(*limpet.Receipt) {
				if n := atWork.Add(1); n != 1 {
					t.Errorf("%d calls at a time", n)
				}
				time.Sleep(time.Minute)
				got = append(got, fmt.Sprintf("%d@%v", i, time.Since(start)))
				atWork.Add(-1)
			}}
			if _, err := c.Send(t.Context(), "a", nil, o); err != nil || time.Since(start) != 0 {
				t.Fatalf("the outcome after %v: %v", time.Since(start), err)
			}
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if text := strings.Join(got, " "); text != "0@1m0s 1@2m0s 2@3m0s 3@4m0s" {
			t.Errorf("called: %s", text)
		}
	})
}

// Outcomes that come out of order lead to calls in the order of the outcomes.
func TestDoneFollowsTheOrderOfOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, nil)
		srv.Network.Inject(limpettest.Refuse(1), limpettest.Refuse(1), limpettest.Refuse(1))
		srv.Network.CutAll()
		if _, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Waiting }); err != nil {
			t.Fatal(err)
		}
		var got calls
		late := got.outgoing("late")
		late.TTL = 2 * time.Millisecond
		soon := got.outgoing("soon")
		soon.TTL = time.Millisecond
		got.publish(t, c, "first")
		for _, m := range []limpet.Outgoing{late, soon} {
			if _, err := c.Publish(t.Context(), m.Topic, m.Payload, &m.PublishOptions); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if text := got.take(); text != "soon expired, late expired, first acked" {
			t.Errorf("called: %q", text)
		}
	})
}

// Every call has returned when Client.Done is closed: after Close, Shutdown and a
// permanent failure.
func TestDoneIsCalledBeforeTheEnd(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(*limpet.Client, *limpettest.Server)
		want string
	}{
		{"Close", func(c *limpet.Client, _ *limpettest.Server) { c.Close() }, "sent unknown, waits unsent, waits unsent, waits unsent, waits unsent"},
		{"Shutdown", func(c *limpet.Client, _ *limpettest.Server) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			c.Shutdown(ctx)
		}, "sent unknown, waits unsent, waits unsent, waits unsent, waits unsent"},
		{"permanent failure", func(*limpet.Client, *limpettest.Server) {}, "sent unknown, waits unsent, waits unsent, waits unsent, waits unsent"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, &limpet.Options{Backoff: limpet.Backoff{MaxElapsed: 20 * time.Second}})
				srv.Network.Each(func(int) limpettest.Fault { return limpettest.Refuse(1) })
				srv.Network.Strike(limpettest.Stall(time.Hour))
				var got calls
				slow := func(payload string) {
					m := got.outgoing(payload)
					note := m.Done
					m.Done = func(r *limpet.Receipt) { <-time.After(3 * time.Second); note(r) }
					if _, err := c.Publish(t.Context(), m.Topic, m.Payload, &m.PublishOptions); err != nil {
						t.Fatal(err)
					}
				}
				slow("sent")
				synctest.Wait()
				srv.Network.CutAll()
				if _, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Waiting }); err != nil {
					t.Fatal(err)
				}
				for range 4 {
					slow("waits") // together they take longer than one call may
				}
				tc.end(c, srv)
				<-c.Done()
				got.mu.Lock()
				text, last := strings.Join(got.lines, ", "), got.last
				got.mu.Unlock()
				if text != tc.want {
					t.Errorf("called before the end: %q; want %q", text, tc.want)
				}
				if late := time.Since(last); late != 0 {
					t.Errorf("the end came %v after the last call", late)
				}
			})
		})
	}
}

// After a slow call, one that does not return delays the end of the client for ten seconds, which is
// reported, and nothing else.
func TestDoneThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		var failed []limpet.CallbackFailed
		c := dial(t, srv, &limpet.Options{Observer: observer(func(e limpet.Event) {
			if e, ok := e.(limpet.CallbackFailed); ok {
				failed = append(failed, e)
			}
		})})
		release := make(chan struct{})
		called := 0
		o := &limpet.PublishOptions{Done: func(*limpet.Receipt) {
			if called++; called == 1 {
				time.Sleep(3 * time.Second)
				return
			}
			<-release
		}}
		for range 3 {
			if _, err := c.Send(t.Context(), "a", nil, o); err != nil {
				t.Fatal(err) // a call that hangs delays no outcome
			}
		}
		began := time.Now()
		c.Close()
		select {
		case <-c.Done():
		case <-time.After(time.Minute):
			close(release)
			t.Fatal("a call of Done holds up the end")
		}
		if took := time.Since(began); took != 13*time.Second {
			t.Errorf("Done closed after %v", took)
		}
		synctest.Wait()
		var hung *limpet.HangError
		if len(failed) != 1 || failed[0].Option != "PublishOptions.Done" || !errors.As(failed[0].Err, &hung) ||
			!strings.Contains(string(hung.Stack), "TestDoneThatHangs") || limpet.ClassOf(failed[0].Err) != limpet.ClassUser {
			t.Errorf("reported: %v", failed)
		}
		close(release)
	})
}

// A call that panics or ends its goroutine costs that call alone, and is logged with
// its stack.
func TestDoneThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		var log bytes.Buffer
		c := dial(t, srv, &limpet.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		var got calls
		batch := []limpet.Outgoing{got.outgoing("1"), got.outgoing("2"), got.outgoing("3"), got.outgoing("4")}
		batch[0].Done = func(*limpet.Receipt) { panic("broken Done") }
		batch[2].Done = func(*limpet.Receipt) { runtime.Goexit() }
		if _, err := c.PublishBatch(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		if text := got.take(); text != "2 acked, 4 acked" {
			t.Errorf("called: %q", text)
		}
		if err := c.Err(); err != nil || c.State().Phase != limpet.Ready {
			t.Errorf("the client: %v, %v", c.State().Phase, err)
		}
		closeAndWait(t, c)
		synctest.Wait()
		for _, text := range []string{"PublishOptions.Done: panic: broken Done", "done_test.go", "runtime.Goexit"} {
			if n := strings.Count(log.String(), text); n == 0 {
				t.Errorf("the log lacks %q:\n%s", text, log.String())
			}
		}
	})
}

// A chain of messages, each published by the call for the one before, goes through a
// window of one message, and ends with the client.
func TestPublishFromDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Window: limpet.Window{Messages: 1}})
		var outcomes []limpet.Outcome
		var last error
		o := new(limpet.PublishOptions)
		o.Done = func(r *limpet.Receipt) {
			outcomes = append(outcomes, r.Outcome())
			if len(outcomes) == 100 {
				srv.Network.Strike(limpettest.Stall(time.Hour))
			}
			if _, err := c.Publish(context.Background(), "a", fmt.Append(nil, len(outcomes)), o); err != nil {
				last = err
			}
		}
		if _, err := c.Publish(t.Context(), "a", nil, o); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		closeAndWait(t, c)
		if i := slices.IndexFunc(outcomes, func(o limpet.Outcome) bool { return o != limpet.Acked }); i != 100 || len(outcomes) != 101 || outcomes[100] != limpet.Unknown {
			t.Errorf("%d calls, acked up to %d", len(outcomes), i)
		}
		if !errors.Is(last, limpet.ErrClosed) {
			t.Errorf("publishing from the last call: %v", last)
		}
	})
}

// While too many calls wait, messages with Done are refused at once, and others are
// not.
func TestDoneIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Window: limpet.Window{Messages: 8192}})
		release := make(chan struct{})
		called := 0
		batch := make([]limpet.Outgoing, 8192)
		for i := range batch {
			batch[i] = limpet.Outgoing{Topic: "a", PublishOptions: limpet.PublishOptions{Done: func(*limpet.Receipt) { <-release; called++ }}}
		}
		admitted := 0
		var err error
		for err == nil && admitted < 1<<20 {
			if _, err = c.PublishBatch(t.Context(), batch); err == nil {
				admitted += len(batch)
			}
			synctest.Wait()
		}
		var e *limpet.Error
		if !errors.Is(err, limpet.ErrDoneBehind) || !errors.As(err, &e) || e.Field != "PublishOptions.Done" || limpet.ClassOf(err) != limpet.ClassFull ||
			!limpet.SafeToRetry(err) || !limpet.Retryable(err) {
			t.Errorf("error: %v", err)
		}
		if admitted < 64<<10 || admitted > 64<<10+8192 { // one call has begun
			t.Errorf("%d messages with Done were admitted", admitted)
		}
		if _, err := c.Send(t.Context(), "a", nil, nil); err != nil {
			t.Errorf("a message without Done: %v", err)
		}
		close(release)
		synctest.Wait()
		if _, err := c.PublishBatch(t.Context(), batch[:1]); err != nil {
			t.Errorf("once the calls have returned: %v", err)
		}
		synctest.Wait()
		if called != admitted+1 {
			t.Errorf("%d calls for %d messages", called, admitted+1)
		}
	})
}
