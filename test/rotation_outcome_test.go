package test

import (
	"context"
	"encoding/json"
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
	"github.com/limpet-go/limpet/wire/stomp"
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

// A server that expects a first message ends a connection on which none comes. So the next
// connection is made again, once those before have their outcome: nothing is Unknown, the server
// hears each message once, and no connection waits for long.
func TestRotationWithAGreetingLeavesNoOutcomeUnknown(t *testing.T) {
	for _, lag := range []time.Duration{0, time.Second, 2900 * time.Millisecond, 5 * time.Second, 14 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s := &impatientBroker{t: t, lag: lag, heard: map[string]int{}}
			s.host = limpettest.NewHandler(t, http.HandlerFunc(s.serveImpatiently), nil)
			c, err := limpet.New(s.host.URL(), options(&limpet.Options{
				HTTPClient: s.host.HTTPClient(), Dialect: stomp.New(stomp.Options{}), Limits: wire.ConnectionLimits{Age: 5 * time.Minute}}))
			assert.NoError(t, err)
			t.Cleanup(func() { closeAndWait(t, c) })
			var receipts []*limpet.Receipt
			for i := range 3000 {
				r, err := c.Publish(context.Background(), "/queue/a", fmt.Append(nil, i), nil)
				assert.NoError(t, err)
				receipts = append(receipts, r)
				time.Sleep(400 * time.Millisecond)
			}
			time.Sleep(time.Minute)
			st := c.Stats()
			t.Logf("lag %v: %d acked, %d unknown, on %d connections of %d attempts, %d outages", lag, st.Acked, st.Unknown, st.Connections, st.Attempts, st.Outages)
			s.mu.Lock()
			defer s.mu.Unlock()
			for i, r := range receipts {
				if r.Outcome() != limpet.Acked || s.heard[fmt.Sprint(i)] != 1 {
					t.Fatalf("lag %v: message %d: %v, heard %d times", lag, i, r.Outcome(), s.heard[fmt.Sprint(i)])
				}
			}
			if st.Connections < 4 || st.Attempts > 2*st.Connections || st.Outages != 0 || s.waited > 3*time.Second {
				t.Errorf("lag %v: %+v; a connection waited %v", lag, st, s.waited)
			}
		})
	}
}

// Where no outcome comes, the connection is left after 3 s, 15 s, the time of the next attempt and
// 3 s again. The messages that were published in the meantime go out on the next one.
func TestRotationWithAGreetingAndWithoutOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &impatientBroker{t: t, lag: time.Hour, heard: map[string]int{}}
		s.host = limpettest.NewHandler(t, http.HandlerFunc(s.serveImpatiently), nil)
		c, err := limpet.New(s.host.URL(), options(&limpet.Options{
			HTTPClient: s.host.HTTPClient(), Dialect: stomp.New(stomp.Options{}), Limits: wire.ConnectionLimits{Age: 10 * time.Minute}}))
		assert.NoError(t, err)
		t.Cleanup(func() { closeAndWait(t, c) })
		assert.NoError(t, c.WaitReady(t.Context()))
		lost, err := c.Publish(context.Background(), "/queue/a", []byte("lost"), nil)
		assert.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
		defer cancel()
		_, err = lost.Wait(ctx)
		_, moved := c.WaitState(ctx, func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 })
		assert.NoError(t, moved)
		if st := c.Stats(); lost.Outcome() != limpet.Unknown || st.Connections != 2 || st.Attempts != 3 || st.Outages != 0 {
			t.Errorf("%v, %v: %+v", lost.Outcome(), err, st)
		}
	})
}

// impatientBroker speaks STOMP, sends receipts late, and ends a connection on which no CONNECT comes.
type impatientBroker struct {
	t      *testing.T
	host   *limpettest.Host
	lag    time.Duration
	mu     sync.Mutex
	heard  map[string]int
	waited time.Duration // the longest time for a CONNECT, or for the end before it
}

func (s *impatientBroker) serveImpatiently(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"v12.stomp"}})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	var receipts sync.WaitGroup
	defer receipts.Wait()
	accepted := time.Now()
	connected := false
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		_, data, err := ws.Read(ctx)
		s.mu.Lock()
		if !connected {
			connected, s.waited = true, max(s.waited, time.Since(accepted))
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
		for frame := range strings.SplitSeq(string(data), "\x00") {
			s.obey(ctx, ws, &receipts, strings.TrimLeft(frame, "\n"))
		}
	}
}

func (s *impatientBroker) obey(ctx context.Context, ws *websocket.Conn, receipts *sync.WaitGroup, frame string) {
	head, body, _ := strings.Cut(frame, "\n\n")
	answer := ""
	lag := time.Duration(0)
	switch command, lines, _ := strings.Cut(head, "\n"); command {
	case "CONNECT":
		answer = "CONNECTED\nversion:1.2\nheart-beat:5000,0\n\n\x00"
		receipts.Go(func() {
			for ctx.Err() == nil {
				ws.Write(ctx, websocket.MessageText, []byte("\n"))
				select {
				case <-time.After(5 * time.Second):
				case <-ctx.Done():
				}
			}
		})
	case "SEND":
		s.mu.Lock()
		s.heard[body]++
		s.mu.Unlock()
		_, receipt, _ := strings.Cut("\n"+lines, "\nreceipt:")
		receipt, _, _ = strings.Cut(receipt, "\n")
		answer, lag = "RECEIPT\nreceipt-id:"+receipt+"\n\n\x00", s.lag
	default:
		return
	}
	receipts.Go(func() {
		select {
		case <-time.After(lag):
			ws.Write(ctx, websocket.MessageText, []byte(answer))
		case <-ctx.Done():
		}
	})
}
