// Outbox publishes numbered orders that survive the process: kill it with kill -9 at any moment
// and start it again. With -verify it asks the server whether it has each order exactly once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/outbox/file"
)

func main() {
	url := flag.String("url", "ws://127.0.0.1:8092", "the server, one that speaks limpet.v1")
	dir := flag.String("dir", "orders.outbox", "where orders are kept until the server has them; the next number is in DIR.next")
	last := flag.Int("last", 0, "end after this order, when the server has it; 0: go on")
	pause := flag.Duration("pause", 10*time.Millisecond, "between two orders")
	verify := flag.Bool("verify", false, "publish nothing: has the server each order exactly once?")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := publish
	if *verify {
		run = check
	}
	if err := run(ctx, *url, *dir, *last, *pause); err != nil {
		log.Fatal(err)
	}
}

// publish publishes orders until ctx ends, or until the server has the last one.
func publish(ctx context.Context, url, dir string, last int, pause time.Duration) error {
	store, err := file.Open(dir, nil)
	if err != nil {
		return err
	}
	defer store.Close()
	client, err := limpet.New(url, &limpet.Options{Outbox: store})
	if err != nil {
		return err
	}
	defer func() {
		client.Close()
		<-client.Done() // before the store is closed
	}()
	waiting := 0
	for r := range client.Receipts() {
		waiting++
		go report(r)
	}
	next, err := readNext(dir)
	if err != nil {
		return err
	}
	fmt.Printf("kill -9 %d and start me again: %d orders are in the outbox, the next one is %d\n", os.Getpid(), waiting, next)
	for ; (last == 0 || next <= last) && ctx.Err() == nil; next++ {
		_, err := client.Publish(ctx, "orders", []byte(strconv.Itoa(next)), &limpet.PublishOptions{ID: idOf(next), Done: report})
		if errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			return err
		}
		// The order is on disk now, whatever happens. After a crash before the next line it is
		// published again under the same id, and the server takes it once.
		if err := writeNext(dir, next+1); err != nil {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return nil // what the server does not have yet waits in the outbox
	}
	if err := client.Flush(ctx); err != nil {
		return err
	}
	if err := client.Err(); err != nil { // Flush waits for outcomes, not for success
		return err
	}
	if s := client.Stats(); s.Acked < s.Published {
		return fmt.Errorf("the server has not accepted %d of the last %d orders", s.Published-s.Acked, s.Published)
	}
	fmt.Printf("the server has all orders up to %d\n", next-1)
	return nil
}

// report prints why the server has not accepted an order. One that is Stored goes on with the next start.
func report(r *limpet.Receipt) {
	if _, err := r.Wait(context.Background()); err != nil && !errors.Is(err, limpet.ErrStored) {
		log.Printf("an order was not accepted: %v", err)
	}
}

// idOf makes the id of a message from that of the order: the same order has the same one.
func idOf(order int) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://example.com/orders/"+strconv.Itoa(order)))
}

// nextFile is the name of the file with the number of the next order.
func nextFile(dir string) string { return filepath.Clean(dir) + ".next" }

// readNext returns the number of the next order.
func readNext(dir string) (int, error) {
	text, err := os.ReadFile(nextFile(dir))
	if errors.Is(err, os.ErrNotExist) {
		return 1, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// writeNext replaces the number, at once.
func writeNext(dir string, next int) error {
	name := nextFile(dir)
	if err := os.WriteFile(name+".new", []byte(strconv.Itoa(next)), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// check reads the log of the server from the beginning and reports orders that are missing,
// come twice, or are out of order.
func check(ctx context.Context, url, dir string, last int, _ time.Duration) error {
	if last == 0 {
		next, err := readNext(dir)
		if err != nil {
			return err
		}
		last = next - 1
	}
	client, err := limpet.Dial(ctx, url, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	orders, err := client.Subscribe(ctx, "orders", &limpet.SubscribeOptions{From: limpet.FromFirst})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for want := 1; want <= last; want++ {
		got, err := nextOrder(ctx, orders)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("the server has no order %d after 10 s; start the program without -verify until its outbox is empty", want)
		case err != nil:
			return err
		case got != want:
			return fmt.Errorf("order %d is where %d should be", got, want)
		}
	}
	fmt.Printf("the server has orders 1 to %d, each exactly once and in order\n", last)
	return nil
}

// nextOrder returns the number of the next order in the log.
func nextOrder(ctx context.Context, orders *limpet.Subscription) (int, error) {
	for m, err := range orders.Messages(ctx) {
		if err != nil {
			return 0, err
		}
		if m.Loss != nil {
			return 0, fmt.Errorf("the server no longer has its first orders: %v", m.Loss.Cause)
		}
		return strconv.Atoi(string(m.Payload))
	}
	return 0, limpet.ErrClosed
}
