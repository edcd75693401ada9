package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"time"

	"github.com/limpet-go/limpet/examples/internal/demo"
	"github.com/limpet-go/limpet/wire/graphqlws"
)

// init adds the flag -demo, so that main.go is a whole program without it.
func init() {
	pause := flag.Duration("pause", 200*time.Millisecond, "between two trades of -demo")
	const usage = "connect to a small server in this program; it breaks every connection after four trades"
	demo.Flag(usage, func(c *demo.Conn) { serve(c, *pause) }, graphqlws.Subprotocol)
}

// serve sends four trades on each connection, behind the cursor of the client. On the
// third connection it has forgotten two.
func serve(c *demo.Conn, pause time.Duration) {
	for {
		var m struct {
			ID, Type string
			Payload  struct{ Variables struct{ After int } }
		}
		text, err := c.Read()
		if err == nil {
			err = json.Unmarshal([]byte(text), &m)
		}
		if m.Type == "connection_init" {
			err = c.Write(`{"type":"connection_ack"}`)
		}
		if err != nil {
			return
		}
		if m.Type != "subscribe" {
			continue
		}
		seq := m.Payload.Variables.After
		if c.Number == 3 {
			seq += 2
		}
		for range 4 {
			seq++
			if c.Write(fmt.Sprintf(`{"id":%q,"type":"next","payload":{"data":{"trades":{"seq":%d,"price":%d.5}}}}`, m.ID, seq, 100+seq)) != nil {
				return
			}
			<-time.After(pause)
		}
		return
	}
}
