package native

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

// decodeAny checks what must hold for every input: no panic, memory in proportion,
// nothing shared with the input, and that what was decoded can be encoded again
// in both encodings.
func decodeAny(t *testing.T, enc Encoding, server bool, data []byte) {
	sender := FromClient
	if server {
		sender = FromServer
	}
	input := bytes.Clone(data)
	frames, err := Decode(nil, enc, sender, input, DefaultLimits)
	if err != nil {
		if len(frames) != 0 {
			t.Fatalf("%d frames beside %v", len(frames), err)
		}
		return
	}
	if limit := 160*len(data) + 1024; footprint(frames) > limit {
		t.Fatalf("%d bytes of frames from %d of input", footprint(frames), len(data))
	}
	clear(input)
	for _, again := range encodings {
		text, err := Append(nil, again, frames)
		if err != nil {
			t.Fatal(err)
		}
		size := 2
		for i := range frames {
			size += Size(again, &frames[i])
		}
		if len(text) > size {
			t.Fatalf("%d bytes, Size said %d", len(text), size)
		}
		// The other encoding may exceed the length of a batch.
		lim := DecodeLimits{Batch: Unlimited}
		got, err := Decode(nil, again, sender, text, lim)
		if err != nil {
			t.Fatalf("encoding %d: %v\n%q", again, err, text)
		}
		if len(got) != len(frames) || len(got) > 0 && !reflect.DeepEqual(got, frames) {
			t.Fatalf("encoding %d:\n got %+v\nwant %+v", again, got, frames)
		}
	}
}

func FuzzJSON(f *testing.F) {
	for _, tt := range every {
		f.Add(tt.sender == FromServer, []byte(tt.json))
	}
	for _, tt := range refused {
		if len(tt.json) < 256 {
			f.Add(tt.sender == FromServer, []byte(tt.json))
		}
	}
	f.Fuzz(func(t *testing.T, server bool, data []byte) { decodeAny(t, JSON, server, data) })
}

func FuzzBinary(f *testing.F) {
	for _, tt := range every {
		data, err := Append(nil, Binary, []Frame{tt.f, {Type: TypePing, N: 300}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(tt.sender == FromServer, data)
	}
	f.Fuzz(func(t *testing.T, server bool, data []byte) { decodeAny(t, Binary, server, data) })
}

// FuzzDifferential encodes the same frames in both encodings: either both succeed
// or neither, and both decode alike, to the last byte of the payload.
func FuzzDifferential(f *testing.F) {
	f.Add(uint8(3), uint64(1), uint64(2), uint64(3), "a/b", "text/plain", []byte(` {"a": 1}`), []byte{1})
	f.Add(uint8(3), uint64(1)<<53, uint64(0), ^uint64(0), "ü", "\u2028\x00", []byte(`{"a" : [1e5, "\ud800"]}`), []byte{})
	f.Add(uint8(3), uint64(0), uint64(4), uint64(8), "a", "", []byte("null"), []byte("0123456789abcdef"))
	f.Add(uint8(3), uint64(1), uint64(5), uint64(8), "a", "x", []byte("\xff"), []byte("0123456789abcdefg"))
	for n := range uint8(18) {
		f.Add(n, uint64(n), uint64(n)*7, uint64(1)<<60, "topic", "s\"\\\n", []byte("[1,2]"), []byte{0})
	}
	f.Fuzz(func(t *testing.T, kind uint8, a, b, c uint64, s1, s2 string, payload, tag []byte) {
		frame, sender := build(kind, a, b, c, s1, s2, payload, tag)
		var texts [2][]byte
		var errs [2]error
		for i, enc := range encodings {
			texts[i], errs[i] = Append(nil, enc, []Frame{frame})
		}
		if (errs[0] == nil) != (errs[1] == nil) {
			t.Fatalf("JSON: %v, binary: %v", errs[0], errs[1])
		}
		if errs[0] != nil {
			return
		}
		var frames [2][]Frame
		for i, enc := range encodings {
			frames[i], errs[i] = Decode(nil, enc, sender, texts[i], DefaultLimits)
		}
		if !reflect.DeepEqual(errs[0], errs[1]) {
			t.Fatalf("JSON: %v, binary: %v\n%s", errs[0], errs[1], texts[0])
		}
		if !reflect.DeepEqual(frames[0], frames[1]) {
			t.Fatalf("JSON:   %+v\nbinary: %+v", frames[0], frames[1])
		}
		if errs[0] == nil && frame.Type == TypeMsg && !bytes.Equal(frames[0][0].Msg.Payload, payload) {
			t.Fatalf("payload %q came out as %q", payload, frames[0][0].Msg.Payload)
		}
	})
}

// build makes a frame from a fuzzer's values; bits of b choose what is set.
func build(kind uint8, a, b, c uint64, s1, s2 string, payload, tag []byte) (Frame, Sender) {
	bit := func(n int) bool { return b>>n&1 == 1 }
	id := wire.ID{byte(a), byte(b), byte(c), 15: byte(kind)}
	f := Frame{Type: Type(kind)}
	sender := FromServer
	switch f.Type {
	case TypeHello:
		sender = FromClient
		f.Hello = &Hello{CN: a, SID: s1, Key: payload, SE: b, Tok: s2, TTL: c, Feat: []string{s1, s2}}
		if bit(0) {
			f.Hello.Up = &Uplink{Lo: a, Hi: c, Tag: id, HasTag: bit(1)}
		}
		if bit(2) {
			f.Hello.Subs = []Sub{{Ch: c, Topic: s1, From: From(b >> 8), Tag: tag}, {Epoch: s2, Cr: Credit{a, b}}}
		}
	case TypeWelcome:
		f.Welcome = &Welcome{CN: a, SID: s1, Key: tag, SE: b, Res: bit(0), Ack: c, Tag: id, HasTag: true, Cr: Credit{c, a}, HB: c}
		if bit(1) {
			f.Welcome.Sack = []wire.Range{{Lo: a, Hi: c}, {Lo: 0, Hi: b}}
			f.Welcome.Out = []Reject{{a, b}, {b, c}}
		}
		if bit(2) {
			f.Welcome.Lim = &Limits{Batch: a, Token: c}
		}
	case TypeMsg:
		f.Msg = Msg{S: a, P: b, HasP: bit(0), Ch: c, ID: id, Topic: s1, Payload: payload, Type: s2, Tag: tag, TTL: b, Flags: b >> 3 & 3}
		if bit(1) {
			f.Msg.HasAge, f.Msg.Age = true, c
		}
		if bit(2) {
			f.Msg.Header = map[string]string{s1: s2, s2: s1}
		}
		if bit(9) {
			sender = FromClient
		}
	case TypeAck:
		f.Ack = &Ack{To: a, HasTo: bit(0), X: []wire.Range{{Lo: a, Hi: b}}, Nak: []Reject{{a, c}}, Dcr: []ChCredit{{a, b, c}}, Dup: []wire.Range{{Lo: b, Hi: c}}}
		if bit(1) {
			f.Ack.Cr = &Credit{b, c}
		}
	case TypeSub:
		sender = FromClient
		f.Sub = &Sub{Ch: a, Topic: s1, From: From(b), Epoch: s2, O: c, Tag: tag, N: b, Cr: Credit{a, c}, Tok: s1}
	case TypeSubOK:
		f.SubOK = &SubOK{Ch: a, Epoch: s1, O: b, Tag: tag, Head: c, Rec: bit(0), Snap: bit(1)}
	case TypeUnsub:
		f.Unsub = &Unsub{Ch: a, Code: b, Msg: s1, Retry: c}
	case TypeGap:
		f.Gap = &Gap{Ch: a, P: b, To: c, Why: GapWhy(b), N: a, Tag: tag}
	case TypeReset:
		f.Reset = &Reset{Ch: a, Epoch: s1, O: b, Tag: tag, Why: ResetWhy(c)}
	case TypeAuth:
		f.Auth = &Auth{Tok: s1, Exp: a, Need: b, Code: c}
	case TypeGoAway:
		f.GoAway = &GoAway{Code: a, After: b, Spread: c, DL: a, URL: s1, Res: bit(0), Fin: bit(1)}
	case TypePing, TypePong:
		f.N = a
	case TypeErr:
		f.Err = &Err{Code: a, Msg: s1, Ch: b, S: c, HasS: bit(0), Retry: b, Fatal: bit(1)}
	case TypeCall:
		sender = FromClient
		f.Call = &Call{N: a, Topic: s1, Payload: payload, Type: s2, DL: b}
		if bit(0) {
			f.Call.Header = map[string]string{s1: s2}
		}
	case TypeReply:
		f.Reply = &Reply{N: a, Code: b, Msg: s1, Payload: payload, Type: s2}
	}
	return f, sender
}

// FuzzScan compares scan with the standard library.
func FuzzScan(f *testing.F) {
	for _, s := range []string{`{"a":[1,-2.5e+3,"\u00fc\n",true,false,null]}`, `[[],{}]`, `[1,]`, `{"a"}`, `"\x"`, "1e", "-", "01", `{"a":1,}`, "[", `"`, "[1}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := len(b) > 0 && !isSpace(b[0]) && !isSpace(b[len(b)-1]) && bytes.Count(b, []byte("["))+bytes.Count(b, []byte("{")) <= deepest
		if whole && (scan(b, 0, deepest) == len(b)) != json.Valid(b) {
			t.Fatalf("%q: scan %d, valid %t", b, scan(b, 0, deepest), json.Valid(b))
		}
	})
}
