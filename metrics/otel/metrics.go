// Package limpetotel shows clients and servers of limpet to OpenTelemetry. It is not called
// otel because its users import go.opentelemetry.io/otel beside it:
//
//	import limpetotel "github.com/limpet-go/limpet/metrics/otel"
//
//	metrics := limpetotel.New()
//	reader := sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithProducer(metrics))
//	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
//	unregister, err := metrics.Register(provider)
//	...
//	err = metrics.AddClient("orders", client)
//
// Register makes the counters and gauges. The client measures the durations itself, in fixed
// buckets, and OpenTelemetry has no histogram that reads such buckets. So the histograms come
// from Metrics as a Producer of the reader: without WithProducer they are missing, and so are
// those of a client without limpet.Options.Histograms.
//
// Everything is read when a reader collects: it costs a client nothing in between.
//
// # Names
//
// Names begin with limpet. and follow the semantic conventions; units are those of UCUM. The
// attribute limpet.client or limpet.server is the name that you add a client or a server
// under. The other attributes have a fixed set of values: state, transport, result, verdict, reason,
// kind, outcome, error.type and network.io.direction. No topic, URL or text of a peer becomes
// an attribute. All but the last two are also labels of metrics/prom.
//
// # Limits
//
// The SDK keeps at most 2,000 attribute sets of an instrument unless WithCardinalityLimit says
// otherwise. limpet.connect.attempts has at least 16 for each client, so raise the limit for
// more than 120 clients. The histograms do not count towards it; they are cumulative, whatever
// temporality the reader has.
package limpetotel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

// scope is the name of the instrumentation scope.
const scope = "github.com/limpet-go/limpet/metrics/otel"

const maxName = 128 // bytes

// ErrRegistered means that the Metrics are registered: a second callback would double every
// value.
var ErrRegistered = errors.New("limpetotel: Register: already registered; call the function that Register returned, or use another Metrics")

// Metrics are the metrics of clients and servers. It implements metric.Producer of the SDK. The
// zero value is ready for use. It is safe for concurrent use.
type Metrics struct {
	mu         sync.Mutex // a leaf
	registered bool
	clients    map[string]*client
	servers    map[string]*server.Server
}

var _ sdkmetric.Producer = (*Metrics)(nil)

type client struct {
	*limpet.Client
	name  string
	added time.Time
}

// New returns Metrics without clients and servers. Register and sdkmetric.WithProducer make
// readers collect them.
func New() *Metrics {
	return &Metrics{}
}

// Register makes the counters and gauges with a meter of provider, which may be nil: it is then
// the global one, also if that is set later. Clients and servers can be added before and after.
// unregister ends it, for example in a test. It waits for a collection that runs, so do not call
// it from a callback of one. It may be called more than once.
//
// The error is ErrRegistered, or that of the provider.
func (m *Metrics) Register(provider metric.MeterProvider) (unregister func() error, err error) {
	if !m.setRegistered() {
		return nil, ErrRegistered
	}
	if provider == nil {
		provider = otel.GetMeterProvider()
	}
	meter := provider.Meter(scope)
	instruments, all, err := newInstruments(meter)
	var registration metric.Registration
	if err == nil {
		registration, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
			m.observe(o, instruments)
			return nil
		}, all...)
		if err == nil && registration == nil {
			err = errors.New("it returned no registration, so the callback could not be removed")
		}
	}
	if err != nil {
		if registration != nil {
			err = errors.Join(err, registration.Unregister())
		}
		m.unsetRegistered()
		return nil, fmt.Errorf("limpetotel: Register: the meter provider refused: %w", err)
	}
	return sync.OnceValue(func() error {
		err := registration.Unregister()
		m.unsetRegistered()
		return err
	}), nil
}

// setRegistered reports whether Metrics were not registered before.
func (m *Metrics) setRegistered() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.registered
	m.registered = true
	return !before
}

func (m *Metrics) unsetRegistered() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.registered = false
}

// AddClient adds a client, whose metrics get the attribute limpet.client with the value name:
// UTF-8 of 1 to 128 bytes that no other client here has. The error says that name is not such
// a value or is taken, or that c is nil. The metrics of a client that has ended stay until
// RemoveClient. The counters of a client begin at 0, also under a name that another one had
// before: where a reader has delta temporality, let it collect between RemoveClient and
// AddClient, or use another name, or it gets a negative value.
func (m *Metrics) AddClient(name string, c *limpet.Client) error {
	if c == nil {
		return fmt.Errorf("limpetotel: AddClient: client %.64q is nil; pass what limpet.New returned", name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := checkName("AddClient", name, m.clients[name] != nil); err != nil {
		return err
	}
	if m.clients == nil {
		m.clients = map[string]*client{}
	}
	m.clients[name] = &client{Client: c, name: name, added: time.Now()}
	return nil
}

// RemoveClient removes a client: the next collection is without its metrics. A name that is
// not there is ignored.
func (m *Metrics) RemoveClient(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.clients, name)
}

// AddServer adds a server, whose metrics get the attribute limpet.server with the value name.
// The rules for name, the errors and the counters are those of AddClient; servers and clients
// may have the same names.
func (m *Metrics) AddServer(name string, s *server.Server) error {
	if s == nil {
		return fmt.Errorf("limpetotel: AddServer: server %.64q is nil; pass what server.New returned", name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := checkName("AddServer", name, m.servers[name] != nil); err != nil {
		return err
	}
	if m.servers == nil {
		m.servers = map[string]*server.Server{}
	}
	m.servers[name] = s
	return nil
}

// RemoveServer removes a server: the next collection is without its metrics. A name that is
// not there is ignored.
func (m *Metrics) RemoveServer(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.servers, name)
}

func checkName(op, name string, taken bool) error {
	switch {
	case name == "":
		return fmt.Errorf("limpetotel: %s: name is empty; pass the value of the attribute that tells its metrics apart", op)
	case len(name) > maxName || !utf8.ValidString(name):
		return fmt.Errorf("limpetotel: %s: name %.64q is not an attribute value; use UTF-8 of at most %d bytes", op, name, maxName)
	case taken:
		return fmt.Errorf("limpetotel: %s: name %q is taken; give each its own", op, name)
	}
	return nil
}

// all returns the clients, by name, and a copy of the servers.
func (m *Metrics) all() ([]*client, map[string]*server.Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clients := make([]*client, 0, len(m.clients))
	for _, name := range slices.Sorted(maps.Keys(m.clients)) {
		clients = append(clients, m.clients[name])
	}
	return clients, maps.Clone(m.servers)
}

func (c *client) attribute() attribute.KeyValue { return attribute.String("limpet.client", c.name) }
