package test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
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
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/feed"
	"github.com/limpet-go/limpet/wire/raw"
	"nhooyr.io/websocket"
)

// A presentation is a way in which a server wants a credential.
type presentation struct {
	options limpet.Options
	read    func(r *http.Request) string // of the upgrade; nil: the first message has it
	refuse  int                          // HTTP status, or close code
	cookie  bool                         // the server gives it out with its refusals
	want    string                       // what the server sees
}

// bearerSubprotocol is how Kubernetes takes a token from a browser.
const bearerSubprotocol = "base64url.bearer.authorization.k8s.io."

// tokenOf is an Auth whose n-th credential is made of "canary-n".
func tokenOf(credential func(secret string) limpet.Credential) func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
	n := 0
	return func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
		n++
		return credential(fmt.Sprint("canary-", n)), nil
	}
}

// asToken is a credential for the handshake of a dialect.
func asToken(secret string) limpet.Credential { return limpet.Credential{Token: limpet.Secret(secret)} }

// presentations are those of docs/credentials.md.
func presentations() map[string]presentation {
	const each = "canary-1 canary-2 canary-3" // a fresh one for each attempt
	tickets := 0
	table, _ := feed.New(feed.Table{
		Name: "bay", Type: "event", Product: "symbol", Subscribe: feed.Request{JSON: `{"op":"subscribe","symbols":["$product","..."]}`},
		Channels: []feed.Channel{{Name: "trades", Types: []string{"trade"}}},
		Login:    feed.Login{Accepted: "welcome", Message: func(token string, _ []byte) ([]byte, error) { return []byte("login " + token), nil }},
	})
	return map[string]presentation{
		"header": {limpet.Options{Dialect: raw.New(raw.Options{}), Auth: tokenOf(func(secret string) limpet.Credential {
			return limpet.Credential{Header: http.Header{"Authorization": {"Bearer " + secret}}}
		})}, func(r *http.Request) string { return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") }, 401, false, each},
		"first message": {limpet.Options{Auth: tokenOf(asToken), Dialect: raw.New(raw.Options{OnOpen: func(r wire.Resume) [][]byte {
			return [][]byte{[]byte("login " + r.Token)}
		}})}, nil, 1008, false, each},
		"login of a table": {limpet.Options{Auth: tokenOf(asToken), Dialect: table}, nil, 1008, false, each},
		"subprotocol": {limpet.Options{Dialect: raw.New(raw.Options{Subprotocols: []string{"v4.channel"}}), Auth: tokenOf(func(secret string) limpet.Credential {
			return limpet.Credential{Subprotocols: []string{bearerSubprotocol + base64.RawURLEncoding.EncodeToString([]byte(secret+"-0123456"))}}
		})}, func(r *http.Request) string {
			_, code, _ := strings.Cut(r.Header.Get("Sec-WebSocket-Protocol"), "v4.channel,"+bearerSubprotocol)
			plain, _ := base64.RawURLEncoding.DecodeString(code)
			return string(plain)
		}, 401, false, "canary-1-0123456 canary-2-0123456 canary-3-0123456"},
		"cookie": {limpet.Options{Dialect: raw.New(raw.Options{})}, func(r *http.Request) string {
			if c, err := r.Cookie("sid"); err == nil {
				return c.Value
			}
			return "none"
		}, 503, true, "none canary-1 canary-1 canary-2"},
		"ticket": {limpet.Options{Dialect: raw.New(raw.Options{}), Ticket: func(context.Context, limpet.AttemptInfo) (url.Values, error) {
			tickets++
			return url.Values{"ticket": {fmt.Sprint("canary-", tickets)}}, nil
		}}, func(r *http.Request) string { return r.URL.Query().Get("ticket") }, 401, false, each},
	}
}

// presentationServer refuses what it sees second, or what it did not give out.
type presentationServer struct {
	presentation
	mu   sync.Mutex
	seen []string
	conn *websocket.Conn
}

// refuses reports whether it refuses a credential, and gives out another one then.
func (s *presentationServer) refuses(credential string, w http.ResponseWriter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, credential)
	if !s.cookie {
		return len(s.seen) == 2
	}
	if len(s.seen)%2 == 0 {
		return false
	}
	http.SetCookie(w, &http.Cookie{Name: "sid", Value: fmt.Sprint("canary-", len(s.seen)/2+1)})
	return true
}

func (s *presentationServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.read != nil {
		if credential := s.read(r); s.refuses(credential, w) {
			w.WriteHeader(s.refuse)
			fmt.Fprintf(w, "bad credential %s %v", credential, r.Header)
			return
		}
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"v4.channel"}})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	if s.read == nil {
		_, login, _ := ws.Read(context.Background())
		credential := strings.TrimPrefix(string(login), "login ")
		if s.refuses(credential, w) {
			ws.Close(websocket.StatusCode(s.refuse), "bad credential "+credential)
			return
		}
		ws.Write(context.Background(), websocket.MessageText, []byte(`{"event":"welcome"}`))
	}
	s.mu.Lock()
	s.conn = ws
	s.mu.Unlock()
	for {
		if _, _, err := ws.Read(context.Background()); err != nil {
			return
		}
	}
}

func (s *presentationServer) saw() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.seen, " ")
}

// Each way to present a credential works from end to end: a fresh one for each attempt,
// another one at once after a refusal, and none of them in what the client says.
func TestPresentations(t *testing.T) {
	for name, p := range presentations() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &presentationServer{presentation: p}
				host := limpettest.NewHandler(t, s, nil)
				o := p.options
				o.HTTPClient = host.HTTPClient()
				o.HTTPClient.Jar, _ = cookiejar.New(nil)
				var log, events lockedBuffer
				o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
				o.Observer = observer(func(e limpet.Event) { fmt.Fprintf(&events, "%+v\n", e) })
				c, err := limpet.New(host.URL(), options(&o))
				assert.NoError(t, err)
				defer closeAndWait(t, c)
				assert.NoError(t, c.WaitReady(t.Context()))
				time.Sleep(time.Minute) // stable
				s.mu.Lock()
				conn := s.conn
				s.mu.Unlock()
				conn.Close(1001, "")
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if st := c.State(); s.saw() != p.want || st.Phase != limpet.Ready {
					t.Errorf("the server saw %q, want %q; %+v", s.saw(), p.want, st)
				}
				if text := log.String() + events.String(); strings.Contains(text, "canary") || !strings.Contains(text, "bad credential") {
					t.Errorf("%s", text)
				}
			})
		})
	}
}

// certificate returns a certificate for name, signed by itself.
func certificate(t *testing.T, name string) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	assert.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	assert.NoError(t, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// A client certificate that is replaced while the client runs is used from the next
// attempt on: the transport is asked for it at each one.
func TestCertificateIsReplaced(t *testing.T) {
	assert.NoLeaks(t)
	var demanded atomic.Value
	demanded.Store("first")
	conns := make(chan *websocket.Conn, 2)
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer ws.CloseNow()
		conns <- ws
		ws.Read(context.Background())
	}))
	web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	web.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, VerifyConnection: func(cs tls.ConnectionState) error {
		if name := cs.PeerCertificates[0].Subject.CommonName; name != demanded.Load() {
			return errors.New("revoked")
		}
		return nil
	}}
	web.StartTLS()
	defer web.Close()
	client := web.Client()
	var current atomic.Pointer[tls.Certificate]
	current.Store(certificate(t, "first"))
	var asked atomic.Int32
	client.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked.Add(1)
		return current.Load(), nil
	}
	c, err := limpet.New("wss"+strings.TrimPrefix(web.URL, "https"), options(&limpet.Options{
		Dialect: rawDialect{}, HTTPClient: client, Backoff: limpet.Backoff{First: -1, Initial: time.Millisecond, Max: time.Millisecond}}))
	assert.NoError(t, err)
	defer closeAndWait(t, c)
	assert.NoError(t, c.WaitReady(realContext(t)))
	demanded.Store("second")
	(<-conns).CloseNow() // the connection ends, and the next attempts are refused
	st, err := c.WaitState(realContext(t), func(s limpet.State) bool { return s.Attempt >= 3 })
	if err != nil || limpet.ClassOf(st.Cause) != limpet.ClassTLS || st.Phase == limpet.Ended {
		t.Fatalf("class %q: %+v, %v", limpet.ClassOf(st.Cause), st, err)
	}
	current.Store(certificate(t, "second"))
	if err := c.WaitReady(realContext(t)); err != nil || uint64(asked.Load()) != c.Stats().Attempts {
		t.Errorf("asked %d times in %d attempts: %v", asked.Load(), c.Stats().Attempts, err)
	}
	client.CloseIdleConnections()
}

// A credential that the server has refused, and that Auth returns again, is presented at
// once a single time; then the client backs off, and tells Auth each time.
func TestRefusedCredentialReturnedUnchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refusing := false
		s := newFailingServer(t, func(int) *failure {
			if refusing {
				return &failure{status: 401}
			}
			return nil
		})
		var refresh []bool
		c := s.start(t, limpet.Options{Auth: func(_ context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
			refresh = append(refresh, info.Refresh)
			return limpet.Credential{Token: "the same"}, nil
		}})
		assert.NoError(t, c.WaitReady(t.Context()))
		time.Sleep(time.Minute)
		refusing = true
		s.breakConnection()
		time.Sleep(50 * time.Second)
		made := s.made()[1:]
		if len(made) < 4 || len(made) > 30 {
			t.Fatalf("%d attempts", len(made))
		}
		for i := 1; i < len(made); i++ {
			wait, least := made[i].Sub(made[i-1]), 375*time.Millisecond
			if i == 1 {
				least = 100 * time.Millisecond // at once
			}
			if wait < least || i == 1 && wait > least {
				t.Errorf("attempt %d came %v after the one before", i+1, wait)
			}
		}
		if refresh[1] || slices.Contains(refresh[2:], false) {
			t.Errorf("Auth was asked for a new credential: %v", refresh)
		}
	})
}

// What one client learns about its credential, another one of the same program does not.
func TestClientsDoNotShareRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		asked := map[string][]bool{}
		auth := func(name string) func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			return func(_ context.Context, info limpet.AttemptInfo) (limpet.Credential, error) {
				asked[name] = append(asked[name], info.Refresh)
				return limpet.Credential{}, nil
			}
		}
		srv.Inject(limpettest.RefuseUpgrade(401, nil))
		a := newClient(t, srv, limpet.Options{Auth: auth("a")})
		assert.NoError(t, a.WaitReady(t.Context()))
		b := newClient(t, srv, limpet.Options{Auth: auth("b")})
		assert.NoError(t, b.WaitReady(t.Context()))
		synctest.Wait()
		if got := fmt.Sprint(asked); got != "map[a:[false true] b:[false]]" {
			t.Errorf("asked for a new credential: %s", got)
		}
	})
}

// Auth is called once for each attempt, one call at a time, also while the program asks
// for attempts.
func TestAuthIsCalledOnceForEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		srv.Network.Each(func(n int) limpettest.Fault {
			if n < 20 {
				return limpettest.RefuseUpgrade(503, nil)
			}
			return limpettest.Clean()
		})
		var running, most, calls atomic.Int32
		c := newClient(t, srv, limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
			most.Store(max(most.Load(), running.Add(1)))
			calls.Add(1)
			time.Sleep(300 * time.Millisecond)
			running.Add(-1)
			return limpet.Credential{}, nil
		}})
		for c.State().Phase != limpet.Ready {
			c.ReconnectNow()
			time.Sleep(10 * time.Millisecond)
		}
		if most.Load() != 1 || uint64(calls.Load()) != c.Stats().Attempts {
			t.Errorf("%d calls at once, %d in all for %d attempts", most.Load(), calls.Load(), c.Stats().Attempts)
		}
	})
}

// A credential that no header of the handshake can carry is the fault of Auth.
func TestUnusableSubprotocol(t *testing.T) {
	for _, name := range []string{"", "two words", "a,b", "a\r\nX: y", strings.Repeat("x", 8<<10+1)} {
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t, limpettest.NewServer(t, nil), limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				return limpet.Credential{Subprotocols: []string{"canary", name}}, nil
			}})
			st, err := c.WaitState(t.Context(), func(s limpet.State) bool { return s.Cause != nil })
			if text := fmt.Sprint(st.Cause); err != nil || limpet.ClassOf(st.Cause) != limpet.ClassUser || !strings.Contains(text, "Options.Auth: Credential.Subprotocols[1] is no token") {
				t.Errorf("%v", st.Cause)
			}
		})
	}
}

// A server of raw that chooses none of the subprotocols does not speak them.
func TestRawServerWithoutTheSubprotocol(t *testing.T) {
	for chosen, ready := range map[string]bool{"prices.v2": true, "": false, "the-token": false} {
		synctest.Test(t, func(t *testing.T) {
			host := limpettest.NewHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{chosen}})
				if err != nil {
					return
				}
				defer ws.CloseNow()
				ws.Read(context.Background())
			}), nil)
			c, err := limpet.New(host.URL(), options(&limpet.Options{
				Dialect: raw.New(raw.Options{Subprotocols: []string{"prices.v1", "prices.v2"}}), HTTPClient: host.HTTPClient(),
				Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
					return limpet.Credential{Subprotocols: []string{"the-token"}}, nil
				}}))
			assert.NoError(t, err)
			defer closeAndWait(t, c)
			err = c.WaitReady(t.Context())
			if ready != (err == nil) || !ready && !errors.Is(err, limpet.ErrSubprotocol) || bytes.Contains([]byte(fmt.Sprint(err)), []byte("the-token")) {
				t.Errorf("chose %q: %v", chosen, err)
			}
		})
	}
}

// A refusal by the server of the credentials is one of all endpoints: they get the same ones.
func TestRefusedCredentialCountsForAllEndpoints(t *testing.T) {
	refusal := fmt.Errorf("tokens: %w", &wire.StatusError{Status: http.StatusForbidden})
	for _, option := range []string{"Options.Auth", "Options.Ticket"} {
		synctest.Test(t, func(t *testing.T) {
			c, asked := newCluster(t, 3), 0
			o := limpet.Options{Auth: func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) {
				asked++
				return limpet.Credential{}, refusal
			}}
			if option == "Options.Ticket" {
				o = limpet.Options{Ticket: func(context.Context, limpet.AttemptInfo) (url.Values, error) {
					asked++
					return nil, refusal
				}}
			}
			err := c.start(t, o).WaitReady(t.Context())
			var permanent *limpet.PermanentError
			if !errors.As(err, &permanent) || !strings.Contains(err.Error(), option) || asked != 1 {
				t.Errorf("%s was asked %d times: %v", option, asked, err)
			}
		})
	}
}
