package prom_test

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/metrics/prom"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// newRegistry returns a registry that also checks what c collects against what it describes.
func newRegistry(t testing.TB, c prometheus.Collector) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	assert.NoError(t, r.Register(c))
	return r
}

// page holds the value of every series by its name and labels, such as
// `limpet_disconnects_total class="tls" client="a"`. A histogram has its number of durations
// as _count, their sum as _sum and those of a bucket with the label le.
type page map[string]float64

// gather returns what Prometheus would get.
func gather(t testing.TB, g prometheus.Gatherer) page {
	t.Helper()
	families, err := g.Gather()
	assert.NoError(t, err)
	p := page{}
	for _, f := range families {
		for _, m := range f.Metric {
			labels := ""
			for _, l := range m.Label {
				labels += fmt.Sprintf(" %s=%q", l.GetName(), l.GetValue())
			}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				p[f.GetName()+labels] = m.Counter.GetValue()
			case dto.MetricType_GAUGE:
				p[f.GetName()+labels] = m.Gauge.GetValue()
			case dto.MetricType_HISTOGRAM:
				p[f.GetName()+"_count"+labels] = float64(m.Histogram.GetSampleCount())
				p[f.GetName()+"_sum"+labels] = m.Histogram.GetSampleSum()
				for _, b := range m.Histogram.Bucket {
					p[fmt.Sprintf("%s_bucket%s le=\"%v\"", f.GetName(), labels, b.GetUpperBound())] = float64(b.GetCumulativeCount())
				}
			default:
				t.Fatalf("%s is a %v", f.GetName(), f.GetType())
			}
		}
	}
	return p
}

// value returns the value of a series, which must be there.
func (p page) value(t testing.TB, series string) float64 {
	t.Helper()
	v, ok := p[series]
	if !ok {
		t.Fatalf("no %s", series)
	}
	return v
}

// of returns the series with all of the labels, such as `client="a"`.
func (p page) of(labels ...string) (series []string) {
	for _, s := range slices.Sorted(maps.Keys(p)) {
		fields := strings.Split(s, " ")[1:]
		if !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(fields, l) }) {
			series = append(series, s)
		}
	}
	return series
}

// name returns the name of the metric that a series belongs to.
func name(series string) string {
	first, _, _ := strings.Cut(series, " ")
	for _, suffix := range []string{"_count", "_sum", "_bucket"} {
		first = strings.TrimSuffix(first, suffix)
	}
	return first
}

var fqName = regexp.MustCompile(`fqName: "([^"]*)"`)

// described returns the names of all metrics that c has.
func described(t testing.TB, c *prom.Collector) (names []string) {
	t.Helper()
	ch := make(chan *prometheus.Desc, 1000)
	c.Describe(ch)
	close(ch)
	for d := range ch {
		m := fqName.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("no name in %v", d)
		}
		names = append(names, m[1])
	}
	if len(names) < 40 {
		t.Fatalf("%d metrics", len(names))
	}
	return names
}

// text returns what Prometheus would get, as text with the help of each metric.
func text(t testing.TB, g prometheus.Gatherer) string {
	t.Helper()
	families, err := g.Gather()
	assert.NoError(t, err)
	var out bytes.Buffer
	for _, f := range families {
		_, err := expfmt.MetricFamilyToText(&out, f)
		assert.NoError(t, err)
	}
	return out.String()
}
