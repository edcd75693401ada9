package file

import (
	"errors"
	"io/fs"
	"iter"
	"maps"
	"path/filepath"
	"slices"

	"github.com/limpet-go/limpet/internal/segment"
	"github.com/limpet-go/limpet/server"
)

// Quarantine moves the files of a store that Open refuses into a new folder in its directory, so that Open begins
// a new store, with a new epoch: each client begins a new session, and each of its subscriptions shows a Reset. It changes
// nothing in the files, and deletes none. It returns the path of the folder, and the messages that it could read, in
// order: a program may publish them again. Messages in damaged records are missing; some that Retention had dropped
// may be among them. The ids are gone: a message that a client then sends again counts as new, and may come twice.
//
// If there is no file to move, folder is empty. It takes the lock, and its errors are those of Open, but for
// ErrCorrupt. Files that limpet has not written stay where they are.
func Quarantine(dir string) (folder string, entries []server.Entry, err error) {
	path, err := filepath.Abs(dir)
	if err != nil || dir == "" {
		return "", nil, failure("quarantine", dir, errors.Join(err, fs.ErrInvalid))
	}
	system, err := segment.OpenFolder(path)
	if err != nil {
		return "", nil, failure("quarantine", path, err)
	}
	name, entries, err := quarantine(system)
	if err = errors.Join(err, system.Close()); err != nil {
		return "", nil, failure("quarantine", path, err)
	}
	if name == "" {
		return "", nil, nil
	}
	return filepath.Join(path, name), entries, nil
}

func quarantine(system segment.System) (name string, entries []server.Entry, err error) {
	files := segment.Files{System: system, Format: &format}
	found, tag := map[uint64]*server.Entry{}, [16]byte{}
	name, err = files.Quarantine(func(h *segment.Header, records iter.Seq[[]byte]) {
		if h.Tag != tag { // of another log
			tag = h.Tag
			clear(found)
		}
		rest := newState(&Options{})
		for body := range records {
			_ = rest.decodeWith(body, h.Number, func(_ byte, e *server.Entry) error { found[e.Offset] = e; return nil })
		}
	})
	for _, offset := range slices.Sorted(maps.Keys(found)) {
		entries = append(entries, *found[offset])
	}
	return name, entries, err
}
