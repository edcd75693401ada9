package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/file"
)

// A message of 200 B is made durable, one sync for a batch, while the outcomes of the batches before the last
// four are recorded. The bare loop only writes 200 B for each into a file whose blocks are reserved, and syncs.
// TMPDIR names the file system.
var outboxRow = row{
	id: "P13", title: "durable outbox, 200 B a message, a sync for each batch (P13)", metric: "wall", unit: "wall ns a message", slow: true,
	variants: []variant{{name: "batches of 1", with: batched(1, 2_000)}, {name: "batches of 16", with: batched(16, 32_000)}, {name: "batches of 256", with: batched(256, 400_000)}},
	candidates: []contender{
		{"limpet outbox/file", "", inFolder(fileOutbox)},
		{"bare write and fdatasync", "", inFolder(bareLog)},
		{"bbolt", "", inFolder(boltOutbox)},
	},
	compare: []comparison{
		{variant: "batches of 1", ours: "limpet outbox/file", against: "bare write and fdatasync", inverse: true, floor: 0.6, goal: 0.85},
		{variant: "batches of 16", ours: "limpet outbox/file", against: "bare write and fdatasync", inverse: true, floor: 0.6, goal: 0.85},
		{variant: "batches of 256", ours: "limpet outbox/file", against: "bare write and fdatasync", inverse: true, floor: 0.6, goal: 0.85},
		{variant: "batches of 1", ours: "limpet outbox/file", against: "bbolt", inverse: true, floor: 1, goal: 2},
		{variant: "batches of 16", ours: "limpet outbox/file", against: "bbolt", inverse: true, floor: 1, goal: 2},
		{variant: "batches of 256", ours: "limpet outbox/file", against: "bbolt", inverse: true, floor: 1, goal: 2},
	},
}

func batched(size, messages int) func(*spec) {
	return func(s *spec) { s.Size, s.Pack, s.Messages = 200, size, messages/size*size }
}

const (
	unsettled  = 4        // batches without an outcome
	segmentLen = 16 << 20 // bytes of a file, as in outbox/file
)

// inFolder runs a candidate in a folder of its own.
func inFolder(run func(s spec, dir string) (outcome, error)) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		dir, err := os.MkdirTemp("", "bench-outbox-*")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		s.Messages -= s.Messages % s.Pack
		return run(s, dir)
	}
}

func fileOutbox(s spec, dir string) (outcome, error) {
	ctx := context.Background()
	store, err := file.Open(dir, nil)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	c := outbox.Change{Messages: make([]outbox.Message, s.Pack)}
	payload, now := make([]byte, s.Size), time.Now()
	m := startMeter(s)
	for seq := uint64(1); seq <= uint64(s.Messages); {
		if behind := uint64(unsettled * s.Pack); seq > behind {
			c.Settled = []outbox.Range{{Lo: 1, Hi: seq - behind}}
		}
		for i := range c.Messages {
			c.Messages[i] = outbox.Message{Seq: seq, ID: outbox.ID{0: byte(seq)}, Topic: "bench", Payload: payload, Added: now}
			seq++
		}
		if err := store.Commit(ctx, &c); err != nil {
			return nil, err
		}
	}
	out := m.stop(s.Messages)
	k, err := store.Load(ctx)
	if err == nil && k.Through+uint64(len(k.Messages)) != uint64(s.Messages) {
		err = fmt.Errorf("the last message is %d", k.Through+uint64(len(k.Messages)))
	}
	return out, err
}

func bareLog(s spec, dir string) (outcome, error) {
	var f *os.File
	next := func(n int) (err error) {
		name := filepath.Join(dir, fmt.Sprint(n%2))
		_ = os.Remove(name)
		if f, err = os.Create(name); err != nil {
			return err
		}
		if err := reserve(f, segmentLen); err != nil {
			return err
		}
		return f.Sync()
	}
	if err := next(0); err != nil {
		return nil, err
	}
	batch := make([]byte, s.Size*s.Pack)
	m := startMeter(s)
	offset, files := 0, 1
	for i := 0; i < s.Messages; i += s.Pack {
		if offset+len(batch) > segmentLen {
			if err := f.Close(); err != nil {
				return nil, err
			}
			if err := next(files); err != nil {
				return nil, err
			}
			offset, files = 0, files+1
		}
		for j := range s.Pack {
			binary.BigEndian.PutUint64(batch[j*s.Size:], uint64(i+j))
		}
		if _, err := f.WriteAt(batch, int64(offset)); err != nil {
			return nil, err
		}
		if err := dataSync(f); err != nil {
			return nil, err
		}
		offset += len(batch)
	}
	return m.stop(s.Messages), f.Close()
}

func boltOutbox(s spec, dir string) (outcome, error) {
	db, err := bbolt.Open(filepath.Join(dir, "db"), 0o600, nil)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	name, payload := []byte("outbox"), make([]byte, s.Size)
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(name)
		return err
	})
	if err != nil {
		return nil, err
	}
	m := startMeter(s)
	for i := 0; i < s.Messages; i += s.Pack {
		err := db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(name)
			for j := i; j < i+s.Pack; j++ {
				if err := b.Put(binary.BigEndian.AppendUint64(nil, uint64(j)), payload); err != nil {
					return err
				}
				if settled := j - unsettled*s.Pack; settled >= 0 {
					if err := b.Delete(binary.BigEndian.AppendUint64(nil, uint64(settled))); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return m.stop(s.Messages), nil
}
