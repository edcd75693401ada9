package prom_test

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/metrics/prom"
	"github.com/limpet-go/limpet/server"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// A service with a client, and the page that Prometheus reads.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	backend, err := server.New(nil) // or any server of the client's dialect
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Close()
	web := httptest.NewServer(backend)
	defer web.Close()
	client, err := limpet.Dial(ctx, strings.Replace(web.URL, "http", "ws", 1), &limpet.Options{Histograms: true})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	collector := prom.NewCollector(&prom.Options{
		// One value for all topics below orders: few values, whatever the topics are.
		Subscription: func(topic string) string {
			first, _, _ := strings.Cut(topic, "/")
			return first
		},
	})
	if err := collector.AddClient("shop", client); err != nil {
		log.Fatal(err)
	}
	registry := prometheus.NewRegistry() // or prometheus.DefaultRegisterer
	registry.MustRegister(collector)
	page := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})

	for _, topic := range []string{"orders/eu", "orders/us"} {
		orders, err := client.Subscribe(ctx, topic, nil)
		if err != nil {
			log.Fatal(err)
		}
		if err := orders.WaitLive(ctx); err != nil {
			log.Fatal(err)
		}
	}
	if _, err := client.Send(ctx, "invoices", []byte("1"), nil); err != nil {
		log.Fatal(err)
	}

	got := httptest.NewRecorder()
	page.ServeHTTP(got, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for lines := bufio.NewScanner(got.Body); lines.Scan(); {
		switch line := lines.Text(); {
		case strings.HasSuffix(line, `state="ready"} 1`), strings.HasPrefix(line, "limpet_subscription_live{"),
			strings.HasPrefix(line, "limpet_publish_outcomes_total{") && strings.HasSuffix(line, " 1"):
			fmt.Println(line)
		}
	}
	// Output:
	// limpet_connection_state{client="shop",state="ready"} 1
	// limpet_publish_outcomes_total{client="shop",outcome="acked"} 1
	// limpet_subscription_live{client="shop",subscription="orders"} 2
}
