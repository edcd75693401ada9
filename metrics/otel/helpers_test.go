package limpetotel_test

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	limpetotel "github.com/limpet-go/limpet/metrics/otel"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newReader returns registered Metrics and the reader that collects them.
func newReader(t testing.TB, o ...sdkmetric.ManualReaderOption) (*limpetotel.Metrics, *sdkmetric.ManualReader) {
	t.Helper()
	m := limpetotel.New()
	reader := sdkmetric.NewManualReader(append(o, sdkmetric.WithProducer(m))...)
	_, err := m.Register(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	noError(t, err)
	return m, reader
}

// page has the values of a collection by name and attributes, such as
// "limpet.disconnects error.type=tls limpet.client=a". A histogram has its number of
// durations with the suffix .n and their sum with the suffix .sum.
type page map[string]float64

// collect returns what reader collects.
func collect(t testing.TB, reader sdkmetric.Reader) page {
	t.Helper()
	p := page{}
	for _, m := range metricsOf(t, reader) {
		put := func(suffix string, attributes attribute.Set, v float64) {
			key := m.Name + suffix
			for _, a := range attributes.ToSlice() { // in the order of the keys
				key += " " + string(a.Key) + "=" + a.Value.AsString()
			}
			if _, twice := p[key]; twice {
				t.Errorf("%s has two values", key)
			}
			p[key] = v
		}
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, d := range data.DataPoints {
				put("", d.Attributes, float64(d.Value))
			}
		case metricdata.Sum[float64]:
			for _, d := range data.DataPoints {
				put("", d.Attributes, d.Value)
			}
		case metricdata.Gauge[int64]:
			for _, d := range data.DataPoints {
				put("", d.Attributes, float64(d.Value))
			}
		case metricdata.Gauge[float64]:
			for _, d := range data.DataPoints {
				put("", d.Attributes, d.Value)
			}
		case metricdata.Histogram[float64]:
			for _, d := range data.DataPoints {
				put(".n", d.Attributes, float64(d.Count))
				put(".sum", d.Attributes, d.Sum)
			}
		default:
			t.Fatalf("%s is a %T", m.Name, data)
		}
	}
	return p
}

func metricsOf(t testing.TB, reader sdkmetric.Reader) (all []metricdata.Metrics) {
	t.Helper()
	var rm metricdata.ResourceMetrics
	noError(t, reader.Collect(context.Background(), &rm))
	for _, s := range rm.ScopeMetrics {
		if s.Scope.Name != "github.com/limpet-go/limpet/metrics/otel" {
			t.Errorf("scope %q", s.Scope.Name)
		}
		all = append(all, s.Metrics...)
	}
	return all
}

func (p page) check(t testing.TB, want page) {
	t.Helper()
	for key, v := range want {
		if got, there := p[key]; !there || got-v > 1e-9 || v-got > 1e-9 {
			t.Errorf("%s: %v (there: %v), want %v", key, got, there, v)
		}
	}
}

// of returns how many values have attribute, such as "limpet.client=a".
func (p page) of(attribute string) (n int) {
	for key := range p {
		if strings.Contains(key+" ", " "+attribute+" ") {
			n++
		}
	}
	return n
}

// dial returns a client of srv that is ready. It ends with the test.
func dial(t testing.TB, srv *limpettest.Server, o limpet.Options) *limpet.Client {
	t.Helper()
	o.HTTPClient = srv.HTTPClient()
	return start(t, srv.URL(), o)
}

func start(t testing.TB, url string, o limpet.Options) *limpet.Client {
	t.Helper()
	c, err := limpet.Dial(t.Context(), url, &o)
	noError(t, err)
	t.Cleanup(func() { end(c) })
	return c
}

func end(c *limpet.Client) {
	c.Close()
	<-c.Done()
}

func subscribe(t testing.TB, c *limpet.Client, topic string, o *limpet.SubscribeOptions) *limpet.Subscription {
	t.Helper()
	s, err := c.Subscribe(t.Context(), topic, o)
	noError(t, err)
	noError(t, s.WaitLive(t.Context()))
	return s
}

// publish makes the server publish n messages of five bytes.
func publish(t testing.TB, srv *limpettest.Server, topic string, n int) {
	t.Helper()
	for range n {
		_, err := srv.Server.Publish(context.Background(), topic, []byte("12345"), nil)
		noError(t, err)
	}
}

// take takes n messages. It acknowledges all but the last one.
func take(t testing.TB, s *limpet.Subscription, n int) {
	t.Helper()
	for m, err := range s.Messages(t.Context()) {
		noError(t, err)
		_ = m
		if n--; n == 0 {
			break
		}
	}
}

const secret = "s3cr3t"

// newOrders makes a server that refuses the topic refused, and a client of it whose first
// attempt the network refuses and whose second one the server. The round trip takes 40 ms.
func newOrders(t testing.TB, o limpet.Options) (*limpettest.Server, *limpet.Client) {
	t.Helper()
	srv := limpettest.NewServer(t, &limpettest.ServerOptions{
		Network: &limpettest.NetworkOptions{Up: 20 * time.Millisecond, Down: 20 * time.Millisecond},
		Server: &server.Options{Hooks: server.Hooks{
			Authenticate: func(_ context.Context, _ *http.Request, token string) (server.Principal, error) {
				if token != secret {
					return server.Principal{}, errors.New("refused")
				}
				return server.Principal{ID: "me"}, nil
			},
			OnPublish: func(_ context.Context, _ server.Principal, m server.Message) error {
				if m.Topic == "refused" {
					return errors.New("refused " + secret)
				}
				return nil
			},
		}},
	})
	srv.Inject(limpettest.Refuse(1))
	token := limpet.Secret("bad")
	o.Auth = func(_ context.Context, a limpet.AttemptInfo) (limpet.Credential, error) {
		if a.Refresh {
			token = secret
		}
		return limpet.Credential{Token: token}, nil
	}
	return srv, dial(t, srv, o)
}

// newFeed makes a client of a server that numbers its messages of the topic feed: one is
// sent twice, 2 and 3 are missing, the numbers begin again. Of two other messages one is for
// a topic without a subscription and one for what is not a topic.
func newFeed(t testing.TB) *limpet.Client {
	t.Helper()
	host := limpettest.NewHandler(t, sender("feed 1", "feed 2", "feed 2", "feed 5", "feed 9", "feed 3", "other 1", "\x01 1"), nil)
	label := func(f wire.Frame) (l raw.Label) {
		fmt.Sscan(string(f.Data), &l.Topic, &l.Number)
		l.Numbered = true
		return l
	}
	c := start(t, host.URL(), limpet.Options{
		Dialect: raw.New(raw.Options{Topic: label}), HTTPClient: host.HTTPClient(),
		Heartbeat: limpet.Heartbeat{Interval: time.Hour}, // the server answers no ping
	})
	take(t, subscribe(t, c, "feed", nil), 8) // 5 messages, 2 gaps, a reset
	return c
}

// sender serves connections that get texts and nothing else, without a WebSocket library.
func sender(texts ...string) http.Handler {
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
