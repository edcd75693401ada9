package test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpet-go/limpet"
	"github.com/limpet-go/limpet/limpettest"
	"github.com/limpet-go/limpet/outbox"
	"github.com/limpet-go/limpet/server"
	"github.com/limpet-go/limpet/wire/native"
)

var outboxSeeds = flag.Int("outboxseeds", 25, "how many random lives of an outbox to run")

// An outbox lives through many processes, connections and servers at random. Nothing whose Publish has
// returned is lost, nothing is there twice or out of order, and every outcome that was reported is true.
func TestOutboxAtRandom(t *testing.T) {
	for seed := range uint64(*outboxSeeds) {
		synctest.Test(t, func(t *testing.T) {
			l := newOutboxLife(t, seed)
			for range 60 {
				l.liveOn()
			}
			l.comeToAnEnd()
			if t.Failed() {
				t.Fatalf("seed %d:\n%s", seed, strings.Join(l.trace, "\n"))
			}
		})
	}
}

// outboxLife is one outbox, the clients that use it one after the other, and their server.
type outboxLife struct {
	t     *testing.T
	rnd   *rand.Rand
	srv   *limpettest.Server
	store *faultyStore
	c     *limpet.Client
	trace []string

	mu       sync.Mutex
	number   int                         // of messages so far
	kept     map[string]bool             // by payload: whose Publish has returned
	refused  map[string]error            // whose Publish failed
	receipts map[*limpet.Receipt]string  // of the client
	outcomes map[string][]limpet.Outcome // that were reported, Stored excepted
	payload  map[[16]byte]string         // by id
	calls    sync.WaitGroup
}

func newOutboxLife(t *testing.T, seed uint64) *outboxLife {
	l := &outboxLife{
		t: t, rnd: rand.New(rand.NewPCG(seed, 31)), store: newFaultyStore(),
		kept: map[string]bool{}, refused: map[string]error{}, receipts: map[*limpet.Receipt]string{},
		outcomes: map[string][]limpet.Outcome{}, payload: map[[16]byte]string{},
	}
	l.srv = limpettest.NewServer(t, &limpettest.ServerOptions{Server: &server.Options{Window: 64, SessionTTL: 20 * time.Second, Hooks: server.Hooks{
		OnPublish: func(_ context.Context, _ server.Principal, m server.Message) error {
			if strings.HasSuffix(string(m.Payload), "no") {
				return &server.Error{Code: native.CodeForbidden}
			}
			return nil
		},
	}}})
	l.begin()
	return l
}

func (l *outboxLife) say(format string, args ...any) {
	l.trace = append(l.trace, fmt.Sprintf("%v ", time.Now().Format("04:05.000"))+fmt.Sprintf(format, args...))
}

// begin starts a client.
func (l *outboxLife) begin() {
	l.srv.Stop() // the receipts are taken before anything happens
	defer l.srv.Start()
	l.c = start(l.t, l.srv, l.store, limpet.Options{Window: limpet.Window{Messages: 100}, Backoff: limpet.Backoff{Max: time.Second}})
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for r := range l.c.Receipts() {
		l.receipts[r] = l.payload[r.ID()]
		n++
	}
	l.say("a client with %d messages", n)
}

// end ends the client, and notes the outcomes.
func (l *outboxLife) end() {
	closeAndWait(l.t, l.c)
	l.calls.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for r, payload := range l.receipts {
		switch o := r.Outcome(); o {
		case limpet.Stored:
		case limpet.Pending, limpet.Unsent:
			l.t.Errorf("message %s has the outcome %v after the end", payload, o)
		default:
			l.outcomes[payload] = append(l.outcomes[payload], o)
		}
	}
	clear(l.receipts)
}

// liveOn does something.
func (l *outboxLife) liveOn() {
	switch n := l.rnd.IntN(20); {
	case n < 9:
		l.publishSome(1 + l.rnd.IntN(10))
	case n < 12:
		d := time.Duration(l.rnd.IntN(2000)) * time.Millisecond
		l.say("wait %v", d)
		time.Sleep(d)
	case n < 14:
		l.breakConnection()
	case n < 16:
		lost := l.rnd.IntN(2) == 0
		l.say("crash, lost %v", lost)
		next := l.store.crash(lost)
		l.srv.Network.ResetAll()
		l.end()
		l.store = next
		l.begin()
	case n < 17:
		l.say("close")
		l.store.fault(nil)
		l.end()
		l.begin()
	case n < 18:
		l.say("the server forgets")
		l.srv.Reboot(nil)
	default:
		l.changeCommits()
	}
}

// breakConnection breaks the connection.
func (l *outboxLife) breakConnection() {
	faults := []limpettest.Fault{
		limpettest.BlackHole(limpettest.Down), limpettest.BlackHole(limpettest.Up),
		limpettest.CutAfterBytes(limpettest.Down, l.rnd.IntN(600)), limpettest.ResetAfterBytes(limpettest.Up, l.rnd.IntN(600)),
		limpettest.CutAfterFrames(limpettest.Down, 1+l.rnd.IntN(4)), limpettest.CutAfterFrames(limpettest.Up, 1+l.rnd.IntN(4)),
	}
	f := faults[l.rnd.IntN(len(faults))]
	l.say("%v", f)
	if l.rnd.IntN(2) == 0 {
		l.srv.Inject(f)
		l.srv.Network.CutAll()
	} else {
		l.srv.Network.Strike(f)
		time.Sleep(time.Duration(l.rnd.IntN(50)) * time.Millisecond)
		if l.rnd.IntN(2) == 0 {
			l.srv.Network.ResetAll()
		}
	}
}

// changeCommits changes how the commits go.
func (l *outboxLife) changeCommits() {
	pause, fails := time.Duration(l.rnd.IntN(100))*time.Millisecond, l.rnd.IntN(4)
	l.say("commits take %v, one of %d fails", pause, fails)
	rnd := rand.New(rand.NewPCG(l.rnd.Uint64(), 1))
	l.store.fault(func(*outbox.Change) error {
		time.Sleep(pause)
		if fails > 0 && rnd.IntN(fails+1) == 0 {
			return errDisk
		}
		return nil
	})
}

// publishSome publishes n messages, one after the other, and waits for a part of the calls.
func (l *outboxLife) publishSome(n int) {
	first := l.number + 1
	l.number += n
	l.say("publish %d to %d", first, l.number)
	c, kind, timeout := l.c, l.rnd.IntN(8), time.Duration(1+l.rnd.IntN(300))*time.Millisecond
	l.calls.Wait()
	l.calls.Go(func() {
		for i := first; i < first+n; i++ {
			payload, o := fmt.Sprint(i), limpet.PublishOptions{}
			switch kind {
			case 0:
				payload += " no"
			case 1, 2:
				o.TTL = time.Duration(100+10*i) * time.Millisecond
			case 3:
				if i%2 == 0 {
					o.TTL = time.Duration(1+i%7) * 50 * time.Millisecond
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			r, err := c.Publish(ctx, "a", []byte(payload), &o)
			cancel()
			l.mu.Lock()
			if err != nil {
				l.refused[payload] = err
			} else {
				l.kept[payload], l.receipts[r], l.payload[r.ID()] = true, payload, payload
			}
			l.mu.Unlock()
		}
	})
	if l.rnd.IntN(3) > 0 {
		l.calls.Wait()
	} else {
		time.Sleep(time.Duration(l.rnd.IntN(20)) * time.Millisecond)
	}
}

// comeToAnEnd lets everything come to an end and compares.
func (l *outboxLife) comeToAnEnd() {
	l.store.fault(nil)
	l.calls.Wait()
	l.say("the end")
	l.srv.Network.ResetAll()
	flushed(l.t, l.c)
	time.Sleep(15 * time.Second) // for a commit that waits because others have failed
	if n := pendingOf(l.c); n > 0 {
		l.t.Errorf("%d messages have no outcome", n)
	}
	if st := l.c.Stats(); st.Window != 0 || st.WindowBytes != 0 {
		l.t.Errorf("%d messages and %d bytes are taken in the window", st.Window, st.WindowBytes)
	}
	l.end()
	l.store.settled(l.t)
	has, last := map[string]bool{}, 0
	for _, payload := range logged(l.t, l.srv) {
		var n int
		fmt.Sscan(payload, &n)
		if has[payload] || n <= last {
			l.t.Errorf("the server has %s after %d", payload, last)
		}
		has[payload], last = true, n
	}
	for payload := range l.kept {
		l.compare(payload, has[payload])
	}
	for payload, err := range l.refused {
		if has[payload] || !limpet.SafeToRetry(err) && !errors.Is(err, outbox.ErrUncertain) {
			l.t.Errorf("%s: the server has it: %v. Publish: %v", payload, has[payload], err)
		}
	}
}

// compare compares what was reported of a message with what the server has.
func (l *outboxLife) compare(payload string, has bool) {
	outcomes := l.outcomes[payload]
	if len(outcomes) == 0 {
		l.t.Errorf("%s has no outcome", payload)
	}
	for _, o := range outcomes {
		switch {
		case o == limpet.Unknown:
		case has != (o == limpet.Acked):
			l.t.Errorf("%s: %v, the server has it: %v", payload, outcomes, has)
		}
	}
}
