package socket

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// Panic is a panic of a function that belongs to the caller of the client.
type Panic struct {
	Where string // the function
	Value any
	Stack []byte
}

func (p *Panic) Error() string { return p.Where + " panicked" }

// recoverPanic makes a panic the error of the function that defers it. net/http
// calls most of the caller's functions on goroutines of its own, where a panic
// would end the process.
func recoverPanic(where string, err *error) {
	if p := recover(); p != nil {
		*err = &Panic{where, p, debug.Stack()}
	}
}

// CallMethods calls the methods of err, an error of the caller's code, and of the
// errors in it that are called later, so that a panic in them happens here: of a nil
// pointer, for example, which is an error that is not nil.
func CallMethods(err error) { callMethods(err, 0) }

func callMethods(err error, depth int) {
	if err == nil || err == io.EOF || depth == maxDepth {
		return
	}
	_ = err.Error()
	if timeout, ok := err.(interface{ Timeout() bool }); ok {
		timeout.Timeout()
	}
	if matcher, ok := err.(interface{ Is(error) bool }); ok {
		matcher.Is(io.EOF)
	}
	switch wrapper := err.(type) {
	case interface{ Unwrap() error }:
		callMethods(wrapper.Unwrap(), depth+1)
	case interface{ Unwrap() []error }:
		for _, inner := range wrapper.Unwrap() {
			callMethods(inner, depth+1)
		}
	}
}

const maxDepth = 16 // of errors in an error

// guardedConn is a connection whose type is the caller's. It can be compared,
// whatever that type is.
type guardedConn struct {
	net.Conn
	where    string // the function that made it
	panicked atomic.Pointer[Panic]
}

// recovered must be deferred. After a panic every error is that panic: net/http closes
// the connection, and the read in progress would say only that it is closed.
func (g *guardedConn) recovered(err *error) {
	if p := recover(); p != nil {
		first := &Panic{g.where, p, debug.Stack()}
		g.panicked.CompareAndSwap(nil, first)
		*err = first
	}
	if first := g.panicked.Load(); first != nil && *err != nil {
		*err = first
	}
}

// guardConn guards nc, unless its type is one of the standard library. net/http must
// see a *tls.Conn as what it is.
func guardConn(where string, nc net.Conn) net.Conn {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn, *tls.Conn, *guardedConn:
		return nc
	}
	return &guardedConn{Conn: nc, where: "the connection of " + where}
}

func (g *guardedConn) Read(p []byte) (n int, err error) {
	defer g.recovered(&err)
	if n, err = g.Conn.Read(p); err != nil {
		CallMethods(err)
	}
	return n, err
}

func (g *guardedConn) Write(p []byte) (n int, err error) {
	defer g.recovered(&err)
	if n, err = g.Conn.Write(p); err != nil {
		CallMethods(err)
	}
	return n, err
}

func (g *guardedConn) Close() (err error) {
	defer g.recovered(&err)
	return g.Conn.Close()
}

func (g *guardedConn) SetDeadline(t time.Time) (err error) {
	defer g.recovered(&err)
	return g.Conn.SetDeadline(t)
}

func (g *guardedConn) SetReadDeadline(t time.Time) (err error) {
	defer g.recovered(&err)
	return g.Conn.SetReadDeadline(t)
}

func (g *guardedConn) SetWriteDeadline(t time.Time) (err error) {
	defer g.recovered(&err)
	return g.Conn.SetWriteDeadline(t)
}

// NetConn returns what carries the connection; nil if its type does not say.
func (g *guardedConn) NetConn() net.Conn {
	var err error
	defer recoverPanic(g.where, &err)
	if nc := below(g.Conn); nc != nil {
		return &guardedConn{Conn: nc, where: g.where}
	}
	return nil
}

// guardedBody is an upgraded connection as the caller's transport wrapped it.
type guardedBody struct{ body io.ReadWriteCloser }

const whereBody = "the response body of Options.HTTPClient"

func (g guardedBody) Read(p []byte) (n int, err error) {
	defer recoverPanic(whereBody, &err)
	if n, err = g.body.Read(p); err != nil {
		CallMethods(err)
	}
	return n, err
}

func (g guardedBody) Write(p []byte) (n int, err error) {
	defer recoverPanic(whereBody, &err)
	if n, err = g.body.Write(p); err != nil {
		CallMethods(err)
	}
	return n, err
}

func (g guardedBody) Close() (err error) { return closeBody(g.body) }

func closeBody(body io.Closer) (err error) {
	defer recoverPanic(whereBody, &err)
	return body.Close()
}

// guardTLS makes panics of the functions in cfg errors of the handshake. cfg belongs
// to one attempt.
func guardTLS(cfg *tls.Config) {
	g := &tlsGuard{verify: cfg.VerifyConnection}
	cfg.VerifyConnection = g.verifyConnection
	if f := cfg.VerifyPeerCertificate; f != nil {
		cfg.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) (err error) {
			defer recoverPanic("TLSClientConfig.VerifyPeerCertificate", &err)
			return checked(f(raw, chains))
		}
	}
	if f := cfg.EncryptedClientHelloRejectionVerify; f != nil {
		cfg.EncryptedClientHelloRejectionVerify = func(state tls.ConnectionState) (err error) {
			defer recoverPanic("TLSClientConfig.EncryptedClientHelloRejectionVerify", &err)
			return checked(f(state))
		}
	}
	certificates := make([]tls.Certificate, len(cfg.Certificates))
	for i, c := range cfg.Certificates {
		certificates[i] = guardKey(c)
	}
	if cfg.Certificates != nil {
		cfg.Certificates = certificates
	}
	guardCertificate(cfg)
	if cfg.Rand != nil {
		cfg.Rand = guardedReader{cfg.Rand}
	}
	if cfg.KeyLogWriter != nil {
		cfg.KeyLogWriter = guardedWriter{cfg.KeyLogWriter}
	}
	if cfg.ClientSessionCache != nil {
		cfg.ClientSessionCache = guardedCache{cfg.ClientSessionCache, g}
	}
	if f := cfg.Time; f != nil {
		cfg.Time = func() (at time.Time) {
			defer g.remember("TLSClientConfig.Time", func() { at = time.Now() })
			return f()
		}
	}
}

// guardCertificate makes the choice of a client certificate known to the request that needs
// it.
func guardCertificate(cfg *tls.Config) {
	f := cfg.GetClientCertificate
	cfg.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return chooseCertificate(info, func() (c *tls.Certificate, err error) {
			defer recoverPanic("TLSClientConfig.GetClientCertificate", &err)
			if f == nil {
				return supported(cfg.Certificates, info), nil
			}
			if c, err = f(info); c != nil {
				own := guardKey(*c)
				c = &own
			}
			return c, checked(err)
		})
	}
}

// supported returns the first certificate that the server supports, as crypto/tls chooses
// where there is no function for it.
func supported(certificates []tls.Certificate, info *tls.CertificateRequestInfo) *tls.Certificate {
	for i := range certificates {
		if info.SupportsCertificate(&certificates[i]) == nil {
			return &certificates[i]
		}
	}
	return new(tls.Certificate)
}

// checked returns err, an error of the caller's code, after its methods were called.
func checked(err error) error {
	if err != nil {
		CallMethods(err)
	}
	return err
}

// tlsGuard remembers a panic of a function that cannot return an error. The
// handshake fails with it; after the handshake it has no effect.
type tlsGuard struct {
	panicked atomic.Pointer[Panic]
	verify   func(tls.ConnectionState) error
}

// remember must be deferred.
func (g *tlsGuard) remember(where string, instead func()) {
	if p := recover(); p != nil {
		g.panicked.Store(&Panic{where, p, debug.Stack()})
		instead()
	}
}

func (g *tlsGuard) verifyConnection(state tls.ConnectionState) (err error) {
	defer recoverPanic("TLSClientConfig.VerifyConnection", &err)
	if p := g.panicked.Load(); p != nil {
		return p
	}
	if g.verify == nil {
		return nil
	}
	return checked(g.verify(state))
}

type guardedReader struct{ io.Reader }

func (g guardedReader) Read(p []byte) (n int, err error) {
	defer recoverPanic("TLSClientConfig.Rand", &err)
	return g.Reader.Read(p)
}

type guardedWriter struct{ io.Writer }

func (g guardedWriter) Write(p []byte) (n int, err error) {
	defer recoverPanic("TLSClientConfig.KeyLogWriter", &err)
	return g.Writer.Write(p)
}

type guardedCache struct {
	cache tls.ClientSessionCache
	guard *tlsGuard
}

func (c guardedCache) Get(key string) (s *tls.ClientSessionState, ok bool) {
	defer c.guard.remember("TLSClientConfig.ClientSessionCache", func() { s, ok = nil, false })
	return c.cache.Get(key)
}

func (c guardedCache) Put(key string, s *tls.ClientSessionState) {
	defer c.guard.remember("TLSClientConfig.ClientSessionCache", func() {})
	c.cache.Put(key, s)
}

// guardKey returns c with its private key guarded, which may be the caller's, as that
// of a token is.
func guardKey(c tls.Certificate) tls.Certificate {
	if s, ok := c.PrivateKey.(crypto.Signer); ok {
		c.PrivateKey = guardedSigner{s}
	}
	return c
}

type guardedSigner struct{ crypto.Signer }

func (s guardedSigner) Sign(rand io.Reader, digest []byte, o crypto.SignerOpts) (signature []byte, err error) {
	defer recoverPanic("a private key of TLSClientConfig", &err)
	return s.Signer.Sign(rand, digest, o)
}
