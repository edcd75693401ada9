package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/examples/internal/program"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

func TestMain(m *testing.M) { program.Main(m, main) }

// start starts the program and returns its first line.
func start(t *testing.T, args ...string) (p *exec.Cmd, lines *bufio.Scanner, stderr *strings.Builder) {
	t.Helper()
	p, stderr = program.Command(t, args...), new(strings.Builder)
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Stderr = stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill(); p.Wait() })
	lines = bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatalf("%v printed nothing: %s", args, stderr)
	}
	return p, lines, stderr
}

// The program is killed again and again, and in the end the server has each order exactly once.
func TestKill(t *testing.T) {
	const last = 3000
	dir := filepath.Join(t.TempDir(), "outbox")
	_, lines, _ := start(t, "-serve", "127.0.0.1:0")
	url := lines.Text()
	args := []string{"-url", url, "-dir", dir, "-pause", "0", "-last", strconv.Itoa(last)}
	kills, waited, next := 0, 0, 1
	for kills < 5 || waited == 0 && kills < 50 {
		p, lines, stderr := start(t, args...)
		var pid, waiting int
		if _, err := fmt.Sscanf(lines.Text(), "kill -9 %d and start me again: %d orders are in the outbox, the next one is %d", &pid, &waiting, &next); err != nil {
			t.Fatalf("%q: %v %s", lines.Text(), err, stderr)
		}
		waited += waiting
		goal := next + 1 + rand.IntN(50)
		for at, err := readNext(dir); at < goal; at, err = readNext(dir) {
			if err != nil || p.ProcessState != nil {
				t.Fatal(err, stderr)
			}
		}
		p.Process.Kill()
		p.Wait()
		kills++
	}
	if waited == 0 {
		t.Error("no order was in the outbox when the program was killed: this proves little")
	}
	t.Logf("%d kills, %d orders were in the outbox", kills, waited)
	if out, err := program.Command(t, args...).CombinedOutput(); err != nil || !strings.Contains(string(out), "the server has all orders up to 3000") {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := program.Command(t, "-url", url, "-dir", dir, "-verify").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "orders 1 to 3000, each exactly once") {
		t.Errorf("%v: %s", err, out)
	}
}

// -verify finds an order that is missing, and one that comes twice.
func TestVerifyFinds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "outbox")
	_, lines, _ := start(t, "-serve", "127.0.0.1:0")
	url := lines.Text()
	publishOrders := func(from, to int) {
		t.Helper()
		if err := writeNext(dir, from); err != nil {
			t.Fatal(err)
		}
		if out, err := program.Command(t, "-url", url, "-dir", dir, "-pause", "0", "-last", strconv.Itoa(to)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	publishOrders(1, 5)
	publishOrders(3, 5) // the same ids: the server does not take them again
	if out, err := program.Command(t, "-url", url, "-dir", dir, "-verify").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	publishOrders(7, 8)
	if out, err := program.Command(t, "-url", url, "-dir", dir, "-verify").CombinedOutput(); err == nil || !strings.Contains(string(out), "order 7 is where 6 should be") {
		t.Errorf("%v: %s", err, out)
	}
}

// A directory that is written with a slash at its end is the same one: numbers go on, and -verify looks at them.
func TestSlash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "outbox") + string(filepath.Separator)
	_, lines, _ := start(t, "-serve", "127.0.0.1:0")
	args := []string{"-url", lines.Text(), "-dir", dir, "-pause", "0"}
	for _, last := range []string{"3", "5"} {
		if out, err := program.Command(t, append(args, "-last", last)...).CombinedOutput(); err != nil || last == "5" && !strings.Contains(string(out), "the next one is 4") {
			t.Errorf("%v: %s", err, out)
		}
	}
	if out, err := program.Command(t, append(args, "-verify")...).CombinedOutput(); err != nil || !strings.Contains(string(out), "orders 1 to 5, each") {
		t.Errorf("%v: %s", err, out)
	}
}

// An order that the server has refused is not reported as one that it has, whatever its order.
func TestRefusedOrder(t *testing.T) {
	for _, refused := range []string{"2", "3"} {
		backend, err := server.New(&server.Options{Hooks: server.Hooks{OnPublish: func(_ context.Context, _ server.Principal, m server.Message) error {
			if string(m.Payload) == refused {
				return &server.Error{Code: native.CodeConflict, Reason: "sold out"}
			}
			return nil
		}}})
		if err != nil {
			t.Fatal(err)
		}
		web := httptest.NewServer(backend)
		t.Cleanup(web.Close)
		dir := filepath.Join(t.TempDir(), "outbox")
		out, err := program.Command(t, "-url", strings.Replace(web.URL, "http", "ws", 1), "-dir", dir, "-pause", "0", "-last", "3").CombinedOutput()
		if err == nil || strings.Contains(string(out), "the server has all") || !strings.Contains(string(out), "conflict") {
			t.Errorf("order %s: %v: %s", refused, err, out)
		}
	}
}
