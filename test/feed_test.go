package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/feed"
	"nhooyr.io/websocket"
)

// feedServer takes subscribe messages of the Coinbase shape. The test itself is
// the exchange: it gets each connection once that has asked for all topics, and
// writes.
type feedServer struct {
	topics   int
	sessions chan *websocket.Conn
}

func (s *feedServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	asked, complete := map[string]bool{}, false
	for {
		_, text, err := ws.Read(context.Background())
		if err != nil {
			return
		}
		var m struct {
			Products []string `json:"product_ids"`
			Channels []string `json:"channels"`
		}
		if json.Unmarshal(text, &m) != nil {
			return
		}
		for _, channel := range m.Channels {
			for _, product := range m.Products {
				asked[channel+"/"+product] = true
			}
		}
		if !complete && len(asked) == s.topics {
			complete = true
			s.sessions <- ws
		}
	}
}

// exchange is a feedServer, a client with all its subscriptions, and what each
// of them has delivered.
type exchange struct {
	t       *testing.T
	rng     *rand.Rand
	host    *limpettest.Host
	server  *feedServer
	client  *limpet.Client
	subs    map[string]*limpet.Subscription
	streams map[string]*[]limpet.Message // to be read after shutdown
	takers  sync.WaitGroup
	conn    *websocket.Conn
}

// feedRand prints its seed; LIMPET_SEED repeats a run.
func feedRand(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	if text := os.Getenv("LIMPET_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("LIMPET_SEED: %v", err)
		}
	}
	t.Logf("LIMPET_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func newExchange(t *testing.T, rng *rand.Rand, table feed.Table, topics []string) *exchange {
	t.Helper()
	dialect, err := feed.New(table)
	if err != nil {
		t.Fatal(err)
	}
	x := &exchange{t: t, rng: rng, subs: map[string]*limpet.Subscription{}, streams: map[string]*[]limpet.Message{}}
	x.server = &feedServer{topics: len(topics), sessions: make(chan *websocket.Conn, 1)}
	x.host = limpettest.NewHandler(t, x.server, nil)
	x.client, err = limpet.New(x.host.URL(), options(&limpet.Options{Dialect: dialect, HTTPClient: x.host.HTTPClient()}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, x.client) })
	for _, topic := range topics {
		s, err := x.client.Subscribe(context.Background(), topic, &limpet.SubscribeOptions{
			Delivery: limpet.Delivery{Buffer: 1 << 15, Bytes: 8 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		var stream []limpet.Message
		x.subs[topic], x.streams[topic] = s, &stream
		x.takers.Go(func() {
			for ms, err := range s.Batches(context.Background()) {
				if err != nil {
					t.Errorf("%s: %v", topic, err)
				}
				stream = append(stream, ms...)
			}
		})
	}
	return x
}

// connected waits for the next connection that has asked for everything. The
// one before it may be half open, so it is ended.
func (x *exchange) connected() {
	before := x.conn
	if x.conn = <-x.server.sessions; before != nil {
		before.CloseNow()
	}
}

// send writes one frame and reports whether the connection is still good.
func (x *exchange) send(text string) bool {
	return x.conn.Write(context.Background(), websocket.MessageText, []byte(text)) == nil
}

// must is send where no fault is under way.
func (x *exchange) must(text string) {
	x.t.Helper()
	if !x.send(text) {
		x.t.Fatalf("the connection broke on its own")
	}
}

// shutdown ends the client after its consumers have taken everything.
func (x *exchange) shutdown() {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := x.client.Shutdown(ctx); err != nil {
		x.t.Errorf("shutdown: %v", err)
	}
	x.takers.Wait()
	for topic, s := range x.subs {
		st := s.Stats()
		if st.Dropped != 0 || st.Delivered != st.Received || st.Waiting != 0 {
			x.t.Errorf("%s: %+v: the test's consumer must not be too slow", topic, st)
		}
	}
}

// numbered checks that the stream of a numbered topic is every number from
// first on, each either once as data with the bytes that want knows, or once in
// a gap. It returns the numbers in gaps and the last number.
func (x *exchange) numbered(topic string, first uint64, want func(n uint64) string) (gaps []uint64, last uint64) {
	x.t.Helper()
	next := first
	for i, m := range *x.streams[topic] {
		switch {
		case m.Kind == limpet.Data && m.Position.Offset == next:
			if string(m.Payload) != want(next) {
				x.t.Fatalf("%s: number %d is\n%s\nwant\n%s", topic, next, m.Payload, want(next))
			}
			next++
		case m.Kind == limpet.Gap && m.Loss.After.Offset == next-1 && m.Loss.To.Offset >= next &&
			m.Loss.Count == m.Loss.To.Offset-m.Loss.After.Offset && m.Loss.Cause == limpet.CauseLost:
			for ; next <= m.Loss.To.Offset; next++ {
				gaps = append(gaps, next)
			}
		default:
			x.t.Fatalf("%s: element %d is %v at %d %+v, want number %d", topic, i, m.Kind, m.Position.Offset, m.Loss, next)
		}
	}
	return gaps, next - 1
}

// feedRecord is a message of the recording.
type feedRecord struct {
	Type    string `json:"type"`
	Product string `json:"product_id"`
	Trade   uint64 `json:"trade_id"`
	text    string
}

func (r *feedRecord) topic() string {
	switch r.Type {
	case "match", "last_match":
		return "matches/" + r.Product
	case "ticker":
		return "ticker/" + r.Product
	}
	return "level2/" + r.Product
}

// trade names a trade: ids are numbers within a product.
type trade struct {
	product string
	id      uint64
}

// recording reads coinbase.ws, which is not part of this project: its licence
// lies beside it. LIMPET_DATA names its directory, or the one above that.
func recording(t *testing.T) []feedRecord {
	dirs := []string{filepath.Join("..", "..", "shared", "data")}
	if dir := os.Getenv("LIMPET_DATA"); dir != "" {
		dirs = []string{dir, filepath.Join(dir, "data")}
	}
	var path string
	var data []byte
	err := fs.ErrNotExist
	for _, dir := range dirs {
		if errors.Is(err, fs.ErrNotExist) {
			path = filepath.Join(dir, "coinbase.ws")
			data, err = os.ReadFile(path)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Println("DATA MISSING: " + path)
		t.Skip("no recording; LIMPET_DATA names the directory")
	}
	if err != nil {
		t.Fatal(err)
	}
	var records []feedRecord
	for line := range bytes.Lines(data) {
		_, text, ok := strings.Cut(strings.TrimSpace(string(line)), ": ")
		if !ok || strings.HasPrefix(string(line), "wss:") {
			continue
		}
		r := feedRecord{text: text}
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatalf("%s: %v in %.80s", path, err, line)
		}
		records = append(records, r)
	}
	if len(records) != 9946 {
		t.Fatalf("%s: %d messages, want 9946", path, len(records))
	}
	return records
}

// TestCoinbaseRecording replays a recorded session over twelve connections
// lost in different ways. Every second loss swallows matches, by an outage or
// in a half-open connection.
func TestCoinbaseRecording(t *testing.T) {
	records := recording(t)
	rng := feedRand(t)
	synctest.Test(t, func(t *testing.T) { replay(t, rng, records) })
}

func replay(t *testing.T, rng *rand.Rand, records []feedRecord) {
	var products, topics []string
	snapshots := map[string]string{}   // by product
	expected := map[string][]string{}  // by topic without numbers: payloads, "" for a Reset
	trades := map[string]*feedRecord{} // by product: the newest, sent or not
	sent := map[trade]string{}         // what was written to a good connection first
	withheld := map[string][]uint64{}  // by product
	bases := map[string]uint64{}       // by product
	deliver := func(r *feedRecord) {   // the model of what a client must see
		switch topic := r.topic(); {
		case r.Trade == 0 || r.Type == "ticker":
			expected[topic] = append(expected[topic], r.text)
		case sent[trade{r.Product, r.Trade}] == "":
			sent[trade{r.Product, r.Trade}] = r.text
		}
	}
	for i := range records {
		if r := &records[i]; r.Type == "snapshot" {
			products = append(products, r.Product)
			snapshots[r.Product] = r.text
		} else if r.Type == "last_match" {
			bases[r.Product] = r.Trade
		}
	}
	for _, channel := range []string{"matches", "level2", "ticker"} {
		for _, product := range products {
			topics = append(topics, channel+"/"+product)
		}
	}
	const cuts = 12
	if len(products) != 10 || len(bases) != 10 {
		t.Fatalf("%d snapshots, %d last matches, want 10 each", len(products), len(bases))
	}
	confirm := confirmation(products, "matches", "ticker", "level2")
	x := newExchange(t, rng, feed.Coinbase(), topics)
	x.connected()
	lossy, begin := 0, 45 // all products have their snapshot and last match by then
	part := (len(records) - begin) / (cuts + 1)
	cut, at := 0, begin+rng.IntN(part)
	for i := 0; i < len(records); i++ {
		r := &records[i]
		if r.Type == "match" || r.Type == "last_match" {
			trades[r.Product] = r
		}
		x.must(r.text)
		if r.Product != "" {
			deliver(r)
		}
		if i%100 == 0 {
			synctest.Wait()
		}
		if cut == cuts || i < at {
			continue
		}
		synctest.Wait() // what was sent has arrived
		lose := cut%2 == 1
		fault := []limpettest.Fault{
			limpettest.CutAfterBytes(limpettest.Down, 0), limpettest.BlackHole(limpettest.Both),
			limpettest.ResetAfterBytes(limpettest.Down, 0), limpettest.CutAfterBytes(limpettest.Down, 0),
			limpettest.CloseWith(1001, "bye", 0), limpettest.ResetAfterBytes(limpettest.Down, 0),
		}[cut%6]
		x.host.Network.Strike(fault)
		if lose { // until one product has lost two, of which a last match repeats one
			lossy++
			for missed := map[string]int{}; missed[r.Product] < 2; {
				i++
				if r = &records[i]; fault.Kind() == limpettest.KindBlackHole {
					x.must(r.text)
				}
				if r.Type == "match" {
					trades[r.Product] = r
					missed[r.Product]++
				}
			}
		}
		x.connected()
		x.must(confirmation(products, "level2", "ticker"))
		for n, product := range products {
			if n == len(products)/2 {
				x.must(confirm) // half of the matches come before
			}
			again := *trades[product]
			again.text = strings.Replace(again.text, `"type":"match"`, `"type":"last_match"`, 1)
			again.Type = "last_match"
			snapshot := &feedRecord{Type: "snapshot", Product: product, text: snapshots[product]}
			expected["level2/"+product] = append(expected["level2/"+product], "")
			expected["ticker/"+product] = append(expected["ticker/"+product], "")
			for _, r := range []*feedRecord{snapshot, &again} {
				x.must(r.text)
				deliver(r)
			}
		}
		cut++
		at = max(i+1, begin+cut*part+rng.IntN(part))
	}
	synctest.Wait()
	x.shutdown()
	if n := x.client.Stats().Connections; cut != cuts || n != cuts+1 || lossy < 3 {
		t.Fatalf("%d cuts, %d of them lossy, %d connections, want %d cuts", cut, lossy, n, cuts)
	}
	total := 0
	for _, product := range products {
		last := trades[product].Trade
		for n := bases[product]; n <= last; n++ {
			if sent[trade{product, n}] == "" {
				withheld[product] = append(withheld[product], n)
			}
		}
		total += len(withheld[product])
		gaps, end := x.numbered("matches/"+product, bases[product], func(n uint64) string { return sent[trade{product, n}] })
		if !slices.Equal(gaps, withheld[product]) || end != last {
			t.Errorf("matches/%s: gaps %d up to %d, withheld %d up to %d", product, gaps, end, withheld[product], last)
		}
		x.unnumbered("level2/"+product, expected["level2/"+product])
		x.unnumbered("ticker/"+product, expected["ticker/"+product])
	}
	if total < lossy {
		t.Errorf("%d matches withheld in %d lossy cuts: the test is not what it should be", total, lossy)
	}
	t.Logf("%d connections, %d matches withheld", cuts+1, total)
}

// confirmation is Coinbase's list of everything that is subscribed.
func confirmation(products []string, channels ...string) string {
	type entry struct {
		Name     string   `json:"name"`
		Products []string `json:"product_ids"`
	}
	var entries []entry
	for _, c := range channels {
		entries = append(entries, entry{c, products})
	}
	text, _ := json.Marshal(map[string]any{"type": "subscriptions", "channels": entries}) // strings only: it cannot fail
	return string(text)
}

// unnumbered compares the stream of a topic without numbers, where "" stands
// for a Reset.
func (x *exchange) unnumbered(topic string, want []string) {
	x.t.Helper()
	got := *x.streams[topic]
	for i, m := range got {
		if i == len(want) {
			break
		}
		ok := string(m.Payload) == want[i] && (m.Kind == limpet.Snapshot) == (m.Type == "snapshot")
		if want[i] == "" {
			ok = m.Kind == limpet.Reset && m.Loss.Cause == limpet.CauseUnverifiable
		}
		if !ok {
			x.t.Fatalf("%s: element %d is %v %.100s, want %.100q", topic, i, m.Kind, m.Payload, want[i])
		}
	}
	if len(got) != len(want) {
		x.t.Errorf("%s: %d elements, want %d", topic, len(got), len(want))
	}
}
