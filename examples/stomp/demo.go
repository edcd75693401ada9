package main

import (
	"fmt"
	"strings"
	"sync"

	"github.com/limpet-go/limpet/examples/internal/demo"
)

// init adds the flag -demo, so that main.go is a whole program without it.
func init() {
	b := &demoBroker{next: 1}
	demo.Flag("connect to a small broker in this program; it loses the acknowledgement of order 2 and the connection", b.serve, "v12.stomp")
}

// demoBroker delivers one order at a time, and the next when that was acknowledged.
type demoBroker struct {
	mu   sync.Mutex
	next int  // the order to deliver
	lost bool // an acknowledgement was lost
}

func (b *demoBroker) serve(c *demo.Conn) {
	b.mu.Lock() // one connection at a time
	defer b.mu.Unlock()
	for {
		text, err := c.Read()
		if err != nil {
			return
		}
		switch command, _, _ := strings.Cut(text, "\n"); command {
		case "CONNECT":
			err = c.Write("CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\x00\n")
		case "SUBSCRIBE":
			err = c.Write("RECEIPT\nreceipt-id:1\n\n\x00\n", b.order(c.Number))
		case "ACK":
			if b.next == 2 && !b.lost {
				b.lost = true
				return // breaks the connection
			}
			b.next++
			err = c.Write(b.order(c.Number))
		}
		if err != nil {
			return
		}
	}
}

// order is the MESSAGE of the next order.
func (b *demoBroker) order(conn int) string {
	return fmt.Sprintf("MESSAGE\nsubscription:1\ndestination:/queue/orders\nmessage-id:%d.%d\nack:%d\nredelivered:%v\n"+
		"amqp-message-id:019a0000-0000-7000-8000-%012d\n\n%d\x00\n", conn, b.next, b.next, b.lost && b.next == 2, b.next, b.next)
}
