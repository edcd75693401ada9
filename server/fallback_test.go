package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
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
	b := []byte{first, 0x80 | 127}
	b = binary.BigEndian.AppendUint64(b, uint64(len(data)))
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
		"not masked":              {[]byte("\x81\x02[]"), 0}, // the library ends it without a word, on a WebSocket too
		"a reserved bit":          {maskedBytes(0xc1, []byte("[]")), 1002},
		"an unknown opcode":       {maskedBytes(0x83, []byte("[]")), 1002},
		"a continuation":          {maskedBytes(0x80, []byte("[]")), 1002},
		"binary":                  {maskedBytes(0x82, []byte("[]")), native.CloseBadFrame},
		"no JSON":                 {maskedBytes(0x81, []byte("]")), native.CloseBadFrame},
		"no hello":                {masked(msg(1, idOf(1), "a", "b")), native.CloseProtocolError},
		"a size that never comes": {append([]byte("\x81\xff\x7f"), make([]byte, 100)...), native.CloseHelloTimeout},
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

// The limits of connections hold for those over plain requests too, and they have one of
// their own.
func TestFallbackLimits(t *testing.T) {
	for name, tc := range map[string]struct {
		opt server.Options
		fit int
	}{
		"MaxFallback": {server.Options{MaxFallback: 2}, 2}, "MaxConns": {server.Options{MaxConns: 3}, 3}, "MaxPending": {server.Options{MaxPending: 1}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, &tc.opt)
				var last *stream
				for range tc.fit {
					last = r.stream(nil)
				}
				resp, err := r.plainClient().Do(getRequest(nil))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if st := r.srv.Stats(); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || st.RefusedBusy != 1 {
					t.Errorf("%s %v: %+v", resp.Status, resp.Header, st)
				}
				last.resp.Body.Close()
				synctest.Wait()
				r.stream(nil) // there is room again
				// Without a HELLO it does not last.
				time.Sleep(6 * time.Second)
				synctest.Wait()
				if st := r.srv.Stats(); st.Conns != 0 || st.Fallback != 0 || int(st.NoHello) != tc.fit {
					t.Errorf("without HELLO: %+v", st)
				}
			})
		})
	}
}

// A POST is answered when the server has taken it, so a client cannot send more than a hook
// decides on: one POST waits to be read, and four may be in progress.
func TestFallbackBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		r := newRig(t, &server.Options{Hooks: server.Hooks{OnPublish: func(context.Context, server.Principal, server.Message) error {
			<-hold
			return nil
		}}})
		s := r.stream(nil)
		s.send(helloFrame())
		s.frames()
		s.send(msg(1, idOf(1), "a", "1")) // in the hook
		s.send(msg(2, idOf(2), "a", "2")) // waits to be read
		synctest.Wait()
		answers := make(chan int, 10)
		post := func(number int) {
			go func() {
				resp, err := s.http.Do(s.postRequest(number, bytes.NewReader(masked(msg(uint64(number)-1, idOf(uint64(number)-1), "a", "x")))))
				if err != nil {
					answers <- 0
					return
				}
				resp.Body.Close()
				answers <- resp.StatusCode
			}()
			synctest.Wait()
		}
		for range 4 {
			post(4) // one waits for room, and three for their turn
		}
		select {
		case status := <-answers:
			t.Errorf("answered %d before there was room", status)
		default:
		}
		if status, code := s.do(s.postRequest(4, bytes.NewReader(masked()))); status != 429 || code != fallback.TooMany {
			t.Errorf("the fifth: %d %s", status, code)
		}
		time.Sleep(20 * time.Second) // longer than WriteTimeout: a POST waits as long as the connection lasts
		close(hold)
		synctest.Wait()
		for range 4 {
			if status := <-answers; status != 204 {
				t.Errorf("answered %d", status)
			}
		}
		if st := r.srv.Stats(); st.Accepted != 3 || st.Conns != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// The end of the server, or of the connection, does not wait for POSTs and leaves none behind.
func TestFallbackEnds(t *testing.T) {
	for name, end := range map[string]func(r *rig, s *stream){
		"Close":      func(r *rig, _ *stream) { r.srv.Close() },
		"the client": func(_ *rig, s *stream) { s.resp.Body.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, &server.Options{Hooks: server.Hooks{OnPublish: func(ctx context.Context, _ server.Principal, _ server.Message) error {
					<-ctx.Done()
					return ctx.Err()
				}}})
				s := r.stream(nil)
				s.send(helloFrame())
				s.frames()
				s.send(msg(1, idOf(1), "a", "1"))
				s.send(msg(2, idOf(2), "a", "2"))
				done := make(chan int, 1)
				go func() {
					resp, err := s.http.Do(s.postRequest(4, bytes.NewReader(masked(msg(3, idOf(3), "a", "3")))))
					if err != nil {
						done <- 0
						return
					}
					resp.Body.Close()
					done <- resp.StatusCode
				}()
				synctest.Wait()
				began := time.Now()
				end(r, s)
				if status := <-done; status != 410 || time.Since(began) > hookGraceOfServer {
					t.Errorf("the POST that waited: %d after %v", status, time.Since(began))
				}
				time.Sleep(2 * hookGraceOfServer)
				synctest.Wait()
				if st := r.srv.Stats(); st.Fallback != 0 || st.Conns != 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

const hookGraceOfServer = time.Minute

// A client that does not read its answer is removed, as from a WebSocket.
func TestFallbackSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		s := r.stream(nil)
		s.send(helloFrame())
		s.frames()
		s.send(sub(1, "a", native.FromNew, 1<<20))
		s.frames()
		for range 300 {
			if _, err := r.srv.Publish(t.Context(), "a", make([]byte, 32<<10), nil); err != nil {
				t.Fatal(err)
			}
		}
		for range 20 { // heartbeats of the client: it lives, and does not read
			time.Sleep(time.Second)
			s.number++
			s.do(s.postRequest(s.number, bytes.NewReader(masked(native.Frame{Type: native.TypePing, N: 1}))))
		}
		synctest.Wait()
		if st := r.srv.Stats(); st.Slow != 1 || st.Conns != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// The same over HTTP/2, where a stalled write does not show as a timeout of the socket.
func TestFallbackSlowReaderOverHTTP2(t *testing.T) {
	srv, err := server.New(&server.Options{WriteTimeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	gone := make(chan struct{})
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		srv.ServeHTTP(w, r)
		if r.Method == http.MethodGet {
			close(gone)
		}
	}))
	web.EnableHTTP2 = true
	web.StartTLS()
	defer web.Close()
	s := &stream{r: &rig{t: t}, http: web.Client()}
	target, _ := url.Parse(web.URL)
	get := getRequest(nil)
	get.URL, get.Host = target, ""
	if s.resp, err = s.http.Do(get); err != nil {
		t.Fatal(err)
	}
	defer s.resp.Body.Close()
	s.id = s.resp.Header.Get(fallback.HeaderConnection)
	post := s.postRequest(1, bytes.NewReader(masked(helloFrame(), sub(1, "a", native.FromNew, 1<<20))))
	post.URL, post.Host = target, ""
	if status, code := s.do(post); status != 204 || s.resp.ProtoMajor != 2 {
		t.Fatalf("%s: %d %s", s.resp.Proto, status, code)
	}
	for range 400 { // more than the window of HTTP/2
		if _, err := srv.Publish(t.Context(), "a", make([]byte, 32<<10), nil); err != nil {
			t.Fatal(err)
		}
	}
	<-gone
	if st := srv.Stats(); st.Slow != 1 || st.Conns != 0 {
		t.Errorf("%+v", st)
	}
}

// Middlewares see the requests. One that hides what a stream needs makes an answer of its own,
// and a line in the log.
func TestFallbackBehindMiddlewares(t *testing.T) {
	for name, middleware := range map[string]func(http.Handler) http.Handler{
		"TimeoutHandler": func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Minute, "late") },
		"no deadlines": func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(struct{ http.ResponseWriter }{w}, r) })
		},
		"no Flush": func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(unflushed{w}, r) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				r := newRigBehind(t, &server.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))}, middleware)
				resp, err := r.plainClient().Do(getRequest(nil))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				synctest.Wait()
				if st := r.srv.Stats(); st.Conns != 0 || st.Fallback != 0 || st.RefusedRequest != 1 {
					t.Errorf("%s: %+v", resp.Status, st)
				}
				if resp.StatusCode != 500 && name != "no Flush" {
					t.Errorf("answered %s", resp.Status)
				}
				if log := out.String(); strings.Count(log, "level=ERROR") != 1 || !strings.Contains(log, "fallback") {
					t.Errorf("the log:\n%s", log)
				}
			})
		})
	}
}

// unflushed has everything but Flush.
type unflushed struct{ w http.ResponseWriter }

func (u unflushed) Header() http.Header         { return u.w.Header() }
func (u unflushed) Write(p []byte) (int, error) { return u.w.Write(p) }
func (u unflushed) WriteHeader(status int)      { u.w.WriteHeader(status) }
func (u unflushed) FlushError() error           { return errors.New("not supported") }
func (u unflushed) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(u.w).SetWriteDeadline(t)
}
func (u unflushed) SetReadDeadline(t time.Time) error {
	return http.NewResponseController(u.w).SetReadDeadline(t)
}

// Timeouts of the http.Server for ordinary requests do not cut the stream.
func TestFallbackOutlivesTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRigBehind(t, nil, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // as http.Server does
				control := http.NewResponseController(w)
				_ = control.SetReadDeadline(time.Now().Add(5 * time.Second))
				_ = control.SetWriteDeadline(time.Now().Add(5 * time.Second))
				h.ServeHTTP(w, r)
			})
		})
		s := r.stream(nil)
		s.send(helloFrame())
		s.frames()
		for range 10 {
			time.Sleep(10 * time.Second)
			s.send(native.Frame{Type: native.TypePing, N: 1})
			for s.frames()[0].Type != native.TypePong {
			}
		}
	})
}
