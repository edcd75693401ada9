package main

import (
	"encoding/json"
	"fmt"

	"github.com/limpet-go/limpet/examples/internal/demo"
)

// init adds the flag -demo, so that main.go is a whole program without it.
func init() {
	demo.Flag("connect to a small node in this program; it breaks the first connection", serve)
}

// serve is a node that announces blocks 1 and 2 on the first connection and breaks it. It
// goes on with block 5, and replaces it once.
func serve(c *demo.Conn) {
	for {
		text, err := c.Read()
		var r struct {
			ID     int
			Method string
			Params []any
		}
		if err != nil || json.Unmarshal([]byte(text), &r) != nil {
			return
		}
		if r.Method == "eth_getBlockByNumber" {
			err = c.Write(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":%s}`, r.ID, block(fmt.Sprint(r.Params[0]), "a", "a")))
		} else if err = c.Write(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":"0x%d"}`, r.ID, c.Number)); c.Number == 1 && err == nil {
			_ = c.Write(head(c, "0x1", "a"), head(c, "0x2", "a"))
			return
		} else if err == nil {
			err = c.Write(head(c, "0x5", "a"), head(c, "0x5", "b"), head(c, "0x6", "b"))
		}
		if err != nil {
			return
		}
	}
}

// block is a block on a branch. The branches a and b part after block 4.
func block(number, branch, parent string) string {
	var n int
	_, _ = fmt.Sscanf(number, "0x%x", &n)
	if n <= 5 {
		parent = "a"
	}
	return fmt.Sprintf(`{"number":%q,"hash":"%s%d","parentHash":"%s%d"}`, number, branch, n, parent, n-1)
}

func head(c *demo.Conn, number, branch string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x%d","result":%s}}`, c.Number, block(number, branch, branch))
}
