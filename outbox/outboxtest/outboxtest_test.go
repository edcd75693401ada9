package outboxtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/outbox"
)

func TestMemory(t *testing.T) {
	Run(t, func(*testing.T) (outbox.Store, func() outbox.Store) {
		store := outbox.Memory()
		return store, func() outbox.Store { return store }
	})
}

// broken is a store with a fault: it changes what Commit is given, or what Load returns.
type broken struct {
	outbox.Store
	commit func(c *outbox.Change, next func(*outbox.Change) error) error
	load   func(k *outbox.Content)
	noCtx  bool
}

func (b broken) Commit(ctx context.Context, c *outbox.Change) error {
	if b.noCtx {
		ctx = context.Background()
	}
	next := func(c *outbox.Change) error { return b.Store.Commit(ctx, c) }
	if b.commit == nil {
		return next(c)
	}
	return b.commit(c, next)
}

func (b broken) Load(ctx context.Context) (*outbox.Content, error) {
	k, err := b.Store.Load(ctx)
	if err == nil && b.load != nil {
		b.load(k)
	}
	return k, err
}

// with returns a fault of the changes.
func with(change func(*outbox.Change)) broken {
	return broken{commit: func(c *outbox.Change, next func(*outbox.Change) error) error {
		faulty := cloneChange(c)
		change(faulty)
		return next(faulty)
	}}
}

// each returns a fault of the messages that are loaded.
func each(change func(*outbox.Message)) broken {
	return broken{load: func(k *outbox.Content) {
		for i := range k.Messages {
			change(&k.Messages[i])
		}
	}}
}

func faults() map[string]broken {
	var kept []*outbox.Change
	var loaded *outbox.Content
	return map[string]broken{
		"Reset is ignored":                with(func(c *outbox.Change) { c.Reset = false }),
		"Reset forgets the state":         with(func(c *outbox.Change) { c.State = orEmpty(c.State, c.Reset) }),
		"Sent is ignored":                 with(func(c *outbox.Change) { c.Sent = outbox.Sent{} }),
		"Sent is of one message more":     with(func(c *outbox.Change) { c.Sent.Seq += min(c.Sent.Seq, 1) }),
		"Void is ignored":                 with(func(c *outbox.Change) { c.Void = nil }),
		"one range of Settled counts":     with(func(c *outbox.Change) { c.Settled = c.Settled[:min(1, len(c.Settled))] }),
		"Settled is Void":                 with(func(c *outbox.Change) { c.Void, c.Settled = append(c.Void, c.Settled...), nil }),
		"Removed is ignored":              with(func(c *outbox.Change) { c.Removed = nil }),
		"one range of Removed counts":     with(func(c *outbox.Change) { c.Removed = c.Removed[:min(1, len(c.Removed))] }),
		"Removed is Settled":              with(func(c *outbox.Change) { c.Settled, c.Removed = append(c.Settled, c.Removed...), nil }),
		"the state is ignored":            with(func(c *outbox.Change) { c.State = nil }),
		"an empty state is none":          with(func(c *outbox.Change) { c.State = orNil(c.State) }),
		"what is lazy is lost":            with(func(c *outbox.Change) { lose(c) }),
		"the last message is lost":        with(func(c *outbox.Change) { c.Messages = c.Messages[:max(0, len(c.Messages)-1)] }),
		"a big payload is cut":            with(func(c *outbox.Change) { cut(c.Messages) }),
		"the content type is lost":        each(func(m *outbox.Message) { m.Type = "" }),
		"headers are lost":                each(func(m *outbox.Message) { m.Header = nil }),
		"Resend is lost":                  each(func(m *outbox.Message) { m.Resend = 0 }),
		"times in whole milliseconds":     each(func(m *outbox.Message) { m.Added = m.Added.Truncate(1e6) }),
		"TTL is never negative":           each(func(m *outbox.Message) { m.TTL = max(m.TTL, 0) }),
		"settled messages lose their ids": each(func(m *outbox.Message) { m.ID = idUnless(m.Settled, m.ID) }),
		"the tag is lost":                 {load: func(k *outbox.Content) { k.Tag = outbox.ID{} }},
		"two messages change places":      {load: func(k *outbox.Content) { swap(k.Messages) }},
		"the ctx does not count":          {noCtx: true},
		"nothing is ever refused":         {commit: func(c *outbox.Change, next func(*outbox.Change) error) error { _ = next(c); return nil }},
		"a change that fails is kept in part": {commit: func(c *outbox.Change, next func(*outbox.Change) error) error {
			err := next(c)
			if err != nil {
				_ = next(&outbox.Change{State: c.State})
			}
			return err
		}},
		"Commit changes what it is given": {commit: func(c *outbox.Change, next func(*outbox.Change) error) error {
			err := next(c)
			for i := range c.Messages {
				c.Messages[i].Topic = "changed"
			}
			return err
		}},
		"Commit keeps the memory of the caller": {
			commit: func(c *outbox.Change, next func(*outbox.Change) error) error {
				if len(c.Void)+len(c.Settled)+len(c.Removed) == 0 && c.Sent == (outbox.Sent{}) {
					kept = append(kept, c)
				}
				return next(c)
			},
			load: func(k *outbox.Content) {
				if n := len(kept); n > 0 && len(kept[n-1].Messages) == len(k.Messages) {
					k.Messages = cloneChange(kept[n-1]).Messages
				}
			},
		},
		"Load returns its own memory": {load: func(k *outbox.Content) {
			if loaded == nil || len(loaded.Messages) != len(k.Messages) || !slices.Equal(ids(loaded.Messages), ids(k.Messages)) {
				loaded = k
			}
			*k = *loaded
		}},
	}
}

func ids(messages []outbox.Message) (list []outbox.ID) {
	for i := range messages {
		list = append(list, messages[i].ID)
	}
	return list
}

func orEmpty(state []byte, reset bool) []byte {
	if reset && state == nil {
		return []byte{}
	}
	return state
}

func orNil(state []byte) []byte {
	if len(state) == 0 {
		return nil
	}
	return state
}

func lose(c *outbox.Change) {
	if c.Lazy {
		*c = outbox.Change{Messages: c.Messages, Reset: c.Reset}
	}
}

func cut(messages []outbox.Message) {
	for i := range messages {
		if m := &messages[i]; len(m.Payload) > 1<<20 {
			m.Payload = m.Payload[:1<<20]
		}
	}
}

func idUnless(is bool, id outbox.ID) outbox.ID {
	if is {
		return outbox.ID{}
	}
	return id
}

func swap(messages []outbox.Message) {
	if n := len(messages); n > 1 {
		messages[0], messages[n-1] = messages[n-1], messages[0]
	}
}

// recorder notes failures.
type recorder struct{ failures []string }

type fatal struct{}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	panic(fatal{})
}

// try runs the cases up to the first that fails, and returns its failures.
func try(name string) (found []string) {
	for _, c := range cases {
		b := faults()[name]
		b.Store = outbox.Memory()
		r := &recorder{}
		func() {
			defer func() {
				if p := recover(); p != nil && p != any(fatal{}) {
					panic(p)
				}
			}()
			c.try(&subject{t: r, Store: b, reopen: func() outbox.Store { return b }})
		}()
		if len(r.failures) > 0 {
			return append([]string{c.name}, r.failures...)
		}
	}
	return nil
}

// A suite that finds nothing proves nothing.
func TestFindsFaults(t *testing.T) {
	for name := range faults() {
		found := try(name)
		if len(found) == 0 {
			t.Errorf("%s: not found", name)
			continue
		}
		t.Logf("%s: %.200s", name, strings.Join(found, ": "))
	}
}

// A store that loses everything at a restart is found.
func TestFindsALossyRestart(t *testing.T) {
	for _, c := range cases {
		if c.name == "a new store is empty" || c.name == "ctx has ended" { // nothing is kept
			continue
		}
		r := &recorder{}
		func() {
			defer func() {
				if p := recover(); p != nil && p != any(fatal{}) {
					panic(p)
				}
			}()
			c.try(&subject{t: r, Store: outbox.Memory(), reopen: outbox.Memory})
		}()
		if len(r.failures) == 0 {
			t.Errorf("%s: not found", c.name)
		}
	}
}
