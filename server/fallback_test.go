package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/internal/fallback"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// stream is a connection over plain requests, as a client has it that does what a test wants.
type stream struct {
	r      *rig
	http   *http.Client
	header http.Header // of every request
	resp   *http.Response
	br     *bufio.Reader
	id     string
	number int // of the last POST
}

func (r *rig) plainClient() *http.Client {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return r.dial(ctx) }}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func getRequest(header http.Header) *http.Request {
	req, _ := http.NewRequest("GET", "http://localhost/", nil)
	req.Header.Set("Accept", fallback.MediaType)
	req.Header.Set(fallback.HeaderProtocol, native.Subprotocol(native.JSON))
	for k, v := range header {
		req.Header[k] = v
	}
	if host := header.Get("Host"); host != "" {
		req.Host = host
	}
	return req
}

// stream begins a connection. The request ends with the test.
func (r *rig) stream(header http.Header) *stream {
	r.t.Helper()
	s := &stream{r: r, http: r.plainClient(), header: header}
	resp, err := s.http.Do(getRequest(header))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { resp.Body.Close() })
	s.resp, s.br, s.id = resp, bufio.NewReader(resp.Body), resp.Header.Get(fallback.HeaderConnection)
	if resp.StatusCode != 200 || s.id == "" {
		r.t.Fatalf("%s without a stream: %v", resp.Status, resp.Header)
	}
	return s
}

// postRequest is the POST with a number.
func (s *stream) postRequest(number int, body io.Reader) *http.Request {
	req, _ := http.NewRequest("POST", "http://localhost/", body)
	req.Header.Set("Content-Type", fallback.MediaType)
	req.Header.Set(fallback.HeaderConnection, s.id)
	req.Header.Set(fallback.HeaderNumber, fmt.Sprint(number))
	for k, v := range s.header {
		req.Header[k] = v
	}
	return req
}

// do returns the status and the code of the answer to req.
func (s *stream) do(req *http.Request) (int, fallback.Code) {
	s.r.t.Helper()
	resp, err := s.http.Do(req)
	if err != nil {
		s.r.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.StatusCode, fallback.Code(resp.Header.Get(fallback.HeaderCode))
}

// send sends frames in one POST.
func (s *stream) send(frames ...native.Frame) {
	s.r.t.Helper()
	s.number++
	if status, code := s.do(s.postRequest(s.number, bytes.NewReader(masked(frames...)))); status != 204 {
		s.r.t.Fatalf("POST %d: %d %s", s.number, status, code)
	}
}

// masked returns a text message with frames, as a client sends it.
func masked(frames ...native.Frame) []byte {
	data, err := native.Append(nil, native.JSON, frames)
	if err != nil {
		panic(err)
	}
	return maskedBytes(0x81, data)
}

// maskedBytes returns a WebSocket frame with the mask 0.
func maskedBytes(first byte, data []byte) []byte {
	b := []byte{first, 0x80 | byte(min(len(data), 127))}
	switch {
	case len(data) >= 1<<16:
		b = binary.BigEndian.AppendUint64(b, uint64(len(data)))
	case len(data) >= 126:
		b = binary.BigEndian.AppendUint16([]byte{first, 0x80 | 126}, uint16(len(data)))
	}
	return append(append(b, 0, 0, 0, 0), data...)
}

// next reads one WebSocket frame of at most 64 KiB.
func (s *stream) next() (first byte, data []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(s.br, head[:]); err != nil {
		return 0, nil, err
	}
	size := int(head[1])
	if size == 126 {
		var long [2]byte
		_, err = io.ReadFull(s.br, long[:])
		size = int(binary.BigEndian.Uint16(long[:]))
	}
	data = make([]byte, size)
	if err == nil {
		_, err = io.ReadFull(s.br, data)
	}
	return head[0], data, err
}

// frames reads the frames of the next message.
func (s *stream) frames() []native.Frame {
	s.r.t.Helper()
	first, data, err := s.next()
	if err != nil || first != 0x81 {
		s.r.t.Fatalf("%#x %q: %v", first, data, err)
	}
	frames, err := native.Decode(nil, native.JSON, native.FromServer, data, native.DefaultLimits)
	if err != nil {
		s.r.t.Fatal(err)
	}
	return frames
}

func helloFrame() native.Frame {
	return native.Frame{Type: native.TypeHello, Hello: &native.Hello{CN: 1}}
}

// A connection over plain requests is one like any other. Its answer tells everything in
// between to pass it on as it comes.
func TestFallbackSpeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var seen http.Header
		r := newRig(t, &server.Options{Hooks: server.Hooks{Authenticate: func(_ context.Context, r *http.Request, _ string) (server.Principal, error) {
			mu.Lock()
			defer mu.Unlock()
			seen = r.Header.Clone()
			return server.Principal{ID: "x"}, nil
		}}})
		s := r.stream(http.Header{"Authorization": {"Bearer a"}})
		for k, want := range map[string]string{
			"Content-Type": fallback.MediaType, "Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no",
			fallback.HeaderProtocol: "limpet.v1.json", "X-Content-Type-Options": "nosniff",
		} {
			if got := s.resp.Header.Get(k); got != want {
				t.Errorf("%s: %q, want %q", k, got, want)
			}
		}
		if _, ok := fallback.ParseConnectionID(s.id); !ok {
			t.Errorf("the id is %q", s.id)
		}
		s.send(helloFrame())
		if f := s.frames(); f[0].Type != native.TypeWelcome {
			t.Fatalf("%v instead of welcome", show(f[0]))
		}
		mu.Lock()
		if seen.Get("Sec-WebSocket-Protocol") != "limpet.v1.json" || seen.Get("Upgrade") != "websocket" || seen.Get("Authorization") != "Bearer a" {
			t.Errorf("Authenticate has seen %v", seen)
		}
		mu.Unlock()
		s.send(sub(1, "a", native.FromNew, 10), msg(1, idOf(1), "a", "hello"))
		var types []native.Type
		for !slices.Contains(types, native.TypeMsg) || !slices.Contains(types, native.TypeAck) {
			for _, f := range s.frames() {
				types = append(types, f.Type)
			}
		}
		if st := r.srv.Stats(); st.Conns != 1 || st.Fallback != 1 || st.Accepted != 1 {
			t.Errorf("%+v", st)
		}
		// Silence: the server keeps the stream alive. A GET that ends takes the connection along.
		time.Sleep(21 * time.Second)
		if f := s.frames(); f[0].Type != native.TypePing {
			t.Errorf("%v instead of a ping", show(f[0]))
		}
		s.resp.Body.Close()
		synctest.Wait()
		if st := r.srv.Stats(); st.Conns != 0 || st.Fallback != 0 {
			t.Errorf("after the end of the GET: %+v", st)
		}
		if status, code := s.do(s.postRequest(s.number+1, strings.NewReader("x"))); status != 410 || code != fallback.Gone {
			t.Errorf("a POST after the end: %d %s", status, code)
		}
	})
}

// A GET is refused as an upgrade is.
func TestFallbackGetRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		header http.Header
		opt    server.Options
		status int
	}{
		"another host":      {http.Header{"Host": {"evil.example"}}, server.Options{}, 403},
		"a foreign page":    {http.Header{"Origin": {"https://evil.example"}}, server.Options{}, 403},
		"another protocol":  {http.Header{fallback.HeaderProtocol: {"graphql-ws"}}, server.Options{}, 400},
		"another type":      {http.Header{"Accept": {"text/html"}}, server.Options{}, 426},
		"no header of ours": {http.Header{fallback.HeaderProtocol: nil}, server.Options{}, 426}, // a page of another origin cannot set it
		"no fallback":       {nil, server.Options{MaxFallback: -1}, 426},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, &tc.opt)
				resp, err := r.plainClient().Do(getRequest(tc.header))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if st := r.srv.Stats(); resp.StatusCode != tc.status || st.Refused != 1 || st.Conns != 0 || st.Pending != 0 {
					t.Errorf("%s: %+v", resp.Status, st)
				}
			})
		})
	}
}

// Every POST that cannot be right is refused with its own status and code, and harms nothing.
func TestFallbackPostRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		s := r.stream(http.Header{"Authorization": {"Bearer a"}})
		s.send(helloFrame())
		s.frames()
		other := fallback.NewConnectionID(fallback.NewServerID()).String()
		unknown := s.id[:16] + other[16:]
		for name, tc := range map[string]struct {
			header http.Header
			body   io.Reader
			status int
			code   fallback.Code
		}{
			"another host":       {http.Header{"Host": {"evil.example"}}, nil, 403, ""},
			"a foreign page":     {http.Header{"Origin": {"https://evil.example"}}, nil, 403, ""},
			"an id in capitals":  {http.Header{fallback.HeaderConnection: {strings.ToUpper(s.id)}}, nil, 400, fallback.Malformed},
			"half an id":         {http.Header{fallback.HeaderConnection: {s.id[:20]}}, nil, 400, fallback.Malformed},
			"no number":          {http.Header{fallback.HeaderNumber: nil}, nil, 400, fallback.Malformed},
			"number 0":           {http.Header{fallback.HeaderNumber: {"0"}}, nil, 400, fallback.Malformed},
			"number 02":          {http.Header{fallback.HeaderNumber: {"02"}}, nil, 400, fallback.Malformed},
			"number -1":          {http.Header{fallback.HeaderNumber: {"-1"}}, nil, 400, fallback.Malformed},
			"number 2^64":        {http.Header{fallback.HeaderNumber: {"18446744073709551616"}}, nil, 400, fallback.Malformed},
			"a form":             {http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, nil, 400, fallback.Malformed},
			"an empty body":      {nil, strings.NewReader(""), 400, fallback.Malformed},
			"too long":           {nil, bytes.NewReader(make([]byte, fallback.MaxPost+1)), 413, fallback.TooBig},
			"too long, in parts": {nil, io.MultiReader(bytes.NewReader(make([]byte, fallback.MaxPost+1))), 413, fallback.TooBig},
			"another server":     {http.Header{fallback.HeaderConnection: {other}}, nil, 421, fallback.Misdirected},
			"another connection": {http.Header{fallback.HeaderConnection: {unknown}}, nil, 410, fallback.Gone},
			"another credential": {http.Header{"Authorization": {"Bearer b"}}, nil, 403, fallback.Forbidden},
			"no credential":      {http.Header{"Authorization": nil}, nil, 403, fallback.Forbidden},
			"a number too far":   {http.Header{fallback.HeaderNumber: {"3"}}, nil, 409, fallback.OutOfOrder},
			"taken before":       {http.Header{fallback.HeaderNumber: {"1"}}, nil, 204, ""},
		} {
			body := tc.body
			if body == nil {
				body = strings.NewReader("\x81\x80\x00\x00\x00\x00")
			}
			req := s.postRequest(2, body)
			for k, v := range tc.header {
				req.Header[k] = v
			}
			if host := tc.header.Get("Host"); host != "" {
				req.Host = host
			}
			if status, code := s.do(req); status != tc.status || code != tc.code {
				t.Errorf("%s: %d %q, want %d %q", name, status, code, tc.status, tc.code)
			}
		}
		// A body that ends early is not taken.
		conn, err := r.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		req := s.postRequest(2, nil)
		head := "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
		for k := range req.Header {
			head += k + ": " + req.Header.Get(k) + "\r\n"
		}
		if _, err := conn.Write([]byte(head + "\r\nhalf")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		conn.Close()
		synctest.Wait()
		s.send(msg(1, idOf(1), "a", "b")) // it is POST 2
		if f := s.frames(); f[0].Type != native.TypeAck {
			t.Errorf("%v instead of an ack", show(f[0]))
		}
		if st := r.srv.Stats(); st.Conns != 1 || st.Accepted != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// What the bytes of POSTs make is checked as on a WebSocket: the close code says what is wrong.
func TestFallbackHostileFrames(t *testing.T) {
	for name, tc := range map[string]struct {
		body []byte
		code uint16
	}{
		"not masked":              {[]byte("\x81\x02[]"), 1002},
		"a reserved bit":          {maskedBytes(0xc1, []byte("[]")), 1002},
		"an unknown opcode":       {maskedBytes(0x83, []byte("[]")), 1002},
		"a continuation":          {maskedBytes(0x80, []byte("[]")), 1002},
		"binary":                  {maskedBytes(0x82, []byte("[]")), native.CloseBadFrame},
		"no JSON":                 {maskedBytes(0x81, []byte("]")), native.CloseBadFrame},
		"no hello":                {masked(msg(1, idOf(1), "a", "b")), native.CloseProtocolError},
		"a size that never comes": {append([]byte("\x81\xff\x7f"), make([]byte, 100)...), 1009},
		"a message too long":      {maskedBytes(0x81, make([]byte, 1<<20)), 1009},
		"a big control frame":     {maskedBytes(0x89, make([]byte, 126)), 1002},
		"a fragmented control":    {maskedBytes(0x09, nil), 1002},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				s := r.stream(nil)
				number := 0
				for part := range slices.Chunk(tc.body, fallback.MaxPost) {
					number++
					if status, code := s.do(s.postRequest(number, bytes.NewReader(part))); status != 204 && code != fallback.Gone {
						t.Fatalf("the POST was answered %d", status)
					}
				}
				for {
					first, data, err := s.next()
					code := uint16(0)
					if first == 0x88 {
						code = binary.BigEndian.Uint16(data)
					}
					if (err != nil || first == 0x88) && code != tc.code {
						t.Errorf("close code %d, want %d: %v", code, tc.code, err)
					}
					if err != nil || first == 0x88 {
						break
					}
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if st := r.srv.Stats(); st.Conns != 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}
