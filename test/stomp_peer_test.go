package test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/stomp"
	"nhooyr.io/websocket"
)

// stompBroker speaks STOMP 1.2 as RabbitMQ does: queues that keep what is not
// acknowledged, receipts, and an ERROR that leaves the connection open. It works on the
// frames of one connection in order.
type stompBroker struct {
	host *limpettest.Host

	mu        sync.Mutex
	passcode  string            // empty: any
	beats     string            // of CONNECTED; the broker itself sends none
	version   string            // of CONNECTED
	refuses   map[string]string // a SUBSCRIBE to this destination: the text of the ERROR
	named     bool              // an ERROR has a receipt-id
	noReceipt bool              // a SEND gets none
	dead      bool              // nothing is answered
	page      http.HandlerFunc  // of /csrf
	cookies   []string          // of the upgrades
	conns     int
	conn      *stompConn // the last one
	queues    map[string][]stompMessage
	heard     []string // "2 SEND destination:/q ...": on connection 2
	acked     []string
	nacked    []string
	faults    []string // what a client must not do
}

type stompMessage struct {
	body  string
	again bool
}

// stompConn is one connection. The broker's lock guards it.
type stompConn struct {
	b      *stompBroker
	ws     *websocket.Conn
	number int
	ended  bool
	login  bool
	subs   []*stompSub
	tags   int
	open   map[string]stompDelivery // by ack
}

type stompSub struct {
	id, destination string
	auto            bool
	prefetch, open  int
}

type stompDelivery struct {
	sub *stompSub
	stompMessage
}

func newStompBroker(t *testing.T) *stompBroker {
	b := &stompBroker{beats: "0,0", version: "1.2", queues: map[string][]stompMessage{}, refuses: map[string]string{}}
	b.host = limpettest.NewHandler(t, http.HandlerFunc(b.serve), nil)
	return b
}

func (b *stompBroker) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/csrf" {
		b.page(w, r)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"v12.stomp"}})
	if err != nil {
		return
	}
	b.mu.Lock()
	b.conns++
	b.cookies = append(b.cookies, r.Header.Get("Cookie"))
	c := &stompConn{b: b, ws: ws, number: b.conns, open: map[string]stompDelivery{}}
	b.conn = c
	b.mu.Unlock()
	rest := ""
	for err == nil {
		var data []byte
		if _, data, err = ws.Read(context.Background()); err != nil {
			break
		}
		b.mu.Lock()
		rest += string(data)
		for {
			rest = strings.TrimLeft(rest, "\n")
			frame, behind, whole := strings.Cut(rest, "\x00") // no body of these tests holds a NUL
			if !whole {
				break
			}
			rest = behind
			c.obey(frame)
		}
		b.deliver()
		b.mu.Unlock()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c.ended = true
	for _, tag := range slices.Backward(slices.Sorted(keysOf(c.open))) {
		d := c.open[tag]
		b.queues[d.sub.destination] = append([]stompMessage{{d.body, true}}, b.queues[d.sub.destination]...)
	}
	b.deliver()
	ws.CloseNow()
}

func keysOf[V any](m map[string]V) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// write sends a frame, in which | stands for a line feed. mu is held.
func (c *stompConn) write(format string, args ...any) {
	text := fmt.Sprintf(strings.ReplaceAll(format, "|", "\n"), args...) + "\x00\n"
	c.ws.Write(context.Background(), websocket.MessageText, []byte(text))
}

// obey handles a frame without its NUL; mu is held.
func (c *stompConn) obey(frame string) {
	b := c.b
	head, body, _ := strings.Cut(frame, "\n\n")
	command, lines, _ := strings.Cut(head, "\n")
	h := map[string]string{}
	for line := range strings.SplitSeq(lines, "\n") {
		name, value, _ := strings.Cut(line, ":")
		h[name] = strings.ReplaceAll(value, "\\c", ":")
	}
	b.heard = append(b.heard, fmt.Sprint(c.number, " ", command, " ", strings.ReplaceAll(lines, "\n", " "), " ", body))
	switch {
	case b.dead:
		return
	case command == "CONNECT" && b.passcode != "" && h["passcode"] != b.passcode:
		c.write("ERROR|message:Bad CONNECT||Access refused for user 'heron'|")
		return
	case command == "CONNECT":
		c.login = true
		c.write("CONNECTED|server:toy|heart-beat:%s|version:%s||", b.beats, b.version)
		return
	case !c.login:
		b.faults = append(b.faults, command+" before CONNECTED")
		return
	}
	switch command {
	case "SUBSCRIBE":
		if text, refused := b.refuses[h["destination"]]; refused {
			receipt := ""
			if b.named {
				receipt = "receipt-id:" + h["receipt"] + "|"
			}
			c.write("ERROR|" + receipt + "message:" + text)
			return
		}
		prefetch, _ := strconv.Atoi(h["prefetch-count"])
		c.subs = append(c.subs, &stompSub{id: h["id"], destination: h["destination"], auto: h["ack"] == "auto", prefetch: prefetch})
	case "UNSUBSCRIBE":
		before := len(c.subs)
		c.subs = slices.DeleteFunc(c.subs, func(s *stompSub) bool { return s.id == h["id"] })
		if len(c.subs) == before {
			b.faults = append(b.faults, "UNSUBSCRIBE of "+h["id"])
		}
	case "SEND":
		if b.noReceipt {
			return
		}
		b.queues[h["destination"]] = append(b.queues[h["destination"]], stompMessage{body: body})
	case "ACK", "NACK":
		d, open := c.open[h["id"]]
		if !open || !slices.Contains(c.subs, d.sub) {
			b.faults = append(b.faults, command+" of what is not open: "+h["id"])
			return
		}
		delete(c.open, h["id"])
		d.sub.open--
		if command == "ACK" {
			b.acked = append(b.acked, d.body)
			break
		}
		b.nacked = append(b.nacked, d.body)
		if h["requeue"] != "false" {
			b.queues[d.sub.destination] = append(b.queues[d.sub.destination], stompMessage{d.body, true})
		}
	}
	if receipt := h["receipt"]; receipt != "" {
		c.write("RECEIPT|receipt-id:%s||", receipt)
	}
}

// deliver sends what may be sent; mu is held.
func (b *stompBroker) deliver() {
	c := b.conn
	if c == nil || c.ended || b.dead {
		return
	}
	for _, s := range c.subs {
		for len(b.queues[s.destination]) > 0 && (s.auto || s.prefetch == 0 || s.open < s.prefetch) {
			m := b.queues[s.destination][0]
			b.queues[s.destination] = b.queues[s.destination][1:]
			c.tags++
			tag := fmt.Sprintf("T_%s@@%d@@%03d", s.id, c.number, c.tags)
			ack := ""
			if !s.auto {
				s.open++
				c.open[tag] = stompDelivery{s, m}
				ack = "ack:" + tag + "|"
			}
			c.write("MESSAGE|subscription:%s|destination:%s|message-id:%s|redelivered:%v|receipt:1|%s|%s", s.id, s.destination, tag, m.again, strings.ReplaceAll(ack, "|", "\n"), m.body)
		}
	}
}

// put adds messages to a queue.
func (b *stompBroker) put(destination string, bodies ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, body := range bodies {
		b.queues[destination] = append(b.queues[destination], stompMessage{body: body})
	}
	b.deliver()
}

// say writes a frame or anything else to the last connection.
func (b *stompBroker) say(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conn.write("%s", strings.ReplaceAll(text, "|", "\n"))
}

// set changes the broker.
func (b *stompBroker) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// count returns how many frames that the broker has heard hold all of words.
func (b *stompBroker) count(words ...string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range b.heard {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(h, w) }) {
			n++
		}
	}
	return n
}

// state returns what was acknowledged and given back, and how many messages are open and
// waiting. It fails the test if the client did what it must not.
func (b *stompBroker) state(t *testing.T) string {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.faults) > 0 {
		t.Errorf("faults: %q", b.faults)
	}
	waiting := 0
	for _, q := range b.queues {
		waiting += len(q)
	}
	return fmt.Sprintf("acked %s, nacked %s, open %d, waiting %d", strings.Join(b.acked, " "), strings.Join(b.nacked, " "), len(b.conn.open), waiting)
}

func (b *stompBroker) client(t *testing.T, o stomp.Options, co limpet.Options) *limpet.Client {
	t.Helper()
	co.HTTPClient, co.Dialect = b.host.HTTPClient(), stomp.New(o)
	c, err := limpet.New(b.host.URL(), options(&co))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// cut breaks every connection, and waits until the client has made another one.
func (b *stompBroker) cut(t *testing.T, c *limpet.Client) {
	t.Helper()
	before := c.State().Generation
	b.host.Network.CutAll()
	_, err := c.WaitState(t.Context(), func(st limpet.State) bool { return st.Phase == limpet.Ready && st.Generation > before })
	assert.NoError(t, err)
}
