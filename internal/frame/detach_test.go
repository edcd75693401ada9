package frame

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// What Receive has returned stays unchanged while Close continues to read: its
// receiver may still use it on another goroutine.
func TestCloseLeavesTheBatchAlone(t *testing.T) {
	for _, size := range []int{10, 500, 5000, 100_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			s := &script{piece: 4096}
			for i := range 40 {
				s.in = server(s.in, 0x82, strings.Repeat(string(rune('a'+i%26)), size))
			}
			c := New(s, Options{ReadLimit: 1 << 20, Kill: func() {}, Go: func(f func()) bool { go f(); return true }})
			for range 8 { // far enough for the large buffer
				batch, err := c.Receive(false)
				if err != nil {
					t.Fatal(err)
				}
				if size >= 5000 || len(batch) > 1 {
					break
				}
			}
			batch, err := c.Receive(false)
			if err != nil {
				t.Fatal(err)
			}
			var before []string
			for _, f := range batch {
				before = append(before, string(f.Data))
			}
			c.Close(1000, "", time.Second)
			for i, f := range batch {
				if string(f.Data) != before[i] || f.Type == 0 {
					t.Fatalf("message %d of %d has changed", i+1, len(batch))
				}
			}
		})
	}
}
