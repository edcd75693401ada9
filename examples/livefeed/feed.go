package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/server/file"
)

// localFeed is a feed with a server in this process, on a real port.
type localFeed struct {
	server *server.Server
	store  *file.Store // nil: the messages are in memory
	read   func(from uint64, dst []*server.Entry) (n int, first uint64, err error)
	first  uint64 // where the messages of this run begin
	http   *http.Server
	addr   string
	ended  chan struct{} // the HTTP server has returned
}

// startServer starts a server. With a directory it keeps sessions, messages and ids there.
func startServer(plan sabotage, durable string) (*localFeed, error) {
	f := &localFeed{first: 1, ended: make(chan struct{})}
	opt := &server.Options{Heartbeat: heartbeat}
	var err error
	if durable != "" {
		if f.store, err = file.Open(durable, nil); err != nil {
			return nil, err
		}
		opt.Store, f.first = f.store, f.store.View().Head+1
		f.read = func(from uint64, dst []*server.Entry) (int, uint64, error) {
			return f.store.Read(context.Background(), from, dst)
		}
	} else {
		opt.Log = server.NewMemoryLog(server.Retention{})
		if plan.what != "" {
			opt.Log = &saboteur{Log: opt.Log, plan: plan}
		}
		f.read = opt.Log.Read
	}
	if f.server, err = server.New(opt); err != nil {
		f.closeStore()
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.server.Close()
		f.closeStore()
		return nil, err
	}
	f.addr = ln.Addr().String()
	f.http = &http.Server{Handler: f.server, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		defer close(f.ended)
		_ = f.http.Serve(ln)
	}()
	return f, nil
}

func (f *localFeed) target() string         { return f.addr }
func (f *localFeed) url(addr string) string { return "ws://" + addr + "/" }

func (f *localFeed) publish(ctx context.Context, topic string, b []byte) error {
	_, err := f.server.Publish(ctx, topic, b, nil)
	return err
}

// alerts reads the log itself, not what a subscription received.
func (f *localFeed) alerts(_ context.Context, t *tally) error {
	buf := make([]*server.Entry, 256)
	for from := f.first; ; {
		n, _, err := f.read(from, buf)
		if err != nil || n == 0 {
			return err
		}
		for _, e := range buf[:n] {
			if strings.HasPrefix(e.Topic, alertPrefix) {
				t.observe(e.Payload)
			}
		}
		from = buf[n-1].Offset + 1
	}
}

func (f *localFeed) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = f.server.Shutdown(ctx)
	f.http.Close()
	<-f.ended
	f.server.Close()
	f.closeStore()
}

func (f *localFeed) closeStore() {
	if f.store != nil {
		_ = f.store.Close()
	}
}

// remoteFeed is a feed with a server that runs elsewhere. A second client, connected
// directly, publishes the events and subscribes to the alerts.
type remoteFeed struct {
	at     *url.URL
	client *limpet.Client
	alarms *limpet.Subscription
}

// endAlerts is the topic of the last message to alerts/*; no network has this name.
const endAlerts = alertPrefix + "end"

func useServer(ctx context.Context, at *url.URL) (*remoteFeed, error) {
	c, err := limpet.Dial(ctx, at.String(), clientOptions())
	if err != nil {
		return nil, err
	}
	f := &remoteFeed{at: at, client: c}
	// Alerts are counted after the run, so there must be room for all of them.
	f.alarms, err = c.Subscribe(ctx, alertTopics, &limpet.SubscribeOptions{Delivery: limpet.Delivery{Buffer: 10_000}})
	if err == nil {
		err = f.alarms.WaitLive(ctx)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return f, nil
}

func (f *remoteFeed) target() string { return f.at.Host }

func (f *remoteFeed) url(addr string) string {
	u := *f.at
	u.Host = addr
	return u.String()
}

func (f *remoteFeed) publish(ctx context.Context, topic string, b []byte) error {
	_, err := f.client.Send(ctx, topic, b, nil)
	return err
}

func (f *remoteFeed) alerts(ctx context.Context, t *tally) error {
	if err := f.publish(ctx, endAlerts, []byte(`{}`)); err != nil {
		return err
	}
	for m, err := range f.alarms.Messages(ctx) {
		switch {
		case err != nil:
			return err
		case m.Kind == limpet.Gap || m.Kind == limpet.Reset:
			return errors.New("the server lost alerts: " + m.Kind.String())
		case m.Topic == endAlerts:
			return nil
		}
		t.observe(m.Payload)
	}
	return errors.New("the subscription ended early")
}

func (f *remoteFeed) close() { closeClient(f.client) }
