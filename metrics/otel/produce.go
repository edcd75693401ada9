package limpetotel

import (
	"context"
	"slices"
	"time"

	"github.com/limpet-go/limpet"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

var histograms = []struct {
	name, help string
	of         func(*limpet.Histograms) *limpet.Histogram
}{
	{"limpet.delivery.lag", "From the read of a message to its hand-over to a consumer.", func(h *limpet.Histograms) *limpet.Histogram { return &h.Delivery }},
	{"limpet.source.lag", "From the server's time in a message to its hand-over to a consumer.", func(h *limpet.Histograms) *limpet.Histogram { return &h.Source }},
	{"limpet.publish.duration", "From the admission of a message to its outcome.", func(h *limpet.Histograms) *limpet.Histogram { return &h.Publish }},
	{"limpet.heartbeat.rtt", "From a ping to its pong.", func(h *limpet.Histograms) *limpet.Histogram { return &h.Ping }},
	{"limpet.connection.duration", "How long connections were ready.", func(h *limpet.Histograms) *limpet.Histogram { return &h.Connection }},
	{"limpet.outage.duration", "How long outages lasted.", func(h *limpet.Histograms) *limpet.Histogram { return &h.Outage }},
}

// Produce implements the Producer of the SDK: it returns the histograms of the clients with
// Options.Histograms, cumulative. The error is that of ctx.
//
// A reader may write to what it gets in the next collection, so nothing of it is shared.
func (m *Metrics) Produce(ctx context.Context) ([]metricdata.ScopeMetrics, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	clients, _ := m.all()
	points := make([][]metricdata.HistogramDataPoint[float64], len(histograms))
	for _, c := range clients {
		measured := c.Histograms()
		for i := range histograms {
			if h := histograms[i].of(&measured); measured.Measured {
				points[i] = append(points[i], c.point(h))
			}
		}
	}
	var metrics []metricdata.Metrics
	for i, h := range histograms {
		if len(points[i]) > 0 {
			metrics = append(metrics, metricdata.Metrics{Name: h.name, Description: h.help, Unit: "s",
				Data: metricdata.Histogram[float64]{DataPoints: points[i], Temporality: metricdata.CumulativeTemporality}})
		}
	}
	if metrics == nil {
		return nil, nil
	}
	return []metricdata.ScopeMetrics{{Scope: instrumentation.Scope{Name: scope}, Metrics: metrics}}, nil
}

func (c *client) point(h *limpet.Histogram) metricdata.HistogramDataPoint[float64] {
	var bounds []float64
	for _, b := range limpet.HistogramBounds() {
		bounds = append(bounds, b.Seconds())
	}
	return metricdata.HistogramDataPoint[float64]{
		Attributes: attribute.NewSet(c.attribute()), StartTime: c.added, Time: time.Now(),
		Count: h.Count, Sum: h.SumSeconds, Bounds: bounds, BucketCounts: slices.Clone(h.Buckets[:]),
	}
}
