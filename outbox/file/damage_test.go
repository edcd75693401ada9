package file

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/internal/segment/faultdisk"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/outboxtest"
)

func messages(lo, hi uint64) (list []outbox.Message) {
	for seq := lo; seq <= hi; seq++ {
		list = append(list, outbox.Message{Seq: seq, ID: outbox.ID{byte(seq), 0xff}, Topic: "t", Payload: fmt.Append(nil, "payload ", seq), Added: time.Unix(1e9, 5)})
	}
	return list
}

func commit(t *testing.T, s *Store, changes ...*outbox.Change) {
	t.Helper()
	for _, c := range changes {
		if err := s.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
}

func load(t *testing.T, s *Store) *outbox.Content {
	t.Helper()
	k, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// crash ends the process of a store: nothing more is written.
func crash(t *testing.T, s *Store) {
	t.Helper()
	s.refused = outbox.ErrClosed
	if err := errors.Join(s.current.file.Close(), s.files.Close()); err != nil {
		t.Fatal(err)
	}
}

// smallLog returns a log of one segment in a real directory, where its last record begins and where its
// records end, and the contents before and after that record.
func smallLog(t *testing.T, orderly bool) (path string, last, end int64, before, after *outbox.Content) {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(dir, &Options{SegmentSize: minSegment})
	if err != nil {
		t.Fatal(err)
	}
	last, end, before, after = fill(t, s)
	if orderly {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	} else {
		crash(t, s)
	}
	return filepath.Join(dir, segment.Name(1)), last, end, before, after
}

// fill makes some changes in a new store, and returns where the last one is, and the contents before and after it.
func fill(t *testing.T, s *Store) (last, end int64, before, after *outbox.Content) {
	t.Helper()
	commit(t, s, &outbox.Change{Messages: messages(1, 2), State: []byte("state")}, &outbox.Change{Settled: []outbox.Range{{Lo: 1, Hi: 1}}})
	before, last = load(t, s), s.current.end
	commit(t, s, &outbox.Change{Messages: messages(3, 4), Sent: outbox.Sent{Seq: 3, Time: time.Unix(1e9, 0)}})
	return last, s.current.end, before, load(t, s)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A record that a crash tore at any byte is taken back, and the store goes on.
func TestTornRecord(t *testing.T) {
	path, last, end, before, after := smallLog(t, false)
	whole := read(t, path)
	r := rand.New(rand.NewPCG(1, 1))
	for at := last; at <= end; at++ {
		torn := slices.Clone(whole)
		clear(torn[at:end])
		want := before
		if bytes.Equal(torn, whole) { // its last bytes are zero anyway
			want = after
		}
		if r.IntN(2) == 0 {
			copy(torn[at:end], whole[last:]) // and something else is there
			want = before
			if at == end || bytes.Equal(torn, whole) {
				want = after
			}
		}
		write(t, path, torn)
		s, err := Open(filepath.Dir(path), nil)
		if err != nil {
			t.Fatalf("at %d: %v", at, err)
		}
		if err := outboxtest.Compare(load(t, s), want); err != nil {
			t.Errorf("at %d: %v", at, err)
		}
		if want == before && at%8 == 0 {
			commit(t, s, &outbox.Change{Messages: messages(3, 3)})
		}
		crash(t, s)
	}
}

// flippedBit returns data with bit i flipped, counted from its beginning.
func flippedBit(data []byte, i int) []byte {
	flipped := slices.Clone(data)
	flipped[i/8] ^= 1 << (i % 8)
	return flipped
}

// judge says whether an Open after a bit of byte at was flipped did what it must.
func judge(at, last, end int64, orderly bool, got, before, after *outbox.Content, err error) error {
	switch {
	case errors.Is(err, outbox.ErrCorrupt) && at < end:
		return nil
	case err == nil && !orderly && at >= last && at < end: // it may have been torn
		return outboxtest.Compare(got, before)
	case err == nil && at >= end: // behind the records
		return outboxtest.Compare(got, after)
	}
	return fmt.Errorf("error %w", err)
}

// Whichever bit is wrong, it is found, or it is in the record that may have been torn. A damaged file is never
// changed.
func TestFlippedBits(t *testing.T) {
	for _, orderly := range []bool{false, true} {
		d := faultdisk.New(rand.New(rand.NewPCG(1, 1)))
		s, err := openOn(d, "disk", 1<<10)
		if err != nil {
			t.Fatal(err)
		}
		last, end, before, after := fill(t, s)
		if orderly && s.Close() != nil {
			t.Fatal("Close failed")
		}
		n := d.Files[segment.Name(1)]
		whole := n.Data
		step := int64(1)
		if raceEnabled {
			step = 5
		}
		for i := int64(0); i < 8*(end+40); i += step {
			n.Data = flippedBit(whole, int(i))
			damaged := slices.Clone(n.Data)
			s, err := openOn(d, "disk", 1<<10)
			var got *outbox.Content
			if err == nil {
				got = load(t, s)
			} else if !bytes.Equal(n.Data, damaged) {
				t.Fatalf("the damaged file was changed (bit %d)", i)
			}
			if err := judge(i/8, last, end, orderly, got, before, after, err); err != nil {
				t.Fatalf("orderly %v, bit %d, records from %d to %d: %v", orderly, i, last, end, err)
			}
		}
	}
}

// The same with real files, and one bit of each byte.
func TestFlippedBitsInFiles(t *testing.T) {
	path, last, end, before, after := smallLog(t, false)
	whole := read(t, path)
	step := int64(1)
	if raceEnabled {
		step = 5
	}
	for at := int64(0); at < end+20; at += step {
		damaged := flippedBit(whole, int(8*at+at%8))
		write(t, path, damaged)
		s, err := Open(filepath.Dir(path), nil)
		var got *outbox.Content
		if err == nil {
			got = load(t, s)
			crash(t, s)
		} else if !bytes.Equal(read(t, path), damaged) {
			t.Fatalf("the damaged file was changed (byte %d)", at)
		}
		if err := judge(at, last, end, false, got, before, after, err); err != nil {
			t.Fatalf("byte %d, records from %d to %d: %v", at, last, end, err)
		}
	}
}

// longLog returns a directory with several segments that are needed.
func longLog(t *testing.T) (dir string, files []string, want *outbox.Content) {
	t.Helper()
	dir = t.TempDir()
	s, err := Open(dir, &Options{SegmentSize: minSegment})
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= 6; seq++ {
		c := &outbox.Change{Messages: messages(seq, seq)}
		c.Messages[0].Payload = make([]byte, minSegment*2/3)
		commit(t, s, c)
	}
	want = load(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, err = filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(files) < 5 {
		t.Fatalf("segments %v, %v", files, err)
	}
	return dir, files, want
}

// Segments that are missing, doubled, exchanged, cut or longer are found.
func TestSegmentsThatDoNotFit(t *testing.T) {
	dir, files, want := longLog(t)
	saved := map[string][]byte{}
	for _, f := range files {
		saved[f] = read(t, f)
	}
	n := len(files)
	next := filepath.Join(dir, segment.Name(uint64(n)+1))
	rows := map[string]func(){
		"the first is missing":        func() { os.Remove(files[0]) },
		"one in the middle":           func() { os.Remove(files[2]) },
		"the last is missing":         func() { os.Remove(files[n-1]) },
		"the last two are missing":    func() { os.Remove(files[n-1]); os.Remove(files[n-2]) },
		"the last one twice":          func() { write(t, next, saved[files[n-1]]) },
		"the first again at the end":  func() { write(t, next, saved[files[0]]) },
		"one in the place of another": func() { write(t, files[1], saved[files[2]]) },
		"two exchanged":               func() { write(t, files[1], saved[files[2]]); write(t, files[2], saved[files[1]]) },
		"cut at a record":             func() { write(t, files[n-1], saved[files[n-1]][:segment.FixedSize]) },
		"cut in the header":           func() { write(t, files[n-1], saved[files[n-1]][:50]) },
		"one in the middle is cut":    func() { write(t, files[1], saved[files[1]][:minSegment/2]) },
		"longer":                      func() { write(t, files[n-1], append(slices.Clone(saved[files[n-1]]), 0)) },
		"zeros":                       func() { write(t, files[n-1], make([]byte, minSegment)) },
		"empty":                       func() { write(t, files[1], nil) },
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		rows[name]()
		if s, err := Open(dir, nil); !errors.Is(err, outbox.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				crash(t, s)
			}
		}
		os.Remove(next)
		for f, data := range saved {
			write(t, f, data)
		}
	}
	s, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := outboxtest.Compare(load(t, s), want); err != nil {
		t.Error(err)
	}
	crash(t, s)
}

// A header of a newer version is no damage, and a file of something else is neither.
func TestFormats(t *testing.T) {
	path, _, _, _, after := smallLog(t, true)
	whole := read(t, path)
	newer := slices.Clone(whole)
	binary.LittleEndian.PutUint32(newer[8:], format.Version+1)
	newer[20]++ // what follows may have another form
	for name, row := range map[string]struct {
		data []byte
		want error
	}{
		"newer": {newer, outbox.ErrFormat}, "text": {[]byte("these are my notes"), outbox.ErrForeign}, "whole": {whole, nil},
	} {
		write(t, path, row.data)
		s, err := Open(filepath.Dir(path), nil)
		if !errors.Is(err, row.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			if err := outboxtest.Compare(load(t, s), after); err != nil {
				t.Error(err)
			}
			crash(t, s)
		}
		if !bytes.Equal(read(t, path), row.data) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// What is whole in a damaged outbox is returned, and the files are kept as they are.
func TestQuarantine(t *testing.T) {
	dir, files, want := longLog(t)
	second := read(t, files[1])
	second[segment.FixedSize+segment.FrameSize+100] ^= 1 // in the record with message 2
	write(t, files[1], second)
	if _, err := Open(dir, nil); !errors.Is(err, outbox.ErrCorrupt) {
		t.Fatal(err)
	}
	folder, found, err := Quarantine(dir)
	if err != nil || filepath.Dir(folder) != dir {
		t.Fatal(folder, err)
	}
	kept := slices.Delete(slices.Clone(want.Messages), 1, 2)
	if err := outboxtest.Compare(&outbox.Content{Messages: found}, &outbox.Content{Messages: kept}); err != nil {
		t.Error(err)
	}
	if got := read(t, filepath.Join(folder, filepath.Base(files[1]))); !bytes.Equal(got, second) {
		t.Error("the damaged file was changed")
	}
	if folder, found, err := Quarantine(dir); folder != "" || found != nil || err != nil {
		t.Errorf("nothing to move: %q, %v, %v", folder, found, err)
	}
	for range 2 { // a second folder has another name
		s, err := Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Quarantine(dir); !errors.Is(err, outbox.ErrInUse) {
			t.Errorf("in use: %v", err)
		}
		if err := outboxtest.Compare(load(t, s), &outbox.Content{}); err != nil {
			t.Error(err)
		}
		commit(t, s, &outbox.Change{Messages: messages(1, 4)}, &outbox.Change{Void: []outbox.Range{{Lo: 2, Hi: 2}, {Lo: math.MaxUint64 - 1, Hi: math.MaxUint64}}, Settled: []outbox.Range{{Lo: 1, Hi: 1}}})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		next, found, err := Quarantine(dir)
		if err != nil || next == folder || len(found) != 2 || found[0].Seq != 3 {
			t.Errorf("%q, %v, %v", next, found, err)
		}
		folder = next
	}
}

func FuzzSegment(f *testing.F) {
	for _, c := range []*outbox.Change{
		{Messages: messages(1, 3), State: []byte("state")},
		{Reset: true, Settled: []outbox.Range{{Lo: 1, Hi: 2}}, Void: []outbox.Range{{Lo: 3, Hi: 3}}, Sent: outbox.Sent{Seq: 3, Time: time.Unix(1, 1)}},
	} {
		f.Add(appendChange(nil, c), true)
	}
	h := segment.Header{Number: 1, First: 1, Size: 8 << 10}
	f.Add(format.Encode(&h), false)
	f.Fuzz(func(t *testing.T, data []byte, framed bool) {
		if len(data) > 4<<10 {
			return
		}
		file := make([]byte, h.Size)
		copy(file, data)
		if framed { // the bytes are a record, not the file
			n := copy(file, format.Encode(&h))
			copy(file[n:], h.Finish(append(make([]byte, segment.FrameSize), data...), segment.Changes, int64(n)))
		}
		d := faultdisk.New(rand.New(rand.NewPCG(1, 1)))
		d.Files[segment.Name(1)] = faultdisk.File(file)
		s, err := openOn(d, "disk", 4<<10)
		if err != nil {
			if !errors.Is(err, outbox.ErrCorrupt) && !errors.Is(err, outbox.ErrForeign) && !errors.Is(err, outbox.ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		k, err := s.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// What was read can be written, and is then the same.
		if err := s.Commit(t.Context(), &outbox.Change{State: []byte("next")}); err != nil && !errors.Is(err, outbox.ErrCorrupt) {
			t.Fatal(err)
		} else if err != nil {
			return
		}
		k.State = []byte("next")
		again, err := openOn(d, "disk", 4<<10)
		if err != nil {
			t.Fatal(err)
		}
		if err := outboxtest.Compare(load(t, again), k); err != nil {
			t.Fatal(err)
		}
	})
}
