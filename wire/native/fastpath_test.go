package native

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// slowDecode is Decode without the fast path.
func slowDecode(enc Encoding, sender Sender, data []byte, lim DecodeLimits) ([]Frame, error) {
	r := reader{data: data, end: len(data), bin: enc == Binary, sender: sender, lim: lim}
	r.lim.setDefaults()
	var frames []Frame
	for k := 0; r.nextFrame(k); k++ {
		frames = r.anyFrame(frames)
		r.countFrames(len(frames))
	}
	if r.code == 0 && len(data) > r.lim.Batch && len(frames) > 1 {
		r.fail(CloseFrameTooBig, "batch longer than its limit")
	}
	if r.code != 0 {
		return nil, r.fault()
	}
	return frames, nil
}

// slowEvents is codec.Decode without the fast path: all frames first, then events.
func slowEvents(c *codec, data []byte) ([]wire.Event, error) {
	frames, err := slowDecode(c.enc, FromServer, data, serverLimits)
	if err != nil {
		return nil, err
	}
	var out wire.Events
	for i := range frames {
		if err := c.event(&frames[i], &out); err != nil {
			return nil, err
		}
	}
	return out.List, nil
}

// sameAsSlow checks that the fast path changes nothing: the same frames and the
// same events, or the same error. It returns how many frames there were.
func sameAsSlow(t *testing.T, enc Encoding, sender Sender, data []byte) int {
	t.Helper()
	input := bytes.Clone(data)
	for _, lim := range []DecodeLimits{{}, {Payload: 8, Frames: 2, Batch: 300, Depth: 1}} {
		want, wantErr := slowDecode(enc, sender, data, lim)
		got, err := Decode(nil, enc, sender, input, lim)
		if !reflect.DeepEqual(err, wantErr) || err == nil && !slices.EqualFunc(got, want, func(a, b Frame) bool { return reflect.DeepEqual(a, b) }) {
			t.Fatalf("encoding %d, %q:\n got %+v, %v\nwant %+v, %v", enc, data, got, err, want, wantErr)
		}
	}
	frames := 0
	for _, welcomed := range []bool{true, false} {
		want, wantErr := slowEvents(&codec{enc: enc, frameType: enc.FrameType(), welcomed: welcomed, resume: wire.Resume{Conn: 1}}, data)
		c := &codec{enc: enc, frameType: enc.FrameType(), welcomed: welcomed, resume: wire.Resume{Conn: 1}}
		out := wire.Events{List: []wire.Event{{Kind: wire.EventPong, N: 77}}}
		err := c.Decode(wire.Frame{Type: enc.FrameType(), Data: input}, &out)
		for i := range out.List {
			out.List[i].OwnPayload()
		}
		if out.List[0].N != 77 || !reflect.DeepEqual(err, wantErr) || !slices.EqualFunc(out.List[1:], want, func(a, b wire.Event) bool { return reflect.DeepEqual(a, b) }) {
			t.Fatalf("encoding %d, %q:\n got %+v, %v\nwant %+v, %v", enc, data, out.List[1:], err, want, wantErr)
		}
		frames = max(frames, len(want))
	}
	if !bytes.Equal(input, data) {
		t.Fatal("the input was changed")
	}
	return frames
}

// fastPathSeeds are batches of either encoding: the messages of the golden files,
// every frame alone and between messages, and unusual ones.
func fastPathSeeds(tb testing.TB) (seeds [3][][]byte) {
	for _, enc := range encodings {
		files, err := filepath.Glob(filepath.Join("testdata", "*"+map[Encoding]string{JSON: ".json.golden", Binary: ".bin.golden"}[enc]))
		if err != nil || len(files) == 0 {
			tb.Fatalf("no golden files, %v", err)
		}
		for _, name := range files {
			text, err := os.ReadFile(name)
			if err != nil {
				tb.Fatal(err)
			}
			for line := range bytes.Lines(text) {
				data := bytes.TrimSuffix(line[2:], []byte("\n"))
				if line[0] == '=' {
					continue
				}
				if enc == Binary {
					if data, err = hex.DecodeString(string(data)); err != nil {
						tb.Fatal(err)
					}
				}
				seeds[enc] = append(seeds[enc], data)
			}
		}
		least := Frame{Type: TypeMsg, Msg: Msg{Ch: 3, S: 12, P: 11, HasP: true, ID: testID}}
		topical := Frame{Type: TypeMsg, Msg: Msg{Ch: 3, S: 1 << 20, P: 1 << 14, HasP: true, ID: testID, Topic: "a/b", Payload: []byte(`[{"a":-1.5e3}]`)}}
		wild := Frame{Type: TypeMsg, Msg: Msg{Ch: 3, S: 300, P: 299, HasP: true, ID: testID, Topic: "a/*", Payload: []byte{0xff}}}
		up := Frame{Type: TypeMsg, Msg: Msg{S: 1<<53 - 1, ID: testID, Topic: "a/b", Payload: []byte("\x00payload")}}
		full := Frame{Type: TypeMsg, Msg: Msg{Ch: 3, S: 300, P: 299, HasP: true, ID: testID, Topic: "a", Payload: []byte("1"),
			Type: "t/p", HasAge: true, Age: 200, TTL: 1000, Flags: FlagSnapshot | FlagSnapshotEnd}}
		for _, frames := range [][]Frame{{least}, {topical}, {full}, {full, full}, {up}, {wild}, {least, topical}, {topical, wild, topical},
			{least, {Type: TypePing, N: 1}, topical, topical}, {least, {Type: TypeSubOK, SubOK: &SubOK{}}, topical}, {up, up}} {
			data, err := Append(nil, enc, frames)
			if err != nil {
				tb.Fatal(err)
			}
			seeds[enc] = append(seeds[enc], data)
		}
		for _, tt := range every {
			data, err := Append(nil, enc, []Frame{tt.f})
			if err != nil {
				tb.Fatal(err)
			}
			seeds[enc] = append(seeds[enc], data)
		}
	}
	for _, tt := range refused {
		if len(tt.json) < 256 {
			seeds[JSON] = append(seeds[JSON], []byte(tt.json))
		}
	}
	return seeds
}

// TestFastPath mutates batches of fast messages byte by byte.
func TestFastPath(t *testing.T) {
	for _, enc := range encodings {
		understood := 0
		for _, seed := range fastPathSeeds(t)[enc] {
			for _, sender := range []Sender{FromServer, FromClient} {
				understood += sameAsSlow(t, enc, sender, seed)
				if len(seed) > 250 || !beginsFast(enc, sender, seed) {
					continue
				}
				for i := range seed {
					sameAsSlow(t, enc, sender, seed[:i])
					sameAsSlow(t, enc, sender, slices.Concat(seed[:i], seed[i+1:]))
					sameAsSlow(t, enc, sender, slices.Concat(seed[:i], seed[i:i+1], seed[i:]))
					was := seed[i]
					for _, c := range []byte("\x00\x7f\x80\xff0 \"\\,}") {
						seed[i] = c
						understood += sameAsSlow(t, enc, sender, seed)
					}
					seed[i] = was
				}
			}
		}
		if understood < 500 {
			t.Errorf("encoding %d: only %d frames were understood", enc, understood)
		}
	}
}

// TestFastPathOddSpellings puts unusual spellings of two fields at a time into a
// fast message.
func TestFastPathOddSpellings(t *testing.T) {
	numbers := []string{"0", "1", `"1"`, "01", "-1", "1.0", "1e3", " 7", "null", "9007199254740991", "9007199254740992", `"9007199254740992"`, "99999999999999999", `"18446744073709551615"`, `"max"`, ""}
	texts := []string{`"a/b"`, `""`, `"a/*"`, `"*/**"`, `"ü"`, `"\u0061"`, `"a\n"`, "\"a\x7f\"", "\"a\x1f\"", "\"a\xff\"", `"` + strings.Repeat("x", MaxTopic) + `"`, `"` + strings.Repeat("x", MaxTopic+1) + `"`, `"a`, `"12345678"`, `"1234567\\"`}
	payloads := []string{`,"d":null`, `,"d":{"a":[1,{}]}`, `,"d": 1`, `,"d":1 `, `,"d":01`, `,"d":"\ud800"`, `,"d":`, `,"b":""`, `,"b":"AA"`, `,"b":"AB"`, `,"b":"A"`, `,"b":"AA="`, `,"b":"A+"`, `,"b":"\u0041A"`,
		`,"d":1,"b":"AA"`, `,"b":"AA","d":1`, `,"d":` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth), `,"d":` + strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1), `,"d":"` + strings.Repeat("x", 2*deepest) + `"`}
	ids := []string{`"` + idText + `"`, strings.ToUpper(`"` + idText + `"`), `"` + idText[1:] + `"`, `"` + idText + `0"`, `"` + strings.ReplaceAll(idText, "-", "0") + `"`, `"\u00` + idText[4:] + `"`, "0"}
	type field struct {
		key    string
		common string
		others []string
	}
	fields := []field{{`,"ch":`, "3", numbers}, {`,"s":`, "12", numbers}, {`,"p":`, "11", numbers}, {`,"id":`, `"` + idText + `"`, ids}, {`,"tp":`, `"a"`, texts},
		{"", `,"d":1`, payloads}, {`,"ct":`, `"t/p"`, texts}, {`,"age":`, "1", numbers}, {`,"ttl":`, "1", numbers}, {`,"fl":`, "1", append(numbers, "2", "3", "4", "7", "8")}}
	for i := range fields {
		for k := range i + 1 {
			for _, odd := range fields[i].others {
				for _, other := range append([]string{"absent"}, fields[k].others...) {
					text := `{"t":"msg"`
					for n, f := range fields {
						switch {
						case n == i:
							text += f.key + odd
						case n != k:
							text += f.key + f.common
						case other != "absent":
							text += f.key + other
						}
					}
					text += "}"
					sameAsSlow(t, JSON, FromServer, []byte(text))
					sameAsSlow(t, JSON, FromServer, []byte("["+text+`,`+text+"]"))
					up := strings.NewReplacer(`,"ch":3`, "", `,"p":11`, "").Replace(text)
					sameAsSlow(t, JSON, FromClient, []byte(up))
				}
			}
		}
	}
}

// beginsFast reports whether the first frame, alone or in a list, is a fast
// message.
func beginsFast(enc Encoding, sender Sender, data []byte) bool {
	var fast fastMessage
	data = bytes.TrimPrefix(data, []byte("["))
	return fast.find(data, 0, enc, sender, &DefaultLimits) > 0
}

// TestFastPathIsTaken shows which messages take the fast path, and that one field
// more or less can exclude a message.
func TestFastPathIsTaken(t *testing.T) {
	down := Msg{Ch: 3, S: 1048577, P: 1048576, HasP: true, ID: testID, Topic: "a/b", Payload: []byte("{}")}
	up := Msg{S: 5, ID: testID, Topic: "a/b", Payload: []byte("no JSON")}
	for _, tt := range []struct {
		sender Sender
		m      Msg
		change func(*Msg)
		want   bool
	}{
		{FromServer, down, func(*Msg) {}, true},
		{FromServer, down, func(m *Msg) { m.Topic = "" }, true},
		{FromServer, down, func(m *Msg) { m.Payload = nil }, true},
		{FromServer, down, func(m *Msg) { m.Tag = []byte("t") }, false},
		{FromServer, down, func(m *Msg) { m.Header = map[string]string{"k": "v"} }, false},
		{FromServer, down, func(m *Msg) { m.Flags, m.Type, m.TTL = FlagSnapshot, "text/plain", 5 }, true},
		{FromServer, down, func(m *Msg) { m.HasAge, m.Age = true, 1 }, true},
		{FromServer, down, func(m *Msg) { m.HasAge, m.Age = true, AgeUnknown }, false},
		{FromServer, down, func(m *Msg) { m.Flags, m.Payload = FlagVoid, nil }, false},
		{FromServer, down, func(m *Msg) { m.Ch = 0 }, false},
		{FromServer, down, func(m *Msg) { m.HasP = false }, false},
		{FromClient, up, func(*Msg) {}, true},
		{FromClient, up, func(m *Msg) { m.Topic = "" }, false},
		{FromClient, up, func(m *Msg) { m.Type, m.HasAge, m.TTL = "text/plain", true, 1 }, true},
		{FromClient, up, func(m *Msg) { m.Flags = FlagVoid }, false},
	} {
		tt.change(&tt.m)
		for _, enc := range encodings {
			data, err := Append(nil, enc, []Frame{{Type: TypeMsg, Msg: tt.m}})
			if err != nil {
				t.Fatal(err)
			}
			var fast fastMessage
			if end := fast.find(data, 0, enc, tt.sender, &DefaultLimits); end >= 0 != tt.want || tt.want && end != len(data) {
				t.Errorf("encoding %d, %+v: end %d of %d", enc, tt.m, end, len(data))
			}
		}
	}
}

// FuzzFastPath decodes the same bytes with the fast path and without it.
func FuzzFastPath(f *testing.F) {
	for enc, seeds := range fastPathSeeds(f) {
		for _, seed := range seeds {
			f.Add(enc == int(Binary), true, seed)
		}
	}
	f.Fuzz(func(t *testing.T, bin, server bool, data []byte) {
		enc, sender := JSON, FromClient
		if bin {
			enc = Binary
		}
		if server {
			sender = FromServer
		}
		sameAsSlow(t, enc, sender, data)
	})
}
