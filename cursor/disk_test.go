package cursor

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// faultyDisk fails at one of its operations, or writes only half of a file.
type faultyDisk struct {
	disk
	operations, failAt int
	fault              error
}

func (d *faultyDisk) fails() bool { d.operations++; return d.operations == d.failAt }

func (d *faultyDisk) read(file string, limit int) ([]byte, error) {
	if d.fails() {
		return nil, d.fault
	}
	return d.disk.read(file, limit)
}

func (d *faultyDisk) write(file string, data []byte) error {
	if d.fails() {
		return errors.Join(d.fault, d.disk.write(file, data[:len(data)/2]))
	}
	return d.disk.write(file, data)
}

func (d *faultyDisk) rename(from, to string) error {
	if d.fails() {
		return d.fault
	}
	return d.disk.rename(from, to)
}

func (d *faultyDisk) sync() error {
	if d.fails() {
		return d.fault
	}
	return d.disk.sync()
}

// Whichever operation fails, Load finds the old cursor or the new one, the error says what
// is wrong, and the next save works.
func TestDiskFaults(t *testing.T) {
	for fault, want := range map[error]error{
		syscall.ENOSPC: ErrFull, syscall.EROFS: ErrReadOnly, syscall.EACCES: ErrReadOnly, syscall.EIO: syscall.EIO,
	} {
		s := File(t.TempDir())
		t.Cleanup(func() { _ = s.Close() })
		at := func(offset int) Cursor { return Cursor{Feed{"d", "h", "t"}, wire.Position{Offset: uint64(offset)}} }
		if err := s.Save(t.Context(), "name", at(1)); err != nil {
			t.Fatal(err)
		}
		real, failed := s.disk, 0
		for failAt := 1; failAt <= 3; failAt++ {
			before, _ := s.Load(t.Context(), "name")
			s.disk = &faultyDisk{disk: real, failAt: failAt, fault: fault}
			err := s.Save(t.Context(), "name", at(failAt+1))
			if !errors.Is(err, want) || !errors.Is(err, fault) || !strings.Contains(fmt.Sprint(err), `save "name"`) {
				t.Errorf("%v at %d: %v", fault, failAt, err)
			}
			failed++
			s.disk = real
			after, err := s.Load(t.Context(), "name")
			if err != nil || after != before && after != at(failAt+1) {
				t.Errorf("%v at %d: %+v, %v", fault, failAt, after, err)
			}
			if err := s.Save(t.Context(), "name", at(failAt+1)); err != nil {
				t.Errorf("%v at %d, again: %v", fault, failAt, err)
			}
		}
		s.disk = &faultyDisk{disk: real, failAt: 1, fault: fault}
		if _, err := s.Load(t.Context(), "name"); !errors.Is(err, want) {
			t.Errorf("load, %v: %v", fault, err)
		}
		s.disk = real
		if failed != 3 {
			t.Errorf("%d faults took effect", failed)
		}
	}
}
