package limpettest_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/limpettest"
)

const (
	upgradeRequest = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	upgradeAnswer  = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)

// wsFrame is one WebSocket frame, masked if dir is Up.
func wsFrame(dir limpettest.Direction, fin bool, opcode byte, payload string) string {
	b := []byte{opcode, 0}
	if fin {
		b[0] |= 0x80
	}
	switch {
	case len(payload) < 126:
		b[1] = byte(len(payload))
	case len(payload) < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(len(payload)))
	}
	if dir == limpettest.Up {
		b[1] |= 0x80
		key := [4]byte{0x11, 0x22, 0x33, 0x44}
		b = append(b, key[:]...)
		for i := range len(payload) {
			b = append(b, payload[i]^key[i%4])
		}
		return string(b)
	}
	return string(b) + payload
}

func text(dir limpettest.Direction, payload string) string { return wsFrame(dir, true, 1, payload) }

// upgraded returns a pair after the upgrade, with the fault f.
func upgraded(t *testing.T, n *limpettest.Network, f limpettest.Fault) (client, server net.Conn) {
	t.Helper()
	n.Inject(f)
	client, server = pair(t, n)
	mustWrite(t, client, upgradeRequest)
	mustRead(t, server, upgradeRequest)
	mustWrite(t, server, upgradeAnswer)
	mustRead(t, client, upgradeAnswer)
	return client, server
}

func bubble(t *testing.T, name string, f func(t *testing.T, n *limpettest.Network)) {
	for _, buffer := range []int{0, 256} {
		t.Run(fmt.Sprintf("%s/buffer %d", name, buffer), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f(t, limpettest.NewNetwork(&limpettest.NetworkOptions{Buffer: buffer}))
			})
		})
	}
}

func TestRefuse(t *testing.T) {
	bubble(t, "", func(t *testing.T, n *limpettest.Network) {
		ln, err := n.Listen("127.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		n.Inject(limpettest.Refuse(2), limpettest.Clean(), limpettest.Refuse(0), limpettest.Refuse(1))
		n.Each(func(dial int) limpettest.Fault {
			if dial == 6 {
				return limpettest.Refuse(1)
			}
			return limpettest.Clean()
		})
		if got, want := n.Script().String(), "Refuse(2),\nClean(),\nRefuse(0),\nRefuse(1)"; got != want {
			t.Errorf("script %s, want %s", got, want)
		}
		for i, refused := range []bool{true, true, false, true, false, true, false} {
			c, err := n.DialContext(t.Context(), "tcp", "127.0.0.1:80")
			if errors.Is(err, syscall.ECONNREFUSED) != refused {
				t.Errorf("dial %d: %v", i+1, err)
			}
			if err == nil {
				_ = c.Close()
			}
			time.Sleep(time.Second)
		}
		dials := n.Dials()
		if len(dials) != 7 || dials[5].Fault.String() != "Refuse(1)" || dials[6].At.Sub(dials[0].At) != 6*time.Second {
			t.Errorf("dials: %v", dials)
		}
		_ = ln.Close()
	})
}

func TestRefuseUpgrade(t *testing.T) {
	bubble(t, "", func(t *testing.T, n *limpettest.Network) {
		if _, err := n.Listen("127.0.0.1:80"); err != nil { // nothing accepts: the network answers
			t.Fatal(err)
		}
		n.Inject(limpettest.RefuseUpgrade(503, http.Header{"Retry-After": {"7"}}))
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://127.0.0.1:80/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "websocket")
		resp, err := n.HTTPClient().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "7" || resp.Header.Get("Date") == "" {
			t.Errorf("%s %v %q %v", resp.Status, resp.Header, body, err)
		}
		_ = resp.Body.Close()
		synctest.Wait()
		if n.Conns() != 0 {
			t.Errorf("%d connections open", n.Conns())
		}
	})
}

func TestCutAndReset(t *testing.T) {
	for _, c := range []struct {
		fault limpettest.Fault
		read  error
		write error
	}{
		{limpettest.CutAfterFrames(limpettest.Down, 2), io.EOF, syscall.EPIPE},
		{limpettest.ResetAfterFrames(limpettest.Down, 2), syscall.ECONNRESET, syscall.ECONNRESET},
		{limpettest.CutAfterBytes(limpettest.Down, 10).Upgraded(), io.EOF, syscall.EPIPE},
		{limpettest.ResetAfterBytes(limpettest.Down, len(upgradeAnswer)+10), syscall.ECONNRESET, syscall.ECONNRESET},
	} {
		bubble(t, c.fault.String(), func(t *testing.T, n *limpettest.Network) {
			client, server := upgraded(t, n, c.fault)
			if strings.Contains(c.fault.String(), "Frames") { // control frames do not count
				mustWrite(t, server, wsFrame(limpettest.Down, true, 9, "ping"))
				mustRead(t, client, wsFrame(limpettest.Down, true, 9, "ping"))
			}
			three := text(limpettest.Down, "one") + text(limpettest.Down, "two") + text(limpettest.Down, "three")
			mustWrite(t, server, three) // the write that reaches the count succeeds
			mustRead(t, client, three[:10])
			wantReadErr(t, client, c.read)
			wantReadErr(t, server, c.read)
			wantWriteErr(t, client, c.write)
			wantWriteErr(t, server, c.write)
			if n.Conns() != 0 {
				t.Errorf("%d connections open", n.Conns())
			}
		})
	}
}

// Frames are found whatever their size, masking and fragmentation, and however
// the bytes are cut into writes.
func TestFrameCounting(t *testing.T) {
	for _, dir := range []limpettest.Direction{limpettest.Up, limpettest.Down} {
		frames := []string{
			text(dir, ""), wsFrame(dir, false, 2, strings.Repeat("x", 126)), wsFrame(dir, true, 10, "pong"),
			wsFrame(dir, true, 0, strings.Repeat("y", 70000)), text(dir, "\x81\x00\x81\x00"),
		}
		all := strings.Join(frames, "")
		kept := len(all) - len(frames[4]) // four data frames; the pong counts for nothing
		for _, piece := range []int{1, 7, len(all)} {
			bubble(t, fmt.Sprintf("%s by %d", dir, piece), func(t *testing.T, n *limpettest.Network) {
				client, server := upgraded(t, n, limpettest.CutAfterFrames(dir, 3))
				from, to := client, server
				if dir == limpettest.Down {
					from, to = server, client
				}
				go func() {
					for rest := all; rest != ""; {
						k := min(piece, len(rest))
						if _, err := io.WriteString(from, rest[:k]); err != nil {
							if !errors.Is(err, syscall.EPIPE) {
								t.Error(err)
							}
							return
						}
						rest = rest[k:]
					}
				}()
				got, err := io.ReadAll(to)
				if err != nil || string(got) != all[:kept] {
					t.Errorf("%d bytes passed, %v; want %d", len(got), err, kept)
				}
			})
		}
	}
}

func TestBlackHole(t *testing.T) {
	bubble(t, "both", func(t *testing.T, n *limpettest.Network) {
		client, server := upgraded(t, n, limpettest.BlackHole(limpettest.Both).AfterFrames(limpettest.Down, 1))
		mustWrite(t, server, text(limpettest.Down, "last"))
		mustRead(t, client, text(limpettest.Down, "last"))
		mustWrite(t, server, strings.Repeat("x", 100_000))
		mustWrite(t, client, strings.Repeat("y", 100_000))
		_ = server.Close() // neither end notices
		_ = client.SetReadDeadline(time.Now().Add(time.Hour))
		start := time.Now()
		wantReadErr(t, client, os.ErrDeadlineExceeded)
		if d := time.Since(start); d != time.Hour {
			t.Errorf("waited %v", d)
		}
		mustWrite(t, client, "z")
		if n.Conns() != 1 {
			t.Errorf("%d connections, want the half-open one", n.Conns())
		}
		_ = client.Close()
		if n.Conns() != 0 {
			t.Errorf("%d connections", n.Conns())
		}
	})
	bubble(t, "up", func(t *testing.T, n *limpettest.Network) {
		client, server := upgraded(t, n, limpettest.BlackHole(limpettest.Up).AfterFrames(limpettest.Up, 0))
		mustWrite(t, client, "lost")
		mustWrite(t, server, "heard")
		mustRead(t, client, "heard")
		_ = server.SetReadDeadline(time.Now().Add(time.Second))
		wantReadErr(t, server, os.ErrDeadlineExceeded)
		n.CutAll() // both ends see a cut even here
		_ = server.SetReadDeadline(time.Time{})
		wantReadErr(t, server, io.EOF)
	})
	bubble(t, "down", func(t *testing.T, n *limpettest.Network) {
		client, server := upgraded(t, n, limpettest.BlackHole(limpettest.Down).AfterFrames(limpettest.Down, 0))
		_ = server.Close()
		_ = client.SetDeadline(time.Now().Add(time.Second))
		mustWrite(t, client, strings.Repeat("x", 100_000)) // no RST comes back
		wantReadErr(t, client, os.ErrDeadlineExceeded)
	})
	bubble(t, "half close", func(t *testing.T, n *limpettest.Network) {
		client, server := upgraded(t, n, limpettest.BlackHole(limpettest.Up).AfterFrames(limpettest.Up, 0))
		if err := client.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_ = server.SetReadDeadline(time.Now().Add(time.Second))
		wantReadErr(t, server, os.ErrDeadlineExceeded)
	})
	bubble(t, "strike", func(t *testing.T, n *limpettest.Network) {
		client, server := pair(t, n)
		mustWrite(t, client, "before")
		n.Strike(limpettest.BlackHole(limpettest.Both))
		mustWrite(t, client, "after")
		mustRead(t, server, "before")
		_ = server.SetReadDeadline(time.Now().Add(time.Second))
		wantReadErr(t, server, os.ErrDeadlineExceeded)
	})
}

func TestStall(t *testing.T) {
	bubble(t, "dial", func(t *testing.T, n *limpettest.Network) {
		n.Inject(limpettest.Stall(time.Minute), limpettest.Stall(time.Minute))
		start := time.Now()
		pair(t, n)
		if d := time.Since(start); d != time.Minute {
			t.Errorf("the dial took %v, want a minute", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.DialContext(ctx, "tcp", "127.0.0.1:40001"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial: %v, want the context's end", err)
		}
	})
	bubble(t, "data", func(t *testing.T, n *limpettest.Network) {
		client, server := upgraded(t, n, limpettest.Stall(30*time.Second).AfterFrames(limpettest.Down, 1))
		start := time.Now()
		mustWrite(t, server, text(limpettest.Down, "one")+text(limpettest.Down, "two"))
		mustRead(t, client, text(limpettest.Down, "one"))
		if d := time.Since(start); d != 0 {
			t.Errorf("the first frame took %v", d)
		}
		mustWrite(t, client, text(limpettest.Up, "hello"))
		mustRead(t, server, text(limpettest.Up, "hello"))
		if d := time.Since(start); d != 30*time.Second {
			t.Errorf("the other direction took %v, want 30s", d)
		}
		mustRead(t, client, text(limpettest.Down, "two"))
		mustWrite(t, server, "x")
		mustRead(t, client, "x")
		if d := time.Since(start); d != 30*time.Second {
			t.Errorf("all took %v, want 30s", d)
		}
	})
	bubble(t, "two stalls", func(t *testing.T, n *limpettest.Network) {
		client, server := pair(t, n)
		start := time.Now()
		n.Strike(limpettest.Stall(time.Minute))
		mustWrite(t, server, "first")
		n.Strike(limpettest.Stall(time.Second))
		time.Sleep(2 * time.Second)
		mustWrite(t, client, "up")
		mustWrite(t, server, "second")
		mustRead(t, server, "up") // a later stall does not shorten an earlier one
		if d := time.Since(start); d != time.Minute {
			t.Errorf("took %v, want a minute", d)
		}
		mustRead(t, client, "firstsecond")
	})
	bubble(t, "full buffer", func(t *testing.T, n *limpettest.Network) {
		client, server := upgraded(t, n, limpettest.Stall(time.Minute).AfterFrames(limpettest.Down, 0))
		start := time.Now()
		go func() { _, _ = io.Copy(io.Discard, client) }()
		mustWrite(t, server, strings.Repeat("x", 65<<10))
		if d := time.Since(start); d != time.Minute {
			t.Errorf("a write beyond the buffer took %v, want a minute", d)
		}
		_ = client.Close()
	})
}

func TestCloseWith(t *testing.T) {
	bubble(t, "", func(t *testing.T, n *limpettest.Network) {
		client, server := upgraded(t, n, limpettest.CloseWith(4302, "restart", 1))
		mustWrite(t, server, text(limpettest.Down, "one")+text(limpettest.Down, "two"))
		mustRead(t, client, text(limpettest.Down, "one")+"\x88\x09\x10\xcerestart")
		wantReadErr(t, client, io.EOF)
		mustWrite(t, client, wsFrame(limpettest.Up, true, 8, "\x10\xce"))
		wantReadErr(t, server, io.EOF)
		wantWriteErr(t, server, syscall.EPIPE)
	})
	bubble(t, "at the upgrade", func(t *testing.T, n *limpettest.Network) {
		client, server := upgraded(t, n, limpettest.CloseWith(1012, "", 0))
		mustRead(t, client, "\x88\x02\x03\xf4")
		wantReadErr(t, client, io.EOF)
		wantReadErr(t, server, io.EOF)
	})
}

// A connection that a fault ends is ended for both sides, even after a black hole: a
// handler must be able to return.
func TestCloseWithAfterBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := limpettest.NewNetwork(nil)
		defer n.Close()
		client, server := upgraded(t, n, limpettest.Clean())
		n.Strike(limpettest.BlackHole(limpettest.Both))
		n.Strike(limpettest.CloseWith(1001, "", 0))
		if _, err := server.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the server reads %v", err)
		}
		if b, err := io.ReadAll(client); err != nil || len(b) != 4 {
			t.Errorf("the client reads %x, %v", b, err)
		}
	})
}

func TestAll(t *testing.T) {
	bubble(t, "", func(t *testing.T, n *limpettest.Network) {
		start := time.Now()
		client, server := upgraded(t, n, limpettest.All(
			limpettest.Stall(time.Second),
			limpettest.BlackHole(limpettest.Up).AfterFrames(limpettest.Up, 1),
			limpettest.CutAfterFrames(limpettest.Up, 2),
		))
		if d := time.Since(start); d != time.Second {
			t.Errorf("the dial took %v", d)
		}
		mustWrite(t, client, text(limpettest.Up, "one")+text(limpettest.Up, "two"))
		got, err := io.ReadAll(server)
		if err != nil || string(got) != text(limpettest.Up, "one") {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// An informational response is not the answer: frames are counted from the 101.
func TestInterimResponse(t *testing.T) {
	bubble(t, "", func(t *testing.T, n *limpettest.Network) {
		n.Inject(limpettest.CutAfterFrames(limpettest.Down, 1))
		client, server := pair(t, n)
		mustWrite(t, client, upgradeRequest)
		all := "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + upgradeAnswer + text(limpettest.Down, "one")
		mustWrite(t, server, all)
		got, err := io.ReadAll(bufio.NewReader(client))
		if err != nil || string(got) != all {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestFaultString(t *testing.T) {
	for _, c := range []struct {
		fault limpettest.Fault
		want  string
	}{
		{limpettest.Fault{}, `Clean()`},
		{limpettest.Refuse(3), `Refuse(3)`},
		{limpettest.RefuseUpgrade(429, http.Header{"Retry-After": {"1"}, "A": {"b", "c"}}),
			`RefuseUpgrade(429, http.Header{"A": {"b", "c"}, "Retry-After": {"1"}})`},
		{limpettest.RefuseUpgrade(503, nil), `RefuseUpgrade(503, nil)`},
		{limpettest.CutAfterBytes(limpettest.Up, 17).Upgraded(), `CutAfterBytes(Up, 17).Upgraded()`},
		{limpettest.ResetAfterFrames(limpettest.Down, 2), `ResetAfterFrames(Down, 2)`},
		{limpettest.BlackHole(limpettest.Both), `BlackHole(Both)`},
		{limpettest.BlackHole(limpettest.Up).AfterFrames(limpettest.Down, 1), `BlackHole(Up).AfterFrames(Down, 1)`},
		{limpettest.Stall(1500*time.Millisecond).AfterBytes(limpettest.Both, 9), `Stall(1500*time.Millisecond).AfterBytes(Both, 9)`},
		{limpettest.CloseWith(4302, "a \"b\"", 5), `CloseWith(4302, "a \"b\"", 5)`},
		{limpettest.All(limpettest.Refuse(1), limpettest.Clean()), `All(Refuse(1), Clean())`},
	} {
		if got := c.fault.String(); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

func TestSchedule(t *testing.T) {
	a, b := limpettest.Schedule(7, 200), limpettest.Schedule(7, 200)
	if a.String() != b.String() {
		t.Error("one seed gave two schedules")
	}
	if a.String() == limpettest.Schedule(8, 200).String() {
		t.Error("two seeds gave one schedule")
	}
	seen := map[limpettest.Kind]int{}
	for _, f := range a {
		seen[f.Kind()]++
	}
	if len(seen) != 8 {
		t.Errorf("200 faults of %d kinds, want 8: %v", len(seen), seen)
	}
	for _, f := range limpettest.Schedule(7, 50, limpettest.KindCut, limpettest.KindAll) {
		if k := f.Kind(); k != limpettest.KindCut && k != limpettest.KindAll {
			t.Errorf("%s is of kind %d", f, k)
		}
	}
}

func TestCapture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := limpettest.NewNetwork(&limpettest.NetworkOptions{Capture: true, Buffer: 100})
		client, server := upgraded(t, n, limpettest.Clean())
		go func() { _, _ = io.Copy(io.Discard, client) }()
		go func() { _, _ = io.Copy(io.Discard, server) }()
		mustWrite(t, client, text(limpettest.Up, "hello"))
		mustWrite(t, server, wsFrame(limpettest.Down, false, 2, strings.Repeat("a", 300))+
			wsFrame(limpettest.Down, true, 9, "ping")+wsFrame(limpettest.Down, true, 0, "b"))
		mustWrite(t, client, wsFrame(limpettest.Up, true, 1|0x40, "compressed"))
		mustWrite(t, client, wsFrame(limpettest.Up, false, 1, "ma")+wsFrame(limpettest.Up, true, 0, "sked"))
		_ = client.Close()
		_ = server.Close()
		want := []limpettest.Message{
			{Direction: limpettest.Up, Text: true, Data: []byte("hello")},
			{Direction: limpettest.Down, Data: []byte(strings.Repeat("a", 300) + "b")},
			{Direction: limpettest.Up, Text: true, Skipped: true},
			{Direction: limpettest.Up, Text: true, Data: []byte("masked")},
		}
		got := n.Captured()
		if len(got) != len(want) {
			t.Fatalf("%d messages, want %d", len(got), len(want))
		}
		for i, w := range want {
			g := got[i]
			if g.Conn != 1 || g.Direction != w.Direction || g.Text != w.Text || g.Skipped != w.Skipped || string(g.Data) != string(w.Data) {
				t.Errorf("message %d: %+v, want %+v", i, g, w)
			}
		}
	})
}
