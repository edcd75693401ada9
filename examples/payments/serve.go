package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/server"
)

// init adds the flag -serve, so that main.go is a whole program without it.
func init() {
	flag.Func("serve", "be a server at this `address`, with payments in memory: of three it fails before the first, and after the second", serve)
}

func serve(address string) error {
	ledger := &moody{Log: server.NewMemoryLog(server.Retention{}), payments: map[uuid.UUID]int{}}
	backend, err := server.New(&server.Options{Log: ledger})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("ws://" + listener.Addr().String())
	mux := http.NewServeMux()
	mux.Handle("/", backend)
	mux.HandleFunc("GET /payments/{id}", ledger.answer)
	web := http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	return web.Serve(listener)
}

// moody is a log that fails now and then, with the connection of who has sent the message.
type moody struct {
	server.Log
	mu       sync.Mutex
	appends  int
	payments map[uuid.UUID]int // how often each was taken
}

var errMoody = errors.New("a failure, as it is wished")

// Append implements server.Log.
func (m *moody) Append(ctx context.Context, e server.Entry) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.appends++
	if m.appends%4 == 1 {
		return 0, errMoody // and the payment is not there
	}
	offset, err := m.Log.Append(ctx, e)
	if err == nil {
		m.payments[uuid.UUID(e.ID)]++
	}
	if m.appends%4 == 3 {
		return 0, errMoody // but the payment is there
	}
	return offset, err
}

// answer says how often a payment was taken.
func (m *moody) answer(w http.ResponseWriter, r *http.Request) {
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	m.mu.Lock()
	n := m.payments[id]
	m.mu.Unlock()
	if n == 0 {
		http.Error(w, "no such payment", http.StatusNotFound)
		return
	}
	fmt.Fprintln(w, n)
}
