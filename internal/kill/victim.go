package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/file"
)

// victimKey is the environment variable that makes the program a victim. It holds its orders.
const victimKey = "LIMPET_KILL_VICTIM"

// segmentSize is small, so that segments are exchanged often and a directory is copied in no time.
const segmentSize = 64 << 10

// orders are what a victim has to do.
type orders struct {
	URL, Dir string
	Serve    string // be a server at this address
	First    int    // the number of the first message it publishes
	Drain    bool   // publish nothing, and end when the server has all messages
	Fault    string // of plant
	Aim      phase  // where it waits for its end
	After    int    // commits before that
}

// victim publishes numbered messages until it is killed. It tells each step on its standard output, in one
// write, which is complete even if the kill follows at once.
func victim(text string) error {
	var o orders
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	if o.Serve != "" {
		return serve(o)
	}
	store, err := file.Open(o.Dir, &file.Options{SegmentSize: segmentSize})
	if err != nil {
		return err
	}
	client, err := limpet.New(o.URL, &limpet.Options{Outbox: &watched{Store: plant(o.Fault, store), orders: o}})
	if err != nil {
		return err
	}
	ctx := context.Background()
	for r := range client.Receipts() {
		go tell(r)
	}
	if o.Drain {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := client.Flush(ctx); err != nil {
			return err
		}
		client.Close()
		<-client.Done()
		return store.Close()
	}
	for n := o.First; ; n++ {
		say("publish", n)
		r, err := client.Publish(ctx, "t", []byte(fmt.Sprint(n)), &limpet.PublishOptions{ID: idOf(n)})
		if err != nil {
			return err
		}
		say("returned", n)
		go tell(r)
	}
}

// tell tells the outcome of a message.
func tell(r *limpet.Receipt) {
	<-r.Done()
	if o := r.Outcome(); o == limpet.Acked {
		say("acked", numberOf(r.ID()))
	} else if o != limpet.Stored { // that is the end of a client, and claims nothing
		fmt.Printf("%v %d\n", o, numberOf(r.ID()))
	}
}

// say writes one line. os.Stdout has no buffer.
func say(what string, n int) { fmt.Printf("%s %d\n", what, n) }

// idOf makes the id of a message from its number.
func idOf(n int) uuid.UUID {
	id := uuid.UUID{6: 0x80, 8: 0x80}
	binary.BigEndian.PutUint32(id[12:], uint32(n))
	return id
}

func numberOf(id outbox.ID) int { return int(binary.BigEndian.Uint32(id[12:])) }

// watched tells what goes into a store, and waits at the point that the killer aims at.
type watched struct {
	outbox.Store
	orders  orders
	commits int
}

// Commit implements outbox.Store.
func (w *watched) Commit(ctx context.Context, c *outbox.Change) error {
	if w.orders.Aim == untrimmed && len(c.Settled) > 0 {
		<-time.After(time.Millisecond) // for the lines of what is acknowledged
		w.reached()
	}
	if len(c.Messages) == 0 {
		return w.Store.Commit(ctx, c)
	}
	first, last := numberOf(c.Messages[0].ID), numberOf(c.Messages[len(c.Messages)-1].ID)
	for n := first; n <= last; n++ {
		say("begin", n)
	}
	w.commits++
	if w.orders.Aim == unwritten {
		w.reached()
	}
	if w.orders.Aim == unsynced && w.commits == w.orders.After {
		say("at", 0) // and go on: the kill comes during the commit
	}
	err := w.Store.Commit(ctx, c)
	if err != nil {
		return err
	}
	for n := first; n <= last; n++ {
		say("end", n)
	}
	if w.orders.Aim == unsent {
		w.reached()
	}
	return nil
}

// reached waits for the kill, if it is time.
func (w *watched) reached() {
	if w.commits >= w.orders.After {
		say("at", 0)
		<-time.After(2 * patience)
	}
}

// init makes the program, or its test, a victim if it is started as one.
func init() {
	text := os.Getenv(victimKey)
	if text == "" {
		return
	}
	if err := victim(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
