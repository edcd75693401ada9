package socket

import (
	"crypto/tls"
	"io"
	"net"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/limpet-go/limpet/internal/assert"
)

// One long write to a socket whose peer reads a little and then waits: progress
// is recorded before the write has ended, and every byte arrives.
func TestLongWriteShowsProgress(t *testing.T) {
	assert.NoLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NoError(t, err)
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	assert.NoError(t, err)
	defer client.Close()
	peer, err := l.Accept()
	assert.NoError(t, err)
	defer peer.Close()

	s := newStream(client, client, true)
	const size = 32 << 20
	type result struct {
		n   int
		err error
	}
	wrote := make(chan result, 1)
	go func() {
		n, err := s.Write(make([]byte, size))
		wrote <- result{n, err}
	}()
	_, err = io.ReadFull(peer, make([]byte, 1<<20))
	assert.NoError(t, err)
	for deadline := time.After(30 * time.Second); s.lastWrite.Load() <= 1; {
		select {
		case r := <-wrote:
			t.Fatalf("32 MiB went into the buffers of the system: %+v", r)
		case <-deadline:
			t.Fatal("no progress shows")
		case <-time.After(10 * time.Millisecond):
		}
	}
	_, err = io.ReadFull(peer, make([]byte, size-1<<20))
	assert.NoError(t, err)
	if r := <-wrote; r.n != size || r.err != nil {
		t.Errorf("wrote %d bytes, %v", r.n, r.err)
	}
	// A deadline that has passed does no harm.
	s.writeDeadline = time.Duration(s.sinceEpoch()) + time.Minute
	assert.NoError(t, client.SetWriteDeadline(time.Now().Add(-time.Second)))
	n, err := s.Write([]byte("x"))
	assert.NoError(t, err)
	if n != 1 {
		t.Errorf("wrote %d bytes", n)
	}
}

// The library may keep the stream that it was given; it finds it closed.
func TestDetachedStreamIsClosed(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	d := &detachableStream{stream: newStream(near, nil, false)}
	d.detach()
	assert.NoError(t, d.Close())
	_, err := d.Read(make([]byte, 1))
	assert.ErrorIs(t, err, net.ErrClosed)
	_, err = d.Write(make([]byte, 1))
	assert.ErrorIs(t, err, net.ErrClosed)
}

// stalledTLS is the client's end of TLS within TLS to a peer that reads nothing
// any more.
func stalledTLS(t *testing.T) *tls.Conn {
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	shaken := make(chan net.Conn, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		cfg := &tls.Config{Certificates: donor.TLS.Certificates}
		inner := tls.Server(tls.Server(nc, cfg), cfg)
		if inner.Handshake() == nil {
			shaken <- nc
		}
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	assert.NoError(t, err)
	cfg := &tls.Config{InsecureSkipVerify: true}
	inner := tls.Client(tls.Client(nc, cfg), cfg)
	assert.NoError(t, inner.Handshake())
	peer := <-shaken
	t.Cleanup(func() { peer.Close() })
	return inner
}

// Killing a connection never waits for the peer, however many layers of TLS want
// to say goodbye.
func TestKillDoesNotWait(t *testing.T) {
	assert.NoLeaks(t)
	nc := stalledTLS(t)
	socket, layers := innermost(nc)
	s := newStream(nc, nc, true)
	if s.tcp != nil || layers != 2 {
		t.Error("deadlines would interrupt TLS")
	}
	for filled := 0; filled < 3; filled++ { // the system may yet make its buffers larger
		assert.NoError(t, socket.SetWriteDeadline(time.Now().Add(200*time.Millisecond)))
		if n, err := socket.Write(make([]byte, 64<<20)); err == nil {
			t.Fatal("64 MiB went into the buffers of the system")
		} else if n > 0 {
			filled = 0
		}
	}
	assert.NoError(t, socket.SetWriteDeadline(time.Time{}))
	at := time.Now()
	s.kill()
	if took := time.Since(at); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

// A timeout counts by what it says of itself, under whatever wraps it.
func TestTimeoutIsRecognised(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NoError(t, err)
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	assert.NoError(t, err)
	defer nc.Close()
	timedOut := 1
	s := newStream(&timesOut{nc, &timedOut}, nc, true)
	n, err := s.Write([]byte("abc"))
	assert.NoError(t, err)
	if n != 3 || timedOut != 0 {
		t.Errorf("wrote %d bytes, %d timeouts left", n, timedOut)
	}
}

// timesOut fails as many writes as n with a timeout of its own type.
type timesOut struct {
	net.Conn
	n *int
}

func (w *timesOut) Write(p []byte) (int, error) {
	if *w.n == 0 {
		return w.Conn.Write(p)
	}
	*w.n--
	return 1, timeoutError{}
}

type timeoutError struct{}

func (timeoutError) Error() string   { return "slow" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }
