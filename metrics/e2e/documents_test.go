package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/metrics/prom"
	"github.com/prometheus/client_golang/prometheus"
)

// dashboard is what the test needs of the JSON of Grafana.
type dashboard struct {
	Panels []struct {
		Type, Title string
		Targets     []struct{ Expr string }
	}
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
	Annotations struct{ List []struct{ Expr string } }
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

var variableRE = regexp.MustCompile(`\$\w+|\$\{`)

// checkDashboard runs every query of the dashboard. Each must have returned a number at
// some time since began.
func checkDashboard(t *testing.T, p *monitor, began time.Time) {
	t.Helper()
	replace := strings.NewReplacer("$client", ".+", "$server", ".+", "$__rate_interval", "5s", "$__range_s", "60", "$__range", "60s")
	queries := map[string]string{}
	d := readDashboard(t)
	for _, panel := range d.Panels {
		for i, target := range panel.Targets {
			queries[fmt.Sprintf("panel %q, query %d", panel.Title, i+1)] = target.Expr
		}
		if panel.Type != "row" && len(panel.Targets) == 0 {
			t.Errorf("panel %q has no query", panel.Title)
		}
	}
	definition := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`)
	for _, v := range d.Templating.List {
		if m := definition.FindStringSubmatch(v.Definition); m != nil {
			queries["variable "+v.Name] = fmt.Sprintf(`count by (%s) (%s{%[1]s!=""})`, m[2], m[1])
		} else if v.Type == "query" {
			t.Errorf("variable %s: cannot read %q", v.Name, v.Definition)
		}
	}
	for i, a := range d.Annotations.List {
		queries[fmt.Sprintf("annotation %d", i+1)] = a.Expr
	}
	for where, query := range queries {
		expr := replace.Replace(query)
		if variableRE.MatchString(expr) {
			t.Errorf("%s: a variable that the test does not know: %s", where, query)
			continue
		}
		result := p.queryRange(t, expr, began, time.Second)
		if !slices.ContainsFunc(result, func(s series) bool {
			return slices.ContainsFunc(s.Values, func(v point) bool { return !math.IsNaN(v.value) && !math.IsInf(v.value, 0) })
		}) {
			t.Errorf("%s has returned no number: %s", where, expr)
		}
	}
	t.Logf("%d queries of the dashboard have data", len(queries))
}

func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	var rows, variables, queries []string
	for _, p := range d.Panels {
		if p.Type == "row" {
			rows = append(rows, p.Title)
		}
		for _, target := range p.Targets {
			queries = append(queries, target.Expr)
		}
	}
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
	}
	if want := []string{"Am I live", "What did I lose", "Delivery", "Sending", "Path", "Server"}; !slices.Equal(rows, want) {
		t.Errorf("rows %q, want %q", rows, want)
	}
	if want := []string{"datasource", "client", "server"}; !slices.Equal(variables, want) {
		t.Errorf("variables %q, want %q", variables, want)
	}
	all := strings.Join(queries, "\n")
	for _, m := range metrics(t) {
		if !regexp.MustCompile(`\b` + m.name + `(_bucket)?\b`).MatchString(all) {
			t.Errorf("no panel shows %s", m.name)
		}
	}
}

// metric is what the collector says of a metric.
type metric struct{ name, labels, help string }

var descRE = regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: "([^"]*)".*variableLabels: \{([^}]*)\}\}$`)

func metrics(t *testing.T) (all []metric) {
	t.Helper()
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		prom.NewCollector(nil).Describe(ch)
	}()
	for d := range ch {
		m := descRE.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("cannot read %s", d)
		}
		all = append(all, metric{name: m[1], help: m[2], labels: strings.ReplaceAll(m[3], ",", ", ")})
	}
	if len(all) == 0 {
		t.Fatal("the collector describes no metric")
	}
	return all
}

// documented is a row of the tables of docs/operating.md: name, type, labels, meaning.
var documented = regexp.MustCompile("(?m)^\\| `(limpet_\\w+)` \\| (\\w+) \\| ([^|]*) \\| ([^|]*) \\|$")

func TestMetricsAreDocumented(t *testing.T) {
	rows := map[string]metric{}
	for _, m := range documented.FindAllStringSubmatch(read(t, operatingFile), -1) {
		if _, twice := rows[m[1]]; twice {
			t.Errorf("docs/operating.md has %s twice", m[1])
		}
		rows[m[1]] = metric{name: m[1], labels: m[3], help: m[4]}
	}
	for _, m := range metrics(t) {
		if rows[m.name] != m {
			t.Errorf("docs/operating.md: %+v, the collector says %+v", rows[m.name], m)
		}
		delete(rows, m.name)
	}
	for name := range rows {
		t.Errorf("docs/operating.md has %s, the collector does not", name)
	}
}

// checkTypes compares the types in docs/operating.md with those that Prometheus has seen.
func checkTypes(t *testing.T, p *monitor) {
	t.Helper()
	var seen map[string][]struct{ Type string }
	p.get(t, "/api/v1/metadata", nil, &seen)
	rows := documented.FindAllStringSubmatch(read(t, operatingFile), -1)
	if len(rows) == 0 {
		t.Error("docs/operating.md has no table of metrics")
	}
	for _, m := range rows {
		if got := seen[m[1]]; len(got) != 1 || got[0].Type != m[2] {
			t.Errorf("docs/operating.md: %s is a %s; Prometheus has seen %v", m[1], m[2], got)
		}
	}
}

// Each alert has a section in docs/operating.md to which it links, and each section an alert.
func TestAlertsAreDocumented(t *testing.T) {
	rules := read(t, rulesFile)
	var sections []string
	for _, m := range regexp.MustCompile(`(?m)^### (Limpet\w+)$`).FindAllStringSubmatch(read(t, operatingFile), -1) {
		sections = append(sections, m[1])
	}
	if names := alertNames(t, rules); !slices.Equal(names, sections) {
		t.Errorf("alerts   %q\nsections %q", names, sections)
	}
	for _, rule := range strings.Split(rules, "- alert: ")[1:] {
		name, _, _ := strings.Cut(rule, "\n")
		for _, line := range []string{"severity: ", "summary: ", "description: ", "runbook_url: https://github.com/limpet-go/limpet/blob/main/docs/operating.md#" + strings.ToLower(name) + "\n"} {
			if !strings.Contains(rule, line) {
				t.Errorf("%s has no %s", name, line)
			}
		}
	}
}
