package socketio

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// FuzzDecode gives a codec the lines of a text as frames; one that begins with "bin " is
// binary. No input panics, makes more events than it can hold, or is kept.
func FuzzDecode(f *testing.F) {
	names, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(names) == 0 {
		f.Fatal(names, err)
	}
	for _, name := range names {
		recording, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		p := strings.NewReplacer("< 1 \"", "", "< 2 \"", "bin ", `\"`, `"`)
		f.Add(p.Replace(string(recording)), true)
	}
	f.Add(opened+"\n"+`42["a",1,"o4"]`+"\n"+recovers+"\n"+`452-["a",{"_placeholder":true,"num":1},[{"_placeholder":true,"num":0}]]`+"\nbin 1\nbin 2\n437[]", true)
	f.Fuzz(func(t *testing.T, text string, resume bool) {
		r := wire.Resume{Subs: subs("a", "*")}
		if resume {
			r = before()
		}
		c := open(t, Options{Refused: advice}, r)
		var kept, out wire.Events
		frames := 0
		for _, line := range strings.Split(text, "\n") {
			frame := wire.Frame{Type: wire.Text, Data: []byte(line)}
			if data, is := strings.CutPrefix(line, "bin "); is {
				frame = wire.Frame{Type: wire.Binary, Data: []byte(data)}
			}
			before := bytes.Clone(frame.Data)
			if err := c.Decode(frame, &out); err != nil {
				return
			}
			if !bytes.Equal(before, frame.Data) {
				t.Fatal("Decode has changed its frame")
			}
			shown := show(out.List)
			clear(frame.Data)
			if now := show(out.List); now != shown {
				t.Fatalf("an event shares the memory of its frame:\n%s\n%s", shown, now)
			}
			kept.List = append(kept.List, out.List...)
			out.Reset()
			frames++
		}
		if limit := 6*frames + 8; len(kept.List) > limit {
			t.Fatalf("%d events from %d frames", len(kept.List), frames)
		}
		size := 0
		for i := range kept.List {
			size += len(kept.List[i].Message.Payload)
		}
		if limit := 4*len(text) + 64*frames; size > limit { // two streams, and base64
			t.Fatalf("%d bytes of payload from %d", size, len(text))
		}
	})
}
