package file

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/internal/segment/faultdisk"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/outboxtest"
)

// onDisk opens a store with segments of 4 KiB on a disk in memory.
func onDisk(t *testing.T) (*faultdisk.Disk, *Store) {
	t.Helper()
	return onDiskOf(t, 2)
}

func onDiskOf(t *testing.T, seed uint64) (*faultdisk.Disk, *Store) {
	t.Helper()
	d := faultdisk.New(rand.New(rand.NewPCG(1, seed)))
	return d, again(t, d)
}

func again(t *testing.T, d *faultdisk.Disk) *Store {
	t.Helper()
	s, err := openOn(d, "disk", 4<<10)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// expect compares the content with what it should be, now, after the end of the process, and without power.
func expect(t *testing.T, d *faultdisk.Disk, s *Store, want *outbox.Content) *Store {
	t.Helper()
	for _, power := range []bool{false, true} {
		if err := outboxtest.Compare(load(t, s), want); err != nil {
			t.Error(err)
		}
		d.Restart(power)
		s = again(t, d)
	}
	if err := outboxtest.Compare(load(t, s), want); err != nil {
		t.Error(err)
	}
	return s
}

// A full disk refuses what needs a new file, and nothing else. Once there is room, the store goes on.
func TestFullDisk(t *testing.T) {
	d, s := onDisk(t)
	d.Full = true
	seq, err := uint64(0), error(nil)
	for err == nil {
		seq++
		err = s.Commit(t.Context(), &outbox.Change{Messages: messages(seq, seq)})
	}
	if !errors.Is(err, outbox.ErrFull) || !errors.Is(err, syscall.ENOSPC) || errors.Is(err, outbox.ErrUncertain) {
		t.Fatal(err)
	}
	if d.Files[segment.SpareName] != nil {
		t.Error("a file that is not complete was left")
	}
	want := &outbox.Content{Messages: messages(1, seq-1)}
	if err := outboxtest.Compare(load(t, s), want); err != nil {
		t.Error(err)
	}
	d.Full = false
	commit(t, s, &outbox.Change{Messages: messages(seq, seq)})
	want.Messages = messages(1, seq)
	expect(t, d, s, want)
}

// After a sync that failed, the store goes on in another file: of the change nothing is left, of the others all,
// although the system takes the old file for written.
func TestFailedSync(t *testing.T) {
	d, s := onDisk(t)
	commit(t, s, &outbox.Change{Messages: messages(1, 3)}, &outbox.Change{State: []byte("lazy"), Lazy: true})
	d.After, d.Fault = 1, syscall.EIO // the write, then the sync
	err := s.Commit(t.Context(), &outbox.Change{Messages: messages(4, 4)})
	if !errors.Is(err, syscall.EIO) || errors.Is(err, outbox.ErrUncertain) || d.Used["sync"] != 1 {
		t.Fatal(err, d.Used)
	}
	if s.current.Number != 2 || d.Files[segment.Name(1)] != nil || d.Files[segment.SpareName] != nil {
		t.Errorf("segment %d, files %v", s.current.Number, d.Files)
	}
	s = expect(t, d, s, &outbox.Content{State: []byte("lazy"), Messages: messages(1, 3)})
	commit(t, s, &outbox.Change{Messages: messages(4, 4)})
	expect(t, d, s, &outbox.Content{State: []byte("lazy"), Messages: messages(1, 4)})
	if len(d.Misuse) > 0 {
		t.Error(d.Misuse)
	}
}

// A record of which a part was written is taken back in its file, and what is lazy before it stays.
func TestShortWrite(t *testing.T) {
	parts := 0
	for seed := range uint64(20) {
		d, s := onDiskOf(t, seed)
		lazy := &outbox.Change{Settled: []outbox.Range{{Lo: 1, Hi: 1}}, Lazy: true}
		commit(t, s, &outbox.Change{Messages: messages(1, 3)}, lazy)
		want, before := load(t, s), s.current.end
		d.After, d.Fault = 0, syscall.ENOSPC
		if err := s.Commit(t.Context(), &outbox.Change{Messages: messages(4, 9)}); !errors.Is(err, outbox.ErrFull) {
			t.Fatal(err)
		}
		d.After = -1
		if s.current.end > before {
			parts++ // what was lazy was written again
		}
		if s.current.Number != 1 {
			t.Fatalf("segment %d", s.current.Number)
		}
		d.Restart(false)
		s = again(t, d)
		expect(t, d, s, want)
	}
	if parts == 0 {
		t.Error("no part of a record was written")
	}
}

// If neither the change nor its end can be written, the store refuses everything, and a restart tells.
func TestUncertain(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		d, s := onDisk(t)
		commit(t, s, &outbox.Change{Messages: messages(1, 3)})
		d.Replaced = replaced
		if !replaced {
			d.After, d.Fault = 1, syscall.EIO
			d.Full = true
		}
		err := s.Commit(t.Context(), &outbox.Change{Messages: messages(4, 4)})
		for range 2 {
			if !errors.Is(err, outbox.ErrUncertain) || !replaced && (!errors.Is(err, syscall.EIO) || !errors.Is(err, syscall.ENOSPC)) {
				t.Fatal(err)
			}
			err = s.Commit(t.Context(), &outbox.Change{})
		}
		if _, err := s.Load(t.Context()); !errors.Is(err, outbox.ErrUncertain) {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Commit(t.Context(), &outbox.Change{}); !errors.Is(err, outbox.ErrClosed) {
			t.Error(err)
		}
		d.Restart(false)
		d.Full, d.Replaced = false, false
		n := len(load(t, again(t, d)).Messages)
		if n != 3 && n != 4 {
			t.Errorf("%d messages", n)
		}
	}
}

// A process that ended after a sync that failed, and could not say so in another file, left a record that can be
// read and is not on the disk. The next process writes it again before it builds on it.
func TestRecordThatIsNotOnDisk(t *testing.T) {
	d, s := onDisk(t)
	commit(t, s, &outbox.Change{Messages: messages(1, 3)})
	n := d.Files[segment.Name(1)]
	big := &outbox.Change{Messages: messages(4, 4)}
	big.Messages[0].Payload = bytes.Repeat([]byte("x"), 5*faultdisk.Sector)
	commit(t, s, big)
	clear(n.Disk[2*faultdisk.Sector : 4*faultdisk.Sector]) // the sync of this change failed, and no one knows
	d.Restart(false)
	s = again(t, d)
	want := &outbox.Content{Messages: append(messages(1, 3), big.Messages...)}
	if err := outboxtest.Compare(load(t, s), want); err != nil {
		t.Fatal(err)
	}
	commit(t, s, &outbox.Change{Messages: messages(5, 5)})
	want.Messages = append(want.Messages, messages(5, 5)...)
	expect(t, d, s, want)
}

// If the mark at the end of a segment cannot be synced, the commit succeeds, and the file is not used again.
func TestSealThatFails(t *testing.T) {
	d, s := onDisk(t)
	for seq := uint64(1); s.current.Number < 6; seq++ {
		if s.current.Number == 1 && s.current.end > 3<<10 {
			d.After, d.Fault = 7, syscall.EIO // to the sync of the mark, once the next segment has its name
		}
		c := &outbox.Change{Messages: messages(seq, seq), Settled: []outbox.Range{{Lo: 1, Hi: seq - 1}}}
		c.Messages[0].Payload = make([]byte, 1<<10)
		commit(t, s, c)
	}
	if d.Used["sync"] != 1 || len(d.Misuse) > 0 {
		t.Errorf("failed operations %v, misuse %v", d.Used, d.Misuse)
	}
}

// One old message does not keep all files since, and files are used again.
func TestFilesAreBounded(t *testing.T) {
	for _, old := range []uint64{0, 1} {
		d, s := onDisk(t)
		commit(t, s, &outbox.Change{Messages: messages(1, 1)})
		most := 0
		for seq := uint64(2); seq < 600; seq++ {
			c := &outbox.Change{Messages: messages(seq, seq), State: fmt.Appendf(nil, "%0100d", seq)}
			if seq > 12 {
				c.Settled = []outbox.Range{{Lo: 1 + old, Hi: seq - 10}}
			}
			commit(t, s, c)
			most = max(most, len(d.Files))
		}
		if s.current.Number < 25 || most > 8+6*int(old) {
			t.Errorf("old %d: %d segments, %d files at a time", old, s.current.Number, most)
		}
		if n := d.Creates; old == 0 && n > 4 {
			t.Errorf("%d files were created", n)
		}
		want := &outbox.Content{State: fmt.Appendf(nil, "%0100d", 599), Through: 589, Tag: messages(589, 589)[0].ID, Messages: messages(590, 599)}
		if old == 1 {
			want.Through, want.Tag, want.Messages = 0, outbox.ID{}, messages(1, 599)
			for i := 1; i < 589; i++ {
				m := &want.Messages[i]
				*m = outbox.Message{Seq: m.Seq, ID: m.ID, Settled: true}
			}
		}
		expect(t, d, s, want)
	}
}

// A payload that holds a copy of a record is a payload.
func TestRecordInAPayload(t *testing.T) {
	for pad := range segment.Alignment { // one of them puts the copy where frames are
		d, s := onDisk(t)
		commit(t, s, &outbox.Change{Messages: messages(1, 2)}, &outbox.Change{Messages: messages(3, 3)})
		c := &outbox.Change{Messages: messages(4, 4)}
		n := d.Files[segment.Name(1)]
		c.Messages[0].Payload = append(make([]byte, pad), n.Data[segment.FixedSize:s.current.end]...)
		last := s.current.end
		commit(t, s, c)
		n.Data[last+segment.FrameSize] ^= 0xff // the last record is torn, and what it contains does not follow it
		d.Restart(false)
		if err := outboxtest.Compare(load(t, again(t, d)), &outbox.Content{Messages: messages(1, 3)}); err != nil {
			t.Error(err)
		}
	}
}

// What may not be written is outbox.ErrReadOnly, from Open and from Commit, and nothing of the change is kept.
func TestReadOnly(t *testing.T) {
	for _, fault := range []error{syscall.EROFS, syscall.EACCES, syscall.EPERM} {
		d, s := onDisk(t)
		commit(t, s, &outbox.Change{Messages: messages(1, 1)})
		d.After, d.Fault = 0, fault
		if err := s.Commit(t.Context(), &outbox.Change{Messages: messages(2, 2)}); !errors.Is(err, outbox.ErrReadOnly) || !errors.Is(err, fault) || errors.Is(err, outbox.ErrUncertain) {
			t.Errorf("%v: Commit: %v", fault, err)
		}
		expect(t, d, s, &outbox.Content{Messages: messages(1, 1)})
		d = faultdisk.New(rand.New(rand.NewPCG(1, 3)))
		d.After, d.Fault = 0, fault
		if _, err := openOn(d, "disk", 4<<10); !errors.Is(failure("open", "disk", err), outbox.ErrReadOnly) {
			t.Errorf("%v: Open: %v", fault, err)
		}
	}
}
