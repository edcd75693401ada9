// Metrics is a service that consumes a feed and has the three pages that its operators need:
// /metrics for Prometheus, /healthz and /readyz for an orchestrator. Run it with -demo: a
// server in the program publishes prices and breaks the connection now and then.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/metrics/prom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func main() {
	url := flag.String("url", "wss://example.com/feed", "the server")
	topic := flag.String("topic", "prices/*", "what to subscribe to")
	addr := flag.String("addr", "127.0.0.1:0", "where to serve the pages; port 0 is a free one")
	patience := flag.Duration("patience", 30*time.Second, "in an outage of this time, the service is not ready")
	silence := flag.Duration("silence", 30*time.Second, "without a message for this time, the service is not ready")
	flag.Parse()

	client, err := limpet.New(*url, &limpet.Options{Histograms: true, Logger: slog.Default()})
	check(err)
	defer client.Close()
	feed, err := client.Subscribe(context.Background(), *topic, nil)
	check(err)
	go consume(feed)

	collector := prom.NewCollector(nil)
	check(collector.AddClient("feed", client))
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector)
	service := http.Server{Handler: pages(client, feed, registry, *patience, *silence), ReadHeaderTimeout: 5 * time.Second}
	listener, err := net.Listen("tcp", *addr)
	check(err)
	fmt.Println("http://" + listener.Addr().String())
	go service.Serve(listener)

	signals, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	<-signals.Done()
	stop() // a second signal ends the process at once
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := client.Shutdown(ctx); err != nil { // /readyz answers 503 from now on
		log.Print(err)
	}
	service.Shutdown(ctx)
}

// consume is where the work is done.
func consume(feed *limpet.Subscription) {
	for m, err := range feed.Messages(context.Background()) {
		switch {
		case err != nil:
			log.Print(err) // the feed or the client has ended: /healthz answers 503
		case m.Kind != limpet.Data:
			log.Print("messages are missing: ", m.Kind)
		}
	}
}

func pages(client *limpet.Client, feed *limpet.Subscription, registry *prometheus.Registry, patience, silence time.Duration) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", page(func() string { return unhealthy(client, feed) }))
	mux.HandleFunc("/readyz", page(func() string { return notReady(client, feed, patience, silence) }))
	return mux
}

// page answers 200 if there is no reason against it, otherwise 503 with the reason.
func page(reason func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if why := reason(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

// unhealthy says why only a restart of the service can help: the client has ended, or the
// server has refused the feed for good. A client that tries to connect is healthy, or each
// outage of the server would restart the service.
func unhealthy(client *limpet.Client, feed *limpet.Subscription) string {
	if state := client.State(); state.Phase == limpet.Ended {
		return "the client has ended: " + string(limpet.ClassOf(state.Cause))
	}
	if err := feed.Err(); err != nil {
		return "the feed has ended: " + string(limpet.ClassOf(err))
	}
	return ""
}

// notReady says why the service has no current data. A short outage is no reason: all
// instances lose the same server at the same time.
func notReady(client *limpet.Client, feed *limpet.Subscription, patience, silence time.Duration) string {
	state, stats := client.State(), client.Stats()
	switch {
	case unhealthy(client, feed) != "":
		return unhealthy(client, feed)
	case state.Draining:
		return "shutting down"
	case stats.Connections == 0 && state.Cause == nil:
		return "never connected"
	case stats.Connections == 0:
		return "never connected, last failure: " + string(limpet.ClassOf(state.Cause))
	case stats.Outage > patience:
		return fmt.Sprintf("an outage of %v, last failure: %s", stats.Outage.Round(time.Millisecond), limpet.ClassOf(state.Cause))
	case state.Phase == limpet.Ready && stats.Outage == 0 && stats.Live < stats.Subscriptions:
		return fmt.Sprintf("%d of %d subscriptions are live", stats.Live, stats.Subscriptions)
	case stats.Silence >= silence:
		return fmt.Sprintf("no message for %v, the limit is %v", stats.Silence.Round(time.Millisecond), silence)
	}
	return ""
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
