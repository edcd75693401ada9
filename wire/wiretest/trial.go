package wiretest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/wire"
)

// check is one check of the suite: of the dialect alone, or of a client that uses it.
type check struct {
	name string

	// pure tries the dialect without a client.
	pure func(*Subject, *report)

	// faults returns the faults of the first connection, one trial for each; none if
	// the check does not apply.
	faults func(*Subject, *report) []limpettest.Fault

	// client runs in a bubble of virtual time.
	client func(*trial)
}

// beat is the client's heartbeat in a trial.
const beat = 2 * time.Second

// trial is a client of the dialect, against the model.
type trial struct {
	t       *testing.T
	s       *Subject
	traits  wire.Traits
	fault   limpettest.Fault
	report  *report
	server  *server
	client  *limpet.Client // the last that was made
	clients []*limpet.Client
	auth    func(context.Context, limpet.AttemptInfo) (limpet.Credential, error) // nil: that of Subject.Options

	readers sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelFunc
}

func newTrial(t *testing.T, s *Subject, fault limpettest.Fault, r *report) *trial {
	x := &trial{t: t, s: s, traits: s.Dialect.Traits(), fault: fault, report: r, server: newServer(t, s, r)}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	return x
}

// start makes the client. It dials a millisecond later, so that subscriptions made at
// once are part of the first connection.
func (x *trial) start() bool {
	o := limpet.Options{}
	if x.s.Options != nil {
		x.s.Options(&o)
	}
	if x.auth != nil {
		o.Auth = x.auth
	}
	o.Dialect, o.HTTPClient, o.Heartbeat.Interval = x.s.Dialect, x.server.host.HTTPClient(), beat
	o.Backoff = limpet.Backoff{First: 50 * time.Millisecond, Initial: 50 * time.Millisecond, Max: time.Second}
	if o.DialTimeout == 0 {
		o.DialTimeout = 2 * time.Second
	}
	x.server.host.Inject(limpettest.All(limpettest.Stall(time.Millisecond), x.fault))
	var err error
	x.client, err = limpet.New(x.server.host.URL(), &o)
	if err != nil {
		x.report.add("limpet.New refuses the dialect: %v", err)
		return false
	}
	x.clients = append(x.clients, x.client)
	return true
}

// end ends the client and the model, and waits for both.
func (x *trial) end() {
	for _, c := range x.clients {
		c.Close()
		<-c.Done()
	}
	x.cancel()
	x.readers.Wait()
	x.server.host.Stop()
	synctest.Wait()
	close(x.server.stop)
}

// found adds a finding, with the fault under which it was made.
func (x *trial) found(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if x.fault.Kind() != limpettest.KindClean {
		text += " (with " + x.fault.String() + ")"
	}
	x.report.add("%s", text)
}

// element is one element of a subscription's stream as its consumer received it.
type element struct {
	kind   limpet.Kind
	number int // in the payload
	loss   limpet.Loss
	again  bool
}

func (e element) String() string {
	if e.kind == limpet.Gap || e.kind == limpet.Reset {
		return fmt.Sprintf("%s(%s, %d)", e.kind, e.loss.Cause, e.loss.Count)
	}
	return fmt.Sprint(e.number)
}

// stream is what a consumer received.
type stream struct {
	topic string
	sub   *limpet.Subscription

	mu       sync.Mutex
	elements []element
	err      error
}

// subscribe subscribes and consumes. decide may be nil; it reports whether message n is
// acknowledged, and otherwise it is given back.
func (x *trial) subscribe(topic string, decide func(n int) bool) *stream {
	o := &limpet.SubscribeOptions{ManualAck: decide != nil}
	sub, err := x.client.Subscribe(x.ctx, topic, o)
	if err != nil {
		x.found("Subscribe to %q: %v", topic, err)
		return &stream{topic: topic}
	}
	s := &stream{topic: topic, sub: sub}
	x.readers.Add(1)
	go func() {
		defer x.readers.Done()
		for m, err := range sub.Messages(x.ctx) {
			if err != nil {
				s.mu.Lock()
				s.err = err
				s.mu.Unlock()
				return
			}
			s.take(x, m)
			if decide == nil || m.Loss != nil {
				continue
			}
			if n, ok := numberIn(m.Payload); ok && !decide(n) {
				m.Nack()
			} else {
				m.Ack()
			}
		}
	}()
	return s
}

func (s *stream) take(x *trial, m limpet.Message) {
	e := element{kind: m.Kind, again: m.Redelivered}
	if m.Loss != nil {
		e.loss = *m.Loss
	} else {
		n, ok := numberIn(m.Payload)
		if !ok {
			x.found("the payload is not what the server sent: %q", cut(m.Payload))
			return
		}
		e.number = n
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.elements = append(s.elements, e)
}

// got returns what was received so far.
func (s *stream) got() ([]element, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]element(nil), s.elements...), s.err
}

// pass waits for some virtual time.
func (x *trial) pass(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-x.ctx.Done():
	}
}

// settled waits until nothing happens for some virtual time: every wait of a client with
// these options has passed.
func (x *trial) settled() { x.pass(time.Minute) }

// ready waits until the client is ready.
func (x *trial) ready() bool {
	ctx, cancel := context.WithTimeout(x.ctx, time.Minute)
	defer cancel()
	if err := x.client.WaitReady(ctx); err != nil {
		x.found("the client does not become ready: %v", err)
		return false
	}
	return true
}

// live waits until a subscription is live.
func (x *trial) live(s *stream) bool {
	if s.sub == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(x.ctx, time.Minute)
	defer cancel()
	if err := s.sub.WaitLive(ctx); err != nil {
		x.found("the subscription to %q does not become live: %v", s.topic, err)
		return false
	}
	synctest.Wait()
	return true
}

// alive reports a client that has ended.
func (x *trial) alive() bool {
	select {
	case <-x.client.Done():
		x.found("the client has ended: %v", x.client.Err())
		return false
	default:
		return true
	}
}
