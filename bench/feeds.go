package main

import (
	"context"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	gojson "github.com/goccy/go-json"
	gorilla "github.com/gorilla/websocket"
	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/wire"
	exchange "github.com/limpet-go/limpet/wire/feed"
)

var feedRow = row{
	id: "P16", title: "recorded exchange feeds to the consumer's iterator (P16)", metric: "cpu", unit: "client CPU ns a message",
	needs: []string{"coinbase.ws", "kraken.ws"}, agree: []string{"messages", "sum"},
	variants: []variant{{name: "coinbase", with: recorded("coinbase.ws")}, {name: "kraken v1", with: recorded("kraken.ws")}},
	candidates: []contender{
		{"limpet Messages", "blast", limpetRecorded(eachMessage, false)},
		{"limpet Batches", "blast", limpetRecorded(eachBatch, false)},
		{"limpet Batches, lent", "blast", limpetRecorded(eachBatch, true)},
		{"limpet Merge", "blast", limpetRecorded(merged, false)},
		{"gorilla ReadMessage, encoding/json", "blast", gorillaRecorded(stdjson.Unmarshal, false)},
		{"gorilla ReadMessage, goccy/go-json", "blast", gorillaRecorded(goccy, false)},
		{"gorilla NextReader, encoding/json", "blast", gorillaRecorded(stdjson.Unmarshal, true)},
		{"gorilla NextReader, goccy/go-json", "blast", gorillaRecorded(goccy, true)},
	},
	compare: feedVerdicts("coinbase", "kraken v1"),
}

func feedVerdicts(variants ...string) (list []comparison) {
	for _, v := range variants {
		for _, ours := range []string{"limpet Messages", "limpet Batches", "limpet Batches, lent"} {
			list = append(list,
				comparison{variant: v, ours: ours, against: "gorilla ReadMessage, encoding/json", inverse: true, floor: 1, goal: 3},
				comparison{variant: v, ours: ours, against: "gorilla ReadMessage, goccy/go-json", inverse: true, floor: 1, goal: 1.5},
				comparison{variant: v, ours: ours, metric: "allocs", floor: 1, goal: 1})
		}
	}
	return list
}

func recorded(file string) func(*spec) {
	return func(s *spec) { s.Recording, s.Messages = file, 500_000 }
}

// kraken is a table of version 1 of Kraken's interface, whose messages are lists. Its
// books have a checksum and no number.
func kraken() exchange.Table {
	return exchange.Table{
		Name: "kraken-v1", Type: "event", Channel: "[-2]", Product: "[-1]",
		Subscribe:  exchange.Request{JSON: `{"event":"subscribe","pair":["$product","..."],"subscription":{"name":"$channel"}}`},
		Channels:   []exchange.Channel{{Name: "book-*", Snapshots: []string{"[1].as=*"}}},
		Confirm:    exchange.Confirm{Type: "status=subscribed", Ended: "status=unsubscribed", Channel: "channelName", Products: "pair"},
		Heartbeats: []string{"heartbeat"},
		Ignored:    []string{"systemStatus"},
	}
}

// feedOf returns the dialect of a recording and its topics.
func feedOf(file string) (wire.Dialect, []string, error) {
	r, err := readRecording(file)
	if err != nil {
		return nil, nil, err
	}
	table, channels := exchange.Coinbase(), []string{"matches", "level2", "ticker"}
	table.Limits = wire.ConnectionLimits{} // a recording confirms what was asked for until then
	if file == "kraken.ws" {
		table, channels = kraken(), []string{"book-1000"}
	}
	var topics []string
	for _, channel := range channels {
		for _, product := range r.products {
			topics = append(topics, channel+"/"+product)
		}
	}
	d, err := exchange.New(table)
	return d, topics, err
}

// pace asks the server for the next messages when the client has taken as many: a feed
// has no credit, and a queue that is full drops messages. All contenders pay for it.
type pace struct {
	control *gorilla.Conn
	mu      sync.Mutex
	taken   atomic.Int64
	total   int64
}

func startPace(s spec) (*pace, error) {
	c, _, err := gorilla.DefaultDialer.Dial("ws://"+s.Addr+"/feed/pace"+s.order().query(), nil)
	if err != nil {
		return nil, err
	}
	if _, _, err := c.ReadMessage(); err != nil { // the server has the recording
		return nil, err
	}
	return &pace{control: c, total: int64(s.Messages)}, nil
}

// room is what each subscription holds: more than two portions, so that no message finds
// the queue full.
var room = limpet.Delivery{Buffer: 4096, Bytes: 4 << 20}

// begin lets the server send two portions.
func (p *pace) begin() error { return errors.Join(p.more(), p.more()) }

func (p *pace) more() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.control.WriteMessage(gorilla.BinaryMessage, []byte{1})
}

// took reports whether with these n messages all have been taken.
func (p *pace) took(n int) (all bool, err error) {
	after := p.taken.Add(int64(n))
	for k := (after - int64(n)) / portion; k < after/portion && err == nil; k++ {
		err = p.more()
	}
	return after >= p.total, err
}

// received is what a contender delivered: how much, and a checksum over topics and numbers
// that does not depend on the order of topics.
type received struct{ messages, sum uint64 }

const fnvBasis, fnvPrime = 14695981039346656037, 1099511628211

// hashed continues an FNV-1a hash.
func hashed(h uint64, text string) uint64 {
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * fnvPrime
	}
	return h
}

func (t *received) add(topic, number uint64) {
	t.messages++
	t.sum += (topic ^ number) * fnvPrime
}

func (t *received) into(out outcome) outcome {
	out["messages"], out["sum"] = float64(t.messages), float64(t.sum>>12) // what a float64 holds exactly
	out["rate"] = 1e9 / out["cpu"]
	return out
}

// consume takes messages of subscriptions until all have come.
type consume func(ctx context.Context, subs []*limpet.Subscription, took func(*received, []limpet.Message) error) (received, error)

var errAll = errors.New("all messages have come")

func limpetRecorded(take consume, lend bool) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		s.Run = os.Getpid()
		dialect, topics, err := feedOf(s.Recording)
		if err != nil {
			return nil, err
		}
		p, err := startPace(s)
		if err != nil {
			return nil, err
		}
		defer p.control.Close()
		ctx, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		c, err := limpet.Dial(ctx, "ws://"+s.Addr+"/feed"+s.order().query(), &limpet.Options{Dialect: dialect})
		if err != nil {
			return nil, err
		}
		defer c.Close()
		var subs []*limpet.Subscription
		for _, topic := range topics {
			sub, err := c.Subscribe(ctx, topic, &limpet.SubscribeOptions{Delivery: room, Lend: lend})
			if err != nil {
				return nil, err
			}
			subs = append(subs, sub)
		}
		m := startMeter(s)
		if err := p.begin(); err != nil {
			return nil, err
		}
		t, err := take(ctx, subs, func(t *received, ms []limpet.Message) error {
			for i := range ms {
				if ms[i].Kind != limpet.Data && ms[i].Kind != limpet.Snapshot {
					return fmt.Errorf("a %v of %s", ms[i].Kind, ms[i].Topic)
				}
				t.add(hashed(fnvBasis, ms[i].Topic), ms[i].Position.Offset)
			}
			all, err := p.took(len(ms))
			if all && err == nil {
				cancel(errAll)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		return with(t.into(m.stop(s.Messages)), c), nil
	}
}

// eachMessage and eachBatch have a goroutine for each subscription.
func eachMessage(ctx context.Context, subs []*limpet.Subscription, took func(*received, []limpet.Message) error) (received, error) {
	return eachSub(subs, func(sub *limpet.Subscription, t *received) error {
		one := make([]limpet.Message, 1)
		for m, err := range sub.Messages(ctx) {
			if one[0] = m; err == nil {
				err = took(t, one)
			}
			if err != nil {
				return ended(ctx, err)
			}
		}
		return nil
	})
}

func eachBatch(ctx context.Context, subs []*limpet.Subscription, took func(*received, []limpet.Message) error) (received, error) {
	return eachSub(subs, func(sub *limpet.Subscription, t *received) error {
		for ms, err := range sub.Batches(ctx) {
			if err == nil {
				err = took(t, ms)
			}
			if err != nil {
				return ended(ctx, err)
			}
		}
		return nil
	})
}

func eachSub(subs []*limpet.Subscription, take func(*limpet.Subscription, *received) error) (sum received, err error) {
	var all sync.WaitGroup
	counts, errs := make([]received, len(subs)), make([]error, len(subs))
	for i, sub := range subs {
		all.Go(func() {
			if errs[i] = take(sub, &counts[i]); errs[i] != nil {
				exitOn(errs[i]) // the others would wait for ever
			}
		})
	}
	all.Wait()
	for _, t := range counts {
		sum.messages += t.messages
		sum.sum += t.sum
	}
	return sum, nil
}

// merged has one loop for all subscriptions.
func merged(ctx context.Context, subs []*limpet.Subscription, took func(*received, []limpet.Message) error) (t received, err error) {
	one := make([]limpet.Message, 1)
	for m, err := range limpet.Merge(ctx, subs...) {
		if one[0] = m; err == nil {
			err = took(&t, one)
		}
		if err != nil {
			return t, ended(ctx, err)
		}
	}
	return t, nil
}

// ended returns nil if an iterator ended because all messages have come.
func ended(ctx context.Context, err error) error {
	if context.Cause(ctx) == errAll {
		return nil
	}
	return err
}

type unmarshal func(data []byte, v any) error

func goccy(data []byte, v any) error { return gojson.Unmarshal(data, v) }

// gorillaRecorded decodes the least that tells topic and number. With reuse all messages are
// read into one buffer, so that a consumer cannot keep one; otherwise it can, as with
// limpet.
func gorillaRecorded(decode unmarshal, reuse bool) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		s.Run = os.Getpid()
		p, err := startPace(s)
		if err != nil {
			return nil, err
		}
		defer p.control.Close()
		dialer := gorilla.Dialer{ReadBufferSize: 64 << 10}
		c, _, err := dialer.Dial("ws://"+s.Addr+"/feed"+s.order().query(), nil)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		read := coinbaseMessage(decode)
		if s.Recording == "kraken.ws" {
			read = krakenMessage(decode)
		}
		m := startMeter(s)
		if err := p.begin(); err != nil {
			return nil, err
		}
		var t received
		buf := make([]byte, 256<<10)
		for {
			data, err := nextFrom(c, buf, reuse)
			if err != nil {
				return nil, err
			}
			topic, number, ok, err := read(data)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			t.add(topic, number)
			if all, err := p.took(1); all || err != nil {
				return t.into(m.stop(s.Messages)), err
			}
		}
	}
}

func nextFrom(c *gorilla.Conn, buf []byte, reuse bool) (data []byte, err error) {
	if !reuse {
		_, data, err = c.ReadMessage()
		return data, err
	}
	_, r, err := c.NextReader()
	if err != nil {
		return nil, err
	}
	n, err := readUpTo(r, buf)
	return buf[:n], err
}

// coinbaseMessage returns a function that decodes a message of Coinbase to the hash of
// its topic and its number. It returns false for what is not of a topic.
func coinbaseMessage(decode unmarshal) func([]byte) (topic, number uint64, ok bool, err error) {
	return func(data []byte) (topic, number uint64, ok bool, err error) {
		var m struct {
			Type    string `json:"type"`
			Product string `json:"product_id"`
			Trade   uint64 `json:"trade_id"`
		}
		if err := decode(data, &m); err != nil {
			return 0, 0, false, err
		}
		switch m.Type {
		case "match", "last_match":
			return hashed(hashed(fnvBasis, "matches/"), m.Product), m.Trade, true, nil
		case "l2update", "snapshot":
			return hashed(hashed(fnvBasis, "level2/"), m.Product), 0, true, nil
		case "ticker":
			return hashed(hashed(fnvBasis, "ticker/"), m.Product), 0, true, nil
		}
		return 0, 0, false, nil
	}
}

// krakenMessage does so for version 1 of Kraken, where channel and product are the last
// elements of a list of four or five.
func krakenMessage(decode unmarshal) func([]byte) (topic, number uint64, ok bool, err error) {
	var list []stdjson.RawMessage
	return func(data []byte) (topic, number uint64, ok bool, err error) {
		if !strings.HasPrefix(string(data[:min(1, len(data))]), "[") {
			var m struct {
				Event string `json:"event"`
			}
			return 0, 0, false, decode(data, &m)
		}
		if err := decode(data, &list); err != nil {
			return 0, 0, false, err
		}
		if len(list) < 4 {
			return 0, 0, false, fmt.Errorf("a list of %d", len(list))
		}
		var channel, product string
		if err := errors.Join(decode(list[len(list)-2], &channel), decode(list[len(list)-1], &product)); err != nil {
			return 0, 0, false, err
		}
		return hashed(hashed(hashed(fnvBasis, channel), "/"), product), 0, true, nil
	}
}
