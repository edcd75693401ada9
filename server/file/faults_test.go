package file

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/internal/segment/faultdisk"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// onDisk opens a store with segments of 4 KiB on a disk in memory, which keeps 40 messages.
func onDisk(d *faultdisk.Disk) (*Store, error) {
	opt, _ := (&Options{Retention: server.Retention{Count: 40}, MaxIDs: 60, MaxSessions: 5}).checked()
	opt.SegmentSize = 4 << 10
	return openOn(d, "disk", opt)
}

func newDisk(seed uint64) *faultdisk.Disk { return faultdisk.New(rand.New(rand.NewPCG(seed, 7))) }

func mustOpen(t *testing.T, d *faultdisk.Disk) *Store {
	t.Helper()
	s, err := onDisk(d)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// trial is a store on a disk with faults, and what it must have.
type trial struct {
	t        *testing.T
	d        *faultdisk.Disk
	s        *Store
	n        uint64            // the last number of a message
	accepted []uint64          // numbers of messages, in order
	versions map[string]uint64 // of records
	doubtful *server.Change
	visible  uint64 // offset that a reader has seen
	steps    []string
}

func number(n uint64) (id wire.ID) {
	return wire.ID{0: 1, 8: byte(n >> 24), 9: byte(n >> 16), 10: byte(n >> 8), 11: byte(n)}
}

func (x *trial) fatal(err error) {
	x.t.Helper()
	x.t.Fatalf("%v\nafter %q", err, x.steps)
}

// next returns a change at random.
func (x *trial) next() *server.Change {
	r := x.d.Rand
	c := &server.Change{Session: fmt.Sprint("session ", r.IntN(4)), TTL: time.Hour, Who: "who", Keep: time.Hour}
	c.Version = x.versions[c.Session]
	if c.Version == 0 || r.IntN(8) > 0 {
		c.Record = fmt.Append(make([]byte, r.IntN(300)), x.n)
	}
	for range r.IntN(4) {
		x.n++
		c.Entries = append(c.Entries, server.Entry{ID: number(x.n), Topic: "t", Payload: make([]byte, r.IntN(500)), Hash: x.n})
	}
	return c
}

// done notes a change that was done.
func (x *trial) done(c *server.Change, version uint64) {
	for i := range c.Entries {
		x.accepted = append(x.accepted, c.Entries[i].Hash)
	}
	x.versions[c.Session] = version
}

// check compares what is there with what must be there.
func (x *trial) check() error {
	ctx := context.Background()
	if c := x.doubtful; c != nil {
		x.doubtful = nil
		if _, version, err := x.s.Load(ctx, c.Session); err != nil {
			return err
		} else if version != x.versions[c.Session] {
			x.done(c, version)
		}
	}
	for session, want := range x.versions {
		if _, version, err := x.s.Load(ctx, session); err != nil || version != want {
			return fmt.Errorf("version %d of %s, want %d, %w", version, session, want, err)
		}
	}
	v := x.s.View()
	if v.Head != uint64(len(x.accepted)) || v.Head < x.visible {
		return fmt.Errorf("head %d, %d accepted, %d seen", v.Head, len(x.accepted), x.visible)
	}
	x.visible = v.Head
	all := make([]*server.Entry, 50)
	n, first, err := x.s.Read(ctx, 1, all)
	if err != nil || n < min(40, len(x.accepted)) || first != v.First {
		return fmt.Errorf("%d entries from %d, %w", n, first, err)
	}
	for i, e := range all[:n] {
		if want := x.accepted[first+uint64(i)-1]; e.Offset != first+uint64(i) || e.ID != number(want) || e.Hash != want {
			return fmt.Errorf("message %d at %d, want %d", e.Hash, e.Offset, want)
		}
	}
	for i, n := range slices.Backward(x.accepted) {
		if len(x.accepted)-i > 55 {
			break
		}
		known, err := x.s.Known(ctx, "who", []wire.ID{number(n)})
		if err != nil || len(known) != 1 || known[0].Offset != uint64(i+1) {
			return fmt.Errorf("of message %d is known: %v, %w", n, known, err)
		}
	}
	return nil
}

// restart ends the process or the machine and starts again, sometimes with a fault.
func (x *trial) restart(power bool) {
	x.steps = append(x.steps, fmt.Sprint("restart ", power))
	x.d.Restart(power)
	x.d.Full = false
	if x.d.Rand.IntN(4) == 0 {
		x.d.After, x.d.Fault = x.d.Rand.IntN(20), []error{syscall.EIO, nil}[x.d.Rand.IntN(2)]
		if _, err := onDisk(x.d); err != nil && !errors.Is(err, syscall.EIO) && !errors.Is(err, faultdisk.ErrPower) {
			x.fatal(err)
		}
		x.d.Restart(x.d.Dead || x.d.Rand.IntN(2) == 0)
	}
	var err error
	if x.s, err = onDisk(x.d); err == nil {
		err = x.check()
	}
	if err != nil {
		x.fatal(err)
	}
}

func (x *trial) commit() {
	r, c := x.d.Rand, x.next()
	faulty := r.IntN(3) == 0
	if faulty {
		x.d.After, x.d.Fault = r.IntN(12), []error{syscall.EIO, syscall.ENOSPC, nil}[r.IntN(3)]
	}
	x.d.Full = r.IntN(10) == 0
	done, err := x.s.Commit(x.t.Context(), c)
	x.steps = append(x.steps, fmt.Sprintf("%d messages: %v, segment %d end %d", len(c.Entries), err, x.s.current.Number, x.s.end))
	x.d.After, x.d.Full = -1, false
	switch {
	case err == nil:
		x.done(c, done.Version)
	case !faulty && !errors.Is(err, ErrFull):
		x.fatal(err)
	default:
		x.doubtful = c
		if _, again := x.s.Commit(x.t.Context(), x.nothing()); errors.Is(err, ErrUncertain) && !errors.Is(again, ErrUncertain) {
			x.fatal(fmt.Errorf("then %w", again))
		}
		if errors.Is(err, ErrUncertain) || x.d.Dead {
			x.restart(x.d.Dead || r.IntN(2) == 0)
			return
		}
	}
	if x.d.Dead {
		x.restart(true)
	} else if r.IntN(12) == 0 {
		if r.IntN(2) == 0 {
			if err := x.s.Close(); err != nil {
				x.fatal(err)
			}
		}
		x.restart(r.IntN(2) == 0)
	} else if err := x.check(); err != nil {
		x.fatal(err)
	}
}

// nothing is a change that conflicts.
func (x *trial) nothing() *server.Change { return &server.Change{Session: "none", Version: 1} }

// Whatever fails and whenever the process or the machine ends: what was committed is there, once and in order, and a
// change whose fate is unknown is there whole or not at all. What a reader has seen stays.
func TestCrashesAtRandom(t *testing.T) {
	used, segments := map[string]int{}, uint64(0)
	for seed := range uint64(60) {
		d := newDisk(seed)
		x := &trial{t: t, d: d, s: mustOpen(t, d), versions: map[string]uint64{}, steps: []string{fmt.Sprint("seed ", seed)}}
		for range 60 {
			x.commit()
		}
		if len(d.Misuse) > 0 {
			x.fatal(fmt.Errorf("misuse: %q", d.Misuse))
		}
		for op, n := range d.Used {
			used[op] += n
		}
		segments += x.s.current.Number
		if n := len(d.Files); n > 20 {
			x.fatal(fmt.Errorf("%d files", n))
		}
	}
	for _, op := range []string{"create", "names", "open", "read", "rename", "sync", "sync of names", "write"} {
		if used[op] == 0 {
			t.Errorf("no fault of %s", op)
		}
	}
	t.Logf("faults %v, %d segments", used, segments)
}

// Many messages take a bounded number of files, which are used again.
func TestFilesAreBounded(t *testing.T) {
	d := newDisk(1)
	s := mustOpen(t, d)
	version, most := uint64(0), 0
	for n := range uint64(1000) {
		c := &server.Change{Session: "one", Version: version, Record: []byte("record"), TTL: time.Hour, Who: "who", Keep: time.Hour}
		c.Entries = []server.Entry{{ID: number(n), Topic: "t", Payload: make([]byte, 100)}}
		done, err := s.Commit(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		version, most = done.Version, max(most, len(d.Files))
	}
	if s.current.Number < 40 || most > 14 || d.Creates > 14 {
		t.Errorf("%d segments, %d files at a time, %d created", s.current.Number, most, d.Creates)
	}
}

// After a sync that failed, nothing is written any more, and what was not durable was never visible.
func TestFailedSync(t *testing.T) {
	d := newDisk(2)
	s := mustOpen(t, d)
	d.After, d.Fault = 1, syscall.EIO // the write, then the sync
	c := &server.Change{Session: "one", Record: []byte("r"), TTL: time.Hour, Entries: []server.Entry{{ID: number(1), Topic: "t"}}, Keep: time.Hour}
	_, err := s.Commit(t.Context(), c)
	if !errors.Is(err, ErrUncertain) || !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if _, _, err := s.Load(t.Context(), "one"); !errors.Is(err, ErrUncertain) {
		t.Error(err)
	}
	if _, err := s.Known(t.Context(), "", []wire.ID{number(1)}); !errors.Is(err, ErrUncertain) {
		t.Error(err)
	}
	if v := s.View(); v.Head != 0 || v.First != 1 {
		t.Errorf("visible: %+v", v)
	}
	if n, _, err := s.Read(t.Context(), 1, make([]*server.Entry, 1)); n != 0 || err != nil {
		t.Error(n, err)
	}
}

// The next Commit does what there was no room for.
func TestFullDisk(t *testing.T) {
	d := newDisk(3)
	s := mustOpen(t, d)
	d.Full = true
	n, err := uint64(0), error(nil)
	one := func() error {
		n++
		_, err := s.Commit(t.Context(), &server.Change{Who: "who", Entries: []server.Entry{{ID: number(n), Topic: "t", Payload: make([]byte, 300)}}, Keep: time.Hour})
		return err
	}
	for err == nil {
		err = one()
	}
	if !errors.Is(err, ErrFull) || !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrUncertain) {
		t.Fatal(err)
	}
	if v := s.View(); v.Head != n-1 {
		t.Errorf("head %d after %d messages without room", v.Head, n)
	}
	late := n
	if err := one(); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	d.Full = false
	if err := one(); err != nil {
		t.Fatal(err)
	}
	d.Restart(true)
	s = mustOpen(t, d)
	if v := s.View(); v.Head != late+1 { // the one that was refused beforehand is not there
		t.Errorf("head %d, want %d", v.Head, late+1)
	}
	if known, err := s.Known(t.Context(), "who", []wire.ID{number(late), number(late + 1)}); err != nil || len(known) != 1 {
		t.Error(known, err)
	}
}

// What may not be written is ErrReadOnly, from Open and from Commit.
func TestReadOnly(t *testing.T) {
	for _, fault := range []error{syscall.EROFS, syscall.EACCES, syscall.EPERM} {
		d := newDisk(8)
		d.After, d.Fault = 1, fault // the list of names, then the file
		if _, err := onDisk(d); !errors.Is(failure("open", "disk", err), ErrReadOnly) {
			t.Errorf("Open: %v", err)
		}
		s := mustOpen(t, d)
		d.After, d.Fault = 0, fault
		if _, err := s.Commit(t.Context(), &server.Change{Entries: []server.Entry{{ID: number(1), Topic: "t"}}, Keep: time.Hour}); !errors.Is(err, ErrReadOnly) {
			t.Errorf("Commit: %v", err)
		}
	}
}

// A damaged record is an error, unless it is the last one and the process did not close the store. Then it is gone.
func TestFlippedBits(t *testing.T) {
	for _, orderly := range []bool{false, true} {
		d := newDisk(4)
		s := mustOpen(t, d)
		var ends []int64
		for n := range uint64(3) {
			c := &server.Change{Entries: []server.Entry{{ID: number(n), Topic: "t", Payload: []byte("payload")}}, Keep: time.Hour}
			if _, err := s.Commit(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			ends = append(ends, s.end)
		}
		if orderly {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		data := slices.Clone(d.Files[segment.Name(1)].Data)
		for at := range ends[2] {
			damaged := slices.Clone(data)
			damaged[at] ^= 1 << (at % 8)
			d.Files[segment.Name(1)] = faultdisk.File(damaged)
			s, err := onDisk(d)
			torn := at >= ends[1] && !orderly
			switch {
			case torn && (err != nil || s.View().Head != 2):
				t.Errorf("byte %d of the last record: %v", at, err)
			case !torn && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrFormat):
				t.Errorf("byte %d: %v", at, err)
			}
		}
		for end := ends[1]; end < ends[2] && !orderly; end++ { // a write that was interrupted at each byte
			torn := slices.Clone(data)
			clear(torn[end:])
			d.Files[segment.Name(1)] = faultdisk.File(torn)
			if s, err := onDisk(d); err != nil || s.View().Head < 2 {
				t.Errorf("torn at %d: %v", end, err)
			}
		}
	}
}

// Commits that come during a sync share the next one.
func TestCommitsShareASync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(5)
		s := mustOpen(t, d)
		d.After = -1
		s.turn <- struct{}{}
		var all sync.WaitGroup
		for n := range uint64(8) {
			all.Go(func() {
				c := &server.Change{Entries: []server.Entry{{ID: number(n), Topic: "t"}}, Keep: time.Hour}
				if _, err := s.Commit(t.Context(), c); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if v := s.View(); v.Head != 0 {
			t.Errorf("head %d before the sync", v.Head)
		}
		<-s.turn
		all.Wait()
		if v := s.View(); v.Head != 8 || d.After != -3 { // a write and a sync
			t.Errorf("head %d after %d operations", v.Head, -1-d.After)
		}
	})
}

// A segment that is missing or is another one is noticed, and so is a directory that was removed.
func TestSegmentsThatDoNotFit(t *testing.T) {
	for name, damage := range map[string]func(d *faultdisk.Disk, first, last uint64){
		"the first is missing":         func(d *faultdisk.Disk, first, _ uint64) { delete(d.Files, segment.Name(first)) },
		"one in the middle is missing": func(d *faultdisk.Disk, first, _ uint64) { delete(d.Files, segment.Name(first+1)) },
		"the last is missing":          func(d *faultdisk.Disk, _, last uint64) { delete(d.Files, segment.Name(last)) },
		"the last is there twice":      func(d *faultdisk.Disk, _, last uint64) { d.Files[segment.Name(last+1)] = d.Files[segment.Name(last)] },
		"one is a copy of another": func(d *faultdisk.Disk, first, _ uint64) {
			d.Files[segment.Name(first+1)] = d.Files[segment.Name(first)]
		},
		"one is shorter": func(d *faultdisk.Disk, first, _ uint64) {
			n := d.Files[segment.Name(first+1)]
			n.Data = n.Data[:len(n.Data)-1]
		},
	} {
		d := newDisk(6)
		s := mustOpen(t, d)
		for n := uint64(0); s.current.Number-s.current.First < 3; n++ {
			c := &server.Change{Who: "who", Entries: []server.Entry{{ID: number(n), Topic: "t", Payload: make([]byte, 600)}}, Keep: time.Hour}
			if _, err := s.Commit(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		damage(d, s.current.First, s.current.Number)
		if _, err := onDisk(d); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d := newDisk(7)
	s := mustOpen(t, d)
	d.Replaced = true
	c := &server.Change{Entries: []server.Entry{{ID: number(1), Topic: "t"}}, Keep: time.Hour}
	if _, err := s.Commit(t.Context(), c); !errors.Is(err, ErrUncertain) || s.View().Head != 0 {
		t.Error(err)
	}
}
