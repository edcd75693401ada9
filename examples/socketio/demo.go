package main

import (
	"encoding/json"
	"fmt"
	"log"
	"strings"

	"github.com/limpet-go/limpet/examples/internal/demo"
)

// init adds the flag -demo, so that main.go is a whole program without it.
func init() {
	demo.Flag("connect to a small server in this program; it breaks the connection and recovers the session", serve)
}

// serve is a Socket.IO server with connection state recovery, for one client. It emits five
// prices and breaks the connection after three. A client that comes back gets the others.
func serve(c *demo.Conn) {
	price := func(n int) string { return fmt.Sprintf(`42["price",{"price":"%d.50"},"%d"]`, 100+n, n) }
	const welcome = `40{"sid":"eve","pid":"secret"}`

	_ = c.Write(`0{"sid":"e","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`)
	hello, _ := c.Read()
	var auth struct{ PID, Offset string }
	_ = json.Unmarshal([]byte(strings.TrimPrefix(hello, "40")), &auth) // nothing on the first connection
	if auth.PID == "" {
		_ = c.Write(welcome)
		watch, _ := c.Read()
		id, _, _ := strings.Cut(strings.TrimPrefix(watch, "42"), "[")
		_ = c.Write("43"+id+`["2 pearls"]`, price(1), price(2), price(3))
		return // without a close frame
	}
	log.Printf("demo server: the client is back, and has had offset %s", auth.Offset)
	_ = c.Write(price(4), welcome, price(5), "41") // 4 was emitted meanwhile, and comes before the welcome
	_, _ = c.Read()
}
