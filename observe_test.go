package limpet_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
)

// Everything above, in the log: what happened at its level, and no secret.
func TestLogging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		srv := limpettest.NewServer(t, nil)
		c, err := limpet.Dial(context.Background(), srv.URL()+"/?token=canary", options(&limpet.Options{
			HTTPClient: srv.HTTPClient(), Logger: logger,
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				return limpet.Credential{Token: "canary", Header: http.Header{"Authorization": {"canary"}}}, nil
			}}))
		if err != nil {
			t.Fatal(err)
		}
		subscribeLive(t, c, "a", nil)
		srv.Network.Strike(limpettest.CloseWith(4200, "line\nbreak", 0))
		synctest.Wait()
		if err := c.WaitReady(context.Background()); err != nil {
			t.Fatal(err)
		}
		srv.Network.Strike(limpettest.CloseWith(4003, "go", 0))
		<-c.Done()
		synctest.Wait()
		text := out.String()
		for _, want := range []string{
			`level=INFO msg="limpet: ready"`, `level=WARN msg="limpet: waiting"`, `level=ERROR msg="limpet: ended"`,
			`level=INFO msg="limpet: subscription"`, "class=overload", "class=auth",
			`level=WARN msg="limpet: credential in the URL, use Options.Auth"`,
		} {
			if !strings.Contains(text, want) {
				t.Errorf("the log lacks %s:\n%s", want, text)
			}
		}
		if n := strings.Count(text, `"limpet: ready"`); n != 2 {
			t.Errorf("two connections became ready, the log says so %d times:\n%s", n, text)
		}
		if strings.Contains(text, "canary") {
			t.Errorf("the log holds a secret:\n%s", text)
		}
		if strings.Contains(text, "line\nbreak") {
			t.Errorf("the log repeats a line break of the peer:\n%s", text)
		}
	})
}

// An ordered end is logged once, and ready is not logged a second time.
func TestShutdownInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
		subscribeLive(t, c, "a", nil)
		if err := c.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		text := out.String()
		if strings.Count(text, `"limpet: ready"`) != 1 || strings.Count(text, `"limpet: ended"`) != 1 || strings.Contains(text, "level=ERROR") {
			t.Errorf("%s", text)
		}
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
