package segment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
)

// Quarantine moves all segments into a new folder, whose name it returns; empty if there is none to move. Before, it
// calls each with the bodies of those records that are whole, of each segment whose header can be read. They are good
// during the call. Files that limpet has not written stay.
func (f *Files) Quarantine(each func(h *Header, records iter.Seq[[]byte])) (folder string, err error) {
	numbers, err := f.Numbers()
	if err != nil && !errors.Is(err, f.Foreign) {
		return "", err
	}
	if len(numbers) == 0 {
		return "", nil
	}
	for _, n := range numbers {
		if err := f.salvage(Name(n), each); err != nil {
			return "", err
		}
	}
	for i := 1; folder == "" || errors.Is(err, fs.ErrExist); i++ {
		folder = fmt.Sprintf("%s%d", QuarantinePrefix, i)
		err = f.Mkdir(folder)
	}
	for _, n := range numbers {
		if err == nil {
			err = f.Rename(Name(n), folder+"/"+Name(n))
		}
	}
	if err == nil {
		err = f.System.Sync()
	}
	return folder, err
}

// salvage calls each with what can be read of a segment. Without its header, records of an earlier use of the file
// would count as well.
func (f *Files) salvage(name string, each func(h *Header, records iter.Seq[[]byte])) error {
	file, err := f.OpenFile(name)
	if err != nil {
		return err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return err
	}
	data := make([]byte, min(size, MaxSegment))
	if n, err := file.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		data = data[:n] // a sector that cannot be read
	}
	if h, err := f.Decode(name, data); err == nil {
		each(&h, h.whole(data))
	}
	return nil
}

// whole iterates over the bodies of the records with changes that are whole.
func (h *Header) whole(data []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for offset := int64(h.Length()); offset < int64(len(data)); offset += FrameSize {
			kind, body := h.RecordAt(data, offset)
			if kind != Changes {
				continue
			}
			if !yield(body) {
				return
			}
			offset += int64(len(body))
		}
	}
}
