package test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// judge is an Options.Verdict that keeps what it was asked.
type judge struct {
	answer func(f wire.Failure, would wire.Verdict) wire.Verdict

	mu       sync.Mutex
	failures []wire.Failure
	would    []wire.Verdict
}

func (j *judge) verdict(f wire.Failure, would wire.Verdict) wire.Verdict {
	j.mu.Lock()
	j.failures, j.would = append(j.failures, f), append(j.would, would)
	j.mu.Unlock()
	if j.answer == nil {
		return would
	}
	return j.answer(f, would)
}

func (j *judge) asked() int {
	failures, _ := j.all()
	return len(failures)
}

func (j *judge) all() ([]wire.Failure, []wire.Verdict) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.failures), slices.Clone(j.would)
}

// always returns a Verdict that overrules everything.
func always(v wire.Verdict) func(wire.Failure, wire.Verdict) wire.Verdict {
	return func(wire.Failure, wire.Verdict) wire.Verdict { return v }
}

// A verdict of the caller counts for more than the dialect's, the tables and KeepTrying,
// and for less than an error made with Permanent.
func TestVerdictOverrules(t *testing.T) {
	stop, backOff, refresh := wire.Verdict{Action: wire.ActionStop}, wire.Verdict{Action: wire.ActionBackOff}, wire.Verdict{Action: wire.ActionRefresh}
	keep := limpet.Options{Backoff: limpet.Backoff{KeepTrying: true}}
	for name, tc := range map[string]struct {
		failure  failure
		options  limpet.Options
		verdict  wire.Verdict
		attempts int // after which the client ends; 0: it does not
	}{
		"a status that would stop":           {failure{status: 403}, limpet.Options{}, backOff, 0},
		"the dialect would stop":             {failure{code: 4003}, limpet.Options{}, backOff, 0},
		"a fatal error would stop":           {failure{text: fatalForbidden}, limpet.Options{}, backOff, 0},
		"no credential":                      {failure{status: 401}, limpet.Options{}, backOff, 0},
		"a violation":                        {failure{code: 1002}, limpet.Options{}, backOff, 0},
		"a certificate":                      {failure{err: errors.New("odd")}, limpet.Options{}, backOff, 0},
		"a status that would pass":           {failure{status: 503}, limpet.Options{}, stop, 1},
		"a time that the server names":       {failure{status: 503, header: http.Header{"Retry-After": {"5"}}}, limpet.Options{}, stop, 1},
		"KeepTrying":                         {failure{status: 403}, keep, stop, 1},
		"stop, and a time":                   {failure{status: 403}, limpet.Options{}, wire.Verdict{Action: wire.ActionStop, After: time.Minute}, 1},
		"the dialect would reconnect":        {failure{code: 4300}, limpet.Options{}, stop, 1},
		"a new credential without Auth":      {failure{status: 503}, limpet.Options{}, refresh, 1},
		"a new credential":                   {failure{status: 503}, withAuth, refresh, 2},
		"no opinion":                         {failure{status: 403}, limpet.Options{}, wire.Verdict{}, 1},
		"the opinion of the client":          {failure{status: 403}, limpet.Options{}, stop, 1},
		"no opinion, and violations count":   {failure{code: 1002}, limpet.Options{}, wire.Verdict{}, 3},
		"Permanent":                          {failure{auth: limpet.Permanent(errClosedAccount)}, withAuth, backOff, 1},
		"an error of Auth that is not final": {failure{auth: errClosedAccount}, withAuth, stop, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newFailingServer(t, func(int) *failure { return &tc.failure })
				j := &judge{answer: always(tc.verdict)}
				tc.options.Verdict = j.verdict
				c := s.start(t, tc.options)
				time.Sleep(30 * time.Minute)
				made := len(s.made())
				switch ended := c.State().Phase == limpet.Ended; {
				case ended != (tc.attempts > 0), ended && made != tc.attempts:
					t.Errorf("ended %v after %d attempts, want %d: %v", ended, made, tc.attempts, c.Err())
				case !ended && made < 20:
					t.Errorf("%d attempts only", made)
				}
				least, most := made, made
				if tc.attempts == 0 {
					least-- // the last attempt may be in progress
				}
				if name == "Permanent" {
					least, most = 0, 0
				}
				if n := j.asked(); n < least || n > most {
					t.Errorf("asked %d times about %d attempts", n, made)
				}
				var p *limpet.PermanentError
				if tc.attempts > 0 && (!errors.As(c.Err(), &p) || limpet.ClassOf(c.Err()) == limpet.ClassUser && name != "an error of Auth that is not final") {
					t.Errorf("%v", c.Err())
				}
			})
		})
	}
}

// Verdict learns what the client would do: once it was ready, another thing than before.
func TestVerdictLearnsWhatTheClientWouldDo(t *testing.T) {
	for name, tc := range map[string]struct {
		failure failure
		options limpet.Options
		ready   bool
		want    wire.Verdict
	}{
		"403":                  {failure{status: 403}, limpet.Options{}, false, wire.Verdict{Action: wire.ActionStop, Class: "auth"}},
		"403, once ready":      {failure{status: 403}, limpet.Options{}, true, wire.Verdict{Action: wire.ActionBackOff, Class: "auth"}},
		"403, keep trying":     {failure{status: 403}, limpet.Options{Backoff: limpet.Backoff{KeepTrying: true}}, false, wire.Verdict{Action: wire.ActionBackOff, Class: "auth"}},
		"503 with a time":      {failure{status: 503, header: http.Header{"Retry-After": {"7"}}}, limpet.Options{}, false, wire.Verdict{Action: wire.ActionBackOff, After: 7 * time.Second, Class: "overload"}},
		"401 without Auth":     {failure{status: 401}, limpet.Options{}, false, wire.Verdict{Action: wire.ActionStop, Class: "auth"}},
		"401 with Auth":        {failure{status: 401}, withAuth, false, wire.Verdict{Action: wire.ActionRefresh, Class: "auth"}},
		"of the dialect":       {failure{code: 4400}, limpet.Options{}, false, wire.Verdict{Action: wire.ActionNewSession, Class: "session"}},
		"the window":           {failure{code: 4302}, limpet.Options{}, false, wire.Verdict{Action: wire.ActionSpread, Class: "going_away"}},
		"1009":                 {failure{code: 1009}, limpet.Options{}, false, wire.Verdict{Action: wire.ActionBackOff, Class: "protocol", TooBig: true}},
		"an error of Auth":     {failure{auth: errClosedAccount}, withAuth, false, wire.Verdict{Action: wire.ActionBackOff, Class: "user"}},
		"a dial that fails":    {failure{err: errors.New("refused")}, limpet.Options{}, false, wire.Verdict{Action: wire.ActionBackOff, Class: "dial"}},
		"the first violation":  {failure{code: 1002}, limpet.Options{}, false, wire.Verdict{Action: wire.ActionBackOff, Class: "protocol"}},
		"a fatal error frame":  {failure{text: fatalForbidden}, limpet.Options{}, true, wire.Verdict{Action: wire.ActionStop, Class: "auth"}},
		"not even a WebSocket": {failure{status: 101}, limpet.Options{}, false, wire.Verdict{Action: wire.ActionStop, Class: "not_websocket"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				failing := !tc.ready
				s := newFailingServer(t, func(int) *failure {
					if failing {
						return &tc.failure
					}
					return nil
				})
				j := &judge{}
				tc.options.Verdict = j.verdict
				c := s.start(t, tc.options)
				n := 0
				if tc.ready {
					if err := c.WaitReady(t.Context()); err != nil {
						t.Fatal(err)
					}
					failing, n = true, 1
					s.breakConnection()
				}
				for j.asked() <= n {
					time.Sleep(100 * time.Millisecond)
				}
				failures, would := j.all()
				f, got := failures[n], would[n]
				if got != tc.want {
					t.Errorf("would %+v, want %+v", got, tc.want)
				}
				var e *limpet.Error
				if !errors.As(f.Err, &e) || string(e.Class) != got.Class || f.Attempt != n+1 || f.Status != max(0, tc.failure.status) {
					t.Errorf("%+v: %v", f, f.Err)
				}
			})
		})
	}
}

// What a verdict says is done: when, with which window, and under which class.
func TestVerdictIsObeyed(t *testing.T) {
	for name, tc := range map[string]struct {
		failure  failure
		verdict  wire.Verdict
		min, max time.Duration // of the wait before the second attempt
		class    limpet.ErrorClass
	}{
		"a time":                        {failure{status: 403}, wire.Verdict{Action: wire.ActionBackOff, After: time.Minute}, time.Minute, 66 * time.Second, limpet.ClassAuth},
		"a long time":                   {failure{status: 503}, wire.Verdict{After: 10 * time.Hour}, 10 * time.Hour, 11 * time.Hour, limpet.ClassOverload},
		"no earlier than the server":    {failure{status: 503, header: http.Header{"Retry-After": {"60"}}}, wire.Verdict{Action: wire.ActionRetryNow, After: 1}, time.Minute, 66 * time.Second, limpet.ClassOverload},
		"at once":                       {failure{status: 503}, wire.Verdict{Action: wire.ActionRetryNow}, 0, 100 * time.Millisecond, limpet.ClassOverload},
		"not at the cap":                {failure{status: 204}, wire.Verdict{Action: wire.ActionSpread, Spread: time.Second}, 0, time.Second, limpet.ClassNotWebSocket},
		"at the cap, under a class":     {failure{status: 204}, wire.Verdict{Class: "portal"}, 7500 * time.Millisecond, 15 * time.Second, "portal"},
		"a class of its own and a time": {failure{err: errors.New("x")}, wire.Verdict{Class: "lunch", After: time.Hour}, time.Hour, 66 * time.Minute, "lunch"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newFailingServer(t, func(n int) *failure {
					if n > 1 {
						return nil
					}
					return &tc.failure
				})
				c := s.start(t, limpet.Options{Verdict: always(tc.verdict)})
				st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
				if err != nil || limpet.ClassOf(st.Cause) != tc.class {
					t.Errorf("class %q: %v", limpet.ClassOf(st.Cause), st.Cause)
				}
				if err := c.WaitReady(t.Context()); err != nil {
					t.Fatal(err)
				}
				made := s.made()
				if wait := made[1].Sub(made[0]); wait < tc.min || wait > tc.max {
					t.Errorf("waited %v, want %v to %v", wait, tc.min, tc.max)
				}
			})
		})
	}
}

// A credential that the server has refused is not presented again unchanged, also where
// Verdict makes the client wait.
func TestVerdictKeepsTheRefusalInMind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Inject(limpettest.RefuseUpgrade(401, nil))
		var refresh []bool
		c := newClient(t, srv, limpet.Options{
			Verdict: always(wire.Verdict{Action: wire.ActionBackOff}),
			Auth: func(_ context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
				refresh = append(refresh, info.Refresh)
				return limpet.Credential{}, nil
			}})
		if err := c.WaitReady(t.Context()); err != nil || fmt.Sprint(refresh) != "[false true]" {
			t.Errorf("Auth was asked for a new credential: %v, %v", refresh, err)
		}
	})
}

// A Verdict that fails costs nothing but itself: the client does what it would do, and
// says what is wrong.
func TestVerdictThatFails(t *testing.T) {
	release := make(chan struct{})
	for name, tc := range map[string]struct {
		verdict func(wire.Failure, wire.Verdict) wire.Verdict
		says    string
	}{
		"panic":           {func(wire.Failure, wire.Verdict) wire.Verdict { panic("broken") }, "Options.Verdict: panic: broken"},
		"Goexit":          {func(wire.Failure, wire.Verdict) wire.Verdict { runtime.Goexit(); return wire.Verdict{} }, "Options.Verdict: called runtime.Goexit"},
		"hang":            {func(wire.Failure, wire.Verdict) wire.Verdict { <-release; return wire.Verdict{} }, "Options.Verdict: Verdict has not returned for 10s; it must not wait"},
		"unknown action":  {always(wire.Verdict{Action: 99}), "Options.Verdict: returned the unknown Action 99; use one of"},
		"negative time":   {always(wire.Verdict{Action: wire.ActionStop, After: -time.Second}), "Options.Verdict: returned After -1s"},
		"endless time":    {always(wire.Verdict{After: 1 << 62}), "Options.Verdict: returned After"},
		"negative window": {always(wire.Verdict{Action: wire.ActionSpread, Spread: -1}), "and Spread -1ns; use 0 to"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release = make(chan struct{})
				srv := limpettest.NewServer(t, nil)
				var failed []limpet.CallbackFailed
				var causes []error
				c := dial(t, srv, &limpet.Options{Verdict: tc.verdict, Observer: observer(func(e limpet.Event) {
					switch e := e.(type) {
					case limpet.CallbackFailed:
						failed = append(failed, e)
					case limpet.StateChanged:
						if e.State.Phase == limpet.Waiting {
							causes = append(causes, e.State.Cause)
						}
					}
				})})
				for range 2 {
					srv.Network.Strike(limpettest.CloseWith(4302, "", 0))
					time.Sleep(time.Minute)
					if err := c.WaitReady(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				if len(failed) != 2 || len(causes) != 2 {
					t.Fatalf("%d events, causes %v", len(failed), causes)
				}
				for i, cause := range causes {
					says := tc.says
					if name == "hang" && i > 0 {
						says = "Options.Verdict: an earlier call has not returned"
					}
					var hang *limpet.HangError
					switch text := fmt.Sprint(cause); {
					case !strings.Contains(text, says) || !strings.Contains(text, "closed the connection"):
						t.Errorf("cause %v", cause)
					case failed[i].Option != "Options.Verdict" || limpet.ClassOf(failed[i].Err) != limpet.ClassUser || !strings.Contains(failed[i].Err.Error(), says):
						t.Errorf("%+v", failed[i])
					case name == "hang" && i == 0 && (!errors.As(cause, &hang) || !strings.Contains(string(hang.Stack), "TestVerdictThatFails")):
						t.Errorf("no stack of the call: %v", cause)
					case name == "panic" && !errors.Is(cause, limpet.ErrPanic):
						t.Errorf("%v", cause)
					}
				}
				close(release)
			})
		})
	}
}

// Close does not wait for a Verdict that hangs.
func TestVerdictThatHangsDoesNotHoldUpClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		srv := limpettest.NewServer(t, nil)
		srv.Network.Each(func(int) limpettest.Fault { return limpettest.RefuseUpgrade(503, nil) })
		c := newClient(t, srv, limpet.Options{Verdict: func(_ wire.Failure, would wire.Verdict) wire.Verdict { <-release; return would }})
		time.Sleep(time.Second)
		at := time.Now()
		closeAndWait(t, c)
		if took := time.Since(at); took > 100*time.Millisecond || !errors.Is(c.Err(), limpet.ErrClosed) {
			t.Errorf("Close took %v: %v", took, c.Err())
		}
	})
}

// Verdict gets no credential of the client, wherever the peer repeats it, and no cookie.
func TestVerdictGetsNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &judge{answer: always(wire.Verdict{Action: wire.ActionBackOff})}
		n := 0
		host := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n++; n == 1 {
				w.Header().Set("X-Echo", r.Header.Get("Authorization")+" "+r.URL.String())
				http.SetCookie(w, &http.Cookie{Name: "sid", Value: "canary-cookie"})
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprintf(w, "not %v %v", r.Header.Get("Authorization"), r.URL)
			}
		}), nil)
		c, err := limpet.New(host.URL()+"/?key=canary-query", options(&limpet.Options{Dialect: rawDialect{}, HTTPClient: host.HTTPClient(), Verdict: j.verdict,
			Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				return limpet.Credential{Header: http.Header{"Authorization": {"Bearer canary-header"}}}, nil
			}}))
		if err != nil {
			t.Fatal(err)
		}
		defer closeAndWait(t, c)
		for j.asked() < 2 {
			time.Sleep(time.Second)
		}
		failures, _ := j.all()
		f := failures[0]
		text := fmt.Sprintf("%+v %s %s", failures, f.Body, f.Header)
		if f.Status != 403 || strings.Contains(text, "canary") || string(f.Body) != "not [secret] /?[secret]" || f.Header.Get("X-Echo") != "[secret] /?[secret]" {
			t.Errorf("%s", text)
		}
	})
}

// closedAtNight goes on where a gateway answers 403 for hours, which would end the client.
func closedAtNight(f wire.Failure, would wire.Verdict) wire.Verdict {
	if f.Status == http.StatusForbidden {
		return wire.Verdict{Action: wire.ActionBackOff} // wait as after any other failure
	}
	return wire.Verdict{} // do what the client would do
}

// The function that docs/ending.md shows: the client goes on after any number of 403, and ends at
// a 404 as ever.
func TestClosedAtNight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		night := make([]limpettest.Fault, 20)
		for i := range night {
			night[i] = limpettest.RefuseUpgrade(http.StatusForbidden, nil)
		}
		srv.Inject(append(night, limpettest.Clean(), limpettest.RefuseUpgrade(http.StatusNotFound, nil))...)
		o := &limpet.Options{HTTPClient: srv.HTTPClient(), Verdict: closedAtNight}
		c, err := limpet.New(srv.URL(), options(o))
		assert.NoError(t, err)
		defer closeAndWait(t, c)
		assert.NoError(t, c.WaitReady(t.Context()))
		if n := c.Stats().FailedAttempts.Of(limpet.ClassAuth); n != 20 {
			t.Errorf("%d attempts failed, want 20", n)
		}
		other, err := limpet.New(srv.URL(), options(o))
		assert.NoError(t, err)
		defer closeAndWait(t, other)
		if err := other.WaitReady(t.Context()); limpet.ClassOf(err) != limpet.ClassHTTP {
			t.Errorf("404: %v", err)
		}
	})
}

// What the program or the dialect calls final is final at all endpoints.
func TestAVerdictEndsAtTheFirstEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		for _, n := range c.nodes {
			n.status.Store(http.StatusBadGateway)
		}
		client := c.start(t, limpet.Options{Verdict: func(f wire.Failure, v wire.Verdict) wire.Verdict {
			v.Action = wire.ActionStop
			return v
		}})
		if err := client.WaitReady(t.Context()); err == nil || len(c.network.Dials()) != 1 {
			t.Errorf("after %d dials: %v", len(c.network.Dials()), err)
		}
	})
}
