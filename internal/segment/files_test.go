package segment_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/internal/segment/faultdisk"
)

const size = 4096 // of a segment

func newFiles(seed uint64) (*faultdisk.Disk, *segment.Files) {
	d := faultdisk.New(rand.New(rand.NewPCG(seed, 11)))
	return d, &segment.Files{System: d, Format: &format, SegmentSize: size}
}

// begin begins a segment with a record that has its number.
func begin(f *segment.Files, number, first uint64) (h segment.Header, file segment.Handle, end int64, uncertain bool, err error) {
	h = segment.Header{Number: number, First: first}
	body := append(make([]byte, segment.FrameSize), fmt.Sprint("record of ", number)...)
	file, end, uncertain, err = f.Begin(&h, [][]byte{body}, 0)
	return h, file, end, uncertain, err
}

// mustBegin begins the segments up to a number.
func mustBegin(t *testing.T, f *segment.Files, from, to uint64) (last segment.Header, file segment.Handle, end int64) {
	t.Helper()
	for n := from; n <= to; n++ {
		var err error
		if last, file, end, _, err = begin(f, n, 1); err != nil {
			t.Fatal(err)
		}
	}
	return last, file, end
}

// check fails unless a segment is there with its record, or is not there at all.
func check(f *segment.Files, number uint64) (there bool, err error) {
	numbers, err := f.Numbers()
	if err != nil || !slices.Contains(numbers, number) {
		return false, err
	}
	h, err := f.Header(number, nil)
	if err != nil {
		return true, err
	}
	file, err := f.OpenFile(segment.Name(number))
	if err != nil {
		return true, err
	}
	data, err := f.Read(&h, file, -1, nil)
	if err != nil {
		return true, err
	}
	kind, body := h.RecordAt(data, int64(h.Length()))
	if want := fmt.Sprint("record of ", number); kind != segment.Changes || !strings.HasPrefix(string(body), want) {
		return true, fmt.Errorf("the record is %d, %q", kind, body)
	}
	return true, nil
}

// Whatever fails at whichever operation, and whether the process or the machine ends then: a segment that Begin has
// returned is there, whole; after an error it is not, unless Begin is uncertain. No file is synced after a sync that failed.
func TestBegin(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(300) {
		for _, fault := range []error{syscall.EIO, syscall.ENOSPC, nil} {
			for after := range 14 {
				d, f := newFiles(seed)
				mustBegin(t, f, 1, 2)
				f.Drop(1, 2) // leaves a spare
				if seed%2 == 0 {
					f.SegmentSize = 2 * size // of another size
				}
				d.After, d.Fault = after, fault
				_, _, _, uncertain, err := begin(f, 3, 2)
				failed := d.Dead || len(d.Used) > 0
				d.Restart(d.Dead || seed%3 == 0)
				there, checkErr := check(f, 3)
				if before, err := check(f, 2); err != nil || !before {
					t.Fatalf("seed %d, %v after %d: the segment before: %v, %v", seed, fault, after, before, err)
				}
				switch {
				case checkErr != nil:
					t.Fatalf("seed %d, %v after %d: %v, then %v", seed, fault, after, err, checkErr)
				case err == nil && !there:
					t.Fatalf("seed %d, %v after %d: the segment is missing", seed, fault, after)
				case err == nil && failed && fault == nil:
					t.Fatalf("seed %d, no power after %d: no error", seed, after)
				case err != nil && there && !uncertain && !errors.Is(err, faultdisk.ErrPower):
					t.Fatalf("seed %d, %v after %d: %v, and the segment is there", seed, fault, after, err)
				case len(d.Misuse) > 0:
					t.Fatalf("seed %d, %v after %d: misuse %q", seed, fault, after, d.Misuse)
				}
				for op, n := range d.Used {
					seen[op] += n
				}
				if uncertain {
					seen["uncertain"]++
				}
				if err == nil {
					continue
				}
				if _, _, _, _, err := begin(f, 4, 2); err != nil {
					t.Fatalf("seed %d, %v after %d: the next one: %v", seed, fault, after, err)
				}
			}
		}
	}
	for _, op := range []string{"open", "size", "remove", "create", "write", "sync", "rename", "sync of names", "uncertain"} {
		if seen[op] == 0 {
			t.Errorf("%s was not tried", op)
		}
	}
	t.Logf("faults %v", seen)
}

// A segment that is missing, doubled, of another number or of another size is found.
func TestSegmentsThatDoNotFit(t *testing.T) {
	for name, row := range map[string]struct {
		damage func(d *faultdisk.Disk)
		says   string
	}{
		"missing":           {func(d *faultdisk.Disk) { delete(d.Files, segment.Name(2)) }, "the file is missing"},
		"doubled":           {func(d *faultdisk.Disk) { d.Files[segment.Name(2)] = d.Files[segment.Name(3)] }, "it is a copy of " + segment.Name(3)},
		"shorter":           {func(d *faultdisk.Disk) { n := d.Files[segment.Name(2)]; n.Data = n.Data[:size-1] }, "it has 4095 bytes, and had 4096"},
		"longer":            {func(d *faultdisk.Disk) { n := d.Files[segment.Name(2)]; n.Data = append(n.Data, 0) }, "it has 4097 bytes, and had 4096"},
		"empty":             {func(d *faultdisk.Disk) { d.Files[segment.Name(2)].Data = nil }, "its header is lost"},
		"zeros":             {func(d *faultdisk.Disk) { clear(d.Files[segment.Name(2)].Data) }, "its header is lost"},
		"another's content": {func(d *faultdisk.Disk) { copy(d.Files[segment.Name(2)].Data[20:], "xyz") }, "its header is damaged"},
	} {
		d, f := newFiles(1)
		mustBegin(t, f, 1, 3)
		row.damage(d)
		_, err := f.Header(2, nil)
		if !errors.Is(err, errCorrupt) || !strings.Contains(err.Error(), row.says) || !strings.Contains(err.Error(), segment.Name(2)) {
			t.Errorf("%s: %v", name, err)
		}
		for _, other := range []uint64{1, 3} {
			if there, err := check(f, other); err != nil || !there {
				t.Errorf("%s: segment %d: %v, %v", name, other, there, err)
			}
		}
	}
}

// A header is read with little memory, whatever length it claims, and a big one whole.
func TestBigHeader(t *testing.T) {
	_, f := newFiles(1)
	h := segment.Header{Number: 1, First: 1, State: make([]byte, 200<<10)}
	h.State[199<<10] = 5
	if _, _, _, err := f.Begin(&h, nil, 0); err != nil {
		t.Fatal(err)
	}
	got, err := f.Header(1, nil)
	if err != nil || len(got.State) != len(h.State) || got.State[199<<10] != 5 || got.Size < 200<<10 {
		t.Errorf("%d bytes of state in a file of %d, %v", len(got.State), got.Size, err)
	}
}

// Only the names of segments count, in the order of their numbers. Others are foreign, and the numbers are there nevertheless.
func TestNumbers(t *testing.T) {
	d, f := newFiles(1)
	mustBegin(t, f, 1, 2)
	mustBegin(t, f, 0x10, 0x10)
	d.Files[segment.SpareName] = faultdisk.File(nil)
	if numbers, err := f.Numbers(); err != nil || !slices.Equal(numbers, []uint64{1, 2, 0x10}) {
		t.Errorf("%v, %v", numbers, err)
	}
	for _, name := range []string{"1.log", "0000000000000001.log.bak", "000000000000000G.log", "000000000000000A.log", "x", "spare2"} {
		d.Files[name] = faultdisk.File(nil)
		if numbers, err := f.Numbers(); !errors.Is(err, errForeign) || !strings.Contains(err.Error(), fmt.Sprintf("%q", name)) || len(numbers) != 3 {
			t.Errorf("%s: %v, %v", name, numbers, err)
		}
		delete(d.Files, name)
	}
}

// One of the segments that go becomes the spare, but none in which a sync has failed, and that is the next one.
func TestDrop(t *testing.T) {
	d, f := newFiles(1)
	mustBegin(t, f, 1, 5)
	spoilt, second := d.Files[segment.Name(1)], d.Files[segment.Name(2)]
	f.Spoilt = 1
	f.Drop(1, 4)
	if d.Files[segment.SpareName] != second || d.Files[segment.SpareName] == spoilt {
		t.Error("the spare is not the first good one")
	}
	if numbers, err := f.Numbers(); err != nil || !slices.Equal(numbers, []uint64{4, 5}) || len(d.Files) != 3 {
		t.Errorf("%v of %d files, %v", numbers, len(d.Files), err)
	}
	creates := d.Creates
	d.Full = true
	if _, _, _, _, err := begin(f, 6, 4); err != nil || d.Creates != creates {
		t.Errorf("on a full disk, with a spare: %v", err)
	}
	if d.Files[segment.Name(6)] != second {
		t.Error("the spare was not used")
	}
	if there, err := check(f, 6); err != nil || !there {
		t.Error(there, err)
	}
}

// A record whose sync failed in the process before may be in the memory of the system only. Confirm makes it durable, and
// takes back what a crash interrupted behind it.
func TestConfirm(t *testing.T) {
	for seed := range uint64(50) {
		for _, closed := range []bool{false, true} {
			d, f := newFiles(seed)
			h, file, end := mustBegin(t, f, 1, 1)
			last := h.Finish(append(make([]byte, segment.FrameSize), make([]byte, 1500)...), segment.Changes, end)
			behind := h.Finish(make([]byte, segment.FrameSize), segment.Closed, end+int64(len(last)))
			_, err := file.WriteAt(append(slices.Clone(last), behind...), end)
			if err != nil {
				t.Fatal(err)
			}
			d.After, d.Fault = 0, syscall.EIO
			if err := file.Sync(); !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
			d.Restart(false)
			file, err = f.OpenFile(segment.Name(1))
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Confirm(file, end+int64(len(last)), last, closed); err != nil {
				t.Fatal(err)
			}
			d.Restart(true)
			if file, err = f.OpenFile(segment.Name(1)); err != nil {
				t.Fatal(err)
			}
			data, err := f.Read(&h, file, -1, nil)
			if err != nil {
				t.Fatal(err)
			}
			if kind, _ := h.RecordAt(data, end); kind != segment.Changes {
				t.Fatalf("seed %d: the record is gone", seed)
			}
			if kind, _ := h.RecordAt(data, end+int64(len(last))); kind != 0 && !closed {
				t.Fatalf("seed %d: what was behind it is there", seed)
			}
			if len(d.Misuse) > 0 {
				t.Fatal(d.Misuse)
			}
		}
	}
	d, f := newFiles(1)
	_, file, end := mustBegin(t, f, 1, 1)
	for after, op := range []string{"write", "sync", "sync of names"} {
		d.After, d.Fault = after, syscall.EIO
		if err := f.Confirm(file, end, make([]byte, 32), false); !errors.Is(err, syscall.EIO) || d.Used[op] != 1 {
			t.Errorf("%s fails: %v", op, err)
		}
		d.Restart(false)
	}
}
