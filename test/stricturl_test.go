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
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// StrictURL keeps every credential out of the URL.
func TestStrictURL(t *testing.T) {
	strict := limpet.Options{StrictURL: true}
	for query, refused := range map[string]bool{
		"":                   false,
		"?room=a&v=2":        false,
		"?access_token=c":    true,
		"?a=1&API-Key=c":     true,
		"?Ticket=c":          true,
		"?X-Amz-Signature=c": true,
		"?pass%77ord=c":      true,
		"?token=c;d":         true, // url.Values does not have these two
		"?token=%zz":         true,
	} {
		_, err := limpet.New("wss://h.example/"+query, options(&limpet.Options{StrictURL: true, HTTPClient: &http.Client{}, Backoff: limpet.Backoff{First: time.Hour}}))
		var e *limpet.Error
		if refused != (err != nil) || refused && (!errors.As(err, &e) || e.Field != "url" || !strings.Contains(err.Error(), "Options.StrictURL") || strings.Contains(err.Error(), "=c")) {
			t.Errorf("%s: %v", query, err)
		}
	}
	strict.Ticket = limpet.TicketFrom("https://h.example", nil)
	_, err := limpet.New("wss://h.example", options(&strict))
	if e := (*limpet.Error)(nil); !errors.As(err, &e) || e.Field != "Options.Ticket" || e.Class != limpet.ClassInput {
		t.Errorf("%v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		host := limpettest.NewHandler(t, http.NotFoundHandler(), nil)
		d := changingDialect{change: func(a *wire.Attempt) { a.URL += "/?auth=canary" }}
		c, err := limpet.New(host.URL(), options(&limpet.Options{StrictURL: true, Dialect: d, HTTPClient: host.HTTPClient()}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
		if text := fmt.Sprint(st.Cause); err != nil || limpet.ClassOf(st.Cause) != limpet.ClassUser || !strings.Contains(text, `puts the query parameter "auth" into the URL`) || strings.Contains(text, "canary") {
			t.Errorf("%v", st.Cause)
		}
	})
}
