package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	"github.com/limpet-go/limpet"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"nhooyr.io/websocket"
)

const publishWindow = 4000

var publishRow = row{
	id: "P3", title: "acked publish, asynchronous, 64 B, window 4,000 (P3)", metric: "cpu", unit: "client CPU ns a message",
	variants: []variant{{name: "64 B", with: sized(64, 100_000)}},
	candidates: []contender{
		{"limpet Publish, Flush", "limpet", limpetPublish(1, false, false)},
		{"limpet PublishBatch of 64, Flush", "limpet", limpetPublish(64, false, false)},
		{"limpet Publish, Wait on each receipt", "limpet", limpetPublish(1, true, false)},
		{"limpet PublishBatch of 64, PlainFrames", "limpet", limpetPublish(64, false, true)},
		{"JetStream PublishAsync", "nats", natsPublishAsync},
	},
	compare: []comparison{
		{variant: "64 B", ours: "limpet PublishBatch of 64, Flush", against: "JetStream PublishAsync", inverse: true, floor: 4, goal: 8},
		{variant: "64 B", ours: "limpet Publish, Wait on each receipt", against: "JetStream PublishAsync", inverse: true, floor: 4, goal: 5},
		{variant: "64 B", ours: "limpet PublishBatch of 64, Flush", metric: "allocs", floor: 2, goal: 2},
		{variant: "64 B", ours: "limpet Publish, Wait on each receipt", metric: "allocs", floor: 2, goal: 2},
	},
}

func limpetPublish(batch int, wait, plain bool) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		ctx := context.Background()
		c, err := limpet.Dial(ctx, "ws://"+s.Addr+"/", &limpet.Options{Window: limpet.Window{Messages: publishWindow}, PlainFrames: plain})
		if err != nil {
			return nil, err
		}
		defer c.Close()
		if _, err := c.Send(ctx, "bench", nil, nil); err != nil {
			return nil, err
		}
		m := startMeter(s)
		if err := publishAll(c, s.Messages, s.Size, batch, wait); err != nil {
			return nil, err
		}
		out := m.stop(s.Messages)
		if st := c.Stats(); st.Acked != uint64(s.Messages)+1 {
			return nil, fmt.Errorf("%d of %d messages acknowledged", st.Acked-1, s.Messages)
		}
		return with(out, c), nil
	}
}

// publishAll publishes n messages and returns when all have their outcome.
// With wait a second goroutine waits for each receipt.
func publishAll(c *limpet.Client, n, size, batch int, wait bool) error {
	ctx := context.Background()
	payload := make([]byte, size)
	var receipts chan *limpet.Receipt
	waited := make(chan error, 1)
	if wait {
		receipts = make(chan *limpet.Receipt, publishWindow)
		go func() {
			for r := range receipts {
				if _, err := r.Wait(ctx); err != nil {
					waited <- err
					return
				}
			}
			waited <- nil
		}()
	}
	ms := make([]limpet.Outgoing, batch)
	for i := range ms {
		ms[i] = limpet.Outgoing{Topic: "bench", Payload: payload}
	}
	for left := n; left > 0; left -= batch {
		if batch > 1 {
			if _, err := c.PublishBatch(ctx, ms[:min(batch, left)]); err != nil {
				return err
			}
			continue
		}
		r, err := c.Publish(ctx, "bench", payload, nil)
		if err != nil {
			return err
		}
		if wait {
			receipts <- r
		}
	}
	if wait {
		close(receipts)
		return <-waited
	}
	return c.Flush(ctx)
}

func jetStream(addr string) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := nats.Connect("ws://" + addr)
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(publishWindow))
	if err != nil {
		return nil, nil, err
	}
	_, err = js.CreateOrUpdateStream(context.Background(), jetstream.StreamConfig{
		Name: "bench", Subjects: []string{"bench"}, Storage: jetstream.MemoryStorage, MaxMsgs: 100_000, Discard: jetstream.DiscardOld,
	})
	return nc, js, err
}

// publishAsync tries again if the window has been full for the 200 ms that JetStream
// waits.
func publishAsync(js jetstream.JetStream, payload []byte) (jetstream.PubAckFuture, error) {
	for {
		f, err := js.PublishAsync("bench", payload)
		if !errors.Is(err, jetstream.ErrTooManyStalledMsgs) {
			return f, err
		}
	}
}

func natsPublishAsync(s spec) (outcome, error) {
	nc, js, err := jetStream(s.Addr)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	payload := make([]byte, s.Size)
	m := startMeter(s)
	var last jetstream.PubAckFuture
	for range s.Messages {
		if last, err = publishAsync(js, payload); err != nil {
			return nil, err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(30 * time.Second):
		return nil, fmt.Errorf("JetStream left %d messages open", js.PublishAsyncPending())
	}
	select {
	case <-last.Ok():
	case err := <-last.Err():
		return nil, err
	}
	return m.stop(s.Messages), nil
}

const waiting = 256

var waitingRow = row{
	id: "P4", title: "acked publish, 256 waiting goroutines, 64 B (P4)", metric: "cpu", unit: "client CPU ns a message",
	variants: []variant{{name: "64 B", with: sized(64, 50_000)}},
	candidates: []contender{
		{"limpet Send", "limpet", limpetSend(waiting, false)},
		{"JetStream Publish", "nats", natsSend(waiting)},
		{"autopaho QoS 1", "mqtt", mqttSend(waiting)},
	},
	compare: []comparison{
		{variant: "64 B", ours: "limpet Send", against: "JetStream Publish", inverse: true, floor: 0.8, goal: 1.5},
		{variant: "64 B", ours: "limpet Send", against: "autopaho QoS 1", inverse: true, floor: 1.5, goal: 3},
	},
}

var roundTripRow = row{
	id: "P5", title: "acked round trip, one in flight, 64 B (P5)", metric: "p50", unit: "p50 in µs",
	variants: []variant{{name: "64 B", with: sized(64, 5_000)}},
	candidates: []contender{
		{"limpet Send", "limpet", limpetSend(1, false)},
		{"limpet Send, PlainFrames", "limpet", limpetSend(1, true)},
		{"nhooyr echo", "blast", nhooyrEcho},
		{"JetStream Publish", "nats", natsSend(1)},
		{"autopaho QoS 1", "mqtt", mqttSend(1)},
	},
	compare: []comparison{
		{variant: "64 B", ours: "limpet Send", against: "nhooyr echo", floor: 1.35, goal: 1.15},
	},
}

// rounds lets the given number of goroutines call do, s.Messages times in total.
func rounds(s spec, goroutines int, do func() error) (outcome, error) {
	for range 200 {
		if err := do(); err != nil {
			return nil, err
		}
	}
	m := startMeter(s)
	took := make([][]time.Duration, goroutines)
	errs := make(chan error, goroutines)
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for range s.Messages / goroutines {
				at := time.Now()
				if err := do(); err != nil {
					errs <- err
					return
				}
				took[g] = append(took[g], time.Since(at))
			}
		})
	}
	all.Wait()
	out := m.stop(s.Messages / goroutines * goroutines)
	select {
	case err := <-errs:
		return nil, err
	default:
	}
	d := slices.Concat(took...)
	slices.Sort(d)
	out["p50"] = float64(d[len(d)/2]) / 1e3
	out["p99"] = float64(d[len(d)*99/100]) / 1e3
	return out, nil
}

func limpetSend(goroutines int, plain bool) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		ctx := context.Background()
		c, err := limpet.Dial(ctx, "ws://"+s.Addr+"/", &limpet.Options{PlainFrames: plain})
		if err != nil {
			return nil, err
		}
		defer c.Close()
		payload := make([]byte, s.Size)
		return rounds(s, goroutines, func() error {
			_, err := c.Send(ctx, "bench", payload, nil)
			return err
		})
	}
}

func natsSend(goroutines int) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		nc, js, err := jetStream(s.Addr)
		if err != nil {
			return nil, err
		}
		defer nc.Close()
		payload := make([]byte, s.Size)
		return rounds(s, goroutines, func() error {
			_, err := js.Publish(context.Background(), "bench", payload)
			return err
		})
	}
}

func mqttClient(ctx context.Context, addr string, change func(*autopaho.ClientConfig)) (*autopaho.ConnectionManager, error) {
	u, err := url.Parse("ws://" + addr)
	if err != nil {
		return nil, err
	}
	cfg := autopaho.ClientConfig{
		ServerUrls: []*url.URL{u}, KeepAlive: 60, SessionExpiryInterval: 60, ConnectTimeout: 5 * time.Second,
		ClientConfig: paho.ClientConfig{ClientID: "bench"},
	}
	if change != nil {
		change(&cfg)
	}
	cm, err := autopaho.NewConnection(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return cm, cm.AwaitConnection(ctx)
}

func mqttSend(goroutines int) func(spec) (outcome, error) {
	return func(s spec) (outcome, error) {
		ctx, cancel := context.WithCancel(context.Background())
		cm, err := mqttClient(ctx, s.Addr, nil)
		if err != nil {
			cancel()
			return nil, err
		}
		defer func() { cancel(); <-cm.Done() }()
		payload := make([]byte, s.Size)
		return rounds(s, goroutines, func() error {
			_, err := cm.Publish(ctx, &paho.Publish{QoS: 1, Topic: "bench", Payload: payload})
			return err
		})
	}
}

func nhooyrEcho(s spec) (outcome, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+s.Addr+"/echo", &websocket.DialOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil, err
	}
	defer c.CloseNow()
	payload, buf := make([]byte, s.Size), make([]byte, s.Size+1)
	return rounds(s, 1, func() error {
		if err := c.Write(ctx, websocket.MessageBinary, payload); err != nil {
			return err
		}
		_, r, err := c.Reader(ctx)
		if err != nil {
			return err
		}
		return readAll(r, buf, s.Size)
	})
}
