// Outcomes publishes orders to a server that answers each with its id, {"id":7,"ok":true}.
// The server speaks JSON of its own, described by two functions. Run it with -demo: the
// connection breaks in the middle, and each order's outcome says what is known about it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
)

// order is a message to the server, and answer what it says about one.
type order struct {
	ID   uint64          `json:"id"`
	Data json.RawMessage `json:"order"`
}

type answer struct {
	ID    uint64
	OK    bool
	Error string
}

func main() {
	url := flag.String("url", "wss://example.com/orders", "the server")
	flag.Parse()
	dialect, err := feed.NewFuncs(feed.Funcs{Name: "orders", Acks: true, Publish: write, Read: read})
	if err != nil {
		log.Fatal(err)
	}
	client, err := limpet.New(*url, &limpet.Options{Dialect: dialect, Logger: slog.Default()})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	out := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(out, "order\toutcome\twhat to do")
	var receipts []*limpet.Receipt
	for n := 1; n <= 6; n++ {
		// An order that may be placed twice is sent again after a loss: the server knows its id.
		o := new(limpet.PublishOptions)
		if n == 4 {
			o.Resend = limpet.AtLeastOnce
		}
		r, err := client.Publish(context.Background(), "orders", fmt.Appendf(nil, `{"pearls":%d}`, n), o)
		if err != nil {
			log.Fatal(err)
		}
		receipts = append(receipts, r)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i, r := range receipts {
		_, err := r.Wait(ctx)
		fmt.Fprintf(out, "%d\t%s\t%s\n", i+1, r.Outcome(), advice(r.Outcome(), err))
	}
	out.Flush()
}

// advice says what a program can do after an outcome.
func advice(o limpet.Outcome, err error) string {
	switch o {
	case limpet.Acked:
		return "nothing: the server has it"
	case limpet.Rejected:
		return "change it: " + err.Error()
	case limpet.Unknown:
		return "ask the server: the connection broke before its answer"
	default:
		return fmt.Sprintf("publish it again if it is still wanted: %v", err)
	}
}

func write(cmd uint64, m wire.Message) ([]byte, error) { return json.Marshal(order{cmd, m.Payload}) }

func read(data []byte, say func(feed.Item)) error {
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		return err
	}
	switch {
	case a.ID == 0:
		return errors.New("no answer to an order")
	case a.OK:
		say(feed.Item{Kind: feed.Answered, ID: a.ID})
	default:
		say(feed.Item{Kind: feed.Refused, ID: a.ID, Reason: a.Error})
	}
	return nil
}
