package limpetotel_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/metrics/internal/scene"
	limpetotel "github.com/limpet-go/limpet/metrics/otel"
	"github.com/limpet-go/limpet/server"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// The metrics of a client that has ended stay until it is removed. Its name is free then.
func TestRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, reader := newReader(t)
		srv, a := newOrders(t, limpet.Options{Histograms: true})
		b := scene.Dial(t, srv, limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			return limpet.Credential{Token: secret}, nil
		}})
		assert.NoError(t, m.AddClient("a", a))
		assert.NoError(t, m.AddClient("b", b))
		assert.NoError(t, m.AddServer("a", srv.Server))
		scene.Subscribe(t, a, "x", nil)
		scene.Publish(t, srv, "x", 3)
		time.Sleep(time.Second)
		before := collect(t, reader)
		scene.End(a)
		ended := collect(t, reader)
		if before.of("limpet.client=a") < 60 || ended.of("limpet.client=a") < before.of("limpet.client=a") {
			t.Errorf("%d values, %d after the end", before.of("limpet.client=a"), ended.of("limpet.client=a"))
		}
		ended.check(t, page{
			"limpet.connection.state limpet.client=a state=ended":        1,
			"limpet.connection.uptime limpet.client=a":                   0,
			"limpet.received.messages limpet.client=a":                   3,
			"limpet.dropped.messages limpet.client=a reason=closed":      3,
			"limpet.connection.duration.n limpet.client=a":               1,
			"limpet.connection.state limpet.client=b state=ready":        1,
			"limpet.server.connection.count limpet.server=a state=ready": 1,
		})

		m.RemoveClient("a")
		m.RemoveClient("a")
		m.RemoveClient("no such client")
		p := collect(t, reader)
		if p.of("limpet.client=a") != 0 || p.of("limpet.client=b") != ended.of("limpet.client=b") || p.of("limpet.server=a") == 0 {
			t.Errorf("client a is removed: %d values of it, %d of b, %d of the server", p.of("limpet.client=a"), p.of("limpet.client=b"), p.of("limpet.server=a"))
		}
		m.RemoveServer("a")
		m.RemoveServer("b")
		if p := collect(t, reader); p.of("limpet.server=a") != 0 || p.of("limpet.client=b") == 0 {
			t.Errorf("server a is removed: %d values of it", p.of("limpet.server=a"))
		}
		assert.NoError(t, m.AddClient("a", b))
		assert.NoError(t, m.AddServer("a", srv.Server))
	})
}

// Empty, long, invalid and taken names and nil are refused, and what is refused is not there.
func TestRefusedNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m limpetotel.Metrics
		srv := limpettest.NewServer(t, nil)
		c := scene.Dial(t, srv, limpet.Options{})
		assert.NoError(t, m.AddClient("taken", c))
		assert.NoError(t, m.AddServer("taken", srv.Server))
		assert.NoError(t, m.AddClient(strings.Repeat("é", 64), c))
		for _, tc := range []struct {
			name   string
			client *limpet.Client
			server *server.Server
			says   string
		}{
			{"", c, srv.Server, "name is empty"},
			{"taken", c, srv.Server, `name "taken" is taken`},
			{"a\xffb", c, srv.Server, "use UTF-8 of at most 128 bytes"},
			{strings.Repeat("x", 129), c, srv.Server, "use UTF-8 of at most 128 bytes"},
			{"missing", nil, nil, `"missing" is nil; pass what`},
		} {
			if err := m.AddClient(tc.name, tc.client); err == nil || !strings.HasPrefix(err.Error(), "limpetotel: AddClient: ") || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("client %q: %v", tc.name, err)
			}
			if err := m.AddServer(tc.name, tc.server); err == nil || !strings.HasPrefix(err.Error(), "limpetotel: AddServer: ") || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("server %q: %v", tc.name, err)
			}
		}
		reader := sdkmetric.NewManualReader()
		_, err := m.Register(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
		assert.NoError(t, err)
		states := 0
		for key := range collect(t, reader) {
			if strings.HasPrefix(key, "limpet.connection.state ") {
				states++
			}
		}
		if states != 2*5 {
			t.Errorf("%d states of two clients", states)
		}
	})
}

// refusing is a provider whose meter makes no counter, registers nothing, or does not even
// say so.
type refusing struct {
	noop.MeterProvider
	counters, silent bool
}

type refusingMeter struct {
	noop.Meter
	counters, silent bool
}

var errRefused = errors.New("refused by the test")

func (p refusing) Meter(string, ...metric.MeterOption) metric.Meter {
	return refusingMeter{counters: p.counters, silent: p.silent}
}

func (m refusingMeter) Int64ObservableCounter(string, ...metric.Int64ObservableCounterOption) (metric.Int64ObservableCounter, error) {
	if m.counters {
		return noop.Int64ObservableCounter{}, nil
	}
	return nil, errRefused
}

func (m refusingMeter) RegisterCallback(metric.Callback, ...metric.Observable) (metric.Registration, error) {
	if m.silent {
		return nil, nil
	}
	return nil, errRefused
}

// Metrics are registered once at a time, so that no value is counted twice.
func TestRegister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := limpetotel.New()
		srv := limpettest.NewServer(t, nil)
		assert.NoError(t, m.AddClient("a", scene.Dial(t, srv, limpet.Options{})))
		for _, counters := range []bool{false, true} {
			if unregister, err := m.Register(refusing{counters: counters}); !errors.Is(err, errRefused) || unregister != nil {
				t.Errorf("counters %v: %v", counters, err)
			}
		}
		if unregister, err := m.Register(refusing{counters: true, silent: true}); err == nil || !strings.Contains(err.Error(), "no registration") || unregister != nil {
			t.Errorf("no registration and no error: %v", err)
		}
		reader := sdkmetric.NewManualReader()
		provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
		unregister, err := m.Register(provider)
		assert.NoError(t, err)
		for _, p := range []metric.MeterProvider{provider, nil} {
			if _, err := m.Register(p); !errors.Is(err, limpetotel.ErrRegistered) {
				t.Errorf("the second time: %v", err)
			}
		}
		collect(t, reader).check(t, page{"limpet.connect.attempts limpet.client=a result=ok": 1})
		assert.NoError(t, unregister())
		assert.NoError(t, unregister())
		if p := collect(t, reader); len(p) != 0 {
			t.Errorf("unregistered: %v", p)
		}
		again, err := m.Register(provider)
		assert.NoError(t, err)
		assert.NoError(t, unregister()) // that of the first time ends the first time only
		collect(t, reader).check(t, page{"limpet.connect.attempts limpet.client=a result=ok": 1})
		assert.NoError(t, again())
	})
}

// setGlobal sets the global provider once, and returns its reader.
var setGlobal = sync.OnceValue(func() sdkmetric.Reader {
	reader := sdkmetric.NewManualReader()
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	return reader
})

// Without a provider it is the global one, also if it is set after Register.
func TestGlobalProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := limpetotel.New()
		unregister, err := m.Register(nil)
		assert.NoError(t, err)
		srv := limpettest.NewServer(t, nil)
		assert.NoError(t, m.AddClient("a", scene.Dial(t, srv, limpet.Options{})))
		reader := setGlobal()
		collect(t, reader).check(t, page{"limpet.connect.attempts limpet.client=a result=ok": 1})
		assert.NoError(t, unregister())
		if p := collect(t, reader); len(p) != 0 {
			t.Errorf("unregistered: %v", p)
		}
	})
}

// attributes are the keys of attributes besides the name and the number of their values.
var attributes = map[string]int{
	"state": 8, "transport": 2, "result": 1 + 4 + 22, "error.type": 22, "verdict": 2, "reason": 12, "kind": 2, "outcome": 7, "network.io.direction": 2,
}

var (
	metricName = regexp.MustCompile(`^limpet(\.[a-z]+(_[a-z]+)*)+$`)
	unit       = regexp.MustCompile(`^(s|By|\{[a-z]+\}(/s)?)$`)
	word       = regexp.MustCompile(`^[a-z0-9_]+$`)
)

// Names follow the conventions, and attributes have few values. What peers and users write is
// in none of them.
func TestNamesAndAttributes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, reader := newReader(t)
		srv, c := newOrders(t, limpet.Options{Histograms: true})
		assert.NoError(t, m.AddClient("n4me", c))
		assert.NoError(t, m.AddServer("n4me", srv.Server))
		for _, topic := range []string{"t0pic/" + secret, "refused"} {
			scene.Subscribe(t, c, topic, nil)
			c.Send(t.Context(), topic, []byte("p4yload"), nil)
		}
		srv.Restart()
		assert.NoError(t, c.WaitReady(t.Context()))
		time.Sleep(time.Minute)
		names, values := map[string]bool{}, map[string]map[string]bool{}
		for _, metrics := range metricsOf(t, reader) {
			if names[metrics.Name] || !metricName.MatchString(metrics.Name) || !unit.MatchString(metrics.Unit) || metrics.Description == "" || strings.HasSuffix(metrics.Name, "total") {
				t.Errorf("name %q, unit %q, description %q", metrics.Name, metrics.Unit, metrics.Description)
			}
			names[metrics.Name] = true
			for _, set := range sets(t, metrics.Data) {
				named := 0
				for _, a := range set.ToSlice() {
					key, value := string(a.Key), a.Value.AsString()
					if key == "limpet.client" || key == "limpet.server" {
						if key == "limpet.server" != strings.HasPrefix(metrics.Name, "limpet.server.") || value != "n4me" {
							t.Errorf("%s has %s=%s", metrics.Name, key, value)
						}
						named++
						continue
					}
					if attributes[key] == 0 || !word.MatchString(value) {
						t.Errorf("%s has %s=%q", metrics.Name, key, value)
					}
					if values[key] == nil {
						values[key] = map[string]bool{}
					}
					values[key][value] = true
				}
				if named != 1 || set.Len() > 2 {
					t.Errorf("%s has the attributes %v", metrics.Name, set.ToSlice())
				}
			}
		}
		for key, limit := range attributes {
			if n := len(values[key]); n == 0 || n > limit {
				t.Errorf("%s has %d values: %v", key, n, slices.Sorted(maps.Keys(values[key])))
			}
		}
		for a := range names { // a name is no prefix of another one
			for b := range names {
				if strings.HasPrefix(b, a+".") {
					t.Errorf("%s is a metric and the namespace of %s", a, b)
				}
			}
		}
		if len(names) < 45 || !names["limpet.heartbeat.rtt"] {
			t.Errorf("%d metrics: %v", len(names), slices.Sorted(maps.Keys(names)))
		}
		text := fmt.Sprintf("%+v", metricsOf(t, reader))
		for _, s := range []string{secret, "t0pic", "p4yload", srv.Addr()} {
			if strings.Contains(text, s) {
				t.Errorf("%q is in the metrics", s)
			}
		}
		if !strings.Contains(text, "n4me") {
			t.Error("the text shows no values")
		}
	})
}

func sets(t testing.TB, data metricdata.Aggregation) (all []attribute.Set) {
	switch data := data.(type) {
	case metricdata.Sum[int64]:
		for _, d := range data.DataPoints {
			all = append(all, d.Attributes)
		}
	case metricdata.Sum[float64]:
		for _, d := range data.DataPoints {
			all = append(all, d.Attributes)
		}
	case metricdata.Gauge[int64]:
		for _, d := range data.DataPoints {
			all = append(all, d.Attributes)
		}
	case metricdata.Gauge[float64]:
		for _, d := range data.DataPoints {
			all = append(all, d.Attributes)
		}
	case metricdata.Histogram[float64]:
		for _, d := range data.DataPoints {
			all = append(all, d.Attributes)
		}
	default:
		t.Fatalf("%T", data)
	}
	return all
}
