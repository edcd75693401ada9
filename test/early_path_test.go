package test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire/native"
)

// A path that refuses requests with the header costs an attempt for each reconnect, three times.
func TestPathThatRefusesTheAnnouncement(t *testing.T) {
	for name, refuse := range map[string]http.HandlerFunc{
		"431": func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "not allowed: "+r.Header.Get(native.HelloHeader), http.StatusRequestHeaderFieldsTooLarge)
		},
		"no answer": func(w http.ResponseWriter, _ *http.Request) {
			if nc, _, err := w.(http.Hijacker).Hijack(); err == nil {
				nc.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFront(t, 0, nil, func(_ *front, _ int, w http.ResponseWriter, r *http.Request) bool {
					refused := r.Header.Get(native.HelloHeader) != ""
					if refused {
						refuse(w, r)
					}
					return refused
				})
				var events lockedBuffer
				c := f.client(t, limpet.Options{
					Observer: observer(func(e limpet.Event) { fmt.Fprintf(&events, "%+v\n", e) }),
					Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) { // a header that is longer than what is read of a body
						return limpet.Credential{Token: limpet.Secret(strings.Repeat("x", 1<<10))}, nil
					},
				})
				s := subscribeLive(t, c, "a", nil)
				for generation := range uint64(5) {
					f.Network.CutAll()
					waitConnection(t, c, generation+2)
					f.publish(t, "a", "m")
					assert.Equal(t, payloads(collect(t, s, 1)), "m")
				}
				assert.Equal(t, f.announced(), "-+-+-+---")
				if name == "431" && !strings.Contains(events.String(), "not allowed: [secret]") {
					t.Errorf("events: %s", events.String())
				}
				for _, h := range f.hellos {
					if h != "" && strings.Contains(events.String(), h[:20]) {
						t.Error("a value of the header is in an event")
					}
				}
			})
		})
	}
}

// Over plain requests nothing is announced: the upgrade that is tried first may have the header.
func TestFallbackAnnouncesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFront(t, 0, nil, func(_ *front, _ int, w http.ResponseWriter, r *http.Request) bool {
			refused := r.Header.Get("Upgrade") != ""
			if refused {
				w.WriteHeader(http.StatusNotImplemented)
			} else if r.Header.Get(native.HelloHeader) != "" {
				t.Error("a plain request has the header")
			}
			return refused
		})
		c := f.client(t, limpet.Options{Fallback: true})
		s := subscribeLive(t, c, "a", nil)
		for generation := range uint64(2) {
			f.mu.Lock()
			f.hellos = nil
			f.mu.Unlock()
			time.Sleep(time.Minute) // the upgrade is tried again
			f.Network.CutAll()
			if st := waitConnection(t, c, generation+2); !st.Resumed || st.Transport != limpet.TransportHTTP {
				t.Errorf("%+v", st)
			}
			f.publish(t, "a", "1")
			assert.Equal(t, payloads(collect(t, s, 1)), "1")
			if got := f.announced(); strings.Count(got, "+") != 1 {
				t.Errorf("requests %q", got)
			}
		}
	})
}

// Only the host of the URL gets the announcement, and the caller cannot set its header.
func TestRedirectedAnnouncement(t *testing.T) {
	for location, want := range map[string]string{"http://b.test/v2": "+-", "/v2": "++"} {
		t.Run(location, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				moved := redirect(http.StatusFound, location)
				s.host(t, "a.test:80", func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/v2" {
						s.backend.ServeHTTP(w, r)
					} else {
						moved(w, r)
					}
				})
				s.host(t, "b.test:80", nil)
				c, err := limpet.Dial(withinAnHour(t), "ws://a.test/v1", options(&limpet.Options{
					HTTPClient: s.network.HTTPClient(), AllowInsecure: true, Redirects: limpet.Redirects{Hosts: []string{"b.test"}}, Backoff: limpet.Backoff{First: -1},
				}))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				s.network.CutAll()
				if st := waitConnection(t, c, 2); !st.Resumed {
					t.Errorf("%+v", st)
				}
				marks := ""
				for _, r := range s.asked[2:] {
					marks += map[bool]string{false: "-", true: "+"}[r.Header.Get(native.HelloHeader) != ""]
				}
				assert.Equal(t, marks, want)
			})
		})
	}
	_, err := limpet.New("wss://a.test", options(&limpet.Options{Header: http.Header{"limpet-hello": {"x"}}}))
	if err == nil || !strings.Contains(err.Error(), "belongs to the handshake") {
		t.Errorf("%v", err)
	}
}
