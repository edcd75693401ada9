// Package storetest tries implementations of server.Store.
package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// Options say what a store can show of itself. The zero value is good for every store.
type Options struct {
	// Rounds is how often Commits compete for one version. Defaults to 1,000.
	Rounds int

	// Small opens a store that holds only its five newest entries, or fewer. Nil: that a log is
	// trimmed is not tried.
	Small func(t *testing.T) server.Store

	// Cut makes the log unreachable for reading, as long as the test runs. Nil: the log is
	// where the store is.
	Cut func(store server.Store)

	// Beside returns the same store as another server has it. Nil means that two servers
	// share the value itself.
	Beside func(t *testing.T, store server.Store) server.Store
}

// Run tries stores that open opens, empty and a new one for each call; o may be nil. It tries what
// package server relies on, of one process that does not crash: what a crash leaves, only a
// test of the store itself can show.
func Run(t *testing.T, open func(t *testing.T) server.Store, o *Options) {
	var opt Options
	if o != nil {
		opt = *o
	}
	if opt.Rounds == 0 {
		opt.Rounds = 1000
	}
	if opt.Beside == nil {
		opt.Beside = func(_ *testing.T, store server.Store) server.Store { return store }
	}
	for _, c := range []struct {
		name string
		try  func(*tried)
	}{
		{"a new store is empty", emptyStore},
		{"a record comes back", records},
		{"a stale version changes nothing", staleVersion},
		{"one of two Commits wins", competition},
		{"a removed record is gone", removal},
		{"a record expires", expiry},
		{"what is kept is counted", counting},
		{"an id is known", knownIDs},
		{"an id is known to its principal only", principals},
		{"an id is accepted once of two at the same time", sameID},
		{"all or nothing", allOrNothing},
		{"ids are forgotten late", forgetting},
		{"offsets rise", offsets},
		{"entries come back whole", contents},
		{"record and entries are visible together", together},
		{"a Commit that is given up is whole or not done", givenUp},
		{"nothing is shared with the caller", sharing},
		{"Sync shows what others have committed", syncing},
		{"Changed wakes", waking},
		{"positions", positions},
		{"what was trimmed is not held", trimming},
		{"an unreachable log is an error", unreachable},
		{"incarnations differ", incarnations},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.try(&tried{T: t, s: open(t), open: open, opt: &opt})
		})
	}
}

// tried is a store in a test.
type tried struct {
	*testing.T
	s    server.Store
	open func(*testing.T) server.Store
	opt  *Options
}

// id returns a message id.
func id(n uint64) (id wire.ID) {
	id[0] = 1
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

// entry returns an entry with id n.
func entry(n uint64) server.Entry {
	payload := fmt.Append(nil, "message ", n)
	return server.Entry{Time: time.Now(), ID: id(n), Topic: "t/a", Payload: payload, Hash: server.HashOf("t/a", payload)}
}

// entries returns entries with ids from n on.
func entries(n, count uint64) (all []server.Entry) {
	for i := range count {
		all = append(all, entry(n+i))
	}
	return all
}

// change returns a Change of a session.
func change(version uint64, record string, all ...server.Entry) *server.Change {
	return &server.Change{
		Session: "session", Version: version, Record: []byte(record), TTL: time.Hour, Bound: true,
		Who: "who", Entries: all, Keep: time.Hour,
	}
}

// must commits c.
func (t *tried) must(c *server.Change) server.Committed {
	t.Helper()
	done, err := t.s.Commit(t.Context(), c)
	if err != nil {
		t.Fatalf("Commit: %v", err)
	}
	return done
}

// refused commits c, which must do nothing.
func (t *tried) refused(c *server.Change, want error) {
	t.Helper()
	before := t.state(c.Session)
	if _, err := t.s.Commit(t.Context(), c); !errors.Is(err, want) {
		t.Fatalf("Commit: %v, want %v", err, want)
	}
	if after := t.state(c.Session); after != before {
		t.Fatalf("a refused Commit made %q of %q", after, before)
	}
}

// state is what a Commit could change, as text.
func (t *tried) state(session string) string {
	t.Helper()
	record, version := t.load(session)
	return fmt.Sprintf("version %d, record %q, head %d", version, record, t.view().Head)
}

func (t *tried) load(session string) (string, uint64) {
	t.Helper()
	t.sync()
	record, version, err := t.s.Load(t.Context(), session)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return string(record), version
}

// expect checks the record of a session.
func (t *tried) expect(session, record string, version uint64) {
	t.Helper()
	if r, v := t.load(session); r != record || v != version {
		t.Fatalf("the record is %q, version %d; want %q, version %d", r, v, record, version)
	}
}

func (t *tried) sync() {
	t.Helper()
	if err := t.s.Sync(t.Context()); err != nil {
		t.Fatalf("Sync: %v", err)
	}
}

func (t *tried) view() server.View {
	t.Helper()
	t.sync()
	return t.s.View()
}

// read returns all entries held.
func (t *tried) read() (all []*server.Entry) {
	t.Helper()
	t.sync()
	buf := make([]*server.Entry, 7)
	for from := uint64(1); ; {
		n, _, err := t.s.Read(t.Context(), from, buf)
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		if n == 0 {
			return all
		}
		for _, e := range buf[:n] {
			if e.Offset < from {
				t.Fatalf("Read from %d has returned offset %d", from, e.Offset)
			}
			from = e.Offset + 1
			all = append(all, e)
		}
	}
}

// holds checks the ids of all entries held.
func (t *tried) holds(want ...uint64) {
	t.Helper()
	all := t.read()
	if len(all) != len(want) {
		t.Fatalf("%d entries, want %d", len(all), len(want))
	}
	for i, e := range all {
		if e.ID != id(want[i]) {
			t.Fatalf("entry %d has id %x, want %x", i, e.ID, id(want[i]))
		}
	}
}

// known checks what is known of an id.
func (t *tried) known(who string, n uint64, want *server.KnownID) {
	t.Helper()
	t.sync()
	all, err := t.s.Known(t.Context(), who, []wire.ID{id(9_999_999), id(n)})
	switch {
	case err != nil:
		t.Fatalf("Known: %v", err)
	case want == nil && len(all) > 0:
		t.Fatalf("known: %+v", all)
	case want != nil && (len(all) != 1 || all[0] != *want):
		t.Fatalf("known: %+v, want %+v", all, *want)
	}
}

// knownTo commits c, whose ids want are known.
func (t *tried) knownTo(c *server.Change, want ...server.KnownID) {
	t.Helper()
	before := t.state(c.Session)
	_, err := t.s.Commit(t.Context(), c)
	var known *server.KnownError
	if !errors.As(err, &known) || len(known.IDs) != len(want) {
		t.Fatalf("Commit: %v, want %d known ids", err, len(want))
	}
	for _, w := range want {
		found := false
		for _, k := range known.IDs {
			found = found || k == w
		}
		if !found {
			t.Fatalf("known: %+v, want %+v among them", known.IDs, w)
		}
	}
	if after := t.state(c.Session); after != before {
		t.Fatalf("a refused Commit made %q of %q", after, before)
	}
}

func emptyStore(t *tried) {
	t.expect("session", "", 0)
	v := t.view()
	if v.Head != 0 || v.First != 1 || v.Epoch == "" || len(v.Epoch) > 255 || len(v.Base) > 16 {
		t.Fatalf("view %+v: want head 0, first 1, an epoch of 1 to 255 bytes, a base tag of at most 16", v)
	}
	t.holds()
}

func records(t *tried) {
	big := string(bytes.Repeat([]byte{0, 255, '"', '\n'}, 16<<10))
	version := uint64(0)
	for _, record := range []string{"a", big, "", "b"} {
		c := change(version, record)
		if c.Record == nil {
			c.Record = []byte{}
		}
		done := t.must(c)
		if done.Version <= version || done.Offset != 0 {
			t.Fatalf("committed: %+v after version %d", done, version)
		}
		version = done.Version
		t.expect("session", record, version)
	}
	t.expect("sessio", "", 0)
	for _, name := range []string{"../a", "A", "a", "ä", "*", "a b"} {
		c := change(0, name)
		c.Session = name
		t.must(c)
	}
	for _, name := range []string{"../a", "A", "a", "ä", "*", "a b"} {
		if r, _ := t.load(name); r != name {
			t.Errorf("the record of %q is %q", name, r)
		}
	}
}

func staleVersion(t *tried) {
	t.refused(change(1, "x", entry(1)), server.ErrConflict) // there is none
	first := t.must(change(0, "1")).Version
	t.refused(change(0, "x", entry(1)), server.ErrConflict)
	second := t.must(change(first, "2")).Version
	t.refused(change(first, "x", entry(1)), server.ErrConflict)
	t.refused(change(second+1, "x", entry(1)), server.ErrConflict)
	c := change(first, "x")
	c.Record = nil
	t.refused(c, server.ErrConflict)
	// The order of errors: a version that is stale says nothing about ids.
	t.must(change(second, "3", entry(1)))
	t.refused(change(second, "x", entry(1)), server.ErrConflict)
	t.known("who", 2, nil)
}

func removal(t *tried) {
	version := t.must(change(0, "a")).Version
	c := change(version, "")
	c.Record = nil
	t.must(c)
	t.expect("session", "", 0)
	t.refused(change(version, "x"), server.ErrConflict)
	if again := t.must(change(0, "b")).Version; again == version {
		t.Fatal("a version comes again")
	}
	t.refused(change(version, "x"), server.ErrConflict)
}

// The time of a record counts from the last Commit. A store that needs longer for a Commit than the record lives is tried
// with a longer life.
func expiry(t *tried) {
	for ttl := 20 * time.Millisecond; ; ttl *= 2 {
		short := change(0, "short")
		short.Session, short.TTL = fmt.Sprint("session ", ttl), ttl
		began := time.Now()
		long := change(t.must(short).Version, "long")
		long.Session = short.Session
		over := time.Now().Add(ttl)
		_, err := t.s.Commit(t.Context(), long)
		if errors.Is(err, server.ErrConflict) && time.Since(began) >= ttl && ttl < time.Minute {
			continue
		}
		if err != nil {
			t.Fatalf("Commit %v after a record for %v: %v", time.Since(began), ttl, err)
		}
		ctx, cancel := context.WithDeadline(t.Context(), over.Add(30*time.Millisecond))
		defer cancel()
		<-ctx.Done()
		other := change(0, "other")
		other.Session = "other"
		t.expect("other", "other", t.must(other).Version)
		if r, _ := t.load(short.Session); r != "long" {
			t.Fatalf("the record is %q: it was dropped after the time of an earlier Commit", r)
		}
		return
	}
}

// A store that counts counts what is kept.
func counting(t *tried) {
	counter, ok := t.s.(server.Counter)
	if !ok {
		t.Skip("NOT TESTED: the store does not implement server.Counter")
	}
	t.must(change(0, "a", entries(1, 3)...))
	c := change(0, "b")
	c.Session, c.Refused = "second", []server.Refusal{{ID: id(4), Code: 2, Hash: 4}}
	version := t.must(c).Version
	if sessions, ids := counter.Counts(); sessions != 2 || ids != 4 {
		t.Errorf("counts %d sessions and %d ids, want 2 and 4", sessions, ids)
	}
	t.must(&server.Change{Session: "second", Version: version, Who: "who"})
	if sessions, ids := counter.Counts(); sessions != 1 || ids != 4 {
		t.Errorf("counts %d sessions and %d ids, want 1 and 4", sessions, ids)
	}
}
