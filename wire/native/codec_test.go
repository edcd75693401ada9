package native

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/limpet-go/limpet/wire"
)

var testID = wire.ID{1, 0x98, 0x0f, 0x0e, 1, 2, 0x73, 4, 0x85, 6, 7, 8, 9, 10, 11, 12}

const big = 1 << 60

// every is each frame with all fields set, and with as few as its sender may set.
var every = []struct {
	name   string
	sender Sender
	json   string
	f      Frame
}{
	{"hello, least", FromClient, `{"t":"hello","cn":7}`, Frame{Type: TypeHello, Hello: &Hello{CN: 7}}},
	{"hello, most", FromClient,
		`{"t":"hello","cn":7,"sid":"s1","key":"AQID","se":2,"tok":"secret","up":{"lo":3,"hi":5,"tag":"AZgPDgECcwSFBgcICQoLDA"},` +
			`"subs":[{"ch":1,"tp":"a/*","from":"last","ep":"e","o":9,"tag":"CQ","n":4,"cr":{"n":256,"b":1048576},"tok":"t2"},` +
			`{"ch":2,"tp":"b","cr":{"n":0,"b":0}}],"feat":["x","y"],"ttl":60,"hb":500,"rl":65536}`,
		Frame{Type: TypeHello, Hello: &Hello{CN: 7, SID: "s1", Key: []byte{1, 2, 3}, SE: 2, Tok: "secret",
			Up: &Uplink{Lo: 3, Hi: 5, Tag: testID, HasTag: true},
			Subs: []Sub{{Ch: 1, Topic: "a/*", From: FromLast, Epoch: "e", O: 9, Tag: []byte{9}, N: 4,
				Cr: Credit{256, 1 << 20}, Tok: "t2"}, {Ch: 2, Topic: "b"}},
			Feat: []string{"x", "y"}, TTL: 60, HB: 500, RL: 65536}}},
	{"welcome, least", FromServer, `{"t":"welcome","cn":0,"sid":"","key":"","se":0,"res":false,"ack":0,"cr":{"n":0,"b":0}}`,
		Frame{Type: TypeWelcome, Welcome: &Welcome{}}},
	{"welcome, most", FromServer,
		`{"t":"welcome","cn":7,"sid":"s","key":"Aw","se":1,"res":true,"ack":5,"tag":"AZgPDgECcwSFBgcICQoLDA",` +
			`"sack":[[7,8],[10,10]],"out":[{"s":4,"code":2}],"cr":{"n":"1152921504606846976","b":9007199254740991},` +
			`"hb":20000,"ttl":300,"dedup":600,"lim":{"batch":1,"payload":2,"headers":3,"hsize":4,"subs":5,"hsubs":6,"depth":7,"token":8},` +
			`"spread":1000,"feat":["z"],"exp":90,"dup":[[3,3]]}`,
		Frame{Type: TypeWelcome, Welcome: &Welcome{CN: 7, SID: "s", Key: []byte{3}, SE: 1, Res: true, Ack: 5, Tag: testID, HasTag: true,
			Sack: []wire.Range{{Lo: 7, Hi: 8}, {Lo: 10, Hi: 10}}, Out: []Reject{{4, 2}}, Cr: Credit{big, 1<<53 - 1}, HB: 20000, TTL: 300, Dedup: 600,
			Lim: &Limits{1, 2, 3, 4, 5, 6, 7, 8}, Spread: 1000, Feat: []string{"z"}, Exp: 90, Dup: []wire.Range{{Lo: 3, Hi: 3}}}}},
	{"msg up", FromClient, `{"t":"msg","s":41,"id":"01980f0e-0102-7304-8506-0708090a0b0c","tp":"orders","d":{"q":1}}`,
		Frame{Type: TypeMsg, Msg: Msg{S: 41, ID: testID, Topic: "orders", Payload: []byte(`{"q":1}`)}}},
	{"msg up, void", FromClient, `{"t":"msg","s":42,"id":"01980f0e-0102-7304-8506-0708090a0b0c","fl":4}`,
		Frame{Type: TypeMsg, Msg: Msg{S: 42, ID: testID, Flags: FlagVoid}}},
	{"msg up, most", FromClient, `{"t":"msg","s":"9007199254740992","id":"01980f0e-0102-7304-8506-0708090a0b0c","tp":"o/ü\"\\\n\u0001","b":"AAH_","ct":"text/plain","h":{"a":"1","b":""},"age":"max","ttl":1500}`,
		Frame{Type: TypeMsg, Msg: Msg{S: 1 << 53, ID: testID, Topic: "o/ü\"\\\n\x01", Payload: []byte{0, 1, 255}, Type: "text/plain",
			Header: map[string]string{"a": "1", "b": ""}, HasAge: true, Age: AgeUnknown, TTL: 1500}}},
	{"msg down", FromServer, `{"t":"msg","ch":3,"s":12,"p":0,"id":"01980f0e-0102-7304-8506-0708090a0b0c","tag":"CQ","age":0,"fl":3}`,
		Frame{Type: TypeMsg, Msg: Msg{Ch: 3, S: 12, HasP: true, ID: testID, Tag: []byte{9}, HasAge: true, Flags: 3}}},
	{"ack down", FromServer, `{"t":"ack","to":9,"x":[[11,12]],"n":[{"s":10,"code":4}],"cr":{"n":5,"b":6}}`,
		Frame{Type: TypeAck, Ack: &Ack{To: 9, HasTo: true, X: []wire.Range{{Lo: 11, Hi: 12}}, Nak: []Reject{{10, 4}}, Cr: &Credit{5, 6}}}},
	{"ack down, duplicates", FromServer, `{"t":"ack","to":9,"dup":[[1,2],[4,4]]}`,
		Frame{Type: TypeAck, Ack: &Ack{To: 9, HasTo: true, Dup: []wire.Range{{Lo: 1, Hi: 2}, {Lo: 4, Hi: 4}}}}},
	{"ack down, zero", FromServer, `{"t":"ack","to":0}`, Frame{Type: TypeAck, Ack: &Ack{HasTo: true}}},
	{"ack up", FromClient, `{"t":"ack","dcr":[{"ch":3,"n":640,"b":1048576},{"ch":4,"n":0,"b":0}]}`,
		Frame{Type: TypeAck, Ack: &Ack{Dcr: []ChCredit{{3, 640, 1 << 20}, {4, 0, 0}}}}},
	{"sub", FromClient, `{"t":"sub","ch":1,"tp":"a","from":"new","cr":{"n":1,"b":2}}`,
		Frame{Type: TypeSub, Sub: &Sub{Ch: 1, Topic: "a", From: FromNew, Cr: Credit{1, 2}}}},
	{"subok", FromServer, `{"t":"subok","ch":1,"ep":"e","o":4,"tag":"CQ","head":9,"rec":true,"snap":true}`,
		Frame{Type: TypeSubOK, SubOK: &SubOK{Ch: 1, Epoch: "e", O: 4, Tag: []byte{9}, Head: 9, Rec: true, Snap: true}}},
	{"unsub", FromServer, `{"t":"unsub","ch":1,"code":2,"msg":"no","retry":100}`,
		Frame{Type: TypeUnsub, Unsub: &Unsub{Ch: 1, Code: 2, Msg: "no", Retry: 100}}},
	{"unsub up", FromClient, `{"t":"unsub","ch":0}`, Frame{Type: TypeUnsub, Unsub: &Unsub{}}},
	{"gap", FromServer, `{"t":"gap","ch":1,"p":2,"to":5,"why":"forbidden","n":3,"tag":"CQ"}`,
		Frame{Type: TypeGap, Gap: &Gap{Ch: 1, P: 2, To: 5, Why: GapForbidden, N: 3, Tag: []byte{9}}}},
	{"gap, too big", FromServer, `{"t":"gap","ch":1,"p":2,"to":3,"why":"too_big","n":1,"tag":"CQ"}`,
		Frame{Type: TypeGap, Gap: &Gap{Ch: 1, P: 2, To: 3, Why: GapTooBig, N: 1, Tag: []byte{9}}}},
	{"gap, least", FromServer, `{"t":"gap","ch":1,"p":0,"to":5,"tag":""}`, Frame{Type: TypeGap, Gap: &Gap{Ch: 1, To: 5}}},
	{"reset", FromServer, `{"t":"reset","ch":1,"ep":"e2","o":0,"tag":"","why":"ahead"}`,
		Frame{Type: TypeReset, Reset: &Reset{Ch: 1, Epoch: "e2", Why: ResetAhead}}},
	{"auth up", FromClient, `{"t":"auth","tok":"x"}`, Frame{Type: TypeAuth, Auth: &Auth{Tok: "x"}}},
	{"auth down", FromServer, `{"t":"auth","exp":1,"need":2,"code":3}`, Frame{Type: TypeAuth, Auth: &Auth{Exp: 1, Need: 2, Code: 3}}},
	{"goaway", FromServer, `{"t":"goaway","code":4300,"after":1,"spread":2,"dl":3,"url":"wss://h/","res":true}`,
		Frame{Type: TypeGoAway, GoAway: &GoAway{Code: 4300, After: 1, Spread: 2, DL: 3, URL: "wss://h/", Res: true}}},
	{"goaway up", FromClient, `{"t":"goaway","fin":true}`, Frame{Type: TypeGoAway, GoAway: &GoAway{Fin: true}}},
	{"ping", FromServer, `{"t":"ping","n":5}`, Frame{Type: TypePing, N: 5}},
	{"ping, zero", FromClient, `{"t":"ping"}`, Frame{Type: TypePing}},
	{"pong", FromClient, `{"t":"pong","n":6}`, Frame{Type: TypePong, N: 6}},
	{"err", FromServer, `{"t":"err","code":12,"msg":"m","ch":1,"s":0,"retry":2,"fatal":true}`,
		Frame{Type: TypeErr, Err: &Err{Code: 12, Msg: "m", Ch: 1, HasS: true, Retry: 2, Fatal: true}}},
	{"call", FromClient, `{"t":"call","n":7,"tp":"a/b","d":[1],"ct":"x","h":{"k":"v"},"dl":30}`,
		Frame{Type: TypeCall, Call: &Call{N: 7, Topic: "a/b", Payload: []byte("[1]"), Type: "x", Header: map[string]string{"k": "v"}, DL: 30}}},
	{"call, least", FromClient, `{"t":"call","n":0,"tp":""}`, Frame{Type: TypeCall, Call: &Call{}}},
	{"call, bytes", FromClient, `{"t":"call","n":1,"tp":"a","b":"_w"}`, Frame{Type: TypeCall, Call: &Call{N: 1, Topic: "a", Payload: []byte{255}}}},
	{"reply", FromServer, `{"t":"reply","n":7,"d":{},"ct":"x"}`, Frame{Type: TypeReply, Reply: &Reply{N: 7, Payload: []byte("{}"), Type: "x"}}},
	{"reply, refused", FromServer, `{"t":"reply","n":7,"code":2,"msg":"no","b":"_w"}`,
		Frame{Type: TypeReply, Reply: &Reply{N: 7, Code: 2, Msg: "no", Payload: []byte{255}}}},
}

var encodings = []Encoding{JSON, Binary}

func TestEveryFrame(t *testing.T) {
	for _, tt := range every {
		t.Run(tt.name, func(t *testing.T) {
			text, err := Append(nil, JSON, []Frame{tt.f})
			if err != nil || string(text) != tt.json {
				t.Errorf("Append = %v\n got %s\nwant %s", err, text, tt.json)
			}
			for _, enc := range encodings {
				data, err := Append([]byte("before"), enc, []Frame{tt.f})
				if err != nil {
					t.Fatal(err)
				}
				data = bytes.TrimPrefix(data, []byte("before"))
				if size := Size(enc, &tt.f); size < len(data) {
					t.Errorf("encoding %d: Size = %d, encoded %d", enc, size, len(data))
				}
				got, err := Decode(nil, enc, tt.sender, data, DefaultLimits)
				if err != nil {
					t.Fatalf("encoding %d: %v", enc, err)
				}
				if len(got) != 1 || !reflect.DeepEqual(got[0], tt.f) {
					t.Errorf("encoding %d:\n got %+v\nwant %+v", enc, got, tt.f)
				}
			}
		})
	}
}

// A truncated batch is refused as a whole, wherever it is cut.
func TestTruncated(t *testing.T) {
	for _, enc := range encodings {
		for _, tt := range every {
			data, err := Append(nil, enc, []Frame{{Type: TypePing, N: 1}, tt.f})
			if err != nil {
				t.Fatal(err)
			}
			whole := map[int]bool{0: enc == Binary, len(data): true}
			ping := []Frame{{Type: TypePing, N: 1}}
			whole[Size(Binary, &ping[0])] = enc == Binary
			for n := range data {
				dst := []Frame{{Type: TypePong}}
				got, err := Decode(dst, enc, tt.sender, data[:n:n], DefaultLimits)
				if whole[n] {
					continue
				}
				var code *wire.CodeError
				if !errors.As(err, &code) || code.Code != CloseBadFrame || len(got) != 1 {
					t.Fatalf("%s, encoding %d, cut at %d of %d: %d frames, %v", tt.name, enc, n, len(data), len(got), err)
				}
			}
		}
	}
}

func TestTopics(t *testing.T) {
	for _, tt := range []struct {
		topic    string
		pub, sub bool
	}{
		{"a", true, true}, {"a/b", true, true}, {"ü/\uFFFD", true, true}, {"a*b/**c", true, true},
		{strings.Repeat("x", 255), true, true}, {strings.Repeat("x", 256), false, false},
		{strings.Repeat("x/", 15) + "x", true, true}, {strings.Repeat("x/", 16) + "x", false, false},
		{"", false, false}, {"/", false, false}, {"a//b", false, false}, {"/a", false, false}, {"a/", false, false},
		{"a\x00", false, false}, {"a\n", false, false}, {"a\x7f", false, false}, {"a\u0085", false, false}, {"a\xff", false, false},
		{"*", false, true}, {"a/*/b", false, true}, {"**", false, true}, {"a/**", false, true}, {"**/a", false, false},
	} {
		for use, want := range map[wire.Use]bool{wire.UsePublish: tt.pub, wire.UseSubscribe: tt.sub} {
			err := CheckTopic(use, tt.topic)
			var fault *TopicError
			if (err == nil) != want || err != nil && (!errors.As(err, &fault) || len(err.Error()) > 512) {
				t.Errorf("CheckTopic(%d, %q) = %v", use, tt.topic, err)
			}
		}
	}
	for _, tt := range []struct {
		pattern, topic string
		want           bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a", "a/b", false}, {"a/b", "a", false},
		{"*", "a", true}, {"*", "a/b", false}, {"a/*", "a/b", true}, {"a/*", "a", false}, {"a/*/c", "a/b/c", true}, {"a/*/c", "a/b/d", false},
		{"**", "a", true}, {"**", "a/b/c", true}, {"a/**", "a", false}, {"a/**", "a/b", true}, {"a/**", "a/b/c", true}, {"*/**", "a", false}, {"b/**", "a/b", false},
	} {
		if got := Match(tt.pattern, tt.topic); got != tt.want {
			t.Errorf("Match(%q, %q) = %v", tt.pattern, tt.topic, got)
		}
	}
}

// Of several values that cannot be encoded the first one is named.
func TestFirstFaultIsNamed(t *testing.T) {
	for _, enc := range []Encoding{JSON, Binary} {
		_, err := Append(nil, enc, []Frame{{Type: TypePing, N: 1}, {Type: TypeHello}, {}})
		if err == nil || !strings.Contains(err.Error(), "of type hello has no content") {
			t.Errorf("%v: %v", enc, err)
		}
	}
}

// A field from a later version changes nothing, in any object.
func TestUnknownFields(t *testing.T) {
	for _, tt := range every {
		if strings.Contains(tt.json, `"h":{`) || strings.Contains(tt.json, `"d":{`) {
			continue
		}
		text := strings.ReplaceAll(tt.json, "{", `{"zz":[{"t":null},-1.5e-3],`)
		got, err := Decode(nil, JSON, tt.sender, []byte(text), DefaultLimits)
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], tt.f) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", tt.name, err, got, tt.f)
		}
	}
}

func TestEscapes(t *testing.T) {
	text := `{"t":"err","code":1,"msg":"\"\\\/\b\f\n\r\t\u0041\u00fc\ud83d\udc1a\u2028"}`
	got, err := Decode(nil, JSON, FromServer, []byte(text), DefaultLimits)
	if err != nil || got[0].Err.Msg != "\"\\/\b\f\n\r\tA\u00fc\U0001F41A\u2028" {
		t.Errorf("%v, %v", got, err)
	}
}

// Both encodings preserve payloads; a payload that JSON would change does not
// travel as JSON.
func TestPayloads(t *testing.T) {
	for payload, embedded := range map[string]bool{
		"": false, "null": true, "1": true, `""`: true, "{}": true, "[ 1 ,\n2 ]": true, `{"a":1,"a":2}`: true, `"\ud800"`: true, "-0.0E+1": true,
		" 1": false, "1 ": false, "\n": false, "{} ": false, "01": false, "1 2": false, "nul": false, "\"\xff\"": false, "\uFEFF1": false,
		"\"\t\"": false, nested(32): true, nested(33): false, "\x00": false, `{"a":}`: false, `[1,]`: false, `"\u12"`: false,
	} {
		frames := []Frame{{Type: TypeMsg, Msg: Msg{S: 1, Topic: "a", Payload: []byte(payload)}}}
		for _, enc := range encodings {
			data, err := Append(nil, enc, frames)
			if err != nil {
				t.Fatal(err)
			}
			if enc == JSON && bytes.Contains(data, []byte(`"d":`)) != embedded {
				t.Errorf("%q travels as %s", payload, data)
			}
			got, err := Decode(nil, enc, FromClient, data, DefaultLimits)
			if err != nil || string(got[0].Msg.Payload) != payload {
				t.Errorf("encoding %d: %q came out as %+v, %v", enc, payload, got, err)
			}
		}
	}
}

// Append refuses a frame that no peer could read, and returns dst unchanged.
func TestAppendFails(t *testing.T) {
	for _, f := range []Frame{
		{}, {Type: TypeReply + 1}, {Type: TypeCall}, {Type: TypeReply}, {Type: TypeAck}, {Type: TypeHello}, {Type: TypeErr},
		{Type: TypeMsg, Msg: Msg{Topic: "\xff"}},
		{Type: TypeMsg, Msg: Msg{Header: map[string]string{"a": "\xff"}}},
		{Type: TypeMsg, Msg: Msg{Tag: make([]byte, MaxTag+1)}},
		{Type: TypeSub, Sub: &Sub{From: 4}},
		{Type: TypeGap, Gap: &Gap{Why: 5}},
	} {
		for _, enc := range encodings {
			got, err := Append([]byte("before"), enc, []Frame{{Type: TypePing}, f})
			if err == nil || !strings.HasPrefix(err.Error(), "native: cannot encode: ") || string(got) != "before" {
				t.Errorf("encoding %d, %+v: %q, %v", enc, f, got, err)
			}
		}
	}
}

// Both ends cut a text for people to its bound, at a character boundary.
func TestReasonsAreCut(t *testing.T) {
	long, want := "x"+strings.Repeat("ü", 200), "x"+strings.Repeat("ü", 127)
	for _, f := range []Frame{{Type: TypeErr, Err: &Err{Msg: long}}, {Type: TypeUnsub, Unsub: &Unsub{Msg: long}}} {
		text, err := Append(nil, JSON, []Frame{f})
		if err != nil || !bytes.Contains(text, []byte(`"`+want+`"`)) {
			t.Errorf("%v: %s", err, text)
		}
		text = bytes.Replace(text, []byte(want), []byte(long), 1)
		got, err := Decode(nil, JSON, FromServer, text, DefaultLimits)
		if err != nil || f.Err != nil && got[0].Err.Msg != want || f.Unsub != nil && got[0].Unsub.Msg != want {
			t.Errorf("%+v, %v", got, err)
		}
	}
}
