package server_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/internal/fallback"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

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
	srv, s, gone := overHTTP2(t, time.Second)
	for range 400 { // more than the window of HTTP/2
		if _, err := srv.Publish(t.Context(), "a", make([]byte, 32<<10), nil); err != nil {
			t.Fatal(err)
		}
	}
	<-gone
	if st := srv.Stats(); st.Slow != 1 || st.Conns != 0 {
		t.Errorf("%+v", st)
	}
	s.resp.Body.Close()
}

// Options.WriteTimeout is for writes: a connection may be idle for longer.
func TestFallbackIsIdleOverHTTP2(t *testing.T) {
	srv, s, gone := overHTTP2(t, 500*time.Millisecond)
	select {
	case <-gone:
		t.Fatal("the answer has ended")
	case <-time.After(1500 * time.Millisecond):
	}
	if _, err := srv.Publish(t.Context(), "a", []byte(`"later"`), nil); err != nil {
		t.Fatal(err)
	}
	if first, _, err := s.next(); err != nil || first == 0x88 {
		t.Errorf("%x, %v", first, err)
	}
	if st := srv.Stats(); st.Slow != 0 || st.Conns != 1 {
		t.Errorf("%+v", st)
	}
	s.resp.Body.Close()
}

// overHTTP2 begins a connection over HTTP/2, with a subscription to a. gone is closed when its
// GET has ended.
func overHTTP2(t *testing.T, writeTimeout time.Duration) (srv *server.Server, s *stream, gone chan struct{}) {
	srv, err := server.New(&server.Options{WriteTimeout: writeTimeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	gone = make(chan struct{})
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		srv.ServeHTTP(w, r)
		if r.Method == http.MethodGet {
			close(gone)
		}
	}))
	web.EnableHTTP2 = true
	web.StartTLS()
	t.Cleanup(web.Close)
	s = &stream{r: &rig{t: t}, http: web.Client()}
	target, _ := url.Parse(web.URL)
	get := getRequest(nil)
	get.URL, get.Host = target, ""
	if s.resp, err = s.http.Do(get); err != nil {
		t.Fatal(err)
	}
	s.id, s.br = s.resp.Header.Get(fallback.HeaderConnection), bufio.NewReader(s.resp.Body)
	post := s.postRequest(1, bytes.NewReader(masked(helloFrame(), sub(1, "a", native.FromNew, 1<<20))))
	post.URL, post.Host = target, ""
	if status, code := s.do(post); status != 204 || s.resp.ProtoMajor != 2 {
		t.Fatalf("%s: %d %s", s.resp.Proto, status, code)
	}
	return srv, s, gone
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
