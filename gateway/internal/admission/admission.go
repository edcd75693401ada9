// Package admission limits the connections that a gateway takes: in a second, from one address, and
// of one client.
package admission

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

// Limits are the bounds. Zero means none, except for Rate.
type Limits struct {
	Rate       int // new connections in a second
	PerAddress int // connections
	PerClient  int // connections
	Publish    int // messages in a second, of one connection

	// EngineBudget is how long the engine may take for a call: see Look.
	EngineBudget time.Duration

	// Proxies are networks whose X-Forwarded-For is believed.
	Proxies []netip.Prefix
}

// Admission counts connections. It is safe for concurrent use.
type Admission struct {
	limits Limits
	rate   *rate.Limiter
	slots  *rate.Limiter // of those that have to come back
	budget budget
	away   atomic.Bool // the engine

	mu        sync.Mutex // leaf
	addresses map[netip.Prefix]int
	clients   map[string]int
	refused   Refused
}

// Refused counts upgrades and clients that were refused.
type Refused struct{ Rate, Engine, Address, Client uint64 }

// New returns an Admission.
func New(l Limits) *Admission {
	return &Admission{
		limits: l, rate: rate.NewLimiter(rate.Limit(l.Rate), l.Rate),
		// Three quarters: the rest is for clients that come by themselves.
		slots:     rate.NewLimiter(rate.Limit(float64(l.Rate)*3/4), 1),
		addresses: map[netip.Prefix]int{}, clients: map[string]int{},
		budget: budget{limit: l.EngineBudget},
	}
}

// Refused returns how many were refused so far.
func (a *Admission) Refused() Refused {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused
}

// connection is what a request knows of its admission: a value of its context.
type connection struct {
	client  string // whose place it has
	counted bool   // it has one
	ended   bool
	publish *rate.Limiter
}

type contextKey struct{}

// maxWait bounds the time in Retry-After.
const maxWait = 5 * time.Minute

// EngineAway says whether the engine can be used: while it cannot, Wrap refuses new connections.
func (a *Admission) EngineAway(away bool) { a.away.Store(away) }

// Wrap returns a handler that calls next for the connections that are admitted. next must return
// when the connection has ended. Requests of a connection over plain requests count once: by their GET.
func (a *Admission) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			next.ServeHTTP(w, r)
			return
		}
		if a.away.Load() {
			a.count(&a.refused.Engine)
			refuse(w, http.StatusServiceUnavailable, a.later(), "this gateway cannot use its engine at the moment")
			return
		}
		if a.Busy() {
			a.count(&a.refused.Engine)
			refuse(w, http.StatusServiceUnavailable, a.later(), "the engine of this gateway is too slow to take more clients at the moment")
			return
		}
		if !a.rate.Allow() {
			a.count(&a.refused.Rate)
			wait := min(max(a.slots.Reserve().Delay(), 500*time.Millisecond), maxWait)
			refuse(w, http.StatusServiceUnavailable, wait, "too many clients connect at the moment")
			return
		}
		network := networkOf(a.address(r))
		if !a.enter(network) {
			refuse(w, http.StatusTooManyRequests, 10*time.Second, "too many connections from this address")
			return
		}
		defer a.leave(network)
		c := &connection{}
		if a.limits.Publish > 0 {
			c.publish = rate.NewLimiter(rate.Limit(a.limits.Publish), max(a.limits.Publish, batch))
		}
		defer a.release(c)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, c)))
	})
}

// batch is how many messages may come at once.
const batch = 64

func refuse(w http.ResponseWriter, status int, wait time.Duration, why string) {
	w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	w.Header().Set("X-Limpet-Retry-Ms", strconv.FormatInt(wait.Milliseconds(), 10))
	http.Error(w, why, status)
}

func (a *Admission) count(n *uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	*n++
}

// enter takes a place for a network, if there is one.
func (a *Admission) enter(network netip.Prefix) bool {
	if a.limits.PerAddress == 0 {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.addresses[network] >= a.limits.PerAddress {
		a.refused.Address++
		return false
	}
	a.addresses[network]++
	return true
}

func (a *Admission) leave(network netip.Prefix) {
	if a.limits.PerAddress == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.addresses[network]--; a.addresses[network] == 0 {
		delete(a.addresses, network)
	}
}

// Client is for the hook Authenticate: it takes a place for a client, or returns an error with
// which the client backs off. ctx is that of the hook.
func (a *Admission) Client(ctx context.Context, id string) error {
	c, _ := ctx.Value(contextKey{}).(*connection)
	if a.limits.PerClient == 0 || id == "" || c == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case c.counted || c.ended:
		return nil // another credential of the same client
	case a.clients[id] >= a.limits.PerClient:
		a.refused.Client++
		return &server.Error{Code: native.CodeRateLimited, Reason: "this client has too many connections"}
	}
	a.clients[id]++
	c.client, c.counted = id, true
	return nil
}

func (a *Admission) release(c *connection) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.ended = true
	if !c.counted {
		return
	}
	if a.clients[c.client]--; a.clients[c.client] == 0 {
		delete(a.clients, c.client)
	}
}

// Publish is for the hook OnPublish: it returns when the connection may publish one more message. Meanwhile the server
// reads nothing from that connection, so its client waits.
func (a *Admission) Publish(ctx context.Context) error {
	c, _ := ctx.Value(contextKey{}).(*connection)
	if c == nil || c.publish == nil {
		return nil
	}
	return c.publish.Wait(ctx)
}

// address returns that of the client: of X-Forwarded-For the last one that no trusted proxy has, if the peer is one.
func (a *Admission) address(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{} // a unix socket
	}
	address := peer.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !a.trusted(address) {
			break
		}
		next, err := parseHop(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		address = next
	}
	return address
}

// parseHop reads an address with or without a port.
func parseHop(hop string) (netip.Addr, error) {
	if host, _, err := net.SplitHostPort(hop); err == nil {
		hop = host
	}
	address, err := netip.ParseAddr(strings.Trim(hop, "[]"))
	return address.Unmap(), err
}

func (a *Admission) trusted(address netip.Addr) bool {
	return slices.ContainsFunc(a.limits.Proxies, func(p netip.Prefix) bool { return p.Contains(address) })
}

// networkOf returns what counts as one address: of IPv6 the 64 bits that one customer has.
func networkOf(address netip.Addr) netip.Prefix {
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	network, _ := address.Prefix(bits)
	return network
}
