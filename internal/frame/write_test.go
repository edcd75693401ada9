package frame

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
)

func frames(ss ...string) (fs []wire.Frame) {
	for _, s := range ss {
		fs = append(fs, wire.Frame{Type: wire.Binary, Data: []byte(s)})
	}
	return fs
}

func TestWrite(t *testing.T) {
	sizes := []int{0, 1, 7, 8, 9, 125, 126, 127, 255, 256, 257, 1031, 32767, 32768, 32769, 65535, 65536, 65537, 200_001}
	var ms []wire.Frame
	rnd := rand.New(rand.NewPCG(1, 2))
	for i, n := range sizes {
		b := make([]byte, n)
		for j := range b {
			b[j] = byte(rnd.Uint32())
		}
		ms = append(ms, wire.Frame{Type: wire.FrameType(1 + i%2), Data: b})
	}
	s := &script{}
	c := New(s, Options{ReadLimit: testLimit, Kill: func() {}})
	assert.NoError(t, c.Send(ms))
	got, err := clientFrames(s.written())
	assert.NoError(t, err)
	for _, m := range ms {
		var joined strings.Builder
		for i := 0; ; i++ {
			if len(got) == 0 {
				t.Fatalf("message of %d bytes is missing", len(m.Data))
			}
			f := got[0]
			got = got[1:]
			want := byte(0)
			if i == 0 {
				want = byte(m.Type)
			}
			if f.first&^finBit != want || len(f.payload) > fragment {
				t.Fatalf("fragment %d of %d bytes is %v", i, len(m.Data), f)
			}
			joined.WriteString(f.payload)
			if f.first&finBit != 0 {
				break
			}
		}
		if joined.String() != string(m.Data) {
			t.Errorf("message of %d bytes arrives otherwise", len(m.Data))
		}
	}
	if len(got) != 0 {
		t.Errorf("%d frames too many", len(got))
	}
}

func TestMaskKeysDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 3 {
		s := &script{}
		c := New(s, Options{ReadLimit: testLimit, Kill: func() {}})
		assert.NoError(t, c.Send(frames(slices.Repeat([]string{""}, 1000)...)))
		for b := s.written(); len(b) > 0; b = b[6:] {
			seen[string(b[2:6])] = true
		}
	}
	if len(seen) < 2990 {
		t.Errorf("3000 frames had %d keys", len(seen))
	}
}

func TestWritesAreJoined(t *testing.T) {
	s := &script{}
	c := New(s, Options{ReadLimit: testLimit, Kill: func() {}})
	assert.NoError(t, c.Send(frames(slices.Repeat([]string{strings.Repeat("x", 64)}, 1000)...)))
	if want := (1000*70 + writeSize - 1) / writeSize; s.writes != want {
		t.Errorf("1000 messages of 64 bytes took %d writes, want %d", s.writes, want)
	}
}

// pipe returns both ends of a connection in a bubble's network.
func pipe(t *testing.T, buffer int) (client, server net.Conn) {
	t.Helper()
	return Pipe(t, buffer)
}

// Pipe is set by the external tests: the network in memory imports the server, which imports
// this package.
var Pipe func(t *testing.T, buffer int) (client, server net.Conn)

func over(nc net.Conn) *Conn {
	return New(nc, Options{ReadLimit: testLimit, Kill: func() { nc.Close() }})
}

// record collects what a peer receives.
type record struct {
	mu  sync.Mutex
	b   []byte
	end error
}

func (r *record) from(nc net.Conn) {
	b := make([]byte, 1000)
	for {
		n, err := nc.Read(b)
		r.mu.Lock()
		r.b = append(r.b, b[:n]...)
		r.end = err
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (r *record) frames(t *testing.T) []string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	fs, err := clientFrames(r.b)
	if err != nil && err != errCut {
		t.Error(err)
	}
	return codes(fs)
}

// A peer that pings and does not read: the reader continues, the newest pongs are
// kept, and they are written before the waiting data.
func TestPongsOfAStalledPeer(t *testing.T) {
	for _, buffer := range []int{256, 4 << 10} {
		synctest.Test(t, func(t *testing.T) {
			client, peer := pipe(t, buffer)
			c := over(client)
			go func() {
				for err := error(nil); err == nil; {
					_, err = c.Receive(false)
				}
			}()
			wrote := make(chan error, 1)
			go func() { wrote <- c.Send(frames(strings.Repeat("d", 3*fragment))) }()
			synctest.Wait()
			const pings = 300
			for i := range pings {
				if _, err := peer.Write(part(0x89, fmt.Sprintf("%0100d", i))); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			var r record
			go r.from(peer)
			assert.NoError(t, <-wrote)
			synctest.Wait()
			got := r.frames(t)
			c.Close(1000, "", time.Second)
			// One fragment is in transit, then the pongs follow, then the rest.
			kept := maxPongs / 101
			if len(got) != kept+3 {
				t.Fatalf("%d frames: %q", len(got), got)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			fs, _ := clientFrames(r.b)
			if fs[0].first != 0x02 || fs[kept+1].first != 0x00 || fs[kept+2].first != 0x80 {
				t.Errorf("order: %q", got)
			}
			for i, f := range fs[1 : kept+1] {
				if want := fmt.Sprintf("%0100d", pings-kept+i); f.first != 0x8a || f.payload != want {
					t.Errorf("pong %d is %v, want %s", i, f, want)
				}
			}
		})
	}
}

func TestPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, peer := pipe(t, 256)
		c := over(client)
		var r record
		go r.from(peer)
		assert.NoError(t, c.Ping())
		synctest.Wait()
		if got := r.frames(t); !slices.Equal(got, []string{`0x89 ""`}) {
			t.Errorf("sent %q", got)
		}
		peer.Close()
		synctest.Wait()
		var err error
		for range 3 {
			err = c.Ping()
		}
		if err == nil {
			t.Error("a ping on a closed connection succeeds")
		}
		client.Close()
	})
}

// Close with every kind of peer, with and without a reader: it is bounded and sends
// one close frame and nothing after it.
func TestCloseIsBounded(t *testing.T) {
	const within = time.Second
	for name, tc := range map[string]struct {
		peer   func(nc net.Conn, hear func())
		sooner bool // than the bound
		sent   []string
	}{
		"answers and closes": {func(nc net.Conn, hear func()) {
			go hear()
			<-time.After(time.Millisecond)
			nc.Write(bye)
			nc.Close()
		}, true, []string{"close 4321"}},
		"answers and leaves it open": {func(nc net.Conn, hear func()) {
			nc.Write(bye)
			hear()
		}, false, nil},
		"never answers": {func(nc net.Conn, hear func()) { hear() }, false, []string{"close 4321"}},
		"never reads":   {func(nc net.Conn, hear func()) { <-time.After(time.Minute) }, false, nil},
		"stalls inside a frame": {func(nc net.Conn, hear func()) {
			nc.Write([]byte{0x82, 100, 'x'})
			hear()
		}, false, []string{"close 4321"}},
		"sends endlessly": {func(nc net.Conn, hear func()) {
			go hear()
			for err := error(nil); err == nil; {
				_, err = nc.Write(binmsg("more"))
				<-time.After(time.Millisecond)
			}
		}, false, []string{"close 4321"}},
		"breaks the protocol": {func(nc net.Conn, hear func()) {
			nc.Write([]byte{0x83, 0})
			hear()
		}, false, nil},
		"closes at once": {func(nc net.Conn, hear func()) { nc.Close() }, true, nil},
	} {
		for _, reader := range []bool{false, true} {
			for _, writer := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/reader %v/writer %v", name, reader, writer), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						client, nc := pipe(t, 256)
						c := over(client)
						var r record
						var all sync.WaitGroup
						all.Go(func() { tc.peer(nc, func() { r.from(nc) }) })
						if writer {
							all.Go(func() {
								for err := error(nil); err == nil; time.Sleep(time.Millisecond) {
									err = c.Send(frames("some data"))
								}
							})
						}
						if reader {
							all.Go(func() {
								for err := error(nil); err == nil; {
									_, err = c.Receive(false)
								}
							})
						}
						at := time.Now()
						c.Close(4321, "reason", within)
						took := time.Since(at)
						if took > within || tc.sooner && took > within/2 {
							t.Errorf("took %v", took)
						}
						c.Close(4322, "again", within)
						if err := c.Send(frames("late")); err == nil {
							t.Error("a write after Close succeeds")
						}
						if _, err := c.Receive(false); err == nil {
							t.Error("a read after Close succeeds")
						}
						nc.Close()
						all.Wait()
						got := r.frames(t)
						got = slices.DeleteFunc(got, func(f string) bool { return f == `0x82 "some data"` })
						if tc.sent != nil && !slices.Equal(got, tc.sent) {
							t.Errorf("sent %q, want %q", got, tc.sent)
						}
					})
				})
			}
		}
	}
}

// Nothing follows the close frame, not even the rest of the message that was
// being written.
func TestCloseInsideAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, nc := pipe(t, 256)
		c := over(client)
		wrote := make(chan error, 1)
		go func() { wrote <- c.Send(frames(strings.Repeat("d", 10*fragment), "next")) }()
		synctest.Wait()
		closed := make(chan struct{})
		go func() { defer close(closed); c.Close(4321, "", time.Second) }()
		synctest.Wait()
		var r record
		go r.from(nc)
		assert.ErrorIs(t, <-wrote, ErrClosing)
		<-closed
		nc.Close()
		synctest.Wait()
		if got := r.frames(t); len(got) != 2 || got[1] != "close 4321" {
			t.Errorf("sent %q", got)
		}
	})
}

// A refused frame: the close code arrives even if the peer continues to send, which
// a reset would prevent.
func TestRefusalArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, nc := pipe(t, 4096)
		c := over(client)
		go func() {
			nc.Write([]byte{0x83, 0})
			for range 100 {
				nc.Write(binmsg(big[:1000]))
			}
			nc.(interface{ CloseWrite() error }).CloseWrite()
		}()
		_, err := c.Receive(false)
		var refused *wire.CodeError
		if !errors.As(err, &refused) {
			t.Fatal(err)
		}
		var r record
		done := make(chan struct{})
		go func() { defer close(done); r.from(nc) }()
		at := time.Now()
		c.Close(refused.Code, refused.Reason, time.Second)
		if took := time.Since(at); took > 10*time.Millisecond {
			t.Errorf("took %v although the stream ended", took)
		}
		<-done
		if got := r.frames(t); !slices.Equal(got, []string{"close 1002"}) || r.end != io.EOF {
			t.Errorf("the peer saw %q and %v", got, r.end)
		}
	})
}

// The answer to the peer's close frame is sent before the connection is abandoned,
// and Close with code 0 sends nothing else.
func TestAbandon(t *testing.T) {
	for _, peerFirst := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			client, nc := pipe(t, 4096)
			c := over(client)
			var r record
			go r.from(nc)
			if peerFirst {
				nc.Write(part(0x88, closing(4001, "why")))
				_, err := c.Receive(false)
				if ce := assert.ErrorAs[*CloseError](t, err); ce.Code != 4001 || ce.Reason != "why" {
					t.Errorf("%v", ce)
				}
			}
			at := time.Now()
			c.Close(0, "", time.Second)
			if took := time.Since(at); took > time.Second || !peerFirst && took > 0 {
				t.Errorf("took %v", took)
			}
			nc.Close()
			synctest.Wait()
			var want []string
			if peerFirst {
				want = []string{"close 4001"}
			}
			if got := r.frames(t); !slices.Equal(got, want) {
				t.Errorf("sent %q", got)
			}
		})
	}
}

func TestCloseFrames(t *testing.T) {
	for _, tc := range []struct {
		code   uint16
		reason string
		want   string
	}{
		{1000, "", closing(1000, "")},
		{4000, strings.Repeat("é", 100), closing(4000, strings.Repeat("é", 61))},
		{4000, "bad \xff text", closing(4000, "bad � text")},
		{1005, "ignored", ""},
		{1006, "not allowed", closing(1011, "not allowed")},
		{5000, "", closing(1011, "")},
	} {
		s := &script{}
		c := New(s, Options{ReadLimit: testLimit, Kill: func() {}})
		c.Close(tc.code, tc.reason, time.Hour)
		got, err := clientFrames(s.written())
		if err != nil || len(got) != 1 || got[0] != (sent{0x88, tc.want}) {
			t.Errorf("%d %q: %v, %v", tc.code, tc.reason, got, err)
		}
	}
}

// When no goroutine may be started any more, the next writer writes the pong.
func TestPongWithoutGoroutine(t *testing.T) {
	s := &script{in: part(0x89, "p")}
	c := New(s, Options{ReadLimit: testLimit, Kill: func() {}, Go: func(func()) bool { return false }})
	c.Receive(false)
	assert.NoError(t, c.Send(frames("x")))
	got, err := clientFrames(s.written())
	if err != nil || !slices.Equal(codes(got), []string{`0x8a "p"`, `0x82 "x"`}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestWriteErrorIsFinal(t *testing.T) {
	s := &script{fail: io.ErrClosedPipe}
	c := New(s, Options{ReadLimit: testLimit, Kill: func() {}})
	for range 2 {
		assert.ErrorIs(t, c.Send(frames("x")), io.ErrClosedPipe)
	}
	assert.ErrorIs(t, c.Ping(), io.ErrClosedPipe)
	c.Close(1000, "", time.Hour)
}

func TestWritersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, nc := pipe(t, 256)
		c := over(client)
		var r record
		go r.from(nc)
		go func() {
			for err := error(nil); err == nil; {
				_, err = c.Receive(false)
			}
		}()
		var all sync.WaitGroup
		for w := range 4 {
			all.Go(func() {
				for i := range 50 {
					if w == 3 {
						nc.Write(part(0x89, "p"))
						c.Ping()
					} else if err := c.Send(frames(fmt.Sprint(w, " ", i), strings.Repeat("y", 500))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		synctest.Wait()
		next, data, pongs := map[string]int{}, 0, 0
		for _, f := range r.frames(t) {
			switch {
			case f == "0x82 500 bytes":
				data++
			case f == `0x8a "p"`:
				pongs++
			case f == `0x89 ""`:
			default:
				var w string
				var i int
				fmt.Sscanf(f, "0x82 %q", &w)
				fmt.Sscanf(w, "%1s %d", &w, &i)
				if i != next[w] {
					t.Errorf("message %d of writer %s comes when %d is next", i, w, next[w])
				}
				next[w]++
			}
		}
		if data != 150 || pongs != 50 || len(next) != 3 {
			t.Errorf("%d messages, %d pongs, %v", data, pongs, next)
		}
		client.Close()
	})
}
