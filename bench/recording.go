package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// Recordings of exchange feeds are not part of this project: their licence lies beside
// them. LIMPET_DATA names their directory, or the one above that.

func recordingFile(name string) ([]byte, error) {
	dir := os.Getenv("LIMPET_DATA")
	if dir == "" {
		return nil, fmt.Errorf("LIMPET_DATA is not set: %w", fs.ErrNotExist)
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		data, err = os.ReadFile(filepath.Join(dir, "data", name))
	}
	return data, err
}

// missing returns what a row needs and does not find; empty if nothing.
func (r *row) missing() string {
	for _, name := range r.needs {
		if _, err := recordingFile(name); err != nil {
			return name
		}
	}
	return ""
}

// recording is one session of a venue.
type recording struct {
	products    []string
	head, after []recordedMessage // up to the last snapshot; what came then
}

// recordedMessage is one message of the server.
type recordedMessage struct {
	text    string
	product string
	data    bool   // of a topic
	trade   uint64 // of a match; 0: no number
}

func readRecording(name string) (*recording, error) {
	file, err := recordingFile(name)
	if err != nil {
		return nil, err
	}
	r := &recording{}
	for line := range bytes.Lines(file) {
		from, text, ok := strings.Cut(strings.TrimSpace(string(line)), ": ")
		if !ok {
			continue
		}
		if strings.HasPrefix(from, "wss:") {
			if err := r.request(text); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			continue
		}
		m, first, err := newRecorded(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if r.after = append(r.after, m); first {
			r.head, r.after = append(r.head, r.after...), nil
		}
	}
	if len(r.products) == 0 || len(r.head) == 0 || len(r.after) == 0 {
		return nil, fmt.Errorf("%s: want requests, snapshots and changes", name)
	}
	return r, nil
}

// request takes the products from what the client sent.
func (r *recording) request(text string) error {
	var m struct {
		Products []string `json:"product_ids"` // of Coinbase
		Pairs    []string `json:"pair"`        // of Kraken
	}
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return err
	}
	r.products = append(m.Products, m.Pairs...)
	return nil
}

// newRecorded returns a message, and whether it belongs to the begin of a session.
func newRecorded(text string) (m recordedMessage, first bool, err error) {
	m.text = text
	if text[0] == '[' { // of Kraken
		m.data = true
		return m, strings.Contains(text, `{"as":`), nil
	}
	var members struct {
		Type    string
		Event   string
		Product string `json:"product_id"`
		Trade   uint64 `json:"trade_id"`
	}
	if err := json.Unmarshal([]byte(text), &members); err != nil {
		return m, false, err
	}
	m.product, m.data = members.Product, members.Product != ""
	switch members.Type {
	case "snapshot", "subscriptions":
		first = true
	case "last_match":
		first, m.trade = true, members.Trade
	case "match":
		m.trade = members.Trade
	}
	return m, first || members.Event == "subscriptionStatus", nil
}

// portion is how many messages the server sends at once.
const portion = 2000

// stream returns the WebSocket messages of a session with n messages of topics, in
// portions. What came after the snapshots is repeated, with trade ids that go on: it
// would be duplicates otherwise.
func (r *recording) stream(n int) (portions [][]byte) {
	last := map[string]uint64{}
	var b []byte
	list := r.head
	for sent := 0; ; list = r.after {
		for _, m := range list {
			if m.trade > 0 && last[m.product] > 0 {
				next := strconv.FormatUint(last[m.product]+1, 10)
				m.text = strings.Replace(m.text, `"trade_id":`+strconv.FormatUint(m.trade, 10), `"trade_id":`+next, 1)
				last[m.product]++
			} else if m.trade > 0 {
				last[m.product] = m.trade
			}
			b = append(appendHeader(b, opText, len(m.text)), m.text...)
			if m.data {
				sent++
			}
			if m.data && sent%portion == 0 || sent == n {
				portions, b = append(portions, b), nil
			}
			if sent == n {
				return portions
			}
		}
	}
}

// session is a client of recordings: the connection with the feed, and the one on which
// it asks for the next portion.
type session struct {
	portions [][]byte
	more     chan struct{}
}

// sessions are those of all clients, by the client's process.
type sessions struct {
	mu      sync.Mutex
	open    map[int]*session
	streams map[string][][]byte // by recording and length
}

func (s *sessions) portionsOf(o order) ([][]byte, error) {
	k := fmt.Sprint(o.Recording, o.Messages)
	if p := s.streams[k]; p != nil {
		return p, nil
	}
	r, err := readRecording(o.Recording)
	if err != nil {
		return nil, err
	}
	s.streams[k] = r.stream(o.Messages)
	return s.streams[k], nil
}

// pace serves the connection on which a client asks for portions.
func (s *sessions) pace(w http.ResponseWriter, r *http.Request) {
	o := orderOf(r)
	s.mu.Lock()
	portions, err := s.portionsOf(o) // before the measurement starts
	if err != nil {
		s.mu.Unlock()
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	one := &session{portions, make(chan struct{}, len(portions)+2)}
	s.open[o.Run] = one
	s.mu.Unlock()
	p, err := upgrade(w, r)
	if err != nil {
		return
	}
	defer p.Close()
	defer close(one.more)
	if p.message(opBinary, nil) != nil {
		return
	}
	for {
		if _, err := p.next(); err != nil {
			return
		}
		select {
		case one.more <- struct{}{}:
		default:
			return
		}
	}
}

// feed serves the connection with the feed. What the client asks for is not looked at.
func (s *sessions) feed(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	one := s.open[orderOf(r).Run]
	delete(s.open, orderOf(r).Run)
	s.mu.Unlock()
	if one == nil {
		http.Error(w, "no session", http.StatusNotFound)
		return
	}
	p, err := upgrade(w, r)
	if err != nil {
		return
	}
	defer p.Close()
	go func() {
		for _, b := range one.portions {
			if _, ok := <-one.more; !ok {
				return
			}
			for len(b) > 0 {
				n := min(len(b), writeAtOnce)
				if p.send(b[:n]) != nil {
					return
				}
				b = b[n:]
			}
		}
	}()
	for {
		if _, err := p.next(); err != nil {
			return
		}
	}
}
