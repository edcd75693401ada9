package test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/socketio"
)

// sioPeer is a Socket.IO server. It keeps what it emits, with an offset each, and recovers
// the sessions that it knows.
type sioPeer struct {
	*plainServer
	recovers bool                                     // connection state recovery
	refuses  func(auth map[string]string) string      // the data of a connect_error; empty: none
	events   func(p *plainConn, id, arguments string) // of the client: the id of the acknowledgement, and the array
	pause    time.Duration                            // before each packet of a welcome
	silent   bool                                     // it opens no connection
	advised  bool                                     // it pings after its first refusal

	mu       sync.Mutex
	conn     *plainConn
	log      []string // arrays without the offset
	sessions map[string]string
	offsets  []string // with which clients came back
}

const sioOpened = `0{"sid":"e","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`

func newSioPeer(t *testing.T, change func(*sioPeer)) *sioPeer {
	s := &sioPeer{recovers: true, sessions: map[string]string{}}
	if change != nil {
		change(s)
	}
	s.plainServer = newPlainServer(t, s.serveConn)
	return s
}

var sioEvent = regexp.MustCompile(`^text 42(\d*)(\[.*\])$`)

func (s *sioPeer) serveConn(p *plainConn) {
	if s.silent {
		return
	}
	p.text(sioOpened)
	auth := p.auth()
	for s.refuses != nil {
		data := s.refuses(auth)
		if data == "" {
			break
		}
		p.text("44" + data)
		if s.advised {
			s.advised = false
			p.text("2")
			p.read()
		}
		if auth = p.auth(); auth == nil {
			return
		}
	}
	s.welcome(p, auth)
	for {
		text := p.read()
		if text == "" {
			return
		}
		if m := sioEvent.FindStringSubmatch(text); m != nil && s.events != nil {
			s.events(p, m[1], m[2])
		}
	}
}

// auth reads a CONNECT packet. It returns nil when the connection ends.
func (p *plainConn) auth() (auth map[string]string) {
	data, connect := strings.CutPrefix(p.read(), "text 40")
	if connect {
		auth = map[string]string{}
		_ = json.Unmarshal([]byte(data), &auth)
	}
	return auth
}

// welcome sends the events that a session has missed, and the answer to CONNECT. The lock
// keeps the order: nothing is emitted in between.
func (s *sioPeer) welcome(p *plainConn, auth map[string]string) {
	s.mu.Lock()
	s.conn = p
	frames := s.welcomeFrames(p.number, auth)
	if s.pause == 0 {
		defer s.mu.Unlock()
		p.text(frames...)
		return
	}
	s.mu.Unlock()
	for _, text := range frames {
		<-time.After(s.pause)
		p.text(text)
	}
}

func (s *sioPeer) welcomeFrames(number int, auth map[string]string) (frames []string) {
	s.offsets = append(s.offsets, auth["offset"])
	if sid := s.sessions[auth["pid"]]; sid != "" && auth["offset"] != "" {
		after := 0
		fmt.Sscanf(auth["offset"], "o%d", &after)
		for i := after; i < len(s.log); i++ {
			frames = append(frames, s.numbered(i))
		}
		return append(frames, fmt.Sprintf(`40{"sid":%q,"pid":%q}`, sid, auth["pid"]))
	}
	sid, pid := fmt.Sprint("s", number), fmt.Sprint("secret-p", number)
	if !s.recovers {
		return []string{fmt.Sprintf(`40{"sid":%q}`, sid)}
	}
	s.sessions[pid] = sid
	return []string{fmt.Sprintf(`40{"sid":%q,"pid":%q}`, sid, pid)}
}

func (s *sioPeer) numbered(i int) string {
	return fmt.Sprintf(`42%s,"o%d"]`, strings.TrimSuffix(s.log[i], "]"), i+1)
}

// emit sends events, each an array, to the client or keeps them for it.
func (s *sioPeer) emit(arrays ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, array := range arrays {
		s.log = append(s.log, array)
		text := "42" + array
		if s.recovers {
			text = s.numbered(len(s.log) - 1)
		}
		s.conn.text(text)
	}
}

// forget makes the server lose its sessions.
func (s *sioPeer) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.sessions)
}

func (s *sioPeer) cameBackWith() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.offsets, " ")
}

// client returns a client with subscriptions to topics that exist before it connects.
func (s *sioPeer) client(t *testing.T, o socketio.Options, co limpet.Options, topics ...string) (*limpet.Client, []*limpet.Subscription) {
	t.Helper()
	s.host.Inject(limpettest.Stall(time.Millisecond))
	co.HTTPClient, co.Dialect = s.host.HTTPClient(), socketio.New(o)
	c, err := limpet.New(s.host.URL(), options(&co))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	var subs []*limpet.Subscription
	for _, topic := range topics {
		sub, err := c.Subscribe(t.Context(), topic, nil)
		assert.NoError(t, err)
		subs = append(subs, sub)
	}
	return c, subs
}
