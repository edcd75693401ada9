// Package prom shows clients and servers of limpet to Prometheus.
//
//	collector := prom.NewCollector(nil)
//	if err := collector.AddClient("orders", client); err != nil {
//		log.Fatal(err)
//	}
//	prometheus.MustRegister(collector)
//
// Everything is read when Prometheus asks: the collector costs a client nothing in between.
// Set limpet.Options.Histograms for the metrics that are histograms; without it they are
// left out. docs/operating.md lists the metrics and says what to watch.
//
// The number of series of a client is fixed and independent of its topics, unless
// Options.Subscription is set. No label and no help text holds a URL, a header, a
// credential or the text of an error.
package prom

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
	"github.com/prometheus/client_golang/prometheus"
)

// Options are the options of a Collector.
type Options struct {
	// Namespace is the first word of every name. Defaults to "limpet". If it is not UTF-8,
	// the registry refuses the Collector.
	Namespace string

	// Subscription returns the value of the label subscription for a topic. Topics with the
	// same value are added up; a topic with the value "" has no series. Of a value, the first
	// 128 bytes are used, without what is not UTF-8. Defaults to none: each value costs six
	// series. Subscription is called for each open subscription whenever Prometheus asks,
	// concurrently if several requests overlap. If it panics or calls runtime.Goexit, that
	// topic is left out.
	Subscription func(topic string) string

	// MaxSubscriptions is how many values of the label subscription one client has, at most,
	// from AddClient on: a value counts even if its subscriptions have closed. Topics with
	// further values are added up as "other". Defaults to 100, also if it is negative.
	MaxSubscriptions int
}

// Collector is a prometheus.Collector for clients and servers. It is safe for concurrent
// use.
type Collector struct {
	options Options
	names   names

	mu      sync.Mutex
	clients map[string]*client
	servers map[string]*server.Server
}

// client is a client with the values of the label subscription that it has had.
type client struct {
	*limpet.Client
	mu            sync.Mutex
	subscriptions map[string]bool
}

// NewCollector returns a Collector without clients and servers. o is copied and may be nil. One
// Collector has room for all clients: a registry refuses a second one with the same namespace.
func NewCollector(o *Options) *Collector {
	c := &Collector{clients: map[string]*client{}, servers: map[string]*server.Server{}}
	if o != nil {
		c.options = *o
	}
	if c.options.Namespace == "" {
		c.options.Namespace = "limpet"
	}
	if c.options.MaxSubscriptions <= 0 {
		c.options.MaxSubscriptions = 100
	}
	c.names = newNames(c.options.Namespace)
	return c
}

// AddClient adds a client, whose series get the label client with the value name: UTF-8 of
// at most 128 bytes, not empty. The error says that name is not such a text or is taken, or
// that cl is nil. The series of a client that has ended stay until RemoveClient.
func (c *Collector) AddClient(name string, cl *limpet.Client) error {
	if cl == nil {
		return fmt.Errorf("prom: AddClient: client %.64q is nil; pass what limpet.New returned", name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := checkName("AddClient", name, c.clients[name] != nil); err != nil {
		return err
	}
	c.clients[name] = &client{Client: cl, subscriptions: map[string]bool{}}
	return nil
}

// RemoveClient removes a client and its series. A name that is not there is ignored.
func (c *Collector) RemoveClient(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.clients, name)
}

// AddServer adds a server, whose series get the label server with the value name. The rules
// for name and the errors are those of AddClient; servers and clients may have the same
// names.
func (c *Collector) AddServer(name string, s *server.Server) error {
	if s == nil {
		return fmt.Errorf("prom: AddServer: server %.64q is nil; pass what server.New returned", name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := checkName("AddServer", name, c.servers[name] != nil); err != nil {
		return err
	}
	c.servers[name] = s
	return nil
}

// RemoveServer removes a server and its series. A name that is not there is ignored.
func (c *Collector) RemoveServer(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.servers, name)
}

const maxLabel = 128 // bytes

func checkName(op, name string, taken bool) error {
	switch {
	case name == "":
		return fmt.Errorf("prom: %s: name is empty; pass the value of the label that tells its series apart", op)
	case label(name) != name:
		return fmt.Errorf("prom: %s: name %.64q is not a label value; use UTF-8 of at most %d bytes", op, name, maxLabel)
	case taken:
		return fmt.Errorf("prom: %s: name %q is taken; give each its own", op, name)
	}
	return nil
}

// label makes a label of a text from outside.
func label(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxLabel)], "")
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.names.all {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	clients, servers := map[string]*client{}, map[string]*server.Server{}
	for name, cl := range c.clients {
		clients[name] = cl
	}
	for name, s := range c.servers {
		servers[name] = s
	}
	c.mu.Unlock()
	for name, cl := range clients {
		c.collectClient(ch, name, cl)
	}
	for name, s := range servers {
		c.collectServer(ch, name, s)
	}
}

var phases = []limpet.Phase{limpet.Connecting, limpet.Handshaking, limpet.Ready, limpet.Waiting, limpet.Ended}

// classes are the classes that a lost connection or a failed attempt has. They have
// a series from the beginning, so that the first failure shows as an increase.
var classes = []limpet.ErrorClass{
	limpet.ClassDNS, limpet.ClassDial, limpet.ClassTLS, limpet.ClassLocal, limpet.ClassTimeout, limpet.ClassHTTP, limpet.ClassProxy,
	limpet.ClassNotWebSocket, limpet.ClassAuth, limpet.ClassProtocol, limpet.ClassOverload, limpet.ClassSession, limpet.ClassNetwork,
	limpet.ClassUser, limpet.ClassOther,
}

var transports = []limpet.Transport{limpet.TransportWebSocket, limpet.TransportHTTP}

// phase writes the states of a client that exclude each other.
func (w writer) phase(n *names, now limpet.Phase, over limpet.Transport) {
	for _, p := range phases {
		w.gauge(n.state, one(p == now), p.String())
	}
	for _, t := range transports {
		w.gauge(n.transport, one(t == over), string(t))
	}
}

func (c *Collector) collectClient(ch chan<- prometheus.Metric, name string, cl *client) {
	n, st, state := &c.names, cl.Stats(), cl.State()
	w := writer{ch, []string{name}}
	w.phase(n, state.Phase, st.Transport)
	w.counter(n.attempts, float64(st.Connections), "ok")
	w.classes(n.attempts, st.FailedAttempts)
	w.classes(n.disconnects, st.Lost)
	w.counter(n.resumes, float64(st.Resumes), "resumed")
	w.counter(n.resumes, float64(st.Connections-st.Resumes), "fresh")
	w.gauge(n.connected, sinceSeconds(st.ConnectedSince))
	nextAttempt := 0.0
	if state.Phase == limpet.Waiting {
		nextAttempt = max(0, time.Until(state.NextAttempt).Seconds())
	}
	w.gauge(n.nextAttempt, nextAttempt)
	w.counter(n.outages, float64(st.Outages))
	w.counter(n.unavailable, st.OutageTime.Seconds())
	w.gauge(n.outage, st.Outage.Seconds())
	w.gauge(n.pingRTT, st.PingRTT.Seconds())
	w.gauge(n.pace, st.SendPace)
	w.gauge(n.silence, st.Silence.Seconds())

	w.messages(n, &st.Messages)
	w.gauge(n.memory, float64(st.Memory))
	w.gauge(n.memoryLimit, float64(st.MemoryLimit))
	w.gauge(n.subscriptions, float64(st.Subscriptions))
	w.gauge(n.live, float64(st.Live))
	for phase, count := range st.SubPhases.All() {
		w.gauge(n.subStates, float64(count), phase.String())
	}
	w.counter(n.failed, float64(st.FailedSubscriptions))
	w.counter(n.malformed, float64(st.Malformed))
	w.counter(n.unrequested, float64(st.Unrequested))
	w.counter(n.bytesRead, float64(st.BytesRead))
	w.counter(n.bytesWritten, float64(st.BytesWritten))

	w.counter(n.published, float64(st.Published))
	w.counter(n.resent, float64(st.Resent))
	for _, o := range []struct {
		name  string
		count uint64
	}{{"acked", st.Acked}, {"written", st.Written}, {"rejected", st.Rejected}, {"expired", st.Expired}, {"unsent", st.Unsent}, {"unknown", st.Unknown}, {"stored", st.Stored}} {
		w.counter(n.outcomes, float64(o.count), o.name)
	}
	w.gauge(n.window, float64(st.Window))
	w.gauge(n.windowBytes, float64(st.WindowBytes))
	w.gauge(n.oldestPending, st.OldestPending.Seconds())

	if h := cl.Histograms(); h.Measured {
		w.histogram(n.delivery, h.Delivery)
		w.histogram(n.source, h.Source)
		w.histogram(n.publish, h.Publish)
		w.histogram(n.ping, h.Ping)
		w.histogram(n.connection, h.Connection)
		w.histogram(n.outageDuration, h.Outage)
	}

	if c.options.Subscription != nil {
		c.collectSubscriptions(ch, name, cl)
	}
}

// collectSubscriptions adds up the subscriptions of each label.
func (c *Collector) collectSubscriptions(ch chan<- prometheus.Metric, name string, cl *client) {
	type sum struct {
		stats       limpet.SubStats
		total, live int
	}
	sums := map[string]*sum{}
	open := cl.Subscriptions()
	for i, value := range c.subscriptionLabels(open) {
		if value == "" {
			continue
		}
		s := open[i]
		value = cl.bounded(value, c.options.MaxSubscriptions)
		if sums[value] == nil {
			sums[value] = &sum{}
		}
		one := s.Stats()
		addStats(&sums[value].stats, &one)
		sums[value].total++
		if s.State().Phase == limpet.SubLive {
			sums[value].live++
		}
	}
	n := &c.names
	for value, s := range sums {
		w := writer{ch, []string{name, value}}
		w.gauge(n.subOpen, float64(s.total))
		w.gauge(n.subLive, float64(s.live))
		w.gauge(n.subWaiting, float64(s.stats.Waiting))
		w.gauge(n.subReceived, float64(s.stats.Received))
		w.gauge(n.subDropped, float64(s.stats.Dropped))
		w.gauge(n.subMissed, float64(s.stats.Missed))
	}
}

// subscriptionLabels returns the label of each subscription. If the user's function ends its
// goroutine, that topic is left out: the registry would wait for ever.
func (c *Collector) subscriptionLabels(open []*limpet.Subscription) []string {
	values := make([]string, len(open))
	for i := 0; i < len(open); i++ {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for ; i < len(open); i++ {
				values[i] = c.subscription(open[i].Topic())
			}
		}()
		<-ended
	}
	return values
}

// subscription returns the label of topic; "" if the user's function panics.
func (c *Collector) subscription(topic string) (value string) {
	defer func() {
		if recover() != nil {
			value = ""
		}
	}()
	return label(c.options.Subscription(topic))
}

// bounded returns value, or "other" if the client has had enough values.
func (cl *client) bounded(value string, limit int) string {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if !cl.subscriptions[value] {
		if len(cl.subscriptions) >= limit {
			return "other"
		}
		cl.subscriptions[value] = true
	}
	return value
}

func addStats(sum, s *limpet.SubStats) {
	sum.Waiting += s.Waiting
	sum.Received += s.Received
	sum.Dropped += s.Dropped
	sum.Missed += s.Missed
}

func (c *Collector) collectServer(ch chan<- prometheus.Metric, name string, s *server.Server) {
	n, st := &c.names, s.Stats()
	w := writer{ch, []string{name}}
	w.gauge(n.serverConnections, float64(st.Pending), "handshaking")
	w.gauge(n.serverConnections, float64(st.Conns-st.Pending), "ready")
	w.gauge(n.serverSessions, float64(st.Sessions))
	w.gauge(n.serverSubscriptions, float64(st.Subscriptions))
	w.gauge(n.serverIDs, float64(st.IDs))
	w.counter(n.serverRefused, float64(st.RefusedBusy), "busy")
	w.counter(n.serverRefused, float64(st.RefusedOrigin), "origin")
	w.counter(n.serverRefused, float64(st.RefusedRequest), "request")
	w.counter(n.serverRefused, float64(st.NoHello), "no_hello")
	w.counter(n.serverRefused, float64(st.Unauthenticated), "unauthenticated")
	w.counter(n.serverClosed, float64(st.Evicted), "superseded")
	w.counter(n.serverClosed, float64(st.Dead), "dead")
	w.counter(n.serverClosed, float64(st.Slow), "slow")
	w.counter(n.serverUplink, float64(st.Accepted), "accepted")
	w.counter(n.serverUplink, float64(st.Duplicates), "duplicate")
	w.counter(n.serverUplink, float64(st.Rejected), "rejected")
	w.counter(n.serverUplink, float64(st.UplinkGaps), "given_up")
	w.counter(n.serverDelivered, float64(st.Delivered))
	w.counter(n.serverLosses, float64(st.Gaps), "gap")
	w.counter(n.serverLosses, float64(st.Resets), "reset")
	w.gauge(n.serverFirst, float64(st.First))
	w.gauge(n.serverHead, float64(st.Head))
}

// writer writes the metrics of one client or server.
type writer struct {
	ch     chan<- prometheus.Metric
	labels []string // the first
}

func (w writer) gauge(d *prometheus.Desc, v float64, labels ...string) {
	w.write(d)(prometheus.NewConstMetric(d, prometheus.GaugeValue, v, slices.Concat(w.labels, labels)...))
}

func (w writer) counter(d *prometheus.Desc, v float64, labels ...string) {
	w.write(d)(prometheus.NewConstMetric(d, prometheus.CounterValue, v, slices.Concat(w.labels, labels)...))
}

// write returns what writes a metric of d. An error, such as that of a namespace that the
// registry refused, becomes an error of the request.
func (w writer) write(d *prometheus.Desc) func(prometheus.Metric, error) {
	return func(m prometheus.Metric, err error) {
		if err != nil {
			m = prometheus.NewInvalidMetric(d, err)
		}
		w.ch <- m
	}
}

func (w writer) classes(d *prometheus.Desc, counts limpet.ClassCounts) {
	for class, n := range counts.All() {
		if n > 0 || slices.Contains(classes, class) {
			w.counter(d, float64(n), string(class))
		}
	}
}

func (w writer) histogram(d *prometheus.Desc, h limpet.Histogram) {
	buckets, below := map[float64]uint64{}, uint64(0)
	for i, bound := range limpet.HistogramBounds() {
		below += h.Buckets[i]
		buckets[bound.Seconds()] = below
	}
	w.write(d)(prometheus.NewConstHistogram(d, h.Count, h.SumSeconds, buckets, w.labels...))
}

func (w writer) messages(n *names, s *limpet.SubStats) {
	w.counter(n.received, float64(s.Received))
	w.counter(n.delivered, float64(s.Delivered))
	w.counter(n.dropped, float64(s.Dropped-s.DroppedByClose), "overflow")
	w.counter(n.dropped, float64(s.DroppedByClose), "closed")
	w.counter(n.conflated, float64(s.Conflated))
	w.gauge(n.waiting, float64(s.Waiting))
	w.gauge(n.waitingBytes, float64(s.WaitingBytes))
	w.gauge(n.unacked, float64(s.Unacked))
	w.counter(n.discarded, float64(s.Duplicates), "duplicate")
	w.counter(n.discarded, float64(s.Earlier), "earlier")
	w.counter(n.losses, float64(s.Gaps), "gap")
	w.counter(n.losses, float64(s.Resets), "reset")
	w.counter(n.missed, float64(s.Missed))
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func sinceSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return time.Since(t).Seconds()
}
