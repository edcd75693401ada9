package test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
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

// idlePath is a path to a host that drops connections on which nothing has moved for limit:
// it ends them or, as a firewall does that has forgotten them, lets nothing through any more.
type idlePath struct {
	host   *limpettest.Host
	limit  time.Duration
	silent bool
}

func (p *idlePath) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := p.host.Network.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c := &idleConn{Conn: nc, path: p, last: time.Now()}
		if !p.silent {
			c.timer = time.AfterFunc(p.limit, p.host.Network.CutAll) // there is one connection at a time
		}
		return c, nil
	}}}
}

type idleConn struct {
	net.Conn
	path  *idlePath
	timer *time.Timer // nil if the path is silent

	mu   sync.Mutex
	last time.Time // when something moved
	gone bool
}

// passes reports whether the path lets through what moves now.
func (c *idleConn) passes() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.gone = c.gone || c.path.silent && now.Sub(c.last) >= c.path.limit
	c.last = now
	if c.timer != nil {
		c.timer.Reset(c.path.limit)
	}
	return !c.gone
}

func (c *idleConn) Write(p []byte) (int, error) {
	if !c.passes() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *idleConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || c.passes() {
			return n, err
		}
	}
}

func (c *idleConn) Close() error {
	if c.timer != nil {
		c.timer.Stop()
	}
	return c.Conn.Close()
}

// After two connections that the path has dropped because nothing moved on them, heartbeats
// come twice as often as it takes, and no connection is dropped any more. A log has one line
// about it.
func TestIdleLimitOfThePathIsLearned(t *testing.T) {
	for name, tc := range map[string]struct {
		path        idlePath
		interval    time.Duration
		least, most time.Duration // the interval that is learned
		connections uint64        // at most in the first hour: how many it takes depends on the moments of the first heartbeats
	}{
		"a firewall forgets after 15 s":          {idlePath{limit: 15 * time.Second, silent: true}, 20 * time.Second, 7500 * time.Millisecond, 10 * time.Second, 12},
		"a firewall forgets after 7 s":           {idlePath{limit: 7 * time.Second, silent: true}, 20 * time.Second, 5 * time.Second, 7 * time.Second, 40},
		"a proxy ends after a minute":            {idlePath{limit: time.Minute}, 100 * time.Second, 30 * time.Second, 30 * time.Second, 15},
		"a proxy ends after six seconds":         {idlePath{limit: 6 * time.Second}, 20 * time.Second, 5 * time.Second, 5 * time.Second, 20},
		"a proxy ends after a minute, unnoticed": {idlePath{limit: time.Minute}, 20 * time.Second, 20 * time.Second, 20 * time.Second, 1},
	} {
		for range reduced(5, 1) { // the first heartbeat is at a random moment
			synctest.Test(t, func(t *testing.T) {
				s := &pongServer{}
				path := tc.path
				path.host = limpettest.NewHandler(t, rawServer(s.talk), nil)
				var log bytes.Buffer
				c, err := limpet.Dial(t.Context(), path.host.URL(), options(&limpet.Options{HTTPClient: path.client(), Dialect: lookDialect{},
					Heartbeat: limpet.Heartbeat{Interval: tc.interval}, Logger: slog.New(slog.NewTextHandler(&log, nil))}))
				assert.NoError(t, err)
				time.Sleep(time.Hour)
				learned := c.Stats()
				time.Sleep(2 * time.Hour)
				closeAndWait(t, c)
				synctest.Wait()
				if h := learned.Heartbeat.Round(time.Millisecond); h < tc.least || h > tc.most {
					t.Errorf("%s: the interval is %v, want %v to %v", name, h, tc.least, tc.most)
				}
				if after := c.Stats(); learned.Connections > tc.connections || after.Connections != learned.Connections || after.Heartbeat != learned.Heartbeat {
					t.Errorf("%s: %d connections in the first hour, %d in three, and an interval of %v", name, learned.Connections, after.Connections, after.Heartbeat)
				}
				lines, want := strings.Count(log.String(), "level=INFO msg=\"limpet: idle connections are dropped"), 1
				if tc.least == tc.interval {
					want = 0
				}
				if lines < want || lines > max(want, 2) { // two if the first pair has found an upper bound only
					t.Errorf("%s: %d lines, want %d:\n%s", name, lines, want, log.String())
				}
			})
		}
	}
}

// Nothing is learned where the path has no limit: a path that breaks now and then, probes that
// find a connection dead, and a dialect whose server sends the heartbeats.
func TestWhatIsNoIdleLimit(t *testing.T) {
	for name, tc := range map[string]struct {
		dialect lookDialect
		breaks  func(c *limpet.Client, s *pongServer)
	}{
		"a path that breaks every ten minutes": {lookDialect{}, func(_ *limpet.Client, s *pongServer) {
			<-time.After(10 * time.Minute)
			s.deaf.Store(true)
			<-time.After(time.Minute)
			s.deaf.Store(false)
		}},
		"probes": {lookDialect{}, func(c *limpet.Client, s *pongServer) {
			s.deaf.Store(true)
			<-time.After(18 * time.Second)
			c.NetworkChanged()
			<-time.After(3 * time.Second)
			s.deaf.Store(false)
			c.WaitReady(context.Background())
		}},
		"heartbeats of the server": {lookDialect{ping: wire.PingNone}, func(*limpet.Client, *pongServer) { <-time.After(time.Minute) }},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &pongServer{}
			host := limpettest.NewHandler(t, rawServer(s.talk), nil)
			c, err := limpet.Dial(t.Context(), host.URL(), options(&limpet.Options{HTTPClient: host.HTTPClient(), Dialect: tc.dialect}))
			assert.NoError(t, err)
			for range 20 {
				tc.breaks(c, s)
			}
			if st := c.Stats(); st.Heartbeat != 20*time.Second || st.Connections < 10 {
				t.Errorf("%s: an interval of %v after %d connections", name, st.Heartbeat, st.Connections)
			}
			closeAndWait(t, c)
		})
	}
}
