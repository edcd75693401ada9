package node

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/limpet-go/limpet/gateway/internal/config"
)

// serveClients prepares the server for clients.
func (n *Node) serveClients() error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", n.healthz)
	mux.HandleFunc("GET /livez", n.livez)
	mux.Handle("/", n.admitted.Wrap(n.server))
	n.web = n.httpServer(mux)
	if n.cfg.TLSCert == "" {
		return nil
	}
	n.certificate = &certificate{cert: n.cfg.TLSCert, key: n.cfg.TLSKey}
	if _, err := n.certificate.reload(); err != nil {
		return &config.Error{Key: "tls-cert", Reason: err.Error()}
	}
	n.web.TLSConfig = &tls.Config{GetCertificate: n.certificate.get, MinVersion: tls.VersionTLS12}
	return nil
}

func (n *Node) httpServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout, ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug)}
}

// adminHandler serves what is not for clients.
func (n *Node) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", n.healthz)
	mux.HandleFunc("GET /livez", n.livez)
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	if n.token != nil {
		mux.HandleFunc("POST /publish", n.publishBatch)
		mux.HandleFunc("POST /publish/{topic...}", n.publishOne)
	}
	return mux
}

// certificate is read again when its files change. One that cannot be used does not replace the one before.
type certificate struct {
	cert, key string
	current   atomic.Pointer[tls.Certificate]
	changed   [2]time.Time // of the files, when they were read last; for one goroutine
}

// get is for tls.Config.GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

// reload reads the files if they have changed, and reports whether it has.
func (c *certificate) reload() (bool, error) {
	changed := [2]time.Time{modified(c.cert), modified(c.key)}
	if c.current.Load() != nil && changed == c.changed {
		return false, nil
	}
	c.changed = changed
	loaded, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return false, err
	}
	c.current.Store(&loaded)
	return true, nil
}

func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// gauges are the metrics of the gateway itself.
type gauges struct{ node *Node }

var (
	healthyDesc = prometheus.NewDesc("limpet_gateway_healthy", "1 if the gateway takes new connections, else 0.", nil, nil)
	busyDesc    = prometheus.NewDesc("limpet_gateway_engine_over_budget", "1 if new connections are refused because the engine is over engine-budget, else 0.", nil, nil)
	refusedDesc = prometheus.NewDesc("limpet_gateway_refused_total", "Connections that were refused, by the limit: rate, engine, address or client.", []string{"limit"}, nil)
)

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- healthyDesc
	ch <- busyDesc
	ch <- refusedDesc
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	healthy := 0.0
	if g.node.health.err() == nil {
		healthy = 1
	}
	ch <- prometheus.MustNewConstMetric(healthyDesc, prometheus.GaugeValue, healthy)
	busy := 0.0
	if g.node.admitted.Busy() {
		busy = 1
	}
	ch <- prometheus.MustNewConstMetric(busyDesc, prometheus.GaugeValue, busy)
	refused := g.node.admitted.Refused()
	for limit, n := range map[string]uint64{"rate": refused.Rate, "engine": refused.Engine, "address": refused.Address, "client": refused.Client} {
		ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(n), limit)
	}
}
