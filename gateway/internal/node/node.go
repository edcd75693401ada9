// Package node is one gateway: a server of package server on an engine, with what surrounds it.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/limpet-go/limpet/gateway/internal/access"
	"github.com/limpet-go/limpet/gateway/internal/admission"
	"github.com/limpet-go/limpet/gateway/internal/config"
	"github.com/limpet-go/limpet/metrics/prom"
	"github.com/limpet-go/limpet/server"
)

// openTimeout bounds the wait for an engine that is away when the gateway starts.
const openTimeout = 30 * time.Second

// Node is a gateway that serves. Run ends it.
type Node struct {
	cfg      *config.Config
	log      *slog.Logger
	engine   engine
	server   *server.Server
	admitted *admission.Admission
	health   *health
	leftOut  leftOut
	registry *prometheus.Registry
	token    []byte // of /publish; nil: there is none

	web         *http.Server // for clients
	certificate *certificate // of web; nil: none

	clients, admin net.Listener // admin is nil if there is none
}

// Start opens the engine and the listeners. The error names the setting that is wrong.
func Start(ctx context.Context, cfg *config.Config, log *slog.Logger) (_ *Node, err error) {
	n := &Node{cfg: cfg, log: log, health: &health{}}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	policy, err := newPolicy(cfg)
	if err != nil {
		return nil, err
	}
	if n.token, err = publishToken(cfg); err != nil {
		return nil, err
	}
	opening, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if n.engine, err = openEngine(opening, cfg); err != nil {
		return nil, err
	}
	n.admitted = admission.New(limits(cfg))
	if n.server, err = server.New(n.serverOptions(policy)); err != nil {
		return nil, err
	}
	if err := errors.Join(n.measure(), n.serveClients()); err != nil {
		return nil, err
	}
	if n.clients, err = listen("listen", cfg.Listen); err != nil {
		return nil, err
	}
	if cfg.AdminListen != "" {
		if n.admin, err = listen("admin-listen", cfg.AdminListen); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func listen(key, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, &config.Error{Key: key, Reason: err.Error()}
	}
	return l, nil
}

// limits returns those of the settings, which have been checked.
func limits(cfg *config.Config) admission.Limits {
	l := admission.Limits{Rate: cfg.ConnectRate, PerAddress: cfg.MaxPerAddr, PerClient: cfg.MaxPerClient, Publish: cfg.PublishRate, EngineBudget: cfg.EngineBudget}
	for _, s := range cfg.Proxies {
		l.Proxies = append(l.Proxies, netip.MustParsePrefix(s).Masked())
	}
	return l
}

// serverOptions returns the options of the server.
func (n *Node) serverOptions(policy *access.Policy) *server.Options {
	return &server.Options{
		Store: n.engine,
		Hooks: server.Hooks{
			Authenticate: func(ctx context.Context, r *http.Request, token string) (server.Principal, error) {
				who, err := policy.Authenticate(ctx, r, token)
				if known := (*access.Undecided)(nil); errors.As(err, &known) {
					n.log.Warn("a credential could not be checked", "reason", known.Err)
				}
				if err == nil {
					err = n.admitted.Client(ctx, who.ID)
				}
				return who, err
			},
			Authorize: policy.Authorize,
			OnPublish: func(ctx context.Context, _ server.Principal, _ server.Message) error {
				return n.admitted.Publish(ctx)
			},
		},
		Hosts: n.cfg.Hosts, Origins: n.cfg.Origins,
		Heartbeat: n.cfg.Heartbeat, SessionTTL: n.cfg.SessionTTL, Dedup: n.cfg.Dedup,
		MaxPayload: n.cfg.MaxPayload, MaxConns: n.cfg.MaxConns, ReconnectRate: n.cfg.ConnectRate,
		Logger: n.log,
	}
}

// newPolicy reads the keys that the settings name.
func newPolicy(cfg *config.Config) (*access.Policy, error) {
	p := &access.Policy{Default: access.Rights{Subscribe: cfg.Subscribe, Publish: cfg.Publish}}
	switch cfg.Auth {
	case config.AuthJWT:
		var keys [][]byte
		for _, path := range cfg.JWTKeys {
			data, err := config.Bytes("jwt-keys", path, 64<<10)
			if err != nil {
				return nil, err
			}
			keys = append(keys, data)
		}
		tokens, err := access.NewTokens(keys, cfg.JWTIssuer, cfg.JWTAudience)
		if err != nil {
			return nil, &config.Error{Key: "jwt-keys", Reason: err.Error()}
		}
		p.Verifier = tokens
	case config.AuthHTTP:
		p.Verifier = access.NewCallback(cfg.AuthURL, cfg.AuthTimeout)
	default:
		p.Verifier = access.Anonymous{}
	}
	return p, nil
}

// measure prepares what /metrics shows.
func (n *Node) measure() error {
	n.registry = prometheus.NewRegistry()
	collector := prom.NewCollector(nil)
	if err := collector.AddServer("gateway", n.server); err != nil {
		return err
	}
	all := []error{n.registry.Register(collector), n.registry.Register(&gauges{n})}
	if e, ok := n.engine.(shared); ok {
		all = append(all, n.registry.Register(engineMetrics{e}))
	}
	return errors.Join(all...)
}

// Addresses returns those that the gateway listens on; admin is "" if there is none.
func (n *Node) Addresses() (clients, admin string) {
	if n.admin != nil {
		admin = n.admin.Addr().String()
	}
	return n.clients.Addr().String(), admin
}

// Run serves until ctx ends, and then leaves in order: /healthz fails, the clients are asked to
// go elsewhere, what is left is closed. It returns nil if all clients have left in time.
func (n *Node) Run(ctx context.Context) error {
	defer n.close()
	serving, cancel := context.WithCancel(context.Background())
	defer cancel()
	inside := n.httpServer(n.adminHandler())
	ended := make(chan error, 2)
	go func() { ended <- serve(n.web, n.clients) }()
	if n.admin != nil {
		go func() { ended <- serve(inside, n.admin) }()
	}
	go n.watch(serving)
	var err error
	select {
	case err = <-ended:
		n.log.Error("a listener has failed", "error", err)
	case <-ctx.Done():
		err = n.leave()
	}
	closing, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	n.web.Shutdown(closing)
	inside.Shutdown(closing)
	return err
}

// headerTimeout bounds the time for the header of a request.
const headerTimeout = 10 * time.Second

func serve(s *http.Server, l net.Listener) error {
	var err error
	if s.TLSConfig != nil {
		err = s.ServeTLS(l, "", "")
	} else {
		err = s.Serve(l)
	}
	return fmt.Errorf("%s: %w", l.Addr(), err)
}

// close ends what Start has begun.
func (n *Node) close() {
	if n.server != nil {
		n.server.Close()
	}
	if n.engine != nil {
		if err := n.engine.Close(); err != nil {
			n.log.Error("the engine could not be closed", "error", err)
		}
	}
	for _, l := range []net.Listener{n.clients, n.admin} {
		if l != nil {
			l.Close()
		}
	}
}
