package main

import (
	"flag"
	"fmt"
	"log"
	"strings"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/examples/internal/demo"
)

// init adds the flag -demo, so that main.go is a whole program without it.
func init() {
	// Five prices take six seconds, so a connection is stable before it breaks, and the client is back at once each
	// time. With shorter ones it would wait longer and longer (docs/reconnect.md, section 1).
	pause := flag.Duration("pause", 1200*time.Millisecond, "between two prices of -demo")
	var sent atomic.Int64
	demo.Flag("connect to a small server in this program; it breaks every connection after five prices", func(c *demo.Conn) {
		text, err := c.Read()
		if err != nil || !strings.Contains(text, `"subscribe"`) {
			log.Printf("demo server: got %q, %v; want a subscription", text, err)
			return
		}
		for range 5 {
			if c.Write(fmt.Sprintf(`{"symbol":"PEARL-USD","price":"%d.50"}`, 100+sent.Add(1))) != nil {
				return
			}
			<-time.After(*pause)
		}
	})
}
