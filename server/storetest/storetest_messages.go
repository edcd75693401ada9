package storetest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// workers compete in each round.
const workers = 8

func competition(t *tried) {
	version, stores := uint64(0), [workers]server.Store{}
	for i := range stores {
		stores[i] = t.opt.Beside(t.T, t.s)
	}
	for round := range t.opt.Rounds {
		var all sync.WaitGroup
		var won [workers]uint64
		var failed atomic.Pointer[error]
		for i, s := range stores {
			all.Go(func() {
				done, err := s.Commit(t.Context(), change(version, "x", entry(uint64(round*workers+i))))
				switch {
				case err == nil:
					won[i] = done.Version
				case !errors.Is(err, server.ErrConflict):
					failed.Store(&err)
				}
			})
		}
		all.Wait()
		if err := failed.Load(); err != nil {
			t.Fatalf("round %d: %v", round, *err)
		}
		winners := 0
		for _, v := range won {
			if v != 0 {
				winners, version = winners+1, v
			}
		}
		if winners != 1 {
			t.Fatalf("round %d: %d Commits for one version", round, winners)
		}
	}
	if n := len(t.read()); n != t.opt.Rounds {
		t.Fatalf("%d entries after %d rounds", n, t.opt.Rounds)
	}
}

func knownIDs(t *tried) {
	c := change(0, "a", entry(1), entry(2))
	c.Refused = []server.Refusal{{ID: id(3), Hash: 33, Code: 7}}
	done := t.must(c)
	t.known("who", 4, nil)
	held := t.read()
	first := server.KnownID{ID: id(1), Hash: entry(1).Hash, Offset: held[0].Offset}
	second := server.KnownID{ID: id(2), Hash: entry(2).Hash, Offset: held[1].Offset}
	third := server.KnownID{ID: id(3), Hash: 33, Code: 7}
	if held[1].Offset != done.Offset {
		t.Fatalf("the last entry is at %d; Commit said %d", held[1].Offset, done.Offset)
	}
	t.known("who", 1, &first)
	t.known("who", 2, &second)
	t.known("who", 3, &third)
	other := entry(1)
	other.Payload, other.Hash = []byte("another"), 5
	t.knownTo(change(done.Version, "x", other), first)
	t.knownTo(change(done.Version, "x", entry(4), entry(3), entry(1)), third, first)
	c = change(done.Version, "x", entry(5))
	c.Refused = []server.Refusal{{ID: id(2), Code: 9}}
	t.knownTo(c, second)
	// A message of the program.
	c = &server.Change{Who: "who", Entries: entries(1, 1), Keep: time.Hour}
	t.knownTo(c, first)
	t.holds(1, 2)
}

func principals(t *tried) {
	t.must(change(0, "a", entry(1)))
	c := &server.Change{Session: "other", Record: []byte("b"), TTL: time.Hour, Who: "another", Entries: entries(1, 1), Keep: time.Hour}
	t.must(c)
	c = &server.Change{Entries: entries(1, 1), Keep: time.Hour}
	if done := t.must(c); done.Offset == 0 {
		t.Fatal("a message of the program has no offset")
	}
	t.holds(1, 1, 1)
}

func sameID(t *tried) {
	stores := [workers]server.Store{}
	for i := range stores {
		stores[i] = t.opt.Beside(t.T, t.s)
	}
	for round := range t.opt.Rounds / 10 {
		var all sync.WaitGroup
		var accepted, other atomic.Uint64
		for _, s := range stores {
			all.Go(func() {
				_, err := s.Commit(t.Context(), &server.Change{Who: "who", Entries: entries(uint64(round), 1), Keep: time.Hour})
				var known *server.KnownError
				switch {
				case err == nil:
					accepted.Add(1)
				case !errors.As(err, &known) || len(known.IDs) != 1 || known.IDs[0].ID != id(uint64(round)):
					other.Add(1)
				}
			})
		}
		all.Wait()
		if accepted.Load() != 1 || other.Load() != 0 {
			t.Fatalf("round %d: accepted %d times, %d other errors", round, accepted.Load(), other.Load())
		}
	}
	if n := len(t.read()); n != t.opt.Rounds/10 {
		t.Fatalf("%d entries", n)
	}
}

func allOrNothing(t *tried) {
	version := t.must(change(0, "a", entry(250))).Version
	held := t.read()[0]
	t.knownTo(change(version, "x", entries(1, 500)...), server.KnownID{ID: id(250), Hash: held.Hash, Offset: held.Offset})
	t.known("who", 1, nil)
	t.known("who", 500, nil)
	t.holds(250)
	t.must(change(version, "b", entries(251, 500)...))
	if n := len(t.read()); n != 501 {
		t.Fatalf("%d entries", n)
	}
}

func forgetting(t *tried) {
	long := time.Now().Add(-time.Hour)
	c := change(0, "a", entry(1))
	c.Oldest = long
	_, err := t.s.Commit(t.Context(), c)
	switch {
	case errors.Is(err, server.ErrForgotten): // a store that knows nothing of the time before it
		refuses := change(0, "a")
		refuses.Refused, refuses.Oldest = []server.Refusal{{ID: id(2), Code: 9}}, long
		if _, err := t.s.Commit(t.Context(), refuses); !errors.Is(err, server.ErrForgotten) {
			t.Fatalf("a change that only refuses: %v, want ErrForgotten", err)
		}
		t.expect("session", "", 0)
		t.known("who", 1, nil)
		c = change(0, "a", entry(1))
	case err != nil:
		t.Fatal(err)
	default:
		return
	}
	t.must(c)
}

func offsets(t *tried) {
	version, last := uint64(0), uint64(0)
	for n := range uint64(50) {
		done := t.must(change(version, "a", entries(100*n, 1+n%3)...))
		if done.Offset <= last {
			t.Fatalf("offset %d after %d", done.Offset, last)
		}
		version, last = done.Version, done.Offset
		if v := t.view(); v.Head != last || v.First != t.read()[0].Offset {
			t.Fatalf("view %+v, the newest offset is %d", v, last)
		}
	}
	previous := uint64(0)
	for _, e := range t.read() {
		if e.Offset <= previous {
			t.Fatalf("offset %d after %d", e.Offset, previous)
		}
		previous = e.Offset
	}
}

func contents(t *tried) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	e := server.Entry{
		Time: time.Now(), ID: id(1), Topic: "ä/b c/%", Payload: all, Type: "text/plain; charset=utf-8",
		Header: map[string]string{"": "empty", "K": "v\n", "k": "ä"}, TTL: 1500 * time.Millisecond, Hash: 77,
	}
	copied := e
	copied.Payload, copied.Header = bytes.Clone(all), maps.Clone(e.Header)
	t.must(change(0, "a", e, server.Entry{ID: id(2), Topic: "t"}))
	held := t.read()
	got := held[0]
	if got.ID != copied.ID || got.Topic != copied.Topic || !bytes.Equal(got.Payload, copied.Payload) || got.Type != copied.Type ||
		!maps.Equal(got.Header, copied.Header) || got.TTL != copied.TTL || got.Hash != copied.Hash {
		t.Fatalf("entry %+v, want %+v", got, copied)
	}
	if got = held[1]; got.Topic != "t" || len(got.Payload) != 0 || len(got.Header) != 0 {
		t.Fatalf("entry %+v", got)
	}
}

func together(t *tried) {
	const runs = 200
	stop, failed := make(chan struct{}), make(chan string, 1)
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if t.s.Sync(t.Context()) != nil {
				return
			}
			record, version, err := t.s.Load(t.Context(), "session")
			if err != nil || version == 0 {
				continue
			}
			// The log is read after the record, so it has at least what the record says.
			if t.s.Sync(t.Context()) != nil {
				return
			}
			if head := t.s.View().Head; head < uint64(len(record)) {
				failed <- "a record is visible before its entries"
				return
			}
		}
	})
	version, record := uint64(0), ""
	for n := range uint64(runs) {
		record += "xx"
		version = t.must(change(version, record, entries(10*n, 2)...)).Version
	}
	close(stop)
	reader.Wait()
	select {
	case why := <-failed:
		t.Fatal(why)
	default:
	}
}

func givenUp(t *tried) {
	version := uint64(0)
	for n := range uint64(20) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*20*time.Microsecond)
		record := string(rune('a' + n))
		done, err := t.s.Commit(ctx, change(version, record, entries(10*n, 3)...))
		cancel()
		if err == nil {
			version = done.Version
			t.expect("session", record, version)
			continue
		}
		// Only another Commit decides: after it, the one that was given up is done or never will be.
		got, now := t.load("session")
		after, err := t.s.Commit(t.Context(), change(now, got))
		if err != nil {
			got, now = t.load("session")
			after = t.must(change(now, got))
		}
		count := 0
		for _, e := range t.read() {
			for i := range uint64(3) {
				if e.ID == id(10*n+i) {
					count++
				}
			}
		}
		if done := got == record; done && count != 3 || !done && count != 0 {
			t.Fatalf("a Commit that was given up: record %q, %d of 3 entries", got, count)
		}
		version = after.Version
	}
}

func sharing(t *tried) {
	c := change(0, "abc", entry(1))
	version := t.must(c).Version
	copy(c.Record, "xyz")
	c.Version, c.Session = 99, "other"
	t.expect("session", "abc", version)
	t.sync()
	record, _, err := t.s.Load(t.Context(), "session")
	if err != nil {
		t.Fatal(err)
	}
	t.must(change(version, "def"))
	if string(record) != "abc" {
		t.Fatalf("a record that was loaded has become %q", record)
	}
}

func syncing(t *tried) {
	beside := t.opt.Beside(t.T, t.s)
	version := uint64(0)
	for n := range uint64(20) {
		version = t.must(change(version, "a", entry(n))).Version
		if err := beside.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		v := beside.View()
		if v.Epoch != t.s.View().Epoch {
			t.Fatal("two servers on one store see two epochs")
		}
		var one [1]*server.Entry
		if read, _, err := beside.Read(t.Context(), v.Head, one[:]); err != nil || read != 1 || one[0].ID != id(n) {
			t.Fatalf("message %d is not there after Sync: %d entries, %v", n, read, err)
		}
		if tag, held, err := beside.Tag(t.Context(), v.Head); err != nil || !held || wire.ID(tag) != id(n) {
			t.Fatalf("tag of message %d: %x, %v, %v", n, tag, held, err)
		}
		if _, got, err := beside.Load(t.Context(), "session"); err != nil || got != version {
			t.Fatalf("version %d after Sync, want %d; %v", got, version, err)
		}
	}
}

func waking(t *tried) {
	beside := t.opt.Beside(t.T, t.s)
	changed := beside.Changed()
	select {
	case <-changed:
		t.Fatal("changed without a change")
	default:
	}
	t.must(change(0, "a", entry(1)))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	select {
	case <-changed:
	case <-ctx.Done():
		t.Fatal("Changed was not closed after a message")
	}
}

func positions(t *tried) {
	done := t.must(change(0, "a", entries(1, 3)...))
	version := t.must(change(done.Version, "b")).Version // a record is no entry
	t.must(change(version, "c", entry(4)))
	t.sync()
	for _, e := range t.read() {
		if tag, held, err := t.s.Tag(t.Context(), e.Offset); err != nil || !held || wire.ID(tag) != e.ID {
			t.Fatalf("tag of %d: %x, %v, %v", e.Offset, tag, held, err)
		}
	}
	head := t.view().Head
	for _, offset := range []uint64{0, head + 1, head + 1000} {
		if tag, held, err := t.s.Tag(t.Context(), offset); err != nil || held {
			t.Fatalf("tag of %d, where no entry is: %x, %v, %v", offset, tag, held, err)
		}
	}
	for offset := range head { // between entries there may be records
		tag, held, err := t.s.Tag(t.Context(), offset)
		if err != nil || held && len(tag) != 16 {
			t.Fatalf("tag of %d: %x, %v, %v", offset, tag, held, err)
		}
	}
	var buf [2]*server.Entry
	for from := uint64(1); from <= head; from++ { // also those that an earlier read did not reach
		if n, _, err := t.s.Read(t.Context(), from, buf[:]); err != nil || n == 0 {
			t.Fatalf("read from %d, head %d: %d entries, %v", from, head, n, err)
		}
	}
	if n, _, err := t.s.Read(t.Context(), head+1, buf[:]); n != 0 || err != nil {
		t.Fatalf("read beyond the end: %d entries, %v", n, err)
	}
}

func trimming(t *tried) {
	if t.opt.Small == nil {
		t.Skip("Options.Small is not set")
	}
	t.s = t.opt.Small(t.T)
	done := t.must(change(0, "a", entry(1)))
	version := t.must(change(done.Version, "b", entries(2, 9)...)).Version
	v := t.view()
	if v.First <= done.Offset || v.First > v.Head {
		t.Fatalf("first %d, head %d after ten entries", v.First, v.Head)
	}
	if _, held, err := t.s.Tag(t.Context(), done.Offset); held || err != nil {
		t.Fatalf("the tag of a trimmed entry: held %v, %v", held, err)
	}
	var buf [20]*server.Entry
	n, first, err := t.s.Read(t.Context(), 1, buf[:])
	if err != nil || n == 0 || n > 5 || first != v.First || buf[0].Offset < first || buf[n-1].ID != id(10) {
		t.Fatalf("read from 1: %d entries, first %d, %v", n, first, err)
	}
	t.knownTo(change(version, "x", entry(1)), server.KnownID{ID: id(1), Hash: entry(1).Hash, Offset: done.Offset})
}

func unreachable(t *tried) {
	if t.opt.Cut == nil {
		t.Skip("Options.Cut is not set")
	}
	done := t.must(change(0, "a", entry(1)))
	t.sync()
	t.opt.Cut(t.s)
	if _, held, err := t.s.Tag(t.Context(), done.Offset); err == nil && !held {
		t.Fatal("an entry that cannot be looked up counts as not held")
	}
	if n, first, err := t.s.Read(t.Context(), done.Offset, make([]*server.Entry, 1)); err == nil && (n == 0 || first > done.Offset) {
		t.Fatal("an entry that cannot be read counts as gone")
	}
}

func incarnations(t *tried) {
	a, b := t.s.View(), t.open(t.T).View()
	if a.Epoch == b.Epoch {
		t.Fatalf("two logs have the epoch %q", a.Epoch)
	}
}
