package test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"nhooyr.io/websocket"
)

// Without a greeting each connection is ready before the server has judged the login. A
// server that closes with 1008 each time ends the client after ten minutes, unless a
// message was received or a connection lasted in between.
func TestRefusedLoginEnds(t *testing.T) {
	for _, row := range []struct {
		name string
		good func(conn int, ws *websocket.Conn) // of every fourth connection
		ends bool
	}{
		{"always", nil, true},
		{"a message in between", func(_ int, ws *websocket.Conn) {
			ws.Write(context.Background(), websocket.MessageText, []byte("a"))
		}, false},
		{"a connection that lasts in between", func(int, *websocket.Conn) { time.Sleep(40 * time.Second) }, false}, // silence ends it after 50 s
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conns := 0
				host := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					ws, err := websocket.Accept(w, r, nil)
					if err != nil {
						return
					}
					if conns++; conns%4 == 0 && row.good != nil {
						row.good(conns, ws)
					}
					ws.Close(websocket.StatusPolicyViolation, "unknown key")
				}), nil)
				c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: pushDialect{wire.Traits{}}}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				_, err = c.Subscribe(t.Context(), "feed", nil)
				assert.NoError(t, err)
				began := time.Now()
				select {
				case <-c.Done():
				case <-time.After(2 * time.Hour):
				}
				var permanent *limpet.PermanentError
				took := time.Since(began)
				if ended := errors.As(c.Err(), &permanent); ended != row.ends || ended && (took < 10*time.Minute || took > 15*time.Minute || permanent.Class != limpet.ClassAuth) {
					t.Errorf("after %v and %d connections: %v", took, conns, c.Err())
				}
			})
		})
	}
}
