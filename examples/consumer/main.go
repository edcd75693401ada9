// Consumer works off jobs with a pool of workers and loses none, whether it is stopped or
// killed: the README says what to try.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/cursor"
)

func main() {
	url := flag.String("url", "ws://127.0.0.1:8091", "the server")
	topic := flag.String("topic", "jobs/*", "what to subscribe to")
	dir := flag.String("dir", "cursors", "where to keep the position; it is created if it does not exist")
	workers := flag.Int("workers", 4, "how many jobs to do at the same time")
	grace := flag.Duration("grace", 10*time.Second, "how long jobs that have arrived may take after SIGTERM")
	flag.Parse()
	if err := run(*url, *topic, *dir, *workers, *grace); err != nil {
		log.Fatal(err)
	}
}

func run(url, topic, dir string, workers int, grace time.Duration) error {
	signals, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	store := cursor.File(dir)
	defer store.Close() // after the client has ended: its last save
	client, err := limpet.New(url, &limpet.Options{Logger: slog.Default()})
	if err != nil {
		return err
	}
	defer func() { client.Close(); <-client.Done() }()
	jobs, err := client.Subscribe(signals, topic, &limpet.SubscribeOptions{
		From:      limpet.FromFirst, // without a cursor: all that the server has
		Cursor:    store,
		Name:      "consumer",
		ManualAck: true,
		Delivery:  limpet.Delivery{Buffer: 4 * workers}, // jobs that a SIGTERM waits for, at most
	})
	if err != nil {
		return err
	}
	fmt.Printf("kill -9 %d, or kill %d, and start me again\n", os.Getpid(), os.Getpid())

	var pool sync.WaitGroup
	for range workers {
		pool.Go(func() {
			for job := range jobs.C() {
				do(job)
				job.Ack() // in any order: the cursor stops before the oldest job that is not done
			}
		})
	}
	idle := make(chan struct{})
	go func() { pool.Wait(); close(idle) }()
	select {
	case <-signals.Done():
		stop() // a second signal ends the process at once, as kill -9 does
	case <-idle: // the jobs have ended: the server refuses them, for example
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	err = client.Shutdown(ctx) // takes no more jobs, waits for those that have arrived, and saves the cursor
	<-idle
	if jobs.Err() != nil {
		return jobs.Err()
	}
	return err
}

// do does a job. It is quick here and slow there, so jobs are done out of order.
func do(job limpet.Message) {
	if job.Loss != nil { // no job: it needs no Ack, which does nothing then
		fmt.Println("lost", job.Kind, job.Loss.Cause, job.Loss.Count)
		return
	}
	<-time.After(time.Duration(job.Position.Offset*7%10) * 10 * time.Millisecond)
	fmt.Printf("done %s\n", job.Payload)
}
