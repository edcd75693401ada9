package segment

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
)

// SpareName is the name of a file that becomes the next segment.
const SpareName = "spare"

// QuarantinePrefix is what the names of folders with damaged files begin with.
const QuarantinePrefix = "quarantine-"

// usualHeader is how much is read of a file to find its header.
const usualHeader = 64 << 10

// Name returns the name of a segment.
func Name(number uint64) string { return fmt.Sprintf("%016x.log", number) }

// Files are the segments of one store.
type Files struct {
	System
	*Format
	SegmentSize int64  // of a new file, unless its records need more
	Spoilt      uint64 // no segment up to this number is used again: a sync failed
}

// Numbers returns the numbers of the segments in the directory, in order. It returns them with an error that
// wraps Format.Foreign, too.
func (f *Files) Numbers() (numbers []uint64, err error) {
	names, err := f.Names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		var n uint64
		if _, scan := fmt.Sscanf(name, "%x.log", &n); scan == nil && Name(n) == name {
			numbers = append(numbers, n)
		} else if name != SpareName {
			err = fmt.Errorf("%w (its directory has the file %q)", f.Foreign, name)
		}
	}
	slices.Sort(numbers)
	return numbers, err
}

// ReadHeader reads a header without trust in its length.
func (f *Files) ReadHeader(name string, file Handle) (h Header, err error) {
	b := make([]byte, usualHeader)
	n, err := file.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return h, err
	}
	h, err = f.Decode(name, b[:n])
	if err == nil || n < len(b) {
		return h, err
	}
	size, sizeErr := file.Size()
	if sizeErr != nil {
		return h, sizeErr
	}
	b = make([]byte, min(size, MaxRecord)) // a state that is bigger than usual
	if n, err = file.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return h, err
	}
	return f.Decode(name, b[:n])
}

// Header returns the header of a segment, whose file is open or nil.
func (f *Files) Header(number uint64, file Handle) (h Header, err error) {
	name := Name(number)
	if file == nil {
		file, err = f.OpenFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return h, f.Damaged(name, 0, "the file is missing")
		}
		if err != nil {
			return h, err
		}
		defer file.Close()
	}
	if h, err = f.ReadHeader(name, file); err != nil {
		return h, err
	}
	size, err := file.Size()
	switch {
	case err != nil:
		return h, err
	case h.Number != number:
		return h, f.Copied(number, h.Number)
	case h.Size != size:
		return h, f.Damaged(name, size, fmt.Sprintf("it has %d bytes, and had %d", size, h.Size))
	}
	return h, nil
}

// Copied returns the error for a segment that is a copy of another one.
func (f *Files) Copied(number, of uint64) error {
	return f.Damaged(Name(number), 16, "it is a copy of "+Name(of))
}

// Begin creates a segment with records, and with room for one more, and sets Seed and Size of h. It returns where
// the records end. Once it returns a file, the segment is found. After an error it is not, or uncertain is set.
func (f *Files) Begin(h *Header, records [][]byte, room int64) (file Handle, end int64, uncertain bool, err error) {
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // never fails
	h.Seed = binary.LittleEndian.Uint64(seed[:])
	length := int64(h.Length())
	for _, r := range records {
		length += int64(Padded(len(r)))
	}
	h.Size = max(f.SegmentSize, length+room+FrameSize)
	if file, err = f.spare(h.Size); err != nil {
		return nil, 0, false, err
	}
	b := f.Encode(h)
	for _, r := range records {
		b = append(b, h.Finish(r, Changes, int64(len(b)))...)
	}
	if _, err = file.WriteAt(b, 0); err == nil {
		err = file.Sync()
	}
	if err != nil {
		return nil, 0, false, errors.Join(err, file.Close(), f.Remove(SpareName))
	}
	name := Name(h.Number)
	if err := f.Rename(SpareName, name); err != nil {
		happened := f.Present(name, file)
		return nil, 0, happened, errors.Join(err, file.Close())
	}
	if err := f.System.Sync(); err != nil {
		return nil, 0, true, errors.Join(err, file.Close())
	}
	return file, int64(len(b)), false, nil
}

// spare returns a file of a size, whose name is SpareName.
func (f *Files) spare(size int64) (Handle, error) {
	file, err := f.OpenFile(SpareName)
	if err == nil {
		if has, err := file.Size(); err == nil && has == size {
			return file, nil
		}
		err = errors.Join(file.Close(), f.Remove(SpareName))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	file, err = f.Create(SpareName, size)
	if err != nil {
		_ = f.Remove(SpareName) // an incomplete one
		return nil, err
	}
	return file, nil
}

// Drop removes the segments from one to another, which stays. What stays after an error does no harm, and the store removes it
// when it is opened.
func (f *Files) Drop(from, to uint64) {
	recycled := false
	for n := from; n < to; n++ {
		if !recycled && n > f.Spoilt {
			// Blocks that were written before are faster than new ones, and are there when the disk is full.
			recycled = f.Rename(Name(n), SpareName) == nil
			if recycled {
				continue
			}
		}
		_ = f.Remove(Name(n))
	}
}

// Read returns the bytes of a segment up to end, which is its size at most; -1: all. It uses data if that is long enough.
func (f *Files) Read(h *Header, file Handle, end int64, data []byte) ([]byte, error) {
	size := h.Size
	if end >= 0 {
		size = min(size, end)
	}
	if int64(len(data)) < size {
		data = make([]byte, size)
	}
	if _, err := file.ReadAt(data[:size], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return data[:size], nil
}

// End returns the error for an offset of the newest segment where no record is, if that is not the end of the log. It is the end,
// or a record that a crash interrupted, and then nothing follows it: the next one is written when the one before is durable.
func (f *Files) End(h *Header, data []byte, offset int64) error {
	kind, _ := h.RecordAt(data, offset)
	if kind == Sealed {
		return f.Damaged(Name(h.Number), offset, "the file after it is missing: "+Name(h.Number+1))
	}
	if after := h.FrameAfter(data, offset); after != 0 && kind != Closed {
		return f.Damaged(Name(h.Number), offset, fmt.Sprintf("a record is damaged, and another follows at %d", after))
	}
	return nil
}

// Confirm writes the last record, which ends at end, again and syncs it. If a sync of it failed in the process before, the
// system takes it for written although it is not, and a sync alone would do nothing.
func (f *Files) Confirm(file Handle, end int64, lastRecord []byte, closed bool) error {
	again := slices.Clone(lastRecord)
	if !closed {
		again = append(again, make([]byte, FrameSize)...) // what a crash interrupted is taken back
	}
	if _, err := file.WriteAt(again, end-int64(len(lastRecord))); err != nil {
		return err
	}
	return errors.Join(file.Sync(), f.System.Sync())
}
