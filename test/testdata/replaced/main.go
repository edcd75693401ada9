// Replaced is a program whose http.DefaultTransport is no *http.Transport.
package main

import (
	"fmt"
	"net/http"

	"github.com/limpet-go/limpet"
	_ "github.com/limpet-go/limpet/test/testdata/replaced/transport"
)

func main() {
	_, ok := http.DefaultTransport.(*http.Transport)
	c, err := limpet.New("ws://127.0.0.1:1", nil)
	if err == nil {
		c.Close()
	}
	fmt.Println("replaced:", !ok, "error:", err)
}
