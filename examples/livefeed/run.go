package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet"
)

// The time constants of a run. They are a hundredth of those of a service, so that a
// dozen faults fit into ten seconds.
const (
	heartbeat  = 200 * time.Millisecond
	backoffMin = 50 * time.Millisecond
	backoffMax = 500 * time.Millisecond
)

// clientOptions returns the options of both clients of the example.
func clientOptions() *limpet.Options {
	return &limpet.Options{
		Backoff: limpet.Backoff{
			First: backoffMin, Initial: backoffMin, Max: backoffMax,
			StableAfter: backoffMax, // otherwise the 20th fault in a row would raise Max fourfold
		},
		Heartbeat:     limpet.Heartbeat{Interval: heartbeat},
		DialTimeout:   2 * time.Second,
		AllowInsecure: true, // -addr may name another host
	}
}

// feed is the server's side of a run.
type feed interface {
	// target returns the host:port that the proxy forwards to.
	target() string

	// url returns the URL of the server, reached through addr.
	url(addr string) string

	// publish returns when the server has accepted the message.
	publish(ctx context.Context, topic string, b []byte) error

	// alerts counts the alerts that the server accepted in this run.
	alerts(ctx context.Context, t *tally) error

	close()
}

// session is one run.
type session struct {
	cfg    config
	quakes []quake
	feed   feed
	proxy  *proxy
	client *limpet.Client
	score  *score
	record *record

	published, delivered, alerts, acked atomic.Int64
}

// run replays the quakes once. It takes at most three times the length of the replay.
func run(ctx context.Context, cfg config, quakes []quake, out io.Writer, live bool) *result {
	length := time.Duration(float64(realTime) / cfg.speed)
	ctx, cancel := context.WithTimeout(ctx, 3*max(length, realTime))
	defer cancel()
	start := time.Now()
	r := &result{score: newScore(quakes), alerts: newTally(quakes), level: cfg.level}
	s := &session{cfg: cfg, quakes: quakes, score: r.score, record: newRecord()}

	introduce(out, cfg, len(quakes), length)
	fail := func(doing string, err error) *result {
		r.trouble = append(r.trouble, doing+": "+err.Error())
		r.elapsed = time.Since(start)
		return r
	}

	var err error
	if cfg.addr == nil {
		s.feed, err = startServer(cfg.sabotage, cfg.durable)
	} else {
		fmt.Fprintln(out, "livefeed: with -addr alerts are counted by a second client's subscription, from the beginning of this run")
		s.feed, err = useServer(ctx, cfg.addr)
	}
	if err != nil {
		return fail("server", err)
	}
	defer s.feed.close()
	if s.proxy, err = startProxy(s.feed.target(), cfg.plan()); err != nil {
		return fail("proxy", err)
	}
	defer s.proxy.close()
	if s.client, err = limpet.New(s.feed.url(s.proxy.addr()), clientOptions()); err != nil {
		return fail("client", err)
	}
	defer closeClient(s.client)

	watching, stopWatching := context.WithCancel(ctx)
	var background sync.WaitGroup
	background.Go(func() { s.watch(watching) })
	p := startProgress(out, live, func() sample { return s.sample(start) })
	r.trouble = append(r.trouble, s.play(ctx, p)...)
	if err := s.feed.alerts(ctx, r.alerts); err != nil {
		r.trouble = append(r.trouble, "counting alerts: "+err.Error())
	}
	p.stop()
	stopWatching()
	background.Wait()

	r.acked = int(s.acked.Load())
	r.faults = s.proxy.happened()
	r.reconnects = s.reconnects()
	r.elapsed = time.Since(start)
	if cfg.picture != "" {
		svg := picture(s.record, r.faults, len(quakes), caption(r, cfg))
		if err := os.WriteFile(cfg.picture, []byte(svg), 0o644); err != nil {
			r.trouble = append(r.trouble, "picture: "+err.Error())
		}
	}
	return r
}

func introduce(out io.Writer, cfg config, quakes int, length time.Duration) {
	fmt.Fprintf(out, "livefeed: %d earthquakes in about %v; faults %s, seed %d\n",
		quakes, length.Round(time.Millisecond), cfg.level.name, cfg.seed)
	fmt.Fprintf(out, "livefeed: fast time constants, for a short run: heartbeat %v, backoff %v to %v\n",
		heartbeat, backoffMin, backoffMax)
}

// plan returns the faults of the run, at its speed.
func (cfg config) plan() []fault {
	plan := schedule(cfg.level, cfg.seed)
	for i := range plan {
		plan[i].after = time.Duration(float64(plan[i].after) / cfg.speed)
	}
	return plan
}

func caption(r *result, cfg config) string {
	return fmt.Sprintf("%d earthquakes, %d faults (%s, seed %d), %d reconnects: %d delivered, %d lost, %d duplicated, %d reordered",
		len(r.score.quakes), len(r.faults), cfg.level.name, cfg.seed, r.reconnects,
		r.score.delivered, r.score.lost(), r.score.duplicated, r.score.reordered)
}

// play publishes and consumes until the last message of the run has been delivered
// and every alert has an outcome. It returns what went wrong.
func (s *session) play(ctx context.Context, p *progress) (trouble []string) {
	sub, err := s.client.Subscribe(ctx, quakeTopics, nil)
	if err != nil {
		return []string{"subscribe: " + err.Error()}
	}
	if err := sub.WaitLive(ctx); err != nil {
		return []string{"subscribe: " + err.Error()}
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var publishing, settling sync.WaitGroup
	var publishErr error
	publishing.Go(func() { publishErr = s.publish(ctx) })
	receipts := make(chan *limpet.Receipt, len(s.quakes))
	settling.Go(func() { s.settle(ctx, receipts) })

	consumeErr := s.consume(ctx, sub, receipts, p)
	close(receipts)
	if consumeErr != nil {
		cancel()
	}
	publishing.Wait()
	settling.Wait()
	for _, e := range []struct {
		doing string
		err   error
	}{{"publishing", publishErr}, {"consuming", consumeErr}} {
		switch {
		case errors.Is(e.err, context.DeadlineExceeded):
			trouble = append(trouble, e.doing+": not finished at the deadline")
		case e.err != nil && !errors.Is(e.err, context.Canceled):
			trouble = append(trouble, e.doing+": "+e.err.Error())
		}
	}
	if len(trouble) == 0 && (publishErr != nil || consumeErr != nil) {
		trouble = append(trouble, "interrupted")
	}
	return trouble
}

// publish replays the file and then, when every fault has happened, sends the message
// that ends the run. The log has one order, so everything that was accepted before
// that message is delivered before it or is lost.
func (s *session) publish(ctx context.Context) error {
	start := time.Now()
	t := time.NewTimer(0)
	defer t.Stop()
	<-t.C
	for i := range s.quakes {
		q := &s.quakes[i]
		if wait := time.Duration(float64(q.Due)/s.cfg.speed) - time.Since(start); wait > 0 {
			t.Reset(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		s.published.Add(1)
		s.record.note(&s.record.published)
		if err := s.feed.publish(ctx, q.topic(), q.Body); err != nil {
			return err
		}
	}
	select {
	case <-s.proxy.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.feed.publish(ctx, endTopic, []byte(`{}`))
}

// consume receives messages until the last one of the run and publishes the alerts.
func (s *session) consume(ctx context.Context, sub *limpet.Subscription, receipts chan<- *limpet.Receipt, p *progress) error {
	for m, err := range sub.Messages(ctx) {
		if err != nil {
			return err
		}
		switch {
		case m.Kind == limpet.Gap || m.Kind == limpet.Reset:
			p.note("livefeed: the stream has a %v at offset %d", m.Kind, m.Position.Offset)
			continue
		case m.Topic == endTopic:
			return nil
		}
		q := s.score.observe(m.Topic, m.Payload)
		s.delivered.Add(1)
		s.record.note(&s.record.delivered)
		if q == nil || !q.alerts() {
			continue
		}
		body, err := json.Marshal(alert{q.ID, q.Mag})
		if err != nil {
			return err
		}
		receipt, err := s.client.Publish(ctx, alertPrefix+q.Net, body, nil)
		if err != nil {
			return fmt.Errorf("alert for %s: %w", q.ID, err)
		}
		s.alerts.Add(1)
		receipts <- receipt
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.New("the subscription ended early")
}

// settle waits for the outcome of each alert.
func (s *session) settle(ctx context.Context, receipts <-chan *limpet.Receipt) {
	for r := range receipts {
		if a, err := r.Wait(ctx); err == nil && a.Outcome == limpet.Acked {
			s.acked.Add(1)
			s.record.note(&s.record.acked)
		}
	}
}

// watch records when there is a connection and when there is none.
func (s *session) watch(ctx context.Context) {
	for ready := false; ; {
		s.record.connected(ready)
		state, err := s.client.WaitState(ctx, func(st limpet.State) bool { return (st.Phase == limpet.Ready) != ready })
		if err != nil {
			return
		}
		ready = state.Phase == limpet.Ready
	}
}

func (s *session) reconnects() int { return max(int(s.client.Stats().Connections)-1, 0) }

func (s *session) sample(start time.Time) sample {
	return sample{
		elapsed: time.Since(start), total: len(s.quakes),
		published: int(s.published.Load()), delivered: int(s.delivered.Load()),
		alerts: int(s.alerts.Load()), acked: int(s.acked.Load()),
		reconnects: s.reconnects(), faults: len(s.proxy.happened()),
		state: s.client.State().Phase.String(),
	}
}

// closeClient ends c and gives its goroutines a moment to end.
func closeClient(c *limpet.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Shutdown(ctx) // a failed run may have messages without a consumer
}
