package e2e

import (
	"expvar"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
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
// from Shutdown or the end of the client on.
func readyz(client *limpet.Client, patience time.Duration) http.HandlerFunc {
	var begun atomic.Bool // everything has been live
	return func(w http.ResponseWriter, _ *http.Request) {
		state, stats := client.State(), client.Stats()
		if stats.Connections > 0 && stats.Live == stats.Subscriptions {
			begun.Store(true)
		}
		if state.Draining || state.Phase == limpet.Ended || !begun.Load() || stats.Outage > patience {
			http.Error(w, "not live: "+state.Phase.String(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	}
}

// statusz shows what the client does and, for each subscription, whether it is live, since when, and why not.
func statusz(client *limpet.Client) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		state := client.State()
		fmt.Fprintf(w, "client %s for %s", state.Phase, time.Since(state.Since).Round(time.Second))
		if state.Phase != limpet.Ready { // the cause of a connection that is ready is that of the one before
			fmt.Fprintf(w, ": %v", state.Cause)
		}
		if state.Phase == limpet.Waiting {
			fmt.Fprintf(w, "; next attempt in %s", time.Until(state.NextAttempt).Round(time.Second))
		}
		fmt.Fprintln(w)
		for _, sub := range client.Subscriptions() { // without those that have ended
			now := sub.State()
			fmt.Fprintf(w, "%s %s for %s", sub.Topic(), now.Phase, time.Since(now.Since).Round(time.Second))
			if now.Err != nil {
				fmt.Fprintf(w, ": %v", now.Err)
			}
			fmt.Fprintln(w)
		}
	}
}

func publishExpvar(client *limpet.Client) {
	if expvar.Get("limpet") == nil { // Publish panics if the name is taken
		expvar.Publish("limpet", expvar.Func(func() any { return client.Stats() }))
	}
}

func TestHealthRecipes(t *testing.T) {
	s := newScene(t)
	srv := s.server("health", nil)
	link := s.link(srv)
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
	status := httptest.NewRecorder()
	statusz(client)(status, nil)
	if !regexp.MustCompile(`^client \w+ for \ds: .+\na recovering for \ds: limpet: open: .+\n$`).MatchString(status.Body.String()) {
		t.Errorf("/statusz shows in an outage\n%s", status.Body)
	}
	link.Start()
	becomes("live again", 200, 200)
	held, err := client.Subscribe(t.Context(), "b", nil)
	if err == nil {
		err = held.WaitLive(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := srv.Publish(t.Context(), "b", nil, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "a message waits", func() bool { return held.Stats().Waiting == 1 }, func() string { return "" })
	go client.Shutdown(t.Context()) // which the message holds up
	becomes("shutting down", 200, 503)
	client.Close()
	becomes("ended", 503, 503)

	never := s.link(s.server("never", &server.Options{}))
	never.Stop()
	client = s.client("never", never)
	health, ready = healthz(client), readyz(client, patience)
	becomes("never connected", 200, 503)

	publishExpvar(client)
	text := expvar.Get("limpet").String()
	for _, want := range []string{`"Connections":0`, `"SubPhases":{"ended":0,"live":0,"pending":0,"recovering":0}`, `"Memory":0`, `"MemoryLimit":67108864`} {
		if !strings.Contains(text, want) {
			t.Errorf("expvar shows %s, without %s", text, want)
		}
	}
}
