package e2e

import (
	"expvar"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
)

// healthz answers 503 once the client has ended: only a new client, or a restart of the program, helps.
func healthz(client *limpet.Client) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if state := client.State(); state.Phase == limpet.Ended {
			http.Error(w, "the client has ended: "+string(limpet.ClassOf(state.Cause)), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	}
}

// readyz answers 503 before everything is live, and after an outage has lasted for patience.
func readyz(client *limpet.Client, patience time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		phase, stats := client.State().Phase, client.Stats()
		switch {
		case phase == limpet.Ended, stats.Connections == 0, stats.Outage > patience,
			stats.Outage == 0 && stats.Live < stats.Subscriptions:
			http.Error(w, "not live: "+phase.String(), http.StatusServiceUnavailable)
		default:
			io.WriteString(w, "ok\n")
		}
	}
}

func publishExpvar(client *limpet.Client) {
	expvar.Publish("limpet", expvar.Func(func() any { return client.Stats() }))
}

func TestHealthRecipes(t *testing.T) {
	s := newScene(t)
	link := s.link(s.server("health", nil))
	client := s.client("health", link)
	answer := func(h http.HandlerFunc) int {
		w := httptest.NewRecorder()
		h(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		return w.Code
	}
	becomes := func(what string, health, ready int) {
		t.Helper()
		patience := 300 * time.Millisecond
		eventually(t, 20*time.Second, what, func() bool {
			return answer(healthz(client)) == health && answer(readyz(client, patience)) == ready
		}, func() string { return client.State().Phase.String() })
	}
	s.subscribe(client, "a", nil, nil)
	becomes("live", 200, 200)
	link.Stop()
	if code := answer(readyz(client, time.Hour)); code != 200 {
		t.Errorf("/readyz has answered %d at the beginning of an outage", code)
	}
	becomes("outage", 200, 503)
	link.Start()
	becomes("live again", 200, 200)
	client.Close()
	becomes("ended", 503, 503)

	never := s.link(s.server("never", &server.Options{}))
	never.Stop()
	client = s.client("never", never)
	becomes("never connected", 200, 503)

	publishExpvar(client)
	if text := expvar.Get("limpet").String(); !strings.Contains(text, `"Connections":0`) {
		t.Errorf("expvar shows %s", text)
	}
}
