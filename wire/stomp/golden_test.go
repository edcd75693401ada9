package stomp

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

var update = flag.Bool("update", false, "write the events of the recording; read the difference")

const recording = "testdata/rabbitmq.txt"

// TestGolden plays the recording of a real broker: what was sent is encoded byte for byte,
// what was received becomes the events behind it.
func TestGolden(t *testing.T) {
	data, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	var c wire.Codec
	var steps []any
	var kept []string
	var want, got []string // events of the last frame
	var sent []wire.Frame
	frames, connections := 0, 0
	flush := func(line int) {
		if !*update && strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("before line %d:\ngot  %q\nwant %q", line, got, want)
		}
		for _, e := range got {
			kept = append(kept, "= "+e)
		}
		want, got = nil, nil
	}
	for i, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		word, rest, _ := strings.Cut(line, " ")
		if word == "=" {
			want = append(want, rest)
			continue
		}
		flush(i + 1)
		kept = append(kept, line)
		switch word {
		case "#":
		case "open":
			ms, _ := strconv.Atoi(rest)
			connections++
			c = open(t, Options{Login: "heron", Passcode: `h:e\xron`, EscapeConnect: true}, wire.Resume{Heartbeat: time.Duration(ms) * time.Millisecond, ReadLimit: 1 << 20})
			var out wire.Frames
			err = c.Start(&out)
			sent = out.List
		case "op":
			if len(sent) > 0 {
				t.Fatalf("line %d: %d frames are not in the recording", i+1, len(sent))
			}
			var out wire.Frames
			err = c.Encode([]wire.Op{goldenOp(t, rest, &steps)}, &out)
			sent = out.List
		case ">", "<":
			kind, quoted, _ := strings.Cut(rest, " ")
			text, bad := strconv.Unquote(quoted)
			typ, _ := strconv.Atoi(kind)
			if bad != nil {
				t.Fatal(bad)
			}
			frames++
			if word == ">" {
				if len(sent) == 0 || sent[0].Type != wire.FrameType(typ) || string(sent[0].Data) != text {
					t.Fatalf("line %d: want %q, have %q", i+1, text, sent)
				}
				sent = sent[1:]
				break
			}
			var events wire.Events
			err = c.Decode(wire.Frame{Type: wire.FrameType(typ), Data: []byte(text)}, &events)
			for _, e := range events.List {
				if e.Kind == wire.EventStep {
					steps = append(steps, e.Step)
				}
			}
			if len(events.List) > 0 {
				got = strings.Split(show(events.List), "\n")
			}
		default:
			t.Fatalf("line %d: %q", i+1, word)
		}
		if err != nil {
			t.Fatalf("line %d: %v", i+1, err)
		}
	}
	flush(0)
	if frames < 20 || connections != 2 {
		t.Errorf("%d frames of %d connections", frames, connections)
	}
	if *update {
		if err := os.WriteFile(recording, []byte(strings.Join(kept, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// goldenOp reads an op of the recording. The steps are those that Decode has made.
func goldenOp(t *testing.T, text string, steps *[]any) (op wire.Op) {
	t.Helper()
	f := strings.SplitN(text, " ", 5)
	n := func(i int) uint64 {
		v, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			t.Fatal(text, err)
		}
		return v
	}
	switch f[0] {
	case "step":
		op = wire.Op{Kind: wire.OpStep, Step: (*steps)[0]}
		*steps = (*steps)[1:]
	case "subscribe":
		op = subscribeOp(n(1), f[3])
		op.Subscribe.Credit.N = n(2)
	case "ack":
		op = wire.Op{Kind: wire.OpAck, Key: n(1), Position: wire.Position{Tag: f[2]}}
	case "publish":
		m := wire.Message{Topic: f[2], Payload: nil}
		if _, err := hex.Decode(m.ID[:], []byte(f[3])); err != nil {
			t.Fatal(err)
		}
		body, err := strconv.Unquote(f[4])
		if err != nil {
			t.Fatal(err)
		}
		if m.Payload = []byte(body); m.Topic == "/queue/px" {
			m.Type, m.Header = "text/x", map[string]string{"k:1": "a\n\\", "persistent": "true"}
		}
		op = publishOp(n(1), m)
	case fmt.Sprint(int(wire.OpPing)):
		op = wire.Op{Kind: wire.OpPing}
	default:
		t.Fatal(fmt.Sprint("an op that the recording should not hold: ", text))
	}
	return op
}
