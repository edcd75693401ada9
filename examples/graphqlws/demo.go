package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/wire/graphqlws"
)

// init adds the flag -demo, so that main.go is a whole program without it.
func init() {
	pause := flag.Duration("pause", 200*time.Millisecond, "between two trades of -demo")
	flag.BoolFunc("demo", "connect to a small server in this program; it breaks every connection after four trades", func(string) error {
		web := httptest.NewServer(&demoServer{pause: pause})
		return flag.Set("url", "ws"+strings.TrimPrefix(web.URL, "http"))
	})
}

// demoServer sends four trades on each connection, behind the cursor of the client, and
// breaks it without a close frame. On the third connection it has forgotten two.
type demoServer struct {
	pause *time.Duration
	conns atomic.Int64
}

func (s *demoServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455, section 4.2.2
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]), graphqlws.Subprotocol)
	say := func(text string) { _, _ = conn.Write(append([]byte{0x81, byte(len(text))}, text...)) } // less than 126 bytes
	number := s.conns.Add(1)
	for {
		var m struct {
			ID, Type string
			Payload  struct{ Variables struct{ After int } }
		}
		text, err := readText(rw.Reader)
		if err != nil || json.Unmarshal(text, &m) != nil {
			return
		}
		if m.Type == "connection_init" {
			say(`{"type":"connection_ack"}`)
		}
		if m.Type != "subscribe" {
			continue
		}
		seq := m.Payload.Variables.After
		if number == 3 {
			seq += 2
		}
		for range 4 {
			seq++
			say(fmt.Sprintf(`{"id":%q,"type":"next","payload":{"data":{"trades":{"seq":%d,"price":%d.5}}}}`, m.ID, seq, 100+seq))
			<-time.After(*s.pause)
		}
		return
	}
}

// readText reads one masked message of at most 65,535 bytes (RFC 6455, section 5.2).
func readText(r *bufio.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := uint16(head[1] & 0x7f)
	if n == 126 {
		if err := binary.Read(r, binary.BigEndian, &n); err != nil {
			return nil, err
		}
	}
	frame := make([]byte, 4+int(n)) // mask, text
	_, err := io.ReadFull(r, frame)
	for i := range frame[4:] {
		frame[4+i] ^= frame[i%4]
	}
	return frame[4:], err
}
