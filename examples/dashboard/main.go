// Dashboard shows a fast feed in a browser: a live map and a list of earthquakes.
//
//	go run ./examples/dashboard
//
// It starts a server that replays a week of real earthquakes again and again, 100 times
// as fast as examples/livefeed: 17,000 messages a second. One client subscribes with
// Latest, so that of each network of seismometers only the newest earthquake waits, and
// with Every, so that it hands them over 20 times a second. The page gets them as
// server-sent events. Nothing here buffers, merges or limits messages: Delivery does.
// README.md has a picture, and says how to see what the page does when the feed is lost.
package main

import (
	"context"
	"embed"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/limpet-go/limpet"
)

//go:embed page.html land.svg
var files embed.FS

func main() {
	addr := flag.String("addr", "127.0.0.1:8090", "where to serve the page")
	speed := flag.Float64("speed", 100, "how fast to replay: 1 is a week in 10 seconds")
	feed := flag.String("feed", "", "`URL` of a feed that another process serves; default: one in this process")
	serve := flag.String("serve", "", "serve only the feed, at this `address`, and no page")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	if *serve != "" {
		url, err := startFeed(ctx, *serve, *speed)
		check(err)
		fmt.Println(url)
		<-ctx.Done()
		return
	}
	if *feed == "" {
		url, err := startFeed(ctx, "127.0.0.1:0", *speed)
		check(err)
		*feed = url
	}
	b := newBoard()
	client, err := limpet.New(*feed, &limpet.Options{Observer: b})
	check(err)
	defer client.Close()
	quakes, err := client.Subscribe(ctx, "quakes/*", &limpet.SubscribeOptions{
		Delivery: limpet.Delivery{Overflow: limpet.Latest, Every: 50 * time.Millisecond},
	})
	check(err)
	go consume(ctx, quakes, b)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, "page.html") })
	mux.Handle("GET /land.svg", http.FileServerFS(files))
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) { b.serve(w, r, client) })
	listener, err := net.Listen("tcp", *addr)
	check(err)
	fmt.Println("http://" + listener.Addr().String())
	service := http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { <-ctx.Done(); service.Close() }()
	if err := service.Serve(listener); ctx.Err() == nil {
		log.Fatal(err)
	}
}

// consume keeps the board up to date until the subscription or ctx ends.
func consume(ctx context.Context, quakes *limpet.Subscription, b *board) {
	for batch, err := range quakes.Batches(ctx) {
		if err != nil {
			log.Print(err)
			return
		}
		b.update(batch)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
