package admission_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/gateway/internal/admission"
	"github.com/limpet-go/limpet/server"
)

// held is a handler whose connections last until release is closed.
type held struct {
	admission *admission.Admission
	release   chan struct{}
	ids       []string // of the clients, in the order of their connections; the last one for all others

	mu   sync.Mutex
	errs []error
}

func (h *held) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	id := ""
	if len(h.ids) > 0 {
		id = h.ids[0]
		h.ids = h.ids[1:]
	}
	h.mu.Unlock()
	err := h.admission.Client(r.Context(), id)
	h.mu.Lock()
	h.errs = append(h.errs, err)
	h.mu.Unlock()
	if err == nil {
		<-h.release
	}
}

// connect begins a connection and returns the answer so far.
func connect(h http.Handler, remote, forwarded string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = remote
	if forwarded != "" {
		r.Header.Set("X-Forwarded-For", forwarded)
	}
	w := httptest.NewRecorder()
	go h.ServeHTTP(w, r)
	synctest.Wait()
	return w
}

// While the engine is away, new connections are refused with a time, and afterwards not.
func TestEngineAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := admission.New(admission.Limits{Rate: 10})
		h := &held{admission: a, release: make(chan struct{})}
		close(h.release)
		wrapped := a.Wrap(h)
		a.EngineAway(true)
		if w := connect(wrapped, "192.0.2.1:1", ""); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || a.Refused().Engine != 1 {
			t.Errorf("%d, %v, %+v", w.Code, w.Header(), a.Refused())
		}
		a.EngineAway(false)
		if w := connect(wrapped, "192.0.2.1:1", ""); w.Code != http.StatusOK {
			t.Errorf("when it is back: %d", w.Code)
		}
	})
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := admission.New(admission.Limits{Rate: 10})
		h := &held{admission: a, release: make(chan struct{})}
		wrapped := a.Wrap(h)
		refused := 0
		var last time.Duration
		for range 40 {
			if w := connect(wrapped, "192.0.2.1:1", ""); w.Code == http.StatusServiceUnavailable {
				refused++
				ms, err := strconv.Atoi(w.Header().Get("X-Limpet-Retry-Ms"))
				slot := time.Duration(ms) * time.Millisecond
				if err != nil || slot < last || slot < 500*time.Millisecond || w.Header().Get("Retry-After") == "" {
					t.Errorf("slot %v after %v, %v", slot, last, err)
				}
				last = slot
			}
		}
		if refused != 30 || a.Refused().Rate != 30 {
			t.Errorf("%d refused, %+v", refused, a.Refused())
		}
		// 30 clients at 7.5 a second.
		if last < 3500*time.Millisecond || last > 4500*time.Millisecond {
			t.Errorf("the last slot is after %v", last)
		}
		time.Sleep(time.Second)
		if w := connect(wrapped, "192.0.2.1:1", ""); w.Code != http.StatusOK {
			t.Errorf("after a second: %d", w.Code)
		}
		close(h.release)
	})
}

func TestAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := admission.New(admission.Limits{Rate: 100, PerAddress: 1, Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
		h := &held{admission: a, release: make(chan struct{})}
		wrapped := a.Wrap(h)
		for _, x := range []struct {
			remote, forwarded string
			want              int
		}{
			{"192.0.2.1:1", "", 200},
			{"192.0.2.1:2", "", 429},
			{"[::ffff:192.0.2.1]:3", "", 429},             // the same address
			{"192.0.2.1:4", "203.0.113.9", 429},           // not a proxy: its header does not count
			{"10.0.0.1:1", "192.0.2.1", 429},              // the client behind a proxy
			{"10.0.0.1:1", "192.0.2.2", 200},              // another client
			{"10.0.0.1:1", "1.1.1.1, 192.0.2.2", 429},     // what the client wrote itself does not count
			{"10.0.0.1:1", "192.0.2.3:77, 10.0.0.2", 200}, // two proxies
			{"10.0.0.1:1", "192.0.2.3", 429},
			{"[2001:db8::1]:1", "", 200},
			{"[2001:db8::2]:1", "", 429}, // the same network of 64 bits
			{"[2001:db8:0:1::1]:1", "", 200},
			{"10.0.0.1:1", "garbage", 200}, // counts for the proxy
			{"10.0.0.1:1", "", 429},
		} {
			if w := connect(wrapped, x.remote, x.forwarded); w.Code != x.want {
				t.Errorf("%s for %q: %d, want %d", x.remote, x.forwarded, w.Code, x.want)
			}
		}
		close(h.release)
		synctest.Wait()
		if w := connect(wrapped, "192.0.2.1:9", ""); w.Code != http.StatusOK {
			t.Errorf("after the end of the others: %d", w.Code)
		}
	})
}

func TestClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := admission.New(admission.Limits{Rate: 100, PerClient: 2})
		h := &held{admission: a, release: make(chan struct{}), ids: []string{"anna", "anna", "anna", "bob", "", "", ""}}
		wrapped := a.Wrap(h)
		for range 7 {
			connect(wrapped, "192.0.2.1:1", "")
		}
		for i, err := range h.errs {
			var refused *server.Error
			if is := errors.As(err, &refused) && refused.Code == 5; is != (i == 2) {
				t.Errorf("connection %d: %v", i+1, err)
			}
		}
		close(h.release)
		synctest.Wait()
		h.ids = []string{"anna"}
		if connect(wrapped, "192.0.2.1:1", ""); h.errs[len(h.errs)-1] != nil {
			t.Errorf("after the end of the others: %v", h.errs[len(h.errs)-1])
		}
	})
}

// A new credential on the same connection takes no second place.
func TestClientTwice(t *testing.T) {
	a := admission.New(admission.Limits{Rate: 100, PerClient: 1})
	calls := 0
	a.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		for range 3 {
			calls++
			if err := a.Client(r.Context(), "anna"); err != nil {
				t.Error(err)
			}
		}
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if calls != 3 {
		t.Error("the handler was not called")
	}
}

func TestPublishRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := admission.New(admission.Limits{Rate: 100, Publish: 100})
		a.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			began := time.Now()
			for range 600 {
				if err := a.Publish(r.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if took := time.Since(began); took < 4900*time.Millisecond || took > 5100*time.Millisecond {
				t.Errorf("600 messages at 100 in a second took %v", took)
			}
			ctx, cancel := context.WithCancel(r.Context())
			cancel()
			if err := a.Publish(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("with an ended context: %v", err)
			}
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	})
}
