package frame

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
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

// There is one close frame, and the first reason counts: that of this side, even if
// the peer closes before it is written.
func TestFirstCloseFrameCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, peer := pipe(t, 256)
		c := over(client)
		go func() {
			for err := error(nil); err == nil; {
				_, err = c.Receive(false)
			}
		}()
		go c.Send(frames(strings.Repeat("d", 3*fragment)))
		synctest.Wait() // the write is stuck
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			c.Close(4000, "ours", time.Minute)
		}()
		synctest.Wait()
		if _, err := peer.Write(part(0x88, closing(1000, "theirs"))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var r record
		go r.from(peer)
		synctest.Wait()
		if got := r.frames(t); len(got) < 2 || got[len(got)-1] != "close 4000" {
			t.Errorf("%q", got)
		}
		peer.Close()
		<-closed
	})
}
