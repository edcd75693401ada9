package e2e

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	rulesFile     = "../prometheus/limpet.rules.yml"
	dashboardFile = "../grafana/limpet.json"
	operatingFile = "../../docs/operating.md"
)

// faster is the factor by which the test shortens the times in the rules.
const faster = 120

var (
	// forRE and rangeRE find durations: of an alert, and of a range in an expression.
	forRE   = regexp.MustCompile(`(\bfor: )(\d+[smh])\b`)
	rangeRE = regexp.MustCompile(`(\[)(\d+[smh])\b`)
	// thresholdRE finds the number with which a metric in seconds is compared.
	thresholdRE = regexp.MustCompile(`(_seconds(?:\{[^}]*\})? [<>]=? )(\d+)\b`)
	alertRE     = regexp.MustCompile(`(?m)^ *- alert: (\w+)$`)
)

// shortened divides all times in rules by faster: the for of an alert, the ranges in
// expressions, and the numbers with which metrics in seconds are compared. Nothing else
// changes: counts and ratios stay.
func shortened(rules string) string {
	duration := func(re *regexp.Regexp) {
		rules = re.ReplaceAllStringFunc(rules, func(text string) string {
			m := re.FindStringSubmatch(text)
			d, _ := time.ParseDuration(m[2]) // the expression allows only what it reads
			return m[1] + strconv.FormatInt((d/faster).Milliseconds(), 10) + "ms"
		})
	}
	duration(forRE)
	duration(rangeRE)
	return thresholdRE.ReplaceAllStringFunc(rules, func(text string) string {
		m := thresholdRE.FindStringSubmatch(text)
		n, _ := strconv.ParseFloat(m[2], 64)
		return m[1] + strconv.FormatFloat(n/faster, 'f', -1, 64)
	})
}

func alertNames(t *testing.T, rules string) (names []string) {
	for _, m := range alertRE.FindAllStringSubmatch(rules, -1) {
		names = append(names, m[1])
	}
	if len(names) == 0 {
		t.Fatal("the rules have no alert")
	}
	return names
}

func TestRules(t *testing.T) {
	t.Log(promtool(t, "check", "rules", rulesFile))
	t.Log(promtool(t, "test", "rules", "../prometheus/limpet.test.yml"))
	rules := read(t, rulesFile)
	tests := read(t, "../prometheus/limpet.test.yml")
	for _, name := range alertNames(t, rules) {
		if !strings.Contains(tests, `{alertname="`+name+`"`) {
			t.Errorf("limpet.test.yml does not expect %s", name)
		}
	}
}

func TestShortened(t *testing.T) {
	const rules = `
expr: rate(limpet_unavailable_seconds_total[1h]) > 0.01
expr: limpet_outage_current_seconds{client="a"} > 60 and limpet_gaps_total > 60
for: 5m # 5 minutes`
	const want = `
expr: rate(limpet_unavailable_seconds_total[30000ms]) > 0.01
expr: limpet_outage_current_seconds{client="a"} > 0.5 and limpet_gaps_total > 60
for: 2500ms # 5 minutes`
	if got := shortened(rules); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	// Every time in the rules is in a form that shortened finds.
	all := read(t, rulesFile)
	for _, c := range []struct {
		what  string
		find  *regexp.Regexp
		every *regexp.Regexp
	}{
		{"for", forRE, regexp.MustCompile(`(?m)^ *for:`)},
		{"range", rangeRE, regexp.MustCompile(`(?m)\[`)},
		{"threshold in seconds", thresholdRE, regexp.MustCompile(`_seconds\b(\{[^}]*\})? *[<>=!]`)},
	} {
		found, every := len(c.find.FindAllString(all, -1)), len(c.every.FindAllString(all, -1))
		if found == 0 || found != every {
			t.Errorf("%s: shortened finds %d of %d", c.what, found, every)
		}
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	write(t, file, shortened(all))
	t.Log(promtool(t, "check", "rules", file))
}
