package file

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
)

// disk is a system in memory that loses power, has no room, and fails. What was written since the last sync
// of a file is lost or not, sector by sector; names change in order, as far as the journal has come.
type disk struct {
	r       *rand.Rand
	names_  map[string]*inode
	durable map[string]*inode
	journal []func(map[string]*inode)

	after    int   // operations until the fault; negative: none
	fault    error // of that operation; nil: from then on there is no power
	dead     bool
	used     map[string]int // operations that failed by kind
	misuse   []string       // what the store must not do
	replaced bool           // the directory
	full     bool
	creates  int
}

type inode struct {
	data  []byte // what a read returns
	disk  []byte // what is there after a loss of power
	dirty map[int]bool
	fatal bool // a sync failed
}

const sector = 512

var errPower = errors.New("no power")

func newDisk(r *rand.Rand) *disk {
	return &disk{r: r, names_: map[string]*inode{}, durable: map[string]*inode{}, after: -1, used: map[string]int{}}
}

// fails returns the fault of an operation.
func (d *disk) fails(op string) error {
	if d.dead {
		return errPower
	}
	if d.after--; d.after != -1 {
		return nil
	}
	d.used[op]++
	if d.fault != nil {
		return d.fault
	}
	d.dead = true
	return errPower
}

// restart ends the process, and with power loss the machine.
func (d *disk) restart(power bool) {
	d.after, d.dead = -1, false
	for _, n := range d.names_ {
		n.fatal = false // the next process writes again what it syncs
	}
	if !power {
		return
	}
	for _, change := range d.journal[:d.r.IntN(len(d.journal)+1)] {
		change(d.durable)
	}
	d.journal = nil
	d.names_ = map[string]*inode{}
	for _, name := range slices.Sorted(maps.Keys(d.durable)) {
		n := d.durable[name]
		for _, s := range slices.Sorted(maps.Keys(n.dirty)) {
			if d.r.IntN(2) == 0 {
				n.flush(s)
			}
		}
		d.durable[name] = &inode{data: slices.Clone(n.disk), disk: n.disk, dirty: map[int]bool{}}
		d.names_[name] = d.durable[name]
	}
}

func (n *inode) flush(s int) {
	end := min(len(n.data), (s+1)*sector)
	if len(n.disk) < len(n.data) {
		n.disk = append(n.disk, make([]byte, len(n.data)-len(n.disk))...)
	}
	copy(n.disk[s*sector:end], n.data[s*sector:end])
}

func (d *disk) change(f func(map[string]*inode)) {
	f(d.names_)
	d.journal = append(d.journal, f)
}

func (d *disk) names() ([]string, error) {
	if err := d.fails("names"); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(d.names_)), nil
}

func (d *disk) create(name string, size int64) (handle, error) {
	err := d.fails("create")
	d.creates++
	if d.names_[name] != nil {
		return nil, fs.ErrExist
	}
	if d.full && err == nil {
		err = syscall.ENOSPC
	}
	if err != nil {
		size = d.r.Int64N(size)
	}
	n := &inode{data: make([]byte, size), dirty: map[int]bool{}}
	d.change(func(names map[string]*inode) { names[name] = n })
	return &diskFile{d, n}, err
}

func (d *disk) open(name string) (handle, error) {
	if err := d.fails("open"); err != nil {
		return nil, err
	}
	n := d.names_[name]
	if n == nil {
		return nil, fs.ErrNotExist
	}
	return &diskFile{d, n}, nil
}

func (d *disk) rename(from, to string) error {
	if err := d.fails("rename"); err != nil {
		return err
	}
	n := d.names_[from]
	if n == nil || d.names_[to] != nil {
		d.misuse = append(d.misuse, "rename "+from+" to "+to)
	}
	d.change(func(names map[string]*inode) { names[to] = n; delete(names, from) })
	return nil
}

func (d *disk) remove(name string) error {
	if err := d.fails("remove"); err != nil {
		return err
	}
	d.change(func(names map[string]*inode) { delete(names, name) })
	return nil
}

func (d *disk) sync() error {
	err := d.fails("sync of names")
	n := len(d.journal)
	if err != nil {
		n = d.r.IntN(n + 1)
	}
	for _, change := range d.journal[:n] {
		change(d.durable)
	}
	d.journal = d.journal[n:]
	return err
}

func (d *disk) mkdir(string) error { return nil }
func (d *disk) close() error       { return nil }

func (d *disk) present(name string, h handle) bool {
	return !d.replaced && d.names_[name] == h.(*diskFile).inode
}

type diskFile struct {
	*disk
	*inode
}

func (f *diskFile) ReadAt(p []byte, offset int64) (int, error) {
	if err := f.fails("read"); err != nil {
		return 0, err
	}
	if n := copy(p, f.data[min(offset, int64(len(f.data))):]); n < len(p) {
		return n, io.EOF
	}
	return len(p), nil
}

func (f *diskFile) WriteAt(p []byte, offset int64) (int, error) {
	err := f.fails("write")
	if offset+int64(len(p)) > int64(len(f.data)) {
		f.misuse = append(f.misuse, "a write behind the end")
		return 0, io.ErrShortWrite
	}
	if err != nil {
		p = p[:f.r.IntN(len(p)+1)*f.r.IntN(2)]
	}
	copy(f.data[offset:], p)
	for s := int(offset) / sector; len(p) > 0 && s <= (int(offset)+len(p)-1)/sector; s++ {
		f.dirty[s] = true
	}
	return len(p), err
}

func (f *diskFile) inodeSync(keep func() bool) {
	if len(f.inode.disk) < len(f.data) {
		f.inode.disk = append(f.inode.disk, make([]byte, len(f.data)-len(f.inode.disk))...)
	}
	for _, s := range slices.Sorted(maps.Keys(f.dirty)) {
		if keep() {
			f.flush(s)
		}
	}
}

// A sync that fails has written some sectors. The system takes the others for written from then on.
func (f *diskFile) sync() error {
	if f.fatal {
		f.misuse = append(f.misuse, "a second sync after one that failed")
	}
	err := f.fails("sync")
	f.inodeSync(func() bool { return err == nil || f.r.IntN(2) == 0 })
	if f.dead {
		return err // what was not written is still to be written, or lost
	}
	clear(f.dirty)
	f.fatal = f.fatal || err != nil
	return err
}

func (f *diskFile) size() (int64, error) { return int64(len(f.data)), f.fails("size") }
func (f *diskFile) Close() error         { return nil }
