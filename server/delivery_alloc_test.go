//go:build !race

package server_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// A delivery allocates nothing: with a whole message of garbage for each of them, collecting it doubled the p99 of a busy server.
func TestDeliveriesAllocateNothing(t *testing.T) {
	srv, err := server.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(srv)
	defer web.Close()
	defer srv.Close()
	const clients, messages = 50, 200
	var readers [clients]*bufio.Reader
	for i := range readers {
		readers[i] = subscribeRaw(t, web.Listener.Addr().String())
	}
	buf := make([]byte, 1<<10)
	deliver := func() {
		if _, err := srv.Publish(t.Context(), "a", []byte(`"stamped"`), nil); err != nil {
			t.Fatal(err)
		}
		for _, r := range readers {
			readPast(t, r, buf, "stamped")
		}
	}
	deliver()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range messages {
		deliver()
	}
	runtime.ReadMemStats(&after)
	if each := float64(after.Mallocs-before.Mallocs) / (clients * messages); each > 0.5 { // those of Publish are shared by all
		t.Errorf("%.2f allocations for each delivery", each)
	}
}

// subscribeRaw returns what a client gets after it has subscribed to the topic a.
func subscribeRaw(t *testing.T, addr string) *bufio.Reader {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: %s\r\n\r\n", addr, native.Subprotocol(native.JSON))
	r := bufio.NewReader(c)
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	hello, err := native.Append(nil, native.JSON, []native.Frame{{Type: native.TypeHello, Hello: &native.Hello{
		CN: 1, Subs: []native.Sub{{Ch: 1, Topic: "a", From: native.FromNew, Cr: native.Credit{N: 1 << 40, B: 1 << 50}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	frame := append([]byte{0x81, 0x80 | byte(len(hello)), 0, 0, 0, 0}, hello...) // shorter than 126, masked with zeros
	if _, err := c.Write(frame); err != nil {
		t.Fatal(err)
	}
	readPast(t, r, make([]byte, 1<<10), `"subok"`)
	return r
}

// readPast reads until text has come. It must not be split by a read.
func readPast(t *testing.T, r io.Reader, buf []byte, text string) {
	t.Helper()
	for {
		n, err := r.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(buf[:n], []byte(text)) {
			return
		}
	}
}
