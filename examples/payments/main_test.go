package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/examples/internal/program"
)

func TestMain(m *testing.M) { program.Main(m, main) }

// bank starts the server and returns its URL.
func bank(t *testing.T, address, ledger, crash string) (p *exec.Cmd, url string) {
	t.Helper()
	p = program.Command(t, "-ledger", ledger, "-crash", crash, "-serve", address)
	p.Stderr = os.Stderr
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
	return p, lines.Text()
}

// paidIn returns how often the ledger has the invoice.
func paidIn(t *testing.T, ledger, invoice string) int {
	t.Helper()
	text, err := os.ReadFile(ledger)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), `"invoice":"`+invoice+`"`)
}

// The server crashes at a payment, before or after it is in the ledger, and forgets sessions and ids. The
// client does not know the outcome, asks, and the payment is made once.
func TestUnknownIsReconciled(t *testing.T) {
	for crash, want := range map[string]string{
		"after":  "invoice 7: unknown, and the server has it: paid\n",
		"before": "invoice 7: unknown, and the server does not have it: sent again\ninvoice 7: paid\n",
	} {
		t.Run(crash, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			ledger, box := filepath.Join(dir, "ledger"), filepath.Join(dir, "outbox")
			server, url := bank(t, "127.0.0.1:0", ledger, crash)
			client := program.Command(t, "-url", url, "-dir", box, "7=4200", "8=100")
			var out, log bytes.Buffer
			client.Stdout, client.Stderr = &out, &log
			if err := client.Start(); err != nil {
				t.Fatal(err)
			}
			if err := server.Wait(); err == nil {
				t.Fatal("the server did not crash")
			}
			bank(t, strings.TrimPrefix(url, "ws://"), ledger, "")
			if err := client.Wait(); err != nil {
				t.Fatalf("%v: %s%s", err, &out, &log)
			}
			if want += "invoice 8: paid\n"; out.String() != want {
				t.Errorf("it printed %q, want %q", out.String(), want)
			}
			if paidIn(t, ledger, "7") != 1 || paidIn(t, ledger, "8") != 1 {
				t.Errorf("invoice 7 was paid %d times, 8 %d times", paidIn(t, ledger, "7"), paidIn(t, ledger, "8"))
			}
		})
	}
}

// The server crashes after a payment is in its ledger, and the program is killed before it knows. The next run of the
// program does not pay again.
func TestProgramIsKilled(t *testing.T) {
	dir := t.TempDir()
	ledger, box := filepath.Join(dir, "ledger"), filepath.Join(dir, "outbox")
	server, url := bank(t, "127.0.0.1:0", ledger, "after")
	client := program.Command(t, "-url", url, "-dir", box, "7=4200")
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(); err == nil {
		t.Fatal("the server did not crash")
	}
	client.Process.Kill()
	client.Wait()
	bank(t, strings.TrimPrefix(url, "ws://"), ledger, "")
	out, err := program.Command(t, "-url", url, "-dir", box, "7=4200").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "paid") || paidIn(t, ledger, "7") != 1 {
		t.Errorf("%v: %s; it was paid %d times", err, out, paidIn(t, ledger, "7"))
	}
}

// An invoice is paid once however often the program runs, with the server that knows the id and with one
// that has only the ledger, and another amount is refused by both.
func TestPaidOnce(t *testing.T) {
	dir := t.TempDir()
	ledger, box := filepath.Join(dir, "ledger"), filepath.Join(dir, "outbox")
	server, url := bank(t, "127.0.0.1:0", ledger, "")
	run := func(invoice, want string) {
		t.Helper()
		if out, _ := program.Command(t, "-url", url, "-dir", box, invoice).CombinedOutput(); !strings.Contains(string(out), want) {
			t.Errorf("%s: it printed %q, want %q", invoice, out, want)
		}
	}
	run("7=4200", "invoice 7: paid\n")
	run("7=4200", "invoice 7: was paid before\n")
	run("7=1", "the id was used for another message")
	server.Process.Kill()
	server.Wait()
	server, url = bank(t, "127.0.0.1:0", ledger, "") // it has forgotten the id
	run("7=4200", "invoice 7: paid\n")
	server.Process.Kill()
	server.Wait()
	_, url = bank(t, "127.0.0.1:0", ledger, "")
	run("7=1", "conflict")
	if n := paidIn(t, ledger, "7"); n != 1 {
		t.Errorf("paid %d times", n)
	}
}

// An entry that a crash has torn is not a payment.
func TestTornEntry(t *testing.T) {
	name := filepath.Join(t.TempDir(), "ledger")
	whole := `{"id":"` + idOf("7").String() + `","invoice":"7","cents":1}` + "\n"
	if err := os.WriteFile(name, []byte(whole+`{"id":"`), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := openLedger(name, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.file.Close()
	text, err := os.ReadFile(name)
	if err != nil || string(text) != whole || len(l.paid) != 1 || l.paid[idOf("7")] != (payment{"7", 1}) {
		t.Errorf("%q, %v, %v", text, l.paid, err)
	}
}
