package limpettest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/limpettest"
)

// pair returns the two ends of one connection on n.
func pair(t *testing.T, n *limpettest.Network) (client, server net.Conn) {
	t.Helper()
	ln, err := n.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, err = n.DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	return client, server
}

func mustWrite(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatalf("write %q: %v", s, err)
	}
}

func mustRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v; want %q", b[:n], err, want)
	}
}

func wantReadErr(t *testing.T, c net.Conn, want error) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, want) {
		t.Fatalf("read %d bytes, %v; want %v", n, err, want)
	}
}

func wantWriteErr(t *testing.T, c net.Conn, want error) {
	t.Helper()
	if n, err := c.Write([]byte("x")); n != 0 || !errors.Is(err, want) {
		t.Fatalf("wrote %d bytes, %v; want %v", n, err, want)
	}
}

func TestNetworkHTTP(t *testing.T) {
	for _, buffer := range []int{0, 256, 1} {
		t.Run(fmt.Sprint(buffer), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := limpettest.NewNetwork(&limpettest.NetworkOptions{Buffer: buffer})
				ln, err := n.Listen("feed.example:80")
				if err != nil {
					t.Fatal(err)
				}
				srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(w, r.Body)
				})}
				go srv.Serve(ln)
				body := strings.Repeat("limpet ", 3000)
				resp, err := n.HTTPClient().Post("http://feed.example/echo", "text/plain", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || string(got) != body {
					t.Fatalf("echo of %d bytes came back as %d bytes, %v", len(body), len(got), err)
				}
				synctest.Wait()
				if c := n.Conns(); c != 0 {
					t.Errorf("%d connections open after a request without keep-alive", c)
				}
				_ = srv.Close()
				if _, err := n.HTTPClient().Get("http://feed.example/"); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("after Close of the listener: %v, want ECONNREFUSED", err)
				}
			})
		})
	}
}

func TestConnEnds(t *testing.T) {
	t.Run("FIN", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := pair(t, limpettest.NewNetwork(nil))
			mustWrite(t, c, "bye")
			_ = c.Close()
			mustRead(t, s, "bye")
			wantReadErr(t, s, io.EOF)
			wantWriteErr(t, s, syscall.EPIPE)
			wantReadErr(t, c, net.ErrClosed)
			wantWriteErr(t, c, net.ErrClosed)
		})
	})
	t.Run("half close", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := pair(t, limpettest.NewNetwork(nil))
			if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			wantReadErr(t, s, io.EOF)
			mustWrite(t, s, "still here")
			mustRead(t, c, "still here")
			wantWriteErr(t, c, syscall.EPIPE)
		})
	})
	t.Run("close with unread bytes resets", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := pair(t, limpettest.NewNetwork(nil))
			mustWrite(t, c, "unread")
			mustWrite(t, s, "answer")
			_ = s.Close()
			mustRead(t, c, "answer")
			wantReadErr(t, c, syscall.ECONNRESET)
			wantWriteErr(t, c, syscall.ECONNRESET)
		})
	})
	t.Run("CutAll and ResetAll", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := limpettest.NewNetwork(nil)
			c, s := pair(t, n)
			if n.Conns() != 1 {
				t.Errorf("%d connections, want 1", n.Conns())
			}
			n.CutAll()
			for _, end := range []net.Conn{c, s} {
				wantReadErr(t, end, io.EOF)
				wantWriteErr(t, end, syscall.EPIPE)
			}
			if n.Conns() != 0 {
				t.Errorf("%d connections after CutAll", n.Conns())
			}
			c, s = pair(t, n)
			n.ResetAll()
			for _, end := range []net.Conn{c, s} {
				wantReadErr(t, end, syscall.ECONNRESET)
				wantWriteErr(t, end, syscall.ECONNRESET)
			}
		})
	})
	t.Run("Close releases those who wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, _ := pair(t, limpettest.NewNetwork(&limpettest.NetworkOptions{Buffer: 4}))
			errs := make(chan error, 2)
			go func() { _, err := c.Read(make([]byte, 1)); errs <- err }()
			go func() { _, err := c.Write(make([]byte, 8)); errs <- err }()
			synctest.Wait()
			_ = c.Close()
			for range 2 {
				if err := <-errs; !errors.Is(err, net.ErrClosed) {
					t.Errorf("%v, want net.ErrClosed", err)
				}
			}
		})
	})
}

// This network avoids a defect of net.Pipe: writers that wait for each other on a
// mutex stop virtual time for ever.
func TestTwoWritersAndNoReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := pair(t, limpettest.NewNetwork(&limpettest.NetworkOptions{Buffer: 256}))
		wrote := make(chan byte, 2)
		for _, b := range []byte("ab") {
			go func() {
				if _, err := c.Write(bytes.Repeat([]byte{b}, 1000)); err != nil {
					t.Error(err)
				}
				wrote <- b
			}()
		}
		start := time.Now()
		time.Sleep(time.Hour)
		if d := time.Since(start); d != time.Hour {
			t.Fatalf("slept %v", d)
		}
		got := make([]byte, 2000)
		if _, err := io.ReadFull(s, got); err != nil {
			t.Fatal(err)
		}
		<-wrote
		<-wrote
		if i := bytes.IndexByte(got, got[1999]); i != 1000 {
			t.Errorf("the writes were interleaved: the second begins at %d", i)
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := pair(t, limpettest.NewNetwork(&limpettest.NetworkOptions{Buffer: 4}))
		start := time.Now()
		_ = c.SetDeadline(start.Add(time.Minute))
		wantReadErr(t, c, os.ErrDeadlineExceeded)
		if d := time.Since(start); d != time.Minute {
			t.Errorf("read waited %v, want a minute", d)
		}
		var ne net.Error
		_, err := c.Write([]byte("123456"))
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("write after the deadline: %v, want a timeout", err)
		}
		_ = c.SetDeadline(time.Time{})
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := c.Write([]byte("123456")); n != 4 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("wrote %d, %v; want 4 and a timeout", n, err)
		}
		mustRead(t, s, "1234")
		// A deadline in the past ends a read that waits.
		done := make(chan error)
		go func() { _, err := s.Read(make([]byte, 1)); done <- err }()
		synctest.Wait()
		_ = s.SetReadDeadline(time.Unix(1, 0))
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, want a timeout", err)
		}
	})
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := pair(t, limpettest.NewNetwork(&limpettest.NetworkOptions{Up: time.Second, Down: 2 * time.Second}))
		start := time.Now()
		mustWrite(t, c, "ping")
		time.Sleep(500 * time.Millisecond)
		mustWrite(t, c, "more")
		mustRead(t, s, "ping")
		if d := time.Since(start); d != time.Second {
			t.Errorf("up took %v, want 1s", d)
		}
		mustRead(t, s, "more")
		if d := time.Since(start); d != 1500*time.Millisecond {
			t.Errorf("the second write took until %v, want 1.5s", d)
		}
		mustWrite(t, s, "pong")
		_ = s.Close()
		mustRead(t, c, "pong")
		wantReadErr(t, c, io.EOF)
		if d := time.Since(start); d != 3500*time.Millisecond {
			t.Errorf("the answer and FIN took until %v, want 3.5s", d)
		}
	})
}

func TestBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := limpettest.NewNetwork(&limpettest.NetworkOptions{Backlog: 1})
		ln, err := n.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln.Addr().String()
		waiting, err := n.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := n.DialContext(ctx, "tcp", addr); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial with a full backlog: %v, want the context's end", err)
		}
		if n.Conns() != 1 {
			t.Errorf("%d connections, want 1", n.Conns())
		}
		_ = ln.Close()
		wantReadErr(t, waiting, syscall.ECONNRESET)
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: %v", err)
		}
	})
}

func TestNetworkClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := limpettest.NewNetwork(nil)
		c, s := pair(t, n)
		ln, err := n.Listen("127.0.0.1:9")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Listen("127.0.0.1:9"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second Listen: %v, want EADDRINUSE", err)
		}
		n.Close()
		wantReadErr(t, c, syscall.ECONNRESET)
		wantReadErr(t, s, syscall.ECONNRESET)
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
		if _, err := n.DialContext(t.Context(), "tcp", "127.0.0.1:9"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("dial: %v", err)
		}
		if _, err := n.Listen("127.0.0.1:9"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Listen: %v", err)
		}
	})
}
