package frame

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire"
)

const testLimit = 1 << 20

func cat(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

func text(s string) []byte             { return server(nil, 0x81, s) }
func binmsg(s string) []byte           { return server(nil, 0x82, s) }
func part(first byte, s string) []byte { return server(nil, first, s) }

var (
	bye     = server(nil, 0x88, closing(1000, "bye"))
	big     = strings.Repeat("x", 100_000)
	maximum = strings.Repeat("m", testLimit)
)

// codes lists the close frames' codes and every other frame whole.
func codes(frames []sent) (got []string) {
	for _, f := range frames {
		if f.first == 0x88 && len(f.payload) >= 2 {
			got = append(got, fmt.Sprintf("close %d", int(f.payload[0])<<8|int(f.payload[1])))
			continue
		}
		got = append(got, f.String())
	}
	return got
}

func TestRead(t *testing.T) {
	for name, tc := range map[string]struct {
		in   []byte
		want []string // messages
		sent []string
		code int // of the CodeError, or of the CloseError if negative; 0: the stream's end
	}{
		"one text":                       {cat(text("hello"), bye), []string{"t:hello"}, []string{"close 1000"}, -1000},
		"empty messages":                 {cat(text(""), binmsg(""), bye), []string{"t:", "b:"}, []string{"close 1000"}, -1000},
		"lengths at the borders":         {cat(binmsg(big[:125]), binmsg(big[:126]), binmsg(big[:65535]), binmsg(big[:65536]), bye), []string{"b:x*125", "b:x*126", "b:x*65535", "b:x*65536"}, []string{"close 1000"}, -1000},
		"as long as allowed":             {cat(text(maximum), bye), []string{fmt.Sprintf("t:m*%d", testLimit)}, []string{"close 1000"}, -1000},
		"one byte more":                  {text(maximum + "m"), nil, []string{"close 1009"}, 1009},
		"one byte more in fragments":     {cat(part(0x02, maximum), part(0x80, "m")), nil, []string{"close 1009"}, 1009},
		"messages before a violation":    {cat(text("a"), text("b"), []byte{0x83, 0}), []string{"t:a", "t:b"}, []string{"close 1002"}, 1002},
		"fragments":                      {cat(part(0x01, "a"), part(0x00, "b"), part(0x80, "c"), text("d"), bye), []string{"t:abc", "t:d"}, []string{"close 1000"}, -1000},
		"two fragmented in one buffer":   {cat(part(0x01, "a"), part(0x80, "b"), part(0x02, "c"), part(0x80, "d"), bye), []string{"t:ab", "b:cd"}, []string{"close 1000"}, -1000},
		"empty fragments":                {cat(part(0x01, ""), part(0x00, ""), part(0x80, ""), bye), []string{"t:"}, []string{"close 1000"}, -1000},
		"ping":                           {cat(part(0x89, "p"), text("a"), part(0x89, ""), bye), []string{"t:a"}, []string{`0x8a "p"`, `0x8a ""`, "close 1000"}, -1000},
		"ping between fragments":         {cat(part(0x01, "a"), part(0x89, "p"), part(0x80, "b"), bye), []string{"t:ab"}, []string{`0x8a "p"`, "close 1000"}, -1000},
		"unsolicited pong":               {cat(part(0x8a, "p"), text("a"), bye), []string{"t:a"}, []string{"close 1000"}, -1000},
		"longest ping":                   {cat(part(0x89, big[:125]), bye), nil, []string{"0x8a 125 bytes", "close 1000"}, -1000},
		"close between fragments":        {cat(part(0x01, "a"), bye), nil, []string{"close 1000"}, -1000},
		"close without code":             {part(0x88, ""), nil, []string{`0x88 ""`}, -1005},
		"data after close":               {cat(bye, text("a")), nil, []string{"close 1000"}, -1000},
		"second close":                   {cat(bye, part(0x88, closing(4000, ""))), nil, []string{"close 1000"}, -1000},
		"close of one byte":              {part(0x88, "\x03"), nil, []string{"close 1002"}, 1002},
		"close reason not UTF-8":         {part(0x88, closing(1000, "\xff")), nil, []string{"close 1007"}, 1007},
		"long close reason":              {part(0x88, closing(4999, big[:123])), nil, []string{"close 4999"}, -4999},
		"close too long":                 {part(0x88, closing(1000, big[:124])), nil, []string{"close 1002"}, 1002},
		"ping too long":                  {part(0x89, big[:126]), nil, []string{"close 1002"}, 1002},
		"fragmented ping":                {part(0x09, "a"), nil, []string{"close 1002"}, 1002},
		"fragmented close":               {part(0x08, closing(1000, "")), nil, []string{"close 1002"}, 1002},
		"continuation without a message": {part(0x80, "a"), nil, []string{"close 1002"}, 1002},
		"continuation after the end":     {cat(part(0x01, "a"), part(0x80, "b"), part(0x80, "c")), []string{"t:ab"}, []string{"close 1002"}, 1002},
		"text inside a message":          {cat(part(0x01, "a"), text("b")), nil, []string{"close 1002"}, 1002},
		"binary inside a message":        {cat(part(0x01, "a"), binmsg("b")), nil, []string{"close 1002"}, 1002},
		"RSV1":                           {part(0xc1, "a"), nil, []string{"close 1002"}, 1002},
		"RSV2":                           {part(0xa2, "a"), nil, []string{"close 1002"}, 1002},
		"RSV3 on a ping":                 {part(0x99, "a"), nil, []string{"close 1002"}, 1002},
		"RSV1 on a continuation":         {cat(part(0x01, "a"), part(0xc0, "b")), nil, []string{"close 1002"}, 1002},
		"masked":                         {[]byte{0x81, 0x81, 1, 2, 3, 4, 'a' ^ 1}, nil, []string{"close 1002"}, 1002},
		"masked and empty":               {[]byte{0x81, 0x80, 1, 2, 3, 4}, nil, []string{"close 1002"}, 1002},
		"masked ping":                    {[]byte{0x89, 0x80, 1, 2, 3, 4}, nil, []string{"close 1002"}, 1002},
		"length in 2 bytes, 1 needed":    {[]byte{0x82, 126, 0, 125}, nil, []string{"close 1002"}, 1002},
		"length in 8 bytes, 2 needed":    {[]byte{0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, nil, []string{"close 1002"}, 1002},
		"length 2^62":                    {[]byte{0x82, 127, 0x40, 0, 0, 0, 0, 0, 0, 0}, nil, []string{"close 1009"}, 1009},
		"length 2^63":                    {[]byte{0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0}, nil, []string{"close 1002"}, 1002},
		"length 2^63 - 1 in fragments":   {cat(part(0x02, "aa"), []byte{0x80, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), nil, []string{"close 1009"}, 1009},
		"text not UTF-8":                 {text("a\xff"), nil, []string{"close 1007"}, 1007},
		"binary need not be":             {cat(binmsg("a\xff"), bye), []string{"b:a\xff"}, []string{"close 1000"}, -1000},
		"character across fragments":     {cat(part(0x01, "a\xe2"), part(0x00, "\x82"), part(0x80, "\xac"), bye), []string{"t:a€"}, []string{"close 1000"}, -1000},
		"character cut at the end":       {cat(part(0x01, "a\xe2"), part(0x80, "\x82")), nil, []string{"close 1007"}, 1007},
		"surrogate across fragments":     {cat(part(0x01, "\xed"), part(0x00, "\xa0")), nil, []string{"close 1007"}, 1007},
		"beyond U+10FFFF":                {text("\xf4\x90\x80\x80"), nil, []string{"close 1007"}, 1007},
		"overlong":                       {text("\xc0\xaf"), nil, []string{"close 1007"}, 1007},
		"bad at once in a long fragment": {part(0x01, "\xff"+big), nil, []string{"close 1007"}, 1007},
		"end between messages":           {text("a"), []string{"t:a"}, nil, 0},
		"end inside a header":            {cat(text("a"), []byte{0x81}), []string{"t:a"}, nil, 0},
		"end inside a payload":           {cat(text("a"), []byte{0x81, 5, 'x'}), []string{"t:a"}, nil, 0},
		"end inside a ping":              {cat(text("a"), []byte{0x89, 5, 'x'}), []string{"t:a"}, nil, 0},
		"end between fragments":          {part(0x01, "a"), nil, nil, 0},
		"nothing":                        {nil, nil, nil, 0},
	} {
		for _, piece := range []int{0, 1, 2, 3, 7, 1000, 1024, 70_000} {
			if piece > 0 && len(tc.in)/piece > 20_000 {
				continue
			}
			t.Run(fmt.Sprintf("%s/pieces of %d", name, piece), func(t *testing.T) {
				h := hear(&script{in: tc.in, piece: piece}, testLimit)
				var got []string
				for _, m := range h.messages {
					got = append(got, short(m))
				}
				if !slices.Equal(got, tc.want) {
					t.Errorf("delivered %q, want %q", got, tc.want)
				}
				if sent := codes(h.sent); !slices.Equal(sent, tc.sent) {
					t.Errorf("sent %q, want %q", sent, tc.sent)
				}
				var refused *wire.CodeError
				var closed *CloseError
				switch {
				case tc.code > 0:
					if !errors.As(h.err, &refused) || int(refused.Code) != tc.code {
						t.Errorf("error %v, want code %d", h.err, tc.code)
					}
				case tc.code < 0:
					if !errors.As(h.err, &closed) || int(closed.Code) != -tc.code {
						t.Errorf("error %v, want close code %d", h.err, -tc.code)
					}
				default:
					want := io.EOF
					if name != "nothing" && name != "end between messages" {
						want = io.ErrUnexpectedEOF
					}
					if h.err != want {
						t.Errorf("error %v, want %v", h.err, want)
					}
				}
			})
		}
	}
}

func TestCloseCodes(t *testing.T) {
	for code := range 1 << 16 {
		valid := code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006 || code >= 3000 && code <= 4999
		err := ParseClose([]byte(closing(uint16(code), "")))
		var closed *CloseError
		if errors.As(err, &closed) != valid {
			t.Errorf("code %d: %v", code, err)
		}
	}
}

// Receive fails as soon as the violation is certain, not at the end of the message.
func TestBadTextIsSeenAtOnce(t *testing.T) {
	in := cat([]byte{0x01, 127, 0, 0, 0, 0, 0, 8, 0, 0}, []byte("good"), []byte{0xff})
	r := &oneByte{in: in}
	c := New(r, Options{ReadLimit: testLimit, Kill: func() {}})
	_, err := c.Receive(false)
	var refused *wire.CodeError
	if !errors.As(err, &refused) || refused.Code != 1007 || len(r.in) != 0 {
		t.Errorf("%v with %d bytes unread", err, len(r.in))
	}
}

// oneByte delivers one byte at a time, then an error that the test does not expect.
type oneByte struct{ in []byte }

func (o *oneByte) Read(p []byte) (int, error) {
	if len(o.in) == 0 {
		return 0, errors.New("more was read than needed")
	}
	p[0] = o.in[0]
	o.in = o.in[1:]
	return 1, nil
}
func (o *oneByte) Write(p []byte) (int, error) { return len(p), nil }

func TestReaderThatGivesNothing(t *testing.T) {
	c := New(emptyReader{}, Options{ReadLimit: testLimit, Kill: func() {}})
	_, err := c.Receive(false)
	assert.ErrorIs(t, err, io.ErrNoProgress)
}

type emptyReader struct{ io.Writer }

func (emptyReader) Read([]byte) (int, error) { return 0, nil }

// A claimed length alone allocates nothing: the peer must send a quarter of what it
// makes the client allocate.
func TestMemoryFollowsWhatCame(t *testing.T) {
	for _, first := range []byte{0x02, 0x82} {
		in := append([]byte{first, 127, 0, 0, 0, 0, 0x40, 0, 0, 0}, make([]byte, 100_000)...) // claims 1 GiB
		c := New(&script{in: in}, Options{ReadLimit: 1 << 31, Kill: func() {}})
		_, err := c.Receive(false)
		if err != io.ErrUnexpectedEOF || cap(c.in.msg) > 4*100_000 {
			t.Errorf("%v after which %d bytes are held", err, cap(c.in.msg))
		}
	}
}

func TestFloods(t *testing.T) {
	for name, tc := range map[string]struct {
		first, frame []byte
	}{
		"pings":          {nil, part(0x89, "p")},
		"pongs":          {nil, part(0x8a, "")},
		"empty parts":    {part(0x02, "a"), part(0x00, "")},
		"pings inside":   {part(0x02, "a"), part(0x89, "")},
		"pings and data": {nil, cat(part(0x89, ""), text("a"))},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = controlBudget
				h := hear(&script{in: cat(tc.first, bytes.Repeat(tc.frame, n))}, testLimit)
				if h.err != io.EOF && h.err != io.ErrUnexpectedEOF {
					t.Errorf("%d: %v", n, h.err)
				}
				h = hear(&script{in: cat(tc.first, bytes.Repeat(tc.frame, n+1))}, testLimit)
				var refused *wire.CodeError
				if !errors.As(h.err, &refused) || refused.Code != 1008 {
					t.Errorf("%d: %v", n+1, h.err)
				}
				// At a decent pace they may come for ever.
				c := New(&slow{frame: tc.frame, left: 5 * n, every: controlWindow / n}, Options{ReadLimit: testLimit, Kill: func() {}})
				if tc.first == nil {
					err := error(nil)
					for err == nil {
						_, err = c.Receive(false)
					}
					if err != io.EOF {
						t.Errorf("slowly: %v", err)
					}
				}
				synctest.Wait()
			})
		})
	}
}

type slow struct {
	frame []byte
	left  int
	every time.Duration
}

func (s *slow) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	s.left--
	<-time.After(s.every)
	return copy(p, s.frame), nil
}
func (s *slow) Write(p []byte) (int, error) { return len(p), nil }

// Messages of any size arrive unchanged, however the stream is cut.
func TestRandomStreams(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 40 {
		var in []byte
		var want []string
		for range 1 + rnd.IntN(30) {
			size := rnd.IntN(200)
			if rnd.IntN(5) == 0 {
				size = rnd.IntN(200_000)
			}
			b := make([]byte, size)
			for i := range b {
				b[i] = byte(rnd.Uint32())
			}
			op, body := byte(2), string(b)
			if rnd.IntN(2) == 0 {
				op, body = 1, strings.ToValidUTF8(body, "é")
			}
			want = append(want, show(wire.Frame{Type: wire.FrameType(op), Data: []byte(body)}))
			for parts := rnd.IntN(4); ; parts-- {
				if rnd.IntN(4) == 0 {
					in = server(in, 0x89, "ping")
				}
				if parts <= 0 {
					in = server(in, 0x80|op, body)
					break
				}
				n := rnd.IntN(len(body) + 1)
				in = server(in, op, body[:n])
				op, body = 0, body[n:]
			}
		}
		h := hear(&script{in: in, piece: rnd.IntN(3000)}, testLimit)
		if !slices.Equal(h.messages, want) || h.err != io.EOF {
			t.Fatalf("%d messages of %d, %v", len(h.messages), len(want), h.err)
		}
	}
}

// The large buffer is returned as soon as little arrives, or little is expected.
func TestParking(t *testing.T) {
	s := &script{}
	c := New(s, Options{ReadLimit: testLimit, Kill: func() {}})
	few := map[string]func() error{
		"little arrived": func() (err error) {
			for range parkAfter + 1 {
				s.in = text("few")
				_, err = c.Receive(false)
				assert.NoError(t, err)
			}
			return err
		},
		"Receive, idle": func() error {
			s.in = text("few")
			_, err := c.Receive(true)
			return err
		},
	}
	for name, few := range few {
		s.in = bytes.Repeat(text("a message"), 10_000)
		most := 0
		for n := 0; n < 10_000; {
			batch, err := c.Receive(false)
			assert.NoError(t, err)
			n += len(batch)
			most = max(most, len(batch))
		}
		if c.in.win == nil || most != windowBatch {
			t.Errorf("a busy connection has a window: %v; batches of up to %d", c.in.win != nil, most)
		}
		assert.NoError(t, few())
		if c.in.win != nil || cap(c.in.msg) > parkedSize {
			t.Errorf("%s: an idle connection keeps its window", name)
		}
	}
}

// A long message that arrived without a window leaves nothing behind either.
func TestNothingOfALongMessageIsKept(t *testing.T) {
	for _, size := range []int{windowSize / 2, windowSize, 2 * keptMessage} {
		s := &held{in: [][]byte{binmsg(strings.Repeat("x", size)), text("few")}}
		s.c = New(s, Options{ReadLimit: 2 * keptMessage, Kill: func() {}})
		for _, want := range []int{size, len("few")} {
			batch, err := s.c.Receive(true)
			assert.NoError(t, err)
			if len(batch) != 1 || len(batch[0].Data) != want {
				t.Fatalf("%d messages, want one of %d bytes", len(batch), want)
			}
		}
		if s.bytes > parkedSize {
			t.Errorf("after a message of %d bytes %d are held while the connection waits", size, s.bytes)
		}
	}
}

// held is a stream that delivers one piece after another and measures, before the
// last one, how much memory its reader holds.
type held struct {
	c     *Conn
	in    [][]byte
	bytes int
}

func (s *held) Read(p []byte) (int, error) {
	if len(s.in) == 1 && s.bytes == 0 {
		in := &s.c.in
		s.bytes = len(in.buf)
		if in.win != nil {
			s.bytes += windowSize
		}
		for _, f := range in.frames {
			s.bytes = max(s.bytes, cap(f.Data))
		}
		s.bytes = max(s.bytes, cap(in.msg))
	}
	n := copy(p, s.in[0])
	if s.in[0] = s.in[0][n:]; len(s.in[0]) == 0 {
		s.in = s.in[1:]
	}
	return n, nil
}
func (s *held) Write(p []byte) (int, error) { return len(p), nil }

// A message that is longer than the small buffer takes two reads. A series of such
// messages does not take and return the window for each.
func TestWindowStaysForMessagesOfMiddleSize(t *testing.T) {
	s := &pieces{}
	for range 20 {
		*s = append(*s, text(strings.Repeat("m", parkedSize*3/2)))
	}
	c := New(s, Options{ReadLimit: testLimit, Kill: func() {}})
	for i := range 20 {
		_, err := c.Receive(false)
		assert.NoError(t, err)
		if i > 0 && c.in.win == nil {
			t.Fatalf("message %d: no window", i)
		}
	}
}

func TestGrew(t *testing.T) {
	var reported []bool
	s := &pieces{text("a"), part(0x01, "b"), part(0x00, ""), part(0x00, ""), part(0x00, "c"), part(0x80, "d"), text("e"), text("f")}
	c := New(s, Options{ReadLimit: testLimit, Kill: func() {}, Grew: func(open bool) { reported = append(reported, open) }})
	for err := error(nil); err == nil; {
		_, err = c.Receive(false)
	}
	// b and c are growth, the empty fragments between them are not; d ends it.
	want := []bool{true, true, false}
	if !slices.Equal(reported, want) {
		t.Errorf("reported %v, want %v", reported, want)
	}
}

// pieces is a stream that delivers one piece per read.
type pieces [][]byte

func (s *pieces) Read(p []byte) (int, error) {
	if len(*s) == 0 {
		return 0, io.EOF
	}
	n := copy(p, (*s)[0])
	if (*s)[0] = (*s)[0][n:]; len((*s)[0]) == 0 {
		*s = (*s)[1:]
	}
	return n, nil
}
func (s *pieces) Write(p []byte) (int, error) { return len(p), nil }
