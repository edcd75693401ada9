package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// init adds the flags of the server, so that main.go is a whole program without them.
func init() {
	name := flag.String("ledger", "payments.ledger", "of the server: the file of its payments")
	crash := flag.String("crash", "", "of the server: end at the first new payment, \"before\" or \"after\" it is in the ledger")
	flag.Func("serve", "be a server at this `address`; after the other flags", func(address string) error {
		return serve(address, *name, *crash)
	})
}

// ledger is what the server has paid, in a file. It knows each id for ever; the server of limpet, which
// has its sessions and ids in memory here, forgets them with the process.
type ledger struct {
	mu    sync.Mutex
	file  *os.File
	paid  map[uuid.UUID]payment
	crash string
}

type entry struct {
	ID uuid.UUID `json:"id"`
	payment
}

// openLedger reads the file. The end of an entry that was torn by a crash is overwritten.
func openLedger(name, crash string) (*ledger, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	l := &ledger{file: f, paid: make(map[uuid.UUID]payment), crash: crash}
	end := int64(0)
	for in := bufio.NewReader(f); ; {
		line, err := in.ReadBytes('\n')
		if err != nil {
			break
		}
		var e entry
		if err := json.Unmarshal(bytes.TrimSpace(line), &e); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		l.paid[e.ID] = e.payment
		end += int64(len(line))
	}
	if err := f.Truncate(end); err != nil {
		return nil, err
	}
	_, err = f.Seek(end, 0)
	return l, err
}

// pay enters a payment once, durably, before the server acknowledges the message.
func (l *ledger) pay(_ context.Context, _ server.Principal, m server.Message) error {
	e := entry{ID: uuid.UUID(m.ID)}
	if err := json.Unmarshal(m.Payload, &e.payment); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if before, ok := l.paid[e.ID]; ok {
		if before != e.payment {
			return &server.Error{Code: native.CodeConflict, Reason: "the invoice was paid with another amount"} // limpet.v1 carries the code
		}
		return nil
	}
	if l.crash == "before" {
		os.Exit(1)
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := l.file.Write(append(line, '\n')); err != nil {
		os.Exit(1) // what is in the file is not known: the next start reads it
	}
	if err := l.file.Sync(); err != nil || l.crash == "after" {
		os.Exit(1)
	}
	l.paid[e.ID] = e.payment
	return nil
}

// answer says what was paid under an id.
func (l *ledger) answer(w http.ResponseWriter, r *http.Request) {
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		http.Error(w, "not an id", http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	p, ok := l.paid[id]
	l.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(p) // the client notices what is missing
}

func serve(address, name, crash string) error {
	paid, err := openLedger(name, crash)
	if err != nil {
		return err
	}
	backend, err := server.New(&server.Options{Hooks: server.Hooks{OnPublish: paid.pay}})
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
	mux.HandleFunc("GET /payments/{id}", paid.answer)
	web := http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	return web.Serve(listener)
}
