package file_test

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/segment/killtest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/file"
	"github.com/limpet-go/limpet/wire"
)

var kills = flag.Int("kills", 20, "SIGKILLs in TestKill")

const childDir = "LIMPET_SERVER_FILE_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, child(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func killID(n uint64) wire.ID { return wire.ID(binary.BigEndian.AppendUint64(make([]byte, 8, 16), n)) }

// child commits for ever. Message n has the offset n, and the record after it has n. It prints n once the
// Commit has returned.
func child(dir string) error {
	ctx := context.Background()
	s, err := file.Open(dir, &file.Options{SegmentSize: 64 << 10, Retention: server.Retention{Count: 100}})
	if err != nil {
		return err
	}
	_, version, err := s.Load(ctx, "session")
	if err != nil {
		return err
	}
	for n := s.View().Head; ; {
		c := &server.Change{Session: "session", Version: version, TTL: time.Hour, Who: "who", Keep: time.Hour}
		for range 1 + n%5 {
			n++
			c.Entries = append(c.Entries, server.Entry{ID: killID(n), Topic: "t", Payload: make([]byte, 100+n%700), Hash: n})
		}
		c.Record = binary.BigEndian.AppendUint64(nil, n)
		done, err := s.Commit(ctx, c)
		if err != nil || done.Offset != n {
			return fmt.Errorf("offset %d: %w", done.Offset, err)
		}
		version = done.Version
		fmt.Println(n)
	}
}

// Whenever a process is killed: what it had confirmed is there, in order, and at most the Commit in progress
// besides.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir, epoch := t.TempDir(), ""
	killtest.Run(t, *kills, childDir, dir, func() {
		if _, err := file.Open(dir, nil); !errors.Is(err, file.ErrInUse) {
			t.Errorf("a directory of another process: %v", err)
		}
	}, func(confirmed uint64) (err error) {
		epoch, err = afterKill(dir, confirmed, epoch)
		return err
	})
}

// afterKill compares what is there with what was confirmed.
func afterKill(dir string, confirmed uint64, epoch string) (string, error) {
	ctx := context.Background()
	s, err := file.Open(dir, &file.Options{SegmentSize: 64 << 10, Retention: server.Retention{Count: 100}})
	if err != nil {
		return "", err
	}
	defer s.Close()
	v := s.View()
	record, _, err := s.Load(ctx, "session")
	if err != nil || binary.BigEndian.Uint64(record) != v.Head {
		return "", fmt.Errorf("record %x, head %d, %w", record, v.Head, err)
	}
	if v.Head < confirmed || v.Head > confirmed+5 || epoch != "" && v.Epoch != epoch {
		return "", fmt.Errorf("view %+v, epoch before %s", v, epoch)
	}
	all := make([]*server.Entry, 101)
	n, first, err := s.Read(ctx, v.First, all)
	if err != nil || first+uint64(n) != v.Head+1 || n < int(min(v.Head, 100)) {
		return "", fmt.Errorf("%d messages from %d, %w", n, first, err)
	}
	for i, e := range all[:n] {
		if want := first + uint64(i); e.Offset != want || e.Hash != want || e.ID != killID(want) || len(e.Payload) != int(100+want%700) {
			return "", fmt.Errorf("message %d is not that which was committed", want)
		}
	}
	known, err := s.Known(ctx, "who", []wire.ID{killID(1), killID(v.Head)}) // also of a message that was trimmed
	if err != nil || len(known) != 2 {
		return "", fmt.Errorf("known: %v, %w", known, err)
	}
	return v.Epoch, nil
}
