package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/examples/internal/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

// A browser gets the newest earthquake of each network, and far fewer messages than the
// client received: most were replaced before they were handed over.
func TestDashboard(t *testing.T) {
	_, url := start(t, "-addr", "127.0.0.1:0")
	if text := get(t, url+"/"); !strings.Contains(text, "<canvas") || !strings.Contains(text, "url(land.svg)") {
		t.Errorf("the page is %.200s", text)
	}
	if text := get(t, url+"/land.svg"); !strings.HasPrefix(text, "<svg") {
		t.Errorf("the map is %.200s", text)
	}
	networks := map[string]bool{}
	var u update
	for next := events(t, url); u.Received < 10_000; {
		u = next()
		for _, e := range u.Entries {
			var quake struct{ ID, Net, Place string }
			if err := json.Unmarshal(e.Quake, &quake); err != nil || quake.Net != e.Network || quake.ID == "" {
				t.Fatalf("%s has %s: %v", e.Network, e.Quake, err)
			}
			networks[e.Network] = true
		}
	}
	if len(networks) < 10 || u.Gaps+u.Resets != 0 || u.Delivered*5 > u.Received || u.Conflated == 0 || u.Conflated+u.Delivered > u.Received {
		t.Errorf("%d networks: received %d, delivered %d, conflated %d, %d gaps, %d resets", len(networks), u.Received, u.Delivered, u.Conflated, u.Gaps, u.Resets)
	}
	if u.Phase != "ready" || u.Cause != "" || u.Outage != 0 || u.Outages != 0 || u.Last != nil {
		t.Errorf("nothing was lost, and the page says %+v", u)
	}
}

// A browser learns that the feed is gone, what the client does about it, and that it is back.
func TestLostFeed(t *testing.T) {
	feed, address := start(t, "-serve", "127.0.0.1:0")
	_, url := start(t, "-addr", "127.0.0.1:0", "-feed", address)
	next := events(t, url)
	until := func(ok func(update) bool) (u update) {
		for !ok(u) {
			u = next()
		}
		return u
	}
	until(func(u update) bool { return u.Received > 0 })
	feed.Process.Kill()
	feed.Wait()
	u := until(func(u update) bool { return u.Phase == "waiting" && u.Outage > 0.1 })
	if u.Cause == "" || u.NextAttempt > 60 || u.Outages != 1 || u.Last != nil {
		t.Errorf("in an outage the page says %+v", u)
	}
	before := u
	longer := until(func(later update) bool { // also while nothing changes but the time
		waits := before.Phase == "waiting" && later.Phase == "waiting" && later.NextAttempt < before.NextAttempt
		before = later
		return waits && later.Outage > u.Outage
	})
	if longer.Received != u.Received {
		t.Errorf("messages in an outage: %+v", longer)
	}
	host := strings.Trim(strings.TrimPrefix(address, "ws://"), "/")
	start(t, "-serve", host)
	u = until(func(u update) bool { return u.Last != nil && u.Received > longer.Received })
	if u.Phase != "ready" || u.Outage != 0 || u.Outages != 1 || u.Last.Seconds < longer.Outage || u.Last.Attempts == 0 || u.Gaps+u.Resets == 0 {
		t.Errorf("after the outage the page says %+v, %+v", u, u.Last)
	}
}

// start starts the program and returns the URL that it prints.
func start(t *testing.T, args ...string) (cmd *exec.Cmd, url string) {
	t.Helper()
	cmd = program.Command(t, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	url, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd, strings.TrimSpace(url)
}

// events returns what waits for the next server-sent event of the page at url.
func events(t *testing.T, url string) func() update {
	t.Helper()
	response, err := http.Get(url + "/events")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	lines := bufio.NewReader(response.Body)
	return func() (u update) {
		t.Helper()
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				if err := json.Unmarshal([]byte(data), &u); err != nil {
					t.Fatal(err)
				}
				return u
			}
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
