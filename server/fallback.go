package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/fallback"
	"github.com/limpet-go/limpet/wire/native"
)

// carried is a connection whose bytes plain HTTP requests carry (docs/protocol.md, section
// 12): those of the server the answer to a GET, those of the client the bodies of POSTs. To
// the rest of the server it is a net.Conn below a WebSocket. The handler of the GET reads,
// the handlers of POSTs bring what it reads.
type carried struct {
	id         fallback.ConnectionID
	credential [sha256.Size]byte
	w          http.ResponseWriter
	control    *http.ResponseController
	get        *http.Request
	readBy     time.Time // of Read; zero: no limit

	posts chan struct{} // holds one value for each POST in progress
	turn  chan struct{} // holds one value while a POST is being taken
	more  chan struct{} // one slot: something can be read
	room  chan struct{} // one slot: what waited was read
	done  chan struct{} // closed when the connection is

	mu      sync.Mutex // leaf, but for deadlines of the answer, which must not be set after its end
	ended   bool
	writing bool      // Write is in progress
	writeBy time.Time // of Write; zero: no limit
	waiting []byte    // taken and not read: the body of at most one POST
	number  uint64    // of the POST that was taken last
}

// wantsFallback reports whether r asks for a connection over plain requests.
func wantsFallback(r *http.Request) bool {
	return r.Method == http.MethodGet && !hasToken(r.Header.Values("Upgrade"), "websocket") &&
		fallback.IsStream(r.Header.Values("Accept")) && len(r.Header.Values(fallback.HeaderProtocol)) > 0
}

// isPost reports whether r is a POST for a connection over plain requests.
func isPost(r *http.Request) bool {
	return r.Method == http.MethodPost && len(r.Header.Values(fallback.HeaderConnection)) > 0
}

// asUpgrade returns r with the headers of the upgrade request that it stands for: the
// library and the hooks see the same as for a WebSocket.
func asUpgrade(r *http.Request) *http.Request {
	up := r.Clone(r.Context())
	var key [16]byte
	rand.Read(key[:]) // it never fails
	h := up.Header
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	h.Set("Sec-WebSocket-Version", "13")
	h.Set("Sec-WebSocket-Key", base64.StdEncoding.EncodeToString(key[:]))
	h["Sec-Websocket-Protocol"] = h.Values(fallback.HeaderProtocol)
	up.Proto, up.ProtoMajor, up.ProtoMinor = "HTTP/1.1", 1, 1
	return up
}

// carry begins the answer to a GET, which has passed all checks of the server, and returns
// the socket that it carries. up is the upgrade request that the GET stands for.
func (s *Server) carry(w http.ResponseWriter, r, up *http.Request, enc native.Encoding) (*socket, error) {
	c := &carried{
		id: fallback.NewConnectionID(s.id), credential: credentialOf(r), w: w, control: http.NewResponseController(w), get: r,
		posts: make(chan struct{}, fallback.MaxPosts), turn: make(chan struct{}, 1),
		more: make(chan struct{}, 1), room: make(chan struct{}, 1), done: make(chan struct{}),
	}
	err := c.control.SetReadDeadline(time.Time{}) // http.Server may have set one for the whole request
	if err == nil {
		err = c.SetWriteDeadline(time.Now().Add(s.opt.WriteTimeout)) // instead of one for the whole answer
	}
	if err != nil {
		http.Error(w, "this server cannot stream here", http.StatusInternalServerError)
		return nil, &mountError{fmt.Sprintf("the http.ResponseWriter, a %T, has no deadlines: serve the fallback without middlewares that "+
			"hide them, such as http.TimeoutHandler (%v)", w, err)}
	}
	sock := newSocket(&rawConn{Conn: c, stall: s.opt.WriteTimeout, start: time.Now()}, s.opt.readLimit())
	s.mu.Lock()
	s.carried[c.id.Secret] = c // before the client learns the id
	s.mu.Unlock()
	begun := false
	defer func() { // even if a middleware panics
		if !begun {
			s.dropped(c)
			sock.abort()
		}
	}()
	h := w.Header()
	h.Set("Content-Type", fallback.MediaType)
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(fallback.HeaderConnection, c.id.String())
	h.Set(fallback.HeaderProtocol, native.Subprotocol(enc))
	w.WriteHeader(http.StatusOK)
	if err := c.control.Flush(); err != nil {
		return nil, &mountError{fmt.Sprintf("the http.ResponseWriter, a %T, cannot flush: serve the fallback without middlewares that hide it (%v)", w, err)}
	}
	begun = true
	return sock, nil
}

// dropped forgets a connection that has ended.
func (s *Server) dropped(c *carried) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.carried, c.id.Secret)
}

// credentialOf returns what binds a connection to who began it: what a request says about
// its client by itself. Cookies change on the way, so they are not part of it.
func credentialOf(r *http.Request) [sha256.Size]byte {
	h := sha256.New()
	for _, v := range r.Header.Values("Authorization") {
		fmt.Fprintf(h, "%d %s\n", len(v), v)
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		h.Write(r.TLS.PeerCertificates[0].Raw)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Read waits for what POSTs bring.
func (c *carried) Read(p []byte) (int, error) {
	var timeout <-chan time.Time
	if !c.readBy.IsZero() {
		timer := time.NewTimer(time.Until(c.readBy))
		defer timer.Stop()
		timeout = timer.C
	}
	for {
		c.mu.Lock()
		if c.ended {
			c.mu.Unlock()
			return 0, net.ErrClosed
		}
		n := copy(p, c.waiting)
		if c.waiting = c.waiting[n:]; len(c.waiting) == 0 {
			c.waiting = nil
		}
		empty := c.waiting == nil
		c.mu.Unlock()
		if n > 0 {
			if empty {
				signal(c.room)
			}
			return n, nil
		}
		select {
		case <-c.more:
		case <-c.done:
			return 0, net.ErrClosed
		case <-c.get.Context().Done():
			return 0, io.ErrUnexpectedEOF // the client has ended the GET, or something in between
		case <-timeout:
			return 0, os.ErrDeadlineExceeded
		}
	}
}

func signal(slot chan struct{}) {
	select {
	case slot <- struct{}{}:
	default:
	}
}

// Write writes to the answer, and on to the client.
func (c *carried) Write(p []byte) (int, error) {
	c.mu.Lock()
	ended := c.ended
	c.writing = !ended
	c.mu.Unlock()
	if ended {
		return 0, net.ErrClosed
	}
	n, err := c.w.Write(p)
	if err == nil {
		err = c.control.Flush()
	}
	c.mu.Lock()
	c.writing = false
	if err != nil && !c.writeBy.IsZero() && !time.Now().Before(c.writeBy) {
		err = os.ErrDeadlineExceeded // HTTP/2 may say only that the stream is closed
	}
	if c.writeBy = (time.Time{}); !c.ended {
		c.control.SetWriteDeadline(c.writeBy) // HTTP/2 would end the stream even if nothing is being written
	}
	c.mu.Unlock()
	return n, err
}

// Close releases who reads and who writes. The answer ends with its handler.
func (c *carried) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.ended = true
		close(c.done)
		end := time.Now().Add(closeGrace) // for what ends the answer
		if c.writing {
			end = time.Now().Add(-time.Second)
		}
		c.control.SetWriteDeadline(end)
	}
	return nil
}

// SetWriteDeadline does nothing once the connection is closed: the answer has ended, or
// must end.
func (c *carried) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return net.ErrClosed
	}
	c.writeBy = t
	return c.control.SetWriteDeadline(t)
}

// SetReadDeadline is for the goroutine that reads.
func (c *carried) SetReadDeadline(t time.Time) error {
	c.readBy = t
	return nil
}

func (c *carried) SetDeadline(t time.Time) error {
	c.readBy = t
	return c.SetWriteDeadline(t)
}

func (c *carried) LocalAddr() net.Addr  { return carriedAddr("") }
func (c *carried) RemoteAddr() net.Addr { return carriedAddr(c.get.RemoteAddr) }

type carriedAddr string

func (a carriedAddr) Network() string { return "http" }
func (a carriedAddr) String() string  { return string(a) }

// take answers a POST: 204 once its bytes are the server's, which it does not read before
// it has room for them, or why they are refused.
func (s *Server) take(w http.ResponseWriter, r *http.Request) {
	if !s.opt.hostAllowed(r.Host) || !s.opt.originAllowed(r) {
		s.stats.refusedOrigin.Add(1)
		http.Error(w, "host or origin not allowed", http.StatusForbidden)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	code := s.receive(w, r)
	if code == "" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.stats.refusedRequest.Add(1)
	w.Header().Set(fallback.HeaderCode, string(code))
	http.Error(w, string(code), code.Status())
}

// receive returns why a POST is refused; "" if it was taken.
func (s *Server) receive(w http.ResponseWriter, r *http.Request) fallback.Code {
	id, ok := fallback.ParseConnectionID(r.Header.Get(fallback.HeaderConnection))
	number, valid := fallback.ParseNumber(r.Header.Get(fallback.HeaderNumber))
	switch {
	case !ok || !valid || !fallback.IsStream(r.Header.Values("Content-Type")):
		return fallback.Malformed
	case id.Server != s.id:
		return fallback.Misdirected
	case r.ContentLength > fallback.MaxPost:
		return fallback.TooBig
	}
	s.mu.Lock()
	c := s.carried[id.Secret]
	s.mu.Unlock()
	if c == nil {
		return fallback.Gone
	}
	if who := credentialOf(r); subtle.ConstantTimeCompare(who[:], c.credential[:]) != 1 {
		return fallback.Forbidden
	}
	select {
	case c.posts <- struct{}{}:
		defer func() { <-c.posts }()
	default:
		return fallback.TooMany
	}
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Now().Add(s.opt.WriteTimeout)) // where it can be set
	body, err := io.ReadAll(io.LimitReader(r.Body, fallback.MaxPost+1))
	control.SetReadDeadline(time.Time{})
	switch {
	case len(body) > fallback.MaxPost:
		return fallback.TooBig
	case err != nil || len(body) == 0:
		return fallback.Malformed
	}
	return c.put(r.Context(), number, body)
}

// put takes body, the POST with this number, when its turn and room for it have come. What
// was taken before is taken again without an effect: its answer may have been lost.
func (c *carried) put(ctx context.Context, number uint64, body []byte) fallback.Code {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-c.done:
		return fallback.Gone
	case <-ctx.Done():
		return fallback.Malformed // an answer that is not read
	}
	for {
		c.mu.Lock()
		switch {
		case c.ended:
			c.mu.Unlock()
			return fallback.Gone
		case number <= c.number:
			c.mu.Unlock()
			return ""
		case number > c.number+1:
			c.mu.Unlock()
			return fallback.OutOfOrder
		case c.waiting == nil:
			c.waiting, c.number = body, number
			c.mu.Unlock()
			signal(c.more)
			return ""
		}
		c.mu.Unlock()
		select {
		case <-c.room:
		case <-c.done:
			return fallback.Gone
		case <-ctx.Done():
			return fallback.Malformed // an answer that is not read
		}
	}
}
