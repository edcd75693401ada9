package limpetotel_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/metrics/internal/scene"
	limpetotel "github.com/limpet-go/limpet/metrics/otel"
	"github.com/limpet-go/limpet/server"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// newReader returns registered Metrics and the reader that collects them.
func newReader(t testing.TB, o ...sdkmetric.ManualReaderOption) (*limpetotel.Metrics, *sdkmetric.ManualReader) {
	t.Helper()
	m := limpetotel.New()
	reader := sdkmetric.NewManualReader(append(o, sdkmetric.WithProducer(m))...)
	_, err := m.Register(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	assert.NoError(t, err)
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
	assert.NoError(t, reader.Collect(context.Background(), &rm))
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
	return srv, scene.Dial(t, srv, o)
}
