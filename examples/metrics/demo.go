package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/limpet-go/limpet/server"
)

// init adds the flag -demo, so that main.go is a whole program without it.
func init() {
	d := &demo{
		pause: flag.Duration("pause", 100*time.Millisecond, "between two prices of -demo"),
		cut:   flag.Int("cut", 200, "after how many prices -demo breaks the connection"),
	}
	flag.BoolFunc("demo", "connect to limpet's reference server in this program; it breaks the connection now and then",
		func(string) error { return d.start() })
}

// demo is the reference server, which publishes prices from the first connection on.
type demo struct {
	pause *time.Duration
	cut   *int

	backend *server.Server
	once    sync.Once
	mu      sync.Mutex
	open    []net.Conn
}

// start sets the flag -url to the server.
func (d *demo) start() (err error) {
	if d.backend, err = server.New(nil); err != nil {
		return err
	}
	web := httptest.NewUnstartedServer(d.backend)
	web.Config.ConnState = func(c net.Conn, s http.ConnState) {
		if s == http.StateHijacked { // a WebSocket connection
			d.mu.Lock()
			d.open = append(d.open, c)
			d.mu.Unlock()
			d.once.Do(func() { go d.publish() })
		}
	}
	web.Start()
	return flag.Set("url", "ws"+strings.TrimPrefix(web.URL, "http"))
}

func (d *demo) publish() {
	for n := 1; ; n++ {
		<-time.After(*d.pause)
		if _, err := d.backend.Publish(context.Background(), "prices/pearl", fmt.Appendf(nil, "%d.50", 100+n), nil); err != nil {
			return
		}
		if n%*d.cut == 0 {
			d.mu.Lock()
			for _, c := range d.open {
				c.Close()
			}
			d.open = nil
			d.mu.Unlock()
		}
	}
}
