// Package demo serves the flag -demo of the example programs: a small server inside the
// program, so that a reader can run it at once.
package demo

import (
	"context"
	"flag"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"

	"nhooyr.io/websocket"
)

// Conn is one connection of a client. Its methods are for one goroutine each.
type Conn struct {
	// Number counts connections, from 1.
	Number int

	ws *websocket.Conn
}

// Read returns the next message.
func (c *Conn) Read() (string, error) {
	_, data, err := c.ws.Read(context.Background())
	return string(data), err
}

// Write sends texts, each as a message.
func (c *Conn) Write(texts ...string) error {
	for _, text := range texts {
		if err := c.ws.Write(context.Background(), websocket.MessageText, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// Flag adds the flag -demo, with a usage text. It starts a server on a free port of this
// machine and sets the flag -url to it. serve runs once for each connection, each time on
// a goroutine of its own; when it returns, the connection breaks without a close frame.
func Flag(usage string, serve func(*Conn), subprotocols ...string) {
	flag.BoolFunc("demo", usage, func(string) error { return flag.Set("url", Serve(serve, subprotocols...)) })
}

// Serve starts the server of Flag and returns its URL.
func Serve(serve func(*Conn), subprotocols ...string) (url string) {
	var made atomic.Int64
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: subprotocols})
		if err != nil {
			return // Accept has answered
		}
		defer ws.CloseNow()
		serve(&Conn{Number: int(made.Add(1)), ws: ws})
	}))
	return "ws" + strings.TrimPrefix(web.URL, "http")
}
