package test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

// ending is what the hostile server does after its last byte, besides reading.
type ending int

const (
	stays  ending = iota // until the client closes
	hangUp               // FIN
	resets               // RST
)

// frameCase is one behaviour of a server and what the client must make of it.
type frameCase struct {
	name  string
	head  func(key string) string // the answer to the upgrade; nil: as it should be
	in    []byte                  // sent after it, in the same piece
	piece int                     // or this number of bytes at a time
	end   ending
	want  outcome

	// plain is what the library's frames make of it where that differs, and why
	// it is borne (docs/decisions/0001).
	plain *outcome
	why   string
}

// outcome is what came of one connection: what the consumer got, the frames
// that the client sent, the class of the cause of the end.
type outcome struct {
	messages []string
	sent     []string
	class    limpet.ErrorClass
}

func (o outcome) String() string {
	return fmt.Sprintf("delivered %q, sent %q, class %q", o.messages, o.sent, o.class)
}

func (o outcome) equal(p outcome) bool {
	return slices.Equal(o.messages, p.messages) && slices.Equal(o.sent, p.sent) && o.class == p.class
}

func TestHostileFrames(t *testing.T) {
	cases := frameCases()
	if len(cases) < 120 {
		t.Errorf("only %d cases", len(cases))
	}
	seen := map[string]bool{}
	for _, tc := range cases {
		if seen[tc.name] {
			t.Errorf("two cases are called %q", tc.name)
		}
		seen[tc.name] = true
		for _, plain := range bothFrameLayers() {
			want, path := tc.want, "own"
			if plain {
				path = "plain"
				if tc.plain != nil {
					want = *tc.plain
					if tc.why == "" || want.equal(tc.want) {
						t.Errorf("%s: a difference needs a reason, and to be one", tc.name)
					}
				}
			}
			t.Run(tc.name+"/"+path, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					if got := runFrameCase(t, tc, plain); !got.equal(want) {
						t.Errorf("%v\nwant %v", got, want)
					}
				})
			})
		}
	}
}

// runFrameCase runs a client against the server of tc until its first connection has
// ended at both ends.
func runFrameCase(t *testing.T, tc frameCase, plain bool) outcome {
	s := &hostileServer{t: t, tc: tc, ended: make(chan struct{})}
	host := limpettest.NewHandler(t, http.HandlerFunc(s.serve), nil)
	s.host = host
	host.Inject(limpettest.Stall(time.Millisecond)) // so that the subscription is there
	c, err := limpet.New(host.URL(), options(&limpet.Options{
		HTTPClient: host.HTTPClient(), Dialect: rawDialect{}, ReadLimit: hostileLimit, PlainFrames: plain,
		Backoff: limpet.Backoff{First: time.Minute, Initial: time.Minute, Max: time.Minute},
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer closeAndWait(t, c)
	sub, err := c.Subscribe(context.Background(), "x", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 1 << 20, Bytes: 1 << 30}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	began := time.Now()
	st, err := c.WaitState(ctx, func(s limpet.State) bool { return s.Cause != nil })
	if err != nil {
		t.Fatalf("the client never saw an end: %v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("noticed after %v", took)
	}
	if st.Generation > 0 && c.Stats().PlainFrames != plain {
		t.Errorf("Stats.PlainFrames is %v", !plain)
	}
	at := time.Now()
	<-s.ended
	if took := time.Since(at); took > 1100*time.Millisecond {
		t.Errorf("the connection was closed only %v later", took)
	}
	got := outcome{sent: s.sent(), class: limpet.ClassOf(st.Cause)}
	for n := sub.Stats().Received; n > 0; n-- {
		got.messages = append(got.messages, shorten(string(collect(t, sub, 1)[0].Payload)))
	}
	return got
}

// hostileServer serves one connection by the book of its case, and more only
// to refuse them.
type hostileServer struct {
	t     *testing.T
	tc    frameCase
	host  *limpettest.Host
	ended chan struct{}

	mu       sync.Mutex
	served   bool
	received bytes.Buffer
}

func (s *hostileServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	again := s.served
	s.served = true
	s.mu.Unlock()
	if again {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	nc, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		s.t.Error(err)
		return
	}
	defer nc.Close()
	head := upgradeResponse
	if s.tc.head != nil {
		head = s.tc.head
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() { s.send(nc, append([]byte(head(r.Header.Get("Sec-WebSocket-Key"))), s.tc.in...)) })
	b := make([]byte, 4096)
	for err == nil {
		var n int
		n, err = nc.Read(b)
		s.mu.Lock()
		s.received.Write(b[:n])
		s.mu.Unlock()
	}
	close(s.ended)
}

func (s *hostileServer) send(nc net.Conn, b []byte) {
	for len(b) > 0 {
		n := len(b)
		if s.tc.piece > 0 {
			n = min(n, s.tc.piece)
			time.Sleep(time.Millisecond)
		}
		if _, err := nc.Write(b[:n]); err != nil {
			return
		}
		b = b[n:]
	}
	switch s.tc.end {
	case hangUp:
		nc.(interface{ CloseWrite() error }).CloseWrite()
	case resets:
		time.Sleep(time.Millisecond) // what was sent has arrived
		s.host.Network.ResetAll()
	}
}

// sent takes apart what the client sent, as strictly as a server must.
func (s *hostileServer) sent() (frames []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.received.Bytes()
	for len(b) > 0 {
		if len(b) < 6 || b[1]&0x80 == 0 || int(b[1]&0x7f) > 125 || len(b) < 6+int(b[1]&0x7f) {
			return append(frames, fmt.Sprintf("rubbish %x", b))
		}
		n := int(b[1] & 0x7f)
		payload := bytes.Clone(b[6 : 6+n])
		for i := range payload {
			payload[i] ^= b[2+i%4]
		}
		switch {
		case b[0] == 0x88 && n >= 2:
			frames = append(frames, fmt.Sprint("close ", binary.BigEndian.Uint16(payload)))
		case b[0] == 0x88:
			frames = append(frames, "close")
		case b[0] == 0x8a:
			frames = append(frames, "pong "+shorten(string(payload)))
		default:
			frames = append(frames, fmt.Sprintf("%#x %q", b[0], payload))
		}
		b = b[6+n:]
	}
	return frames
}

// shorten shortens what repeats: a count of identical strings stays readable.
func shorten(s string) string {
	if len(s) < 60 {
		return s
	}
	return fmt.Sprintf("%s… of %d", strings.ToValidUTF8(s[:10], "?"), len(s))
}
