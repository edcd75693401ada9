package main

import (
	"context"
	"fmt"
	"time"

	"github.com/limpet-go/limpet/outbox"
)

// faults are what plant, or restore for "old", does wrong on purpose. The harness must notice each.
var faults = []string{"early", "session", "old", "ids", "tail", "order", "settled"}

// faulty is a store that breaks one promise.
type faulty struct {
	outbox.Store
	fault string
	late  chan *outbox.Change
}

// plant returns store with a fault, or as it is.
func plant(fault string, store outbox.Store) outbox.Store {
	if fault == "" {
		return store
	}
	f := &faulty{store, fault, make(chan *outbox.Change, 1000)}
	if fault == "early" {
		go f.commitLate()
	}
	return f
}

// commitLate makes changes durable long after Commit has said that they are.
func (f *faulty) commitLate() {
	for c := range f.late {
		<-time.After(20 * time.Millisecond)
		if err := f.Store.Commit(context.Background(), c); err != nil {
			fmt.Println("late:", err)
		}
	}
}

// Commit implements outbox.Store.
func (f *faulty) Commit(ctx context.Context, c *outbox.Change) error {
	wrong := *c
	switch f.fault {
	case "early":
		f.late <- &wrong
		return nil
	case "session": // the state of the session, with the number of the connection, is not kept
		wrong.State = nil
	case "settled": // a message counts as settled before the server has it
		for _, m := range c.Messages {
			wrong.Settled = append(wrong.Settled, outbox.Range{Lo: m.Seq, Hi: m.Seq})
		}
	}
	return f.Store.Commit(ctx, &wrong)
}

// Load implements outbox.Store.
func (f *faulty) Load(ctx context.Context) (*outbox.Content, error) {
	c, err := f.Store.Load(ctx)
	if err != nil || len(c.Messages) == 0 {
		return c, err
	}
	last := &c.Messages[len(c.Messages)-1]
	switch f.fault {
	case "ids": // messages are there, but no longer who they are
		c.State = nil
		for i := range c.Messages {
			c.Messages[i].ID[0]++
		}
	case "tail": // the newest message is gone
		*last = outbox.Message{Seq: last.Seq, ID: last.ID, Settled: true}
	case "order":
		if len(c.Messages) > 1 {
			other := &c.Messages[len(c.Messages)-2]
			*last, *other = *other, *last
			last.Seq, other.Seq = other.Seq, last.Seq
		}
	}
	return c, nil
}
