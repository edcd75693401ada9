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
// message was received or a connection lasted in between. A text that says why is a message.
func TestRefusedLoginEnds(t *testing.T) {
	for _, row := range []struct {
		name  string
		every int           // which connections are different from the others
		text  string        // that such a connection brings
		lasts time.Duration // how long such a connection stays open; silence ends it after 50 s
		ends  bool
	}{
		{"always", 4, "", 0, true},
		{"a message in between", 4, "a", 0, false},
		{"a message each time, that says why", 1, "bad token", 0, false},
		{"a connection that lasts in between", 4, "", 40 * time.Second, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conns := 0
				host := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					ws, err := websocket.Accept(w, r, nil)
					if err != nil {
						return
					}
					if conns++; conns%row.every == 0 {
						if row.text != "" {
							ws.Write(context.Background(), websocket.MessageText, []byte(row.text))
						}
						time.Sleep(row.lasts)
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
