package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"nhooyr.io/websocket"
)

// closingServer closes the connection, instead of an answer, when it is asked for a topic
// that it does not like.
type closingServer struct {
	code  websocket.StatusCode
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
		if dead {
			ws.Close(s.code, "died")
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
