package native

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// What the header says is what Start says, in the encoding that is offered first.
func TestAttemptAnnounces(t *testing.T) {
	resume := wire.Resume{
		Conn: 9, Session: wire.Session{ID: "s", Key: []byte("key"), Epoch: 4}, Uplink: wire.Uplink{Lo: 3, Hi: 2, Tag: testID},
		Subs:      []wire.Subscribe{{Key: 1, Topic: "a", From: wire.FromNew, Credit: wire.Credit{N: 5, Bytes: 6}, Token: "t2"}},
		ReadLimit: 1 << 20, Heartbeat: time.Second,
	}
	for _, tt := range []struct {
		o   *Options
		enc Encoding
	}{{nil, Binary}, {&Options{Encoding: Binary}, Binary}, {&Options{Encoding: JSON}, JSON}} {
		a := wire.Attempt{Token: "canary", Resume: &resume}
		if err := New(tt.o).Attempt(&a); err != nil || len(a.Early) != 1 || a.Header != nil {
			t.Fatalf("%v, %v %v", a.Early, a.Header, err)
		}
		h := HelloOf(a.Early, tt.enc)
		if h == nil || h.Tok != "canary" || h.CN != 9 || len(h.Subs) != 1 {
			t.Fatalf("%+v", h)
		}
		if other := JSON + Binary - tt.enc; HelloOf(a.Early, other) != nil {
			t.Errorf("encoding %d is read as %d", tt.enc, other)
		}
		again := resume
		again.Token = "canary"
		var out wire.Frames
		if err := open(t, tt.enc, again).Start(&out); err != nil {
			t.Fatal(err)
		}
		if value := base64.RawURLEncoding.EncodeToString(out.List[0].Data); value != a.Early.Get(HelloHeader) {
			t.Errorf("the header has %q, Start says %q", a.Early.Get(HelloHeader), value)
		}
	}
	if a := (wire.Attempt{Token: "canary"}); New(nil).Attempt(&a) != nil || a.Early != nil {
		t.Errorf("announced without a session: %v", a.Early)
	}
	for size, fits := range map[int]bool{2900: true, 3072: false, MaxToken + 1: false} {
		a := wire.Attempt{Token: strings.Repeat("x", size), Resume: &resume}
		if err := New(nil).Attempt(&a); err != nil || (a.Early != nil) != fits {
			t.Errorf("a token of %d bytes: announced %t, %v", size, a.Early != nil, err)
		}
	}
}

// A header without a HELLO, and nothing else, counts as none.
func TestHelloOf(t *testing.T) {
	value := func(enc Encoding, frames ...Frame) string {
		data, err := Append(nil, enc, frames)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	hello, ping := Frame{Type: TypeHello, Hello: &Hello{CN: 7}}, Frame{Type: TypePing}
	long := Frame{Type: TypeHello, Hello: &Hello{CN: 7, Tok: strings.Repeat("x", 3072)}}
	for _, enc := range encodings {
		good := value(enc, hello)
		for name, values := range map[string][]string{
			"none": nil, "empty": {""}, "twice": {good, good}, "joined": {good + ", " + good}, "not base64": {good + "!"},
			"padded": {good + "=="}, "cut": {good[:len(good)-4]}, "nothing in it": {value(enc)}, "another frame": {value(enc, ping)},
			"two frames": {value(enc, hello, ping)}, "too long": {value(enc, long)}, "a frame of the server": {value(enc, Frame{Type: TypeWelcome, Welcome: &Welcome{}})},
		} {
			if h := HelloOf(http.Header{HelloHeader: values}, enc); h != nil {
				t.Errorf("encoding %d, %s: %+v", enc, name, h)
			}
		}
		if h := HelloOf(http.Header{HelloHeader: {good}}, enc); h == nil || h.CN != 7 {
			t.Errorf("encoding %d: %+v", enc, h)
		}
	}
}

// Whatever the header holds, a HELLO in it takes memory in proportion and can be encoded again.
func FuzzHelloOf(f *testing.F) {
	for _, seed := range []string{"", "CgQKAggB", "eyJ0IjoiaGVsbG8iLCJjbiI6MX0", "====", "////"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, enc := range encodings {
			h := HelloOf(http.Header{HelloHeader: {value}}, enc)
			if h == nil {
				continue
			}
			frames := []Frame{{Type: TypeHello, Hello: h}}
			if limit := 160*len(value) + 1024; len(value) > MaxHelloHeader || footprint(frames) > limit {
				t.Fatalf("%d bytes of a hello from %d", footprint(frames), len(value))
			}
			if _, err := Append(nil, enc, frames); err != nil {
				t.Fatal(err)
			}
		}
	})
}
