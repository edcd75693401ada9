package test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

// paths are the values of Options.PlainFrames that a test of both goes through:
// with -plain there is only one.
func paths() []bool {
	if *plainFlag {
		return []bool{true}
	}
	return []bool{false, true}
}

// quiet serves WebSocket connections without a WebSocket library: it answers
// the upgrade and hands the connection to talk.
func quiet(talk func(nc net.Conn)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer nc.Close()
		io.WriteString(nc, rightHead(r.Header.Get("Sec-WebSocket-Key")))
		talk(nc)
	})
}

func drain(nc net.Conn) { io.Copy(io.Discard, nc) }

// An idle connection is its reader, and on the plain path a goroutine of the
// library's: the loop rests.
func TestIdleCost(t *testing.T) {
	for _, plain := range paths() {
		synctest.Test(t, func(t *testing.T) {
			host := limpettest.NewHandler(t, quiet(drain), nil)
			c, err := limpet.Dial(context.Background(), host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawFrames{}, PlainFrames: plain}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			synctest.Wait()
			b := make([]byte, 1<<20)
			ours, library := 0, 0
			for _, g := range strings.Split(string(b[:runtime.Stack(b, true)]), "\n\n") {
				switch {
				case strings.Contains(g, "timeoutLoop"):
					library++
				case strings.Contains(g, "limpet-go/limpet.(*"):
					ours++
				}
			}
			if ours != 1 || (library == 1) != plain {
				t.Errorf("plain %v: %d goroutines of the client, %d of the library:\n%s", plain, ours, library, b)
			}
		})
	}
}

// A body that cannot be written to makes no connection.
func TestTransportThatKeepsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := limpet.Dial(ctx, "ws://localhost", options(&limpet.Options{HTTPClient: &http.Client{Transport: readOnly{}}}))
		if err == nil || !strings.Contains(err.Error(), "does not hand the upgraded connection over") {
			t.Errorf("%v", err)
		}
	})
}

type readOnly struct{}

func (readOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 101, Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
}

// http.Client.Timeout bounds the dial and nothing after it.
func TestClientTimeoutBoundsTheDialOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		client := srv.HTTPClient()
		client.Timeout = 2 * time.Second
		srv.Inject(limpettest.Stall(time.Minute))
		at := time.Now()
		c, err := limpet.New(srv.URL(), options(&limpet.Options{HTTPClient: client}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		if _, err := c.WaitState(context.Background(), func(s limpet.State) bool { return s.Cause != nil }); err != nil || time.Since(at) != client.Timeout {
			t.Errorf("after %v: %v", time.Since(at), err)
		}
		if err := c.WaitReady(context.Background()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if g := c.State().Generation; g != 1 {
			t.Errorf("%d connections", g)
		}
	})
}

// A transport that does not say which socket it uses is closed as well.
func TestTransportWithoutTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := limpettest.NewHandler(t, quiet(drain), nil)
		client := host.HTTPClient()
		client.Transport = untraced{client.Transport}
		c, err := limpet.Dial(context.Background(), host.URL(), options(&limpet.Options{HTTPClient: client, Dialect: rawFrames{}}))
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now()
		closeAndWait(t, c)
		if took := time.Since(at); took > 100*time.Millisecond {
			t.Errorf("Close took %v", took)
		}
	})
}

type untraced struct{ http.RoundTripper }

func (u untraced) RoundTrip(r *http.Request) (*http.Response, error) {
	return u.RoundTripper.RoundTrip(r.WithContext(withoutValues{r.Context()}))
}

type withoutValues struct{ context.Context }

func (withoutValues) Value(any) any { return nil }

// Under TLS a stalled write holds tls.Conn.Close up: the socket below it is
// closed first.
func TestCloseUnderTLSIsBounded(t *testing.T) {
	donor := httptest.NewTLSServer(nil) // its certificate is valid for 127.0.0.1
	donor.Close()
	synctest.Test(t, func(t *testing.T) {
		n := limpettest.NewNetwork(&limpettest.NetworkOptions{Buffer: 4096})
		l, err := n.Listen("127.0.0.1:443")
		if err != nil {
			t.Fatal(err)
		}
		stalled := make(chan struct{})
		srv := &http.Server{Handler: quiet(func(nc net.Conn) {
			nc.Write(fr(0x89, "are you there"))
			<-stalled
		})}
		served := make(chan struct{})
		go func() {
			defer close(served)
			srv.Serve(tls.NewListener(l, &tls.Config{Certificates: donor.TLS.Certificates}))
		}()
		client := n.HTTPClient()
		transport := client.Transport.(*http.Transport)
		transport.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool()}
		transport.TLSClientConfig.RootCAs.AddCert(donor.Certificate())
		d := retryNow{newWords()}
		d.traits.Greeting = false
		c, err := limpet.Dial(context.Background(), "wss://127.0.0.1", options(&limpet.Options{HTTPClient: client, Dialect: d}))
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if _, err := c.Publish(context.Background(), "x", bytes.Repeat([]byte("x"), 10_000), nil); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		at := time.Now()
		closeAndWait(t, c)
		if took := time.Since(at); took > 150*time.Millisecond {
			t.Errorf("Close took %v", took)
		}
		close(stalled)
		srv.Close()
		n.Close()
		<-served
	})
}

// The peer's pings are answered while it reads nothing, and the connection
// outlives it: the library's own answer has five seconds.
func TestPingsOfAPeerThatReadsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		later := make(chan []byte, 100)
		host := limpettest.NewHandler(t, quiet(func(nc net.Conn) {
			for i := range 50 {
				nc.Write(fr(0x89, fmt.Sprintf("%0120d", i)))
			}
			time.Sleep(10 * time.Second)
			nc.SetReadDeadline(time.Now().Add(time.Second))
			b, _ := io.ReadAll(nc)
			later <- b
			nc.SetReadDeadline(time.Time{})
			drain(nc)
		}), &limpettest.HostOptions{Network: &limpettest.NetworkOptions{Buffer: 256}})
		c, err := limpet.Dial(context.Background(), host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawFrames{}}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		s := &hostileServer{}
		s.received.Write(<-later)
		st := c.State()
		if c.Stats().PlainFrames {
			if st.Generation == 1 && st.Phase == limpet.Ready {
				t.Error("the library holds out now; take it out of record 0001")
			}
			return
		}
		pongs := s.sent()
		if len(pongs) < 30 || !strings.Contains(fmt.Sprint(pongs[len(pongs)-1]), "of 120") || st.Generation != 1 || st.Phase != limpet.Ready {
			t.Errorf("%d pongs, %+v", len(pongs), st)
		}
	})
}

// Empty fragments at a decent pace break no budget. They are no life either.
func TestMessageThatDoesNotGrowIsNoLife(t *testing.T) {
	for _, plain := range paths() {
		synctest.Test(t, func(t *testing.T) {
			host := limpettest.NewHandler(t, quiet(func(nc net.Conn) {
				_, err := nc.Write(fr(0x01, "a"))
				for err == nil {
					time.Sleep(time.Second)
					_, err = nc.Write(fr(0x00, ""))
				}
			}), nil)
			c, err := limpet.Dial(context.Background(), host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawFrames{},
				Heartbeat: limpet.Heartbeat{Interval: 10 * time.Second}, PlainFrames: plain}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			at := time.Now()
			st, err := c.WaitState(ctx, func(s limpet.State) bool { return s.Cause != nil })
			if took := time.Since(at); err != nil || !errors.Is(st.Cause, limpet.ErrHeartbeat) || took > 26*time.Second {
				t.Errorf("plain %v: after %v: %v", plain, took, st.Cause)
			}
		})
	}
}

// A long message that grows is life, however long it takes.
func TestMessageThatGrowsIsLife(t *testing.T) {
	for _, plain := range paths() {
		synctest.Test(t, func(t *testing.T) {
			host := limpettest.NewHandler(t, quiet(func(nc net.Conn) {
				for b := bin(strings.Repeat("x", 70_000)); len(b) > 0; b = b[min(len(b), 1000):] {
					time.Sleep(5 * time.Second)
					nc.Write(b[:min(len(b), 1000)])
				}
				drain(nc)
			}), nil)
			host.Inject(limpettest.Stall(time.Millisecond)) // so that the subscription is there
			c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawFrames{},
				Heartbeat: limpet.Heartbeat{Interval: 10 * time.Second}, PlainFrames: plain}))
			if err != nil {
				t.Fatal(err)
			}
			defer closeAndWait(t, c)
			s, err := c.Subscribe(context.Background(), "x", nil)
			if err != nil {
				t.Fatal(err)
			}
			if m := collect(t, s, 1)[0]; len(m.Payload) != 70_002 || c.State().Generation != 1 {
				t.Errorf("plain %v: %d bytes on connection %d", plain, len(m.Payload), c.State().Generation)
			}
		})
	}
}

// What has come whole is delivered at once, however much of the next message
// has come with it.
func TestBeginningOfAMessageHoldsUpNone(t *testing.T) {
	next := bin(strings.Repeat("y", 300))
	for _, plain := range paths() {
		for _, part := range []int{0, 1, 2, 3, 4, 5, len(next) - 1} {
			synctest.Test(t, func(t *testing.T) {
				host := limpettest.NewHandler(t, quiet(func(nc net.Conn) {
					nc.Write(append(append(bin("a"), bin("b")...), next[:part]...))
					drain(nc)
				}), nil)
				host.Inject(limpettest.Stall(time.Millisecond)) // so that the subscription is there
				c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawFrames{}, PlainFrames: plain}))
				if err != nil {
					t.Fatal(err)
				}
				defer closeAndWait(t, c)
				s, err := c.Subscribe(context.Background(), "x", nil)
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				if ms := collect(t, s, 2); string(ms[0].Payload) != "b:a" || string(ms[1].Payload) != "b:b" || time.Since(began) > time.Second {
					t.Errorf("plain %v, %d bytes of the next: %q and %q after %v", plain, part, ms[0].Payload, ms[1].Payload, time.Since(began))
				}
			})
		}
	}
}
