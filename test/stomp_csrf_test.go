package test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire/stomp"
)

// A server with the security of Spring gives a token before each connection, and wants it
// in CONNECT, with the cookie that it belongs to in the upgrade.
func TestStompCSRF(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStompBroker(t)
		asked := 0
		b.page = func(w http.ResponseWriter, r *http.Request) {
			if asked++; r.Method != "GET" || r.Header.Get("X-App") != "heron" {
				t.Errorf("%s with %v", r.Method, r.Header)
			}
			http.SetCookie(w, &http.Cookie{Name: "SESSION", Value: fmt.Sprint("s", asked), Path: "/", HttpOnly: true})
			fmt.Fprintf(w, `{"headerName":"X-XSRF-TOKEN","parameterName":"_csrf","token":"t%d"}`, asked)
		}
		c := b.client(t, stomp.Options{CSRF: "/csrf"}, limpet.Options{Header: http.Header{"X-App": {"heron"}, "Cookie": {"SESSION=old; lang=en"}}})
		subscribeLive(t, c, "/queue/a", nil)
		b.cut(t, c)
		synctest.Wait()
		if got := strings.Join(b.cookies, ", "); got != "lang=en; SESSION=s1, lang=en; SESSION=s2" {
			t.Errorf("cookies %s", got)
		}
		for n := 1; n <= 2; n++ {
			if b.count(fmt.Sprintf("%d CONNECT", n), fmt.Sprint("X-XSRF-TOKEN:t", n)) != 1 {
				t.Errorf("connection %d has no token: %q", n, b.heard)
			}
		}
	})
}

// A token that is refused counts as a refused upgrade, and an answer without one names the
// option.
func TestStompCSRFRefused(t *testing.T) {
	for _, row := range []struct {
		status int
		body   string
		class  limpet.ErrorClass
		ends   bool
		text   string
		wait   time.Duration // between the first two attempts
	}{
		{503, "", limpet.ClassOverload, false, "503", 77 * time.Second},
		{403, "", limpet.ClassAuth, true, "403", 0},
		{200, "<html>", limpet.ClassUser, false, "Options.CSRF", 0},
	} {
		t.Run(fmt.Sprint(row.status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newStompBroker(t)
				var asked []time.Time
				b.page = func(w http.ResponseWriter, r *http.Request) {
					if asked = append(asked, time.Now()); len(asked) > 1 {
						fmt.Fprint(w, `{"token":"t"}`)
						return
					}
					if row.wait > 0 {
						w.Header().Set("Retry-After", "77")
					}
					w.WriteHeader(row.status)
					fmt.Fprint(w, row.body)
				}
				c := b.client(t, stomp.Options{CSRF: "/csrf"}, limpet.Options{})
				st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Waiting || s.Phase == limpet.Ended })
				if !row.ends {
					assert.NoError(t, err)
				}
				if cause := st.Cause; limpet.ClassOf(cause) != row.class || !strings.Contains(cause.Error(), row.text) {
					t.Errorf("class %s: %v", limpet.ClassOf(cause), cause)
				}
				err = c.WaitReady(t.Context())
				var permanent *limpet.PermanentError
				if errors.As(err, &permanent) != row.ends {
					t.Fatal(err)
				}
				if row.ends {
					return
				}
				synctest.Wait()
				if wait := asked[1].Sub(asked[0]); wait < row.wait || b.count("1 CONNECT", "X-CSRF-TOKEN:t") != 1 {
					t.Errorf("asked again after %v, then %q", wait, b.heard)
				}
			})
		})
	}
}
