package frame

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
	"nhooyr.io/websocket"
)

// library returns the WebSocket library over the same kind of stream.
func library(tb testing.TB, stream io.ReadWriteCloser, limit int64) *websocket.Conn {
	tb.Helper()
	ws, _, err := websocket.Dial(context.Background(), "ws://peer", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: upgraded{stream}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	ws.SetReadLimit(limit)
	return ws
}

type upgraded struct{ stream io.ReadWriteCloser }

func (u upgraded) RoundTrip(r *http.Request) (*http.Response, error) {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return &http.Response{StatusCode: 101, Body: u.stream, Request: r, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Accept": {base64.StdEncoding.EncodeToString(sum[:])},
	}}, nil
}

// hearLibrary is hear for the library.
func hearLibrary(tb testing.TB, s *script, limit int64) (h heard) {
	ws := library(tb, s, limit)
	defer ws.CloseNow()
	// The library spins on empty fragments for ever; the script always ends.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		typ, data, err := ws.Read(ctx)
		if err != nil {
			h.err = err
			break
		}
		h.messages = append(h.messages, show(wire.Frame{Type: wire.FrameType(typ), Data: data}))
	}
	frames, err := clientFrames(s.written())
	if err != nil {
		tb.Errorf("the library wrote malformed frames: %v", err)
	}
	h.sent = frames
	return h
}

// lax lists where the library accepts what RFC 6455 forbids, by the reason with
// which this package refuses it. The comparison ends at such a frame: what comes
// before it must be equal, what comes after may differ.
var lax = map[string]string{
	"masked frame":                        "the payload is delivered, still masked (section 5.1)",
	"control frame longer than 125 bytes": "refused only if it really is: a length that is not in its shortest form is accepted",
	"length not in its shortest form":     "accepted (section 5.2)",
	"text message is not UTF-8":           "delivered (section 8.1)",
	"close reason is not UTF-8":           "passed on (section 5.5.1)",
	"too many frames without data":        "answered for ever",
	"length exceeds 2^63-1":               "an error without a close frame",
	tooBig:                                "read up to the limit, so other faults may come first, and with code 1009 as well",
}

// tooBig stands for every refusal with 1009: its text has sizes in it.
const tooBig = "message exceeds the read limit"

func isLax(e *wire.CodeError) bool {
	if e.Code == codeTooBig {
		return lax[tooBig] != ""
	}
	return lax[e.Reason] != ""
}

// compare reports how the two differ on the same bytes.
func compare(tb testing.TB, in []byte, piece int, limit int64) {
	tb.Helper()
	ours := hear(&script{in: in, piece: piece}, limit)
	theirs := hearLibrary(tb, &script{in: in, piece: piece}, limit)
	if errors.As(ours.err, new(*wire.CodeError)) && len(theirs.sent) < len(ours.sent) {
		// This package refuses a header before it is complete, the library after.
		in = append(bytes.Clone(in), make([]byte, maxHeader)...)
		ours = hear(&script{in: in, piece: piece}, limit)
		theirs = hearLibrary(tb, &script{in: in, piece: piece}, limit)
	}
	differ := func(what string) {
		tb.Helper()
		tb.Errorf("%s on %x\nours    %v\nlibrary %v", what, in, ours, theirs)
	}
	var refused *wire.CodeError
	if errors.As(ours.err, &refused) && (isLax(refused) || strings.Contains(theirs.err.Error(), "negative payload length")) {
		if len(theirs.messages) < len(ours.messages) || !slices.Equal(ours.messages, theirs.messages[:len(ours.messages)]) {
			differ("messages before a refusal")
		}
		return
	}
	if n := len(ours.messages); ours.err == io.ErrUnexpectedEOF && len(theirs.messages) == n+1 {
		theirs.messages = theirs.messages[:n] // see TestLibraryDeliversCutMessages
	}
	if !slices.Equal(ours.messages, theirs.messages) {
		differ("messages")
	}
	if !slices.Equal(codes(ours.sent), codes(theirs.sent)) {
		// An empty close frame is answered 1005, which both write as an empty
		// frame: no difference there.
		differ("frames sent")
	}
	var closed *CloseError
	var status websocket.CloseError
	switch {
	case errors.As(ours.err, &closed):
		if !errors.As(theirs.err, &status) || int(status.Code) != int(closed.Code) || status.Reason != closed.Reason {
			differ("close frame received")
		}
	case errors.As(theirs.err, &status):
		differ("close frame received")
	case ours.err == io.EOF && !errors.Is(theirs.err, io.EOF):
		differ("end of the stream")
	}
}

// TestAgainstTheLibrary compares on frames such as those of the table tests, and
// shows that every line of lax is needed.
func TestAgainstTheLibrary(t *testing.T) {
	for _, seed := range seeds() {
		compare(t, seed, 0, 1<<12)
	}
	for reason, in := range map[string][]byte{
		"masked frame":                    {0x81, 0x85, 1, 2, 3, 4, 'h', 'e', 'l', 'l', 'o'},
		"length not in its shortest form": {0x81, 126, 0, 1, 'h'},
		"text message is not UTF-8":       text("\xff"),
		"close reason is not UTF-8":       part(0x88, closing(1000, "\xff")),
		"length exceeds 2^63-1":           {0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0},
	} {
		ours, theirs := hear(&script{in: in}, 1<<12), hearLibrary(t, &script{in: in}, 1<<12)
		var refused *wire.CodeError
		if !errors.As(ours.err, &refused) || refused.Reason != reason {
			t.Errorf("%s: we say %v", reason, ours.err)
		}
		if slices.Equal(codes(ours.sent), codes(theirs.sent)) && slices.Equal(ours.messages, theirs.messages) {
			t.Errorf("%s: the library does the same now; take it out of the table", reason)
		}
	}
}

// The library takes the end of the stream for the end of a message if the stream
// ends where one of the library's reads does. Its user must watch the stream.
func TestLibraryDeliversCutMessages(t *testing.T) {
	in := []byte{0x82, 5}
	if h := hear(&script{in: in}, 1<<12); len(h.messages) != 0 || h.err != io.ErrUnexpectedEOF {
		t.Errorf("ours: %v", h)
	}
	if h := hearLibrary(t, &script{in: in}, 1<<12); len(h.messages) != 1 {
		t.Errorf("the library no longer does so; compare need not allow for it: %v", h)
	}
}

func seeds() [][]byte {
	all := [][]byte{
		nil, text("hello"), binmsg(""), cat(text("a"), bye), cat(part(0x01, "a"), part(0x89, "p"), part(0x80, "b"), bye),
		part(0x88, ""), part(0x88, "x"), part(0x88, closing(1005, "")), part(0x88, closing(4321, "why")), cat(bye, text("x")),
		part(0x09, "x"), part(0x89, big[:126]), part(0x83, ""), part(0x8b, ""), part(0xc1, "x"), part(0xa1, ""), part(0x91, ""),
		part(0x80, "x"), part(0x00, ""), cat(part(0x01, "a"), text("b")), cat(part(0x01, "a"), part(0x01, "b")),
		text(big[:4096]), text(big[:4097]), cat(part(0x01, big[:4096]), part(0x80, "x")), binmsg(big[:126]), {0x81}, {0x81, 126, 1}, {0x82, 5, 1},
		cat(part(0x01, ""), part(0x00, ""), part(0x80, "")), part(0x8a, "x"), cat(part(0x01, "a"), bye), part(0xc9, ""), part(0xc8, ""),
		{0x81, 126, 0x30, 0x30}, // too big, and cut after the header
	}
	for code := range 20 {
		all = append(all, part(0x88, closing(uint16(995+code), "")))
	}
	return all
}

// FuzzAgainstTheLibrary gives the same bytes to both, in one piece and in several.
func FuzzAgainstTheLibrary(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s, uint8(0))
		f.Add(s, uint8(1))
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		if len(in) > 1<<14 {
			return
		}
		compare(t, in, int(piece), 1<<12)
	})
}

// FuzzRead shows that no input makes Receive panic, deliver text that is not UTF-8 or
// exceed the limit, and that cutting the stream into pieces changes nothing.
func FuzzRead(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s, uint8(1))
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		const limit = 1 << 10
		whole, cut := hear(&script{in: in}, limit), hear(&script{in: in, piece: int(piece)}, limit)
		if fmt.Sprint(whole) != fmt.Sprint(cut) {
			t.Errorf("whole %v\nin pieces of %d: %v", whole, piece, cut)
		}
		for _, m := range whole.messages {
			if len(m) > limit+2 || m[0] == 't' && strings.ToValidUTF8(m, "") != m {
				t.Errorf("delivered %q", m)
			}
		}
		ends := 0
		for i, f := range whole.sent {
			if f.first == 0x88 {
				ends++
				if i != len(whole.sent)-1 {
					t.Errorf("sent %v: something after the close frame", whole.sent)
				}
			}
			if f.first == 0x8a && len(f.payload) > maxControl {
				t.Error("pong of " + strconv.Itoa(len(f.payload)))
			}
		}
		if ends > 1 {
			t.Errorf("sent %v: two close frames", whole.sent)
		}
	})
}
