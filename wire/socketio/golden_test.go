package socketio

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

var update = flag.Bool("update", false, "write what the recordings in testdata are understood as")

// player plays a recording: it gives a codec what was received and what the client wanted,
// and collects what the codec makes of it.
type player struct {
	t      *testing.T
	codec  wire.Codec
	frames wire.Frames
	events wire.Events
	step   any // of the last EventStep
	echo   any // of the last EventPing
	lines  []string
}

func (p *player) line(format string, args ...any) {
	p.lines = append(p.lines, fmt.Sprintf(format, args...))
}

// play takes one line of a recording: what is received or wanted. Other lines are what
// comes of it, and are made again.
func (p *player) play(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "#":
		p.line("%s", line)
		return nil
	case "open":
		var r wire.Resume
		if err := json.Unmarshal([]byte(rest), &r); err != nil {
			return err
		}
		p.line("%s", line)
		p.codec = open(p.t, Options{Volatile: []string{"flash"}, Refused: advice}, r)
		return p.codec.Start(&p.frames)
	case "<":
		var f wire.Frame
		if _, err := fmt.Sscanf(rest, "%d %q", &f.Type, &f.Data); err != nil {
			return err
		}
		p.line("%s", line)
		p.events.Reset()
		if err := p.codec.Decode(f, &p.events); err != nil {
			return err
		}
		for i := range p.events.List {
			switch e := &p.events.List[i]; e.Kind {
			case wire.EventStep:
				p.step = e.Step
			case wire.EventPing:
				p.echo = e.Step
			}
			p.line("= %s", show(p.events.List[i:i+1]))
		}
	case "op":
		op, err := p.parseOp(rest)
		if err != nil {
			return err
		}
		p.line("%s", line)
		p.frames.Reset()
		if err := p.codec.Encode([]wire.Op{op}, &p.frames); err != nil {
			return err
		}
		for _, f := range p.frames.List {
			p.line("> %d %q", f.Type, f.Data)
		}
	}
	return nil
}

// advice reads the refusals of interop/servers/socketio.mjs.
func advice(_ string, data []byte) (wire.Action, time.Duration) {
	var m struct{ Wait int }
	_ = json.Unmarshal(data, &m)
	return wire.ActionRetryNow, time.Duration(m.Wait) * time.Millisecond
}

// parseOp reads what interop/socketio_test.go has written of an operation.
func (p *player) parseOp(text string) (op wire.Op, err error) {
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "publish":
		m := new(wire.Message)
		op.Kind, op.Message = wire.OpPublish, m
		_, err = fmt.Sscanf(rest, "%d %q %q %q", &op.Cmd, &m.Topic, &m.Type, &m.Payload)
	case "ack":
		op.Kind = wire.OpAck
		op.Position.Tag, err = strconv.Unquote(rest)
	case "pong":
		op.Kind, op.Step = wire.OpPong, p.echo
	case "step":
		op.Kind, op.Step = wire.OpStep, p.step
	default:
		err = fmt.Errorf("what is %q?", text)
	}
	return op, err
}

// TestGolden plays recordings of a real server in both directions.
func TestGolden(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(names) != 3 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			recording, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			p := &player{t: t}
			for in, n := bufio.NewScanner(bytes.NewReader(recording)), 1; in.Scan(); n++ {
				if err := p.play(in.Text()); err != nil {
					t.Fatalf("line %d: %v", n, err)
				}
			}
			got := strings.Join(p.lines, "\n") + "\n"
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want := strings.Split(string(recording), "\n")
			for i, line := range strings.Split(got, "\n") {
				if i >= len(want) || line != want[i] {
					t.Fatalf("line %d\ngot  %s\nwant %s", i+1, line, want[min(i, len(want)-1)])
				}
			}
			if least := map[bool]int{true: 15, false: 50}[strings.Contains(name, "advice")]; len(p.lines) < least || len(p.lines)+1 != len(want) {
				t.Errorf("%d lines", len(p.lines))
			}
		})
	}
}
