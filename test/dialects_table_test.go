package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
	"github.com/limpet-go/limpet/wire/graphqlws"
	"github.com/limpet-go/limpet/wire/jsonrpc"
	"github.com/limpet-go/limpet/wire/native"
	"github.com/limpet-go/limpet/wire/raw"
	"github.com/limpet-go/limpet/wire/socketio"
	"github.com/limpet-go/limpet/wire/stomp"
)

// tableDialects are the columns of the table in docs/dialects/README.md, each with the
// file whose tests try what its traits promise.
func tableDialects(t *testing.T) (columns []string, dialects map[string]wire.Dialect, files map[string]string) {
	table, err := feed.New(feed.Coinbase())
	if err != nil {
		t.Fatal(err)
	}
	data := func(data []byte, say func(feed.Item)) error { return nil }
	funcs, err := feed.NewFuncs(feed.Funcs{Name: "own", Read: data, Confirms: true, Numbered: true, Resume: true, Acks: true,
		Subscribe: func(feed.Ask) ([]byte, error) { return nil, nil }, Unsubscribe: func(feed.Ask) ([]byte, error) { return nil, nil },
		Publish: func(uint64, wire.Message) ([]byte, error) { return nil, nil }, Refresh: func(string) ([]byte, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	dialects, files = map[string]wire.Dialect{}, map[string]string{}
	for _, c := range []struct {
		name, file string
		dialect    wire.Dialect
	}{
		{"limpet.v1", "wire/native/conform_test.go", native.New(nil)},
		{"raw", "wire/raw/conform_test.go", raw.New(raw.Options{})},
		{"feed.Table", "wire/feed/conform_test.go", table},
		{"feed.Funcs", "wire/feed/conform_test.go", funcs},
		{"graphqlws", "wire/graphqlws/conform_test.go", graphqlws.New(graphqlws.Options{Operations: map[string]graphqlws.Operation{
			"trades": {Query: "subscription($after: Int) { trades(after: $after) { seq } }",
				Cursor: &graphqlws.Cursor{Variable: "after", Path: "trades.seq", Number: true}}}})},
		{"jsonrpc", "wire/jsonrpc/conform_test.go", jsonrpc.New(jsonrpc.Ethereum())},
		{"stomp", "wire/stomp/conform_test.go", stomp.New(stomp.Options{})},
		{"socketio", "wire/socketio/conform_test.go", socketio.New(socketio.Options{})},
	} {
		columns = append(columns, c.name)
		dialects[c.name], files[c.name] = c.dialect, c.file
	}
	return columns, dialects, files
}

// tableRows are the rows: a promise, what the traits say of it, and the check of the
// conformance suite that tries it.
var tableRows = []struct {
	promise string
	cell    func(wire.Traits) string
	proof   string
}{
	{"messages in order, none twice", func(wire.Traits) string { return "yes" }, "messages"},
	{"what is lost is in the stream, at the latest with the next message", func(wire.Traits) string { return "yes" }, "lost connections"},
	{"the stream goes on where it stopped", func(t wire.Traits) string {
		switch {
		case t.Resume:
			return "yes"
		case t.KeepsSubs:
			return "with the session"
		case t.Processed == wire.ProcessedEach:
			return "from the queue"
		}
		return "no: a Gap or a Reset"
	}, "lost connections"},
	{"a dead server is noticed", func(t wire.Traits) string {
		return map[wire.Ping]string{wire.PingControl: "WebSocket ping", wire.PingOp: "ping message", wire.PingNone: "by its own beats"}[t.Ping]
	}, "silent connection"},
	{"a subscription is confirmed", func(t wire.Traits) string { return yesOrNo(t.Confirms) }, "refused subscription"},
	{"a subscription can be ended", func(t wire.Traits) string { return yesOrNo(t.Unsubscribe) }, "end of a subscription"},
	{"the outcome of a publish", func(t wire.Traits) string {
		switch {
		case !t.Publish:
			return "no publishes"
		case t.Acks:
			return "Acked or Rejected"
		}
		return "Written"
	}, "publishes"},
	{"a publish over a lost connection", func(t wire.Traits) string {
		switch {
		case !t.Publish:
			return "no publishes"
		case t.Sessions && t.Dedup:
			return "taken once"
		case t.Sessions:
			return "sent again by number"
		case t.Acks:
			return "Unknown, or AtLeastOnce"
		}
		return "Written or Unsent"
	}, "publishes over lost connections"},
	{"a message of unknown size (SendStream)", func(t wire.Traits) string { return yesOrNo(t.Streams) }, "publishes"},
	{"a request with its reply (Call)", func(t wire.Traits) string { return yesOrNo(t.Calls) }, "calls"},
	{"a new credential on the open connection", func(t wire.Traits) string { return yesOrNo(t.Refresh) }, "new credential"},
	{"acknowledged once processed", func(t wire.Traits) string {
		return map[wire.Processed]string{wire.ProcessedNothing: "no", wire.ProcessedEach: "each message", wire.ProcessedCumulative: "up to a message"}[t.Processed]
	}, "processed messages"},
	{"given back with Nack", func(t wire.Traits) string { return yesOrNo(t.Release) }, "processed messages"},
	{"overflow policy Block", func(t wire.Traits) string { return yesOrNo(t.Credit) }, ""},
}

// beyondTraits are the cells of which traits say something else, by dialect and promise.
// Socket.IO is no broker: it recovers what it sent in a session, and an event that is not
// acknowledged is not delivered again. Release only keeps the client from acknowledging
// what was not processed (TestSocketIOProcessed, TestSocketIORecovery).
var beyondTraits = map[[2]string]string{
	{"socketio", "the stream goes on where it stopped"}: "with the session",
	{"socketio", "given back with Nack"}:                "no",
}

func yesOrNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// TestTableOfDialects: docs/dialects/README.md says of each dialect what its traits say,
// and the conformance suite tries that dialect for it.
func TestTableOfDialects(t *testing.T) {
	columns, dialects, files := tableDialects(t)
	doc, err := os.ReadFile("../docs/dialects/README.md")
	if err != nil {
		t.Fatal(err)
	}
	suite, err := os.ReadFile("../wire/wiretest/checks.go")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	fmt.Fprintf(&want, "| promise | %s | check |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)+2))
	for _, row := range tableRows {
		proof := "`" + row.proof + "`"
		if row.proof == "" {
			proof = "`TestBlockNeedsCredit`"
		} else if !strings.Contains(string(suite), `name: "`+row.proof+`"`) {
			t.Errorf("the suite has no check %q", row.proof)
		}
		fmt.Fprintf(&want, "| %s |", row.promise)
		for _, c := range columns {
			cell := row.cell(dialects[c].Traits())
			if beyond := beyondTraits[[2]string{c, row.promise}]; beyond != "" {
				if beyond == cell {
					t.Errorf("%s, %s: the traits say it, too", c, row.promise)
				}
				cell = beyond
			}
			fmt.Fprintf(&want, " %s |", cell)
		}
		fmt.Fprintf(&want, " %s |\n", proof)
	}
	if !strings.Contains(string(doc), want.String()) {
		t.Errorf("docs/dialects/README.md does not have this table:\n%s", want.String())
	}
	for _, c := range columns {
		text, err := os.ReadFile(filepath.Join("..", files[c]))
		if err != nil || !strings.Contains(string(text), "wiretest.Run(") {
			t.Errorf("%s does not run the conformance suite: %v", files[c], err)
		}
	}
}

// TestBlockNeedsCredit: the overflow policy Block is refused where the server does not
// respect credit.
func TestBlockNeedsCredit(t *testing.T) {
	columns, dialects, _ := tableDialects(t)
	topics := map[string]string{"raw": "*", "feed.Table": "matches/LIM-USD", "graphqlws": "trades", "jsonrpc": "newHeads", "stomp": "/queue/a"}
	for _, name := range columns {
		synctest.Test(t, func(t *testing.T) {
			network := limpettest.NewNetwork(nil)
			defer network.Close()
			c, err := limpet.New("ws://127.0.0.1:1", options(&limpet.Options{Dialect: dialects[name], HTTPClient: network.HTTPClient()}))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			defer closeAndWait(t, c)
			topic := topics[name]
			if topic == "" {
				topic = "a"
			}
			_, err = c.Subscribe(t.Context(), topic, &limpet.SubscribeOptions{Delivery: limpet.Delivery{Overflow: limpet.Block}})
			if credit := dialects[name].Traits().Credit; (err == nil) != credit || err != nil && !errors.Is(err, limpet.ErrUnsupported) {
				t.Errorf("%s: credit is %v, and Subscribe with Block returns %v", name, credit, err)
			}
		})
	}
}

// TestDialectPagesNameTests: a test that a page of docs/dialects names exists.
func TestDialectPagesNameTests(t *testing.T) {
	have := map[string]bool{}
	for _, pattern := range []string{"*_test.go", "../*_test.go", "../wire/*/*_test.go", "../interop/*_test.go", "../examples/*/*_test.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Example)\w+)\(`).FindAllStringSubmatch(string(text), -1) {
				have[m[1]] = true
			}
		}
	}
	pages, err := filepath.Glob("../docs/dialects/*.md")
	if err != nil || len(pages) < 2 {
		t.Fatalf("pages %v, %v", pages, err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		named := slices.Compact(regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`).FindAllString(string(text), -1))
		if len(named) == 0 {
			t.Errorf("%s names no test", page)
		}
		for _, name := range named {
			if !have[name] {
				t.Errorf("%s names %s, which does not exist", page, name)
			}
		}
	}
}
