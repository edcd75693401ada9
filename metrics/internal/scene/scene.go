// Package scene has what the tests of the metrics share: a client, a subscription, a server
// that sends and nothing else.
package scene

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
)

// Dial returns a client of srv that is ready. It ends with the test.
func Dial(t testing.TB, srv *limpettest.Server, o limpet.Options) *limpet.Client {
	t.Helper()
	o.HTTPClient = srv.HTTPClient()
	return Start(t, srv.URL(), o)
}

// Start returns a client of url that is ready. It ends with the test.
func Start(t testing.TB, url string, o limpet.Options) *limpet.Client {
	t.Helper()
	c, err := limpet.Dial(t.Context(), url, &o)
	assert.NoError(t, err)
	t.Cleanup(func() { End(c) })
	return c
}

// OnFallback returns a client that is ready over plain requests, and what ends it.
func OnFallback(t testing.TB) (c *limpet.Client, end func()) {
	t.Helper()
	srv, err := server.New(nil)
	assert.NoError(t, err)
	t.Cleanup(func() { srv.Close() })
	host := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Upgrade")
		r.Header.Del("Connection")
		srv.ServeHTTP(w, r)
	}), nil)
	c = Start(t, host.URL(), limpet.Options{HTTPClient: host.HTTPClient(), Fallback: true})
	return c, func() { End(c) }
}

// End closes c and waits for its goroutines.
func End(c *limpet.Client) {
	c.Close()
	<-c.Done()
}

// Subscribe returns a live subscription.
func Subscribe(t testing.TB, c *limpet.Client, topic string, o *limpet.SubscribeOptions) *limpet.Subscription {
	t.Helper()
	s, err := c.Subscribe(t.Context(), topic, o)
	assert.NoError(t, err)
	assert.NoError(t, s.WaitLive(t.Context()))
	return s
}

// Publish makes the server publish n messages of five bytes.
func Publish(t testing.TB, srv *limpettest.Server, topic string, n int) {
	t.Helper()
	for range n {
		_, err := srv.Server.Publish(context.Background(), topic, []byte("12345"), nil)
		assert.NoError(t, err)
	}
}

// Take takes n messages.
func Take(t testing.TB, s *limpet.Subscription, n int) (taken []limpet.Message) {
	t.Helper()
	for m, err := range s.Messages(t.Context()) {
		assert.NoError(t, err)
		if taken = append(taken, m); len(taken) == n {
			break
		}
	}
	return taken
}

// Sender serves connections that get texts and nothing else, without a WebSocket library.
func Sender(texts ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+
			base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n")
		for _, text := range texts { // shorter than 126 bytes: a length of one byte
			conn.Write(append([]byte{0x81, byte(len(text))}, text...))
		}
		io.Copy(io.Discard, conn)
	})
}

// NewFeed makes a client of a server that numbers its messages of the topic feed: one is
// sent twice, 2 and 3 are missing, the numbers begin again. Each is a minute old. Of two other messages one is for
// a topic without a subscription and one for what is not a topic.
func NewFeed(t testing.TB) *limpet.Client {
	t.Helper()
	host := limpettest.NewHandler(t, Sender("feed 1", "feed 2", "feed 2", "feed 5", "feed 9", "feed 3", "other 1", "\x01 1"), nil)
	label := func(f wire.Frame) (l raw.Label) {
		fmt.Sscan(string(f.Data), &l.Topic, &l.Number)
		l.Numbered, l.Time = true, time.Now().Add(-time.Minute)
		return l
	}
	c := Start(t, host.URL(), limpet.Options{
		Dialect: raw.New(raw.Options{Topic: label}), HTTPClient: host.HTTPClient(),
		Heartbeat:  limpet.Heartbeat{Interval: time.Hour}, // the server answers no ping
		Histograms: true,
	})
	Take(t, Subscribe(t, c, "feed", nil), 8) // 5 messages, 2 gaps, a reset
	return c
}
