package frame

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
)

// The parts of a message are fragments of it, of which the first has the type and the last the
// end. Control frames pass between parts and between the fragments of one part.
func TestSendPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, peer := pipe(t, 1<<20)
		c := over(client)
		go func() {
			for err := error(nil); err == nil; {
				_, err = c.Receive(false)
			}
		}()
		var r record
		go r.from(peer)
		assert.NoError(t, c.SendPart(wire.Text, []byte("ab"), true, false))
		assert.NoError(t, c.Ping())
		_, err := peer.Write(part(0x89, "1"))
		assert.NoError(t, err)
		synctest.Wait()
		assert.NoError(t, c.SendPart(wire.Text, []byte(strings.Repeat("x", 2*fragment+1)), false, false))
		assert.NoError(t, c.SendPart(wire.Text, nil, false, true))
		assert.NoError(t, c.SendPart(wire.Binary, nil, true, true))
		assert.NoError(t, c.SendPart(wire.Binary, []byte("c"), true, true))
		synctest.Wait()
		r.mu.Lock()
		fs, err := clientFrames(r.b)
		r.mu.Unlock()
		assert.NoError(t, err)
		var got []string
		for _, f := range fs {
			got = append(got, fmt.Sprintf("%02x:%d", f.first, len(f.payload)))
		}
		const want = "01:2 89:0 8a:1 00:32768 00:32768 00:1 80:0 82:0 82:1"
		if text := strings.Join(got, " "); text != want {
			t.Errorf("got %s, want %s", text, want)
		}
		go c.Close(1000, "", time.Second)
		synctest.Wait()
		if err := c.SendPart(wire.Text, []byte("late"), true, true); err != ErrClosing {
			t.Errorf("after the close frame: %v", err)
		}
		peer.Close()
	})
}

// A peer that does not read gets control frames between the fragments of one part, once it does.
func TestControlFramesWithinAPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, peer := pipe(t, 1<<10)
		c := over(client)
		wrote := make(chan error, 1)
		go func() { wrote <- c.SendPart(wire.Binary, make([]byte, 3*fragment), true, true) }()
		synctest.Wait()
		go c.Ping()
		synctest.Wait()
		var r record
		go r.from(peer)
		assert.NoError(t, <-wrote)
		synctest.Wait()
		if got := r.frames(t); len(got) < 4 || !strings.Contains(strings.Join(got[1:len(got)-1], " "), "89") {
			t.Errorf("%d frames: %.200q", len(got), got)
		}
		c.Close(0, "", time.Second)
	})
}

// A text is valid in parts if and only if it is valid as a whole, wherever it is cut, and a
// fault shows in the part that holds it.
func TestTextInParts(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	pieces := []string{"a", "é", "€", "\U0001f41a", "\xff", "\xe2", "\xe2\x82", "\xf0\x9f\x90", "\xed\xa0\x80", "\xc0\xaf", "\x82"}
	for range 20_000 {
		var text []byte
		for range rnd.IntN(6) {
			text = append(text, pieces[min(rnd.IntN(2*len(pieces)), len(pieces)-1-rnd.IntN(len(pieces)))]...)
		}
		var check Text
		valid := true
		for rest := text; ; {
			n := rnd.IntN(len(rest) + 1)
			last := n == len(rest)
			valid = valid && check.Valid(rest[:n], last)
			if rest = rest[n:]; last {
				break
			}
		}
		if valid != utf8.Valid(text) {
			t.Fatalf("%q is valid: %v in parts, %v as a whole", text, valid, utf8.Valid(text))
		}
	}
	var check Text
	if check.Valid([]byte("ab\xff"), false) {
		t.Error("a fault does not show at once")
	}
}
