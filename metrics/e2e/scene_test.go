package e2e

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/metrics/prom"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scene is what Prometheus scrapes: clients and servers over real sockets. Each client
// has a link of its own to its server, so that a fault concerns one client.
type scene struct {
	t         *testing.T
	collector *prom.Collector
	target    string // host and port of /metrics
	work      sync.WaitGroup
	ctx       context.Context // until the end of the test
	cancel    func()          // ends it, before clients and servers are closed
}

func newScene(t *testing.T) *scene {
	ctx, cancel := context.WithCancel(context.Background())
	s := &scene{t: t, ctx: ctx, cancel: cancel}
	s.collector = prom.NewCollector(&prom.Options{Subscription: func(topic string) string {
		first, _, _ := strings.Cut(topic, "/")
		return first
	}})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.collector)
	metrics := limpettest.NewHandler(t, promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}),
		&limpettest.HostOptions{Loopback: true})
	s.target = metrics.Addr()
	t.Cleanup(s.work.Wait)
	t.Cleanup(cancel)
	return s
}

func (s *scene) server(name string, o *server.Options) *server.Server {
	s.t.Helper()
	srv, err := server.New(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { s.cancel(); srv.Close() })
	if err := s.collector.AddServer(name, srv); err != nil {
		s.t.Fatal(err)
	}
	return srv
}

// link returns a host of its own for h.
func (s *scene) link(h http.Handler) *limpettest.Host {
	return limpettest.NewHandler(s.t, h, &limpettest.HostOptions{Loopback: true})
}

// timed is a dialect whose messages have a time, of half a second before.
type timed struct{ wire.Dialect }

func (d timed) Open(r wire.Resume) (wire.Codec, error) {
	c, err := d.Dialect.Open(r)
	return timedCodec{c}, err
}

type timedCodec struct{ wire.Codec }

func (c timedCodec) Decode(f wire.Frame, out *wire.Events) error {
	err := c.Codec.Decode(f, out)
	for i := range out.List {
		out.List[i].Message.Time = time.Now().Add(-500 * time.Millisecond).UnixNano()
	}
	return err
}

func (s *scene) client(name string, link *limpettest.Host) *limpet.Client {
	s.t.Helper()
	return s.clientWith(name, link, 0)
}

// clientWith is client with an Options.Memory, 0 for the default.
func (s *scene) clientWith(name string, link *limpettest.Host, memory int) *limpet.Client {
	s.t.Helper()
	c, err := limpet.New(link.URL(), &limpet.Options{
		Dialect:    timed{native.New(nil)},
		Backoff:    limpet.Backoff{First: 50 * time.Millisecond, Initial: 50 * time.Millisecond, Max: 100 * time.Millisecond},
		Heartbeat:  limpet.Heartbeat{Interval: time.Second},
		Memory:     memory,
		ReadLimit:  int64(memory / 2),
		Histograms: true,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { s.cancel(); c.Close() })
	if err := s.collector.AddClient(name, c); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// subscribe opens a subscription and takes its messages. Before each message, pause is
// called if it is not nil.
func (s *scene) subscribe(c *limpet.Client, topic string, o *limpet.SubscribeOptions, pause func()) *limpet.Subscription {
	sub, err := c.Subscribe(s.ctx, topic, o)
	if err != nil {
		s.t.Error(err)
		return nil
	}
	s.work.Go(func() {
		for _, err := range sub.Messages(s.ctx) {
			if err != nil && s.ctx.Err() == nil {
				s.t.Errorf("subscription to %s: %v", topic, err)
			}
			if pause != nil && s.ctx.Err() == nil {
				pause()
			}
		}
	})
	return sub
}

// every calls do at once and then once in each interval until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ctx.Err() == nil {
		do()
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// publish publishes to topic of srv in each interval until ctx ends.
func (s *scene) publish(ctx context.Context, srv *server.Server, topic string, size int, interval time.Duration) {
	payload := make([]byte, size)
	every(ctx, interval, func() {
		if _, err := srv.Publish(ctx, topic, payload, nil); err != nil && ctx.Err() == nil {
			s.t.Errorf("the server cannot publish to %s: %v", topic, err)
		}
	})
}

// send publishes to topic through c in each interval until ctx ends.
func (s *scene) send(ctx context.Context, c *limpet.Client, topic string, interval time.Duration) {
	every(ctx, interval, func() {
		if _, err := c.Publish(ctx, topic, []byte("{}"), nil); err != nil && ctx.Err() == nil {
			s.t.Errorf("the client cannot publish to %s: %v", topic, err)
		}
	})
}

// fault is something that goes wrong and the alerts that it must cause.
type fault struct {
	alerts []string // alert{label="value"}
	// begin and end are called by the test's goroutine. Nil does nothing.
	begin, end func()
	// during makes things go wrong until ctx ends, and then puts them right. Nil does nothing.
	during func(ctx context.Context)
}

// steady adds a client and a server to which nothing happens.
func (s *scene) steady() {
	srv := s.server("steady", nil)
	c := s.client("steady", s.link(srv))
	s.subscribe(c, "steady/*", nil, nil)
	s.work.Go(func() { s.publish(s.ctx, srv, "steady/down", 100, 50*time.Millisecond) })
	s.work.Go(func() { s.send(s.ctx, c, "steady/up", 50*time.Millisecond) })
}

// faults adds the clients and servers to which something will happen.
func (s *scene) faults() []fault {
	refuses := &atomic.Bool{} // the server refuses subscriptions to private/*
	srv := s.server("feed", &server.Options{
		WriteTimeout: 500 * time.Millisecond,
		Hooks: server.Hooks{
			Authorize: func(_ server.Principal, verb server.Verb, topic string) error {
				if strings.HasPrefix(topic, "forbidden/") {
					return &server.Error{Code: native.CodeForbidden, Reason: "never"}
				}
				if verb == server.VerbSubscribe && strings.HasPrefix(topic, "private/") && refuses.Load() {
					return &server.Error{Code: native.CodeUnavailable, Reason: "not now", Retry: 200 * time.Millisecond}
				}
				return nil
			},
			OnPublish: func(_ context.Context, _ server.Principal, m server.Message) error {
				if strings.HasPrefix(m.Topic, "wrong/") {
					return errors.New("wrong")
				}
				return nil
			},
		},
	})
	s.work.Go(func() { s.publish(s.ctx, srv, "prices/a", 100, 50*time.Millisecond) })
	var all []fault
	for _, f := range []func(*server.Server) fault{s.outage, s.never, s.ended, s.slowConsumer, s.full, s.silent, s.stuck, s.rejected, s.refusing, s.stalled, s.failed} {
		all = append(all, f(srv))
	}
	return append(all, s.missed(), s.refused(srv, refuses))
}

// outage is a server that cannot be reached.
func (s *scene) outage(srv *server.Server) fault {
	link := s.link(srv)
	s.subscribe(s.client("outage", link), "prices/*", nil, nil)
	return fault{
		alerts: []string{`LimpetOutage{client="outage"}`, `LimpetUnavailable{client="outage"}`, `LimpetConnectFailures{client="outage"}`},
		begin:  link.Stop,
		end:    link.Start,
	}
}

// never is a client whose server does not come up.
func (s *scene) never(srv *server.Server) fault {
	link := s.link(srv)
	link.Stop()
	return fault{
		alerts: []string{`LimpetNeverConnected{client="never"}`},
		begin:  func() { s.client("never", link) },
		end:    link.Start,
	}
}

// ended is a client that the server forbids. The program replaces it in the end.
func (s *scene) ended(srv *server.Server) fault {
	forbidden := s.link(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	link := s.link(srv)
	return fault{
		alerts: []string{`LimpetEnded{client="ended"}`},
		begin:  func() { s.client("ended", forbidden) },
		end: func() {
			s.collector.RemoveClient("ended")
			s.client("ended", link)
		},
	}
}

// slowConsumer is a consumer that stands still.
func (s *scene) slowConsumer(srv *server.Server) fault {
	mu := &sync.Mutex{} // held while the consumer stands still
	s.subscribe(s.client("slow", s.link(srv)), "prices/*",
		&limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 8, Overflow: limpet.DropOldest}},
		func() { mu.Lock(); defer mu.Unlock() })
	return fault{
		alerts: []string{`LimpetSlowConsumer{client="slow"}`},
		begin:  mu.Lock,
		end:    mu.Unlock,
	}
}

// full is a consumer that stands still and lets too much wait for the memory of its client.
func (s *scene) full(srv *server.Server) fault {
	mu := &sync.Mutex{} // held while the consumer stands still
	c := s.clientWith("full", s.link(srv), 1<<20)
	s.subscribe(c, "heavy/*", &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 1 << 10, Bytes: 64 << 20, Overflow: limpet.DropOldest}},
		func() { mu.Lock(); defer mu.Unlock() })
	s.subscribe(c, "prices/*", nil, nil) // so that it is not silent
	return fault{
		alerts: []string{`LimpetMemoryNearLimit{client="full"}`, `LimpetSlowConsumer{client="full"}`},
		begin:  mu.Lock,
		end:    mu.Unlock,
		during: func(ctx context.Context) { s.publish(ctx, srv, "heavy/a", 64<<10, 50*time.Millisecond) },
	}
}

// silent is a source that publishes nothing.
func (s *scene) silent(srv *server.Server) fault {
	quiet := &atomic.Bool{}
	s.subscribe(s.client("silent", s.link(srv)), "quiet/*", nil, nil)
	s.work.Go(func() {
		every(s.ctx, 50*time.Millisecond, func() {
			if !quiet.Load() {
				_, _ = srv.Publish(s.ctx, "quiet/a", nil, nil) // if it fails, the client stays silent
			}
		})
	})
	return fault{
		alerts: []string{`LimpetSilent{client="silent"}`},
		begin:  func() { quiet.Store(true) },
		end:    func() { quiet.Store(false) },
	}
}

// stuck is a path on which nothing reaches the server.
func (s *scene) stuck(srv *server.Server) fault {
	link := s.link(srv)
	c := s.client("stuck", link)
	s.work.Go(func() { s.send(s.ctx, c, "orders/a", 50*time.Millisecond) })
	return fault{
		alerts: []string{`LimpetPublishStuck{client="stuck"}`},
		during: func(ctx context.Context) {
			every(ctx, 200*time.Millisecond, func() { link.Network.Strike(limpettest.BlackHole(limpettest.Up)) })
			link.Network.ResetAll()
		},
	}
}

// rejected is a publisher whose messages the server rejects.
func (s *scene) rejected(srv *server.Server) fault {
	c := s.client("rejected", s.link(srv))
	return fault{
		alerts: []string{`LimpetPublishFailed{client="rejected",outcome="rejected"}`},
		during: func(ctx context.Context) { s.send(ctx, c, "wrong/a", 100*time.Millisecond) },
	}
}

// refusing is a stream of requests that the server refuses.
func (s *scene) refusing(srv *server.Server) fault {
	link := s.link(srv)
	return fault{
		alerts: []string{`LimpetServerRefusing{server="feed"}`},
		during: func(ctx context.Context) {
			every(ctx, 50*time.Millisecond, func() {
				r, err := http.NewRequestWithContext(ctx, http.MethodGet, link.HTTPURL(), nil)
				if err != nil {
					s.t.Error(err)
					return
				}
				response, err := http.DefaultClient.Do(r)
				if err == nil {
					response.Body.Close()
				} else if ctx.Err() == nil {
					s.t.Error(err)
				}
			})
		},
	}
}

// stalled is a client that does not read while the server has much to send.
func (s *scene) stalled(srv *server.Server) fault {
	link := s.link(srv)
	c := s.client("stalled", link)
	s.subscribe(c, "bulk/*", nil, nil)
	s.subscribe(c, "prices/*", nil, nil) // so that it is not silent afterwards
	return fault{
		alerts: []string{`LimpetServerSlowClients{server="feed"}`},
		during: func(ctx context.Context) {
			var bulk sync.WaitGroup
			defer bulk.Wait()
			bulk.Go(func() { s.publish(ctx, srv, "bulk/a", 64<<10, 50*time.Millisecond) })
			every(ctx, time.Second, func() { link.Network.Strike(limpettest.Stall(30*time.Second).AfterBytes(limpettest.Down, 1)) })
			link.Network.ResetAll()
		},
	}
}

// missed is an outage that lasts longer than the server keeps messages.
func (s *scene) missed() fault {
	srv := s.server("forgetful", &server.Options{Retention: server.Retention{Count: 20}})
	link := s.link(srv)
	c := s.client("missed", link)
	s.subscribe(c, "prices/*", nil, nil)
	s.work.Go(func() { s.publish(s.ctx, srv, "prices/a", 100, 100*time.Millisecond) })
	return fault{
		alerts: []string{`LimpetMessagesMissed{client="missed"}`},
		during: func(ctx context.Context) {
			every(ctx, 200*time.Millisecond, func() {
				if c.State().Phase != limpet.Ready || c.Stats().Live == 0 {
					return // still back from the outage before
				}
				link.Stop()
				for range 100 {
					_, _ = srv.Publish(ctx, "prices/a", nil, nil) // it fails only when ctx has ended
				}
				link.Start()
			})
		},
	}
}

// failed is a subscription that the server refuses for good.
func (s *scene) failed(srv *server.Server) fault {
	c := s.client("failed", s.link(srv))
	s.subscribe(c, "prices/*", nil, nil)
	return fault{
		alerts: []string{`LimpetSubscriptionFailed{client="failed"}`},
		begin: func() {
			if _, err := c.Subscribe(s.ctx, "forbidden/a", nil); err != nil {
				s.t.Error(err)
			}
		},
	}
}

// refused is a subscription that the server refuses for now.
func (s *scene) refused(srv *server.Server, refuses *atomic.Bool) fault {
	c := s.client("refused", s.link(srv))
	s.subscribe(c, "prices/*", nil, nil)
	return fault{
		alerts: []string{`LimpetSubscriptionDown{client="refused"}`},
		begin: func() {
			refuses.Store(true)
			s.subscribe(c, "private/a", nil, nil)
		},
		end: func() { refuses.Store(false) },
	}
}
