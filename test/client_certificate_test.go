package test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
)

// refusal is how a server refuses the certificate of a client, and when the client sees it.
type refusal struct {
	late   bool // the server waits for the request, which TLS 1.3 lets come before
	early  bool // the client writes its request only when the server has closed
	silent bool // the alert does not arrive
	reset  bool
	drains bool // the server reads until the client has closed
}

// What the client sees of a refused certificate depends on how far it has come, what it
// reports does not. These are real sockets: where an alert and a reset meet, the kernel decides.
func TestRefusedClientCertificate(t *testing.T) {
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	for name, tc := range map[string]struct {
		version uint16
		none    bool // the client has no certificate
		dials   bool // a function of the caller does TLS: only an alert says what it is
		refusal refusal
	}{
		"TLS 1.2":                                  {version: tls.VersionTLS12},
		"TLS 1.2, reset":                           {version: tls.VersionTLS12, refusal: refusal{reset: true}},
		"TLS 1.2, reset without an alert":          {version: tls.VersionTLS12, refusal: refusal{silent: true, reset: true}},
		"TLS 1.2, closed without an alert":         {version: tls.VersionTLS12, refusal: refusal{silent: true}},
		"TLS 1.2, no certificate":                  {version: tls.VersionTLS12, none: true},
		"TLS 1.3":                                  {version: tls.VersionTLS13},
		"TLS 1.3, before the request":              {version: tls.VersionTLS13, refusal: refusal{early: true}},
		"TLS 1.3, reset before the request":        {version: tls.VersionTLS13, refusal: refusal{early: true, reset: true}},
		"TLS 1.3, no alert, before the request":    {version: tls.VersionTLS13, refusal: refusal{early: true, silent: true}},
		"TLS 1.3, only a reset before the request": {version: tls.VersionTLS13, refusal: refusal{early: true, silent: true, reset: true}},
		"TLS 1.3, after the request":               {version: tls.VersionTLS13, refusal: refusal{late: true}},
		"TLS 1.3, reset after the request":         {version: tls.VersionTLS13, refusal: refusal{late: true, reset: true}},
		"TLS 1.3, no alert, after the request":     {version: tls.VersionTLS13, refusal: refusal{late: true, silent: true}},
		"TLS 1.3, only a reset after the request":  {version: tls.VersionTLS13, refusal: refusal{late: true, silent: true, reset: true}},
		"TLS 1.3, no certificate":                  {version: tls.VersionTLS13, none: true},
		"TLS 1.3, in DialTLSContext":               {version: tls.VersionTLS13, dials: true, refusal: refusal{late: true, drains: true}},
	} {
		t.Run(name, func(t *testing.T) {
			assert.NoLeaks(t)
			s := &refusingServer{refusal: tc.refusal, sent: make(chan struct{}), closed: make(chan struct{}), ended: t.Context().Done()}
			s.tls = &tls.Config{Certificates: donor.TLS.Certificates, ClientAuth: tls.RequireAnyClientCert, MaxVersion: tc.version, VerifyPeerCertificate: s.verify}
			l := listen(t, s.accept)
			own := &tls.Config{InsecureSkipVerify: true, Certificates: donor.TLS.Certificates}
			says := "asked for a client certificate and got one"
			if tc.none {
				own.Certificates, says = nil, "asked for a client certificate and got none"
			}
			transport := &http.Transport{TLSClientConfig: own, DialContext: s.dial}
			if tc.dials {
				says = "remote error: tls"
				transport.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					nc, err := s.dial(ctx, network, addr)
					return tls.Client(nc, own), err
				}
			}
			cause := firstCause(t, "wss://"+l.addr, limpet.Options{Dialect: rawDialect{}, HTTPClient: &http.Client{Transport: transport}})
			if limpet.ClassOf(cause) != limpet.ClassTLS || !strings.Contains(cause.Error(), says) {
				t.Errorf("class %q: %v", limpet.ClassOf(cause), cause)
			}
		})
	}
}

// A connection that breaks after the server has answered has nothing to do with its
// certificate, nor has one to a server that never asked for it.
func TestLostAnswerIsNoRefusedCertificate(t *testing.T) {
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	for name, tc := range map[string]struct {
		auth   tls.ClientAuthType
		answer string
	}{
		"not asked":         {tls.NoClientCert, ""},
		"half an answer":    {tls.RequireAnyClientCert, "HTTP/1.1 101 Swit"},
		"no HTTP, but TLS":  {tls.RequireAnyClientCert, "SSH-2.0-x\r\n"},
		"a status, then it": {tls.RequireAnyClientCert, "HTTP/1.1 503 Busy\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			assert.NoLeaks(t)
			l := listen(t, func(_ int, nc net.Conn) {
				server := tls.Server(nc, &tls.Config{Certificates: donor.TLS.Certificates, ClientAuth: tc.auth})
				server.Read(make([]byte, 4096)) // the request
				server.Write([]byte(tc.answer))
			})
			cause := firstCause(t, "wss://"+l.addr, limpet.Options{Dialect: rawDialect{}, HTTPClient: &http.Client{
				Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: donor.TLS.Certificates}}}})
			if limpet.ClassOf(cause) == limpet.ClassTLS || strings.Contains(cause.Error(), "certificate") {
				t.Errorf("class %q: %v", limpet.ClassOf(cause), cause)
			}
		})
	}
}

// refusingServer refuses the certificate of one client, which dials with it.
type refusingServer struct {
	refusal
	tls    *tls.Config
	sent   chan struct{} // the client has written its request
	closed chan struct{} // the server has closed the connection
	once   sync.Once
	ended  <-chan struct{}
	muted  atomic.Bool
}

func (s *refusingServer) verify([][]byte, [][]*x509.Certificate) error {
	if s.late {
		select {
		case <-s.sent:
		case <-s.ended:
		}
	}
	s.muted.Store(s.silent)
	return errors.New("refused")
}

func (s *refusingServer) accept(_ int, nc net.Conn) {
	defer s.once.Do(func() { close(s.closed) })
	tls.Server(mutedConn{nc, &s.muted}, s.tls).Handshake()
	switch {
	case s.drains:
		drain(nc)
	case s.reset:
		nc.(*net.TCPConn).SetLinger(0)
	}
	nc.Close()
}

// mutedConn loses what is written once it is muted.
type mutedConn struct {
	net.Conn
	muted *atomic.Bool
}

func (c mutedConn) Write(p []byte) (int, error) {
	if c.muted.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (s *refusingServer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &requestingConn{Conn: nc, server: s}, err
}

// requestingConn knows which of its writes has the request: the third, after the
// ClientHello and the rest of the handshake.
type requestingConn struct {
	net.Conn
	server *refusingServer
	writes atomic.Int32
}

func (c *requestingConn) Write(p []byte) (int, error) {
	if c.writes.Add(1) != 3 {
		return c.Conn.Write(p)
	}
	if c.server.early {
		select {
		case <-c.server.closed:
		case <-c.server.ended:
		}
	}
	n, err := c.Conn.Write(p)
	close(c.server.sent)
	return n, err
}
