package file_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/outbox/file"
)

// A client is given the store, loads it once, and commits each change. This is what it does.
func Example() {
	dir, err := os.MkdirTemp("", "outbox")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	for range 2 { // the second time it finds what the first has left
		store, err := file.Open(dir, nil)
		if errors.Is(err, outbox.ErrCorrupt) {
			fmt.Println("damaged; file.Quarantine keeps the files and starts over")
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		content, err := store.Load(ctx)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("messages to send:", len(content.Messages))
		next := content.Through + uint64(len(content.Messages)) + 1
		err = store.Commit(ctx, &outbox.Change{Messages: []outbox.Message{{Seq: next, Topic: "readings", Payload: []byte("21.5"), Added: time.Now()}}})
		fmt.Println("durable:", err == nil)
		if err := store.Close(); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// messages to send: 0
	// durable: true
	// messages to send: 1
	// durable: true
}
