package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/graphqlws"
	"nhooyr.io/websocket"
)

// graphQLPeer is a server of graphql-transport-ws for one test. It is strict: an id that
// a connection has used before is a close with 4409, an operation before the
// connection_ack one with 4401.
type graphQLPeer struct {
	host   *limpettest.Host
	answer func(p *graphQLConn, ask graphQLAsk)    // nil: nothing is answered
	allow  func(token string) websocket.StatusCode // 0: allowed; nil: everything is
	silent func() bool                             // whether pings get no answer; nil: they do
	speaks []string                                // subprotocols

	mu    sync.Mutex
	conns []*graphQLConn
	heard []string // "1 message": on connection 1
	ids   int      // of all connections
}

// graphQLConn is one connection of a graphQLPeer.
type graphQLConn struct {
	s      *graphQLPeer
	ws     *websocket.Conn
	number int
	used   map[string]bool // ids
	open   map[string]string
}

// graphQLAsk is a message of a client.
type graphQLAsk struct {
	ID, Type string
	Payload  struct {
		Token     string
		Query     string
		Variables map[string]json.RawMessage
	}
}

func newGraphQLPeer(t *testing.T, answer func(p *graphQLConn, ask graphQLAsk)) *graphQLPeer {
	s := &graphQLPeer{answer: answer, speaks: []string{graphqlws.Subprotocol}}
	s.host = limpettest.NewHandler(t, http.HandlerFunc(s.serve), nil)
	return s
}

func (s *graphQLPeer) serve(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: s.speaks})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	p := &graphQLConn{s: s, ws: ws, used: map[string]bool{}, open: map[string]string{}}
	s.mu.Lock()
	s.conns = append(s.conns, p)
	p.number = len(s.conns)
	s.mu.Unlock()
	if len(s.speaks) == 0 {
		ws.Close(4406, "Subprotocol not acceptable")
		return
	}
	for ready := false; ; {
		_, data, err := ws.Read(context.Background())
		if err != nil {
			return
		}
		var ask graphQLAsk
		if json.Unmarshal(data, &ask) != nil {
			ws.Close(4400, "Invalid message received")
			return
		}
		s.mu.Lock()
		s.heard = append(s.heard, fmt.Sprint(p.number, " ", string(data)))
		known := p.used[ask.ID]
		if ask.Type == "subscribe" {
			p.used[ask.ID], p.open[ask.ID] = true, ask.Payload.Query
			s.ids++
		}
		if ask.Type == "complete" {
			delete(p.open, ask.ID)
		}
		s.mu.Unlock()
		switch {
		case ask.Type == "connection_init":
			if s.allow != nil {
				if code := s.allow(ask.Payload.Token); code != 0 {
					ws.Close(code, "Forbidden")
					return
				}
			}
			ready = true
			p.say(`{"type":"connection_ack"}`)
		case ask.Type == "ping":
			if s.silent == nil || !s.silent() {
				p.say(`{"type":"pong"}`)
			}
		case ask.Type == "subscribe" && !ready:
			ws.Close(4401, "Unauthorized")
			return
		case ask.Type == "subscribe" && known:
			ws.Close(4409, "Subscriber for "+ask.ID+" already exists")
			return
		case s.answer != nil:
			s.answer(p, ask)
		}
	}
}

// say sends messages.
func (p *graphQLConn) say(texts ...string) {
	for _, text := range texts {
		p.ws.Write(context.Background(), websocket.MessageText, []byte(text))
	}
}

// next sends results for an operation.
func (p *graphQLConn) next(id string, payloads ...string) {
	for _, payload := range payloads {
		p.say(fmt.Sprintf(`{"id":%q,"type":"next","payload":%s}`, id, payload))
	}
}

// complete ends an operation.
func (p *graphQLConn) complete(id string) { p.say(fmt.Sprintf(`{"id":%q,"type":"complete"}`, id)) }

// refuse answers an operation with an error.
func (p *graphQLConn) refuse(id, message, code string) {
	p.say(fmt.Sprintf(`{"id":%q,"type":"error","payload":[{"message":%q,"extensions":{"code":%q}}]}`, id, message, code))
}

// last returns the newest connection, and the id of its open operation whose query
// contains a word.
func (s *graphQLPeer) last(word string) (p *graphQLConn, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p = s.conns[len(s.conns)-1]
	for open, query := range p.open {
		if strings.Contains(query, word) {
			id = open
		}
	}
	return p, id
}

// asked returns the messages of clients that contain a word.
func (s *graphQLPeer) asked(word string) (found []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range s.heard {
		if strings.Contains(text, word) {
			found = append(found, text)
		}
	}
	return found
}

// client returns a client of s.
func (s *graphQLPeer) client(t *testing.T, o graphqlws.Options, co limpet.Options) *limpet.Client {
	t.Helper()
	co.HTTPClient, co.Dialect = s.host.HTTPClient(), graphqlws.New(o)
	c, err := limpet.New(s.host.URL(), options(&co))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// cut breaks every connection and checks that the client has made another one.
func (s *graphQLPeer) cut(t *testing.T, c *limpet.Client) {
	t.Helper()
	before := c.State().Generation
	s.host.Network.CutAll()
	_, err := c.WaitState(t.Context(), func(st limpet.State) bool { return st.Phase == limpet.Ready && st.Generation > before })
	assert.NoError(t, err)
}
