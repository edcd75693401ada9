package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/limpet-go/limpet"
)

const hostileLimit = 128 << 10 // Options.ReadLimit

func join(frames ...[]byte) []byte { return slices.Concat(frames...) }

var (
	txt   = func(s string) []byte { return rawFrame(0x81, s) }
	bin   = func(s string) []byte { return rawFrame(0x82, s) }
	leave = rawFrame(0x88, closePayload(1000, "")) // ends the cases in which nothing is wrong
)

// fine is what a client makes of messages, followed by leave.
func fine(messages ...string) outcome {
	for i, m := range messages {
		messages[i] = shorten(m)
	}
	return outcome{messages, []string{"close 1000"}, limpet.ClassNetwork}
}

// refused is what it makes of a violation after messages.
func refused(code int, messages ...string) outcome {
	return outcome{messages, []string{fmt.Sprint("close ", code)}, limpet.ClassProtocol}
}

// after puts frames that the client sends before its others.
func (o outcome) after(sent ...string) outcome {
	o.sent = slices.Concat(sent, o.sent)
	return o
}

// cut is a connection that breaks without a close frame.
func cut(messages ...string) outcome { return outcome{messages: messages, class: limpet.ClassNetwork} }

// The reasons why the library's frames differ (docs/decisions/0001).
const (
	lenient    = "the library accepts it; the decoder of a real language refuses what comes out, if it is wrong"
	unbounded  = "the library answers for ever; the silence rule and the socket's own pace are the bound"
	lateText   = "the library does not check; we do, when the message is whole"
	reasonText = "the library does not check the reason; it is quoted wherever it is shown"
)

func frameCases() []frameCase {
	return slices.Concat(sizeCases(), pingCases(), reservedCases(), fragmentCases(), textCases(), closeCases(), limitCases(), cutCases(), upgradeCases())
}

func frameOK(name string, in []byte, messages ...string) frameCase {
	return frameCase{name: name, in: join(in, leave), want: fine(messages...)}
}

// violation is a frame that must be refused with 1002.
func violation(name string, in []byte, messages ...string) frameCase {
	return frameCase{name: name, in: in, want: refused(1002, messages...)}
}

func (c frameCase) onPlain(o outcome, why string) frameCase {
	c.plain, c.why = &o, why
	return c
}

func sizeCases() (cases []frameCase) {
	for _, n := range []int{0, 1, 125, 126, 127, 128, 1023, 1024, 65535, 65536, 65537} {
		body := strings.Repeat("*", n)
		cases = append(cases,
			frameOK(fmt.Sprintf("text of %d", n), txt(body), "t:"+body),
			frameOK(fmt.Sprintf("binary of %d", n), bin(body), "b:"+body))
	}
	for _, piece := range []int{1, 2, 997} {
		c := frameOK(fmt.Sprintf("messages in pieces of %d", piece), join(txt("hello"), bin(strings.Repeat("x", 3000)), txt("")), "t:hello", "b:"+strings.Repeat("x", 3000), "t:")
		c.piece = piece
		cases = append(cases, c)
	}
	many := slices.Repeat([]string{"t:many"}, 1000)
	return append(cases, frameOK("a thousand messages glued to the upgrade", bytes.Repeat(txt("many"), 1000), many...))
}

func pingCases() []frameCase {
	p125 := strings.Repeat("p", 125)
	ping := func(name string, in []byte, o outcome) frameCase {
		return frameCase{name: name, in: join(in, leave), want: o}
	}
	var ten []byte
	var tenPongs []string
	for i := range 10 {
		ten = append(ten, rawFrame(0x89, fmt.Sprint(i))...)
		tenPongs = append(tenPongs, fmt.Sprint("pong ", i))
	}
	slow := ping("ten pings, byte by byte", ten, fine().after(tenPongs...))
	slow.piece = 1
	slowLong := ping("ping of 125, byte by byte", rawFrame(0x89, p125), fine().after("pong "+shorten(p125)))
	slowLong.piece = 1
	return []frameCase{
		ping("empty ping", rawFrame(0x89, ""), fine().after("pong ")),
		ping("ping", rawFrame(0x89, "hello"), fine().after("pong hello")),
		ping("ping that is not text", rawFrame(0x89, "\x00\xff\xfe"), fine().after("pong \x00\xff\xfe")),
		ping("ping of 125", rawFrame(0x89, p125), fine().after("pong "+shorten(p125))),
		slowLong,
		violation("ping of 126", rawFrame(0x89, p125+"p")),
		violation("ping of 65536", rawFrame(0x89, strings.Repeat("p", 65536))),
		violation("fragmented ping", join(rawFrame(0x09, "a"), rawFrame(0x80, "b"))),
		violation("fragmented pong", rawFrame(0x0a, "a")),
		ping("pong nobody asked for", rawFrame(0x8a, ""), fine()),
		ping("pong nobody asked for, with payload", rawFrame(0x8a, "hello"), fine()),
		violation("pong of 126", rawFrame(0x8a, p125+"p")),
		ping("pong, then ping", join(rawFrame(0x8a, "no"), rawFrame(0x89, "yes")), fine().after("pong yes")),
		ping("ten pings", ten, fine().after(tenPongs...)),
		slow,
		ping("ping between messages", join(txt("a"), rawFrame(0x89, "p"), txt("b")), fine("t:a", "t:b").after("pong p")),
		ping("a hundred pongs", bytes.Repeat(rawFrame(0x8a, ""), 100), fine()),
		frameCase{name: "flood of pings", in: join(bytes.Repeat(rawFrame(0x89, ""), 2000), leave), want: refused(1008).after(slices.Repeat([]string{"pong "}, 1001)...)}.
			onPlain(fine().after(slices.Repeat([]string{"pong "}, 2000)...), unbounded),
		frameCase{name: "flood of pongs", in: join(bytes.Repeat(rawFrame(0x8a, ""), 2000), leave), want: refused(1008)}.onPlain(fine(), unbounded),
	}
}

func reservedCases() (cases []frameCase) {
	for rsv := 1; rsv < 8; rsv++ {
		cases = append(cases, violation(fmt.Sprintf("reserved bits %03b on text", rsv), join(txt("a"), rawFrame(0x81|byte(rsv)<<4, "b"), leave), "t:a"))
	}
	for name, op := range map[string]byte{"binary": 0x82, "close": 0x88, "ping": 0x89, "pong": 0x8a} {
		cases = append(cases, violation("reserved bit on "+name, rawFrame(op|0x40, "")))
	}
	cases = append(cases,
		violation("reserved bit on a continuation", join(rawFrame(0x01, "a"), rawFrame(0x80|0x40, "b"))),
		violation("reserved bit, byte by byte", rawFrame(0xa1, "hello")),
	)
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		cases = append(cases,
			violation(fmt.Sprintf("opcode %d", op), rawFrame(0x80|op, "")),
			violation(fmt.Sprintf("opcode %d with payload after a message", op), join(txt("a"), rawFrame(0x80|op, "hello"), rawFrame(0x89, "")), "t:a"))
	}
	// RFC 6455, section 5.1: a client must close when a frame is masked.
	for name, c := range map[string]struct {
		first byte
		plain outcome
	}{
		"text":   {0x81, fine("t:igohn")},
		"binary": {0x82, fine("b:igohn")},
		"ping":   {0x89, fine().after("pong hello")},
	} {
		masked := append([]byte{c.first, 0x85, 1, 2, 3, 4}, "igohn"...)
		cases = append(cases, frameCase{name: "masked " + name, in: join(masked, leave), want: refused(1002)}.onPlain(c.plain, lenient))
	}
	masked := frameCase{name: "masked close", in: []byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8}, want: refused(1002)}
	// Without its key, what comes of the second message looks like a whole one.
	fragment := frameCase{name: "masked fragment, cut short", in: join(txt("a"), []byte{0x02, 0x83, 1, 1, 1, 0x82, 0, 'c', 'c'}), end: hangUp, want: refused(1002, "t:a")}
	return append(cases, fragment.onPlain(cut("t:a"), lenient), masked.onPlain(outcome{nil, []string{"close 1000"}, limpet.ClassNetwork}, lenient))
}

func fragmentCases() []frameCase {
	var letters []byte
	for i := range 100 {
		first := byte(0)
		if i == 0 {
			first = 1
		}
		letters = append(letters, rawFrame(first, "x")...)
	}
	letters = append(letters, rawFrame(0x80, "")...)
	return []frameCase{
		frameOK("two fragments", join(rawFrame(0x01, "a"), rawFrame(0x80, "b")), "t:ab"),
		frameOK("three binary fragments", join(rawFrame(0x02, "a"), rawFrame(0x00, "b"), rawFrame(0x80, "c")), "b:abc"),
		frameOK("a hundred fragments", letters, "t:"+strings.Repeat("x", 100)),
		frameOK("empty fragments", join(rawFrame(0x01, ""), rawFrame(0x00, ""), rawFrame(0x80, "")), "t:"),
		frameOK("empty fragments around a full one", join(rawFrame(0x01, ""), rawFrame(0x00, "a"), rawFrame(0x80, "")), "t:a"),
		frameOK("fragments of 64 KiB", join(rawFrame(0x02, strings.Repeat("f", 65536)), rawFrame(0x80, strings.Repeat("f", 65536))), "b:"+strings.Repeat("f", 131072)),
		frameOK("two fragmented messages", join(rawFrame(0x01, "a"), rawFrame(0x80, "b"), rawFrame(0x02, "c"), rawFrame(0x80, "d")), "t:ab", "b:cd"),
		{name: "ping between fragments", in: join(rawFrame(0x01, "a"), rawFrame(0x89, "p"), rawFrame(0x80, "b"), leave), want: fine("t:ab").after("pong p")},
		{name: "pings between fragments, byte by byte", piece: 1, in: join(rawFrame(0x01, "a"), rawFrame(0x89, "p"), rawFrame(0x00, "b"), rawFrame(0x89, "q"), rawFrame(0x80, "c"), leave), want: fine("t:abc").after("pong p", "pong q")},
		frameOK("pong between fragments", join(rawFrame(0x01, "a"), rawFrame(0x8a, "p"), rawFrame(0x80, "b")), "t:ab"),
		{name: "close between fragments", in: join(rawFrame(0x01, "a"), leave), want: fine()},
		violation("continuation of nothing", rawFrame(0x80, "a")),
		violation("open continuation of nothing", join(rawFrame(0x00, "a"), txt("b"))),
		violation("empty continuation of nothing", rawFrame(0x80, "")),
		violation("continuation of nothing after a message", join(txt("a"), rawFrame(0x80, "b"), txt("c")), "t:a"),
		violation("continuation after the last fragment", join(rawFrame(0x01, "a"), rawFrame(0x80, "b"), rawFrame(0x80, "c")), "t:ab"),
		violation("text inside a fragmented text", join(rawFrame(0x01, "a"), txt("b"))),
		violation("binary inside a fragmented text", join(rawFrame(0x01, "a"), bin("b"))),
		violation("fragment of text inside a fragmented text", join(rawFrame(0x01, "a"), rawFrame(0x01, "b"))),
		violation("text inside a fragmented binary", join(rawFrame(0x02, "a"), rawFrame(0x00, "b"), txt("c"))),
		frameCase{name: "flood of empty fragments", in: join(rawFrame(0x01, "a"), bytes.Repeat(rawFrame(0x00, ""), 2000), rawFrame(0x80, "b"), leave), want: refused(1008)}.
			onPlain(fine("t:ab"), "the library takes any number; a message that does not grow is no sign of life"),
	}
}

func textCases() (cases []frameCase) {
	for _, s := range []string{"Hello-µ@ßöäüàá-UTF-8!!", "κόσμε", "\x00", "\u007f", "\u0080", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\ufffd", "\ufffe", "\uffff", "\U00010000", "\U0010ffff"} {
		cases = append(cases, frameOK(fmt.Sprintf("text %+q", s), txt(s), "t:"+s))
	}
	for _, s := range []string{
		"\x80", "\xbf", "\x80\xbf\x80", "\xc0 ", "\xe0 ", "\xf0 ", "\xf8 ", "\xfc ", "\xfe", "\xff", "\xce", "\xe2\x82", "\xf0\x9f\x92", // pieces
		"\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", // overlong
		"\xed\xa0\x80", "\xed\xbf\xbf", "\xed\xa0\x80\xed\xb0\x80", // surrogates
		"\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xf8\x88\x80\x80\x80", // beyond U+10FFFF
	} {
		cases = append(cases, frameCase{name: fmt.Sprintf("text %+q", s), in: join(txt("a"), txt("κό"+s)), want: refused(1007, "t:a")})
	}
	bad := "κόσμε\xed\xa0\x80edited"
	bytewise := frameCase{name: "bad text, byte by byte", in: txt(bad), piece: 1, want: refused(1007)}
	waits := frameCase{name: "bad text in an unfinished frame", in: txt(bad + strings.Repeat("x", 1000))[:100], end: hangUp, want: refused(1007)}
	inPart := frameCase{name: "bad text in an unfinished message", in: rawFrame(0x01, bad), end: hangUp, want: refused(1007)}
	return append(cases,
		bytewise,
		waits.onPlain(cut(), lateText),
		inPart.onPlain(cut(), lateText),
		frameOK("character across fragments", join(rawFrame(0x01, "\xce"), rawFrame(0x80, "\xba")), "t:κ"),
		frameOK("character across three fragments and a pong", join(rawFrame(0x01, "\xf0\x9f"), rawFrame(0x8a, ""), rawFrame(0x00, "\x92"), rawFrame(0x80, "\xa9")), "t:\U0001f4a9"),
		frameCase{name: "character cut at the last fragment", in: join(rawFrame(0x01, "a"), rawFrame(0x80, "\xce")), want: refused(1007)},
		frameCase{name: "bad text across fragments", in: join(rawFrame(0x01, "\xed"), rawFrame(0x80, "\xa0\x80")), want: refused(1007)},
		frameCase{name: "bad text, then a close", in: join(txt("\xff"), leave), want: refused(1007)}.onPlain(
			outcome{nil, []string{"close 1007", "close 1000"}, limpet.ClassProtocol}, "the library answers a close frame although it sent one"),
		frameOK("binary that is no text", bin("\xff\xfe\x80"), "b:\xff\xfe\x80"),
	)
}

func closeCases() (cases []frameCase) {
	r123 := strings.Repeat("r", 123)
	classes := map[int]limpet.ErrorClass{1002: limpet.ClassProtocol, 1003: limpet.ClassProtocol, 1007: limpet.ClassProtocol, 1008: limpet.ClassAuth,
		1009: limpet.ClassProtocol, 1010: limpet.ClassProtocol, 1013: limpet.ClassOverload}
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		class := classes[code]
		if class == "" {
			class = limpet.ClassNetwork
		}
		cases = append(cases, frameCase{name: fmt.Sprintf("close %d", code), in: join(txt("a"), rawFrame(0x88, closePayload(code, "why"))),
			want: outcome{[]string{"t:a"}, []string{fmt.Sprint("close ", code)}, class}})
	}
	for _, code := range []int{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		cases = append(cases, violation(fmt.Sprintf("close %d", code), rawFrame(0x88, closePayload(code, "why"))))
	}
	return append(cases,
		frameCase{name: "close without code", in: rawFrame(0x88, ""), want: outcome{nil, []string{"close"}, limpet.ClassNetwork}},
		violation("close of one byte", rawFrame(0x88, "\x03")),
		frameCase{name: "close with the longest reason", in: rawFrame(0x88, closePayload(1000, r123)), want: fine()},
		violation("close with a reason too long", rawFrame(0x88, closePayload(1000, r123+"r"))),
		frameCase{name: "close with a bad reason", in: rawFrame(0x88, closePayload(1000, "\xed\xa0\x80")), want: refused(1007)}.onPlain(fine(), reasonText),
		violation("fragmented close", rawFrame(0x08, closePayload(1000, ""))),
		frameCase{name: "two closes", in: join(leave, rawFrame(0x88, closePayload(4000, ""))), want: fine()},
		frameCase{name: "text after close", in: join(leave, txt("never")), want: fine()},
		frameCase{name: "ping after close", in: join(leave, rawFrame(0x89, "never")), want: fine()},
		frameCase{name: "rubbish after close", in: join(leave, []byte{0xff, 0xff, 0xff, 0xff}), want: fine()},
		frameCase{name: "close after a long message", in: join(bin(strings.Repeat("x", 100_000)), leave), want: fine("b:" + strings.Repeat("x", 100_000))},
		frameCase{name: "close, byte by byte", piece: 1, in: rawFrame(0x88, closePayload(4001, "bye")), want: outcome{nil, []string{"close 4001"}, limpet.ClassNetwork}},
		frameCase{name: "close and hang up", in: leave, end: hangUp, want: fine()},
	)
}

func limitCases() []frameCase {
	most := strings.Repeat("m", hostileLimit)
	claim := func(first byte, n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{first, 127}, n) }
	lenientOne := func(c frameCase) frameCase { return c.onPlain(fine("b:x"), lenient) }
	return []frameCase{
		frameOK("as long as allowed", bin(most), "b:"+most),
		{name: "one byte too long", in: bin(most + "m"), want: refused(1009)},
		{name: "one byte too long in fragments", in: join(rawFrame(0x02, most), rawFrame(0x80, "m")), want: refused(1009)},
		frameCase{name: "claims 2^62", in: claim(0x82, 1<<62), end: hangUp, want: refused(1009)}.onPlain(cut(), "the library reads up to the limit before it refuses"),
		frameCase{name: "claims 2^63", in: claim(0x82, 1<<63), want: refused(1002)}.onPlain(outcome{class: limpet.ClassProtocol}, "the library gives up without a close frame"),
		frameCase{name: "claims 2^63-1 in the second fragment", in: join(rawFrame(0x02, "xx"), claim(0x80, 1<<63-1)), end: hangUp, want: refused(1009)}.
			onPlain(cut(), "the library reads up to the limit before it refuses"),
		{name: "after messages, one too long", in: join(txt("a"), bin(most+"m")), want: refused(1009, "t:a")},
		lenientOne(frameCase{name: "1 in two bytes", in: join([]byte{0x82, 126, 0, 1, 'x'}, leave), want: refused(1002)}),
		lenientOne(frameCase{name: "1 in eight bytes", in: join(claim(0x82, 1), []byte("x"), leave), want: refused(1002)}),
		frameCase{name: "65535 in eight bytes", in: join(claim(0x82, 65535), []byte(most[:65535]), leave), want: refused(1002)}.onPlain(fine("b:"+most[:65535]), lenient),
		frameCase{name: "ping with its length in two bytes", in: join([]byte{0x89, 126, 0, 1, 'x'}, leave), want: refused(1002)}.onPlain(fine().after("pong x"), lenient),
	}
}

func cutCases() (cases []frameCase) {
	for _, end := range []ending{hangUp, resets} {
		how := map[ending]string{hangUp: "end", resets: "reset"}[end]
		for name, c := range map[string]struct {
			in       []byte
			messages []string
		}{
			"before anything":        {nil, nil},
			"between messages":       {txt("a"), []string{"t:a"}},
			"inside a header":        {join(txt("a"), []byte{0x81}), []string{"t:a"}},
			"inside a length":        {[]byte{0x82, 126, 1}, nil},
			"after a header":         {[]byte{0x82, 5}, nil},
			"inside a payload":       {join(txt("a"), []byte{0x82, 5, 'x'}), []string{"t:a"}},
			"inside a long payload":  {join(txt("a"), bin(strings.Repeat("x", 70000))[:50000]), []string{"t:a"}},
			"between fragments":      {rawFrame(0x01, "a"), nil},
			"after a second header":  {join(rawFrame(0x02, "a"), []byte{0x80, 5}), nil},
			"inside a ping":          {[]byte{0x89, 5, 'x'}, nil},
			"inside a close":         {[]byte{0x88, 2, 3}, nil},
			"inside a masked header": {[]byte{0x81, 126}, nil},
		} {
			cases = append(cases, frameCase{name: how + " " + name, in: c.in, end: end, want: cut(c.messages...)})
		}
	}
	return cases
}

// upgradeCases are answers to the upgrade: no frame is ever exchanged, and
// both paths must agree.
func upgradeCases() []frameCase {
	with := func(name, old, new string, class limpet.ErrorClass) frameCase {
		return frameCase{name: name, end: hangUp, head: func(key string) string { return strings.Replace(upgradeResponse(key), old, new, 1) },
			in: txt("never"), want: outcome{class: class}}
	}
	says := func(name, head string, class limpet.ErrorClass) frameCase {
		return frameCase{name: name, end: hangUp, head: func(string) string { return head }, want: outcome{class: class}}
	}
	status := func(line string, class limpet.ErrorClass) frameCase {
		return says("status "+line, "HTTP/1.1 "+line+"\r\nLocation: http://elsewhere/\r\nContent-Length: 2\r\n\r\nno", class)
	}
	endless := says("body without end", "HTTP/1.1 503 Busy\r\n\r\n"+strings.Repeat("x", 100_000), limpet.ClassOverload)
	endless.end = stays
	dribble := says("header byte by byte without end", "HTTP/1.1 101 Switching Protocols\r\nX: "+strings.Repeat("x", 30_000), limpet.ClassTimeout)
	dribble.piece = 1
	dribble.end = stays
	informal := frameOK("informational answers first", txt("a"), "t:a")
	informal.head = func(key string) string {
		return strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 3) + upgradeResponse(key)
	}
	return []frameCase{
		with("wrong Sec-WebSocket-Accept", "Accept: ", "Accept: x", limpet.ClassNotWebSocket),
		with("no Sec-WebSocket-Accept", "Sec-WebSocket-Accept", "X-Other", limpet.ClassNotWebSocket),
		with("no Upgrade", "Upgrade: websocket", "X-Other: websocket", limpet.ClassNotWebSocket),
		with("no Connection", "Connection: Upgrade", "X-Other: Upgrade", limpet.ClassNotWebSocket),
		with("another protocol", "Upgrade: websocket", "Upgrade: h2c", limpet.ClassNotWebSocket),
		with("subprotocol not asked for", "\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\n\r\n", limpet.ClassNotWebSocket),
		with("extension not asked for", "\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", limpet.ClassNotWebSocket),
		status("200 OK", limpet.ClassNotWebSocket),
		status("301 Moved Permanently", limpet.ClassNotWebSocket),
		status("302 Found", limpet.ClassNotWebSocket),
		status("400 Bad Request", limpet.ClassHTTP),
		status("401 Unauthorized", limpet.ClassAuth),
		status("403 Forbidden", limpet.ClassAuth),
		status("404 Not Found", limpet.ClassHTTP),
		status("426 Upgrade Required", limpet.ClassHTTP),
		status("429 Too Many Requests", limpet.ClassOverload),
		status("502 Bad Gateway", limpet.ClassHTTP),
		status("503 Service Unavailable", limpet.ClassOverload),
		says("not HTTP", "SSH-2.0-OpenSSH_9.9\r\n", limpet.ClassNotWebSocket),
		says("nothing", "", limpet.ClassNetwork),
		says("100 KB of headers", "HTTP/1.1 101 Switching Protocols\r\nX: "+strings.Repeat("x", 100_000)+"\r\n\r\n", limpet.ClassNotWebSocket),
		endless, dribble, informal,
	}
}
