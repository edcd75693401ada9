package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"
)

// init adds the flag -demo, so that main.go is a whole program without it.
func init() {
	pause := flag.Duration("pause", 500*time.Millisecond, "between two prices of -demo")
	flag.BoolFunc("demo", "connect to a small server in this program; it breaks every connection after five prices", func(string) error {
		web := httptest.NewServer(&demoServer{pause: pause})
		return flag.Set("url", "ws"+strings.TrimPrefix(web.URL, "http"))
	})
}

// demoServer sends five prices on each connection to those who subscribe. Then it breaks
// the connection without a close frame.
type demoServer struct {
	pause *time.Duration
	sent  atomic.Int64 // prices
}

func (s *demoServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := upgrade(w, r)
	if err != nil {
		log.Print("demo server: ", err)
		return
	}
	defer conn.Close()
	text, err := readText(rw.Reader)
	if err != nil || !strings.Contains(text, `"subscribe"`) {
		log.Printf("demo server: got %q, %v; want a subscription", text, err)
		return
	}
	for range 5 {
		if err := writeText(conn, fmt.Sprintf(`{"symbol":"PEARL-USD","price":"%d.50"}`, 100+s.sent.Add(1))); err != nil {
			return
		}
		<-time.After(*s.pause)
	}
}

// upgrade answers the handshake of RFC 6455, section 4.2.
func upgrade(w http.ResponseWriter, r *http.Request) (net.Conn, *bufio.ReadWriter, error) {
	h, ok := w.(http.Hijacker)
	if key := r.Header.Get("Sec-WebSocket-Key"); !ok || key == "" {
		http.Error(w, "want a WebSocket handshake", http.StatusBadRequest)
		return nil, nil, errors.New("no WebSocket handshake")
	}
	conn, rw, err := h.Hijack()
	if err != nil {
		return nil, nil, err
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	return conn, rw, err
}

// readText reads one masked text of less than 126 bytes.
func readText(r io.Reader) (string, error) {
	var head [6]byte // type, length, mask
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	if n := head[1] & 0x7f; head[0] != 0x81 || head[1]&0x80 == 0 || n > 125 {
		return "", errors.New("want a short text")
	}
	text := make([]byte, head[1]&0x7f)
	_, err := io.ReadFull(r, text)
	for i := range text {
		text[i] ^= head[2+i%4]
	}
	return string(text), err
}

// writeText writes one text of less than 126 bytes.
func writeText(w io.Writer, text string) error {
	_, err := w.Write(append([]byte{0x81, byte(len(text))}, text...))
	return err
}
