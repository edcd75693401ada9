package interop

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
)

// patience is how long a test waits for something that comes at once.
const patience = time.Minute

// sharedLog is one log for several nodes. Each node remembers only the ids that it has accepted
// itself, so the log recognises those of the others: a message whose acknowledgement was lost is
// sent again, perhaps to another node.
type sharedLog struct {
	*server.MemoryLog

	mu      sync.Mutex
	offsets map[wire.ID]uint64
}

func newSharedLog() *sharedLog {
	return &sharedLog{MemoryLog: server.NewMemoryLog(server.Retention{}), offsets: map[wire.ID]uint64{}}
}

func (l *sharedLog) Append(ctx context.Context, e server.Entry) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if offset, known := l.offsets[e.ID]; known {
		return offset, nil
	}
	offset, err := l.MemoryLog.Append(ctx, e)
	if err == nil {
		l.offsets[e.ID] = offset
	}
	return offset, err
}

// certificate writes a certificate for 127.0.0.1 and example.com, and returns its file, which
// has the key too, and a client that trusts it.
func certificate(t *testing.T) (file string, config *tls.Config) {
	t.Helper()
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	pair := donor.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	file = filepath.Join(t.TempDir(), "feed.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, &tls.Config{RootCAs: donor.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
}

// newClient returns a client that reconnects fast, which ends with the test.
func newClient(t *testing.T, url string, config *tls.Config, o limpet.Options) *limpet.Client {
	t.Helper()
	if o.HTTPClient == nil {
		o.HTTPClient = &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	}
	if o.Backoff == (limpet.Backoff{}) {
		o.Backoff = limpet.Backoff{First: -1, Initial: 50 * time.Millisecond, Max: 200 * time.Millisecond}
	}
	c, err := limpet.New(url, &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); <-c.Done() })
	return c
}

// ready waits until c is ready in at least its n-th connection.
func ready(t *testing.T, c *limpet.Client, n uint64) {
	t.Helper()
	if st := waitFor(t, c, func(s limpet.State) bool { return s.Phase == limpet.Ready && s.Generation >= n }); st.Phase != limpet.Ready {
		t.Fatalf("not ready: %+v", st)
	}
}

// waitFor waits for a state, or for the end of the client.
func waitFor(t *testing.T, c *limpet.Client, ok func(limpet.State) bool) limpet.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	st, err := c.WaitState(ctx, func(s limpet.State) bool { return ok(s) || s.Phase == limpet.Ended })
	if err != nil {
		t.Fatalf("%v: %+v", err, c.State())
	}
	return st
}

// traffic publishes numbers with one client and receives them with another.
type traffic struct {
	publisher, consumer *limpet.Client

	sent     atomic.Int64
	received atomic.Int64
	stop     chan struct{}
	stopped  chan struct{} // nothing is published any more
	done     chan struct{} // nothing is received any more
}

// startTraffic begins, and waits until the first message has arrived.
func startTraffic(t *testing.T, url string, config *tls.Config) *traffic {
	t.Helper()
	tr := &traffic{
		publisher: newClient(t, url, config, limpet.Options{}), consumer: newClient(t, url, config, limpet.Options{}),
		stop: make(chan struct{}), stopped: make(chan struct{}), done: make(chan struct{}),
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	sub, err := tr.consumer.Subscribe(ctx, "n", nil)
	if err == nil {
		err = sub.WaitLive(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	go tr.publish(ctx, t)
	go tr.receive(ctx, t, sub)
	t.Cleanup(func() { cancel(); <-tr.stopped; <-tr.done })
	tr.more(t, 1)
	return tr
}

func (tr *traffic) publish(ctx context.Context, t *testing.T) {
	defer close(tr.stopped)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := tr.publisher.Publish(ctx, "n", fmt.Append(nil, tr.sent.Load()+1), nil); err != nil {
			t.Errorf("publishing: %v", err)
			return
		}
		tr.sent.Add(1)
		select {
		case <-tr.stop:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (tr *traffic) receive(ctx context.Context, t *testing.T, sub *limpet.Subscription) {
	defer close(tr.done)
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("receiving: %v", err)
			}
			return
		}
		m.Ack()
		n := tr.received.Load() + 1
		if m.Kind != limpet.Data || string(m.Payload) != fmt.Sprint(n) {
			t.Errorf("received %v %q %+v instead of %d", m.Kind, m.Payload, m.Loss, n)
			return
		}
		tr.received.Store(n)
	}
}

// more waits until n further messages have been received.
func (tr *traffic) more(t *testing.T, n int64) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for want := tr.received.Load() + n; tr.received.Load() < want; {
		select {
		case <-tick.C:
		case <-tr.done:
			t.Fatalf("receiving ended after %d", tr.received.Load())
		case <-late:
			t.Fatalf("%d received, %d sent; publisher %+v, consumer %+v", tr.received.Load(), tr.sent.Load(), tr.publisher.State(), tr.consumer.State())
		}
	}
}

// finish ends the traffic. Every message must have been acknowledged, received once and in
// order, and stand in the log once.
func (tr *traffic) finish(t *testing.T, log server.Log) {
	t.Helper()
	close(tr.stop)
	<-tr.stopped
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := tr.publisher.Flush(ctx); err != nil {
		t.Error(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sent := tr.sent.Load(); tr.received.Load() < sent; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d received of %d", tr.received.Load(), sent)
		}
	}
	if s := tr.publisher.Stats(); s.Acked != uint64(tr.sent.Load()) {
		t.Errorf("%d acknowledged of %d", s.Acked, tr.sent.Load())
	}
	if head := log.View().Head; head != uint64(tr.sent.Load()) {
		t.Errorf("the log has %d messages, %d were published", head, tr.sent.Load())
	}
	t.Logf("%d messages; connections: %d to publish, %d to receive", tr.sent.Load(), tr.publisher.Stats().Connections, tr.consumer.Stats().Connections)
}
