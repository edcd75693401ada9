// Package faultdisk is a directory in memory that loses power, has no room, and fails. It is for tests.
package faultdisk

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"

	"github.com/limpet-go/limpet/internal/segment"
)

// Disk is a segment.System in memory that loses power, has no room, and fails. What was written since the last sync
// of a file is lost or not, sector by sector; names change in order, as far as the journal has come.
type Disk struct {
	Rand    *rand.Rand
	Files   map[string]*Inode
	durable map[string]*Inode
	journal []func(map[string]*Inode)

	After    int   // operations until the fault; negative: none
	Fault    error // of that operation; nil: from then on there is no power
	Dead     bool
	Used     map[string]int // operations that failed by kind
	Misuse   []string       // what the store must not do
	Replaced bool           // the directory
	Full     bool
	Creates  int
}

// Inode is the content of a file.
type Inode struct {
	Data  []byte // what a read returns
	Disk  []byte // what is there after a loss of power
	dirty map[int]bool
	fatal bool // a sync failed
}

// File returns a file with content, which is durable.
func File(data []byte) *Inode {
	return &Inode{Data: data, Disk: slices.Clone(data), dirty: map[int]bool{}}
}

// Sector is what is written whole or not at all.
const Sector = 512

// ErrPower is the error of all operations without power.
var ErrPower = errors.New("no power")

// New returns an empty disk, whose choices r makes.
func New(r *rand.Rand) *Disk {
	return &Disk{Rand: r, Files: map[string]*Inode{}, durable: map[string]*Inode{}, After: -1, Used: map[string]int{}}
}

// fails returns the fault of an operation.
func (d *Disk) fails(op string) error {
	if d.Dead {
		return ErrPower
	}
	if d.After--; d.After != -1 {
		return nil
	}
	d.Used[op]++
	if d.Fault != nil {
		return d.Fault
	}
	d.Dead = true
	return ErrPower
}

// Restart ends the process, and with power loss the machine.
func (d *Disk) Restart(power bool) {
	d.After, d.Dead = -1, false
	for _, n := range d.Files {
		n.fatal = false // the next process writes again what it syncs
	}
	if !power {
		return
	}
	for _, change := range d.journal[:d.Rand.IntN(len(d.journal)+1)] {
		change(d.durable)
	}
	d.journal = nil
	d.Files = map[string]*Inode{}
	for _, name := range slices.Sorted(maps.Keys(d.durable)) {
		n := d.durable[name]
		for _, s := range slices.Sorted(maps.Keys(n.dirty)) {
			if d.Rand.IntN(2) == 0 {
				n.flush(s)
			}
		}
		d.durable[name] = &Inode{Data: slices.Clone(n.Disk), Disk: n.Disk, dirty: map[int]bool{}}
		d.Files[name] = d.durable[name]
	}
}

func (n *Inode) flush(s int) {
	end := min(len(n.Data), (s+1)*Sector)
	if len(n.Disk) < len(n.Data) {
		n.Disk = append(n.Disk, make([]byte, len(n.Data)-len(n.Disk))...)
	}
	copy(n.Disk[s*Sector:end], n.Data[s*Sector:end])
}

func (d *Disk) change(f func(map[string]*Inode)) {
	f(d.Files)
	d.journal = append(d.journal, f)
}

func (d *Disk) Names() ([]string, error) {
	if err := d.fails("names"); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(d.Files)), nil
}

func (d *Disk) Create(name string, size int64) (segment.Handle, error) {
	err := d.fails("create")
	d.Creates++
	if d.Files[name] != nil {
		return nil, fs.ErrExist
	}
	if d.Full && err == nil {
		err = syscall.ENOSPC
	}
	if err != nil {
		size = d.Rand.Int64N(size)
	}
	n := &Inode{Data: make([]byte, size), dirty: map[int]bool{}}
	d.change(func(names map[string]*Inode) { names[name] = n })
	return &diskFile{d, n}, err
}

func (d *Disk) OpenFile(name string) (segment.Handle, error) {
	if err := d.fails("open"); err != nil {
		return nil, err
	}
	n := d.Files[name]
	if n == nil {
		return nil, fs.ErrNotExist
	}
	return &diskFile{d, n}, nil
}

func (d *Disk) Rename(from, to string) error {
	if err := d.fails("rename"); err != nil {
		return err
	}
	n := d.Files[from]
	if n == nil || d.Files[to] != nil {
		d.Misuse = append(d.Misuse, "rename "+from+" to "+to)
	}
	d.change(func(names map[string]*Inode) { names[to] = n; delete(names, from) })
	return nil
}

func (d *Disk) Remove(name string) error {
	if err := d.fails("remove"); err != nil {
		return err
	}
	d.change(func(names map[string]*Inode) { delete(names, name) })
	return nil
}

func (d *Disk) Sync() error {
	err := d.fails("sync of names")
	n := len(d.journal)
	if err != nil {
		n = d.Rand.IntN(n + 1)
	}
	for _, change := range d.journal[:n] {
		change(d.durable)
	}
	d.journal = d.journal[n:]
	return err
}

func (d *Disk) Mkdir(string) error { return nil }
func (d *Disk) Close() error       { return nil }

func (d *Disk) Present(name string, h segment.Handle) bool {
	return !d.Replaced && d.Files[name] == h.(*diskFile).Inode
}

type diskFile struct {
	disk *Disk
	*Inode
}

func (f *diskFile) ReadAt(p []byte, offset int64) (int, error) {
	if err := f.disk.fails("read"); err != nil {
		return 0, err
	}
	if n := copy(p, f.Data[min(offset, int64(len(f.Data))):]); n < len(p) {
		return n, io.EOF
	}
	return len(p), nil
}

func (f *diskFile) WriteAt(p []byte, offset int64) (int, error) {
	err := f.disk.fails("write")
	if offset+int64(len(p)) > int64(len(f.Data)) {
		f.disk.Misuse = append(f.disk.Misuse, "a write behind the end")
		return 0, io.ErrShortWrite
	}
	if err != nil {
		p = p[:f.disk.Rand.IntN(len(p)+1)*f.disk.Rand.IntN(2)]
	}
	copy(f.Data[offset:], p)
	for s := int(offset) / Sector; len(p) > 0 && s <= (int(offset)+len(p)-1)/Sector; s++ {
		f.dirty[s] = true
	}
	return len(p), err
}

func (f *diskFile) inodeSync(keep func() bool) {
	if len(f.Disk) < len(f.Data) {
		f.Disk = append(f.Disk, make([]byte, len(f.Data)-len(f.Disk))...)
	}
	for _, s := range slices.Sorted(maps.Keys(f.dirty)) {
		if keep() {
			f.flush(s)
		}
	}
}

// A sync that fails has written some sectors. The system takes the others for written from then on.
func (f *diskFile) Sync() error {
	if f.fatal {
		f.disk.Misuse = append(f.disk.Misuse, "a second sync after one that failed")
	}
	err := f.disk.fails("sync")
	f.inodeSync(func() bool { return err == nil || f.disk.Rand.IntN(2) == 0 })
	if f.disk.Dead {
		return err // what was not written is still to be written, or lost
	}
	clear(f.dirty)
	f.fatal = f.fatal || err != nil
	return err
}

func (f *diskFile) Size() (int64, error) { return int64(len(f.Data)), f.disk.fails("size") }
func (f *diskFile) Close() error         { return nil }
