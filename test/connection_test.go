package test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

// A transport that does not say which socket it uses is closed as well.
func TestTransportWithoutTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := limpettest.NewHandler(t, rawServer(drain), nil)
		client := host.HTTPClient()
		client.Transport = untracedTransport{client.Transport}
		c, err := limpet.Dial(context.Background(), host.URL(), options(&limpet.Options{HTTPClient: client, Dialect: rawDialect{}}))
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

type untracedTransport struct{ http.RoundTripper }

func (u untracedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
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
		srv := &http.Server{Handler: rawServer(func(nc net.Conn) {
			nc.Write(rawFrame(0x89, "are you there"))
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
		d := retryNowDialect{newToyDialect()}
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

// What has come whole is delivered at once, however much of the next message
// has come with it.
func TestBeginningOfAMessageHoldsUpNone(t *testing.T) {
	next := bin(strings.Repeat("y", 300))
	for _, plain := range bothFrameLayers() {
		for _, part := range []int{0, 1, 2, 3, 4, 5, len(next) - 1} {
			synctest.Test(t, func(t *testing.T) {
				host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
					nc.Write(append(append(bin("a"), bin("b")...), next[:part]...))
					drain(nc)
				}), nil)
				host.Inject(limpettest.Stall(time.Millisecond)) // so that the subscription is there
				c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: rawDialect{}, PlainFrames: plain}))
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
