package feed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// shape is one line of a file of message shapes: what a venue sends or is sent.
type shape struct {
	Dir, Type, Data, Why string
}

// dataFile returns the content of a file of messages of venues, which are not part of
// this project.
func dataFile(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("LIMPET_DATA")
	data, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		data, err = os.ReadFile(filepath.Join(dir, "data", name))
	}
	if dir == "" || errors.Is(err, fs.ErrNotExist) {
		fmt.Println("DATA MISSING: " + name)
		t.Skip("no messages of venues; LIMPET_DATA names their directory")
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// shapes returns the lines of a file of message shapes.
func shapes(t testing.TB, venue string) []shape {
	t.Helper()
	name := filepath.Join("shapes", venue+".jsonl")
	var lines []shape
	for line := range strings.Lines(dataFile(t, name)) {
		var s shape
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, s)
	}
	if len(lines) < 10 {
		t.Fatalf("%s: only %d lines", name, len(lines))
	}
	return lines
}

// summary shows events without their payloads, which it checks: a payload is a part of
// the message, byte for byte.
func summary(t *testing.T, c wire.Codec, text string) string {
	t.Helper()
	var out wire.Events
	if err := c.Decode(wire.Frame{Type: wire.Text, Data: []byte(text)}, &out); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	var lines []string
	for i := range out.List {
		e := &out.List[i]
		line := show(e)
		if e.Kind == wire.EventError {
			line = fmt.Sprintf("error %s of %d bytes", showCode(e), len(e.Reason)) // the venue's words stay with the venue's messages
		}
		if e.Kind == wire.EventData {
			payload := string(e.Message.Payload)
			if !json.Valid(e.Message.Payload) || !strings.Contains(text, payload) {
				t.Errorf("%s: a payload that is no part of it: %s", text, payload)
			}
			if payload != text {
				line = strings.TrimSuffix(line, payload) + "entry"
			} else {
				line = strings.TrimSuffix(line, " "+payload)
			}
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	return strings.Join(lines, "; ")
}

// venues are the tables and the files that hold messages of their venues.
var venues = []struct {
	file  string
	table func() Table
}{
	{"kraken-v2", Kraken}, {"binance-spot", Binance}, {"binance-usdm", BinanceFutures}, {"okx", OKX}, {"bybit", Bybit}, {"bitstamp", Bitstamp},
}

// TestShapes decodes every message of the files. testdata/shapes.txt has a line for
// each: the events, without payloads. It was checked by hand against the messages.
func TestShapes(t *testing.T) {
	text, err := os.ReadFile("testdata/shapes.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range venues {
		t.Run(v.file, func(t *testing.T) {
			_, rest, _ := strings.Cut(string(text), "# "+v.file+"\n")
			section, _, _ := strings.Cut(rest, "# ")
			want := strings.Split(section, "\n")
			c := open(t, mustNew(t, v.table()))
			n := 0
			for _, s := range shapes(t, v.file) {
				if s.Dir != "recv" {
					continue
				}
				if got := summary(t, c, s.Data); n >= len(want) || got != want[n] {
					t.Errorf("message %d, %s: got\n%s\nwant\n%s", n+1, s.Why, got, want[min(n, len(want)-1)])
				}
				n++
			}
			if n < 15 || n != len(want)-1 {
				t.Errorf("%d messages, and %d lines of what they mean", n, len(want)-1)
			}
		})
	}
}
