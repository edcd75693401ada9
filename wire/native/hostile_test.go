package native

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/limpet-go/limpet/wire"
)

const (
	idText = "01980f0e-0102-7304-8506-0708090a0b0c"
	up     = `"t":"msg","s":1,"id":"` + idText + `","tp":"a"`
)

// refused is one input for each rule that a peer can break.
var refused = []struct {
	rule   string
	sender Sender
	code   uint16
	json   string
}{
	{"no batch", FromClient, 4001, ``},
	{"not an object", FromClient, 4001, `7`},
	{"a list of no objects", FromClient, 4001, `[7]`},
	{"a comma too many", FromClient, 4001, `[{"t":"ping"},]`},
	{"a comma too few", FromClient, 4001, `[{"t":"ping"}{"t":"ping"}]`},
	{"a comma before the end", FromClient, 4001, `{"t":"ping",}`},
	{"a comma before the first", FromClient, 4001, `{,"t":"ping"}`},
	{"something after the batch", FromClient, 4001, `{"t":"ping"} {"t":"ping"}`},
	{"a NUL after the batch", FromClient, 4001, "{\"t\":\"ping\"}\x00"},
	{"a byte order mark", FromClient, 4001, "\uFEFF" + `{"t":"ping"}`},
	{"text that is not UTF-8", FromClient, 4001, "{\"t\":\"ping\",\"x\":\"\xff\"}"},
	{"no type", FromClient, 4001, `{"n":1}`},
	{"a type that is no string", FromClient, 4001, `{"t":3}`},
	{"a type given twice", FromClient, 4001, `{"t":"ping","t":"ping"}`},
	{"a type given twice, once escaped", FromClient, 4001, `{"\u0074":"ping","t":"pong"}`},
	{"an unknown type", FromClient, 4000, `{"t":"whatever"}`},
	{"an unknown type in a batch", FromClient, 4000, `[{"t":"ping"},{"t":"y-me"}]`},
	{"the empty type", FromClient, 4000, `{"t":""}`},
	{"a server's frame from a client", FromClient, 4000, `{"t":"subok","ch":1,"ep":"e","o":1}`},
	{"a client's frame from a server", FromServer, 4000, `{"t":"hello","cn":1}`},
	{"a sub from a server", FromServer, 4000, `{"t":"sub","ch":1,"tp":"a","cr":{}}`},
	{"a key given twice", FromClient, 4001, `{"t":"ping","n":1,"n":1}`},
	{"a key given twice, once escaped", FromClient, 4001, `{"t":"ping","n":1,"\u006e":1}`},
	{"a header given twice", FromClient, 4001, `{` + up + `,"h":{"a":"1","a":"2"}}`},
	{"a header that is no string", FromClient, 4001, `{` + up + `,"h":{"a":1}}`},
	{"d and b", FromClient, 4001, `{` + up + `,"d":1,"b":"MQ"}`},
	{"b twice", FromClient, 4001, `{` + up + `,"b":"MQ","b":"MQ"}`},
	{"a required field missing", FromClient, 4001, `{"t":"hello"}`},
	{"no topic uplink", FromClient, 4001, `{"t":"msg","s":1,"id":"` + idText + `"}`},
	{"no p downlink", FromServer, 4001, `{"t":"msg","ch":1,"s":1,"id":"` + idText + `"}`},
	{"no id", FromClient, 4001, `{"t":"msg","s":1,"tp":"a"}`},
	{"no tag in a gap", FromServer, 4001, `{"t":"gap","ch":1,"p":1,"to":2}`},
	{"no credit in a sub", FromClient, 4001, `{"t":"sub","ch":1,"tp":"a"}`},
	{"no s in a reject", FromServer, 4001, `{"t":"ack","n":[{"code":1}]}`},
	{"null for a number", FromClient, 4001, `{"t":"ping","n":null}`},
	{"a negative number", FromClient, 4001, `{"t":"ping","n":-1}`},
	{"a fraction", FromClient, 4001, `{"t":"ping","n":1.0}`},
	{"an exponent", FromClient, 4001, `{"t":"ping","n":1e3}`},
	{"a leading zero", FromClient, 4001, `{"t":"ping","n":01}`},
	{"a leading zero in a string", FromClient, 4001, `{"t":"ping","n":"01"}`},
	{"a number above 2^53-1", FromClient, 4001, `{"t":"ping","n":9007199254740992}`},
	{"a number above 2^64-1", FromClient, 4001, `{"t":"ping","n":"18446744073709551616"}`},
	{"a number of 33 digits", FromClient, 4001, `{"t":"ping","n":` + strings.Repeat("1", 33) + `}`},
	{"an empty number", FromClient, 4001, `{"t":"ping","n":""}`},
	{"a number as a truth value", FromServer, 4001, `{"t":"err","code":1,"fatal":1}`},
	{"an unknown word", FromClient, 4001, `{"t":"sub","ch":1,"tp":"a","cr":{},"from":"old"}`},
	{"an id without dashes", FromClient, 4001, `{"t":"msg","s":1,"tp":"a","id":"01980f0e0102730485060708090a0b0c"}`},
	{"an id that is not hexadecimal", FromClient, 4001, `{"t":"msg","s":1,"tp":"a","id":"0198zf0e-0102-7304-8506-0708090a0b0c"}`},
	{"an id with dashes elsewhere", FromClient, 4001, `{"t":"msg","s":1,"tp":"a","id":"01980f-0e0102-7304-8506-0708090a0b0c"}`},
	{"an id with one dash more", FromClient, 4001, `{"t":"msg","s":1,"tp":"a","id":"01980f0e-0102-7304-8506-0708090a0b-c"}`},
	{"bytes with padding", FromClient, 4001, `{` + up + `,"b":"MQ=="}`},
	{"bytes in the other alphabet", FromClient, 4001, `{` + up + `,"b":"+/+/"}`},
	{"bytes with a line end", FromClient, 4001, `{` + up + `,"b":"M\nQ"}`},
	{"bytes with bits left over", FromClient, 4001, `{` + up + `,"b":"MR"}`},
	{"a tag of 17 bytes", FromClient, 4001, `{` + up + `,"tag":"AAAAAAAAAAAAAAAAAAAAAAA"}`},
	{"a tag of an id that is too short", FromClient, 4001, `{"t":"hello","cn":1,"up":{"lo":1,"hi":1,"tag":"AA"}}`},
	{"half a surrogate pair", FromClient, 4001, `{` + up + `,"ct":"\ud800"}`},
	{"the wrong half first", FromClient, 4001, `{` + up + `,"ct":"\udc00\ud800"}`},
	{"an unknown escape", FromClient, 4001, `{` + up + `,"ct":"\x"}`},
	{"a control character", FromClient, 4001, "{" + up + ",\"ct\":\"a\tb\"}"},
	{"a malformed payload", FromClient, 4001, `{` + up + `,"d":{"a"}}`},
	{"a payload that is two values", FromClient, 4001, `{` + up + `,"d":1 2}`},
	{"a payload of depth 33", FromClient, 4001, `{` + up + `,"d":` + nested(33) + `}`},
	{"an unknown field of depth 33", FromClient, 4001, `{` + up + `,"x":` + nested(33) + `}`},
	{"an ignored frame of depth 33", FromClient, 4001, `{"t":"x-a","x":` + nested(33) + `}`},
	{"a void message with a payload", FromClient, 4001, `{` + up + `,"d":1,"fl":4}`},
	{"a range that ends before it begins", FromServer, 4001, `{"t":"ack","x":[[2,1]]}`},
	{"a range of three", FromServer, 4001, `{"t":"ack","x":[[1,2,3]]}`},
	{"33 ranges", FromServer, 4001, `{"t":"ack","x":[` + list(33, `[1,2]`) + `]}`},
	{"a million ranges", FromServer, 4001, `{"t":"ack","x":[` + list(1e6, `[1,2]`) + `]}`},
	{"4097 rejects", FromServer, 4001, `{"t":"ack","n":[` + list(4097, `{"s":1,"code":1}`) + `]}`},
	{"10001 credits", FromClient, 4001, `{"t":"ack","dcr":[` + list(10001, `{"ch":1}`) + `]}`},
	{"257 subscriptions", FromClient, 4001, `{"t":"hello","cn":1,"subs":[` + list(257, `{"ch":1,"tp":"a","cr":{}}`) + `]}`},
	{"33 features", FromClient, 4001, `{"t":"hello","cn":1,"feat":[` + list(33, `"a"`) + `]}`},
	{"a token of 8193 bytes", FromClient, 4001, `{"t":"auth","tok":"` + strings.Repeat("x", 8193) + `"}`},
	{"a payload of 256 KiB and 1", FromClient, 4207, `{` + up + `,"d":"` + strings.Repeat("x", 256<<10-1) + `"}`},
	{"bytes of 256 KiB and 1", FromClient, 4207, `{` + up + `,"b":"` + strings.Repeat("A", (256<<10+1)*4/3+1) + `"}`},
	{"33 headers", FromClient, 4207, `{` + up + `,"h":{` + headers(33, 1) + `}}`},
	{"8 KiB and 1 of headers", FromClient, 4207, `{` + up + `,"h":{` + headers(1, 8<<10-3) + `}}`},
	{"8 KiB and 1 of content type", FromClient, 4207, `{` + up + `,"ct":"` + strings.Repeat("x", 8<<10+1) + `"}`},
	{"8 KiB and 1 of content type and header", FromClient, 4207, `{` + up + `,"ct":"` + strings.Repeat("x", 4<<10) + `","h":{` + headers(1, 4<<10-3) + `}}`},
	{"a topic of 256 bytes", FromServer, 4001, `{"t":"msg","s":1,"p":0,"id":"` + idText + `","tp":"` + strings.Repeat("x", 256) + `"}`},
	{"an epoch of 256 bytes in subok", FromServer, 4001, `{"t":"subok","ch":1,"o":1,"ep":"` + strings.Repeat("x", 256) + `"}`},
	{"an epoch of 256 bytes in reset", FromServer, 4001, `{"t":"reset","ch":1,"o":1,"tag":"AA","ep":"` + strings.Repeat("x", 256) + `"}`},
	{"a session id of 256 bytes", FromServer, 4001, `{"t":"welcome","cn":1,"key":"AA","se":1,"res":false,"ack":0,"cr":{},"sid":"` + strings.Repeat("x", 256) + `"}`},
	{"a batch above 64 KiB", FromClient, 4207, `[{"t":"ping"},{` + up + `,"d":"` + strings.Repeat("x", 64<<10) + `"}]`},
	{"4097 frames", FromClient, 4207, `[` + list(4097, `{"t":"ping"}`) + `]`},
}

func nested(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

func list(n int, item string) string { return strings.Repeat(item+",", n-1) + item }

func headers(n, size int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"k%03d":%q`, i, strings.Repeat("v", size))
	}
	return b.String()[1:]
}

func wantCode(t *testing.T, rule string, got []Frame, err error, code uint16) {
	t.Helper()
	var e *wire.CodeError
	if !errors.As(err, &e) || e.Code != code || len(got) != 0 {
		t.Errorf("%s: %d frames, %v; want code %d", rule, len(got), err, code)
	}
}

func TestRefusedJSON(t *testing.T) {
	for _, tt := range refused {
		got, err := Decode(nil, JSON, tt.sender, []byte(tt.json), DefaultLimits)
		wantCode(t, tt.rule, got, err, tt.code)
	}
}

// The limits themselves are allowed.
func TestAcceptedJSON(t *testing.T) {
	for _, tt := range []struct {
		rule   string
		sender Sender
		frames int
		json   string
	}{
		{"an empty list", FromClient, 0, ` [ ] `},
		{"white space", FromClient, 2, "\n[ {\t\"t\" : \"ping\" , \"n\" : 1 } ,\r {\"t\":\"pong\"} ]\n"},
		{"the type last", FromClient, 1, `{"n":1,"x":{"t":"hello"},"t":"ping"}`},
		{"a type from outside", FromClient, 1, `[{"t":"x-a","t":1},{"t":"ping"},{"a":[{}],"t":"x-"}]`},
		{"unknown fields", FromClient, 1, `{` + up + `,"x":null,"y":[{"a":-1.5e+3}],"b2":"\ud800"}`},
		{"a field of another object", FromClient, 1, `{"t":"ping","s":"x"}`},
		{"escaped keys and types", FromClient, 1, `{"\u0074":"p\u0069ng","\u006e":1}`},
		{"a number as a string", FromClient, 1, `{"t":"ping","n":"1"}`},
		{"2^53-1", FromClient, 1, `{"t":"ping","n":9007199254740991}`},
		{"2^64-1", FromClient, 1, `{"t":"ping","n":"18446744073709551615"}`},
		{"an id in capitals", FromClient, 1, `{"t":"msg","s":1,"tp":"a","id":"` + strings.ToUpper(idText) + `"}`},
		{"a payload of depth 32", FromClient, 1, `{` + up + `,"d":` + nested(32) + `}`},
		{"32 ranges", FromServer, 1, `{"t":"ack","x":[` + list(32, `[1,2]`) + `]}`},
		{"256 subscriptions", FromClient, 1, `{"t":"hello","cn":1,"subs":[` + list(256, `{"ch":1,"tp":"a","cr":{}}`) + `]}`},
		{"a token of 8 KiB", FromClient, 1, `{"t":"auth","tok":"` + strings.Repeat("x", 8192) + `"}`},
		{"a payload of 256 KiB", FromClient, 1, `{` + up + `,"d":"` + strings.Repeat("x", 256<<10-2) + `"}`},
		{"bytes of 256 KiB", FromClient, 1, `{` + up + `,"b":"` + strings.Repeat("A", (256<<10*4+2)/3) + `"}`},
		{"32 headers", FromClient, 1, `{` + up + `,"h":{` + headers(32, 1) + `}}`},
		{"8 KiB of headers", FromClient, 1, `{` + up + `,"h":{` + headers(1, 8<<10-4) + `}}`},
		{"a content type of 8 KiB", FromClient, 1, `{` + up + `,"ct":"` + strings.Repeat("x", 8<<10) + `"}`},
		{"a topic of 255 bytes", FromServer, 1, `{"t":"msg","s":1,"p":0,"id":"` + idText + `","tp":"` + strings.Repeat("x", 255) + `"}`},
		{"an epoch of 255 bytes", FromServer, 1, `{"t":"subok","ch":1,"o":1,"ep":"` + strings.Repeat("x", 255) + `"}`},
		{"4096 frames", FromClient, 4096, `[` + list(4096, `{"t":"ping"}`) + `]`},
	} {
		got, err := Decode(nil, JSON, tt.sender, []byte(tt.json), DefaultLimits)
		if err != nil || len(got) != tt.frames {
			t.Errorf("%s: %d frames, %v", tt.rule, len(got), err)
		}
	}
}

// Binary fields, encoded by hand.
func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func num(n int, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, uint64(n)<<3), v)
}

func raw(n int, v []byte) []byte {
	return append(binary.AppendUvarint(binary.AppendUvarint(nil, uint64(n)<<3|2), uint64(len(v))), v...)
}

func batch(frames ...[]byte) (b []byte) {
	for _, f := range frames {
		b = append(binary.AppendUvarint(b, uint64(len(f))), f...)
	}
	return b
}

func TestRefusedBinary(t *testing.T) {
	msg := cat(num(2, 1), raw(4, testID[:]), raw(5, []byte("a")))
	ping := raw(12, num(1, 1))
	for _, tt := range []struct {
		rule   string
		sender Sender
		code   uint16
		data   []byte
	}{
		{"a length beyond the end", FromClient, 4001, []byte{9, 1}},
		{"a length of 2^64-1", FromClient, 4001, append(binary.AppendUvarint(nil, math.MaxUint64), 1)},
		{"an overlong length", FromClient, 4001, append([]byte{0x80 | byte(len(ping)), 0}, ping...)},
		{"an overlong key", FromClient, 4001, batch(raw(12, []byte{0x88, 0, 1}))},
		{"an overlong value", FromClient, 4001, batch(raw(12, []byte{8, 0x81, 0}))},
		{"a varint of 65 bits", FromClient, 4001, batch(raw(12, []byte{8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2}))},
		{"a varint of 11 bytes", FromClient, 4001, batch(raw(12, []byte{8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 129, 0}))},
		{"a varint without an end", FromClient, 4001, batch(raw(12, []byte{8, 0x81}))},
		{"an empty frame", FromClient, 4001, []byte{0}},
		{"two bodies in a frame", FromClient, 4001, batch(cat(ping, ping))},
		{"a body shorter than its frame", FromClient, 4001, batch(cat(ping, []byte{0}))},
		{"a body longer than its frame", FromClient, 4001, []byte{3, 12<<3 | 2, 2, 8, 1}},
		{"a body that is no message", FromClient, 4001, batch(num(12, 1))},
		{"type 0", FromClient, 4001, batch([]byte{2, 0})},
		{"type 17", FromClient, 4000, batch(raw(17, nil))},
		{"type 63", FromClient, 4000, batch(raw(63, nil))},
		{"type 64, malformed", FromClient, 4001, batch(append(binary.AppendUvarint(nil, 64<<3|2), 9))},
		{"type 64 and more", FromClient, 4001, batch(cat(raw(64, nil), ping))},
		{"a server's frame from a client", FromClient, 4000, batch(raw(6, nil))},
		{"a client's frame from a server", FromServer, 4000, batch(raw(1, num(1, 1)))},
		{"field 0", FromClient, 4001, batch(raw(12, []byte{0, 1}))},
		{"field 2^29", FromClient, 4001, batch(raw(12, append(binary.AppendUvarint(nil, 1<<32), 1)))},
		{"a field given twice", FromClient, 4001, batch(raw(12, cat(num(1, 1), num(1, 1))))},
		{"bytes for a number", FromClient, 4001, batch(raw(12, raw(1, []byte{1})))},
		{"a number for bytes", FromClient, 4001, batch(raw(1, cat(num(1, 1), num(2, 1))))},
		{"a number for a message", FromClient, 4001, batch(raw(1, cat(num(1, 1), num(6, 1))))},
		{"a fixed64 for a number", FromClient, 4001, batch(raw(12, cat([]byte{1<<3 | 1}, make([]byte, 8))))},
		{"a group", FromClient, 4001, batch(raw(12, []byte{9<<3 | 3, 9<<3 | 4}))},
		{"an unknown fixed64 cut short", FromClient, 4001, batch(raw(12, append([]byte{9<<3 | 1}, make([]byte, 7)...)))},
		{"an unknown fixed32 cut short", FromClient, 4001, batch(raw(12, append([]byte{9<<3 | 5}, make([]byte, 3)...)))},
		{"a required field missing", FromClient, 4001, batch(raw(1, nil))},
		{"no topic uplink", FromClient, 4001, batch(raw(3, cat(num(2, 1), raw(4, testID[:]))))},
		{"no p downlink", FromServer, 4001, batch(raw(3, msg))},
		{"an id of 15 bytes", FromClient, 4001, batch(raw(3, cat(num(2, 1), raw(4, testID[1:]), raw(5, []byte("a")))))},
		{"a tag of 17 bytes", FromClient, 4001, batch(raw(3, cat(msg, raw(10, make([]byte, 17)))))},
		{"a string that is not UTF-8", FromClient, 4001, batch(raw(3, cat(msg, raw(7, []byte{0xff}))))},
		{"a truth value of 2", FromServer, 4001, batch(raw(14, cat(num(1, 1), num(6, 2))))},
		{"an unknown enumeration value", FromClient, 4001, batch(raw(5, cat(num(1, 1), raw(2, []byte("a")), num(3, 4), raw(11, nil))))},
		{"a header given twice", FromClient, 4001, batch(raw(3, cat(msg, raw(8, raw(1, []byte("a"))), raw(8, raw(1, []byte("a"))))))},
		{"a void message with a payload", FromClient, 4001, batch(raw(3, cat(msg, raw(6, []byte("1")), num(13, 4))))},
		{"a range that ends before it begins", FromServer, 4001, batch(raw(4, raw(2, cat(num(1, 2), num(2, 1)))))},
		{"half a range", FromServer, 4001, batch(raw(4, raw(2, num(1, 2))))},
		{"a million ranges", FromServer, 4001, batch(raw(4, bytes.Repeat(raw(2, cat(num(1, 1), num(2, 1))), 1e6)))},
		{"257 subscriptions", FromClient, 4001, batch(raw(1, cat(num(1, 1), bytes.Repeat(raw(8, cat(num(1, 1), raw(2, []byte("a")), raw(11, nil))), 257))))},
		{"a token of 8193 bytes", FromClient, 4001, batch(raw(10, raw(1, make([]byte, 8193))))},
		{"a payload of 256 KiB and 1", FromClient, 4207, batch(raw(3, cat(msg, raw(6, make([]byte, 256<<10+1)))))},
		{"33 headers", FromClient, 4207, batch(raw(3, cat(msg, manyHeaders(33))))},
		{"8 KiB and 1 of headers", FromClient, 4207, batch(raw(3, cat(msg, raw(8, raw(2, make([]byte, 8<<10+1))))))},
		{"a batch above 64 KiB", FromClient, 4207, batch(ping, raw(3, cat(msg, raw(6, make([]byte, 64<<10)))))},
		{"4097 frames", FromClient, 4207, bytes.Repeat(batch(raw(12, nil)), 4097)},
	} {
		got, err := Decode(nil, Binary, tt.sender, tt.data, DefaultLimits)
		wantCode(t, tt.rule, got, err, tt.code)
	}
	for _, tt := range []struct {
		rule   string
		sender Sender
		frames int
		data   []byte
	}{
		{"an empty batch", FromClient, 0, nil},
		{"unknown fields of every wire type", FromClient, 1, batch(raw(12, cat(num(9, 1), raw(99, []byte{255}),
			[]byte{10<<3 | 5, 0, 0, 0, 0, 11<<3 | 1, 0, 0, 0, 0, 0, 0, 0, 0})))},
		{"a reserved field", FromClient, 1, batch(raw(3, cat(msg, raw(9, []byte{1}))))},
		{"types of 64 and more", FromClient, 1, batch(raw(64, []byte("anything")), ping, num(9999, 1))},
		{"2^64-1", FromClient, 1, batch(raw(12, num(1, math.MaxUint64)))},
		{"a payload of 256 KiB", FromClient, 1, batch(raw(3, cat(msg, raw(6, make([]byte, 256<<10)))))},
		{"32 headers", FromClient, 1, batch(raw(3, cat(msg, manyHeaders(32))))},
		{"4096 frames", FromClient, 4096, bytes.Repeat(batch(raw(12, nil)), 4096)},
	} {
		got, err := Decode(nil, Binary, tt.sender, tt.data, DefaultLimits)
		if err != nil || len(got) != tt.frames {
			t.Errorf("%s: %d frames, %v", tt.rule, len(got), err)
		}
	}
}

func manyHeaders(n int) (b []byte) {
	for i := range n {
		b = append(b, raw(8, raw(1, fmt.Appendf(nil, "k%d", i)))...)
	}
	return b
}

// What Decode allocates for a hostile batch is bounded by its length and by the
// limits, whatever lengths it claims.
func TestAllocationBounded(t *testing.T) {
	for _, tt := range []struct {
		name   string
		enc    Encoding
		sender Sender
		data   []byte
		limit  uint64
	}{
		{"a million ranges", JSON, FromServer, []byte(`{"t":"ack","x":[` + list(1e6, `[1,2]`) + `]}`), 8 << 10},
		{"a million ranges", Binary, FromServer, batch(raw(4, bytes.Repeat(raw(2, cat(num(1, 1), num(2, 1))), 1e6))), 8 << 10},
		{"a million empty frames", JSON, FromServer, []byte(`[` + list(1e6, `{"t":"ping"}`) + `]`), 16 << 20},
		{"a million empty frames", Binary, FromServer, bytes.Repeat(batch(raw(12, nil)), 1e6), 16 << 20},
		{"a million headers", JSON, FromClient, []byte(`{` + up + `,"h":{` + list(1e6, `"":""`) + `}}`), 8 << 10},
		{"a length of 2^62", Binary, FromClient, append(binary.AppendUvarint(nil, 1<<62), 1), 8 << 10},
		{"a million unknown keys", JSON, FromClient, []byte(`{"t":"ping",` + list(1e6, `"a":1`) + `}`), 8 << 10},
		{"a million brackets", JSON, FromClient, []byte(`{"t":"ping","x":` + strings.Repeat("[", 1e6)), 8 << 10},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		frames, _ := Decode(nil, tt.enc, tt.sender, tt.data, DefaultLimits)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > tt.limit {
			t.Errorf("%s, encoding %d: %d bytes allocated, at most %d wanted", tt.name, tt.enc, got, tt.limit)
		}
		runtime.KeepAlive(frames)
	}
}

// footprint estimates the memory that frames hold.
func footprint(frames []Frame) int {
	n := len(frames) * int(unsafe.Sizeof(Frame{}))
	for i := range frames {
		f := &frames[i]
		n += len(f.Msg.Payload) + len(f.Msg.Topic) + len(f.Msg.Type) + len(f.Msg.Tag)
		for k, v := range f.Msg.Header {
			n += len(k) + len(v) + 64
		}
		if f.Ack != nil {
			n += int(unsafe.Sizeof(Ack{})) + 16*len(f.Ack.X) + 16*len(f.Ack.Nak) + 24*len(f.Ack.Dcr)
		}
		if f.Hello != nil {
			n += int(unsafe.Sizeof(Hello{})) + int(unsafe.Sizeof(Sub{}))*len(f.Hello.Subs) + 16*len(f.Hello.Feat)
		}
		if f.Welcome != nil {
			n += int(unsafe.Sizeof(Welcome{})) + 16*len(f.Welcome.Sack) + 16*len(f.Welcome.Out)
		}
	}
	return n
}
