package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire/native"
)

// patience bounds how long anything may be stuck once a fault is over.
const patience = 10 * time.Second

// patterns are what each subscriber subscribes to; topics what publishers use.
var (
	patterns = []string{"t/*", "**", "t/1", "t/2", "*/3"}
	topics   = []string{"t/0", "t/1", "t/2", "t/3", "t/4"}
)

// lastType is the type of the last message of each topic.
const lastType = "last"

// load is clients that publish and subscribe, and what they saw.
type load struct {
	rec      limpettest.Recorder
	epoch    string // of the log at the start
	sabotage string // planted fault
	clients  []*limpet.Client
	pubs     []*publisher
	subs     []*subscription

	ctx               context.Context
	cancel            context.CancelFunc
	stopped           chan struct{} // publishers stop
	publishing, taken sync.WaitGroup
	noting            sync.WaitGroup // of resumes, until the clients have ended

	mu        sync.Mutex // leaf
	published map[uuid.UUID]time.Time
	waits     []time.Duration // until an acknowledgement
	resumed   []time.Duration // from the first attempt after a loss until the session was resumed
	outcomes  map[limpet.Outcome]int
	errs      []error
}

// publisher is a client that publishes.
type publisher struct {
	name    string
	client  *limpet.Client
	pending atomic.Int64 // messages without an outcome
	newest  atomic.Int64 // when the newest message with an outcome was published; ns since 1970
}

// subscription is one of a subscriber.
type subscription struct {
	name, pattern string
	newest        atomic.Int64 // when the newest message that arrived was published
	delivered     atomic.Int64
	gaps, resets  atomic.Int64
	done          chan struct{} // it has the last messages
}

// fail notes what must not happen.
func (l *load) fail(format string, a ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, fmt.Errorf(format, a...))
}

// startLoad starts clients on url. epoch is that of the log, which is empty.
func startLoad(ctx context.Context, url, epoch string, publishers, subscribers int, seed uint64, sabotage string) (*load, error) {
	l := &load{epoch: epoch, sabotage: sabotage, stopped: make(chan struct{}), published: map[uuid.UUID]time.Time{}, outcomes: map[limpet.Outcome]int{}}
	l.ctx, l.cancel = context.WithCancel(ctx)
	for n := range subscribers {
		c, err := l.client(url, n)
		if err != nil {
			return l, err
		}
		for _, pattern := range patterns {
			if err := l.subscribe(c, fmt.Sprintf("%s of %d", pattern, n), pattern); err != nil {
				return l, err
			}
		}
	}
	for n := range publishers {
		c, err := l.client(url, n)
		if err != nil {
			return l, err
		}
		p := &publisher{name: fmt.Sprint("p", n), client: c}
		l.pubs = append(l.pubs, p)
		l.publishing.Go(func() { l.publish(p, rand.New(rand.NewPCG(seed, uint64(n)))) })
	}
	return l, nil
}

// client makes the nth client of a kind: every other one uses JSON.
func (l *load) client(url string, n int) (*limpet.Client, error) {
	encoding := native.Binary
	if n%2 == 1 {
		encoding = native.JSON
	}
	var dialled atomic.Int64 // the first time since it was ready; ns since 1970, 0: not yet
	through := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled.CompareAndSwap(0, time.Now().UnixNano())
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	c, err := limpet.New(url, &limpet.Options{
		HTTPClient: &http.Client{Transport: through}, Dialect: native.New(&native.Options{Encoding: encoding}),
		Backoff: limpet.Backoff{First: 50 * time.Millisecond, Initial: 100 * time.Millisecond, Max: time.Second},
	})
	if err == nil {
		l.clients = append(l.clients, c)
		l.noting.Go(func() { l.noteResumes(c, &dialled) })
	}
	return c, err
}

// noteResumes notes how long it takes to resume the session of c, until c ends.
func (l *load) noteResumes(c *limpet.Client, dialled *atomic.Int64) {
	for last := uint64(0); ; {
		st, err := c.WaitState(context.Background(), func(st limpet.State) bool { return st.Phase == limpet.Ready && st.Generation > last })
		if err != nil {
			return
		}
		last = st.Generation
		if began := dialled.Swap(0); st.Resumed && began != 0 {
			l.mu.Lock()
			l.resumed = append(l.resumed, st.Since.Sub(time.Unix(0, began)))
			l.mu.Unlock()
		}
	}
}

func (l *load) subscribe(c *limpet.Client, name, pattern string) error {
	sub, err := c.Subscribe(l.ctx, pattern, &limpet.SubscribeOptions{From: limpet.FromFirst})
	if err != nil {
		return err
	}
	s := &subscription{name: name, pattern: pattern, done: make(chan struct{})}
	l.subs = append(l.subs, s)
	l.rec.Record(limpettest.Subscribed{Sub: name, Epoch: l.epoch})
	lasts := 0
	for _, topic := range topics {
		if native.Match(pattern, topic) {
			lasts++
		}
	}
	l.taken.Go(func() {
		for m, err := range sub.Messages(l.ctx) {
			if err != nil {
				if l.ctx.Err() == nil {
					l.fail("subscription %s has ended: %w", name, err)
				}
				return
			}
			l.deliver(s, m)
			if m.Type == lastType {
				lasts--
			}
			if lasts == 0 {
				close(s.done)
				lasts = -1
			}
		}
	})
	return nil
}

// deliver tells the oracle what a consumer got.
func (l *load) deliver(s *subscription, m limpet.Message) {
	switch m.Kind {
	case limpet.Gap:
		s.gaps.Add(1)
		l.rec.Record(limpettest.Gap{Sub: s.name, Epoch: m.Position.Epoch, From: m.Loss.After.Offset, To: m.Loss.To.Offset})
	case limpet.Reset:
		s.resets.Add(1)
		l.rec.Record(limpettest.Reset{Sub: s.name, Epoch: m.Position.Epoch, Offset: m.Position.Offset})
	default:
		s.delivered.Add(1)
		l.rec.Record(limpettest.NewDelivered(s.name, m.Position, m.ID, m.Payload))
		l.mu.Lock()
		at := l.published[m.ID]
		l.mu.Unlock()
		if !at.IsZero() {
			s.newest.Store(max(s.newest.Load(), at.UnixNano()))
		}
	}
}

// publish publishes runs of messages until the load is stopped.
func (l *load) publish(p *publisher, random *rand.Rand) {
	for n := uint64(1); ; {
		for range 1 + random.IntN(3) {
			if !l.one(p, n, topics[random.IntN(len(topics))]) {
				return
			}
			n++
		}
		wait := time.NewTimer(time.Duration(200+random.IntN(600)) * time.Millisecond)
		select {
		case <-l.stopped:
			wait.Stop()
			return
		case <-wait.C:
		}
	}
}

// one publishes the nth message of p.
func (l *load) one(p *publisher, n uint64, topic string) bool {
	id, payload, at := uuid.Must(uuid.NewV7()), limpettest.Stamp(p.name, n, nil), time.Now()
	l.mu.Lock()
	l.published[id] = at
	l.mu.Unlock()
	l.rec.Record(limpettest.NewSent(id, payload))
	p.pending.Add(1)
	_, err := p.client.Publish(l.ctx, topic, payload, &limpet.PublishOptions{ID: id, Done: func(r *limpet.Receipt) {
		l.rec.Record(limpettest.Outcome{ID: id, Kind: r.Outcome().String()})
		l.mu.Lock()
		l.outcomes[r.Outcome()]++
		l.waits = append(l.waits, time.Since(at))
		l.mu.Unlock()
		p.newest.Store(at.UnixNano())
		p.pending.Add(-1)
	}})
	if err != nil {
		p.pending.Add(-1)
		l.rec.Record(limpettest.Outcome{ID: id, Kind: limpet.Rejected.String()})
		l.fail("%s cannot publish: %w", p.name, err)
	}
	if l.sabotage == "double" && p.name == "p0" && n == 1 { // once more, under another id
		_, err = p.client.Publish(l.ctx, topic, payload, nil)
	}
	return err == nil
}

// settle waits until each publisher has got outcomes, and each subscription messages, of what was published after now. It
// returns how long that took. What is stuck longer than patience is a failure.
func (l *load) settle() time.Duration {
	began := time.Now()
	return l.await("after the fault", func() (stuck []string) {
		for _, p := range l.pubs {
			if p.newest.Load() < began.UnixNano() {
				stuck = append(stuck, fmt.Sprintf("%s with %d messages without outcome, %v", p.name, p.pending.Load(), p.client.State().Phase))
			}
		}
		for _, s := range l.subs {
			if s.newest.Load() < began.UnixNano() {
				stuck = append(stuck, "subscription "+s.name)
			}
		}
		return stuck
	})
}

// await waits until nothing is stuck, for at most patience.
func (l *load) await(when string, stuck func() []string) time.Duration {
	began := time.Now()
	for {
		list := stuck()
		took := time.Since(began)
		switch {
		case len(list) == 0:
			return took
		case took > patience || l.ctx.Err() != nil:
			l.fail("stuck %v %s: %d, of them %v", took.Round(time.Millisecond), when, len(list), list[:min(len(list), 3)])
			return took
		}
		pass(l.ctx, 10*time.Millisecond) // the end of ctx shows above
	}
}

// finish stops the publishers, waits until everything has arrived, and ends the clients. None may have ended by itself.
func (l *load) finish() {
	close(l.stopped)
	l.await("at the end", func() (stuck []string) {
		for _, p := range l.pubs {
			if n := p.pending.Load(); n > 0 {
				stuck = append(stuck, fmt.Sprintf("%s with %d messages without outcome", p.name, n))
			}
		}
		return stuck
	})
	counter := uint64(0)
	for _, topic := range topics {
		for again := true; again; {
			counter++
			again = l.last(counter, topic) == limpet.Unknown // so it may be missing
		}
	}
	l.await("after the last message", func() (stuck []string) {
		for _, s := range l.subs {
			select {
			case <-s.done:
			default:
				stuck = append(stuck, "subscription "+s.name)
			}
		}
		return stuck
	})
	l.end()
}

// last publishes the last message of a topic and returns its outcome.
func (l *load) last(n uint64, topic string) limpet.Outcome {
	id, payload := uuid.Must(uuid.NewV7()), limpettest.Stamp("last", n, nil)
	l.rec.Record(limpettest.NewSent(id, payload))
	ctx, cancel := context.WithTimeout(l.ctx, patience)
	defer cancel()
	outcome := limpet.Rejected
	r, err := l.clients[0].Publish(ctx, topic, payload, &limpet.PublishOptions{ID: id, Type: lastType})
	if err == nil {
		_, err = r.Wait(ctx)
		outcome = r.Outcome()
	}
	if ctx.Err() != nil || outcome == limpet.Rejected {
		l.fail("the last message of %s: %w", topic, err)
	}
	if outcome == limpet.Pending {
		outcome = limpet.Unsent // the client is closed, and the run has failed
	}
	l.rec.Record(limpettest.Outcome{ID: id, Kind: outcome.String()})
	l.mu.Lock()
	l.outcomes[outcome]++
	l.mu.Unlock()
	return outcome
}

// end ends all clients. It may be called again.
func (l *load) end() {
	for n, c := range l.clients {
		if err := c.Err(); err != nil && l.ctx.Err() == nil {
			l.fail("client %d has ended: %w", n, err)
		}
	}
	l.cancel()
	for _, c := range l.clients {
		c.Close()
		<-c.Done()
	}
	l.publishing.Wait()
	l.taken.Wait()
	l.noting.Wait()
}

// quantile returns a quantile of the times of one kind.
func (l *load) quantile(of *[]time.Duration, q float64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(*of) == 0 {
		return 0
	}
	slices.Sort(*of)
	return (*of)[int(q*float64(len(*of)-1))]
}

// recovered returns how many times a session was resumed.
func (l *load) recovered() (n uint64) {
	for _, c := range l.clients {
		n += c.Stats().Resumes
	}
	return n
}

// sessions returns how many sessions the clients have had.
func (l *load) sessions() (n int) {
	for _, c := range l.clients {
		st := c.Stats()
		n += int(st.Connections - st.Resumes)
	}
	return n
}
