package limpetotel_test

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"

	"github.com/limpet-go/limpet"
	limpetotel "github.com/limpet-go/limpet/metrics/otel"
	"github.com/limpet-go/limpet/server"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// A reader gets the counters and gauges from a meter provider, and the histograms from
// WithProducer. A program that exports uses sdkmetric.NewPeriodicReader with its exporter
// instead of the ManualReader.
func Example() {
	srv, err := server.New(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()
	web := httptest.NewServer(srv)
	defer web.Close()

	metrics := limpetotel.New()
	reader := sdkmetric.NewManualReader(sdkmetric.WithProducer(metrics))
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	if _, err := metrics.Register(provider); err != nil {
		log.Fatal(err)
	}

	ctx := context.Background()
	client, err := limpet.Dial(ctx, "ws"+web.URL[len("http"):], &limpet.Options{Histograms: true})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	if err := metrics.AddClient("orders", client); err != nil {
		log.Fatal(err)
	}
	if _, err := client.Send(ctx, "orders", []byte("one"), nil); err != nil {
		log.Fatal(err)
	}

	var collected metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &collected); err != nil {
		log.Fatal(err)
	}
	for _, scope := range collected.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				if m.Name == "limpet.published.messages" {
					fmt.Println(m.Name, data.DataPoints[0].Value, m.Unit)
				}
			case metricdata.Histogram[float64]:
				if m.Name == "limpet.publish.duration" {
					fmt.Println(m.Name, data.DataPoints[0].Count, "measured in", m.Unit)
				}
			}
		}
	}
	// Output:
	// limpet.published.messages 1 {message}
	// limpet.publish.duration 1 measured in s
}
