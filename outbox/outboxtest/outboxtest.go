// Package outboxtest tries implementations of outbox.Store.
package outboxtest

import (
	"bytes"
	"fmt"
	"maps"
	"testing"

	"github.com/limpet-go/limpet/outbox"
)

// Open opens a new, empty store, another one for each call. The function that it returns as well ends the
// store as the end of a process does, and opens it again; for a store that does not outlive the process it
// returns the same one. Open ends what it opened with t.Cleanup, and calls t.Fatal if it fails.
type Open func(t *testing.T) (store outbox.Store, reopen func() outbox.Store)

// Run tries a store: what Commit owes the client, change by change, and what is there after a restart. What
// a full disk or a crash in the middle of a call leaves, only a test of the store itself can show; Random
// and Compare help to write one.
func Run(t *testing.T, open Open) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			store, reopen := open(t)
			c.try(&subject{t: t, Store: store, reopen: reopen})
		})
	}
}

// failer is a *testing.T, or what records its failures.
type failer interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// subject is a store that is tried.
type subject struct {
	outbox.Store
	t      failer
	reopen func() outbox.Store
}

// commit makes changes, which must succeed.
func (s *subject) commit(changes ...*outbox.Change) {
	s.t.Helper()
	for _, c := range changes {
		before := cloneChange(c)
		if err := s.Commit(ctx, c); err != nil {
			s.t.Fatalf("Commit: %v", err)
		}
		if !equalChange(c, before) {
			s.t.Errorf("Commit changed what it was given")
		}
	}
}

// refused makes a change that must fail, and of which nothing may be kept.
func (s *subject) refused(why string, c *outbox.Change) {
	s.t.Helper()
	before := s.load()
	if err := s.Commit(ctx, c); err == nil {
		s.t.Errorf("Commit succeeded: %s", why)
	}
	s.expect(before)
}

func (s *subject) load() *outbox.Content {
	s.t.Helper()
	k, err := s.Load(ctx)
	if err != nil {
		s.t.Fatalf("Load: %v", err)
	}
	return k
}

// expect compares what is kept with what should be, now and after a restart.
func (s *subject) expect(want *outbox.Content) {
	s.t.Helper()
	if err := Compare(s.load(), want); err != nil {
		s.t.Errorf("%v", err)
	}
	s.restart()
	if err := Compare(s.load(), want); err != nil {
		s.t.Errorf("after a restart: %v", err)
	}
}

func (s *subject) restart() { s.Store = s.reopen() }

// Compare returns how a content differs from the one that it should be; nil if it does not. Times are
// compared with time.Time.Equal, and an empty payload is one that is nil.
func Compare(got, want *outbox.Content) error {
	switch {
	case got == nil:
		return fmt.Errorf("no content")
	case !bytes.Equal(got.State, want.State):
		return fmt.Errorf("state %q, want %q", got.State, want.State)
	case got.Through != want.Through || got.Tag != want.Tag:
		return fmt.Errorf("through %d, tag %x; want %d, %x", got.Through, got.Tag, want.Through, want.Tag)
	case len(got.Messages) != len(want.Messages):
		return fmt.Errorf("%d messages after %d, want %d", len(got.Messages), got.Through, len(want.Messages))
	}
	for i := range got.Messages {
		if a, b := &got.Messages[i], &want.Messages[i]; !equalMessage(a, b) {
			return fmt.Errorf("message %d of %d is %s, want %s", i, len(got.Messages), show(*a), show(*b))
		}
	}
	return nil
}

func equalMessage(a, b *outbox.Message) bool {
	x, y := *a, *b
	same := bytes.Equal(x.Payload, y.Payload) && maps.Equal(x.Header, y.Header) && x.Added.Equal(y.Added) && x.Sent.Equal(y.Sent)
	return same && x.Seq == y.Seq && x.ID == y.ID && x.Topic == y.Topic && x.Type == y.Type && x.TTL == y.TTL &&
		x.Resend == y.Resend && x.Void == y.Void && x.Settled == y.Settled
}

func show(m outbox.Message) string {
	m.Payload = m.Payload[:min(len(m.Payload), 40)]
	return fmt.Sprintf("%.300q", fmt.Sprintf("%+v", m))
}
