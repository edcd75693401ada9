package limpet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet/internal/budget"
	"github.com/limpet-go/limpet/internal/flush"
	"github.com/limpet-go/limpet/internal/keeper"
	"github.com/limpet-go/limpet/internal/secrets"
	"github.com/limpet-go/limpet/internal/verdict"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/wire"
)

// A transition is a row of the table in docs/design.md, section 4: what an event
// makes of each phase. What is "" stays as it is.
type transition struct {
	event string
	make  func(*loop) event
	// The phase after the event.
	connecting, handshaking, ready, waiting string
}

// transitions stand in the order of loop_events.go. An event of a connection
// comes from the connection in use where there is one, else from an earlier one.
var transitions = []transition{
	{"`started`: the first event, from `New`", nil, "connecting", "never", "never", "never"}, // how every client of this test begins
	{"`dialed`: a connection", func(l *loop) event { // how a client gets into the phase; walked after the end
		return dialed{conn: l.link.conn}
	}, "handshaking", "never", "never", "never"},
	{"`dialed`: the attempt failed", func(l *loop) event {
		defer l.cancelAttempt()
		return dialed{failure: &wire.Failure{Stage: wire.StageDial, Err: errors.New("refused")}}
	}, "waiting", "never", "never", "never"},
	{"`dialed`: the failure is final (section 2 of reconnect.md)", func(l *loop) event {
		defer l.cancelAttempt()
		return dialed{failure: &wire.Failure{Stage: wire.StageUpgrade, Status: http.StatusForbidden}}
	}, "ended", "never", "never", "never"},
	{"`received`: the welcome", func(l *loop) event {
		return receivedOn(l, wire.Event{Kind: wire.EventReady, Ready: &wire.Ready{Session: l.session}})
	}, "", "ready", "waiting", ""},
	{"`received`: an acknowledgement", func(l *loop) event {
		return receivedOn(l, wire.Event{Kind: wire.EventAck, Ack: &wire.Ack{}})
	}, "", "", "", ""},
	{"`received`: an acknowledgement of what was never sent", func(l *loop) event {
		return receivedOn(l, wire.Event{Kind: wire.EventAck, Ack: &wire.Ack{To: 1 << 40}})
	}, "", "waiting", "waiting", ""},
	{"`received`: a handshake step", func(l *loop) event {
		return receivedOn(l, wire.Event{Kind: wire.EventStep, Delay: time.Minute})
	}, "", "", "", ""},
	{"`received`: a handshake step that the dialect cannot encode", func(l *loop) event {
		return receivedOn(l, wire.Event{Kind: wire.EventStep})
	}, "", "waiting", "", ""},
	{"`received`: a confirmation, a gap, a reset, a refusal and the end of a subscription", func(l *loop) event {
		s := plainSubscription(l.c, "a")
		e := receivedOn(l).(received)
		for _, kind := range []wire.EventKind{wire.EventSubscribed, wire.EventGap, wire.EventReset, wire.EventUnsubscribed} {
			e.events = append(e.events, routedEvent{s, wire.Event{Kind: kind, Code: 1, Retry: time.Hour}}, routedEvent{s, wire.Event{Kind: kind}})
		}
		return inTurn{subscribe{s, make(chan error, 1)}, e}
	}, "", "", "", ""},
	{"`received`: the credential lasts, a new one is wanted, or was refused", func(l *loop) event {
		return receivedOn(l, wire.Event{Kind: wire.EventAuth, Expires: time.Hour}, wire.Event{Kind: wire.EventAuth, Wanted: true}, wire.Event{Kind: wire.EventAuth, Code: 1})
	}, "", "", "", ""},
	{"`received`: a ping, a notice or a goaway", func(l *loop) event {
		return receivedOn(l, wire.Event{Kind: wire.EventPing}, wire.Event{Kind: wire.EventError}, wire.Event{Kind: wire.EventGoAway})
	}, "", "", "", ""},
	{"`received`: a fatal error; a second later without a close frame", func(l *loop) event {
		return inTurn{receivedOn(l, wire.Event{Kind: wire.EventError, Fatal: true}), after(time.Second)}
	}, "", "waiting", "waiting", ""},
	{"`wrote`: done", func(l *loop) event { return wrote{conn: connOf(l)} }, "", "", "", ""},
	{"`wrote`: failed, the reader learns why", func(l *loop) event {
		return wrote{conn: connOf(l), err: errors.New("broken pipe")}
	}, "", "", "", ""},
	{"`ponged`", func(l *loop) event { return ponged{connOf(l)} }, "", "", "", ""},
	{"`refreshed`: a new credential, or none", func(l *loop) event {
		return inTurn{refreshed{connOf(l), "token", nil}, refreshed{connOf(l), "", nil}, refreshed{connOf(l), "", errors.New("no answer")}}
	}, "", "never", "", ""},
	{"`refreshed`: an error made with `Permanent`", func(l *loop) event {
		return refreshed{connOf(l), "", Permanent(errors.New("no account"))}
	}, "", "never", "", ""},
	{"`readFailed`: the connection broke", func(l *loop) event {
		return readFailed{connOf(l), errors.New("connection reset")}
	}, "", "waiting", "waiting", ""},
	{"`readFailed`: a violation", func(l *loop) event {
		return readFailed{connOf(l), violation("a test")}
	}, "", "waiting", "waiting", ""},
	{"`readFailed`: the third violation before the first welcome", func(l *loop) event {
		for range 2 {
			d := verdict.ByTable(&wire.Failure{Stage: wire.StageHandshake, Err: violation("a test")})
			l.finality.Weigh(&d, l.now, false, false)
		}
		return readFailed{connOf(l), violation("a test")}
	}, "", "ended", "waiting", ""},
	{"any event of an earlier connection", func(l *loop) event {
		old := newConn()
		return inTurn{
			received{old, []routedEvent{{Event: wire.Event{Kind: wire.EventAck, Ack: &wire.Ack{To: 1 << 40}}}}},
			wrote{conn: old, err: errors.New("old")}, ponged{old}, readFailed{old, violation("old")},
			refreshed{old, "token", nil}, refreshed{old, "", Permanent(errors.New("no account"))},
		}
	}, "", "", "", ""},
	{"`elapsed`: nothing is due", func(*loop) event { return elapsed{} }, "", "", "", ""},
	{"`elapsed`: the attempt is due", func(l *loop) event {
		l.attemptAt = l.now
		return elapsed{}
	}, "never", "never", "never", "connecting"},
	{"`elapsed`: the handshake took too long", func(l *loop) event {
		l.link.handshakeBy = l.now
		return elapsed{}
	}, "never", "waiting", "never", "never"},
	{"`elapsed`: the peer is silent", func(l *loop) event {
		l.link.heartbeat, l.timerAt = -time.Hour, time.Time{}
		return elapsed{}
	}, "never", "never", "waiting", "never"},
	{"`elapsed`: a probe was not answered", func(l *loop) event {
		l.link.probeBy, l.link.probed = l.now, l.now
		return elapsed{}
	}, "never", "never", "waiting", "never"},
	{"`elapsed`: a write stalled", func(l *loop) event {
		l.link.writing, l.link.handshakeBy, l.timerAt = true, time.Time{}, time.Time{}
		return after(2 * stallTimeout)
	}, "never", "waiting", "waiting", "never"},
	{"`elapsed`: the reader of a streamed message stalled", func(l *loop) event {
		l.link.stream = newStreamedMessage()
		l.link.stream.begun, l.link.stream.partBy = true, l.now
		return elapsed{}
	}, "never", "never", "waiting", "never"},
	{"`elapsed`: `Backoff.MaxElapsed` has passed", func(l *loop) event {
		l.c.cfg.Backoff.MaxElapsed = 1
		return after(2)
	}, "ended", "ended", "", "ended"},
	{"`keepRecord`, `commitDue`, `commitEnded`", func(l *loop) event {
		o, err := keeper.Open[*Receipt](outbox.Memory(), "", l.now, newPanicError)
		if err != nil {
			panic(err)
		}
		l.restore(o)
		return inTurn{keepRecord{keeper.NewRecord([]*Receipt{new(Receipt)})}, commitDue{}, commitEnded{}}
	}, "", "", "", ""},
	{"`publish`, a `Receipt`, `flushAll`, `listPending`, `listOpen`", func(*loop) event {
		return inTurn{publish{make([]Receipt, 2)}, new(Receipt), flushAll{make(chan *flush.Point, 1)}, leaveFlush{new(flush.Point)}, listPending{make(chan []*Receipt, 1)}, listOpen{make(chan []*Subscription, 1)}}
	}, "", "", "", ""},
	{"`openStream`, `streamPart`, `wrotePart`, `streamFailed`", func(l *loop) event {
		s := newStreamedMessage()
		return inTurn{openStream{s}, streamPart{s, nil, false}, wrotePart{conn: connOf(l), s: s}, streamFailed{s, errors.New("no more")}}
	}, "", "", "", ""},
	{"`streamFailed`: a part was sent", func(l *loop) event {
		l.link.stream = newStreamedMessage()
		l.link.stream.begun = true
		return streamFailed{l.link.stream, errors.New("no more")}
	}, "never", "never", "waiting", "never"},
	{"`subscribe`, `unsubscribe`, `grantCredit`, `sendProcessed`, `consumersDone`", func(l *loop) event {
		s := plainSubscription(l.c, "a")
		return inTurn{subscribe{s, make(chan error, 1)}, grantCredit{s}, sendProcessed{s, l.state.Generation, Position{}, false}, unsubscribe{s}, consumersDone{s}}
	}, "", "", "", ""},
	{"`reconnectNow`, a second after the phase began", func(*loop) event { return reconnectNow{} }, "", "waiting", "", "connecting"},
	{"`networkChanged`, a second after the phase began", func(*loop) event { return networkChanged{} }, "", "waiting", "", "connecting"},
	{"`shutdown`: nothing is pending; once the server knows", func(*loop) event {
		return inTurn{shutdown{}, settled{}}
	}, "ended", "", "ended", "ended"},
	{"`shutdown`: a message has no outcome", func(*loop) event {
		return inTurn{new(Receipt), shutdown{}}
	}, "", "", "", ""},
	{"`closeNow`", func(*loop) event { return closeNow{} }, "ended", "ended", "ended", "ended"},
}

// phases holds how a client gets into each phase and stays there for an hour.
var phases = []struct {
	phase  Phase
	column func(*transition) string
	client func(*testing.T) *Client
}{
	{Connecting, func(tr *transition) string { return tr.connecting }, func(t *testing.T) *Client {
		return startIn(t, "wss://limpet.test", &Options{HTTPClient: &http.Client{Transport: untilCancelled{}}, DialTimeout: time.Hour})
	}},
	{Handshaking, func(tr *transition) string { return tr.handshaking }, func(t *testing.T) *Client {
		srv := limpettest.NewServer(t, nil)
		srv.Inject(limpettest.BlackHole(limpettest.Both).AfterBytes(limpettest.Up, 1).Upgraded())
		return startIn(t, srv.URL(), &Options{HTTPClient: srv.HTTPClient()})
	}},
	{Ready, func(tr *transition) string { return tr.ready }, func(t *testing.T) *Client {
		srv := limpettest.NewServer(t, nil)
		return startIn(t, srv.URL(), &Options{HTTPClient: srv.HTTPClient()})
	}},
	{Waiting, func(tr *transition) string { return tr.waiting }, offline},
}

func startIn(t *testing.T, url string, o *Options) *Client {
	o.Backoff = Backoff{First: time.Hour, Initial: time.Hour, Max: time.Hour}
	c, err := New(url, options(o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		<-c.Done()
	})
	synctest.Wait()
	return c
}

// TestEveryEventInEveryPhase walks the table of transitions.
func TestEveryEventInEveryPhase(t *testing.T) {
	for i := range transitions {
		tr := &transitions[i]
		for _, p := range phases {
			want := p.column(tr)
			if want == "never" || tr.make == nil || want == "handshaking" {
				continue
			}
			if want == "" {
				want = p.phase.String()
			}
			t.Run(tr.event+" in "+p.phase.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := p.client(t)
					if s := c.State(); s.Phase != p.phase {
						t.Fatalf("the client is %v, want %v", s.Phase, p.phase)
					}
					time.Sleep(time.Second) // the last attempt was longer ago than minBetweenAttempts
					if got := phaseAfter(c, tr.make); got != want {
						t.Errorf("%v after the event, want %s", got, want)
					}
				})
			})
		}
		if tr.make != nil {
			t.Run(tr.event+" in ended", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { afterTheEnd(t, tr) })
			})
		}
	}
}

// afterTheEnd applies an event that was posted before the end. Its caller gets
// an answer, and the client has still ended.
func afterTheEnd(t *testing.T, tr *transition) {
	begin := Waiting
	for _, p := range phases { // one in which the event can be made
		if want := p.column(tr); want != "never" && want != "handshaking" {
			begin = p.phase
		}
	}
	if tr.connecting == "handshaking" {
		begin = Handshaking
	}
	c := phases[begin].client(t)
	c.inbox.Post(step(func(l *loop) {
		e := tr.make(l)
		l.end(nil)
		e.apply(l)
	}))
	<-c.Done()
	if s := c.State(); s.Phase != Ended || !errors.Is(s.Cause, ErrClosed) {
		t.Errorf("%v: %v, want the end with ErrClosed", s.Phase, s.Cause)
	}
}

// phaseAfter applies an event and returns the phase at the end of the round. The
// round is run by hand, so that nothing which the event causes comes in between.
func phaseAfter(c *Client, cause func(*loop) event) string {
	type result struct {
		phase   Phase
		settles bool
	}
	results := make(chan result, 1)
	c.inbox.Post(step(func(l *loop) {
		e := cause(l)
		e.apply(l)
		if !l.ended {
			l.tick()
		}
		if !l.ended {
			l.startWrite()
		}
		r := result{phase: l.state.Phase}
		if l.ended {
			r.phase = Ended
		}
		if es, ok := e.(inTurn); ok {
			r.settles = es[len(es)-1] == settled{}
		}
		results <- r
	}))
	r := <-results
	if r.settles {
		time.Sleep(time.Millisecond)
		r.phase = c.State().Phase
	}
	return r.phase.String()
}

// inTurn is several events.
type inTurn []event

func (es inTurn) apply(l *loop) {
	for _, e := range es {
		e.apply(l)
	}
}

// after is time that has passed before the round.
type after time.Duration

func (a after) apply(l *loop) { l.now = l.now.Add(time.Duration(a)) }

// settled as the last event has the test look when what the others caused is
// done.
type settled struct{}

func (settled) apply(*loop) {}

func connOf(l *loop) *conn {
	if l.link == nil {
		return newConn()
	}
	return l.link.conn
}

func receivedOn(l *loop, events ...wire.Event) event {
	c := connOf(l)
	c.slots.Acquire()
	e := received{conn: c}
	for _, ev := range events {
		e.events = append(e.events, routedEvent{Event: ev})
	}
	return e
}

// untilCancelled is a network on which no attempt ends by itself.
type untilCancelled struct{}

func (untilCancelled) RoundTrip(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, context.Cause(req.Context())
}

// The table in docs/design.md is the one that is tested.
func TestTransitionsAreDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString("| event | connecting | handshaking | ready | waiting |\n|---|---|---|---|---|\n")
	cell := func(s string) string {
		switch s {
		case "":
			return "·"
		case "never":
			return "–"
		}
		return s
	}
	for _, tr := range transitions {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", tr.event, cell(tr.connecting), cell(tr.handshaking), cell(tr.ready), cell(tr.waiting))
	}
	text, err := os.ReadFile("docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), b.String()) {
		t.Errorf("docs/design.md does not hold this table:\n%s", b.String())
	}
}

// Of two faults in one batch the first one ends the connection.
func TestFirstFaultOfABatchDecides(t *testing.T) {
	s := &Subscription{topic: "a", key: 1}
	s.queue = newQueue("a", &SubscribeOptions{Delivery: Delivery{Buffer: 8, Bytes: 8}}, wire.Traits{Holes: wire.HolesFault, Confirms: true}, testOwner{}, budget.New(1<<30))
	s.queue.startConnection(1)
	r := &reader{conn: newConn(), codec: faultyCodec{}, routes: new(routes), counters: new(counters), secrets: new(secrets.Set)}
	r.conn.gen = 1
	r.routes.setKey(1, s)
	frame := func(text string) wire.Frame { return wire.Frame{Data: []byte(text)} }
	var ce *wire.CodeError
	for want, batch := range map[uint16][]wire.Frame{
		4000: {frame("unconfirmed"), frame("undecodable")},
		1002: {frame("undecodable"), frame("unconfirmed")},
	} {
		if err := r.handle(batch, nil); !errors.As(err, &ce) || ce.Code != want {
			t.Errorf("%s: %v, want %d", batch[0].Data, err, want)
		}
	}
}

// faultyCodec decodes a message for a subscription that is not confirmed, or fails.
type faultyCodec struct{ wire.Codec }

func (faultyCodec) Decode(f wire.Frame, out *wire.Events) error {
	if string(f.Data) == "undecodable" {
		return errors.New("undecodable")
	}
	ev := out.Append(wire.EventData)
	ev.Key, ev.Numbered, ev.Position.Offset = 1, true, 1
	return nil
}

// The loop keeps its goroutine while an event is sure to come soon, which saves a busy
// client a new one for each event.
func TestBusyLoopKeepsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := limpettest.NewServer(t, nil)
		c := startIn(t, srv.URL(), &Options{HTTPClient: srv.HTTPClient()})
		c.inbox.Post(step(func(l *loop) {
			expects := func(what string, want bool) {
				if got := l.expectsEvents(); got != want {
					t.Errorf("%s: %v", what, got)
				}
			}
			expects("idle", false)
			l.link.writing = true
			expects("a write in progress", true)
			l.link.writing = false
			l.window.pending++
			expects("a message without outcome", true)
			l.window.pending--
			l.link.unanswered.Push(ask{})
			expects("a subscription without an answer", true)
			l.link.unanswered.Drop(1)
			l.state.Phase = Handshaking
			expects("a handshake", true)
			l.state.Phase = Waiting
			expects("waiting", false)
			l.state.Phase = Ready
		}))
		synctest.Wait()
	})
}

// Monitoring takes a counter that falls for one that began again at 0. What Stats adds up
// from several counters must not fall either while the loop changes them.
func TestSumsOfCountersOnlyGrow(t *testing.T) {
	c := counters{origin: time.Now()}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			c.outages.Begin(time.Now())
			c.outages.End()
			c.countReady(i%2 == 0)
		}
	}()
	c.lastMessage.Store(c.moment(time.Now().Add(time.Second))) // received after Stats has read the clock
	if st := c.stats(time.Now()); st.Silence != 0 {
		t.Errorf("silent for %v", st.Silence)
	}
	var last Stats
	for i := 0; i < 100_000 && !t.Failed() || last.Connections < 1000; i++ {
		st := c.stats(time.Now())
		if st.OutageTime < last.OutageTime || st.Outage > st.OutageTime {
			t.Errorf("outages lasted %v, before %v; the one now %v", st.OutageTime, last.OutageTime, st.Outage)
		}
		if st.Resumes > st.Connections || st.Connections-st.Resumes < last.Connections-last.Resumes {
			t.Errorf("%d connections of which %d resumed, before %d and %d", st.Connections, st.Resumes, last.Connections, last.Resumes)
		}
		last = st
	}
	close(stop)
	<-stopped
}

func newStreamedMessage() *streamedMessage {
	return &streamedMessage{stop: make(chan struct{}), result: make(chan streamResult, 1), next: make(chan struct{}, 1)}
}
