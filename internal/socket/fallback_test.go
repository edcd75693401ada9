package socket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/limpet-go/limpet/internal/fallback"
	"github.com/limpet-go/limpet/wire"
)

// answers answers the GET with what a test chose, and takes each POST.
type answers struct {
	status int
	header http.Header
	body   []byte
}

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPost {
		_, _ = io.Copy(io.Discard, r.Body)
		return &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody}, nil
	}
	return &http.Response{StatusCode: a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body))}, nil
}

func dialFallback(rt http.RoundTripper, library bool) (*Conn, *wire.Failure) {
	var dials atomic.Int32
	r := NewRequests(context.Background(), &http.Client{Transport: rt}, false, &dials)
	defer r.End()
	return r.Fallback(&wire.Attempt{URL: "ws://localhost/", Header: http.Header{}, Subprotocols: []string{"limpet.v1.json"}}, Options{
		ReadLimit: 1 << 10, LibraryFrames: library, Go: func(f func()) bool { go f(); return true }, OnKill: func() {},
	})
}

// Whatever answers the GET, the client fails or reads messages within its limit until the end.
func FuzzFallbackAnswer(f *testing.F) {
	id := fallback.NewConnectionID(fallback.NewServerID()).String()
	f.Add(200, fallback.MediaType, id, "limpet.v1.json", []byte("\x81\x02[]\x89\x00\x88\x02\x03\xe8"))
	f.Add(200, fallback.MediaType, id, "", []byte("\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Add(200, "text/html", id, "limpet.v1.json", []byte("<html>"))
	f.Add(200, fallback.MediaType, "x", "limpet.v1.json", []byte("\x81\x02[]"))
	f.Add(101, fallback.MediaType, id, "limpet.v1.bin", []byte("\x01\x01[\x80\x01]"))
	f.Add(-1, "", "", "", []byte{})
	f.Fuzz(func(t *testing.T, status int, kind, id, protocol string, body []byte) {
		for _, library := range []bool{false, true} {
			c, failure := dialFallback(answers{status, http.Header{
				"Content-Type": {kind}, fallback.HeaderConnection: {id}, fallback.HeaderProtocol: {protocol},
			}, body}, library)
			if failure != nil {
				continue
			}
			if _, ok := fallback.ParseConnectionID(id); status != 200 || !ok || kind == "" {
				t.Fatalf("connected after %d %q with id %q", status, kind, id)
			}
			for {
				frames, err := c.Receive(false)
				for _, f := range frames {
					if len(f.Data) > 1<<10 {
						t.Fatalf("a message of %d bytes", len(f.Data))
					}
				}
				if err != nil {
					break
				}
			}
			c.Kill()
		}
	})
}

// An answer without an id, of another type or with another status is none of a server of the
// fallback; one that refuses says so itself.
func TestFallbackAnswers(t *testing.T) {
	id := fallback.NewConnectionID(fallback.NewServerID()).String()
	for status, spoken := range map[int]bool{200: false, 204: false, 400: false, 404: false, 405: false, 406: false, 426: false, 501: false,
		301: true, 401: true, 403: true, 429: true, 500: true, 502: true, 503: true} {
		header := http.Header{"Content-Type": {"text/plain"}, fallback.HeaderConnection: {id}}
		_, failure := dialFallback(answers{status, header, []byte("why")}, false)
		if failure == nil || failure.Stage != wire.StageUpgrade || failure.Status != status || string(failure.Body) != "why" {
			t.Fatalf("%d: %+v", status, failure)
		}
		if errors.Is(failure.Err, ErrNoFallback) == spoken {
			t.Errorf("%d: %v", status, failure.Err)
		}
	}
}

type panics struct{ on string }

func (p panics) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == p.on {
		panic("at once")
	}
	header := http.Header{"Content-Type": {fallback.MediaType}, fallback.HeaderConnection: {fallback.NewConnectionID(fallback.ServerID{}).String()},
		fallback.HeaderProtocol: {"limpet.v1.json"}}
	return &http.Response{StatusCode: 200, Header: header, Body: io.NopCloser(panicBody{})}, nil
}

type panicBody struct{}

func (panicBody) Read([]byte) (int, error) { panic("in the body") }

// A panic of the caller's transport is an error, on whichever goroutine it happens.
func TestFallbackPanics(t *testing.T) {
	_, failure := dialFallback(panics{"GET"}, false)
	var p *Panic
	if failure == nil || !errors.As(failure.Err, &p) || !strings.Contains(p.Where, "HTTPClient") {
		t.Errorf("in the GET: %+v", failure)
	}
	c, failure := dialFallback(panics{"POST"}, false)
	if failure != nil {
		t.Fatal(failure.Err)
	}
	defer c.Kill()
	if _, err := c.Receive(false); !errors.As(err, &p) {
		t.Errorf("in the body: %v", err)
	}
	for range 1000 { // the first ones may go before the POST has failed
		err := c.Send([]wire.Frame{{Type: wire.Text, Data: make([]byte, 1<<10)}})
		if errors.As(err, &p) {
			return
		}
	}
	t.Error("no error after a panic of a POST")
}
