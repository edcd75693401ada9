package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"nhooyr.io/websocket"
)

// lineServer speaks the protocol. It numbers messages across connections, and loses
// number 5.
type lineServer struct {
	mu     sync.Mutex
	heard  []string
	refuse bool // subscriptions, and what is published
}

func (s *lineServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ctx := context.Background()
	say := func(text string) { ws.Write(ctx, websocket.MessageText, []byte(text)) }
	for {
		_, data, err := ws.Read(ctx)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.heard = append(s.heard, string(data))
		refuse := s.refuse
		s.mu.Unlock()
		var verb, id, topic string
		var after int
		fmt.Sscan(string(data), &verb, &id, &topic, &after)
		if verb == "PING" {
			say("PONG " + id)
			continue
		}
		if refuse {
			say("ERR " + id + " 404 there is no such topic")
			continue
		}
		say("OK " + id)
		if verb != "SUB" {
			continue
		}
		say("OK " + id) // again: it is of no message
		say("what?")
		for i := range 3 {
			if n := after + 1 + i; n != 5 {
				say(fmt.Sprintf("MSG %s %d hello %d", topic, n, n))
			}
		}
	}
}

// The program receives from the first message on, resumes from the last number, and
// reports the hole.
func TestDialect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &lineServer{}
		host := limpettest.NewHandler(t, s, nil)
		c, err := limpet.New(host.URL(), &limpet.Options{Dialect: lines{}, HTTPClient: host.HTTPClient()})
		if err != nil {
			t.Fatal(err)
		}
		sub, err := c.Subscribe(t.Context(), "prices", nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for m, err := range sub.Messages(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			text := string(m.Payload)
			if m.Loss != nil {
				text = fmt.Sprint(m.Kind, " of ", m.Loss.Count)
			}
			if got = append(got, text); len(got) == 3 {
				host.Network.CutAll()
			}
			if len(got) == 6 {
				break
			}
		}
		if text := strings.Join(got, ", "); text != "hello 1, hello 2, hello 3, hello 4, gap of 1, hello 6" {
			t.Error(text)
		}
		if st := c.Stats(); st.Malformed != 2 {
			t.Errorf("%d malformed lines", st.Malformed)
		}
		c.Close()
		<-c.Done()
		if heard := strings.Join(s.heard, ", "); heard != "SUB 5 prices 0, SUB 5 prices 3" {
			t.Error(heard)
		}
	})
}

// A message is acknowledged or refused under its id, and a text must be UTF-8.
func TestPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &lineServer{}
		host := limpettest.NewHandler(t, s, nil)
		c, err := limpet.New(host.URL(), &limpet.Options{Dialect: lines{}, HTTPClient: host.HTTPClient()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { c.Close(); <-c.Done() }()
		if _, err := c.Subscribe(t.Context(), "prices", nil); err != nil {
			t.Fatal(err)
		}
		for i, want := range []limpet.Outcome{limpet.Acked, limpet.Rejected, limpet.Rejected} {
			s.mu.Lock()
			s.refuse = i == 1
			s.mu.Unlock()
			payload := []byte("hello")
			if i == 2 {
				payload = []byte("\xff")
			}
			ack, err := c.Send(t.Context(), "orders", payload, nil)
			if ack.Outcome != want || i == 1 && !strings.Contains(fmt.Sprint(err), "404") {
				t.Errorf("message %d: %v, %v", i, ack.Outcome, err)
			}
		}
		time.Sleep(time.Minute) // a ping is answered
		if st := c.Stats(); st.Connections != 1 {
			t.Errorf("%d connections", st.Connections)
		}
	})
}

func TestRefusedTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := limpettest.NewHandler(t, &lineServer{refuse: true}, nil)
		c, err := limpet.New(host.URL(), &limpet.Options{Dialect: lines{}, HTTPClient: host.HTTPClient()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { c.Close(); <-c.Done() }()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := follow(ctx, c, "prices"); err == nil || !strings.Contains(err.Error(), "there is no such topic") {
			t.Error(err)
		}
	})
}

// The dialect has at most 80 lines, and docs/your-server.md shows it.
func TestDialectIsShort(t *testing.T) {
	text, err := os.ReadFile("dialect.go")
	if err != nil {
		t.Fatal(err)
	}
	code := 0
	for _, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
			code++
		}
	}
	if code > 80 {
		t.Errorf("%d lines of code, want at most 80", code)
	}
}
