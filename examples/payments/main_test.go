package main

import (
	"bufio"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/examples/internal/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

// startServer starts the server and returns its URL.
func startServer(t *testing.T) string {
	t.Helper()
	p := program.Command(t, "-serve", "127.0.0.1:0")
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill(); p.Wait() })
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("the server printed nothing")
	}
	return lines.Text()
}

// once fails unless the server has taken a payment exactly once.
func once(t *testing.T, url, invoice string) {
	t.Helper()
	answer, err := http.Get("http" + strings.TrimPrefix(url, "ws") + "/payments/" + idOf(invoice).String())
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if n, err := io.ReadAll(answer.Body); err != nil || string(n) != "1\n" {
		t.Errorf("payment %s: %q, %v", invoice, n, err)
	}
}

// Each invoice is paid once, over a server that fails before and after it has taken a payment.
func TestPayments(t *testing.T) {
	url := startServer(t)
	dir := filepath.Join(t.TempDir(), "payments")
	out, _ := program.Output(t, "-url", url, "-dir", dir, "1001=500", "1002=700", "1003=900")
	if want := `1001=500 is paid again: the outcome was unknown, and the server does not have it
1001=500 paid
1002=700 paid: the outcome was unknown, and the server has it
1003=900 paid
`; out != want {
		t.Errorf("it printed\n%swant\n%s", out, want)
	}
	out, _ = program.Output(t, "-url", url, "-dir", dir, "1001=500", "1003=900")
	if want := "1001=500 was paid before\n1003=900 was paid before\n"; out != want {
		t.Errorf("again it printed\n%swant\n%s", out, want)
	}
	for _, invoice := range []string{"1001", "1002", "1003"} {
		once(t, url, invoice)
	}
	text, err := program.Command(t, "-url", url, "-dir", dir, "1001=501").CombinedOutput()
	if err == nil || !strings.Contains(string(text), "1001=501: ") {
		t.Errorf("another amount for the same invoice: %v, %s", err, text)
	}
}

// A program that is killed while the server is away pays with its next run, once.
func TestKilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "payments")
	p := program.Command(t, "-url", "ws://127.0.0.1:1", "-dir", dir, "1=5")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	for files := 0; files < 2; { // the lock, and the first segment
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		files = len(names)
	}
	p.Process.Kill()
	p.Wait()
	url := startServer(t)
	program.Output(t, "-url", url, "-dir", dir, "1=5")
	program.Output(t, "-url", url, "-dir", dir, "1=5")
	once(t, url, "1")
}
