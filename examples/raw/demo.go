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
	pause := flag.Duration("pause", 500*time.Millisecond, "between two prices of -demo")
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
