package raw

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// heads are the options for the new blocks of an Ethereum node, whose numbers are dense.
func heads() Options {
	return Options{
		OnOpen: func(wire.Resume) [][]byte {
			return [][]byte{[]byte(`{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}`)}
		},
		Topic: func(f wire.Frame) Label {
			var m struct {
				Method string
				Params struct{ Result struct{ Number string } }
			}
			if json.Unmarshal(f.Data, &m) != nil || m.Method != "eth_subscription" {
				return Label{}
			}
			n, err := strconv.ParseUint(m.Params.Result.Number, 0, 64)
			return Label{Topic: "heads", Number: n, Numbered: err == nil}
		},
	}
}

// TestGolden plays testdata/ganache.txt, the recording of a real server.
func TestGolden(t *testing.T) {
	file, err := os.Open("testdata/ganache.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c := open(t, heads(), wire.Resume{})
	var frames wire.Frames
	var events wire.Events
	if err := c.Start(&frames); err != nil {
		t.Fatal(err)
	}
	lines, received := 0, ""
	for in := bufio.NewScanner(file); in.Scan(); {
		lines++
		word, rest, _ := strings.Cut(in.Text(), " ")
		switch word {
		case "#":
			continue
		case "op":
			err = c.Encode([]wire.Op{{Kind: wire.OpPublish, Message: &wire.Message{Topic: "*", Payload: []byte(rest)}}}, &frames)
			fallthrough
		case ">":
			if err != nil || written(&frames) != "text "+rest {
				t.Fatalf("line %d: want %s, have %s, %v", lines, rest, written(&frames), err)
			}
			frames.Reset()
		case "<":
			received, err = rest, c.Decode(wire.Frame{Type: wire.Text, Data: []byte(rest)}, &events)
		case "=":
			topic, number, numbered := strings.Cut(rest, " ")
			if numbered {
				topic = fmt.Sprintf("%s #%s", topic, number)
			}
			if want := "data " + topic + " " + TypeText + " " + received; err != nil || show(events.List) != want {
				t.Fatalf("line %d: want %s, have %s, %v", lines, want, show(events.List), err)
			}
			events.Reset()
		default:
			t.Fatalf("line %d: %q", lines, word)
		}
	}
	if lines < 15 {
		t.Errorf("%d lines", lines)
	}
}
