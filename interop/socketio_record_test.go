package interop

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// sioRecorder writes down what passes its dialect, as testdata of wire/socketio holds it.
type sioRecorder struct {
	dialect wire.Dialect

	mu   sync.Mutex
	text strings.Builder
}

func (r *sioRecorder) Name() string        { return r.dialect.Name() }
func (r *sioRecorder) Traits() wire.Traits { return r.dialect.Traits() }
func (r *sioRecorder) CheckTopic(use wire.Use, topic string) error {
	return r.dialect.CheckTopic(use, topic)
}
func (r *sioRecorder) Attempt(a *wire.Attempt) error       { return r.dialect.Attempt(a) }
func (r *sioRecorder) Verdict(f wire.Failure) wire.Verdict { return r.dialect.Verdict(f) }

func (r *sioRecorder) Open(resume wire.Resume) (wire.Codec, error) {
	codec, err := r.dialect.Open(resume)
	data, _ := json.Marshal(resume)
	r.line("open %s", data)
	return &sioCodec{codec, r}, err
}

func (r *sioRecorder) line(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(&r.text, format+"\n", args...)
}

// save writes the recording to a file in the folder that RECORD names.
func (r *sioRecorder) save(t *testing.T, name string) {
	if folder := os.Getenv("RECORD"); folder != "" {
		r.mu.Lock()
		defer r.mu.Unlock()
		if err := os.WriteFile(filepath.Join(folder, "socketio-"+name+".txt"), []byte(r.text.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
}

type sioCodec struct {
	wire.Codec
	r *sioRecorder
}

func (c *sioCodec) Decode(f wire.Frame, out *wire.Events) error {
	c.r.line("< %d %q", f.Type, f.Data)
	return c.Codec.Decode(f, out)
}

func (c *sioCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	for i := range ops {
		op, text := &ops[i], ""
		switch op.Kind {
		case wire.OpPublish:
			text = fmt.Sprintf("publish %d %q %q %q", op.Cmd, op.Message.Topic, op.Message.Type, op.Message.Payload)
		case wire.OpSubscribe:
			text = fmt.Sprintf("subscribe %d %q", op.Key, op.Topic)
		case wire.OpUnsubscribe:
			text = fmt.Sprintf("unsubscribe %q", op.Topic)
		case wire.OpAck:
			text = fmt.Sprintf("ack %q", op.Position.Tag)
		case wire.OpPong:
			text = fmt.Sprintf("pong %q", op.Step)
		case wire.OpStep:
			text = "step"
		default:
			text = fmt.Sprint("kind ", op.Kind)
		}
		before := len(out.List)
		if err := c.Codec.Encode(ops[i:i+1], out); err != nil {
			return &wire.OpError{Index: i, Err: errors.Unwrap(err)}
		}
		if len(out.List) > before {
			c.r.line("op %s", text)
		}
		for _, f := range out.List[before:] {
			c.r.line("> %d %q", f.Type, f.Data)
		}
	}
	return nil
}
