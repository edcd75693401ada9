package test

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
)

// gauge is a server with a limit of messages. It counts every message, ping and pong of
// all connections, and closes one that sends too much with 1008. Its language is
// "sub a,b", "unsub a", "ping" and "pub text"; it answers "ok sub a", "ok unsub a" and
// "pong".
type gauge struct {
	host   *limpettest.Host
	most   int           // messages in any time per
	per    time.Duration // defaults to a second
	places int           // subscriptions of one connection; 0: any number
	lag    time.Duration // before the end of a subscription is confirmed
	mute   string        // a topic without answers
	greet  func(say func(op byte, text string))
	reason string // of its close frames; "-": none. Defaults to "too many messages"

	hook func(text string, say func(op byte, text string)) (handled bool) // of each text, first

	mu      sync.Mutex
	lines   []line
	refused int // connections
	maxSubs int // at once on a connection
	conns   map[int]net.Conn
	opened  int
}

// line is one frame of the client.
type line struct {
	conn int
	op   byte
	text string
	at   time.Time
}

const (
	opText = 1
	opPing = 9
	opPong = 10
)

func newGauge(t *testing.T, most int) *gauge {
	g := &gauge{most: most, per: time.Second, conns: map[int]net.Conn{}}
	g.host = limpettest.NewHandler(t, rawServer(g.talk), nil)
	return g
}

// talk serves one connection.
func (g *gauge) talk(nc net.Conn) {
	g.mu.Lock()
	g.opened++
	conn := g.opened
	g.conns[conn] = nc
	g.mu.Unlock()
	var writing sync.Mutex
	say := func(op byte, text string) {
		writing.Lock()
		defer writing.Unlock()
		nc.Write(rawFrame(0x80|op, text))
	}
	if g.greet != nil {
		g.greet(say)
	}
	subs := map[string]bool{}
	for r := bufio.NewReader(nc); ; {
		op, text, err := maskedFrame(r)
		if err != nil || op == 8 {
			return
		}
		if !g.admit(line{conn, op, text, time.Now()}) {
			reason := cmp.Or(g.reason, "too many messages")
			say(8, closePayload(1008, strings.TrimPrefix(reason, "-")))
			return
		}
		if op == opPing {
			say(opPong, text)
		}
		g.answer(subs, text, say)
	}
}

// admit reports whether the client keeps the limit.
func (g *gauge) admit(l line) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lines = append(g.lines, l)
	if before := len(g.lines) - g.most - 1; before >= 0 && l.at.Sub(g.lines[before].at) < g.per {
		g.refused++
		return false
	}
	return true
}

func (g *gauge) answer(subs map[string]bool, text string, say func(op byte, text string)) {
	if g.hook != nil && g.hook(text, say) {
		return
	}
	verb, rest, _ := strings.Cut(text, " ")
	switch verb {
	case "ping":
		say(opText, "pong")
	case "sub":
		for _, topic := range strings.Split(rest, ",") {
			g.mu.Lock()
			subs[topic] = true
			g.maxSubs = max(g.maxSubs, len(subs))
			g.mu.Unlock()
			if topic != g.mute {
				say(opText, "ok sub "+topic)
			}
		}
	case "unsub":
		time.AfterFunc(g.lag, func() {
			g.mu.Lock()
			delete(subs, rest)
			g.mu.Unlock()
			say(opText, "ok unsub "+rest)
		})
	}
}

// sent returns the texts that begin with prefix, in order.
func (g *gauge) sent(prefix string) (found []line) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.lines {
		if l.op == opText && strings.HasPrefix(l.text, prefix) {
			found = append(found, l)
		}
	}
	return found
}

// check reports connections that sent too much.
func (g *gauge) check(t *testing.T, connections int) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refused > 0 || g.opened != connections {
		t.Errorf("%d of %d connections sent too much; want %d connections", g.refused, g.opened, connections)
	}
	if g.places > 0 && g.maxSubs > g.places {
		t.Errorf("%d subscriptions at once; %d are allowed", g.maxSubs, g.places)
	}
}

// maskedFrame reads one frame of a client.
func maskedFrame(r *bufio.Reader) (op byte, text string, err error) {
	head := make([]byte, 2)
	if _, err = io.ReadFull(r, head); err != nil {
		return 0, "", err
	}
	n := uint64(head[1] & 0x7f)
	if n >= 126 {
		size := make([]byte, 8)
		part := size[6:]
		if n == 127 {
			part = size
		}
		if _, err = io.ReadFull(r, part); err != nil {
			return 0, "", err
		}
		n = binary.BigEndian.Uint64(size)
	}
	b := make([]byte, 4+n)
	if _, err = io.ReadFull(r, b); err != nil {
		return 0, "", err
	}
	for i := range b[4:] {
		b[4+i] ^= b[i%4]
	}
	return head[0] & 0x0f, string(b[4:]), nil
}

// language is the dialect for a gauge, one topic in a message.
func (g *gauge) language(limits wire.ConnectionLimits) feed.Funcs {
	return feed.Funcs{
		Name: "gauge", Confirms: true, ConfirmsEnd: true, Limits: limits,
		Subscribe:   func(a feed.Ask) ([]byte, error) { return []byte("sub " + a.Topic), nil },
		Unsubscribe: func(a feed.Ask) ([]byte, error) { return []byte("unsub " + a.Topic), nil },
		Publish:     func(_ uint64, m wire.Message) ([]byte, error) { return []byte("pub " + string(m.Payload)), nil },
		Ping:        func() ([]byte, error) { return []byte("ping"), nil },
		Pong:        func(n uint64) ([]byte, error) { return fmt.Appendf(nil, "answer %d", n), nil },
		Read: func(data []byte, say func(feed.Item)) error {
			switch words := strings.Fields(string(data)); {
			case len(words) == 3 && words[1] == "sub":
				say(feed.Item{Kind: feed.Answered, Topic: words[2]})
			case len(words) == 3 && words[1] == "unsub":
				say(feed.Item{Kind: feed.Ended, Topic: words[2]})
			case words[0] == "refused":
				id, _ := strconv.ParseUint(words[1], 10, 64)
				say(feed.Item{Kind: feed.Refused, ID: id, Reason: "rate limit exceeded"})
			case words[0] == "question":
				say(feed.Item{Kind: feed.Question, N: uint64(len(data))})
			case words[0] == "pong":
				say(feed.Item{Kind: feed.Alive})
			default:
				say(feed.Item{Kind: feed.Data, Topic: words[0]})
			}
			return nil
		},
	}
}

// client returns a client that speaks f, and closes it when the test ends.
func (g *gauge) client(t *testing.T, f feed.Funcs, o limpet.Options) *limpet.Client {
	t.Helper()
	dialect, err := feed.NewFuncs(f)
	if err != nil {
		t.Fatal(err)
	}
	return g.clientOf(t, dialect, o)
}

func (g *gauge) clientOf(t *testing.T, dialect wire.Dialect, o limpet.Options) *limpet.Client {
	t.Helper()
	o.Dialect, o.HTTPClient = dialect, g.host.HTTPClient()
	c, err := limpet.New(g.host.URL(), options(&o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// subscribeAll subscribes to n topics.
func subscribeAll(t *testing.T, c *limpet.Client, n int) (subs []*limpet.Subscription) {
	t.Helper()
	for i := range n {
		subs = append(subs, subscribe(t, c, fmt.Sprintf("t%d", i)))
	}
	return subs
}

// allLive waits until all of subs are live on a connection.
func allLive(t *testing.T, subs []*limpet.Subscription, generation uint64, within time.Duration) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		waits := slices.IndexFunc(subs, func(s *limpet.Subscription) bool {
			st := s.State()
			return st.Phase != limpet.SubLive || st.Generation != generation
		})
		if waits < 0 {
			return
		}
		if st := subs[waits].State(); st.Phase == limpet.SubEnded || time.Since(began) > within {
			t.Fatalf("%v after %v: %+v", subs[waits], time.Since(began), st)
		}
	}
}
