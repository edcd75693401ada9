// Payments pays invoices, each once: the id of a message is made from the number of the invoice,
// and when it is not known whether a payment was made, the program asks the server.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/outbox/file"
)

// payment is a message, and an entry of the server's ledger.
type payment struct {
	Invoice string `json:"invoice"`
	Cents   int64  `json:"cents"`
}

func main() {
	url := flag.String("url", "ws://127.0.0.1:8093", "the server, one that speaks limpet.v1")
	dir := flag.String("dir", "payments.outbox", "where payments are kept until their outcome is known")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *url, *dir, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

// run pays the invoices, each written as INVOICE=CENTS.
func run(ctx context.Context, url, dir string, invoices []string) error {
	store, err := file.Open(dir, nil)
	if err != nil {
		return err
	}
	defer store.Close()
	client, err := limpet.New(url, &limpet.Options{Outbox: store})
	if err != nil {
		return err
	}
	defer func() {
		client.Close()
		<-client.Done() // before the store is closed
	}()
	for _, text := range invoices {
		invoice, cents, _ := strings.Cut(text, "=")
		p := payment{Invoice: invoice}
		if p.Cents, err = strconv.ParseInt(cents, 10, 64); err != nil || invoice == "" || p.Cents <= 0 {
			return fmt.Errorf("%q must be INVOICE=CENTS", text)
		}
		said, err := pay(ctx, client, url, p)
		if err != nil {
			return fmt.Errorf("invoice %s: %w", invoice, err)
		}
		fmt.Printf("invoice %s: %s\n", invoice, said)
	}
	return nil
}

// pay returns how it is known that p was paid. After an error it is safe to call it again, in
// another process too: the id is the same.
func pay(ctx context.Context, client *limpet.Client, url string, p payment) (string, error) {
	payload, err := json.Marshal(p)
	if err != nil {
		return "", err
	}
	for {
		// Never: after a crash the server may have paid and know nothing of the message. Ask first.
		o := &limpet.PublishOptions{ID: idOf(p.Invoice), Resend: limpet.Never}
		ack, err := client.Send(ctx, "payments", payload, o)
		switch {
		case err == nil && ack.Duplicate:
			return "was paid before", nil
		case err == nil:
			return "paid", nil
		case !errors.Is(err, limpet.ErrOutcomeUnknown):
			return "", err
		}
		found, err := ask(ctx, url, idOf(p.Invoice))
		switch {
		case err != nil:
			return "", fmt.Errorf("it is not known whether it was paid, run the program again: %w", err)
		case found == nil:
			fmt.Printf("invoice %s: unknown, and the server does not have it: sent again\n", p.Invoice)
		case *found != p:
			return "", fmt.Errorf("it was paid with %d cents, not %d", found.Cents, p.Cents)
		default:
			return "unknown, and the server has it: paid", nil
		}
	}
}

// idOf makes the id of a message from the number of the invoice. The amount is not in it: to pay
// an invoice again with another amount is a mistake, and is refused.
func idOf(invoice string) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://example.com/invoices/"+invoice))
}

// askTime bounds a question, which may be asked again.
const askTime = 10 * time.Second

// ask returns the payment that the server has under the id, or nil if it has none.
func ask(ctx context.Context, url string, id uuid.UUID) (*payment, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	url = strings.Replace(url, "ws", "http", 1) + "/payments/" + id.String()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		p := new(payment)
		return p, json.NewDecoder(response.Body).Decode(p)
	case http.StatusNotFound:
		return nil, nil
	}
	return nil, fmt.Errorf("the server answered %s", response.Status)
}
