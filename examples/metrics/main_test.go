package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/examples/internal/program"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/prometheus/client_golang/prometheus"
)

func TestMain(m *testing.M) { program.Main(m, main) }

// The program runs as it is: prices arrive, connections break and come back, and a signal
// ends it.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := program.Command(t, "-demo", "-pause", "1ms", "-cut", "50")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	url, err := bufio.NewReader(out).ReadString('\n')
	if url = strings.TrimSpace(url); err != nil || !strings.HasPrefix(url, "http://127.0.0.1:") {
		t.Fatalf("the program printed %q, %v", url, err)
	}

	wait(t, ctx, "/readyz answers ok", func() bool { return get(t, ctx, url+"/readyz") == "200 ok\n" })
	if got := get(t, ctx, url+"/healthz"); got != "200 ok\n" {
		t.Errorf("/healthz: %s", got)
	}
	var metrics string
	wait(t, ctx, "three outages are over", func() bool {
		metrics = get(t, ctx, url+"/metrics")
		return value(metrics, `limpet_outage_seconds_count{client="feed"}`) >= 3
	})
	received := value(metrics, `limpet_received_messages_total{client="feed"}`)
	sum := value(metrics, `limpet_delivered_messages_total{client="feed"}`) + value(metrics, `limpet_dropped_messages_total{client="feed",reason="overflow"}`) +
		value(metrics, `limpet_waiting_messages{client="feed"}`)
	if received < 100 || received != sum {
		t.Errorf("received %v, delivered, dropped and waiting %v", received, sum)
	}
	if resumed := value(metrics, `limpet_resumes_total{client="feed",verdict="resumed"}`); resumed < 3 {
		t.Errorf("%v connections resumed", resumed)
	}
	if n := value(metrics, `limpet_delivery_lag_seconds_count{client="feed"}`); n < 1 {
		t.Errorf("the delay of %v messages was measured", n)
	}
	if t.Failed() {
		t.Log(metrics)
	}

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// Each reason has its line, and the pages of a service whose server is gone differ: it is
// healthy, and not ready.
func TestPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused, forbidden := false, false
		srv := limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Hooks: server.Hooks{
			Authorize: func(server.Principal, server.Verb, string) error {
				if forbidden {
					return errors.New("never")
				}
				if refused {
					return context.DeadlineExceeded // for now
				}
				return nil
			},
		}}})
		client, err := limpet.Dial(t.Context(), srv.URL(), &limpet.Options{HTTPClient: srv.HTTPClient()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { client.Close(); <-client.Done() }()
		sub, err := client.Subscribe(t.Context(), "prices", nil)
		if err != nil {
			t.Fatal(err)
		}
		idle, err := limpet.New(srv.URL(), &limpet.Options{HTTPClient: srv.HTTPClient()})
		if err != nil {
			t.Fatal(err)
		}
		if got := notReady(idle, sub, time.Minute, time.Minute); got != "never connected" {
			t.Errorf("before the first connection: %q", got)
		}
		idle.Close()
		<-idle.Done()
		handler := pages(client, sub, prometheus.NewRegistry(), 10*time.Second, 30*time.Second)
		expect := func(path, want string) {
			t.Helper()
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			got := fmt.Sprint(w.Code, " ", w.Body)
			if match, err := regexp.MatchString("^"+want+"\n$", got); err != nil || !match {
				t.Errorf("%s: got %q, want %q", path, got, want)
			}
		}

		if err := sub.WaitLive(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect("/readyz", "200 ok")
		time.Sleep(31 * time.Second)
		expect("/readyz", "503 no message for 31(\\.\\d+)?s, the limit is 30s")
		expect("/healthz", "200 ok")
		if _, err := srv.Server.Publish(t.Context(), "prices", nil, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect("/readyz", "200 ok")

		refused = true
		other, err := client.Subscribe(t.Context(), "other", nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect("/readyz", "503 1 of 2 subscriptions are live")
		other.Close()
		synctest.Wait()
		expect("/readyz", "200 ok")

		srv.Stop()
		synctest.Wait()
		expect("/readyz", "200 ok") // a short outage
		time.Sleep(11 * time.Second)
		expect("/readyz", "503 an outage of 11(\\.\\d+)?s, last failure: [a-z]+")
		expect("/healthz", "200 ok")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go client.Shutdown(ctx) // a price waits for its consumer
		synctest.Wait()
		expect("/readyz", "503 shutting down")
		expect("/healthz", "200 ok")
		client.Close()
		<-client.Done()
		expect("/readyz", "503 the client has ended: closed")
		expect("/healthz", "503 the client has ended: closed")

		forbidden = true
		srv.Start()
		client, err = limpet.Dial(t.Context(), srv.URL(), &limpet.Options{HTTPClient: srv.HTTPClient()})
		if err != nil {
			t.Fatal(err)
		}
		if sub, err = client.Subscribe(t.Context(), "prices", nil); err != nil {
			t.Fatal(err)
		}
		handler = pages(client, sub, prometheus.NewRegistry(), 10*time.Second, 30*time.Second)
		synctest.Wait()
		expect("/healthz", "503 the feed has ended: rejected")
	})
}

// get returns the status and the body of a page.
func get(t *testing.T, ctx context.Context, url string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}

// wait asks until ok, or ctx ends.
func wait(t *testing.T, ctx context.Context, what string, ok func() bool) {
	t.Helper()
	for tick := time.NewTicker(20 * time.Millisecond); !ok(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// value returns the value of a series on a page of metrics, -1 without one.
func value(page, series string) float64 {
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err == nil {
				return v
			}
		}
	}
	return -1
}
