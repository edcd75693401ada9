package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
	"nhooyr.io/websocket"
)

// ticketServer gives out a ticket for a bearer, takes each ticket once, and then sends
// nothing.
type ticketServer struct {
	host   *limpettest.Host
	refuse func(w http.ResponseWriter, r *http.Request) bool // answers a request for a ticket instead

	mu       sync.Mutex
	valid    map[string]bool
	given    int
	requests []string // for a ticket: method, path, credential
	queries  []string // of the upgrades
	conns    []*websocket.Conn
}

func newTicketServer(t *testing.T) *ticketServer {
	s := &ticketServer{valid: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/ticket", s.give)
	mux.HandleFunc("/", s.upgrade)
	s.host = limpettest.NewHandler(t, mux, nil)
	return s
}

func (s *ticketServer) give(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
	if s.refuse != nil && s.refuse(w, r) {
		return
	}
	s.given++
	ticket := fmt.Sprintf("canary ticket/%d", s.given)
	s.valid[ticket] = true
	json.NewEncoder(w).Encode(map[string]any{"ticket": ticket, "data": map[string]any{"token": ticket}, "empty": "", "number": 7})
}

func (s *ticketServer) upgrade(w http.ResponseWriter, r *http.Request) {
	ticket := r.URL.Query().Get("ticket") + r.URL.Query().Get("token")
	s.mu.Lock()
	s.queries = append(s.queries, r.URL.RawQuery)
	ok := s.valid[ticket]
	s.valid[ticket] = false
	s.mu.Unlock()
	if !ok {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, "bad ticket %s in %s", ticket, r.URL)
		return
	}
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	s.mu.Lock()
	s.conns = append(s.conns, ws)
	s.mu.Unlock()
	for {
		if _, _, err := ws.Read(context.Background()); err != nil {
			return
		}
	}
}

// saw returns the requests for tickets and the queries of the upgrades.
func (s *ticketServer) saw() (requests, queries []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests), slices.Clone(s.queries)
}

// closeLast ends the last connection with a close frame.
func (s *ticketServer) closeLast(code int, reason string) {
	s.mu.Lock()
	ws := s.conns[len(s.conns)-1]
	s.mu.Unlock()
	ws.Close(websocket.StatusCode(code), reason)
}

func (s *ticketServer) ticketURL() string {
	return strings.Replace(s.host.URL(), "ws", "http", 1) + "/ticket"
}

// from is TicketFrom with the network of s.
func (s *ticketServer) from(o limpet.TicketOptions) func(context.Context, limpet.AttemptInfo) (url.Values, error) {
	o.HTTPClient = s.host.HTTPClient()
	return limpet.TicketFrom(s.ticketURL(), &o)
}

// start makes a client that speaks no protocol.
func (s *ticketServer) start(t *testing.T, query string, o limpet.Options) *limpet.Client {
	t.Helper()
	if o.Dialect == nil {
		o.Dialect = rawDialect{}
	}
	if o.HTTPClient == nil {
		o.HTTPClient = s.host.HTTPClient()
	}
	c, err := limpet.New(s.host.URL()+"/"+query, options(&o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAndWait(t, c) })
	return c
}

// bearer is an Auth with one token, as a header.
func bearer(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
	return limpet.Credential{Header: http.Header{"Authorization": {"Bearer canary-b"}}}, nil
}

// Each attempt asks for a ticket of its own, with the credential of Auth. It takes the
// place of what the URL has under its name, and nothing else in the URL changes.
func TestEachAttemptHasItsTicket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTicketServer(t)
		c := s.start(t, "?b=%7e&ticket=old&a=1&tick%65t=old", limpet.Options{Auth: bearer, Ticket: s.from(limpet.TicketOptions{})})
		for n := range 3 {
			if err := c.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			_, queries := s.saw()
			if want := fmt.Sprintf("b=%%7e&a=1&ticket=canary+ticket%%2F%d", n+1); len(queries) != n+1 || queries[n] != want {
				t.Fatalf("upgrades %q, want %q", queries, want)
			}
			s.closeLast(1001, "")
			time.Sleep(time.Second)
		}
		requests, _ := s.saw()
		if text := strings.Join(requests[:3], ", "); text != strings.Repeat("POST /ticket Bearer canary-b, ", 2)+"POST /ticket Bearer canary-b" {
			t.Errorf("%s", text)
		}
	})
}

// A ticket that the server refuses is replaced at once, and so is the credential.
func TestRefusedTicketIsReplaced(t *testing.T) {
	for name, withAuth := range map[string]bool{"with Auth": true, "alone": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTicketServer(t)
				var asked []string
				o := limpet.Options{Ticket: func(_ context.Context, info limpet.AttemptInfo) (url.Values, error) {
					asked = append(asked, fmt.Sprintf("ticket %d %v %v", info.Number, info.Refresh, info.Credential.Token != ""))
					if text := fmt.Sprintf("%+v %#v", info, info); strings.Contains(text, "canary") {
						t.Errorf("%s", text)
					}
					if !info.Refresh {
						return url.Values{"ticket": {"canary-old"}}, nil
					}
					s.mu.Lock()
					defer s.mu.Unlock()
					s.valid["canary-new"] = true
					return url.Values{"ticket": {"canary-new"}}, nil
				}}
				want := "ticket 1 false false, ticket 2 true false"
				if withAuth {
					o.Auth = func(_ context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
						asked = append(asked, fmt.Sprintf("auth %d %v", info.Number, info.Refresh))
						return limpet.Credential{Token: "canary-t"}, nil
					}
					want = "auth 1 false, ticket 1 false true, auth 2 true, ticket 2 true true"
				}
				at := time.Now()
				c := s.start(t, "", o)
				if err := c.WaitReady(t.Context()); err != nil || strings.Join(asked, ", ") != want {
					t.Errorf("%q: %v", asked, err)
				}
				if took := time.Since(at); took > 200*time.Millisecond {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// A refusal of the server that gives out tickets counts like one of the upgrade.
func TestRefusalOfTheTicketServer(t *testing.T) {
	for name, tc := range map[string]struct {
		status   int
		header   http.Header
		class    limpet.ErrorClass
		final    bool
		min, max time.Duration
	}{
		"401":         {401, nil, limpet.ClassAuth, false, 0, 200 * time.Millisecond},
		"403":         {403, nil, limpet.ClassAuth, true, 0, 0},
		"404":         {404, nil, limpet.ClassHTTP, true, 0, 0},
		"429 in 40 s": {429, http.Header{"Retry-After": {"40"}}, limpet.ClassOverload, false, 40 * time.Second, 44 * time.Second},
		"403 in 40 s": {403, http.Header{"Retry-After": {"40"}}, limpet.ClassAuth, false, 40 * time.Second, 44 * time.Second},
		"500":         {500, nil, limpet.ClassHTTP, false, 0, time.Second},
		"302":         {302, http.Header{"Location": {"/elsewhere"}}, limpet.ClassNotWebSocket, false, 7 * time.Second, 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTicketServer(t)
				s.refuse = func(w http.ResponseWriter, r *http.Request) bool {
					if len(s.requests) > 1 {
						return false
					}
					for k, v := range tc.header {
						w.Header()[k] = v
					}
					http.SetCookie(w, &http.Cookie{Name: "a", Value: "canary-cookie"})
					w.WriteHeader(tc.status)
					fmt.Fprintf(w, "canary-body")
					return true
				}
				at := time.Now()
				c := s.start(t, "", limpet.Options{Auth: bearer, Ticket: s.from(limpet.TicketOptions{})})
				st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
				var e *limpet.Error
				if err != nil || !errors.As(st.Cause, &e) || limpet.ClassOf(st.Cause) != tc.class || e.Code != tc.status {
					t.Errorf("class %q, code %d: %v", limpet.ClassOf(st.Cause), e.Code, st.Cause)
				}
				if text := fmt.Sprintf("%+v", st.Cause); strings.Contains(text, "canary") || !strings.Contains(text, "Options.Ticket: server answered") && tc.status != 302 {
					t.Errorf("%s", text)
				}
				err = c.WaitReady(t.Context())
				if took := time.Since(at); (err != nil) != tc.final || took < tc.min || took > tc.max {
					t.Errorf("after %v: %v", took, err)
				}
				if requests, _ := s.saw(); strings.Contains(fmt.Sprint(requests), "elsewhere") {
					t.Errorf("followed a redirect: %v", requests)
				}
			})
		})
	}
}

// A token server that Auth asks is left alone for the time that it names.
func TestRefusalOfTheTokenServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		at := time.Now()
		c := newClient(t, limpettest.NewServer(t, nil), limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			if calls++; calls == 1 {
				return limpet.Credential{}, fmt.Errorf("tokens: %w", &wire.StatusError{Status: 429, Header: http.Header{"Retry-After": {"40"}}})
			}
			return limpet.Credential{}, nil
		}})
		st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
		if text := fmt.Sprint(st.Cause); err != nil || limpet.ClassOf(st.Cause) != limpet.ClassOverload || !strings.Contains(text, "Options.Auth: server answered 429") {
			t.Errorf("%v", st.Cause)
		}
		if err := c.WaitReady(t.Context()); err != nil || time.Since(at) < 40*time.Second || calls != 2 {
			t.Errorf("after %v and %d calls: %v", time.Since(at), calls, err)
		}
	})
}

// A Ticket that fails costs its attempt, as Auth does.
func TestTicketThatFails(t *testing.T) {
	for name, tc := range map[string]struct {
		fault func(ctx context.Context) (url.Values, error)
		class limpet.ErrorClass
		says  string
		final bool
	}{
		"error":    {func(context.Context) (url.Values, error) { return nil, errors.New("no paper") }, limpet.ClassUser, "Options.Ticket: no paper", false},
		"panic":    {func(context.Context) (url.Values, error) { panic("broken") }, limpet.ClassUser, "Options.Ticket: panic: broken", false},
		"Goexit":   {func(context.Context) (url.Values, error) { runtime.Goexit(); return nil, nil }, limpet.ClassUser, "Options.Ticket: called runtime.Goexit", false},
		"hang":     {func(ctx context.Context) (url.Values, error) { <-ctx.Done(); return nil, ctx.Err() }, limpet.ClassUser, "not connected within Options.DialTimeout", false},
		"too long": {func(context.Context) (url.Values, error) { return url.Values{"t": {strings.Repeat("x", 8<<10)}}, nil }, limpet.ClassUser, "Options.Ticket: returned 8194 bytes; use 8192", false},
		"no name":  {func(context.Context) (url.Values, error) { return url.Values{"": {"canary"}}, nil }, limpet.ClassUser, "Options.Ticket: returned a value without a name", false},
		"final":    {func(context.Context) (url.Values, error) { return nil, limpet.Permanent(errClosedAccount) }, limpet.ClassAuth, "Options.Ticket: account closed", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTicketServer(t)
				calls := 0
				good := s.from(limpet.TicketOptions{})
				c := s.start(t, "", limpet.Options{Ticket: func(ctx context.Context, info limpet.AttemptInfo) (url.Values, error) {
					if calls++; calls == 1 {
						return tc.fault(ctx)
					}
					return good(ctx, info)
				}})
				st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
				if text := fmt.Sprint(st.Cause); err != nil || limpet.ClassOf(st.Cause) != tc.class || !strings.Contains(text, tc.says) || strings.Contains(text, "canary") {
					t.Errorf("class %q: %v", limpet.ClassOf(st.Cause), st.Cause)
				}
				if err := c.WaitReady(t.Context()); (err != nil) != tc.final {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// A Ticket that ignores its context is called once, and holds up neither attempts nor
// Close.
func TestHangingTicketHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTicketServer(t)
		release := make(chan struct{})
		var calls atomic.Int32
		c := s.start(t, "", limpet.Options{Ticket: func(context.Context, limpet.AttemptInfo) (url.Values, error) {
			calls.Add(1)
			<-release
			return nil, nil
		}})
		time.Sleep(5 * time.Minute)
		if n := calls.Load(); n != 1 || c.Stats().Attempts < 5 || !strings.Contains(fmt.Sprint(c.State().Cause), "Options.Ticket: an earlier call has not returned") {
			t.Errorf("%d calls, %d attempts: %v", n, c.Stats().Attempts, c.State().Cause)
		}
		at := time.Now()
		closeAndWait(t, c)
		if took := time.Since(at); took > 100*time.Millisecond {
			t.Errorf("Close took %v", took)
		}
		close(release)
	})
}

// TicketFrom says what is wrong with its arguments and with an answer, without the answer.
func TestTicketFrom(t *testing.T) {
	from := func(address string, o limpet.TicketOptions, s *ticketServer) (url.Values, error) {
		o.HTTPClient = s.host.HTTPClient()
		return limpet.TicketFrom(address, &o)(context.Background(), limpet.AttemptInfo{})
	}
	for name, tc := range map[string]struct {
		address string
		o       limpet.TicketOptions
		answer  string
		query   string
		says    string
	}{
		"default":             {"", limpet.TicketOptions{}, "", "ticket=canary+ticket%2F1", ""},
		"inner member":        {"", limpet.TicketOptions{Member: "data.token"}, "", "token=canary+ticket%2F1", ""},
		"parameter":           {"", limpet.TicketOptions{Member: "data.token", Parameter: "t"}, "", "t=canary+ticket%2F1", ""},
		"no member":           {"", limpet.TicketOptions{Member: "word"}, "", "", `the answer has no text at "word"`},
		"no inner member":     {"", limpet.TicketOptions{Member: "ticket.word"}, "", "", `the answer has no JSON object with "ticket.word"`},
		"empty":               {"", limpet.TicketOptions{Member: "empty"}, "", "", `no text at "empty"`},
		"number":              {"", limpet.TicketOptions{Member: "number"}, "", "", `no text at "number"`},
		"null":                {"", limpet.TicketOptions{}, `{"ticket":null,"canary":1}`, "", `no text at "ticket"`},
		"no JSON":             {"", limpet.TicketOptions{}, "<html>canary", "", "no JSON object"},
		"a list":              {"", limpet.TicketOptions{}, `["canary"]`, "", "no JSON object"},
		"long answer":         {"", limpet.TicketOptions{}, `{"ticket":"` + strings.Repeat("canary", 20000) + `"}`, "", "more than 65536 bytes"},
		"no URL":              {"canary\x00", limpet.TicketOptions{}, "", "", "TicketFrom: the URL must be https://"},
		"a WebSocket":         {"wss://canary.example", limpet.TicketOptions{}, "", "", "TicketFrom: the URL must be https://"},
		"user information":    {"https://me:canary@h.example", limpet.TicketOptions{}, "", "", "TicketFrom: user information"},
		"clear text":          {"http://h.example/x", limpet.TicketOptions{}, "", "", "TicketFrom: http:// to h.example would be sent unencrypted"},
		"two dots":            {"", limpet.TicketOptions{Member: "a..b"}, "", "", `TicketFrom: TicketOptions.Member is "a..b"`},
		"a header of its own": {"", limpet.TicketOptions{Header: func(context.Context, limpet.AttemptInfo) (http.Header, error) { return http.Header{"Host": {"x"}}, nil }}, "", "", "the header of the request: Host belongs"},
		"no header":           {"", limpet.TicketOptions{Header: func(context.Context, limpet.AttemptInfo) (http.Header, error) { return nil, errClosedAccount }}, "", "", "account closed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTicketServer(t)
				s.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
					w.Write([]byte(tc.answer))
					return tc.answer != ""
				}
				if tc.address == "" {
					tc.address = s.ticketURL()
				}
				values, err := from(tc.address, tc.o, s)
				if text := fmt.Sprint(err); values.Encode() != tc.query || !strings.Contains(text, tc.says) || strings.Contains(text, "canary") || (err == nil) != (tc.says == "") {
					t.Errorf("%q: %v", values.Encode(), err)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // what is wrong with the arguments ends a client
		s := newTicketServer(t)
		c := s.start(t, "", limpet.Options{Ticket: limpet.TicketFrom("ftp://h", nil)})
		var p *limpet.PermanentError
		if err := c.WaitReady(t.Context()); !errors.As(err, &p) || !strings.Contains(fmt.Sprint(err), "Options.Ticket: TicketFrom: the URL must be") {
			t.Errorf("%v", err)
		}
	})
}

// No ticket shows in a log, an error, an event, a state or the statistics, wherever the
// server, the transport or net/http repeats it.
func TestTicketIsNotRepeated(t *testing.T) {
	transport := func(err func(r *http.Request) error) *http.Client {
		return &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) { return nil, err(r) })}
	}
	for name, tc := range map[string]struct {
		client *http.Client
		strike func(s *ticketServer)
		says   string
	}{
		"a dialect":          {nil, nil, "cannot use ws://127.0.0.1:"},
		"a refusal":          {nil, nil, "bad ticket [secret] in /?[secret]"},
		"a transport":        {transport(func(r *http.Request) error { return fmt.Errorf("cannot reach %s", r.URL) }), nil, "cannot reach"},
		"an error with URL":  {transport(func(r *http.Request) error { return &url.Error{Op: "Get", URL: r.URL.String(), Err: errors.New("odd")} }), nil, "odd"},
		"a panic":            {transport(func(r *http.Request) error { panic(r.URL.String()) }), nil, "panic"},
		"a dial":             {&http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }}}, nil, "refused"},
		"a proxy":            {&http.Client{Transport: &http.Transport{Proxy: func(r *http.Request) (*url.URL, error) { return nil, errors.New(r.URL.String()) }}}, nil, "proxy unknown"},
		"a close reason":     {nil, func(s *ticketServer) { s.closeLast(4000, "used canary ticket/1, canary+ticket%2F1") }, "used [secret], [secret]"},
		"a cut close reason": {nil, func(s *ticketServer) { s.closeLast(4000, "used canary tick") }, "used [secret]"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTicketServer(t)
				var log, events lockedBuffer
				j := &judge{}
				o := limpet.Options{HTTPClient: tc.client, Verdict: j.verdict, AllowInsecure: true,
					Ticket: func(context.Context, limpet.AttemptInfo) (url.Values, error) {
						s.mu.Lock()
						defer s.mu.Unlock()
						s.valid["canary ticket/1"] = tc.strike != nil
						return url.Values{"ticket": {"canary ticket/1"}}, nil
					},
					Logger:   slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
					Observer: observer(func(e limpet.Event) { fmt.Fprintf(&events, "%+v %#v\n", e, e) }),
				}
				if tc.client != nil {
					tc.client.Jar, _ = cookiejar.New(nil)
				}
				if name == "a dialect" {
					o.Dialect = refusingDialect{}
				}
				c := s.start(t, "", o)
				if tc.strike != nil {
					if err := c.WaitReady(t.Context()); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					tc.strike(s)
				}
				st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				failures, _ := j.all()
				text := fmt.Sprintf("%+v %#v %v %+v %v %+v %s %s %v", st, st, st.Cause, c.Stats(), c.Err(), failures, log.String(), events.String(), c)
				var p *limpet.PanicError
				if errors.As(st.Cause, &p) {
					text = strings.ReplaceAll(text, fmt.Sprintf("%#v", p.Value), "") // what was passed to panic is the program's
				}
				if !strings.Contains(text, tc.says) || strings.Contains(strings.ReplaceAll(text, "%2F", "/"), "canary") {
					t.Errorf("cause %v; around it: %s", st.Cause, text[max(0, strings.Index(text, "canary")-200):][:400])
				}
			})
		})
	}
}

// refusingDialect repeats the URL.
type refusingDialect struct{ rawDialect }

func (refusingDialect) Attempt(a *wire.Attempt) error { return errors.New("cannot use " + a.URL) }
