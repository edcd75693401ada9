package feed

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// TestGolden plays testdata/coinbase.txt: a blank line begins a connection.
func TestGolden(t *testing.T) {
	file, err := os.Open("testdata/coinbase.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	d := mustNew(t, Coinbase())
	var (
		resume  wire.Resume
		codec   wire.Codec
		written wire.Frames
		events  wire.Events
		lines   int
	)
	nothingLeft := func() {
		for _, f := range written.List {
			t.Errorf("before line %d: also written: %s", lines, f.Data)
		}
		for i := range events.List {
			t.Errorf("before line %d: also understood: %s", lines, show(&events.List[i]))
		}
		written.Reset()
		events.Reset()
	}
	start := func() {
		if codec != nil {
			return
		}
		if codec, err = d.Open(resume); err == nil {
			err = codec.Start(&written)
		}
		resume = wire.Resume{}
	}
	for in := bufio.NewScanner(file); in.Scan(); {
		lines++
		word, rest, _ := strings.Cut(in.Text(), " ")
		err = nil
		switch word {
		case "#":
			continue
		case "":
			nothingLeft()
			codec = nil
		case "open":
			s := wire.Subscribe{}
			_, err = fmt.Sscanf(rest, "%s %d", &s.Topic, &s.Position.Offset)
			resume.Subs = append(resume.Subs, s)
		case ">":
			start()
			if len(written.List) == 0 || string(written.List[0].Data) != rest {
				t.Fatalf("line %d: want %s written, have %q", lines, rest, written.List)
			}
			written.List = written.List[1:]
		case "<":
			nothingLeft()
			err = codec.Decode(wire.Frame{Type: wire.Text, Data: []byte(rest)}, &events)
		case "=":
			if len(events.List) == 0 || show(&events.List[0]) != rest {
				t.Fatalf("line %d: want %s, have %d events", lines, rest, len(events.List))
			}
			events.List = events.List[1:]
		case "op":
			nothingLeft()
			verb, topic, _ := strings.Cut(rest, " ")
			op := wire.Op{Kind: wire.OpUnsubscribe, Name: topic}
			if verb == "subscribe" {
				op = wire.Op{Kind: wire.OpSubscribe, Subscribe: &wire.Subscribe{Topic: topic}}
			}
			err = codec.Encode([]wire.Op{op}, &written)
		default:
			t.Fatalf("line %d: %q", lines, word)
		}
		if err != nil {
			t.Fatalf("line %d: %v", lines, err)
		}
	}
	nothingLeft()
	if lines < 40 {
		t.Errorf("only %d lines", lines)
	}
}

// consumer applies the rules of a client's delivery queue to the events of one
// subscription.
type consumer struct {
	last    uint64
	based   bool
	seen    bool   // subscribed on an earlier connection
	stream  []item // what a consumer receives
	repeats int
}

type item struct {
	kind     byte // 'd'ata, 'g'ap, 'r'eset
	from, to uint64
}

func (c *consumer) take(t *testing.T, e *wire.Event) {
	switch e.Kind {
	case wire.EventSubscribed:
		if c.seen && e.Continuity == wire.ContinuityNone {
			c.stream = append(c.stream, item{kind: 'r'})
		}
		c.seen = true
	case wire.EventReset:
		c.stream = append(c.stream, item{kind: 'r'})
		c.last, c.based = e.Position.Offset, true
	case wire.EventData:
		switch {
		case !e.Numbered:
			c.stream = append(c.stream, item{kind: 'd'})
			return
		case c.based && e.Position.Offset <= c.last:
			c.repeats++
			return
		case c.based && e.Prev > c.last:
			c.stream = append(c.stream, item{'g', c.last + 1, e.Prev})
		}
		c.last, c.based = e.Position.Offset, true
		c.stream = append(c.stream, item{'d', c.last, c.last})
	default:
		t.Fatalf("unexpected %s", show(e))
	}
}

// TestRandomConnections: for every product, the numbers that are delivered and
// those that are reported as lost make up all numbers, each once and in order.
func TestRandomConnections(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	d := mustNew(t, Coinbase())
	const products, total = 5, 20_000
	var made [products]uint64
	var lost [products]map[uint64]bool
	consumers := map[string]*consumer{}
	for p := range lost {
		lost[p] = map[uint64]bool{}
		consumers[fmt.Sprintf("matches/P%d", p)] = &consumer{}
		consumers[fmt.Sprintf("ticker/P%d", p)] = &consumer{}
	}
	connections, online := 0, false
	var codec wire.Codec
	send := func(text string) {
		var out wire.Events
		if err := codec.Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &out); err != nil {
			t.Fatal(err)
		}
		for i := range out.List {
			consumers[out.List[i].Name].take(t, &out.List[i])
		}
	}
	for i := range total {
		last := i == total-1
		if !online && (i == 0 || last || r.IntN(10) == 0) {
			online = true
			connections++
			var resume wire.Resume
			for topic, c := range consumers {
				resume.Subs = append(resume.Subs, wire.Subscribe{Topic: topic, Position: wire.Position{Offset: c.last}})
			}
			var err error
			if codec, err = d.Open(resume); err != nil {
				t.Fatal(err)
			}
			for p := range products {
				if n := made[p]; n > 0 {
					send(fmt.Sprintf(`{"type":"last_match","product_id":"P%d","trade_id":%d}`, p, n))
					delete(lost[p], n)
				}
			}
			send(`{"type":"subscriptions","channels":[{"name":"matches","product_ids":["P0","P1","P2","P3","P4"]},{"name":"ticker","product_ids":["P0","P1","P2","P3","P4"]}]}`)
		} else if online && !last && r.IntN(100) == 0 {
			online = false
		}
		p := r.IntN(products)
		if i < products {
			p = i // every product has a base before the first loss
		}
		made[p]++
		if !online && i >= products {
			lost[p][made[p]] = true
			continue
		}
		online = true
		send(fmt.Sprintf(`{"type":"match","product_id":"P%d","trade_id":%d}`, p, made[p]))
		send(fmt.Sprintf(`{"type":"ticker","product_id":"P%d"}`, p))
	}
	for p := range products {
		next := uint64(1)
		var reported []uint64
		c := consumers[fmt.Sprintf("matches/P%d", p)]
		for _, it := range c.stream {
			if it.kind == 'r' || it.from != next {
				t.Fatalf("P%d: %c (%d..%d), want %d next", p, it.kind, it.from, it.to, next)
			}
			for n := it.from; it.kind == 'g' && n <= it.to; n++ {
				reported = append(reported, n)
			}
			next = it.to + 1
		}
		// A loss after the last message of P has not been reported yet.
		missing := 0
		for n := range lost[p] {
			if n < next {
				missing++
				if !slices.Contains(reported, n) {
					t.Errorf("P%d: %d was lost and not reported", p, n)
				}
			}
		}
		if missing != len(reported) || len(reported) == 0 || c.repeats == 0 {
			t.Errorf("P%d: %d lost, %d reported as lost, %d repeats", p, missing, len(reported), c.repeats)
		}
		if next-1 != made[p] {
			t.Errorf("P%d: the stream ends at %d of %d", p, next-1, made[p])
		}
		resets := 0
		for _, it := range consumers[fmt.Sprintf("ticker/P%d", p)].stream {
			if it.kind == 'r' {
				resets++
			}
		}
		if resets != connections-1 {
			t.Errorf("ticker/P%d: %d resets, want one for each of %d reconnects", p, resets, connections-1)
		}
	}
	t.Logf("%d connections", connections)
}

func BenchmarkDecode(b *testing.B) {
	text := []byte(`{"type":"l2update","product_id":"BTC-USD","changes":[["buy","64121.01","0.01140000"],["sell","64122.50","0"]],"time":"2024-01-02T03:04:05.678901Z"}`)
	c := open(b, mustNew(b, Coinbase()), "level2/BTC-USD")
	var out wire.Events
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		out.Reset()
		if err := c.Decode(wire.Frame{Type: wire.Text, Data: text}, &out); err != nil {
			b.Fatal(err)
		}
	}
}

// messageOf returns a message of the file that holds a part, for measurements.
func messageOf(t testing.TB, file, part string) []byte {
	t.Helper()
	for _, s := range shapes(t, file) {
		if s.Dir == "recv" && strings.Contains(s.Data, part) {
			return []byte(s.Data)
		}
	}
	t.Fatalf("%s: no message with %s", file, part)
	return nil
}

// dataOfVenues are ordinary messages: a file, a part of one, and how many it holds.
var dataOfVenues = []struct {
	file, part string
	entries    int
}{
	{"kraken-v2", `"type":"update","data":[{"symbol":"BTC/USD","bids"`, 1}, {"kraken-v2", `"trade_id":70635253`, 2}, {"kraken-v2", `"interval":5,"timestamp"`, 1},
	{"binance-spot", `"t":3735683259`, 1}, {"binance-spot", `"U":50093239203`, 1}, {"binance-spot", `kline_8h`, 1}, {"binance-usdm", `"pu":5123107837557`, 1},
	{"okx", `"tradeId":"674510826"`, 1}, {"okx", `"prevSeqId":10,"seqId":12`, 1}, {"okx", "candle1m", 1},
	{"bybit", `"u":2876701`, 1}, {"bybit", `"type":"snapshot","ts":1672304486868`, 2}, {"bitstamp", "order_created", 1},
}

// TestDecodeAllocates: a message costs the copy of its payload and nothing else.
func TestDecodeAllocates(t *testing.T) {
	for _, v := range dataOfVenues {
		text := messageOf(t, v.file, v.part)
		c := open(t, mustNew(t, tableOf(v.file)))
		var out wire.Events
		got := testing.AllocsPerRun(100, func() {
			out.Reset()
			if err := c.Decode(wire.Frame{Type: wire.Text, Data: text}, &out); err != nil || len(out.List) != v.entries {
				t.Fatalf("%s: %v, %d events", text, err, len(out.List))
			}
		})
		if got > float64(v.entries) {
			t.Errorf("%s: %v allocations for %d messages", text, got, v.entries)
		}
	}
}

func tableOf(file string) Table {
	for _, v := range venues {
		if v.file == file {
			return v.table()
		}
	}
	return Table{}
}

func BenchmarkDecodeVenues(b *testing.B) {
	for _, v := range dataOfVenues {
		text := messageOf(b, v.file, v.part)
		b.Run(fmt.Sprintf("%s/%d", v.file, len(text)), func(b *testing.B) {
			c := open(b, mustNew(b, tableOf(v.file)))
			var out wire.Events
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				out.Reset()
				if err := c.Decode(wire.Frame{Type: wire.Text, Data: text}, &out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDecodeRecording decodes recorded sessions. One operation is one message.
func BenchmarkDecodeRecording(b *testing.B) {
	for _, r := range []struct {
		file  string
		table Table
	}{{"coinbase.ws", Coinbase()}, {"kraken.ws", krakenV1()}} {
		b.Run(r.file, func(b *testing.B) {
			var messages [][]byte
			for line := range strings.Lines(dataFile(b, r.file)) {
				if _, text, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && !strings.HasPrefix(line, "wss:") {
					messages = append(messages, []byte(text))
				}
			}
			c := open(b, mustNew(b, r.table))
			var out wire.Events
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				out.Reset()
				if err := c.Decode(wire.Frame{Type: wire.Text, Data: messages[i]}, &out); err != nil {
					b.Fatal(err)
				}
				if i++; i == len(messages) {
					i = 0
				}
			}
		})
	}
}
