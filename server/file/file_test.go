package file

import (
	"fmt"
	"testing"
	"time"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/storetest"
	"github.com/limpet-go/limpet/wire"
)

func TestStore(t *testing.T) {
	seed := uint64(0)
	inMemory := func(o *Options) func(*testing.T) server.Store {
		return func(t *testing.T) server.Store {
			opt, err := o.checked()
			if err != nil {
				t.Fatal(err)
			}
			seed++
			s, err := openOn(newDisk(seed), "disk", opt)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	}
	inFiles := func(o *Options) func(*testing.T) server.Store {
		return func(t *testing.T) server.Store {
			s, err := Open(t.TempDir(), o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			return s
		}
	}
	for name, open := range map[string]func(*Options) func(*testing.T) server.Store{"a disk in memory": inMemory, "files": inFiles} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, open(&Options{SegmentSize: 64 << 10}), &storetest.Options{
				Rounds: 200, Small: open(&Options{SegmentSize: 64 << 10, Retention: server.Retention{Count: 5}}),
			})
		})
	}
}

// A record and an id that are old do not keep all files since, and do not go with their file.
func TestWhatIsCarried(t *testing.T) {
	d := newDisk(9)
	opt, _ := (&Options{Retention: server.Retention{Count: 3}, MaxIDs: 20}).checked()
	opt.SegmentSize = 4 << 10
	open := func() *Store {
		s, err := openOn(d, "disk", opt)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s, most := open(), 0
	commit := func(n uint64, keep time.Duration, session string) {
		t.Helper()
		c := &server.Change{Session: session, Record: []byte("record"), TTL: time.Hour, Who: "who", Keep: keep}
		c.Entries = []server.Entry{{ID: number(n), Topic: "t", Payload: make([]byte, 900)}}
		if _, err := s.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		most = max(most, len(d.Files))
	}
	for n := range uint64(10) {
		commit(n, time.Hour, fmt.Sprint("old ", n))
	}
	for n := uint64(10); n < 200; n++ {
		c := &server.Change{Session: "other", Version: s.state.versionOf("other"), Record: make([]byte, 900), TTL: time.Hour}
		if _, err := s.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		most = max(most, len(d.Files))
	}
	d.Restart(true)
	s = open()
	for n := range uint64(10) {
		if record, _, err := s.Load(t.Context(), fmt.Sprint("old ", n)); err != nil || string(record) != "record" {
			t.Errorf("record %d: %q, %v", n, record, err)
		}
		if known, err := s.Known(t.Context(), "who", []wire.ID{number(n)}); err != nil || len(known) != 1 {
			t.Errorf("id %d: %v, %v", n, known, err)
		}
	}
	if v := s.View(); v.Head != 10 || v.First != 8 {
		t.Errorf("view %+v", v)
	}
	if most > 12 {
		t.Errorf("%d files", most)
	}
}

func (s *state) versionOf(session string) uint64 {
	if r := s.records[session]; r != nil {
		return r.version
	}
	return 0
}
