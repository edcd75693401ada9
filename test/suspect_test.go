package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	"github.com/limpet-go/limpet/wire/jsonrpc"
	"github.com/limpet-go/limpet/wire/socketio"
	"nhooyr.io/websocket"
)

// closingServer closes the connection, instead of an answer, when it is asked for a topic
// that it does not like.
type closingServer struct {
	code  websocket.StatusCode // 0: it drops the connection, without a close frame
	mu    sync.Mutex
	dead  func(topic string) bool
	conns []time.Time
}

func (s *closingServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	s.mu.Lock()
	s.conns = append(s.conns, time.Now())
	s.mu.Unlock()
	for {
		_, data, err := ws.Read(context.Background())
		var n note
		if err != nil || json.Unmarshal(data, &n) != nil {
			return
		}
		s.mu.Lock()
		dead := s.dead(n.Topic)
		s.mu.Unlock()
		if dead && s.code != 0 {
			ws.Close(s.code, "died")
		}
		if dead {
			return
		}
		ws.Write(context.Background(), websocket.MessageText, []byte(noteText(note{ID: n.ID, OK: &yes})))
	}
}

func (s *closingServer) set(dead func(topic string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = dead
}

func (s *closingServer) made() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.conns...)
}

// closingClient has a subscription to each topic, made before the first connection.
func closingClient(t *testing.T, s *closingServer, topics ...string) (*limpettest.Host, map[string]*limpet.Subscription) {
	host := limpettest.NewHandler(t, s, nil)
	host.Inject(limpettest.Stall(time.Millisecond))
	c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: ownDialect(t, nil)}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	subs := map[string]*limpet.Subscription{}
	for _, topic := range topics {
		if subs[topic], err = c.Subscribe(t.Context(), topic, nil); err != nil {
			t.Fatal(err)
		}
	}
	return host, subs
}

// A broker may answer a request for a queue that does not exist by closing the connection.
// The other subscriptions become live all the same, the connection is lost ever more
// rarely, and the bad subscription ends with an error that says so.
func TestOneSubscriptionCostsTheOthersTheirConnection(t *testing.T) {
	for name, code := range map[string]websocket.StatusCode{"normal": 1000, "internal": 1011} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &closingServer{code: code, dead: func(topic string) bool { return topic == "bad" }}
				_, subs := closingClient(t, s, "a", "bad", "c")
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				for _, topic := range []string{"a", "c"} {
					if st := subs[topic].State(); st.Phase != limpet.SubLive {
						t.Errorf("after 2 minutes %s is %s: %v", topic, st.Phase, st.Err)
					}
				}
				if n := len(s.made()); n < 3 {
					t.Fatalf("%d connections: the fault had no effect", n)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				made := s.made()
				if n := len(made); n > 40 {
					t.Errorf("%d connections in an hour", n)
				}
				if last := time.Since(made[len(made)-1]); last < 30*time.Minute {
					t.Errorf("the last connection was made %v ago: the bad subscription has not ended", last)
				}
				var e *limpet.Error
				if err := subs["bad"].Err(); !errors.Is(err, limpet.ErrRejected) || !errors.As(err, &e) || e.Code != int(code) {
					t.Errorf("bad ended with %v", err)
				}
				if subs["a"].State().Phase != limpet.SubLive || subs["c"].State().Phase != limpet.SubLive {
					t.Error("the other subscriptions did not survive")
				}
			})
		})
	}
}

// A server that closes connections for a passing reason ends no subscription, even if it
// goes on for more than ten minutes: none was alone with it five times. What it answers is
// no longer suspected.
func TestServerThatClosesForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &closingServer{code: 1011, dead: func(string) bool { return true }}
		topics := make([]string, 300)
		for i := range topics {
			topics[i] = fmt.Sprint("topic", i)
		}
		host, subs := closingClient(t, s, topics...)
		time.Sleep(11 * time.Minute)
		if n := len(s.made()); n < 5 {
			t.Fatalf("%d connections: the fault had no effect", n)
		}
		s.set(func(string) bool { return false })
		time.Sleep(3 * time.Minute)
		live := func(when string) {
			synctest.Wait()
			for topic, sub := range subs {
				if st := sub.State(); st.Phase != limpet.SubLive {
					t.Fatalf("%s, %s is %s: %v", when, topic, st.Phase, st.Err)
				}
			}
		}
		live("after the fault")

		before := len(s.made())
		once := true
		s.set(func(string) bool { dead := once; once = false; return dead })
		host.Network.ResetAll()
		time.Sleep(10 * time.Second)
		if n := len(s.made()) - before; n != 2 {
			t.Errorf("%d connections, want 2: the second fault had no effect", n)
		}
		live("10 seconds after one more close")
	})
}

// Less than ten minutes of it end not even the only subscription.
func TestServerThatClosesForNineMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &closingServer{code: 1000, dead: func(string) bool { return true }}
		_, subs := closingClient(t, s, "a")
		time.Sleep(9 * time.Minute)
		if n := len(s.made()); n < 8 {
			t.Fatalf("%d connections: the fault had no effect", n)
		}
		s.set(func(string) bool { return false })
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if st := subs["a"].State(); st.Phase != limpet.SubLive {
			t.Errorf("%s: %v", st.Phase, st.Err)
		}
	})
}

// A server that crashes at one topic drops the connection, without a close frame. The
// other subscriptions are live within a minute and lose their connection ever more rarely.
// The bad one says why it is not live, and is not given up: a network drops connections too.
func TestDroppedInPlaceOfARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &closingServer{dead: func(topic string) bool { return topic == "bad" }}
		_, subs := closingClient(t, s, "a", "bad", "c")
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, topic := range []string{"a", "c"} { // it may just have been lost once more
			if err := subs[topic].WaitLive(within(t, 20*time.Second)); err != nil {
				t.Errorf("after a minute %s: %v", topic, err)
			}
		}
		if n := len(s.made()); n < 4 {
			t.Fatalf("%d connections: the fault had no effect", n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(s.made()); n > 60 {
			t.Errorf("%d connections in an hour", n)
		}
		if st := subs["bad"].State(); st.Phase != limpet.SubPending || !errors.Is(st.Err, limpet.ErrUnanswered) {
			t.Errorf("bad is %s: %v", st.Phase, st.Err)
		}
		s.set(func(string) bool { return false })
		if err := subs["bad"].WaitLive(within(t, 3*time.Minute)); err != nil {
			t.Error(err)
		}
	})
}

// Connections that break twice before an answer make no subscription wait.
func TestDroppedTwiceIsNoSuspicion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := 2
		s := &closingServer{dead: func(string) bool { left--; return left >= 0 }}
		_, subs := closingClient(t, s, "a", "b")
		for range 100 {
			if time.Sleep(20 * time.Millisecond); len(s.made()) == 3 {
				break
			}
		}
		time.Sleep(200 * time.Millisecond) // a suspect waits for a second from the loss on
		synctest.Wait()
		if n := len(s.made()); n != 3 {
			t.Fatalf("%d connections: the fault had no effect", n)
		}
		for topic, sub := range subs {
			if st := sub.State(); st.Phase != limpet.SubLive {
				t.Errorf("%s is %s: %v", topic, st.Phase, st.Err)
			}
		}
	})
}

// A fatal error frame without a close code ends a connection as well.
func TestFatalErrorInPlaceOfARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSioPeer(t, func(s *sioPeer) {
			s.recovers = false
			s.events = func(p *plainConn, id, arguments string) {
				if strings.Contains(arguments, "bad") {
					p.text("41") // socket.disconnect()
					return
				}
				p.text("43" + id + "[]")
			}
		})
		join := func(s wire.Subscribe) (string, []any) { return "join", []any{s.Topic} }
		c, subs := s.client(t, socketio.Options{Return: true, Join: join}, limpet.Options{}, "a", "bad", "c")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		for _, i := range []int{0, 2} { // it may just have been lost once more
			if err := subs[i].WaitLive(within(t, 20*time.Second)); err != nil {
				t.Errorf("after 2 minutes %s: %v", subs[i].Topic(), err)
			}
		}
		if n := c.Stats().Connections; n < 3 {
			t.Fatalf("%d connections: the fault had no effect", n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		var e *limpet.Error
		if err := subs[1].Err(); !errors.Is(err, limpet.ErrRejected) || !errors.As(err, &e) || e.Code != socketio.CodeDisconnected {
			t.Errorf("bad ended with %v", err)
		}
	})
}

// A server closes with 1009 because one request has too many topics. They are asked for in
// smaller requests, and a message that was sent beside the request is not blamed.
func TestRequestTooBig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		conns := 0
		host := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer ws.CloseNow()
			mu.Lock()
			conns++
			mu.Unlock()
			for {
				_, data, err := ws.Read(context.Background())
				if err != nil {
					return
				}
				if len(data) > 300 {
					ws.Close(1009, "too big")
					return
				}
				var asks []rpcRequest
				if json.Unmarshal(data, &asks) != nil {
					asks = make([]rpcRequest, 1)
					json.Unmarshal(data, &asks[0])
				}
				for _, ask := range asks {
					ws.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":"x%s"}`, ask.ID, ask.ID))
				}
			}
		}), nil)
		o := jsonrpc.Ethereum()
		o.Batch = 200
		host.Inject(limpettest.Stall(time.Millisecond))
		c, err := limpet.New(host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: jsonrpc.New(o)}))
		assert.NoError(t, err)
		t.Cleanup(func() { closeAndWait(t, c) })
		var subs []*limpet.Subscription
		for i := range 100 {
			s, err := c.Subscribe(t.Context(), fmt.Sprintf(`logs:{"address":"0x%d"}`, i), nil)
			assert.NoError(t, err)
			subs = append(subs, s)
		}
		r, err := c.Publish(t.Context(), "eth_call", []byte("[]"), &limpet.PublishOptions{Resend: limpet.AtLeastOnce})
		assert.NoError(t, err)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		mu.Lock()
		if conns < 2 || conns > 4 {
			t.Fatalf("%d connections", conns)
		}
		mu.Unlock()
		for _, s := range subs {
			if st := s.State(); st.Phase != limpet.SubLive {
				t.Fatalf("%s is %s: %v", s.Topic(), st.Phase, st.Err)
			}
		}
		if r.Outcome() != limpet.Acked {
			_, err := r.Wait(t.Context())
			t.Errorf("%s: %v", r.Outcome(), err)
		}
	})
}
