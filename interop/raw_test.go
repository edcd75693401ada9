// Package interop tests limpet against servers of other libraries, on loopback. It is a
// module of its own: what it requires is not required by limpet.
package interop

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
)

// gorillaServer echoes every message but those that it knows: it confirms a login, asks
// {"ping"} and wants {"pong"}, and ends a connection at "drop" without a close frame and
// at "close" with code 1001. connected lets the first message out.
func gorillaServer(t *testing.T, connected <-chan struct{}, heard chan<- string) *httptest.Server {
	upgrader := websocket.Upgrader{Subprotocols: []string{"prices.v2"}}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Log(err)
			return
		}
		defer ws.Close()
		for {
			typ, data, err := ws.ReadMessage()
			if err != nil {
				return
			}
			text := string(data)
			heard <- fmt.Sprint(typ, " ", text)
			switch {
			case strings.HasPrefix(text, "login "):
				<-connected
				err = errors.Join(ws.WriteMessage(websocket.TextMessage, []byte("hello "+ws.Subprotocol())),
					ws.WriteMessage(websocket.TextMessage, []byte(`{"ping"}`)))
			case text == `{"pong"}`:
			case text == "drop":
				return
			case text == "close":
				err = ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1001, "deploy"))
			default:
				err = ws.WriteMessage(typ, data)
			}
			if err != nil {
				t.Log(err)
				return
			}
		}
	}))
}

// TestGorilla: texts and binary messages in both directions, keep-alive in texts, a
// subprotocol, a lost connection and a closed one, against github.com/gorilla/websocket.
func TestGorilla(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprint("plain frames ", plain), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			connected, heard := make(chan struct{}), make(chan string, 100)
			srv := gorillaServer(t, connected, heard)
			defer srv.Close()
			logins := 0
			client, err := limpet.New("ws"+strings.TrimPrefix(srv.URL, "http"), &limpet.Options{
				PlainFrames: plain,
				Backoff:     limpet.Backoff{First: -1},
				Dialect: raw.New(raw.Options{
					Subprotocols: []string{"prices.v1", "prices.v2"},
					OnOpen: func(wire.Resume) [][]byte {
						logins++
						return [][]byte{fmt.Appendf(nil, "login %d", logins)}
					},
					Answer: func(f wire.Frame) []byte {
						if string(f.Data) == `{"ping"}` {
							return []byte(`{"pong"}`)
						}
						return nil
					},
				}),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { client.Close(); <-client.Done() }()
			sub, err := client.Subscribe(ctx, "*", nil)
			if err != nil {
				t.Fatal(err)
			}
			close(connected)
			var got []string
			receive := func(n int) {
				t.Helper()
				for m, err := range sub.Messages(ctx) {
					if err != nil {
						t.Fatalf("after %q: %v", got, err)
					}
					got = append(got, strings.TrimSpace(fmt.Sprint(m.Kind, " ", m.Type, " ", string(m.Payload))))
					if n--; n == 0 {
						return
					}
				}
			}
			send := func(text, contentType string) {
				t.Helper()
				ack, err := client.Send(ctx, "*", []byte(text), &limpet.PublishOptions{Type: contentType})
				if err != nil || ack.Outcome != limpet.Written {
					t.Fatalf("%q: %v, %v", text, ack.Outcome, err)
				}
			}
			receive(1)
			long := strings.Repeat("é", 40_000) // several frames of the library's buffers
			send("one", "")
			send("\xff\x00", raw.TypeBinary)
			send(long, "")
			receive(3)
			for _, end := range []string{"drop", "close"} {
				send(end, "")
				receive(2)
			}
			const data, hello = "data " + raw.TypeText + " ", "data " + raw.TypeText + " hello prices.v2"
			want := []string{hello, data + "one", "data " + raw.TypeBinary + " \xff\x00", data + long, "reset", hello, "reset", hello}
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("received %.300q", got)
			}
			var all []string
			for len(all) < 11 {
				select {
				case text := <-heard:
					all = append(all, text)
				case <-ctx.Done():
					t.Fatalf("the server heard %.300q", all)
				}
			}
			count := func(text string) (n int) {
				for _, h := range all {
					if h == text {
						n++
					}
				}
				return n
			}
			for text, n := range map[string]int{"1 login 1": 1, "1 login 2": 1, "1 login 3": 1, `1 {"pong"}`: 3, "1 one": 1, "2 \xff\x00": 1, "1 drop": 1, "1 close": 1, "1 " + long: 1} {
				if count(text) != n {
					t.Errorf("the server heard %.40q %d times, want %d", text, count(text), n)
				}
			}
		})
	}
}
