package test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

// A call that waits says what it waited for when its context ends, and the message is not
// safe to publish again.
func TestContextEndsAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Inject(limpettest.Stall(time.Hour))
		c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient()}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		r, err := c.Publish(t.Context(), "a", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for what, wait := range map[string]func(context.Context) error{
			"receipt: the caller's context ended before the outcome was known; the client goes on with the message": func(ctx context.Context) error { _, err := r.Wait(ctx); return err },
			"Flush: the caller's context ended before every message had its outcome":                                c.Flush,
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := wait(ctx)
			cancel()
			if want := "limpet: " + what + ": context deadline exceeded"; err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
			if !errors.Is(err, context.DeadlineExceeded) || limpet.ClassOf(err) != limpet.ClassTimeout || limpet.SafeToRetry(err) || limpet.Retryable(err) {
				t.Errorf("%v: class %s, safe %v", err, limpet.ClassOf(err), limpet.SafeToRetry(err))
			}
		}
	})
}

// callingContext calls a function in Err, as a context of the program's own may.
type callingContext struct {
	context.Context
	call func()
}

func (c callingContext) Err() error {
	err := c.Context.Err()
	c.call()
	return err
}

// No lock is held while a context of the program is asked whether it has ended. Outside
// of a bubble, where a goroutine that waits for a lock stops the clock.
func TestContextThatCallsTheClient(t *testing.T) {
	srv := limpettest.NewServer(t, nil)
	srv.Inject(limpettest.Refuse(1000))
	c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: srv.HTTPClient(), Window: limpet.Window{Messages: 1}}))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Subscribe(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(t.Context(), "a", nil, nil); err != nil {
		t.Fatal(err)
	}
	for what, wait := range map[string]func(context.Context) error{
		"Messages": func(ctx context.Context) (err error) {
			for _, err = range s.Messages(ctx) {
			}
			return err
		},
		"Publish": func(ctx context.Context) error {
			_, err := c.Publish(ctx, "a", nil, nil)
			return err
		},
	} {
		asked := 0
		inner, cancel := context.WithCancel(t.Context())
		ctx := callingContext{inner, func() {
			asked++
			s.Stats()
			c.Stats()
			cancel()
		}}
		done := make(chan error, 1)
		go func() { done <- wait(ctx) }()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) || asked < 2 {
				t.Errorf("%s: %v, asked %d times", what, err, asked)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s waits for a lock", what)
		}
	}
	c.Close()
}
