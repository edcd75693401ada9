package native

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// A step of a transcript is one WebSocket message: ops of the client, nil at the
// start, or frames of the server.
type step struct {
	ops    []wire.Op
	frames []Frame
}

func says(frames ...Frame) step { return step{frames: frames} }
func does(ops ...wire.Op) step  { return step{ops: ops} }

var transcripts = []struct {
	name   string
	resume wire.Resume
	steps  []step
}{
	{"first", wire.Resume{Conn: 1, Token: "token", TTL: 5 * time.Minute, Subs: []wire.Subscribe{
		{Key: 1, Topic: "md/*", Credit: wire.Credit{N: 256, Bytes: 1 << 20}}}},
		[]step{
			says(Frame{Type: TypeWelcome, Welcome: &Welcome{CN: 1, SID: "sid-1", Key: []byte("0123456789abcdef0123456789abcdef"), SE: 1,
				Cr: Credit{4096, 4 << 20}, HB: 20000, TTL: 300, Dedup: 600, Spread: 1000,
				Lim: &Limits{Batch: MaxBatch, Payload: MaxPayload, Headers: 32, HeaderSize: 8192, Subs: 10000, HelloSubs: 256, Depth: 32, Token: 8192}}},
				Frame{Type: TypeSubOK, SubOK: &SubOK{Ch: 1, Epoch: "e1", O: 40, Head: 40}}),
			does(wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Seq: 1, ID: testID, Topic: "md/btc", Payload: []byte(`{"px": 1.5}`)}},
				wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Seq: 2, ID: testID, Topic: "md/btc", Payload: []byte(" null\n"), Type: "text/plain",
					Header: map[string]string{"trace": "ü\"", "a": ""}, TTL: time.Second}}),
			says(Frame{Type: TypeAck, Ack: &Ack{To: 1, HasTo: true, Nak: []Reject{{2, CodeForbidden}}, Cr: &Credit{4098, 4 << 20}}},
				Frame{Type: TypeMsg, Msg: Msg{Ch: 1, S: 41, P: 40, HasP: true, ID: testID, Topic: "md/btc", Payload: []byte(`{"px": 1.5}`)}},
				Frame{Type: TypeMsg, Msg: Msg{Ch: 1, S: 43, P: 41, HasP: true, ID: testID, Topic: "md/eth", Payload: []byte{0, 0xff}, Tag: []byte("t")}}),
			does(wire.Op{Kind: wire.OpCredit, Key: 1, Credit: wire.Credit{N: 258, Bytes: 1 << 20}},
				wire.Op{Kind: wire.OpPing, N: 1}),
			says(Frame{Type: TypePong, N: 1}, Frame{Type: TypePing, N: 9},
				Frame{Type: TypeGap, Gap: &Gap{Ch: 1, P: 43, To: 50, Why: GapDropped, N: 7, Tag: []byte("u")}},
				Frame{Type: TypeReset, Reset: &Reset{Ch: 1, Epoch: "e2", Tag: nil, Why: ResetEpoch}}),
			does(wire.Op{Kind: wire.OpPong, N: 9}, wire.Op{Kind: wire.OpUnsubscribe, Key: 1}, wire.Op{Kind: wire.OpBye}),
			says(Frame{Type: TypeUnsub, Unsub: &Unsub{Ch: 1}}),
		}},
	{"resume", wire.Resume{Conn: 1 << 60, Session: wire.Session{ID: "sid-1", Key: []byte("key"), Epoch: 1}, Token: "token",
		Uplink: wire.Uplink{Lo: 3, Hi: 6, Tag: testID}, Subs: []wire.Subscribe{
			{Key: 2, Topic: "md/btc", From: wire.FromResume, Position: wire.Position{Epoch: "e1", Offset: 41, Tag: string(testID[:])}, Credit: wire.Credit{N: 1, Bytes: 1}},
			{Key: 3, Topic: "x/**", From: wire.FromLast, Credit: wire.Credit{N: 1, Bytes: 1}, Token: "t2"}}},
		[]step{
			says(Frame{Type: TypeErr, Err: &Err{Code: CodeRateLimited, Msg: "slow down", Retry: 5}}),
			says(Frame{Type: TypeWelcome, Welcome: &Welcome{CN: 1 << 60, SID: "sid-1", Key: []byte("key2"), SE: 1, Res: true, Ack: 3, Tag: testID, HasTag: true,
				Sack: []wire.Range{{Lo: 5, Hi: 5}}, Out: []Reject{{2, CodeForbidden}}, Cr: Credit{4099, 4 << 20}, Exp: 3600000, Dup: []wire.Range{{Lo: 1, Hi: 1}}}}),
			says(Frame{Type: TypeSubOK, SubOK: &SubOK{Ch: 2, Epoch: "e1", O: 41, Tag: testID[:], Head: 99, Rec: true}},
				Frame{Type: TypeUnsub, Unsub: &Unsub{Ch: 3, Code: CodeUnavailable, Msg: "later", Retry: 250}}),
			does(wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Seq: 4, ID: testID, Topic: "a", Payload: []byte(`1`), Resent: true, Age: 1500 * time.Millisecond}},
				wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Seq: 6, ID: testID, Topic: "a", Resent: true, Age: -1}},
				wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Seq: 7, ID: testID, Void: true}},
				wire.Op{Kind: wire.OpSubscribe, Subscribe: &wire.Subscribe{Key: 4, Topic: "y", From: wire.FromFirst, Credit: wire.Credit{N: 1, Bytes: 1}}}),
			says(Frame{Type: TypeMsg, Msg: Msg{Ch: 2, S: 42, P: 41, HasP: true, ID: testID, Payload: []byte("[]"), HasAge: true, Age: 20, Flags: FlagSnapshot}}),
			says(Frame{Type: TypeAuth, Auth: &Auth{Need: 60000}}),
			does(wire.Op{Kind: wire.OpAuth, Token: "fresh"}),
			says(Frame{Type: TypeAuth, Auth: &Auth{Exp: 3600000}},
				Frame{Type: TypeGoAway, GoAway: &GoAway{Code: CloseGoingAway, Spread: 30000, DL: 60000, URL: "wss://other/", Res: true}}),
		}},
}

// TestGolden plays each transcript with a client in each encoding. A line is a
// message from the client (>), a message from the server (<) or an event (=).
func TestGolden(t *testing.T) {
	for _, tt := range transcripts {
		var events [3]string
		for _, enc := range encodings {
			name := filepath.Join("testdata", tt.name+map[Encoding]string{JSON: ".json.golden", Binary: ".bin.golden"}[enc])
			var got bytes.Buffer
			line := func(mark string, data []byte) {
				if enc == Binary {
					data = hex.AppendEncode(nil, data)
				}
				fmt.Fprintf(&got, "%s %s\n", mark, data)
			}
			c := open(t, enc, tt.resume)
			var sent wire.Frames
			if err := c.Start(&sent); err != nil {
				t.Fatal(err)
			}
			for _, s := range tt.steps {
				if s.ops != nil {
					if err := c.Encode(s.ops, &sent); err != nil {
						t.Fatal(err)
					}
				}
				for _, f := range sent.List {
					line(">", f.Data)
				}
				sent.Reset()
				if s.frames == nil {
					continue
				}
				data, err := Append(nil, enc, s.frames)
				if err != nil {
					t.Fatal(err)
				}
				line("<", data)
				var out wire.Events
				if err := c.Decode(wire.Frame{Type: enc.FrameType(), Data: data}, &out); err != nil {
					t.Fatal(err)
				}
				for _, e := range out.List {
					e.OwnPayload()
					text := "=" + dump(reflect.ValueOf(e)) + "\n"
					got.WriteString(text)
					events[enc] += text
				}
			}
			if *update {
				if err := os.WriteFile(name, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s differs; run with -update and look at the change:\n%s", name, got.Bytes())
			}
		}
		if events[JSON] != events[Binary] {
			t.Errorf("%s: the encodings yield different events", tt.name)
		}
	}
}

// dump formats the fields of v that are set.
func dump(v reflect.Value) string {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	var b strings.Builder
	for i := range v.NumField() {
		f := v.Field(i)
		if f.IsZero() {
			continue
		}
		fmt.Fprintf(&b, " %s=", v.Type().Field(i).Name)
		switch value := f.Interface().(type) {
		case wire.Position, time.Duration, wire.Cause:
			fmt.Fprint(&b, value)
		case []byte:
			fmt.Fprintf(&b, "%q", value)
		case wire.ID:
			fmt.Fprintf(&b, "%x", value)
		default:
			if f.Kind() == reflect.Struct || f.Kind() == reflect.Pointer {
				fmt.Fprintf(&b, "{%s }", dump(f))
			} else {
				fmt.Fprintf(&b, "%+v", value)
			}
		}
	}
	return b.String()
}

// The published .proto has the fields of the frame table and no others.
func TestProtoFile(t *testing.T) {
	text, err := os.ReadFile("limpet.proto")
	if err != nil {
		t.Fatal(err)
	}
	schemas := map[string]*schema{"Hello": &helloSchema, "Welcome": &welcomeSchema, "Msg": &msgSchema, "Ack": &ackSchema,
		"Sub": &subSchema, "SubOK": &subokSchema, "Unsub": &unsubSchema, "Gap": &gapSchema, "Reset": &resetSchema,
		"Auth": &authSchema, "GoAway": &goawaySchema, "Ping": &pingSchema, "Err": &errSchema, "Uplink": &uplinkSchema,
		"Credit": &creditSchema, "Reject": &rejectSchema, "ChCredit": &chCreditSchema, "Range": &rangeSchema, "Limits": &limitsSchema, "Call": &callSchema, "Reply": &replySchema,
		"Frame": {keys: typeNames[:]}}
	message := regexp.MustCompile(`(?ms)^message (\w+) \{(.*?)^\}`)
	enum := regexp.MustCompile(`(?s)enum \w+ \{.*?\}`)
	field := regexp.MustCompile(`(?m)^\s*(repeated |optional |)([\w<>, ]+?) (\w+) = (\d+);([^\n]*)`)
	found := 0
	for _, m := range message.FindAllStringSubmatch(string(text), -1) {
		s := schemas[m[1]]
		if s == nil {
			t.Errorf("message %s is not in the frame table", m[1])
			continue
		}
		found++
		var seen uint32
		for _, f := range field.FindAllStringSubmatch(enum.ReplaceAllString(m[2], ""), -1) {
			label, kind, key, comment := f[1], f[2], f[3], f[5]
			n, _ := strconv.Atoi(f[4])
			if n >= len(s.keys) || s.keys[n] != key {
				t.Errorf("%s.%s = %d is not in the frame table", m[1], key, n)
				continue
			}
			seen |= 1 << n
			if repeated := label == "repeated " || strings.HasPrefix(kind, "map<"); repeated != (s.repeated&(1<<n) != 0) {
				t.Errorf("%s.%s: repeated is %t", m[1], key, repeated)
			}
			required := (s.up|s.down)&(1<<n) != 0 || m[1] == "Msg" && key == "tp"
			if required != strings.Contains(comment, "required") || required && label != "optional " && kind != "Credit" {
				t.Errorf("%s.%s: required is %t", m[1], key, required)
			}
		}
		for n, key := range s.keys {
			if key != "" && seen&(1<<n) == 0 {
				t.Errorf("%s.%s = %d is missing", m[1], key, n)
			}
		}
	}
	if found != len(schemas) {
		t.Errorf("%d messages, want %d", found, len(schemas))
	}
}
