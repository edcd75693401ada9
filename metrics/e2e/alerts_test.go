// Package e2e tests the metrics, the alert rules and the dashboard with a real Prometheus,
// which install.sh installs.
package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAlerts lets things go wrong until each alert has fired, puts them right until none fires,
// and then asks Prometheus what it has seen. Of the rules, all times are divided by faster:
// see shortened.
func TestAlerts(t *testing.T) {
	began := time.Now()
	rules := read(t, rulesFile)
	s := newScene(t)
	s.steady()
	faults := s.faults()
	p := startPrometheus(t, s.target, shortened(rules))

	// Every alert but one has a fault. The counters never disagree, which is why they are checked.
	expected := map[string]bool{"LimpetAccounting": true}
	for _, f := range faults {
		for _, a := range f.alerts {
			name, _, _ := strings.Cut(a, "{")
			expected[name] = true
		}
	}
	for _, name := range alertNames(t, rules) {
		if !expected[name] {
			t.Errorf("no fault causes %s", name)
		}
	}

	if !eventually(t, 30*time.Second, "every client is scraped and ready", func() bool {
		ready := p.query(t, `sum(limpet_connection_state{state="ready"}) == count(limpet_connection_state{state="ready"})`)
		return len(ready) == 1 && len(firing(t, p)) == 0
	}, func() string { return show(p.query(t, `limpet_connection_state == 1`)) + show(p.query(t, "up")) }) {
		return
	}
	healthy := time.Now()

	ctx, cancel := context.WithCancel(s.ctx)
	var wrong sync.WaitGroup
	mend := sync.OnceFunc(func() {
		cancel()
		wrong.Wait()
		for _, f := range faults {
			if f.end != nil {
				f.end()
			}
		}
	})
	defer mend()
	for _, f := range faults {
		if f.begin != nil {
			f.begin()
		}
		if f.during != nil {
			wrong.Go(func() { f.during(ctx) })
		}
	}
	fired := map[string]time.Duration{}
	missing := func() (names []string) {
		for _, f := range faults {
			for _, a := range f.alerts {
				if fired[a] == 0 {
					names = append(names, a)
				}
			}
		}
		return names
	}
	eventually(t, 60*time.Second, "every alert fires", func() bool {
		for _, a := range missing() {
			if len(p.query(t, fmt.Sprintf("count_over_time(%s[1m])", alertSeries(a)))) > 0 {
				fired[a] = time.Since(healthy).Round(100 * time.Millisecond)
			}
		}
		return len(missing()) == 0
	}, func() string {
		return fmt.Sprintf("missing: %q\nseen: %v\n%s", missing(), fired, show(p.query(t, "ALERTS")))
	})
	t.Logf("fired after: %v", fired)

	mend()
	mended := time.Now()
	if eventually(t, 80*time.Second, "every alert clears", func() bool {
		return len(p.query(t, "count_over_time(ALERTS[2s])")) == 0 && len(p.query(t, "up == 1")) == 1
	}, func() string { return show(p.query(t, "ALERTS")) }) {
		t.Logf("clear %v after the end of the faults", time.Since(mended).Round(100*time.Millisecond))
	}

	// Nothing happened to steady.
	if got := p.query(t, `count_over_time(ALERTS{alertstate="firing",client="steady"}[10m]) or count_over_time(ALERTS{alertstate="firing",server="steady"}[10m])`); len(got) > 0 {
		t.Errorf("alerts without a fault:\n%s", show(got))
	}
	checkIdentity(t, p, began)
	checkDashboard(t, p, began)
	checkTypes(t, p)
}

// alertSeries returns the series of an alert of the form alert{label="value"}.
func alertSeries(alert string) string {
	name, labels, _ := strings.Cut(alert, "{")
	return fmt.Sprintf(`ALERTS{alertname=%q,alertstate="firing",%s`, name, labels)
}

func firing(t *testing.T, p *monitor) []series {
	return p.query(t, `ALERTS{alertstate="firing"}`)
}

// show returns the series with their values, one a line.
func show(all []series) string {
	var lines []string
	for _, s := range all {
		lines = append(lines, fmt.Sprintf("%v %v", s.Metric, s.Value.value))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// checkIdentity checks at every scrape that received = delivered + dropped + conflated + waiting.
func checkIdentity(t *testing.T, p *monitor, began time.Time) {
	t.Helper()
	const difference = `limpet_received_messages_total - (limpet_delivered_messages_total + sum without (reason) (limpet_dropped_messages_total) + limpet_conflated_messages_total + limpet_waiting_messages)`
	scrapes, wrong := 0, 0
	for _, s := range p.queryRange(t, difference, began, interval/5) {
		scrapes = max(scrapes, len(s.Values)/5)
		for _, v := range s.Values {
			if v.value != 0 {
				wrong++
				t.Errorf("%v at %v: received - (delivered + dropped + conflated + waiting) = %v", s.Metric, v.at, v.value)
			}
		}
	}
	// Without all of these the check would show little.
	for _, expr := range []string{
		`sum(max_over_time(limpet_delivered_messages_total[10m])) > 100`, // the last scrape may have timed out
		`max_over_time(limpet_dropped_messages_total{client="slow",reason="overflow"}[10m]) > 0`,
		`max_over_time(limpet_waiting_messages{client="slow"}[10m]) > 0`,
	} {
		if len(p.query(t, expr)) == 0 {
			t.Errorf("not true: %s\n%s", expr, show(p.query(t, `last_over_time({__name__=~"limpet_(received|delivered|dropped|conflated|waiting)_messages.*"}[10m])`)))
		}
	}
	if scrapes < 20 {
		t.Errorf("%d scrapes, too few to mean anything", scrapes)
	}
	t.Logf("received = delivered + dropped + conflated + waiting in about %d scrapes, %d values differ", scrapes, wrong)
}
