package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/wire/graphqlws"
	"nhooyr.io/websocket"
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
// breaks it without a close frame. From the third connection on it has forgotten two.
type demoServer struct {
	pause *time.Duration
	conns atomic.Int64
}

func (s *demoServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{graphqlws.Subprotocol}})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ctx := context.Background()
	for conn := s.conns.Add(1); ; {
		_, data, err := ws.Read(ctx)
		if err != nil {
			return
		}
		var m struct {
			ID, Type string
			Payload  struct{ Variables struct{ After int } }
		}
		if json.Unmarshal(data, &m) != nil || m.Type != "subscribe" {
			if m.Type == "connection_init" && ws.Write(ctx, websocket.MessageText, []byte(`{"type":"connection_ack"}`)) != nil {
				return
			}
			continue
		}
		seq := m.Payload.Variables.After
		if conn == 3 {
			seq += 2
		}
		for range 4 {
			seq++
			next := fmt.Sprintf(`{"id":%q,"type":"next","payload":{"data":{"trades":{"seq":%d,"price":%d.5}}}}`, m.ID, seq, 100+seq)
			if ws.Write(ctx, websocket.MessageText, []byte(next)) != nil {
				return
			}
			<-time.After(*s.pause)
		}
		return
	}
}
