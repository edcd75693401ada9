package file_test

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/limpet-go/limpet/internal/segment/killtest"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/file"
)

var kills = flag.Int("kills", 30, "SIGKILLs in TestKill")

const childDir = "LIMPET_OUTBOX_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, child(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// child commits for ever. Message n has n in its payload, and so has the state after it. It prints n once the
// change is durable. 40 messages stay without an outcome.
func child(dir string) error {
	ctx := context.Background()
	s, err := file.Open(dir, &file.Options{SegmentSize: 64 << 10})
	if err != nil {
		return err
	}
	k, err := s.Load(ctx)
	if err != nil {
		return err
	}
	seq := k.Through + uint64(len(k.Messages))
	for i := 0; ; i++ {
		c := &outbox.Change{}
		for range 1 + i%5 {
			seq++
			c.Messages = append(c.Messages, killMessage(seq))
		}
		c.State = binary.BigEndian.AppendUint64(nil, seq)
		if err := s.Commit(ctx, c); err != nil {
			return err
		}
		fmt.Println(seq)
		if seq > 40 {
			if err := s.Commit(ctx, &outbox.Change{Settled: []outbox.Range{{Lo: 1, Hi: seq - 40}}, Lazy: true}); err != nil {
				return err
			}
		}
	}
}

func killMessage(seq uint64) outbox.Message {
	payload := make([]byte, 100+seq%700)
	binary.BigEndian.PutUint64(payload, seq)
	return outbox.Message{Seq: seq, ID: outbox.ID(binary.BigEndian.AppendUint64(payload[:8:8], seq)), Topic: "t", Payload: payload}
}

// Whenever a process is killed: what it had confirmed is there, in order, and at most the change in progress
// besides.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	killtest.Run(t, *kills, childDir, dir, func() { refused(t, dir, outbox.ErrInUse) }, func(confirmed uint64) error {
		return afterKill(dir, confirmed)
	})
}

// afterKill compares what is there with what was confirmed.
func afterKill(dir string, confirmed uint64) error {
	s, err := file.Open(dir, nil)
	if err != nil {
		return err
	}
	k, err := s.Load(context.Background())
	if err = errors.Join(err, s.Close()); err != nil {
		return err
	}
	last := k.Through + uint64(len(k.Messages))
	if last < confirmed || last > confirmed+5 || k.Through > confirmed-min(confirmed, 40) || k.Through+50 < confirmed {
		return fmt.Errorf("messages %d to %d", k.Through+1, last)
	}
	for i := range k.Messages {
		want, got := killMessage(k.Through+1+uint64(i)), k.Messages[i]
		if got.Seq != want.Seq || got.ID != want.ID || string(got.Payload) != string(want.Payload) {
			return fmt.Errorf("message %d is not that which was committed", got.Seq)
		}
	}
	if n := binary.BigEndian.Uint64(k.State); n != last {
		return fmt.Errorf("the state is that of message %d, the last is %d", n, last)
	}
	return nil
}
