package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/raw"
	"nhooyr.io/websocket"
)

// pingDialect are options for a server that pings in JSON.
func pingDialect() raw.Options {
	return raw.Options{Answer: func(f wire.Frame) []byte {
		if n := jsonNumber(f, "ping"); n != nil {
			return fmt.Appendf(nil, `{"pong":%d}`, *n)
		}
		return nil
	}}
}

// noticed waits until c has lost the connection, and returns after how long and why.
func noticed(t *testing.T, c *limpet.Client) (time.Duration, error) {
	t.Helper()
	at := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	st, err := c.WaitState(ctx, func(s limpet.State) bool { return s.Phase != limpet.Ready })
	assert.NoError(t, err)
	return time.Since(at), st.Cause
}

// A client that pings in texts keeps a quiet connection, and notices a server that stops
// answering within 2.5 heartbeats. Neither pings nor answers are messages.
func TestRawClientPings(t *testing.T) {
	isPong := func(f wire.Frame) bool { return jsonNumber(f, "pong") != nil }
	for _, row := range []struct {
		name   string
		o      raw.Options
		answer func(p *plainConn)
	}{
		{"exact text", raw.Options{Ping: "ping", Pong: "pong"}, func(p *plainConn) { p.text("pong") }},
		{"by func", raw.Options{Ping: "ping", IsPong: isPong}, func(p *plainConn) { p.text(`{"pong":3}`) }},
		{"by func, binary", raw.Options{Ping: "ping", IsPong: isPong}, func(p *plainConn) { p.binary(`{"pong":3}`) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				srv := newPlainServer(t, func(p *plainConn) {
					for p.read() == "text ping" {
						if time.Since(began) < 10*time.Minute {
							row.answer(p)
						}
					}
				})
				c, subs := srv.client(t, row.o, limpet.Options{Heartbeat: limpet.Heartbeat{Interval: 10 * time.Second}}, "*")
				time.Sleep(10 * time.Minute)
				pings := strings.Count(srv.all(), "text ping")
				if st := c.State(); st.Generation != 1 || st.Phase != limpet.Ready || pings < 58 || pings > 61 {
					t.Fatalf("%d pings, %+v", pings, st)
				}
				took, cause := noticed(t, c)
				if !errors.Is(cause, limpet.ErrHeartbeat) || took < 15*time.Second || took > 25*time.Second {
					t.Errorf("after %v: %v", took, cause)
				}
				if n := subs[0].Stats().Received; n != 0 {
					t.Errorf("%d messages", n)
				}
			})
		})
	}
}

// A server that pings in texts gets each answer at once, and no ping is a message. A server
// that is gone is noticed within 2.5 heartbeats.
func TestRawServerPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answered := 0
		srv := newPlainServer(t, func(p *plainConn) {
			if p.number > 1 {
				return
			}
			answers := make(chan string, 100)
			go func() {
				defer close(answers)
				for answer := p.read(); answer != ""; answer = p.read() {
					answers <- answer
				}
			}()
			for n := range 40 {
				p.text(fmt.Sprintf(`{"ping":%d}`, n), "a")
				time.Sleep(5 * time.Second) // longer is no answer
				select {
				case answer := <-answers:
					if answer == fmt.Sprintf(`text {"pong":%d}`, n) {
						answered++
					}
				default:
				}
				time.Sleep(10 * time.Second)
			}
			<-answers
		})
		c, subs := srv.client(t, pingDialect(), limpet.Options{Heartbeat: limpet.Heartbeat{Interval: 10 * time.Second}}, "*")
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		if n := subs[0].Stats().Received; answered != 40 || n != 40 || c.State().Generation != 1 {
			t.Errorf("%d of 40 pings answered, %d messages, connection %d", answered, n, c.State().Generation)
		}
		srv.host.Network.Strike(limpettest.BlackHole(limpettest.Both))
		if took, cause := noticed(t, c); !errors.Is(cause, limpet.ErrHeartbeat) || took < 15*time.Second || took > 25*time.Second {
			t.Errorf("after %v: %v", took, cause)
		}
	})
}

// Pings that a peer sends and never reads the answers of take a bounded number of answers.
func TestRawAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := 0
		srv := newPlainServer(t, func(p *plainConn) {
			for n := range 5000 {
				p.text(fmt.Sprintf(`{"ping":%d}`, n))
			}
			time.Sleep(5 * time.Second)
			for strings.HasPrefix(p.read(), "text {\"pong\"") {
				answers++
			}
		})
		srv.host = limpettest.NewHandler(t, http.HandlerFunc(srv.serve), &limpettest.HostOptions{Network: &limpettest.NetworkOptions{Buffer: 256}})
		c, _ := srv.client(t, pingDialect(), limpet.Options{Heartbeat: rareHeartbeats})
		time.Sleep(time.Minute)
		synctest.Wait()
		if answers < 1000 || answers > 4999 || c.State().Generation != 1 {
			t.Errorf("%d answers on connection %d", answers, c.State().Generation)
		}
	})
}

// Whatever a server sends, the client goes on: a text that is not UTF-8 costs the
// connection, a function that panics too, and what a function makes of a message is
// checked.
func TestRawHostileServer(t *testing.T) {
	long := strings.Repeat("x", 5000)
	panics := func(f wire.Frame) bool {
		if string(f.Data) == "panic" {
			panic("broken IsPong")
		}
		return false
	}
	echo := raw.Options{
		IsPong: panics,
		Answer: func(f wire.Frame) []byte {
			if answer, found := strings.CutPrefix(string(f.Data), "ping "); found {
				return []byte(answer)
			}
			return nil
		},
		Topic: func(f wire.Frame) raw.Label {
			topic, _, _ := strings.Cut(string(f.Data), ":")
			return raw.Label{Topic: topic}
		},
	}
	for _, plain := range bothFrameLayers() {
		for _, row := range []struct {
			name, first string
			code        websocket.StatusCode // of the client's close frame; 0: the connection stays
			malformed   uint64
		}{
			{"not UTF-8", "a:\xff", websocket.StatusInvalidFramePayloadData, 0},
			{"panic", "panic", websocket.StatusInternalError, 0},
			{"long answer", "ping " + long, 0, 1},
			{"long topic", long + ":", 0, 1},
			{"control character in a topic", "\x00:", 0, 1},
		} {
			t.Run(fmt.Sprintf("%s, plain %v", row.name, plain), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var closed websocket.StatusCode
					srv := newPlainServer(t, func(p *plainConn) {
						if p.number == 1 {
							p.text(row.first)
							if row.code != 0 {
								_, _, err := p.ws.Read(context.Background())
								closed = websocket.CloseStatus(err)
								return
							}
						}
						p.text("a:1")
					})
					c, subs := srv.client(t, echo, limpet.Options{PlainFrames: plain}, "a")
					want := uint64(1)
					if row.code != 0 {
						want = 2
						_, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
						assert.NoError(t, err)
						var pe *limpet.PanicError
						if cause := c.State().Cause; errors.As(cause, &pe) != (row.name == "panic") {
							t.Errorf("cause %v", cause)
						}
					}
					text := payloads(collect(t, subs[0], int(want)))
					if text != map[uint64]string{1: "a:1", 2: "reset a:1"}[want] {
						t.Error(text)
					}
					synctest.Wait()
					if st := c.Stats(); st.Malformed != row.malformed || st.Connections != want || closed != row.code || srv.all() != "" {
						t.Errorf("%+v, closed with %d, heard %q", st, closed, srv.all())
					}
				})
			})
		}
	}
}

// A pong that the server sends of its own accord is not taken for a late answer to a ping.
func TestPongsWithoutAPing(t *testing.T) {
	for _, plain := range bothFrameLayers() {
		synctest.Test(t, func(t *testing.T) {
			host := limpettest.NewHandler(t, rawServer(func(nc net.Conn) {
				stop := make(chan struct{})
				var all sync.WaitGroup
				defer all.Wait()
				defer close(stop)
				all.Go(func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(time.Second):
							nc.Write([]byte{0x8a, 0})
						}
					}
				})
				answerPings(nc)
			}), &limpettest.HostOptions{Network: &limpettest.NetworkOptions{Up: 10 * time.Millisecond, Down: 10 * time.Millisecond}})
			c, err := limpet.Dial(t.Context(), host.URL(), options(&limpet.Options{
				HTTPClient: host.HTTPClient(), Dialect: raw.New(raw.Options{}), PlainFrames: plain,
				Heartbeat: limpet.Heartbeat{Interval: 10 * time.Second}, Histograms: true,
			}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			time.Sleep(55 * time.Second)
			st, h := c.Stats(), c.Histograms().Ping
			if st.PingRTT > 50*time.Millisecond || h.Count < 3 || h.Sum > time.Duration(h.Count)*50*time.Millisecond {
				t.Errorf("plain %v: %v, %d pings in %v", plain, st.PingRTT, h.Count, h.Sum)
			}
		})
	}
}

// answerPings answers each ping until nc ends.
func answerPings(nc net.Conn) {
	for {
		var head [6]byte
		if _, err := io.ReadFull(nc, head[:]); err != nil {
			return
		}
		payload := make([]byte, head[1]&0x7f)
		if _, err := io.ReadFull(nc, payload); err != nil {
			return
		}
		for i := range payload {
			payload[i] ^= head[2+i%4]
		}
		if head[0] == 0x89 {
			nc.Write(append([]byte{0x8a, byte(len(payload))}, payload...))
		}
	}
}
