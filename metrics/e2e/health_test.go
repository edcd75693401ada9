package e2e

import (
	"expvar"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
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

// readyz answers 503 until everything has been live once, while an outage has lasted longer than patience, and
// once the client has ended.
func readyz(client *limpet.Client, patience time.Duration) http.HandlerFunc {
	var begun atomic.Bool // everything has been live
	return func(w http.ResponseWriter, _ *http.Request) {
		phase, stats := client.State().Phase, client.Stats()
		if stats.Connections > 0 && stats.Live == stats.Subscriptions {
			begun.Store(true)
		}
		if phase == limpet.Ended || !begun.Load() || stats.Outage > patience {
			http.Error(w, "not live: "+phase.String(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	}
}

func publishExpvar(client *limpet.Client) {
	if expvar.Get("limpet") == nil { // Publish panics if the name is taken
		expvar.Publish("limpet", expvar.Func(func() any { return client.Stats() }))
	}
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
	const patience = 300 * time.Millisecond
	health, ready, patient := healthz(client), readyz(client, patience), readyz(client, time.Hour)
	becomes := func(what string, healthCode, readyCode int) {
		t.Helper()
		eventually(t, 20*time.Second, what, func() bool {
			return answer(health) == healthCode && answer(ready) == readyCode
		}, func() string { return client.State().Phase.String() })
	}
	s.subscribe(client, "a", nil, nil)
	becomes("live", 200, 200)
	if code := answer(patient); code != 200 {
		t.Errorf("/readyz has answered %d although everything is live", code)
	}
	link.Stop()
	for range 200 { // among them moments in which the client notices the loss
		if code := answer(patient); code != 200 {
			t.Fatalf("/readyz has answered %d in an outage shorter than patience", code)
		}
	}
	becomes("outage", 200, 503)
	link.Start()
	becomes("live again", 200, 200)
	client.Close()
	becomes("ended", 503, 503)

	never := s.link(s.server("never", &server.Options{}))
	never.Stop()
	client = s.client("never", never)
	health, ready = healthz(client), readyz(client, patience)
	becomes("never connected", 200, 503)

	publishExpvar(client)
	if text := expvar.Get("limpet").String(); !strings.Contains(text, `"Connections":0`) {
		t.Errorf("expvar shows %s", text)
	}
}
