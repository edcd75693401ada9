package native

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

func open(t testing.TB, enc Encoding, r wire.Resume) wire.Codec {
	t.Helper()
	r.Subprotocol = Subprotocol(enc)
	c, err := New(nil).Open(r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// receive lets c read one message that holds frames.
func receive(t testing.TB, c wire.Codec, enc Encoding, frames ...Frame) ([]wire.Event, error) {
	t.Helper()
	data, err := Append(nil, enc, frames)
	if err != nil {
		t.Fatal(err)
	}
	var out wire.Events
	err = c.Decode(wire.Frame{Type: enc.FrameType(), Data: data}, &out)
	clear(data) // no event may refer to it
	return out.List, err
}

func welcomed(t testing.TB, enc Encoding) wire.Codec {
	t.Helper()
	c := open(t, enc, wire.Resume{Conn: 1})
	if _, err := receive(t, c, enc, Frame{Type: TypeWelcome, Welcome: &Welcome{CN: 1}}); err != nil {
		t.Fatal(err)
	}
	return c
}

func closeCode(err error) uint16 {
	var e *wire.CodeError
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func TestAttempt(t *testing.T) {
	for _, tt := range []struct {
		o    *Options
		want string
	}{
		{nil, "limpet.v1.bin limpet.v1.json"},
		{&Options{Encoding: JSON}, "limpet.v1.json"},
		{&Options{Encoding: Binary}, "limpet.v1.bin"},
		{&Options{Encoding: 7}, ""},
	} {
		a := wire.Attempt{URL: "ws://h/", Token: "canary"}
		err := New(tt.o).Attempt(&a)
		if got := strings.Join(a.Subprotocols, " "); got != tt.want || a.Dial != (tt.want != "") || (err == nil) != a.Dial {
			t.Errorf("%+v: offered %q, dial %t, %v", tt.o, got, a.Dial, err)
		}
		if a.URL != "ws://h/" || a.Header != nil {
			t.Errorf("%+v: URL %q, header %v", tt.o, a.URL, a.Header)
		}
	}
}

func TestOpen(t *testing.T) {
	for _, tt := range []struct {
		o      *Options
		chosen string
		ok     bool
	}{
		{nil, "limpet.v1.bin", true},
		{nil, "limpet.v1.json", true},
		{nil, "", false},
		{nil, "limpet.v2.bin", false},
		{nil, strings.Repeat("x", 1<<16), false},
		{&Options{Encoding: JSON}, "limpet.v1.bin", false},
		{&Options{Encoding: JSON}, "limpet.v1.json", true},
	} {
		_, err := New(tt.o).Open(wire.Resume{Subprotocol: tt.chosen})
		if (err == nil) != tt.ok || !tt.ok && (closeCode(err) != 1002 || len(err.Error()) > 256) {
			t.Errorf("%+v, %.20q: %v", tt.o, tt.chosen, err)
		}
	}
}

func TestStart(t *testing.T) {
	r := wire.Resume{
		Conn:    9,
		Session: wire.Session{ID: "s", Key: []byte("key"), Epoch: 4},
		Token:   "token",
		Uplink:  wire.Uplink{Lo: 3, Hi: 2, Tag: testID},
		Subs: []wire.Subscribe{
			{Key: 1, Topic: "a", From: wire.FromNew, Credit: wire.Credit{N: 5, Bytes: 6}, Token: "t2"},
			{Key: 2, Topic: "b", From: wire.FromResume, Position: wire.Position{Epoch: "e", Offset: 7, Tag: "\xff"}},
			{Key: 3, Topic: "c", From: wire.FromFirst},
			{Key: 4, Topic: "d", From: wire.FromLast},
			{Key: 5, Topic: "e", From: wire.FromResume, Position: wire.Position{Epoch: "\xff", Offset: 8, Tag: strings.Repeat("x", 17)}},
		},
		TTL: 1500 * time.Millisecond, Heartbeat: 2500 * time.Microsecond, ReadLimit: 1 << 20,
	}
	want := []Frame{{Type: TypeHello, Hello: &Hello{CN: 9, SID: "s", Key: []byte("key"), SE: 4, Tok: "token",
		Up: &Uplink{Lo: 3, Hi: 2, Tag: testID, HasTag: true}, TTL: 2, HB: 3, RL: 1 << 20,
		Subs: []Sub{
			{Ch: 1, Topic: "a", From: FromNew, Cr: Credit{5, 6}, Tok: "t2"},
			{Ch: 2, Topic: "b", From: FromResume, Epoch: "e", O: 7, Tag: []byte{0xff}},
			{Ch: 3, Topic: "c", From: FromFirst},
			{Ch: 4, Topic: "d", From: FromLast},
			{Ch: 5, Topic: "e", From: FromResume, O: 8},
		}}}}
	for _, enc := range encodings {
		var out wire.Frames
		if err := open(t, enc, r).Start(&out); err != nil || len(out.List) != 1 || out.List[0].Type != enc.FrameType() {
			t.Fatalf("encoding %d: %d frames, %v", enc, len(out.List), err)
		}
		got, err := Decode(nil, enc, FromClient, out.List[0].Data, DefaultLimits)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("encoding %d: %v\n got %+v\nwant %+v", enc, err, got[0].Hello, want[0].Hello)
		}
		var big *wire.TooBigError
		if err := open(t, enc, wire.Resume{Token: strings.Repeat("x", MaxToken+1)}).Start(&out); !errors.As(err, &big) {
			t.Errorf("a token too long: %v", err)
		}
	}
}

func TestEvents(t *testing.T) {
	ms := time.Millisecond
	for _, tt := range []struct {
		f    Frame
		want wire.Event
	}{
		{Frame{Type: TypeMsg, Msg: Msg{Ch: 3, S: 12, P: 10, HasP: true, ID: testID, Topic: "a", Payload: []byte("[1]"), Type: "t",
			Header: map[string]string{"k": "v"}, TTL: 5, HasAge: true, Flags: 7 &^ FlagVoid}},
			wire.Event{Kind: wire.EventData, Key: 3, Position: wire.Position{Offset: 12, Tag: string(testID[:])}, Prev: 10, Numbered: true,
				Message: wire.Message{ID: testID, Topic: "a", Payload: []byte("[1]"), Type: "t", Header: map[string]string{"k": "v"},
					TTL: 5 * ms, Snapshot: true, SnapshotEnd: true, Redelivered: true}}},
		{Frame{Type: TypeMsg, Msg: Msg{Ch: 3, S: 12, HasP: true, ID: testID, Tag: []byte{7}, Flags: FlagVoid}},
			wire.Event{Kind: wire.EventData, Key: 3, Position: wire.Position{Offset: 12, Tag: "\x07"}, Numbered: true,
				Message: wire.Message{ID: testID, Void: true}}},
		{Frame{Type: TypeSubOK, SubOK: &SubOK{Ch: 1, Epoch: "e", O: 4, Tag: []byte{9}, Head: 6, Rec: true}},
			wire.Event{Kind: wire.EventSubscribed, Key: 1, Position: wire.Position{Epoch: "e", Offset: 4, Tag: "\t"}, Head: 6, Continuity: wire.ContinuityProved}},
		{Frame{Type: TypeSubOK, SubOK: &SubOK{Ch: 1}}, wire.Event{Kind: wire.EventSubscribed, Key: 1}},
		{Frame{Type: TypeUnsub, Unsub: &Unsub{Ch: 1, Code: 2, Retry: 7}},
			wire.Event{Kind: wire.EventUnsubscribed, Key: 1, Code: 2, Reason: "forbidden", Retry: 7 * ms}},
		{Frame{Type: TypeUnsub, Unsub: &Unsub{Ch: 1}}, wire.Event{Kind: wire.EventUnsubscribed, Key: 1}},
		{Frame{Type: TypeGap, Gap: &Gap{Ch: 1, P: 2, To: 5, Why: GapTrimmed, N: 3, Tag: []byte{1}}},
			wire.Event{Kind: wire.EventGap, Key: 1, Prev: 2, Position: wire.Position{Offset: 5, Tag: "\x01"}, Count: 3, Cause: wire.CauseTrimmed}},
		{Frame{Type: TypeGap, Gap: &Gap{Ch: 1, P: 2, To: 3, Why: GapTooBig, N: 1, Tag: []byte{1}}},
			wire.Event{Kind: wire.EventGap, Key: 1, Prev: 2, Position: wire.Position{Offset: 3, Tag: "\x01"}, Count: 1, Cause: wire.CauseTooBig}},
		{Frame{Type: TypeReset, Reset: &Reset{Ch: 1, Epoch: "e2", O: 5, Why: ResetUnverifiable}},
			wire.Event{Kind: wire.EventReset, Key: 1, Position: wire.Position{Epoch: "e2", Offset: 5}, Cause: wire.CauseUnverifiable}},
		{Frame{Type: TypeAck, Ack: &Ack{To: 3, HasTo: true, X: []wire.Range{{Lo: 5, Hi: 6}}, Nak: []Reject{{4, 4}, {7, 1 << 20}, {2, 18}}, Cr: &Credit{8, 9}, Dup: []wire.Range{{Lo: 1, Hi: 1}}}},
			wire.Event{Kind: wire.EventAck, Ack: &wire.Ack{To: 3, Ranges: []wire.Range{{Lo: 5, Hi: 6}},
				Rejects: []wire.Reject{{Seq: 4, Code: 4, Reason: "too_big"}, {Seq: 7, Code: math.MaxUint16}, {Seq: 2, Code: 18, Reason: "id_reused", Reused: true}}, Duplicates: []wire.Range{{Lo: 1, Hi: 1}}, HasCredit: true, Credit: wire.Credit{N: 8, Bytes: 9}}}},
		{Frame{Type: TypeAck, Ack: &Ack{To: 3, HasTo: true}}, wire.Event{Kind: wire.EventAck, Ack: &wire.Ack{To: 3}}},
		{Frame{Type: TypeAuth, Auth: &Auth{Exp: 90}}, wire.Event{Kind: wire.EventAuth, Expires: 90 * ms}},
		{Frame{Type: TypeAuth, Auth: &Auth{Need: 60}}, wire.Event{Kind: wire.EventAuth, Wanted: true, Expires: 60 * ms}},
		{Frame{Type: TypeAuth, Auth: &Auth{}}, wire.Event{Kind: wire.EventAuth}},
		{Frame{Type: TypeAuth, Auth: &Auth{Code: 15}}, wire.Event{Kind: wire.EventAuth, Code: 15, Reason: "bad_token"}},
		{Frame{Type: TypeGoAway, GoAway: &GoAway{Code: 4300, After: 1, Spread: math.MaxUint64}},
			wire.Event{Kind: wire.EventGoAway, Code: 4300, Reason: "going_away", Delay: ms, Spread: math.MaxInt64}},
		{Frame{Type: TypePing, N: 4}, wire.Event{Kind: wire.EventPing, N: 4}},
		{Frame{Type: TypePong, N: 5}, wire.Event{Kind: wire.EventPong, N: 5}},
		{Frame{Type: TypeErr, Err: &Err{Code: 12, Msg: "m", S: 3, HasS: true, Retry: 4, Fatal: true}},
			wire.Event{Kind: wire.EventError, Code: 12, Reason: "m", N: 3, Retry: 4 * ms, Fatal: true}},
	} {
		for _, enc := range encodings {
			got, err := receive(t, welcomed(t, enc), enc, tt.f)
			if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], tt.want) {
				t.Errorf("encoding %d, %v: %v\n got %+v\nwant %+v", enc, tt.f.Type, err, got, tt.want)
			}
		}
	}
}

func TestReady(t *testing.T) {
	w := &Welcome{CN: 8, SID: "s", Key: []byte("k"), SE: 2, Res: true, Ack: 5, Tag: testID, HasTag: true,
		Sack: []wire.Range{{Lo: 7, Hi: 8}}, Out: []Reject{{6, 11}}, Cr: Credit{100, 200}, HB: 20000, TTL: 300, Dedup: 600,
		Lim:    &Limits{Batch: 1, Payload: 2, Headers: 3, HeaderSize: math.MaxUint64, Subs: 5, HelloSubs: 6},
		Spread: 30, Feat: []string{FeatureCall}, Exp: 40, Dup: []wire.Range{{Lo: 2, Hi: 3}}}
	want := &wire.Ready{Conn: 8, Session: wire.Session{ID: "s", Key: []byte("k"), Epoch: 2}, Resumed: true,
		Ack: wire.Ack{To: 5, Ranges: []wire.Range{{Lo: 7, Hi: 8}}, Rejects: []wire.Reject{{Seq: 6, Code: 11, Reason: "id_conflict"}}, Duplicates: []wire.Range{{Lo: 2, Hi: 3}},
			HasCredit: true, Credit: wire.Credit{N: 100, Bytes: 200}},
		Tag: testID, Heartbeat: 20 * time.Second, Spread: 30 * time.Millisecond, Expires: 40 * time.Millisecond,
		Limits: wire.Limits{Batch: 1, Payload: 2, Headers: 3, HeaderSize: math.MaxInt}}
	for _, enc := range encodings {
		c := open(t, enc, wire.Resume{Conn: 8})
		got, err := receive(t, c, enc, Frame{Type: TypeWelcome, Welcome: w})
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0].Ready, want) {
			t.Errorf("encoding %d: %v\n got %+v\nwant %+v", enc, err, got, want)
		}
	}
}

// A frame that a server must not send ends the connection, and nothing of its
// message is applied.
func TestViolations(t *testing.T) {
	ping := Frame{Type: TypePing}
	welcome := Frame{Type: TypeWelcome, Welcome: &Welcome{CN: 1}}
	data := Frame{Type: TypeMsg, Msg: Msg{Ch: 1, S: 1, HasP: true}}
	for _, tt := range []struct {
		name   string
		frames []Frame
		code   uint16
	}{
		{"data before welcome", []Frame{data}, 4000},
		{"a ping before welcome", []Frame{ping, welcome}, 4000},
		{"a second welcome", []Frame{welcome, welcome}, 4000},
		{"a welcome for another connection", []Frame{{Type: TypeWelcome, Welcome: &Welcome{CN: 2}}}, 4000},
		{"data in channel 0", []Frame{welcome, ping, {Type: TypeMsg, Msg: Msg{S: 1, HasP: true}}}, 4000},
		{"subok in channel 0", []Frame{welcome, {Type: TypeSubOK, SubOK: &SubOK{}}}, 4000},
		{"hello", []Frame{welcome, {Type: TypeHello, Hello: &Hello{}}}, 4000},
		{"sub", []Frame{welcome, {Type: TypeSub, Sub: &Sub{}}}, 4000},
		{"a malformed topic", []Frame{welcome, {Type: TypeMsg, Msg: Msg{Ch: 1, S: 1, HasP: true, Topic: "a\nb"}}}, 4001},
		{"a wildcard topic", []Frame{welcome, {Type: TypeMsg, Msg: Msg{Ch: 1, S: 1, HasP: true, Topic: "a/*"}}}, 4001},
	} {
		for _, enc := range encodings {
			got, err := receive(t, open(t, enc, wire.Resume{Conn: 1}), enc, tt.frames...)
			if closeCode(err) != tt.code || len(got) != 0 {
				t.Errorf("%s, encoding %d: %d events, %v", tt.name, enc, len(got), err)
			}
		}
	}
	for _, enc := range encodings {
		c := open(t, enc, wire.Resume{Conn: 1})
		if got, err := receive(t, c, enc, Frame{Type: TypeErr, Err: &Err{Code: 12, S: 4, HasS: true}},
			Frame{Type: TypeGoAway, GoAway: &GoAway{}}); err != nil || len(got) != 3 || got[1].Kind != wire.EventOutnumbered || got[1].N != 4 {
			t.Errorf("err and goaway before welcome: %+v, %v", got, err)
		}
		if got, err := receive(t, welcomed(t, enc), enc, Frame{Type: TypeErr, Err: &Err{Code: 12, S: 4, HasS: true}}); err != nil || len(got) != 1 {
			t.Errorf("the same err after welcome: %+v, %v", got, err)
		}
		wrong := wire.Frame{Type: wire.Text + wire.Binary - enc.FrameType(), Data: []byte(`{"t":"ping"}`)}
		if err := c.Decode(wrong, new(wire.Events)); closeCode(err) != 4001 {
			t.Errorf("encoding %d in the wrong message type: %v", enc, err)
		}
	}
	if data, err := Append(nil, Binary, []Frame{data}); err != nil || bytes.Contains(data, []byte("{")) {
		t.Errorf("%q, %v", data, err) // the frames above are what they seem
	}
}

func TestEncode(t *testing.T) {
	message := &wire.Message{Seq: 7, ID: testID, Topic: "a", Payload: []byte("x"), Type: "t", Header: map[string]string{"k": "v"},
		TTL: 1500 * time.Microsecond}
	resent, unknown, void := *message, *message, *message
	resent.Resent, resent.Age = true, 2500*time.Microsecond
	unknown.Resent, unknown.Age = true, -1
	void.Void = true
	msg := func(change func(*Msg)) Frame {
		m := Msg{S: 7, ID: testID, Topic: "a", Payload: []byte("x"), Type: "t", Header: map[string]string{"k": "v"}, TTL: 2}
		change(&m)
		return Frame{Type: TypeMsg, Msg: m}
	}
	ops := []wire.Op{
		{Kind: wire.OpPublish, Message: message},
		{Kind: wire.OpCredit, Key: 3, Credit: wire.Credit{N: 4, Bytes: 5}},
		{Kind: wire.OpPublish, Message: &resent},
		{Kind: wire.OpPublish, Message: &unknown},
		{Kind: wire.OpPublish, Message: &void},
		{Kind: wire.OpSubscribe, Subscribe: &wire.Subscribe{Key: 6, Topic: "b", Credit: wire.Credit{N: 1, Bytes: 2}}},
		{Kind: wire.OpCredit, Key: 6, Credit: wire.Credit{N: 8, Bytes: 9}},
		{Kind: wire.OpUnsubscribe, Key: 3},
		{Kind: wire.OpPing, N: 11},
		{Kind: wire.OpPong, N: 12},
		{Kind: wire.OpAuth, Token: "tok"},
		{Kind: wire.OpBye},
	}
	want := []Frame{
		msg(func(m *Msg) {}),
		msg(func(m *Msg) { m.HasAge, m.Age = true, 3 }),
		msg(func(m *Msg) { m.HasAge, m.Age = true, AgeUnknown }),
		{Type: TypeMsg, Msg: Msg{S: 7, ID: testID, Flags: FlagVoid}},
		{Type: TypeSub, Sub: &Sub{Ch: 6, Topic: "b", From: FromNew, Cr: Credit{1, 2}}},
		{Type: TypeUnsub, Unsub: &Unsub{Ch: 3}},
		{Type: TypePing, N: 11},
		{Type: TypePong, N: 12},
		{Type: TypeAuth, Auth: &Auth{Tok: "tok"}},
		{Type: TypeGoAway, GoAway: &GoAway{Fin: true}},
		{Type: TypeAck, Ack: &Ack{Dcr: []ChCredit{{3, 4, 5}, {6, 8, 9}}}},
	}
	for _, enc := range encodings {
		var out wire.Frames
		if err := open(t, enc, wire.Resume{}).Encode(ops, &out); err != nil || len(out.List) != 1 || out.List[0].Type != enc.FrameType() {
			t.Fatalf("encoding %d: %d messages, %v", enc, len(out.List), err)
		}
		got, err := Decode(nil, enc, FromClient, out.List[0].Data, DefaultLimits)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("encoding %d: %v\n got %+v\nwant %+v", enc, err, got, want)
		}
		out.Reset()
		if err := open(t, enc, wire.Resume{}).Encode(nil, &out); err != nil || len(out.List) != 0 {
			t.Errorf("nothing to say: %d messages, %v", len(out.List), err)
		}
	}
}

// An op that cannot be encoded is named, and those before it are encoded.
func TestEncodeFails(t *testing.T) {
	many := map[string]string{}
	for i := range MaxHeaders + 1 {
		many[fmt.Sprint(i)] = ""
	}
	for _, tt := range []struct {
		name string
		op   wire.Op
		big  string
	}{
		{"payload", wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Topic: "a", Payload: make([]byte, MaxPayload+1)}}, "payload bytes"},
		{"headers", wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Topic: "a", Header: map[string]string{"k": strings.Repeat("v", MaxHeaderSize)}}}, "header bytes"},
		{"many headers", wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Topic: "a", Header: many}}, "header count"},
		{"token", wire.Op{Kind: wire.OpAuth, Token: strings.Repeat("x", MaxToken+1)}, "token bytes"},
		{"token of a subscription", wire.Op{Kind: wire.OpSubscribe, Subscribe: &wire.Subscribe{Token: strings.Repeat("x", MaxToken+1)}}, "token bytes"},
		{"not UTF-8", wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Topic: "a", Type: "\xff"}}, ""},
		{"a long type", wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Topic: "a", Type: strings.Repeat("x", MaxHeaderSize+1)}}, "header bytes"},
		{"no message", wire.Op{Kind: wire.OpPublish}, ""},
		{"no subscription", wire.Op{Kind: wire.OpSubscribe}, ""},
		{"a step", wire.Op{Kind: wire.OpStep}, ""},
		{"no kind", wire.Op{}, ""},
	} {
		for _, enc := range encodings {
			var out wire.Frames
			ops := []wire.Op{{Kind: wire.OpPing, N: 1}, {Kind: wire.OpCredit, Key: 1}, tt.op, {Kind: wire.OpPong}, {Kind: wire.OpCredit, Key: 2}}
			err := open(t, enc, wire.Resume{}).Encode(ops, &out)
			var op *wire.OpError
			var big *wire.TooBigError
			if !errors.As(err, &op) || op.Index != 2 || errors.As(err, &big) != (tt.big != "") || big != nil && big.What != tt.big {
				t.Errorf("%s, encoding %d: %v", tt.name, enc, err)
			}
			if len(out.List) != 1 {
				t.Fatalf("%s, encoding %d: %d messages", tt.name, enc, len(out.List))
			}
			got, err := Decode(nil, enc, FromClient, out.List[0].Data, DefaultLimits)
			want := []Frame{{Type: TypePing, N: 1}, {Type: TypeAck, Ack: &Ack{Dcr: []ChCredit{{Ch: 1}}}}}
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s, encoding %d: before the failed op: %+v, %v", tt.name, enc, got, err)
			}
		}
	}
}

// Batches stay within the limits, no message is lost or reordered, and one that is
// bigger than a batch travels alone.
func TestPacking(t *testing.T) {
	var ops []wire.Op
	for i := range 20000 {
		m := &wire.Message{Seq: uint64(i + 1), Topic: "a"}
		switch {
		case i%5000 == 17:
			m.Payload = bytes.Repeat([]byte{byte(i)}, 100_000)
		case i < 3000:
			m.Payload = bytes.Repeat([]byte{'1'}, i%200)
		}
		ops = append(ops, wire.Op{Kind: wire.OpPublish, Message: m})
	}
	for range 9000 {
		ops = append(ops, wire.Op{Kind: wire.OpPong})
	}
	for i := range 2000 {
		ops = append(ops, wire.Op{Kind: wire.OpCredit, Key: uint64(i + 1), Credit: wire.Credit{N: math.MaxUint64, Bytes: math.MaxUint64}})
	}
	for _, enc := range encodings {
		var out wire.Frames
		if err := open(t, enc, wire.Resume{}).Encode(ops, &out); err != nil {
			t.Fatal(err)
		}
		next, pongs, credits, bytesIn := uint64(1), 0, 0, 0
		for _, f := range out.List {
			frames, err := Decode(nil, enc, FromClient, f.Data, DefaultLimits) // which checks the limits of a batch
			if err != nil {
				t.Fatalf("encoding %d: %v", enc, err)
			}
			bytesIn += len(f.Data)
			for _, f := range frames {
				switch f.Type {
				case TypeMsg:
					if f.Msg.S != next || !bytes.Equal(f.Msg.Payload, ops[next-1].Message.Payload) {
						t.Fatalf("encoding %d: message %d in place %d", enc, f.Msg.S, next)
					}
					next++
				case TypePong:
					pongs++
				case TypeAck:
					credits += len(f.Ack.Dcr)
				}
			}
		}
		if next != 20001 || pongs != 9000 || credits != 2000 {
			t.Errorf("encoding %d: %d messages, %d pongs, %d credits", enc, next-1, pongs, credits)
		}
		if least := bytesIn/MaxBatch + 1; len(out.List) > 2*least+6 {
			t.Errorf("encoding %d: %d messages for %d bytes", enc, len(out.List), bytesIn)
		}
	}
}

func TestVerdict(t *testing.T) {
	d := New(nil)
	for _, tt := range []struct {
		code   uint16
		action wire.Action
		class  string
		big    bool
	}{
		{0, wire.ActionDefault, "", false},
		{1000, wire.ActionDefault, "", false},
		{1006, wire.ActionDefault, "", false},
		{1009, wire.ActionBackOff, "protocol", true},
		{3999, wire.ActionDefault, "", false},
		{4000, wire.ActionStop, "protocol", false},
		{4001, wire.ActionStop, "protocol", false},
		{4003, wire.ActionStop, "auth", false},
		{4005, wire.ActionStop, "overload", false},
		{4006, wire.ActionStop, "session", false},
		{4007, wire.ActionStop, "session", false},
		{4099, wire.ActionStop, "protocol", false},
		{4100, wire.ActionRefresh, "auth", false},
		{4199, wire.ActionRefresh, "auth", false},
		{4200, wire.ActionBackOff, "overload", false},
		{4207, wire.ActionBackOff, "protocol", true},
		{4299, wire.ActionBackOff, "overload", false},
		{4300, wire.ActionSpread, "going_away", false},
		{4399, wire.ActionSpread, "going_away", false},
		{4400, wire.ActionNewSession, "session", false},
		{4499, wire.ActionNewSession, "session", false},
		{4500, wire.ActionDefault, "", false},
		{65535, wire.ActionDefault, "", false},
		{CodeForbidden, wire.ActionStop, "auth", false},
		{CodeTooBig, wire.ActionBackOff, "protocol", true},
		{CodeRateLimited, wire.ActionBackOff, "overload", false},
		{CodeIDConflict, wire.ActionNewSession, "session", false},
		{CodeBadToken, wire.ActionRefresh, "auth", false},
		{14, wire.ActionDefault, "", false},
		{99, wire.ActionDefault, "", false},
	} {
		want := wire.Verdict{Action: tt.action, Class: tt.class, TooBig: tt.big}
		if want != (wire.Verdict{}) {
			want.After = time.Second
		}
		if got := d.Verdict(wire.Failure{Stage: wire.StageOpen, Code: tt.code, Retry: time.Second}); got != want {
			t.Errorf("%d: got %+v, want %+v", tt.code, got, want)
		}
	}
	for header, want := range map[string]time.Duration{"": 0, "250": 250 * time.Millisecond, "-1": 0, "soon": 0,
		"99999999999999": 15 * time.Minute} {
		f := wire.Failure{Stage: wire.StageUpgrade, Status: 503, Header: http.Header{retryHeader: {header}}}
		if got := d.Verdict(f); got != (wire.Verdict{After: want}) {
			t.Errorf("%s: %q: %+v", retryHeader, header, got)
		}
	}
}

// Every code of the protocol has a name and a verdict.
func TestCodesHaveWords(t *testing.T) {
	for code, word := range codeNames {
		if word == "" || CodeWord(uint64(code)) != word || verdict(code) == (wire.Verdict{}) {
			t.Errorf("%d: word %q, verdict %+v", code, word, verdict(code))
		}
	}
	if CodeWord(1<<16+4000) != "" || CodeWord(14) != "" {
		t.Error("an unknown code has a word")
	}
}

func TestDialect(t *testing.T) {
	d := New(nil)
	tr := d.Traits()
	if d.Name() != "limpet" || !(tr.Publish && tr.Acks && tr.Sessions && tr.Resume && tr.Credit && tr.Unsubscribe && tr.Greeting && tr.Confirms && tr.Fin) ||
		!tr.ByKey || tr.Silent || tr.Holes != wire.HolesFault || tr.Ping != wire.PingOp || tr.StartSubs != 256 || tr.StartBytes != 8<<10 || tr.MinReadLimit != 64<<10 || tr.MaxPayload != 256<<10 {
		t.Errorf("%s: %+v", d.Name(), tr)
	}
	if d.CheckTopic(wire.UseSubscribe, "a/**") != nil || d.CheckTopic(wire.UsePublish, "a/**") == nil {
		t.Error("the topics are not those of the protocol")
	}
	for _, enc := range encodings {
		if got, ok := EncodingOf(Subprotocol(enc)); !ok || got != enc {
			t.Errorf("EncodingOf(%q) = %d, %t", Subprotocol(enc), got, ok)
		}
	}
	if Subprotocol(0) != "" {
		t.Error("no encoding has a subprotocol")
	}
}
