package node

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/limpet-go/limpet/gateway/internal/admission"
	"github.com/limpet-go/limpet/gateway/internal/config"
	"github.com/limpet-go/limpet/server"
)

// fakeEngine is a shared engine that says what the test sets.
type fakeEngine struct {
	memory
	says    admission.Work
	refused uint64
}

func (e *fakeEngine) work() admission.Work { return e.says }
func (e *fakeEngine) figures() []figure    { return nil }
func (e *fakeEngine) leftOut() (uint64, error) {
	return e.refused, errors.New("sequence 7: it is empty")
}

// A slow engine makes the gateway refuse new connections, and not unhealthy: a proxy may close all connections of one that is.
func TestSlowEngine(t *testing.T) {
	var out bytes.Buffer
	e := &fakeEngine{memory: memory{server.NewMemoryStore(nil)}}
	cfg := &config.Config{Engine: "fake", EngineBudget: time.Second}
	n := &Node{cfg: cfg, log: slog.New(slog.NewTextHandler(&out, nil)), engine: e, health: &health{}, admitted: admission.New(limits(cfg))}
	now := time.Now()
	look := func(times int, pending time.Duration) {
		for range times {
			now = now.Add(watchEvery)
			e.says.Pending, e.says.PendingTime = 1, pending
			n.lookAtEngine(now)
			n.lookAtWork(now)
		}
	}
	state := func(busy bool, lines ...string) {
		t.Helper()
		text := out.String()
		for _, line := range lines {
			if strings.Count(text, line) != 1 {
				t.Errorf("the log has not once %q:\n%s", line, text)
			}
		}
		if n.admitted.Busy() != busy || n.health.err() != nil {
			t.Errorf("refused %v, healthy %v", n.admitted.Busy(), n.health.err())
		}
		registry := prometheus.NewRegistry()
		registry.MustRegister(&gauges{n})
		all, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range all {
			if value := family.Metric[0].GetGauge().GetValue(); family.GetName() == "limpet_gateway_engine_over_budget" && (value == 1) != busy {
				t.Errorf("%s is %v", family.GetName(), value)
			}
		}
	}
	look(3, 10*time.Millisecond)
	state(false)
	look(3, 3*time.Second)
	state(true, "new connections are refused", "calls in progress: 3s")
	look(10, 10*time.Millisecond)
	state(false, "new connections are refused", "new connections are taken again")
}

// What others can cause is said once in a minute, and all of it.
func TestLeftOut(t *testing.T) {
	var l leftOut
	began := time.Now()
	for i, x := range []struct {
		after       time.Duration
		count, want uint64
	}{
		{0, 0, 0}, {time.Second, 3, 3}, {2 * time.Second, 3, 0}, {3 * time.Second, 10, 0}, {time.Second + logEvery, 12, 9},
		{2 * logEvery, 12, 0}, {3 * logEvery, 13, 1}, {3*logEvery + 1, 14, 0},
	} {
		if got := l.note(x.count, began.Add(x.after)); got != x.want {
			t.Errorf("look %d: %d, want %d", i, got, x.want)
		}
	}
}
