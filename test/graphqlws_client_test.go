package test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/graphqlws"
	"nhooyr.io/websocket"
)

// A mutation ends as the server says, and as nothing better than it says.
func TestGraphQLPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newGraphQLPeer(t, func(p *graphQLConn, ask graphQLAsk) {
			switch string(ask.Payload.Variables["n"]) {
			case "1":
				p.next(ask.ID, graphQLValue(1))
				p.complete(ask.ID)
			case "2":
				p.refuse(ask.ID, "no such account", "FORBIDDEN")
			case "3":
				p.next(ask.ID, `{"data":{"buy":null},"errors":[{"message":"market closed"}]}`)
				p.complete(ask.ID)
			case "4":
				p.next(ask.ID, `{"data":{"buy":{"seq":1,"note":null}},"errors":[{"message":"no note"}]}`)
				p.complete(ask.ID)
			case "5":
				p.complete(ask.ID)
			}
		})
		c := srv.client(t, graphQLStreams, limpet.Options{})
		for _, row := range []struct {
			payload string
			o       limpet.PublishOptions
			want    limpet.Outcome
			says    string
			code    int
		}{
			{`{"n":1}`, limpet.PublishOptions{}, limpet.Acked, "", 0},
			{`{"n":2}`, limpet.PublishOptions{}, limpet.Rejected, "no such account (FORBIDDEN)", 403},
			{`{"n":3}`, limpet.PublishOptions{}, limpet.Rejected, "market closed", 400},
			{`{"n":4}`, limpet.PublishOptions{}, limpet.Unknown, "no note", 400},
			{`{"n":5}`, limpet.PublishOptions{}, limpet.Unknown, "without a result", 0},
			{`[]`, limpet.PublishOptions{}, limpet.Rejected, "JSON object", 0},
			{`{"n":1}`, limpet.PublishOptions{Header: map[string]string{"k": "v"}}, limpet.Rejected, "PublishOptions.Header", 0},
		} {
			ack, err := c.Send(t.Context(), "buy", []byte(row.payload), &row.o)
			var e *limpet.Error
			if ack.Outcome == limpet.Acked && string(ack.Reply) != graphQLValue(1) || ack.Outcome != limpet.Acked && ack.Reply != nil {
				t.Errorf("%s: the reply is %s", row.payload, ack.Reply)
			}
			if ack.Outcome != row.want || errors.As(err, &e) != (row.says != "") || e != nil && (e.Code != row.code || !strings.Contains(e.Error(), row.says)) {
				t.Errorf("%s: %v, %v", row.payload, ack.Outcome, err)
			}
		}
		if n := len(srv.asked(`"subscribe"`)); n != 5 {
			t.Errorf("%d mutations were sent, want 5", n)
		}
		_, err := c.Publish(t.Context(), "plain", nil, nil)
		var te *graphqlws.TopicError
		if !errors.Is(err, limpet.ErrTopic) || !errors.As(err, &te) {
			t.Error(err)
		}
	})
}

// A connection that is lost in the middle: what has no answer is Unknown, also when its
// result has come and its end has not; what was not sent, or may be sent twice, is sent
// on the next connection.
func TestGraphQLPublishCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newGraphQLPeer(t, func(p *graphQLConn, ask graphQLAsk) {
			if n := string(ask.Payload.Variables["n"]); p.number == 1 && n != "1" {
				if n == "3" {
					p.next(ask.ID, graphQLValue(3))
				}
				return
			}
			p.next(ask.ID, graphQLValue(1))
			p.complete(ask.ID)
		})
		c := srv.client(t, graphQLStreams, limpet.Options{})
		publish := func(n int, again limpet.Resend) *limpet.Receipt {
			r, err := c.Publish(t.Context(), "buy", fmt.Appendf(nil, `{"n":%d}`, n), &limpet.PublishOptions{Resend: again})
			assert.NoError(t, err)
			return r
		}
		receipts := []*limpet.Receipt{publish(1, limpet.Exact), publish(2, limpet.Never), publish(3, limpet.Exact), publish(4, limpet.AtLeastOnce)}
		time.Sleep(time.Second)
		if n := len(srv.asked(`"subscribe"`)); n != 4 || receipts[1].Outcome() != limpet.Pending || receipts[2].Outcome() != limpet.Pending {
			t.Fatalf("%d were sent, %v, %v", n, receipts[1].Outcome(), receipts[2].Outcome())
		}
		srv.host.Network.CutAll()
		synctest.Wait()
		receipts = append(receipts, publish(5, limpet.Exact))
		assert.NoError(t, c.Flush(t.Context()))
		var got []string
		for _, r := range receipts {
			got = append(got, r.Outcome().String())
		}
		if text := strings.Join(got, " "); text != "acked unknown unknown acked acked" {
			t.Error(text)
		}
		var second []string
		for _, text := range srv.asked(`"subscribe"`)[4:] {
			second = append(second, text[:1]+text[strings.Index(text, `"n"`):])
		}
		if text := strings.Join(second, " "); text != `2"n":4}}} 2"n":5}}}` {
			t.Errorf("sent again: %s", text)
		}
	})
}

// A refused credential ends the client, with class auth, unless Auth has another one.
// It travels in connection_init alone.
func TestGraphQLCredentials(t *testing.T) {
	for _, row := range []struct {
		name   string
		tokens []string // that Auth returns; nil: there is no Auth
		code   websocket.StatusCode
		want   string // the tokens that the server sees
		ends   bool
	}{
		{"none", nil, 4403, "", true},
		{"a good one", []string{"good"}, 4403, "good", false},
		{"one that is refreshed", []string{"old", "good"}, 4403, "old good", false},
		{"one that is refreshed, at another server", []string{"old", "good"}, 4401, "old good", false},
		{"always a bad one", []string{"old"}, 4403, "old old", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen []string
				srv := newGraphQLPeer(t, nil)
				srv.allow = func(token string) websocket.StatusCode {
					seen = append(seen, token)
					if token == "good" {
						return 0
					}
					return row.code
				}
				var co limpet.Options
				asked := 0
				if row.tokens != nil {
					co.Auth = func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
						asked++
						return limpet.Credential{Token: limpet.Secret(row.tokens[min(asked, len(row.tokens))-1])}, nil
					}
				}
				c := srv.client(t, graphQLStreams, co)
				err := c.WaitReady(t.Context())
				var permanent *limpet.PermanentError
				if errors.As(err, &permanent) != row.ends || row.ends && permanent.Class != limpet.ClassAuth {
					t.Errorf("%v", err)
				}
				if text := strings.Join(seen, " "); text != row.want {
					t.Errorf("the server saw %q", text)
				}
				if err != nil && strings.Contains(err.Error(), "old") {
					t.Errorf("the token is in %v", err)
				}
			})
		})
	}
}

// The client pings in JSON and notices a server that stops answering; pings of the
// server get their payload back, on a connection that is ready and before.
func TestGraphQLKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		srv := newGraphQLPeer(t, nil)
		srv.silent = func() bool { return time.Since(began) >= 10*time.Minute }
		srv.allow = func(string) websocket.StatusCode {
			srv.conns[len(srv.conns)-1].say(`{"type":"ping","payload":{"before":[1]}}`)
			return 0
		}
		c := srv.client(t, graphQLStreams, limpet.Options{Heartbeat: limpet.Heartbeat{Interval: 10 * time.Second}})
		assert.NoError(t, c.WaitReady(t.Context()))
		p, _ := srv.last("")
		p.say(`{"type":"ping"}`, `{"type":"ping","payload":{"n":9007199254740993}}`)
		time.Sleep(10 * time.Minute)
		pings := len(srv.asked(`{"type":"ping"}`))
		if st := c.State(); st.Generation != 1 || st.Phase != limpet.Ready || pings < 58 || pings > 61 {
			t.Fatalf("%d pings, %+v", pings, st)
		}
		const want = `1 {"type":"pong","payload":{"before":[1]}}, 1 {"type":"pong"}, 1 {"type":"pong","payload":{"n":9007199254740993}}`
		if text := strings.Join(srv.asked(`"pong"`), ", "); text != want {
			t.Error(text)
		}
		if took, cause := noticed(t, c); !errors.Is(cause, limpet.ErrHeartbeat) || took < 15*time.Second || took > 25*time.Second {
			t.Errorf("after %v: %v", took, cause)
		}
	})
}

// A server without the message ping is asked with WebSocket pings.
func TestGraphQLControlPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newGraphQLPeer(t, nil)
		o := graphQLStreams
		o.ControlPing = true
		c := srv.client(t, o, limpet.Options{Heartbeat: limpet.Heartbeat{Interval: 10 * time.Second}})
		assert.NoError(t, c.WaitReady(t.Context()))
		time.Sleep(5 * time.Minute)
		if n := len(srv.asked("ping")); n != 0 || c.State().Generation != 1 {
			t.Errorf("%d pings in JSON, connection %d", n, c.State().Generation)
		}
		srv.host.Network.Strike(limpettest.BlackHole(limpettest.Both))
		if took, cause := noticed(t, c); !errors.Is(cause, limpet.ErrHeartbeat) || took < 15*time.Second || took > 25*time.Second {
			t.Errorf("after %v: %v", took, cause)
		}
	})
}

// What a close code of the protocol does to a client that was ready.
func TestGraphQLCloseCodes(t *testing.T) {
	for code, class := range map[websocket.StatusCode]limpet.ErrorClass{ // empty: it goes on
		4400: limpet.ClassProtocol, 4401: limpet.ClassAuth, 4403: limpet.ClassAuth, 4406: limpet.ClassProtocol, 4409: limpet.ClassProtocol,
		4408: "", 4429: "", 4499: "", 4500: "", 1000: "", 1001: "", 1011: "",
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newGraphQLPeer(t, nil)
				c := srv.client(t, graphQLStreams, limpet.Options{})
				assert.NoError(t, c.WaitReady(t.Context()))
				p, _ := srv.last("")
				go p.ws.Close(code, "as the test says")
				var permanent *limpet.PermanentError
				var e *limpet.Error
				if class == "" {
					_, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 })
					assert.NoError(t, err)
					return
				}
				<-c.Done()
				if err := c.Err(); !errors.As(err, &permanent) || permanent.Class != class || !errors.As(err, &e) || e.Code != int(code) {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// A server that does not speak the protocol: one that chooses no subprotocol, or the
// older one, and one that closes with 4406.
func TestGraphQLWrongSubprotocol(t *testing.T) {
	for _, speaks := range [][]string{nil, {"graphql-ws"}} {
		synctest.Test(t, func(t *testing.T) {
			srv := newGraphQLPeer(t, nil)
			srv.speaks = speaks
			err := srv.client(t, graphQLStreams, limpet.Options{}).WaitReady(t.Context())
			var permanent *limpet.PermanentError
			if !errors.As(err, &permanent) || permanent.Class != limpet.ClassProtocol || !errors.Is(err, limpet.ErrSubprotocol) {
				t.Errorf("%q: %v", speaks, err)
			}
			if len(srv.heard) != 0 {
				t.Errorf("%q: the server heard %q", speaks, srv.heard)
			}
		})
	}
}

// A hostile server: what cannot be read is counted, and a second connection_ack ends the
// connection.
func TestGraphQLHostileServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newGraphQLPeer(t, func(p *graphQLConn, ask graphQLAsk) { p.next(ask.ID, graphQLValue(p.number)) })
		c := srv.client(t, graphQLStreams, limpet.Options{})
		s := subscribeLive(t, c, "plain", nil)
		got := collect(t, s, 1)
		p, id := srv.last("plain")
		bad := []string{
			"", "null", "[]", "{}", `{"type":7}`, `{"type":"next"}`, `{"id":"-1","type":"complete"}`, strings.Repeat("[", 50_000),
			`{"type":"connection_init"}`, `{"id":{},"type":"next","payload":{}}`, `{"id":"5","type":"next","payload":{}} x`,
		}
		p.say(bad...)
		p.next("3", graphQLValue(0)) // an answer to a mutation that was never sent
		p.complete("3")
		p.next(id, graphQLValue(9))
		got = append(got, collect(t, s, 1)...)
		if n := c.Stats().Malformed; n != uint64(len(bad)) || c.State().Generation != 1 {
			t.Errorf("%d of %d malformed, connection %d", n, len(bad), c.State().Generation)
		}
		p.say(`{"type":"connection_ack"}`)
		got = append(got, collect(t, s, 2)...)
		if text := graphQLValues(got); text != "1 9 reset(unverifiable) 2" {
			t.Error(text)
		}
		var e *limpet.Error
		if cause := c.State().Cause; !errors.As(cause, &e) || e.Class != limpet.ClassProtocol || !strings.Contains(cause.Error(), "second connection_ack") {
			t.Errorf("%v", cause)
		}
	})
}

// Whoever sees the end of a stream finds its error at once.
func TestErrAtTheEndOfAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newGraphQLPeer(t, func(p *graphQLConn, ask graphQLAsk) { p.refuse(ask.ID, "no", "FORBIDDEN") })
		c := srv.client(t, graphqlws.Options{}, limpet.Options{})
		var missing atomic.Int64
		var consumers sync.WaitGroup
		const streams = 2000
		for i := range streams {
			s, err := c.Subscribe(t.Context(), fmt.Sprintf("subscription { s%d }", i), nil)
			assert.NoError(t, err)
			consumers.Go(func() {
				for range s.Messages(t.Context()) {
				}
				if !errors.Is(s.Err(), limpet.ErrRejected) {
					missing.Add(1)
				}
			})
			consumers.Wait()
		}
		if n := missing.Load(); n != 0 {
			t.Errorf("%d of %d streams ended without their error", n, streams)
		}
	})
}
