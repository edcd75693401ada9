package test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/feed"
)

// generator makes a feed that differs from Coinbase's wherever it can: no
// confirmations, a member for the channel, numbers as strings, several messages
// in a frame, recent orders repeated after a subscribe.
type generator struct {
	*exchange
	products []string
	made     map[string][]string // all messages of a topic; number n is at n-1
	skipped  map[string][]uint64 // made while no client was connected
	frames   int
}

const repeatedOrders = 20

func generatedTable() feed.Table {
	return feed.Table{
		Name: "generated",
		Subscribe: feed.Request{
			JSON: `{"op":"subscribe","product_ids":["$product","..."],"channels":["$channel","..."]}`,
		},
		Type: "ev", Channel: "ch", Product: "s",
		Channels: []feed.Channel{
			{Name: "trades", Types: []string{"new"}, Number: "n"},
			{Name: "orders", Types: []string{"new"}, Number: "n", Replay: repeatedOrders},
			{Name: "quotes", Types: []string{"new"}, Snapshots: []string{"all"}},
		},
		Heartbeats: []string{"beat"},
	}
}

// make is the next message of a random topic.
func (g *generator) make() (topic, text string) {
	topic = []string{"trades/", "trades/", "orders/", "orders/", "quotes/"}[g.rng.IntN(5)] + g.products[g.rng.IntN(len(g.products))]
	return topic, g.next(topic)
}

func (g *generator) next(topic string) string {
	channel, product, _ := strings.Cut(topic, "/")
	n := len(g.made[topic]) + 1
	text := fmt.Sprintf(`{"ev":"new","ch":"%s","s":"%s","n":"%d","price":%d.%02d,"size":"%d"}`,
		channel, product, n, g.rng.IntN(1000), g.rng.IntN(100), g.rng.IntN(1e6))
	g.made[topic] = append(g.made[topic], text)
	return text
}

// frame makes and sends one to twenty messages. It is false when the
// connection has broken.
func (g *generator) frame() (n int, ok bool) {
	n = 1 + g.rng.IntN(20)
	texts := make([]string, n)
	for i := range texts {
		_, texts[i] = g.make()
	}
	if g.frames++; g.frames%32 == 0 {
		synctest.Wait()
	}
	if n == 1 {
		return n, g.send(texts[0])
	}
	return n, g.send("[" + strings.Join(texts, ",") + "]")
}

// reconnect waits for a connection on which everything that a server sends
// after a subscribe could be written.
func (g *generator) reconnect() {
	for again := true; again; {
		g.connected()
		again = false
		for _, product := range g.products {
			quotes := g.made["quotes/"+product]
			orders := g.made["orders/"+product]
			orders = orders[max(0, len(orders)-repeatedOrders):]
			again = again || !g.send(fmt.Sprintf(`{"ev":"all","ch":"quotes","s":"%s","n":%d}`, product, len(quotes))) ||
				!g.send("["+strings.Join(orders, ", ")+"]")
		}
	}
}

// lose ends the connection in one of the ways in which connections end, and
// reports how many messages were made meanwhile.
func (g *generator) lose() (made int) {
	n := g.host.Network
	skip := 0
	switch g.rng.IntN(5) {
	case 0: // everything has arrived, nothing is missed
		synctest.Wait()
		n.CutAll()
	case 1:
		synctest.Wait()
		n.ResetAll()
		skip = g.rng.IntN(500)
	case 2: // what is in flight may arrive or not
		n.ResetAll()
		skip = g.rng.IntN(50)
	case 3:
		n.Strike(limpettest.CloseWith(1012, "restart", 0))
		skip = g.rng.IntN(50)
	case 4: // half open: the server writes on
		n.Strike(limpettest.BlackHole(limpettest.Both))
		for range 1 + g.rng.IntN(30) {
			m, ok := g.frame()
			made += m
			if !ok {
				break
			}
		}
	}
	for range skip {
		topic, _ := g.make()
		g.skipped[topic] = append(g.skipped[topic], uint64(len(g.made[topic])))
	}
	return made + skip
}

// TestRandomFeed sends a hundred thousand messages over connections that break
// at random, some in the middle of a frame: what is delivered and what is
// reported as lost must make up exactly what the feed made.
func TestRandomFeed(t *testing.T) {
	total := reduced(100_000, 20_000)
	if testing.Short() {
		total = 20_000
	}
	rng := feedRand(t)
	synctest.Test(t, func(t *testing.T) { randomFeed(t, rng, total) })
}

func randomFeed(t *testing.T, rng *rand.Rand, total int) {
	g := &generator{made: map[string][]string{}, skipped: map[string][]uint64{}}
	var topics []string
	for p := range 6 {
		product := fmt.Sprintf("P%d/USD", p)
		g.products = append(g.products, product)
		topics = append(topics, "trades/"+product, "orders/"+product, "quotes/"+product)
	}
	g.exchange = newExchange(t, rng, generatedTable(), topics)
	cutAt := rng.Uint64()
	g.host.Network.Each(func(dial int) limpettest.Fault {
		r := rand.New(rand.NewPCG(cutAt, uint64(dial)))
		if dial == 1 || r.IntN(3) > 0 {
			return limpettest.Clean()
		}
		return limpettest.CutAfterBytes(limpettest.Down, 1000+r.IntN(200_000)).Upgraded()
	})
	g.reconnect()
	for _, topic := range topics { // a number that nothing came before: the first loss is known from it
		g.must(g.next(topic))
	}
	synctest.Wait()
	for made := len(topics); made < total; {
		n, ok := g.frame()
		made += n
		if ok && rng.IntN(200) == 0 {
			made += g.lose()
			ok = false
		}
		if !ok {
			g.reconnect()
		}
	}
	// The last loss shows when something comes after it.
	g.host.Network.Each(nil)
	g.host.Network.CutAll()
	g.reconnect()
	for _, topic := range topics {
		g.must(g.next(topic))
	}
	synctest.Wait()
	g.shutdown()
	g.check(topics, total)
}

func (g *generator) check(topics []string, total int) {
	connections := g.client.Stats().Connections
	lost, repeated, delivered := 0, uint64(0), uint64(0)
	for _, topic := range topics {
		made := g.made[topic]
		delivered += g.subs[topic].Stats().Delivered
		if strings.HasPrefix(topic, "quotes/") {
			g.checkQuotes(topic, connections)
			continue
		}
		gaps, last := g.numbered(topic, 1, func(n uint64) string { return made[n-1] })
		if last != uint64(len(made)) {
			g.t.Errorf("%s: the stream ends at %d of %d", topic, last, len(made))
		}
		lost += len(gaps)
		told := map[uint64]bool{}
		for _, n := range gaps {
			told[n] = true
		}
		if strings.HasPrefix(topic, "trades/") {
			for _, n := range g.skipped[topic] {
				if !told[n] {
					g.t.Errorf("%s: %d was never sent and is not told as lost", topic, n)
				}
			}
		} else {
			repeated += g.subs[topic].Stats().Duplicates
		}
	}
	if connections < uint64(total)/10_000 || lost == 0 || repeated == 0 {
		g.t.Errorf("%d connections, %d lost, %d repeats: the test is not what it should be", connections, lost, repeated)
	}
	g.t.Logf("%d connections, %d delivered, %d lost, %d repeats dropped", connections, delivered, lost, repeated)
}

// checkQuotes: a stream without numbers is unbroken between Resets, each of
// which comes with a snapshot.
func (g *generator) checkQuotes(topic string, connections uint64) {
	g.t.Helper()
	made, next, resets := g.made[topic], -1, uint64(0)
	reset := true
	for i, m := range *g.streams[topic] {
		switch {
		case m.Kind == limpet.Reset && !reset && m.Loss.Cause == limpet.CauseUnverifiable:
			resets++
			reset = true
		case m.Kind == limpet.Snapshot && reset:
			var at int
			fmt.Sscanf(string(m.Payload[strings.Index(string(m.Payload), `"n":`):]), `"n":%d}`, &at)
			if at < next || at > len(made) {
				g.t.Fatalf("%s: element %d goes back to %d from %d", topic, i, at, next)
			}
			next, reset = at, false
		case m.Kind == limpet.Data && !reset && string(m.Payload) == made[next]:
			next++
		default:
			g.t.Fatalf("%s: element %d is %v %s, want the quote after %d", topic, i, m.Kind, m.Payload, next)
		}
	}
	if next != len(made) || resets == 0 || resets >= connections {
		g.t.Errorf("%s: the stream ends at %d of %d, with %d resets in %d connections", topic, next, len(made), resets, connections)
	}
}
