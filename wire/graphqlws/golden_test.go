package graphqlws

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

var update = flag.Bool("update", false, "write the lines = of testdata/graphql-ws.txt again, to be read")

// recorded are the operations of the recording: see interop/graphqlws_test.go.
var recorded = map[string]Operation{
	"ticks": {
		Query:  `subscription($after: Int) { ticks(after: $after) { seq px } }`,
		Cursor: &Cursor{Variable: "after", Path: "ticks.seq", Number: true},
	},
	"events": {
		Query:  `subscription($after: String) { events(after: $after) { cursor big } }`,
		Cursor: &Cursor{Variable: "after", Path: "events.cursor", Exact: true, Expired: []string{"CURSOR_EXPIRED"}},
	},
	"from": {
		Query:  `subscription($at: String) { from(at: $at) { cursor } }`,
		Cursor: &Cursor{Variable: "at", Path: "from.cursor", Inclusive: true},
	},
	"count":   {Query: `subscription($to: Int!) { count(to: $to) }`},
	"publish": {Query: `mutation($px: Float!) { publish(px: $px) { seq } }`},
	"slow":    {Query: `mutation($px: Float!) { slow(px: $px) { seq } }`},
	"partly":  {Query: `mutation($px: Float!) { partly(px: $px) { seq note } }`},
	"fail":    {Query: `mutation { fail { seq } }`},
}

// recordedOp returns the op that a line of the recording asks for.
func recordedOp(t *testing.T, line string, step any) wire.Op {
	t.Helper()
	word, rest, _ := strings.Cut(line, " ")
	first, rest, _ := strings.Cut(rest, " ")
	n, _ := strconv.ParseUint(first, 10, 64)
	switch word {
	case "ping":
		return wire.Op{Kind: wire.OpPing}
	case "step":
		return wire.Op{Kind: wire.OpStep, Step: step}
	case "unsubscribe":
		return wire.Op{Kind: wire.OpUnsubscribe, Key: n}
	case "publish":
		topic, payload, _ := strings.Cut(rest, " ")
		return publishOp(n/idKinds, topic, payload)
	case "subscribe":
		cursor, topic, _ := strings.Cut(rest, " ")
		var p wire.Position
		if number, err := strconv.ParseUint(cursor, 10, 64); err == nil {
			p.Offset = number
		} else if cursor != "-" {
			p.Tag = cursor
		}
		return subscribeOp(n, topic, p)
	}
	t.Fatalf("unknown op %q", line)
	return wire.Op{}
}

// TestGolden plays testdata/graphql-ws.txt, the recording of a real server, in both
// directions.
func TestGolden(t *testing.T) {
	const name = "testdata/graphql-ws.txt"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var c wire.Codec
	var frames wire.Frames
	var step any
	var want, have []string // lines = behind a line <
	var again strings.Builder
	lines, conns := 0, 0
	compare := func() {
		if !*update && strings.Join(have, "\n") != strings.Join(want, "\n") {
			t.Errorf("before line %d:\n got %s\nwant %s", lines, strings.Join(have, "\n     "), strings.Join(want, "\n     "))
		}
		for _, line := range have {
			fmt.Fprintln(&again, "=", line)
		}
		want, have = nil, nil
	}
	for in := bufio.NewScanner(strings.NewReader(string(text))); in.Scan(); {
		lines++
		word, rest, _ := strings.Cut(in.Text(), " ")
		if word == "=" {
			want = append(want, rest)
			continue
		}
		compare()
		fmt.Fprintln(&again, in.Text())
		switch word {
		case "#":
		case "connection":
			conns++
			c = open(t, Options{Operations: recorded}, wire.Resume{Token: rest})
			frames.Reset()
			err = c.Start(&frames)
		case "op":
			err = c.Encode([]wire.Op{recordedOp(t, rest, step)}, &frames)
		case ">":
			if sent := sent(&frames); sent != rest {
				t.Fatalf("line %d: want %s, have %s", lines, rest, sent)
			}
			frames.Reset()
		case "<":
			var events wire.Events
			err = c.Decode(wire.Frame{Type: wire.Text, Data: []byte(rest)}, &events)
			for i := range events.List {
				have = append(have, show(&events.List[i]))
				if events.List[i].Kind == wire.EventStep {
					step = events.List[i].Step
				}
			}
		default:
			t.Fatalf("line %d: %q", lines, word)
		}
		if err != nil {
			t.Fatalf("line %d: %v", lines, err)
		}
	}
	compare()
	if conns != 3 || lines < 150 && !*update {
		t.Errorf("%d connections, %d lines", conns, lines)
	}
	if *update {
		if err := os.WriteFile(name, []byte(again.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
