package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/jsonrpc"
	"nhooyr.io/websocket"
)

// answering answers each request after a time, on the connection that it came on. It counts
// the requests by their parameters.
type answering struct {
	host  *limpettest.Host
	lag   time.Duration
	mu    sync.Mutex
	heard map[string]int
}

func newAnswering(t *testing.T, lag time.Duration) *answering {
	s := &answering{lag: lag, heard: map[string]int{}}
	s.host = limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.answerLate(w, r) }), nil)
	return s
}

func (s *answering) answerLate(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	var answers sync.WaitGroup
	defer answers.Wait()
	for {
		_, data, err := ws.Read(context.Background())
		if err != nil {
			return
		}
		var request rpcRequest
		if json.Unmarshal(data, &request) != nil {
			return
		}
		s.mu.Lock()
		s.heard[string(request.Params)]++
		s.mu.Unlock()
		answers.Go(func() {
			time.Sleep(s.lag)
			ws.Write(context.Background(), websocket.MessageText, []byte(rpcResult(request.ID, "1")))
		})
	}
}

// What is published in a dialect without sessions has its outcome before the connection is
// left, or is published on the next one: it is never Unknown, and the server hears it once.
func TestRotationLeavesNoOutcomeUnknown(t *testing.T) {
	for _, lag := range []time.Duration{0, 50 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s := newAnswering(t, lag)
			c, err := limpet.New(s.host.URL(), options(&limpet.Options{
				HTTPClient: s.host.HTTPClient(), Dialect: jsonrpc.New(jsonrpc.Options{}), Limits: wire.ConnectionLimits{Age: time.Minute}}))
			assert.NoError(t, err)
			t.Cleanup(func() { closeAndWait(t, c) })
			var receipts []*limpet.Receipt
			for i := range 3000 {
				r, err := c.Publish(context.Background(), "a", fmt.Appendf(nil, "[%d]", i), nil)
				assert.NoError(t, err)
				receipts = append(receipts, r)
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(10 * time.Second)
			st := c.Stats()
			t.Logf("lag %v: %d acked, %d unknown, %d resent, on %d connections, %d outages", lag, st.Acked, st.Unknown, st.Resent, st.Connections, st.Outages)
			for i, r := range receipts {
				if r.Outcome() != limpet.Acked || s.heard[fmt.Sprintf("[%d]", i)] != 1 {
					t.Fatalf("lag %v: message %d: %v, heard %d times", lag, i, r.Outcome(), s.heard[fmt.Sprintf("[%d]", i)])
				}
			}
			if st.Connections < 5 || st.Outages != 0 {
				t.Errorf("lag %v: %+v", lag, st)
			}
		})
	}
}
