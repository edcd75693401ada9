package limpet

import (
	"context"
	"errors"
	"maps"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/limpet-go/limpet/internal/calls"
	"github.com/limpet-go/limpet/internal/endpoint"
	"github.com/limpet-go/limpet/internal/fault"
	"github.com/limpet-go/limpet/internal/fifo"
	"github.com/limpet-go/limpet/internal/guard"
	"github.com/limpet-go/limpet/internal/pace"
	"github.com/limpet-go/limpet/internal/policy"
	"github.com/limpet-go/limpet/internal/tasks"
	"github.com/limpet-go/limpet/internal/verdict"
	"github.com/limpet-go/limpet/wire"
)

const (
	maxWriteBytes     = 64 << 10               // of messages in one write: control frames get their turn after it
	minWriteBytes     = 1 << 10                // on a slow link
	maxAskedAtOnce    = 256                    // subscriptions in one write
	closeFrameTimeout = 100 * time.Millisecond // Close waits for the close frame
	fatalCloseTimeout = time.Second            // for the close frame that follows a fatal error frame
)

// loop owns the state of a client. One goroutine at a time runs it, none while
// nothing happens, and nothing else touches its fields.
//
// What belongs to one connection is in link. The fields here outlive it.
type loop struct {
	c       *Client
	dialer  *dialer
	timer   *time.Timer
	timerAt time.Time      // when the timer fires; zero: never
	now     time.Time      // of the current round
	round   []event        // what is left of the current round
	wakes   tasks.WakeRate // of the rounds
	lookout

	state  State
	window *window
	outboxed
	registry     registry
	draining     map[*Subscription]struct{} // ended, their consumers not done
	shuttingDown bool
	ended        bool
	streams      []*streamedMessage // that wait for their turn
	calls        calls.Table

	link     *link      // the connection in use; nil without one
	upcoming *beginning // what the attempt in progress announces; nil: nothing
	number   uint64     // the highest wire.Resume.Conn so far
	early    endpoint.Early
	closing  []*conn     // earlier ones, in their close handshakes
	pacing   *pace.Limit // nil: the server has no limit of messages, as far as is known
	sent     pace.Meter  // of messages
	slowed   slowed
	session  wire.Session
	sessions uint64          // so far; its state may move, so its ID does not name it
	kept     []*Subscription // closed, and the server keeps them in the session

	// When to try again.
	policy         policy.Policy
	attemptAt      time.Time          // Waiting: when the next attempt is due
	lastAttempt    time.Time          // when the last attempt started
	cancelAttempt  context.CancelFunc // of the attempt in progress
	disconnectedAt time.Time          // since when no connection is ready; zero while one is
	earliestRetry  time.Time          // the server's slot: no attempt before it
	endpoints      endpoint.Choice
	rotation       rotation
	spread         time.Duration // the server's reconnect window
	goAwayUntil    time.Time     // no attempt before it after the loss that the server announced
	askedAgainAt   time.Time     // when subscriptions were last asked for again

	refreshCredential   bool      // the next attempt needs a new credential
	credentialRefusedAt time.Time // when the server last refused one; zero after a welcome
	refreshedAt         time.Time // when an attempt last followed at once on a refused credential

	silences     int // connections in a row that ended in silence without a message
	encodePanics int // of Encode since the last stable connection
	writeBytes   int // of messages in one write; follows the speed of the link

	finality verdict.Finality          // what ends the client
	verdicts guard.Asker[wire.Verdict] // calls Options.Verdict
	outage   outageWatch
}

// link is what the loop knows of one connection. A new connection is a new
// link, so nothing of an old one survives in it.
type link struct {
	conn     *conn
	endpoint *endpoint.Endpoint
	codec    wire.Codec

	announced   bool      // its attempt said what it begins with
	outnumbered bool      // the server refuses its number
	ready       bool      // the handshake is complete
	readyAt     time.Time // since when

	limits wire.Limits  // of the peer, from the welcome
	traits *wire.Traits // of the dialect, as far as the peer has agreed

	// To be written.
	start        *wire.Frames  // the codec's first frames; nil once written
	replies      []wire.Op     // pings and pongs
	ops          []wire.Op     // others
	endsInWrite  []uint64      // keys of subscriptions that the server keeps and whose end is being written
	steps        []delayedStep // the next first
	toAsk        []*Subscription
	crowded      []*Subscription // as toAsk, once the server has a place for them
	abandoned    int             // places of subscriptions that have ended here, and at the server never will
	unwritten    unwritten
	paceAt       time.Time // when there is room for what waits; zero: nothing does
	pingsCounted uint64    // pings of the peer whose pongs have counted
	asks         uint64    // requests for subscriptions so far
	asked        []ask     // requests that are not written yet
	confirmed    []uint64  // keys of subscriptions that count as confirmed once they are written
	writing      bool      // a write is in progress
	writeStarted time.Time // when it started
	unencoded    bool      // the last write left operations to encode
	unencodable  uint32    // kinds of operations, as bits, that were reported
	writeErr     error
	stream       *streamedMessage // begun and not ended: nothing else is written
	byeSent      bool             // the server knows that the session has ended
	renewAt      time.Time        // when the next attempt to replace the connection is due; zero: never
	renewBy      time.Time        // the latest time to wait for a good moment until
	goAway       bool             // because the server asks for it
	leaveAt      time.Time        // not before, if it does

	leaving      map[*Subscription]*leavingSub // closed subscriptions of which the server has to learn what was processed
	leavingUntil fifo.Queue[leavingDeadline]   // the first is due first

	unanswered   fifo.Queue[ask] // requests that are written, oldest first
	answeredUpTo uint64          // the latest request that was answered
	answeredAt   time.Time       // when
	writes       uint64          // so far

	namedTopics *topicTable // nil unless the dialect routes by name

	signs
	refreshing
	proved     bool        // a message was acknowledged on it, or received for a subscription that has ended
	stable     bool        // it lasted long enough to forget earlier failures
	fatalError *wire.Event // nothing is written after it
	fatalAt    time.Time   // when it came

	// Deadlines. Zero: none.
	handshakeBy time.Time
	closeBy     time.Time // for the close frame after fatalError
	killBy      time.Time // for the reader to learn why after writeErr
	stableAt    time.Time
}

func newLoop(c *Client) *loop {
	l := &loop{c: c, policy: newPolicy(&c.cfg), writeBytes: maxWriteBytes}
	l.dialer = &dialer{cfg: &c.cfg, inbox: &c.inbox, goroutines: &c.goroutines, secrets: &c.secrets}
	l.window = newWindow(c.cfg.traits.Sessions, c.admission, &c.counters)
	l.window.notify, l.window.doneCalls = c.notify, &c.doneCalls
	l.registry = newRegistry(&c.cfg.traits, &c.routes)
	limit := &c.cfg.traits.Connection
	l.pacing = pace.NewLimit(limit.Messages, limit.Per, limit.Burst)
	l.c.counters.pace.Store(math.Float64bits(l.pacing.PerSecond()))
	l.state = c.state.Load()
	l.endpoints = newChoice(&c.cfg)
	l.timer = time.AfterFunc(forever, func() { c.inbox.Post(elapsed{}) })
	return l
}

// run runs rounds. If a method of the dialect ends the goroutine, another one ends
// the client.
func (l *loop) run() {
	returned := false
	defer func() {
		if !returned {
			go l.endAfterGoexit()
		}
	}()
	l.rounds()
	returned = true
}

// endAfterGoexit ends the client and handles the other events of the round.
func (l *loop) endAfterGoexit() {
	l.end(&PermanentError{ClassUser, errGoexit})
	l.c.inbox.Post(elapsed{}) // there is a round, which ends the loop
	l.applyRound()
	l.run()
}

// errGoexit is why a client or a connection ends when a method of the dialect has
// ended its goroutine.
var errGoexit = &fault.User{Option: "Options.Dialect", Err: errors.New("a method called runtime.Goexit, as t.FailNow does; return an error instead")}

// applyRound handles the events of this round.
func (l *loop) applyRound() {
	for len(l.round) > 0 {
		e := l.round[0]
		l.round[0], l.round = nil, l.round[1:]
		e.apply(l)
	}
}

// rounds handles the events of the inbox and what is due. It returns when the client
// has ended, or to rest: then the next event starts it again.
func (l *loop) rounds() {
	var events []event
	for {
		l.gather()
		events = l.c.inbox.Take(events[:0])
		l.c.ids.ExpireClock()
		l.now = time.Now()
		l.watchClock()
		l.round = events
		l.applyRound()
		if !l.ended {
			l.tick()
		}
		if l.keep(); !l.ended {
			l.startWrite()
		}
		l.checkOutage()
		l.c.counters.oldestAdmitted.Store(l.window.oldestPending())
		if l.ended {
			l.timer.Stop()
			l.cleanUp()
			return
		}
		l.timer.Reset(l.untilNextDeadline())
		if !l.wakes.Frequent(l.now) && !l.expectsEvents() && l.c.inbox.Rest() {
			return
		}
	}
}

// gather waits for events. When several callers have just learned an outcome,
// it yields to them for at most gatherTimeout, so that what they publish next
// leaves in one write. It does not wait for a single caller.
func (l *loop) gather() {
	n, woken := l.c.inbox.Await(), l.window.woken
	if l.window.woken = 0; woken < 2 {
		return
	}
	for began := time.Now(); n < woken && time.Since(began) < gatherTimeout; {
		runtime.Gosched()
		more := l.c.inbox.Await()
		if more == n {
			return
		}
		n = more
	}
}

const gatherTimeout = time.Millisecond

// expectsEvents reports whether something is in progress that will soon post an
// event.
func (l *loop) expectsEvents() bool {
	switch l.state.Phase {
	case Connecting, Handshaking:
		return true
	case Ready:
		return l.link.writing || l.link.unanswered.Len() > 0 || l.window.pending > 0
	}
	return false
}

// enter publishes a change of phase.
func (l *loop) enter(p Phase) {
	l.state.Phase, l.state.Since = p, l.now
	l.state.Draining = l.shuttingDown
	l.state.Attempt = l.policy.Failures
	l.giveUpAt, l.givingUp = time.Time{}, false
	l.c.state.Set(l.state)
	l.c.notify.post(StateChanged{l.state.Host, l.state})
}

// enterSub follows a change of the state of a subscription at the server.
func (l *loop) enterSub(s *Subscription, st SubState) {
	if s.sharing == nil {
		l.publishSub(s, st)
	} else {
		l.enterShared(s.sharing, st)
	}
	if s.inOutage && !st.Phase.waits() {
		s.inOutage = false
		l.outage.waiting--
	}
}

// enterWaiting publishes why s is not live: it was confirmed last on connection gen, which was
// lost, or the server does not want it now.
func (l *loop) enterWaiting(s *Subscription, gen uint64, why error) {
	phase := SubPending
	if s.wireState().Phase != SubPending {
		phase = SubRecovering
	}
	l.enterSub(s, SubState{Phase: phase, Generation: gen, Err: why})
}

// enterLive publishes that the server serves s. proved says that nothing is missing but
// what was reported.
func (l *loop) enterLive(k *link, s *Subscription, proved bool) {
	if s.inOutage && !proved {
		l.outage.unproved++
	}
	if k.traits.KeepsSubs {
		s.keptIn = l.sessions
	}
	l.enterSub(s, SubState{Phase: SubLive, Generation: k.conn.gen})
}

// endSub ends s. Its consumers can still take what is waiting.
func (l *loop) endSub(s *Subscription, err error) {
	l.noteReceived(s)
	l.registry.remove(s)
	l.leaveTopic(s, false)
	l.enterSub(s, SubState{Phase: SubEnded, Err: err}) // before the stream ends: its consumer asks for Err then
	for u := range s.users {
		l.drain(u, err)
	}
}

// releaseSub takes s out of the registry and unsubscribes at the server. It
// reports false if s has ended already.
func (l *loop) releaseSub(s *Subscription) bool {
	if s.wireState().Phase == SubEnded {
		return false
	}
	l.noteReceived(s)
	l.registry.remove(s)
	l.keepClosed(s)
	closing := l.askedOnLink(s) && l.link.traits.Unsubscribe
	if closing {
		l.link.unsubscribe(s)
	} else if l.askedOnLink(s) {
		l.link.abandon()
	}
	l.leaveTopic(s, closing)
	return true
}

// noteReceived keeps what a subscription that ends, or that is asked for again, has
// proved about the connection.
func (l *loop) noteReceived(s *Subscription) {
	if k := l.link; k != nil && s.hasReceivedOn(k.conn.gen) {
		k.proved = true
	}
}

func (k *link) unsubscribe(s *Subscription) {
	k.ops = append(k.ops, wire.Op{Kind: wire.OpUnsubscribe, Key: s.key, Cmd: s.key*4 + 2, Name: s.wireName, Topic: s.topic})
}

// takeOps takes the first n operations that wait.
func (k *link) takeOps(ops []wire.Op, n int) []wire.Op {
	for i := range n {
		if op := &k.ops[i]; op.Kind == wire.OpUnsubscribe && k.traits.KeepsSubs {
			k.endsInWrite = append(k.endsInWrite, op.Key)
		}
	}
	ops, k.ops = append(ops, k.ops[:n]...), k.ops[n:]
	return ops
}

// askedOnLink reports whether s was asked for on the connection in use.
func (l *loop) askedOnLink(s *Subscription) bool {
	return l.link != nil && s.askedGeneration == l.link.conn.gen
}

// end ends the client: err is nil after Close and Shutdown.
func (l *loop) end(err error) {
	if l.ended {
		return
	}
	l.ended = true
	l.state.Cause = err
	if err == nil {
		l.state.Cause = errClientClosed()
	}
	l.c.admission.Close(l.state.Cause)
	l.c.first.Arrive() // not to keep the reader
	for _, c := range l.closing {
		time.AfterFunc(closeFrameTimeout, c.Kill)
	}
	l.endRotation()
	l.disconnect(l.link, l.c.cfg.closeCode(), "")
	l.refuseUnkept()
	l.window.close()
	l.endRequests()
	if err == nil {
		l.discardWaiting()
	}
	for s := range l.registry.all() {
		for u := range s.users {
			u.endedByClient.Store(true)
		}
		l.enterSub(s, SubState{Phase: SubEnded, Err: err})
		for u := range s.users {
			u.queue.finish(err, false)
		}
	}
	if l.cancelAttempt != nil {
		l.cancelAttempt()
	}
	l.enter(Ended) // Done follows once the goroutines have ended
}

// discardWaiting drops what waits for consumers.
func (l *loop) discardWaiting() {
	for _, s := range l.consumed() {
		s.queue.discard(nil)
	}
}

// consumed returns the subscriptions whose consumers may still be taking.
func (l *loop) consumed() []*Subscription {
	return slices.AppendSeq(slices.Collect(l.registry.users()), maps.Keys(l.draining))
}

// drain ends the stream of s once its consumers have taken what is waiting;
// consumersDone follows.
func (l *loop) drain(s *Subscription, err error) {
	if l.draining == nil {
		l.draining = make(map[*Subscription]struct{})
	}
	l.draining[s] = struct{}{}
	s.queue.finish(err, s.acksOwed)
}

// nothingPending reports whether every message and call has its outcome and the consumers
// of ended subscriptions are done: Shutdown may end the client.
func (l *loop) nothingPending() bool {
	streams := len(l.streams) > 0 || l.link != nil && l.link.stream != nil
	return l.window.pending == 0 && len(l.draining) == 0 && !streams && l.calls.Len() == 0
}

// cleanUp waits for the goroutines of an ended client.
func (l *loop) cleanUp() {
	l.endpoints.Release()
	l.c.goroutines.Close()
	l.c.mu.Lock()
	l.c.orphans = l.consumed()
	l.c.mu.Unlock()
	for _, e := range l.c.inbox.Close() {
		e.apply(l)
	}
	l.finishOutbox()
	l.c.goroutines.WaitConnections()
	if errors.Is(l.state.Cause, ErrClosed) {
		l.c.goroutines.WaitDeliverers()
	}
	l.c.cursors.Finish(errors.Is(l.state.Cause, ErrClosed))
	l.c.doneCalls.Finish(guard.MaxCall)
	l.c.notify.end()
	close(l.c.done)
}

// maxStepDelay bounds Event.Delay of a step.
const maxStepDelay = time.Minute

// delayedStep is an EventStep that waits.
type delayedStep struct {
	step any
	at   time.Time
}

// delayStep keeps a step until at.
func (k *link) delayStep(step any, at time.Time) {
	i, _ := slices.BinarySearchFunc(k.steps, at, func(s delayedStep, at time.Time) int {
		if s.at.After(at) {
			return 1
		}
		return -1 // behind those of the same time
	})
	k.steps = slices.Insert(k.steps, i, delayedStep{step, at})
}

// takeSteps makes operations of the steps that are due.
func (k *link) takeSteps(now time.Time) {
	for len(k.steps) > 0 && due(k.steps[0].at, now) {
		k.ops = append(k.ops, wire.Op{Kind: wire.OpStep, Step: k.steps[0].step})
		k.steps = k.steps[1:]
	}
}
