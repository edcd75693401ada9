package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// interval is how often Prometheus scrapes the test and evaluates the rules.
const interval = 500 * time.Millisecond

const configuration = `
global:
  scrape_interval: %[1]v
  scrape_timeout: %[1]v
  evaluation_interval: %[1]v
rule_files: [rules.yml]
scrape_configs:
  - job_name: limpet
    static_configs: [{targets: [%[2]q]}]
`

// monitor is a Prometheus in a process of its own.
type monitor struct {
	url string

	mu  sync.Mutex
	log []string // the last lines
}

var listening = regexp.MustCompile(`msg="Listening on" address=(\S+)`)

// startPrometheus starts a Prometheus that scrapes target, a host and port, and evaluates
// rules. The end of the test ends it. It fails the test if it cannot be started: install.sh
// installs it.
func startPrometheus(t *testing.T, target, rules string) *monitor {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "rules.yml"), rules)
	write(t, filepath.Join(dir, "prometheus.yml"), fmt.Sprintf(configuration, interval, target))
	promtool(t, "check", "config", filepath.Join(dir, "prometheus.yml"))

	// timeout ends it even if the test's process is killed.
	cmd := exec.Command("timeout", "--kill-after=5", "300", "prometheus",
		"--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address=127.0.0.1:0")
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("cannot start prometheus: %v; run metrics/e2e/install.sh", err)
	}
	p, ready, ended := &monitor{}, make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		address := ""
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.keep(lines.Text())
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				address = m[1]
			}
			if strings.Contains(lines.Text(), "Server is ready to receive web requests") {
				ready <- address
			}
		}
		_ = cmd.Wait() // the log says why it ended
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Errorf("prometheus did not end within 20 s of SIGTERM\n%s", p.lines())
			_ = cmd.Process.Kill()
		}
		if t.Failed() {
			t.Logf("the last lines of prometheus:\n%s", p.lines())
		}
	})
	select {
	case a := <-ready:
		p.url = "http://" + a
	case <-ended:
		t.Fatalf("prometheus ended at once; run metrics/e2e/install.sh\n%s", p.lines())
	case <-time.After(30 * time.Second):
		t.Fatalf("prometheus is not ready after 30 s\n%s", p.lines())
	}
	return p
}

func (p *monitor) keep(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = append(p.log[max(0, len(p.log)-30):], line)
}

func (p *monitor) lines() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.log, "\n")
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// promtool runs promtool and fails the test if promtool does.
func promtool(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("promtool %s: %v; if it is missing, run metrics/e2e/install.sh\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// point is one value at one time.
type point struct {
	at    time.Time
	value float64
}

// UnmarshalJSON reads [1700000000.5,"1.5"].
func (p *point) UnmarshalJSON(b []byte) error {
	var at float64
	var value string
	if err := json.Unmarshal(b, &[]any{&at, &value}); err != nil {
		return err
	}
	v, err := strconv.ParseFloat(value, 64)
	p.at, p.value = time.UnixMilli(int64(at*1000)), v
	return err
}

// series is one result of a query: Value of an instant, Values of a range.
type series struct {
	Metric map[string]string
	Value  point
	Values []point
}

// get calls the API of Prometheus and decodes the data of its answer into data.
func (p *monitor) get(t *testing.T, path string, query url.Values, data any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+path+"?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("%s: %v\n%s", path, err, p.lines())
	}
	defer response.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s %s: status %q, error %q, %v", path, query.Get("query"), answer.Status, answer.Error, err)
	}
}

// query returns the value of expr now.
func (p *monitor) query(t *testing.T, expr string) []series {
	t.Helper()
	var data struct{ Result []series }
	p.get(t, "/api/v1/query", url.Values{"query": {expr}}, &data)
	return data.Result
}

// queryRange returns the values of expr from start until now, every step.
func (p *monitor) queryRange(t *testing.T, expr string, start time.Time, step time.Duration) []series {
	t.Helper()
	var data struct{ Result []series }
	p.get(t, "/api/v1/query_range", url.Values{"query": {expr}, "start": {seconds(start)}, "end": {seconds(time.Now())}, "step": {step.String()}}, &data)
	return data.Result
}

func seconds(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

// eventually polls until ok returns true, and returns true then. If that takes longer than
// limit, the test fails with what state returns.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool, state func() string) bool {
	t.Helper()
	poll := time.NewTicker(interval / 2)
	defer poll.Stop()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Errorf("%s: not within %v\n%s", what, limit, state())
			return false
		}
		<-poll.C
	}
	return true
}
