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
	"github.com/limpet-go/limpet/wire/jsonrpc"
	"nhooyr.io/websocket"
)

// rpcServer speaks JSON-RPC. Its answers to requests are what answer returns, each as a
// text of its own.
type rpcServer struct {
	host   *limpettest.Host
	answer func(conn int, r rpcRequest) []string
	admit  func(r *http.Request) int // status of a refusal, 0 to accept

	mu    sync.Mutex
	conns int
	ws    *websocket.Conn // the latest
	heard []string        // "1 eth_subscribe ["newHeads"]": on connection 1
}

type rpcRequest struct {
	ID     json.RawMessage
	Method string
	Params json.RawMessage
	Error  json.RawMessage
}

func newRPCServer(t *testing.T, answer func(conn int, r rpcRequest) []string) *rpcServer {
	s := &rpcServer{answer: answer}
	s.host = limpettest.NewHandler(t, http.HandlerFunc(s.serve), nil)
	return s
}

func (s *rpcServer) serve(w http.ResponseWriter, r *http.Request) {
	if s.admit != nil {
		if status := s.admit(r); status != 0 {
			w.WriteHeader(status)
			return
		}
	}
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	s.mu.Lock()
	s.conns++
	conn := s.conns
	s.ws = ws
	s.mu.Unlock()
	for {
		_, data, err := ws.Read(context.Background())
		if err != nil {
			return
		}
		var request rpcRequest
		if err := json.Unmarshal(data, &request); err != nil {
			request.Method = "not JSON: " + string(data)
		}
		s.mu.Lock()
		s.heard = append(s.heard, strings.TrimSpace(fmt.Sprint(conn, " ", request.Method, " ", string(request.Params), string(request.Error))))
		s.mu.Unlock()
		for _, text := range s.answer(conn, request) {
			if ws.Write(context.Background(), websocket.MessageText, []byte(text)) != nil {
				return
			}
		}
	}
}

// say sends texts on the latest connection.
func (s *rpcServer) say(texts ...string) {
	s.mu.Lock()
	ws := s.ws
	s.mu.Unlock()
	for _, text := range texts {
		ws.Write(context.Background(), websocket.MessageText, []byte(text))
	}
}

// count returns how often the server has heard text.
func (s *rpcServer) count(text string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.heard {
		if h == text {
			n++
		}
	}
	return n
}

func (s *rpcServer) client(t *testing.T, o jsonrpc.Options, co limpet.Options) *limpet.Client {
	t.Helper()
	co.HTTPClient, co.Dialect = s.host.HTTPClient(), jsonrpc.New(o)
	c, err := limpet.New(s.host.URL(), options(&co))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// cut breaks every connection and waits for the next one.
func (s *rpcServer) cut(t *testing.T, c *limpet.Client) {
	t.Helper()
	before := c.State().Generation
	s.host.Network.CutAll()
	_, err := c.WaitState(t.Context(), func(st limpet.State) bool { return st.Phase == limpet.Ready && st.Generation > before })
	assert.NoError(t, err)
}

func rpcResult(id json.RawMessage, result string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
}

func rpcError(id json.RawMessage, code int, message string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":%q}}`, id, code, message)
}

// ethHead is a notification of block number on branch, which is the name of its hash.
func ethHead(sub string, number int, branch, parent string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":%q,"result":{"number":"0x%x","hash":"%s%d","parentHash":"%s%d"}}}`,
		sub, number, branch, number, parent, number-1)
}

// ethNode answers as a node does: an id for each subscription that differs on each
// connection, and a refusal of "nope".
func ethNode(conn int, r rpcRequest) []string {
	switch {
	case r.Method == "eth_subscribe" && string(r.Params) == `["nope"]`:
		return []string{rpcError(r.ID, -32601, "no such subscription")}
	case r.Method == "eth_subscribe":
		return []string{rpcResult(r.ID, fmt.Sprintf(`"0x%d%s"`, conn, r.ID))}
	case r.Method == "eth_unsubscribe":
		return []string{rpcResult(r.ID, "true")}
	case r.Method == "eth_nope":
		return []string{rpcError(r.ID, -32000, "nonce too low")}
	case r.Method == "mute" || r.Method == "":
		return nil
	}
	return []string{rpcResult(r.ID, `{"of":"`+r.Method+`"}`)}
}
