package limpet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
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

// A lost connection has one warning, not one for each subscription: these have debug lines, with
// the reason.
func TestRecoveringIsNoWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		for _, topic := range []string{"a", "b", "c"} {
			subscribeLive(t, c, topic, nil)
		}
		srv.Network.CutAll()
		_, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 })
		assert.NoError(t, err)
		synctest.Wait()
		recovering := 0
		for line := range strings.Lines(out.String()) {
			if strings.Contains(line, "phase=recovering") {
				recovering++
				if !strings.HasPrefix(line[strings.Index(line, "level="):], "level=DEBUG") || !strings.Contains(line, "cause=") {
					t.Error(line)
				}
			}
		}
		if recovering != 3 || strings.Count(out.String(), "level=WARN") != 1 {
			t.Errorf("%d lines of subscriptions that recover:\n%s", recovering, out.String())
		}
	})
}

// A change of the connection that is planned, because the server asks for it or at an age, is no
// fault, and there is no line for each subscription: one line says that it comes, and one that it is made.
func TestPlannedChangeIsNoWarning(t *testing.T) {
	for name, test := range map[string]struct {
		limits wire.ConnectionLimits
		begin  func(*limpettest.Server)
		lines  []string
	}{
		"goaway": {begin: func(s *limpettest.Server) { s.Server.Drain(&server.DrainOptions{Spread: time.Second}) },
			lines: []string{`"limpet: the server asks for a new connection" code=4300 reason=going_away next=`, `"limpet: ready"`}},
		"age": {limits: wire.ConnectionLimits{Age: time.Hour}, lines: []string{`"limpet: ready"`}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out lockedBuffer
				srv := limpettest.NewServer(t, nil)
				c := dial(t, srv, &limpet.Options{Limits: test.limits, Logger: slog.New(slog.NewTextHandler(&out, nil))})
				for _, topic := range []string{"a", "b", "c"} {
					subscribeLive(t, c, topic, nil)
				}
				synctest.Wait()
				before := len(out.String())
				if test.begin != nil {
					test.begin(srv)
				}
				_, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation == 2 })
				assert.NoError(t, err)
				for _, s := range c.Subscriptions() {
					assert.NoError(t, s.WaitLive(t.Context()))
				}
				subscribeLive(t, c, "new", nil)
				synctest.Wait()
				text := out.String()[before:]
				lines := append(test.lines, `"limpet: subscription" topic=new phase=live`)
				for i, line := range slices.Collect(strings.Lines(text)) {
					if i >= len(lines) || !strings.Contains(line, "level=INFO msg="+lines[i]) {
						t.Fatalf("line %d, want %q:\n%s", i, lines, text)
					}
				}
				if n := strings.Count(text, "\n"); n != len(lines) {
					t.Errorf("%d lines, want %q:\n%s", n, lines, text)
				}
			})
		})
	}
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

// brokenHandler panics at every record, or ends its goroutine.
type brokenHandler struct {
	fault func()
	hits  *atomic.Int32
}

func (brokenHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h brokenHandler) Handle(context.Context, slog.Record) error {
	h.hits.Add(1)
	h.fault()
	return nil
}
func (h brokenHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h brokenHandler) WithGroup(string) slog.Handler      { return h }

type observerFunc func(limpet.Event)

func (f observerFunc) Observe(e limpet.Event) { f(e) }

// A logger and an observer that panic, end their goroutine or hang keep no event
// from each other, nor the next one from themselves.
func TestLoggerAndObserverAreGuarded(t *testing.T) {
	faults := map[string]func(){"panic": func() { panic("broken") }, "Goexit": runtime.Goexit, "none": func() {}}
	for name, inLogger := range faults {
		for other, inObserver := range faults {
			t.Run(name+" "+other, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var logged, observed atomic.Int32
					srv := limpettest.NewServer(t, nil)
					c := dial(t, srv, &limpet.Options{
						Logger: slog.New(brokenHandler{inLogger, &logged}),
						Observer: observerFunc(func(limpet.Event) {
							observed.Add(1)
							inObserver()
						}),
					})
					closeAndWait(t, c)
					synctest.Wait()
					if logged.Load() != observed.Load() || logged.Load() < 3 {
						t.Errorf("%d events logged, %d observed", logged.Load(), observed.Load())
					}
				})
			})
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var logged, observed atomic.Int32
		hang := make(chan struct{})
		c := dial(t, limpettest.NewServer(t, nil), &limpet.Options{
			Logger:   slog.New(brokenHandler{func() { <-hang }, &logged}),
			Observer: observerFunc(func(limpet.Event) { observed.Add(1) }),
		})
		closeAndWait(t, c)
		synctest.Wait()
		if logged.Load() != 1 || observed.Load() < 3 {
			t.Errorf("the logger hangs: %d events logged, %d observed", logged.Load(), observed.Load())
		}
		close(hang)
		synctest.Wait()
	})
}

// An outage is one warning; each of several outages has one. Ready has no cause.
func TestOutageIsOneWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Logger: slog.New(slog.NewTextHandler(&out, nil))})
		for range 5 {
			srv.Stop()
			time.Sleep(time.Minute)
			srv.Start()
			if err := c.WaitReady(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		closeAndWait(t, c)
		synctest.Wait()
		text := out.String()
		if n := strings.Count(text, `level=WARN msg="limpet: waiting"`); n != 5 || c.Stats().Attempts < 20 {
			t.Errorf("%d warnings for 5 outages of %d attempts:\n%s", n, c.Stats().Attempts, text)
		}
		if n := strings.Count(text, `"limpet: ready"`); n != 1 {
			t.Errorf("%d lines say ready, want the first only:\n%s", n, text)
		}
		if strings.Contains(text, " attempt=") || strings.Count(text, ` failures=`) != 5 { // attempts are dials, failures are in a row
			t.Errorf("two meanings of one word:\n%s", text)
		}
		summed := 0
		for line := range strings.Lines(text) {
			if strings.Contains(line, `level=INFO msg="limpet: live again" after=1m`) && strings.Contains(line, "gaps=0 missed=0") && !strings.Contains(line, "attempts=0") {
				summed++
			}
		}
		if summed != 5 {
			t.Errorf("%d outages are summed up:\n%s", summed, text)
		}
	})
}

// The event that ended an outage may be among those that a slow logger has lost. The
// next outage has its warning.
func TestLostEventsHideNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		gate := make(chan struct{}, 1)
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Logger: slog.New(slog.NewTextHandler(gatedWriter{&out, gate}, nil))})
		outage := func() {
			srv.Stop()
			time.Sleep(time.Minute)
			srv.Start()
			assert.NoError(t, c.WaitReady(t.Context()))
		}
		srv.Stop()
		time.Sleep(time.Minute)
		gate <- struct{}{}
		subscribe := func() {
			s, err := c.Subscribe(t.Context(), "a", nil)
			assert.NoError(t, err)
			s.Close()
			synctest.Wait()
		}
		subscribe() // the logger hangs
		srv.Start()
		assert.NoError(t, c.WaitReady(t.Context()))
		for range 1200 {
			subscribe()
		}
		synctest.Wait()
		<-gate
		time.Sleep(time.Minute)
		outage()
		closeAndWait(t, c)
		synctest.Wait()
		text := out.String()
		if !strings.Contains(text, "observer too slow") {
			t.Error("no event was lost: the test proves nothing")
		}
		if n := strings.Count(text, `level=WARN msg="limpet: waiting"`); n != 2 {
			t.Errorf("%d warnings for 2 outages:\n%s", n, text)
		}
	})
}

// gatedWriter waits while gate is full.
type gatedWriter struct {
	w    io.Writer
	gate chan struct{}
}

func (g gatedWriter) Write(p []byte) (int, error) {
	g.gate <- struct{}{}
	defer func() { <-g.gate }()
	return g.w.Write(p)
}

// What was silent has an event and a bounded number of lines: a message that
// failed, and a consumer that is too slow.
func TestSilentLossesAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		var failed, dropped, reports int
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Logger: slog.New(slog.NewTextHandler(&out, nil)), Observer: observerFunc(func(e limpet.Event) {
			switch e := e.(type) {
			case limpet.MessageFailed:
				failed++
				if e.Outcome != limpet.Expired || !errors.Is(e.Err, limpet.ErrExpired) || e.Topic != "a b" {
					t.Errorf("%+v", e)
				}
			case limpet.MessagesDropped:
				reports++
				dropped += int(e.Count)
			}
		})})
		s := subscribeLive(t, c, "slow one", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 4, Overflow: limpet.DropOldest}})
		for range 10 {
			publish(t, srv, "slow one", numbers(1, 20)...)
			time.Sleep(1100 * time.Millisecond)
		}
		synctest.Wait()
		if got := s.Stats().Dropped; got < 190 || reports != 11 || uint64(dropped) != got {
			t.Errorf("%d dropped, %d reported in %d events", got, dropped, reports)
		}
		srv.Stop()
		synctest.Wait()
		for range 50 {
			if _, err := c.Publish(context.Background(), "a b", nil, &limpet.PublishOptions{TTL: time.Second}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		closeAndWait(t, c)
		synctest.Wait()
		text := out.String()
		if n := strings.Count(text, "message failed"); failed != 50 || n != 10 || !strings.Contains(text, "suppressed=40") {
			t.Errorf("%d failed, %d lines:\n%s", failed, n, text)
		}
		if !strings.Contains(text, `topic="slow one"`) || strings.Contains(text, `\"`) {
			t.Errorf("topics are quoted twice:\n%s", text)
		}
	})
}

// What was dropped within a second of a report is reported after that second, although the
// feed has fallen silent, or when the stream ends.
func TestLastDropsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var reported []uint64
		srv := limpettest.NewServer(t, nil)
		c := dial(t, srv, &limpet.Options{Observer: observerFunc(func(e limpet.Event) {
			if e, ok := e.(limpet.MessagesDropped); ok {
				mu.Lock()
				reported = append(reported, e.Count)
				mu.Unlock()
			}
		})})
		check := func(when string, want ...uint64) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(reported, want) {
				t.Errorf("%s: reported %d, want %d", when, reported, want)
			}
		}
		s := subscribeLive(t, c, "a", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 4, Overflow: limpet.DropOldest}})
		for _, n := range []int{5, 10} {
			publish(t, srv, "a", numbers(1, n)...)
			synctest.Wait()
		}
		time.Sleep(999 * time.Millisecond)
		check("within a second", 1)
		time.Sleep(time.Millisecond)
		check("after a second", 1, 10)
		time.Sleep(time.Hour)
		for range 2 { // the second within a second of the first
			publish(t, srv, "a", "1")
			synctest.Wait()
		}
		s.Close()
		check("after Close", 1, 10, 1, 1)
		if st := s.Stats(); st.Dropped-st.DroppedByClose != 13 {
			t.Errorf("%+v", st)
		}
		time.Sleep(time.Hour)
		check("an hour later", 1, 10, 1, 1)
	})
}
