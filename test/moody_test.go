package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/internal/assert"
	"github.com/limpet-go/limpet/wire/native"
	"nhooyr.io/websocket"
)

// moody is a service of several gates that behave at random until it is calm.
type moody struct {
	t    *testing.T
	mu   sync.Mutex
	rnd  *rand.Rand
	calm bool

	gates   []*gate
	began   time.Time              // the attempt in progress
	given   map[*gate][2]time.Time // when each gate has given its last slot, and until when it lasts
	auths   atomic.Int32
	current *scriptedConn // the last one that the client has begun
	wrong   []string
}

func (m *moody) draw(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rnd.IntN(n)
}

func (m *moody) isCalm() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calm
}

// slot notes that g says when to come back.
func (m *moody) slot(g *gate, d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.given[g] = [2]time.Time{time.Now(), time.Now().Add(d)}
}

// arrived checks a request.
func (m *moody) arrived(g *gate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if s := m.given[g]; m.began.After(s[0]) && now.Before(s[1]) {
		m.wrong = append(m.wrong, fmt.Sprintf("a request %v before the slot, of an attempt that began %v after it was given", s[1].Sub(now), m.began.Sub(s[0])))
	}
}

func (m *moody) answerAtRandom(g *gate, w http.ResponseWriter) bool {
	m.arrived(g)
	if m.isCalm() || m.draw(2) == 0 {
		return false
	}
	slow := m.draw(2) == 0
	if slow {
		time.Sleep(time.Duration(m.draw(16_000)) * time.Millisecond)
	}
	status := []int{503, 503, 429, 502, 401, 403, 404, 302, 200}[m.draw(9)]
	if status != 401 && !slow { // who waits no more does not learn it
		d := time.Duration(1+m.draw(90)) * time.Second
		w.Header().Set("Retry-After", fmt.Sprint(int(d/time.Second)))
		m.slot(g, d)
	}
	w.WriteHeader(status)
	return true
}

func (m *moody) talkAtRandom(g *gate, p *scriptedConn) {
	var gone atomic.Bool // the client has it no more
	read := make(chan struct{})
	defer func() { <-read }()
	go func() {
		defer close(read)
		for err := error(nil); err == nil; {
			_, _, err = p.ws.Read(p.ctx)
		}
		gone.Store(true)
	}()
	if !m.isCalm() && m.draw(8) == 0 {
		return // no welcome
	}
	m.mu.Lock()
	m.current = p
	m.mu.Unlock()
	welcome := p.welcome()
	welcome.Welcome.Spread = uint64(m.draw(3) * m.draw(20_000))
	p.sendFrames(welcome)
	for !m.isCalm() {
		time.Sleep(time.Duration(m.draw(2)*m.draw(40_000)+m.draw(3000)) * time.Millisecond)
		switch m.draw(8) {
		case 0, 1, 2:
			f := &native.GoAway{Code: 4300, After: uint64(m.draw(2) * m.draw(20_000)), Spread: uint64(m.draw(2) * m.draw(20_000)), DL: uint64(m.draw(2) * m.draw(60_000))}
			if m.draw(4) == 0 {
				f.URL = m.gates[m.draw(len(m.gates))].host.URL()
			}
			p.sendFrames(native.Frame{Type: native.TypeGoAway, GoAway: f})
		case 3:
			d := time.Duration(1+m.draw(60)) * time.Second
			p.sendFrames(native.Frame{Type: native.TypeErr, Err: &native.Err{Code: 4200, Fatal: true, Retry: uint64(d / time.Millisecond)}})
			m.mu.Lock()
			isCurrent := m.current == p && !gone.Load()
			m.mu.Unlock()
			if isCurrent {
				m.slot(g, d)
			}
			p.ws.Close(4200, "")
			return
		case 4:
			p.ws.Close([]websocket.StatusCode{1000, 1001, 1002, 1008, 1011, 1012, 1013, 4300, 3001}[m.draw(9)], "")
			return
		case 5:
			p.ws.CloseNow()
			return
		}
	}
}

// Whatever several servers do, no attempt comes before the slot of its endpoint, Auth is called
// once at a time, and the client is back when they are.
func TestMoodyServers(t *testing.T) {
	seeds := uint64(10)
	if raceEnabled {
		seeds = 3
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { moodyServers(t, seed) })
		})
	}
}

func moodyServers(t *testing.T, seed uint64) {
	m := &moody{t: t, rnd: rand.New(rand.NewPCG(seed, 12)), given: make(map[*gate][2]time.Time)}
	var first *gate
	for range 1 + m.draw(3) {
		var g *gate
		g = newGate(t, first, func(p *scriptedConn) { m.talkAtRandom(g, p) }, func(_ int, w http.ResponseWriter) bool { return m.answerAtRandom(g, w) })
		if m.gates = append(m.gates, g); first == nil {
			first = g
		}
	}
	o := limpet.Options{
		HTTPClient: first.host.HTTPClient(), Heartbeat: rareHeartbeats, Backoff: limpet.Backoff{KeepTrying: true},
		Redirects: limpet.Redirects{Hosts: []string{"127.0.0.1:1"}},
		Auth: func(ctx context.Context, _ limpet.AttemptInfo) (limpet.Credential, error) {
			if m.auths.Add(1) != 1 {
				t.Error("two calls of Auth at once")
			}
			defer m.auths.Add(-1)
			m.mu.Lock()
			m.began = time.Now()
			m.mu.Unlock()
			select {
			case <-time.After(time.Duration(m.draw(2)*m.draw(3000)) * time.Millisecond):
			case <-ctx.Done():
			}
			return limpet.Credential{Token: "token"}, nil
		},
	}
	for _, g := range m.gates {
		o.Redirects.Hosts = append(o.Redirects.Hosts, g.host.Addr())
	}
	urls := func() (urls []string) {
		for _, g := range m.gates {
			urls = append(urls, g.host.URL())
		}
		return urls
	}
	if m.draw(2) == 0 {
		o.Resolver = func(ctx context.Context) ([]string, error) {
			select {
			case <-time.After(time.Duration(m.draw(2)*m.draw(2000)) * time.Millisecond):
			case <-ctx.Done():
			}
			all := urls()
			from := m.draw(len(all))
			return all[from : from+1+m.draw(len(all)-from)], nil
		}
	} else {
		o.Endpoints = urls()[1:]
	}
	c, err := limpet.New(first.host.URL(), options(&o))
	assert.NoError(t, err)
	t.Cleanup(func() { closeAndWait(t, c) })
	for end := time.Now().Add(time.Hour); time.Now().Before(end); {
		time.Sleep(time.Duration(m.draw(60_000)) * time.Millisecond)
		switch m.draw(4) {
		case 0:
			c.ReconnectNow()
		case 1:
			c.NetworkChanged()
		}
	}
	m.mu.Lock()
	m.calm = true
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	if _, err := c.WaitState(ctx, func(s limpet.State) bool { return s.Phase == limpet.Ready }); err != nil {
		t.Errorf("%v: %+v", err, c.State())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, wrong := range m.wrong {
		t.Error(wrong)
	}
	if n := c.Stats().Connections; n < 10 {
		t.Errorf("%d connections in an hour", n)
	}
}
