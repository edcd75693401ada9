package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
)

// init adds the flag -demo, so that main.go is a whole program without it.
func init() {
	flag.BoolFunc("demo", "connect to a small server in this program; it breaks the connection and recovers the session", func(string) error {
		web := httptest.NewServer(http.HandlerFunc(serve))
		return flag.Set("url", "ws"+strings.TrimPrefix(web.URL, "http"))
	})
}

// serve is a Socket.IO server with connection state recovery, for one client. It emits five
// prices and breaks the connection after three. A client that comes back gets the others.
func serve(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		log.Print("demo server: ", err)
		return
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455, section 4.2.2
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	say := func(texts ...string) {
		for _, text := range texts {
			_, _ = conn.Write(append([]byte{0x81, byte(len(text))}, text...)) // less than 126 bytes
		}
	}
	price := func(n int) string { return fmt.Sprintf(`42["price",{"price":"%d.50"},"%d"]`, 100+n, n) }
	const welcome = `40{"sid":"eve","pid":"secret"}`

	say(`0{"sid":"e","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`)
	var auth struct{ PID, Offset string }
	_ = json.Unmarshal([]byte(strings.TrimPrefix(hear(rw.Reader), "40")), &auth) // none on the first connection
	if auth.PID == "" {
		say(welcome)
		id, _, _ := strings.Cut(strings.TrimPrefix(hear(rw.Reader), "42"), "[")
		say("43"+id+"[]", price(1), price(2), price(3))
		return // without a close frame
	}
	log.Printf("demo server: the client is back, and has had offset %s", auth.Offset)
	say(price(4), welcome, price(5), "41") // 4 was emitted meanwhile, and comes before the welcome
	hear(rw.Reader)
}

// hear reads one masked text of less than 126 bytes.
func hear(r *bufio.Reader) string {
	var head [6]byte // type, length, mask
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return ""
	}
	text := make([]byte, head[1]&0x7f)
	_, _ = io.ReadFull(r, text)
	for i := range text {
		text[i] ^= head[2+i%4]
	}
	return string(text)
}
