package server

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/fallback"
)

// answer is the answer to a GET, as far as the server looks at it.
type answer struct {
	header  http.Header
	flushed chan struct{}
	once    sync.Once
}

func (a *answer) Header() http.Header              { return a.header }
func (a *answer) Write(p []byte) (int, error)      { return len(p), nil }
func (a *answer) WriteHeader(int)                  {}
func (a *answer) Flush()                           { a.once.Do(func() { close(a.flushed) }) }
func (a *answer) SetReadDeadline(time.Time) error  { return nil }
func (a *answer) SetWriteDeadline(time.Time) error { return nil }

// Whatever POSTs bring, cut wherever it may be: the server answers each, and the connection
// ends with its GET.
func FuzzFallbackPosts(f *testing.F) {
	hello := []byte("\x81\x9e\x00\x00\x00\x00" + `[{"t":"hello","cn":1,"feat":0}]`)
	for _, body := range [][]byte{hello, hello[:9], append(hello[:len(hello):len(hello)], 0x89, 0x80, 0, 0, 0, 0), []byte("\x88\x82\x00\x00\x00\x00\x03\xe8"), {0xff, 0xff}} {
		f.Add(body, uint8(3), "1")
		f.Add(body, uint8(200), "7")
	}
	srv, err := New(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { srv.Close() })
	f.Fuzz(func(t *testing.T, body []byte, size uint8, number string) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		get := httptest.NewRequest("GET", "http://localhost/", nil).WithContext(ctx)
		get.Header.Set("Accept", fallback.MediaType)
		get.Header.Set(fallback.HeaderProtocol, "limpet.v1.json")
		a := &answer{header: http.Header{}, flushed: make(chan struct{})}
		done := make(chan struct{})
		go func() {
			defer close(done)
			srv.ServeHTTP(a, get)
		}()
		<-a.flushed
		post := func(number string, part []byte) int {
			r := httptest.NewRequest("POST", "http://localhost/", bytes.NewReader(part)).WithContext(ctx)
			r.Header.Set("Content-Type", fallback.MediaType)
			r.Header.Set(fallback.HeaderConnection, a.header.Get(fallback.HeaderConnection))
			r.Header.Set(fallback.HeaderNumber, number)
			w := httptest.NewRecorder()
			srv.ServeHTTP(w, r)
			return w.Code
		}
		if n, ok := fallback.ParseNumber(number); post(number, []byte{0x81}) == 204 && (!ok || n != 1) {
			t.Errorf("number %q was taken first", number)
		}
		step := int(size) + 1
		for i := 0; i < len(body) && i < 50*step; i += step {
			if code := post(strconv.Itoa(2+i/step), body[i:min(len(body), i+step)]); code != 204 && code != 409 && code != 410 {
				t.Errorf("answered %d", code)
			}
		}
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("the connection outlives its GET")
		}
	})
}
