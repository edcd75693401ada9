package interop

import (
	"context"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// TestLinkCuts: the faults of the other tests take effect.
func TestLinkCuts(t *testing.T) {
	heard := make(chan string, 10)
	connected := make(chan struct{})
	close(connected)
	srv := gorillaServer(t, connected, heard)
	defer srv.Close()
	l := newLink(t, srv.Listener.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ws, _, err := websocket.DefaultDialer.DialContext(ctx, l.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if err := ws.WriteMessage(websocket.TextMessage, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, data, err := ws.ReadMessage(); string(data) != "x" {
		t.Fatalf("%q, %v", data, err)
	}
	l.Cut(true)
	if _, _, err := ws.ReadMessage(); err == nil {
		t.Error("a message passed a link that is cut")
	}
	if _, _, err := websocket.DefaultDialer.DialContext(ctx, l.URL, nil); err == nil {
		t.Error("a dial passed a link that is down")
	}
	l.Cut(false)
	again, _, err := websocket.DefaultDialer.DialContext(ctx, l.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if l.Made() != 2 {
		t.Errorf("%d connections made, want 2", l.Made())
	}
}
