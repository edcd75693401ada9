package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"time"

	"github.com/limpet-go/limpet/examples/internal/quakes"
	"github.com/limpet-go/limpet/server"
)

// week is how long a replay of the week takes at speed 1.
const week = 10 * time.Second

// startFeed starts a server at addr that publishes the earthquakes of a week in turn, each to
// the topic of the network that reported it, until ctx ends. It returns its URL.
func startFeed(ctx context.Context, addr string, speed float64) (url string, err error) {
	lines, err := quakes.Lines()
	if err != nil {
		return "", err
	}
	topics := make([]string, len(lines))
	for i, line := range lines {
		var quake struct{ Net string }
		if err := json.Unmarshal(line, &quake); err != nil {
			return "", err
		}
		topics[i] = "quakes/" + quake.Net
	}
	feed, err := server.New(&server.Options{Log: server.NewMemoryLog(server.Retention{Count: 100_000})})
	if err != nil {
		return "", err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	web := &http.Server{Handler: feed, ReadHeaderTimeout: 5 * time.Second}
	go web.Serve(listener)
	go func() {
		defer web.Close()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		began := time.Now()
		for sent := 0; ; {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				due := int(now.Sub(began).Seconds() / week.Seconds() * speed * float64(len(lines)))
				for ; sent < due && ctx.Err() == nil; sent++ {
					i := sent % len(lines)
					if _, err := feed.Publish(ctx, topics[i], lines[i], nil); err != nil {
						return
					}
				}
			}
		}
	}()
	return "ws://" + listener.Addr().String() + "/", nil
}
