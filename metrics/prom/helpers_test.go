package prom_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/metrics/prom"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// newRegistry returns a registry that also checks what c collects against what it describes.
func newRegistry(t testing.TB, c prometheus.Collector) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	noError(t, r.Register(c))
	return r
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
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

// take takes n messages.
func take(t testing.TB, s *limpet.Subscription, n int) (taken []limpet.Message) {
	t.Helper()
	for m, err := range s.Messages(t.Context()) {
		noError(t, err)
		if taken = append(taken, m); len(taken) == n {
			break
		}
	}
	return taken
}

// page holds the value of every series by its name and labels, such as
// `limpet_disconnects_total class="tls" client="a"`. A histogram has its number of durations
// as _count, their sum as _sum and those of a bucket with the label le.
type page map[string]float64

// gather returns what Prometheus would get.
func gather(t testing.TB, g prometheus.Gatherer) page {
	t.Helper()
	families, err := g.Gather()
	noError(t, err)
	p := page{}
	for _, f := range families {
		for _, m := range f.Metric {
			labels := ""
			for _, l := range m.Label {
				labels += fmt.Sprintf(" %s=%q", l.GetName(), l.GetValue())
			}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				p[f.GetName()+labels] = m.Counter.GetValue()
			case dto.MetricType_GAUGE:
				p[f.GetName()+labels] = m.Gauge.GetValue()
			case dto.MetricType_HISTOGRAM:
				p[f.GetName()+"_count"+labels] = float64(m.Histogram.GetSampleCount())
				p[f.GetName()+"_sum"+labels] = m.Histogram.GetSampleSum()
				for _, b := range m.Histogram.Bucket {
					p[fmt.Sprintf("%s_bucket%s le=\"%v\"", f.GetName(), labels, b.GetUpperBound())] = float64(b.GetCumulativeCount())
				}
			default:
				t.Fatalf("%s is a %v", f.GetName(), f.GetType())
			}
		}
	}
	return p
}

// value returns the value of a series, which must be there.
func (p page) value(t testing.TB, series string) float64 {
	t.Helper()
	v, ok := p[series]
	if !ok {
		t.Fatalf("no %s", series)
	}
	return v
}

// of returns the series with all of the labels, such as `client="a"`.
func (p page) of(labels ...string) (series []string) {
	for _, s := range slices.Sorted(maps.Keys(p)) {
		fields := strings.Split(s, " ")[1:]
		if !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(fields, l) }) {
			series = append(series, s)
		}
	}
	return series
}

// name returns the name of the metric that a series belongs to.
func name(series string) string {
	first, _, _ := strings.Cut(series, " ")
	for _, suffix := range []string{"_count", "_sum", "_bucket"} {
		first = strings.TrimSuffix(first, suffix)
	}
	return first
}

var fqName = regexp.MustCompile(`fqName: "([^"]*)"`)

// described returns the names of all metrics that c has.
func described(t testing.TB, c *prom.Collector) (names []string) {
	t.Helper()
	ch := make(chan *prometheus.Desc, 1000)
	c.Describe(ch)
	close(ch)
	for d := range ch {
		m := fqName.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("no name in %v", d)
		}
		names = append(names, m[1])
	}
	if len(names) < 40 {
		t.Fatalf("%d metrics", len(names))
	}
	return names
}

// text returns what Prometheus would get, as text with the help of each metric.
func text(t testing.TB, g prometheus.Gatherer) string {
	t.Helper()
	families, err := g.Gather()
	noError(t, err)
	var out bytes.Buffer
	for _, f := range families {
		_, err := expfmt.MetricFamilyToText(&out, f)
		noError(t, err)
	}
	return out.String()
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
