package file

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/outboxtest"
)

// A log of version 1 opens and goes on as it is until a message is removed. Then it has a new file, which a version of
// limpet that does not know Removed refuses as newer: it does not take it for damage.
func TestLogOfVersion1(t *testing.T) {
	path, _, _, _, after := smallLog(t, false)
	data := read(t, path)
	h, err := format.Decode("", data)
	if err != nil {
		t.Fatal(err)
	}
	h.Version = 1
	copy(data, format.Encode(&h))
	write(t, path, data)
	dir := filepath.Dir(path)
	s, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := outboxtest.Compare(load(t, s), after); err != nil {
		t.Error(err)
	}
	commit(t, s, &outbox.Change{Messages: messages(5, 6)})
	if s.current.Number != 1 || s.current.Version != 1 {
		t.Errorf("file %d has version %d", s.current.Number, s.current.Version)
	}
	commit(t, s, &outbox.Change{Removed: []outbox.Range{{Lo: 4, Hi: 5}}})
	want := load(t, s)
	if n := len(want.Messages); n != 3 || want.Messages[2].Seq != 4 || string(want.Messages[2].Payload) != "payload 6" {
		t.Errorf("%+v", want.Messages)
	}
	crash(t, s)
	second := read(t, filepath.Join(dir, segment.Name(2)))
	before := format
	before.Version = 1
	if _, err := before.Decode("", second); !errors.Is(err, outbox.ErrFormat) {
		t.Errorf("the new file, read by an earlier version: %v", err)
	}
	if s, err = Open(dir, nil); err != nil {
		t.Fatal(err)
	}
	if err := outboxtest.Compare(load(t, s), want); err != nil {
		t.Error(err)
	}
	crash(t, s)
}

// Messages that come and go behind one that stays leave nothing behind, neither in memory nor on the disk.
func TestRemovedMessagesLeaveNothing(t *testing.T) {
	s, err := Open(t.TempDir(), &Options{SegmentSize: minSegment})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	commit(t, s, &outbox.Change{Messages: messages(1, 1)})
	most, files := 0, uint64(0)
	for range 2000 {
		m := messages(2, 3)
		m[0].Payload, m[1].Payload = make([]byte, 100), make([]byte, 100)
		commit(t, s, &outbox.Change{Messages: m, Lazy: true}, &outbox.Change{Removed: []outbox.Range{{Lo: 2, Hi: 3}}, Lazy: true})
		most, files = max(most, len(s.ledger.entries)), max(files, s.current.Number-s.current.First)
	}
	if s.current.Number < 5 || most > 1000 || files > 1 {
		t.Errorf("%d files, of which %d were needed, %d entries", s.current.Number, files, most)
	}
}

// Quarantine returns what was not removed, once, also where a file that is no longer needed is still there.
func TestQuarantineAfterRemovals(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, &Options{SegmentSize: minSegment})
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, &outbox.Change{Messages: messages(1, 40)}, &outbox.Change{Removed: []outbox.Range{{Lo: 1, Hi: 38}}})
	old := read(t, filepath.Join(dir, segment.Name(1)))
	for s.current.Number == 1 {
		m := messages(3, 5)
		m[0].Payload = make([]byte, 5000)
		commit(t, s, &outbox.Change{Messages: m}, &outbox.Change{Removed: []outbox.Range{{Lo: 3, Hi: 5}}})
	}
	commit(t, s, &outbox.Change{Messages: messages(3, 5)}, &outbox.Change{Removed: []outbox.Range{{Lo: 4, Hi: 4}}})
	if s.current.First != 2 {
		t.Fatalf("file %d is needed: this proves nothing", s.current.First)
	}
	crash(t, s)
	write(t, filepath.Join(dir, segment.Name(1)), old)
	_, found, err := Quarantine(dir)
	var got []string
	for i := range found {
		got = append(got, string(found[i].Payload))
	}
	if want := []string{"payload 39", "payload 40", "payload 3", "payload 5"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}
