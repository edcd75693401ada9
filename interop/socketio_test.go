package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/socketio"
)

// sioServer starts a Socket.IO server behind a link.
func sioServer(t *testing.T, args ...string) (*peer, *link) {
	t.Helper()
	p := startPeer(t, append([]string{"node", "servers/socketio.mjs"}, args...)...)
	return p, newLink(t, p.Addr)
}

func sioContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// sioClient returns a client with subscriptions to topics.
func sioClient(t *testing.T, l *link, o socketio.Options, co limpet.Options, topics ...string) (*limpet.Client, []*limpet.Subscription) {
	t.Helper()
	if co.Dialect == nil {
		co.Dialect = socketio.New(o)
	}
	co.Backoff = limpet.Backoff{First: -1, Initial: 20 * time.Millisecond, Max: 100 * time.Millisecond}
	release := l.Hold(t) // until all topics are subscribed to: the server sends at once
	client, err := limpet.New(l.URL, &co)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); <-client.Done() })
	var subs []*limpet.Subscription
	for _, topic := range topics {
		sub, err := client.Subscribe(t.Context(), topic, nil)
		if err != nil {
			t.Fatal(err)
		}
		subs = append(subs, sub)
	}
	release()
	return client, subs
}

// sioTake returns the next n messages as "topic payload", a loss as its kind.
func sioTake(t *testing.T, s *limpet.Subscription, n int) (got []string) {
	t.Helper()
	for m, err := range s.Messages(sioContext(t)) {
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		text := m.Kind.String()
		if m.Loss == nil {
			text = m.Topic + " " + string(m.Payload)
		}
		if got = append(got, text); len(got) == n {
			m.Ack()
			break
		}
	}
	return got
}

func sioSend(t *testing.T, c *limpet.Client, event, payload string, o *limpet.PublishOptions) limpet.Ack {
	t.Helper()
	ack, err := c.Send(sioContext(t), event, []byte(payload), o)
	if err != nil {
		t.Fatalf("%s: %v", event, err)
	}
	return ack
}

func sioWant(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestSocketIOEvents: events with one, no and several arguments, binary parts, replies,
// acknowledgements in both directions, and the server's pings, with recovery and without.
func TestSocketIOEvents(t *testing.T) {
	for _, args := range [][]string{{"recovery"}, {}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			p, l := sioServer(t, args...)
			rec := &sioRecorder{dialect: socketio.New(socketio.Options{Volatile: []string{"flash"}})}
			client, subs := sioClient(t, l, socketio.Options{}, limpet.Options{Dialect: rec}, socketio.All, "hello")
			all, hello := subs[0], subs[1]
			sioWant(t, sioTake(t, hello, 1), `hello {"room":1}`)
			sioWant(t, sioTake(t, all, 1), `hello {"room":1}`)
			for _, row := range []struct{ payload, contentType, reply string }{
				{`{"n":9007199254740993.0}`, "", `[{"n":9007199254740992}]`}, // JavaScript's number
				{`"text"`, socketio.TypeJSON, `["text"]`},
				{`[1, "two"]`, socketio.TypeArguments, `[1,"two"]`},
				{`[1, "two"]`, "", `[[1,"two"]]`},
				{"", "", ""},
				{"\x00\xff", socketio.TypeBinary, `["AP8="]`},
			} {
				if ack := sioSend(t, client, "echo", row.payload, &limpet.PublishOptions{Type: row.contentType}); ack.Outcome != limpet.Acked || string(ack.Reply) != row.reply {
					t.Errorf("%q: %v, %s", row.payload, ack.Outcome, ack.Reply)
				}
			}
			sioSend(t, client, "bytes", "\x01\x02", &limpet.PublishOptions{Type: socketio.TypeBinary})
			sioSend(t, client, "nested", "", nil)
			sioSend(t, client, "volatile", "", nil)
			sioWant(t, sioTake(t, all, 3), "bytes \x01\x02", `nested [{"name":"two","parts":["AQI=",{"deep":"/w=="}]},"9007199254740993"]`, `flash "light"`)
			sioSend(t, client, "ask", "", nil)
			sioWant(t, sioTake(t, all, 2), `question {"q":1}`, `answered "yes"`)
			<-time.After(1500 * time.Millisecond) // three pings of the server
			if st := client.Stats(); st.Connections != 1 || st.Malformed != 0 || st.Unrequested != 0 {
				t.Errorf("%+v", st)
			}
			p.Tell("price 2")
			sioWant(t, sioTake(t, all, 2), `price {"seq":1}`, `price {"seq":2}`)
			l.Cut(true)
			p.Tell("price 1")
			<-time.After(200 * time.Millisecond)
			l.Cut(false)
			if _, err := client.WaitState(sioContext(t), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation > 1 }); err != nil {
				t.Fatal(err)
			}
			// "flash" and "question" were of a sort that no server keeps, so the stream of all events
			// has a Reset in either case.
			if sioWant(t, sioTake(t, all, 1), "reset"); len(args) > 0 {
				sioWant(t, sioTake(t, all, 2), `price {"seq":3}`, `hello {"room":1}`)
				sioWant(t, sioTake(t, hello, 1), `hello {"room":1}`)
			} else {
				sioWant(t, sioTake(t, hello, 2), "reset", `hello {"room":1}`)
			}
			rec.save(t, strings.Join(args, ""))
		})
	}
}

// TestSocketIORecovery: what the server sends while the link is down, and what is under
// way, arrives once and in order, without a Reset; without recovery a Reset stands there.
// The server has every event that is Acked, and none twice.
func TestSocketIORecovery(t *testing.T) {
	for _, args := range [][]string{{"recovery"}, {}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			p, l := sioServer(t, args...)
			client, subs := sioClient(t, l, socketio.Options{}, limpet.Options{}, "price")
			prices := subs[0]
			if err := client.WaitReady(sioContext(t)); err != nil {
				t.Fatal(err)
			}
			p.Tell("price 3")
			seen, resets := sioSeqs(t, prices, 3)
			var receipts []*limpet.Receipt
			publish := func(n int) {
				for range n {
					r, err := client.Publish(sioContext(t), "store", fmt.Append(nil, len(receipts)), nil)
					if err != nil {
						t.Fatal(err)
					}
					receipts = append(receipts, r)
				}
			}
			for range 3 {
				publish(200)
				p.Tell("price 50")
				if _, err := receipts[0].Wait(sioContext(t)); err != nil { // some of them are Acked
					t.Fatal(err)
				}
				publish(200)
				l.Cut(true)
				gen := client.State().Generation
				p.Tell("price 5")
				<-time.After(50 * time.Millisecond)
				publish(10)
				l.Cut(false)
				if _, err := client.WaitState(sioContext(t), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation > gen }); err != nil {
					t.Fatal(err)
				}
				if client.State().Resumed != (len(args) > 0) {
					t.Errorf("resumed %v", client.State().Resumed)
				}
				if len(args) > 0 {
					more, r := sioSeqs(t, prices, 55)
					seen, resets = append(seen, more...), resets+r
				}
			}
			if len(args) > 0 {
				for i, n := range seen {
					if n != i+1 {
						t.Fatalf("price %d stands at %d: %v", n, i+1, seen)
					}
				}
				if resets != 0 || len(seen) != 3+3*55 {
					t.Errorf("%d prices, %d resets", len(seen), resets)
				}
			} else if p.Tell("price 1"); prices.Stats().Resets == 0 {
				t.Error("no Reset without recovery")
			}
			sioOutcomes(t, client, receipts)
			if l.Made() < 4 {
				t.Errorf("%d connections: the cuts had no effect", l.Made())
			}
		})
	}
}

// sioOutcomes compares the outcomes of "store" with what the server has.
func sioOutcomes(t *testing.T, client *limpet.Client, receipts []*limpet.Receipt) {
	t.Helper()
	outcomes := map[limpet.Outcome]int{}
	for _, r := range receipts {
		if _, err := r.Wait(sioContext(t)); err != nil && !errors.Is(err, limpet.ErrOutcomeUnknown) {
			t.Fatal(err)
		}
		outcomes[r.Outcome()]++
	}
	var reply [][]int
	if err := json.Unmarshal(sioSend(t, client, "stored", "", nil).Reply, &reply); err != nil || len(reply) != 1 {
		t.Fatal(err, len(reply))
	}
	stored := reply[0]
	times := map[int]int{}
	for _, n := range stored {
		times[n]++
	}
	for i, r := range receipts {
		if o := r.Outcome(); times[i] > 1 || o == limpet.Acked && times[i] != 1 || o != limpet.Acked && o != limpet.Unknown {
			t.Errorf("message %d is %v, and the server has it %d times", i, o, times[i])
		}
	}
	if outcomes[limpet.Acked] == 0 || outcomes[limpet.Unknown] == 0 {
		t.Errorf("the cuts had no effect on what was published: %v", outcomes)
	}
	t.Logf("%v, the server has %d", outcomes, len(stored))
}

// sioSeqs takes n prices and returns their numbers.
func sioSeqs(t *testing.T, s *limpet.Subscription, n int) (seqs []int, resets int) {
	t.Helper()
	for m, err := range s.Messages(sioContext(t)) {
		if err != nil {
			t.Fatalf("after %v: %v", seqs, err)
		}
		if m.Loss != nil {
			resets++
			continue
		}
		var price struct{ Seq int }
		if err := json.Unmarshal(m.Payload, &price); err != nil {
			t.Fatal(err)
		}
		if seqs = append(seqs, price.Seq); len(seqs) == n {
			break
		}
	}
	return seqs, resets
}

// sioRooms asks for a topic as for a room.
func sioRooms() socketio.Options {
	return socketio.Options{
		Join:  func(s wire.Subscribe) (string, []any) { return "join", []any{s.Topic} },
		Leave: func(topic string) (string, []any) { return "leave", []any{topic} },
		Rejected: func(_ string, arguments []byte) string {
			var reply []struct{ Error string }
			if json.Unmarshal(arguments, &reply) != nil || len(reply) == 0 {
				return ""
			}
			return reply[0].Error
		},
	}
}

// TestSocketIORooms: a room is joined, refused, left, kept by a recovered session, left there
// if it was closed in the meantime, and joined again at a server that was restarted.
func TestSocketIORooms(t *testing.T) {
	p, l := sioServer(t, "recovery")
	client, subs := sioClient(t, l, sioRooms(), limpet.Options{}, "px", "secret", "fx", "bonds")
	px, secret, fx, bonds := subs[0], subs[1], subs[2], subs[3]
	for _, s := range []*limpet.Subscription{px, fx, bonds} {
		if err := s.WaitLive(sioContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	var e *limpet.Error
	if err := secret.WaitLive(sioContext(t)); !errors.As(err, &e) || !errors.Is(err, limpet.ErrRejected) || !strings.Contains(e.Detail, "forbidden") || e.Code != socketio.CodeRejected {
		t.Errorf("a refused room: %v", err)
	}
	p.Tell("room px")
	sioWant(t, sioTake(t, px, 1), `px {"seq":1}`)
	l.Cut(true)
	p.Tell("room px")
	if _, err := client.WaitState(sioContext(t), func(s limpet.State) bool { return s.Phase != limpet.Ready }); err != nil {
		t.Fatal(err)
	}
	bonds.Close()
	l.Cut(false)
	p.Tell("room fx")
	sioWant(t, sioTake(t, px, 1), `px {"seq":2}`) // no Reset: the session was recovered
	sioWant(t, sioTake(t, fx, 1), `fx {"seq":3}`)
	if rooms := sioSend(t, client, "rooms", "", nil).Reply; string(rooms) != `[["px","fx"]]` || !client.State().Resumed {
		t.Errorf("resumed %v, the session has the rooms %s", client.State().Resumed, rooms)
	}
	fx.Close()
	sioSend(t, client, "echo", "", nil) // behind "leave"
	p.Tell("room fx")
	p.Tell("room px")
	sioWant(t, sioTake(t, px, 1), `px {"seq":5}`)
	gen := client.State().Generation
	p.Tell("restart")
	if _, err := client.WaitState(sioContext(t), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation > gen && !s.Resumed }); err != nil {
		t.Fatal(err)
	}
	if err := px.WaitLive(sioContext(t)); err != nil {
		t.Fatal(err)
	}
	p.Tell("room px")
	sioWant(t, sioTake(t, px, 2), "reset", `px {"seq":1}`)
}

// TestSocketIOAdvice: a server that is busy is asked again when it says, on the same
// connection, and answers its pings meanwhile.
func TestSocketIOAdvice(t *testing.T) {
	_, l := sioServer(t)
	rec := &sioRecorder{dialect: socketio.New(socketio.Options{Refused: func(message string, data []byte) (wire.Action, time.Duration) {
		var advice struct{ Wait int }
		if json.Unmarshal(data, &advice) != nil || advice.Wait == 0 {
			return wire.ActionDefault, 0
		}
		return wire.ActionRetryNow, time.Duration(advice.Wait) * time.Millisecond
	}})}
	auth := func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
		return limpet.Credential{Token: "busy"}, nil
	}
	began := time.Now()
	client, subs := sioClient(t, l, socketio.Options{}, limpet.Options{Dialect: rec, Auth: auth}, "hello")
	sioWant(t, sioTake(t, subs[0], 1), `hello {"room":1}`)
	if took, st := time.Since(began), client.Stats(); took < 700*time.Millisecond || st.Attempts != 1 || l.Made() != 1 {
		t.Errorf("ready after %v, %d attempts, %d connections", took, st.Attempts, l.Made())
	}
	if ack := sioSend(t, client, "echo", `1`, nil); string(ack.Reply) != "[1]" {
		t.Errorf("the reply %s", ack.Reply)
	}
	rec.save(t, "advice")
}

// TestSocketIORefusals: what ends a client, and what a new credential mends.
func TestSocketIORefusals(t *testing.T) {
	p, l := sioServer(t)
	token := func(tokens ...string) func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
		n := 0
		return func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			n++
			return limpet.Credential{Token: limpet.Secret(tokens[min(n, len(tokens))-1])}, nil
		}
	}
	for _, row := range []struct {
		name    string
		options socketio.Options
		client  limpet.Options
		class   limpet.ErrorClass // empty: it gets ready
	}{
		{"a wrong token", socketio.Options{}, limpet.Options{Auth: token("bad")}, limpet.ClassAuth},
		{"a token that is refreshed", socketio.Options{}, limpet.Options{Auth: token("bad", "good")}, ""},
		{"a namespace", socketio.Options{Namespace: "/admin"}, limpet.Options{}, ""},
		{"no namespace", socketio.Options{Namespace: "/none"}, limpet.Options{}, limpet.ClassProtocol},
		{"a wrong header", socketio.Options{}, limpet.Options{Header: http.Header{"X-Key": {"bad"}}}, limpet.ClassAuth},
		{"an object", socketio.Options{Auth: func(token string) any { return map[string]any{"token": token, "user": 7} }}, limpet.Options{}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			client, _ := sioClient(t, l, row.options, row.client)
			err := client.WaitReady(sioContext(t))
			var permanent *limpet.PermanentError
			switch {
			case row.class == "" && err != nil:
				t.Error(err)
			case row.class != "" && (!errors.As(err, &permanent) || permanent.Class != row.class):
				t.Errorf("%v, want class %s", err, row.class)
			}
		})
	}
	t.Run("a wrong path", func(t *testing.T) {
		client, _ := sioClient(t, l, socketio.Options{Path: "/wrong/"}, limpet.Options{})
		st, err := client.WaitState(sioContext(t), func(s limpet.State) bool { return s.Phase == limpet.Waiting })
		if err != nil || limpet.ClassOf(st.Cause) != limpet.ClassNetwork {
			t.Errorf("%v: %v, class %s", err, st.Cause, limpet.ClassOf(st.Cause))
		}
	})
	t.Run("a path without a slash at its end", func(t *testing.T) {
		client, _ := sioClient(t, l, socketio.Options{Path: "/socket.io"}, limpet.Options{})
		if err := client.WaitReady(sioContext(t)); err != nil {
			t.Error(err)
		}
	})
	t.Run("kicked", func(t *testing.T) {
		client, _ := sioClient(t, l, socketio.Options{NoAcks: true}, limpet.Options{})
		sioSend(t, client, "kick", "", nil)
		select {
		case <-client.Done():
		case <-sioContext(t).Done():
			t.Fatal("the client goes on")
		}
		var permanent *limpet.PermanentError
		if !errors.As(client.Err(), &permanent) || permanent.Class != limpet.ClassSession {
			t.Error(client.Err())
		}
	})
	t.Run("kicked, and returns", func(t *testing.T) {
		client, _ := sioClient(t, l, socketio.Options{NoAcks: true, Return: true}, limpet.Options{})
		sioSend(t, client, "kick", "", nil)
		if _, err := client.WaitState(sioContext(t), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation > 1 }); err != nil {
			t.Error(err)
		}
	})
	t.Run("too big", func(t *testing.T) {
		client, _ := sioClient(t, l, socketio.Options{}, limpet.Options{})
		if err := client.WaitReady(sioContext(t)); err != nil {
			t.Fatal(err)
		}
		for size, want := range map[int]error{19_900: nil, 19_990: limpet.ErrTooBig, 30_000: limpet.ErrTooBig} {
			_, err := client.Send(sioContext(t), "echo", fmt.Appendf(nil, "%q", strings.Repeat("x", size)), nil)
			if !errors.Is(err, want) {
				t.Errorf("%d bytes: %v", size, err)
			}
		}
		if n := client.Stats().Connections; n != 1 {
			t.Errorf("%d connections", n)
		}
	})
	t.Run("a server that is silent", func(t *testing.T) {
		client, _ := sioClient(t, l, socketio.Options{}, limpet.Options{})
		if err := client.WaitReady(sioContext(t)); err != nil {
			t.Fatal(err)
		}
		if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		_, err := client.WaitState(sioContext(t), func(s limpet.State) bool { return s.Phase != limpet.Ready })
		if err2 := p.cmd.Process.Signal(syscall.SIGCONT); err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if cause := client.State().Cause; !errors.Is(cause, limpet.ErrHeartbeat) {
			t.Error(cause)
		}
	})
}
