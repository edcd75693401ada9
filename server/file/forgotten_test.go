package file

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/server"
)

// The store knows after a restart that it has forgotten an id before its time, although the segment with the id is gone.
func TestForgottenIDsStayForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(1)
		opt, _ := (&Options{Retention: server.Retention{Count: 1}, MaxIDs: 1}).checked()
		opt.SegmentSize = 64 << 10
		open := func() *Store {
			s, err := openOn(d, "disk", opt)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := open()
		commit := func(c *server.Change) uint64 {
			t.Helper()
			done, err := s.Commit(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			return done.Version
		}
		message := func(n uint64, size int) *server.Change {
			return &server.Change{Who: "who", Keep: time.Hour, Entries: []server.Entry{{ID: number(n), Topic: "t", Payload: make([]byte, size), Hash: n}}}
		}
		began := time.Now()
		commit(message(1, 10))
		version := commit(&server.Change{Session: "s", Record: make([]byte, 60<<10), TTL: time.Hour})
		version = commit(&server.Change{Session: "s", Version: version, Record: make([]byte, 60<<10), TTL: time.Hour}) // in the second segment
		commit(&server.Change{Session: "s", Version: version})
		time.Sleep(10 * time.Minute)
		commit(message(2, 10<<10)) // in the third one
		if s.current.Number != 3 || s.current.First == 1 {
			t.Fatalf("segments %d to %d", s.current.First, s.current.Number)
		}
		again := message(1, 10)
		again.Oldest = began.Add(-time.Second)
		for range 2 {
			if _, err := s.Commit(t.Context(), again); !errors.Is(err, server.ErrForgotten) {
				t.Errorf("the same message again: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open()
		}
		s.Close()
	})
}
