package main

import (
	"encoding/json"
	"fmt"
	"sync"

	"github.com/limpet-go/limpet/examples/internal/demo"
)

// init adds the flag -demo, so that main.go is a whole program without it.
func init() {
	s := &orders{placed: map[string]bool{}}
	demo.Flag("connect to a small server in this program; it breaks the first connection after three answers", s.serve)
}

// orders takes orders and refuses the second. On the first connection it takes the fourth
// to the sixth, too, but the connection breaks before it has answered.
type orders struct {
	mu     sync.Mutex
	placed map[string]bool // by content
}

func (s *orders) serve(c *demo.Conn) {
	for n := 1; ; n++ {
		text, err := c.Read()
		var o order
		if err != nil || json.Unmarshal([]byte(text), &o) != nil {
			return
		}
		s.mu.Lock()
		fmt.Printf("server: order %s, placed before: %v\n", o.Data, s.placed[string(o.Data)])
		s.placed[string(o.Data)] = true
		s.mu.Unlock()
		switch {
		case c.Number == 1 && n == 6:
			return
		case c.Number == 1 && n > 3:
		case string(o.Data) == `{"pearls":2}`:
			_ = c.Write(fmt.Sprintf(`{"id":%d,"error":"no credit for two pearls"}`, o.ID))
		default:
			_ = c.Write(fmt.Sprintf(`{"id":%d,"ok":true}`, o.ID))
		}
	}
}
