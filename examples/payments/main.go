// Payments pays invoices, each at most once, whatever crashes or breaks: the id of a payment is made from
// the invoice, a payment that may have left is never sent again unasked, and if its outcome is
// Unknown, the server is asked for it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/outbox/file"
)

func main() {
	url := flag.String("url", "ws://127.0.0.1:8093", "the server, one that speaks limpet.v1 and answers GET /payments/ID")
	dir := flag.String("dir", "payments", "where payments are kept until they have an outcome")
	flag.Usage = func() { fmt.Println("usage: payments [flags] INVOICE=CENTS ..."); flag.PrintDefaults() }
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *url, *dir, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

// run pays all invoices. Run it again with the same ones after a crash: what was paid stays paid once.
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
	for _, invoice := range invoices {
		how, err := pay(ctx, client, url, invoice)
		if err != nil {
			return fmt.Errorf("%s: %w; run the program again", invoice, err)
		}
		fmt.Println(invoice, how)
	}
	return nil
}

// pay returns once the server has the payment, and says how that is known.
func pay(ctx context.Context, client *limpet.Client, url, invoice string) (string, error) {
	id := idOf(invoice)
	for {
		// Never: when in doubt, ask. If an earlier run has left this payment in the outbox, Publish
		// returns the receipt of that one.
		r, err := client.Publish(ctx, "payments", []byte(invoice), &limpet.PublishOptions{ID: id, Resend: limpet.Never})
		if err != nil {
			return "", err
		}
		ack, err := r.Wait(ctx)
		switch {
		case err == nil && ack.Duplicate:
			return "was paid before", nil
		case err == nil:
			return "paid", nil
		case ack.Outcome != limpet.Unknown:
			return "", err // Rejected says why; Stored and Pending go on with the next run
		}
		paid, err := ask(ctx, url, id)
		if err != nil {
			return "", err // still unknown: the next run asks again
		}
		if paid {
			return "paid: the outcome was unknown, and the server has it", nil
		}
		// The server does not have it. Should it still come, it has the same id as the next one: the
		// server takes one of them.
		fmt.Println(invoice, "is paid again: the outcome was unknown, and the server does not have it")
	}
}

// idOf makes the id of a payment from its invoice: the same invoice has the same one, in every run and
// on every machine. The amount is no part of it: another amount for the same invoice is refused.
func idOf(invoice string) uuid.UUID {
	number, _, _ := strings.Cut(invoice, "=")
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://example.com/invoices/"+number))
}

// ask asks the server whether it has a payment.
func ask(ctx context.Context, url string, id uuid.UUID) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	url = "http" + strings.TrimPrefix(url, "ws") + "/payments/" + id.String()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusNotFound:
		return false, nil
	}
	return false, errors.New("the server does not know: " + answer.Status)
}
