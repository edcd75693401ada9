package limpet

import (
	"errors"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// read takes frames off a connection until it ends. What belongs to a
// subscription goes straight to its queue, in wire order; the loop hears of
// everything else, and of what changes a subscription's state.
func (c *Client) read(k *conn) {
	for rest := true; ; rest = false {
		batch, err := k.receive(rest) // must fit a new stack
		if err = c.handle(k, batch, err); err != nil {
			c.inbox.post(readFailed{k, err})
			return
		}
		if !k.pace.steady(time.Now()) {
			c.goroutines.spawn(func() { c.read(k) })
			return
		}
	}
}

func (c *Client) handle(k *conn, batch []wire.Frame, err error) error {
	events := eventPool.Get().(*wire.Events)
	for len(batch) > 0 && err == nil {
		batch, err = c.decode(k, batch, events)
		if fault := c.route(k, events); fault != nil {
			err = fault
		}
		events.Reset()
	}
	eventPool.Put(events)
	return err
}

// eventPool lends the memory of events for one frame: an idle connection holds
// none.
var eventPool = sync.Pool{New: func() any { return new(wire.Events) }}

const routedAtOnce = 64 // events; one frame may hold more

// decode decodes frames until there is enough to route, and returns the others.
// Of a frame that is wrong nothing is applied; what came before it is.
func (c *Client) decode(k *conn, batch []wire.Frame, events *wire.Events) ([]wire.Frame, error) {
	frames, bytes := 0, 0
	defer func() {
		c.counters.frames.Add(uint64(frames))
		c.counters.bytesRead.Add(uint64(bytes))
	}()
	for len(batch) > 0 && len(events.List) < routedAtOnce {
		f := batch[0]
		batch = batch[1:]
		frames++
		bytes += len(f.Data)
		whole := len(events.List)
		if err := k.codec.Decode(f, events); err != nil {
			events.List = events.List[:whole]
			return nil, asViolation(err)
		}
	}
	return batch, nil
}

func (c *Client) route(k *conn, events *wire.Events) error {
	var forLoop []wire.Event
	var fault error
	routes := c.routes.Load()
	for rest := events.List; len(rest) > 0 && fault == nil; {
		ev := &rest[0]
		if !ev.Kind.OfSubscription() {
			forLoop = append(forLoop, *ev)
			rest = rest[1:]
			continue
		}
		n := together(rest)
		if ev.Key == 0 {
			ev.Key = k.names.keys[ev.Name]
		} else if ev.Kind == wire.EventSubscribed && ev.Name != "" {
			k.names.set(ev.Key, ev.Name)
		}
		if s := routes.find(ev); s != nil {
			var lost []wire.Event
			lost, fault = s.queue.offer(k.gen, rest[:n])
			for i := range lost {
				lost[i].Key = s.key
			}
			forLoop = append(forLoop, lost...)
		}
		if ev.Kind != wire.EventData && fault == nil {
			forLoop = append(forLoop, *ev)
		}
		rest = rest[n:]
	}
	if len(forLoop) > 0 && k.ahead.enter() {
		c.inbox.post(received{k, forLoop})
	}
	return fault
}

// ahead counts the batches of events that the reader has posted and the loop
// not applied. Its lock is a leaf.
type ahead struct {
	mu    sync.Mutex
	cond  sync.Cond
	n     int
	ended bool
}

// enter waits for room for one more. It returns false once the connection is
// dead.
func (a *ahead) enter() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.n == readsAhead && !a.ended {
		a.cond.Wait()
	}
	a.n++
	return !a.ended
}

// leave is the loop's word that it applied one.
func (a *ahead) leave() {
	a.mu.Lock()
	a.n--
	a.mu.Unlock()
	a.cond.Signal()
}

func (a *ahead) end() {
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	a.cond.Signal()
}

// names are what the server calls subscriptions on one connection: one name a
// key, the latest.
type names struct {
	keys  map[string]uint64
	names map[uint64]string
}

func (n *names) set(key uint64, name string) {
	if n.keys == nil {
		n.keys, n.names = make(map[string]uint64), make(map[uint64]string)
	}
	delete(n.keys, n.names[key])
	n.keys[name], n.names[key] = key, name
}

// together is how many events at the head are messages of one subscription; 1 if the
// first is something else.
func together(events []wire.Event) int {
	n := 1
	if events[0].Kind != wire.EventData {
		return n
	}
	for n < len(events) && events[n].Kind == wire.EventData && events[n].Key == events[0].Key && events[n].Name == events[0].Name {
		n++
	}
	return n
}

func asViolation(err error) error {
	var ce *wire.CodeError
	if errors.As(err, &ce) {
		return ce
	}
	return &wire.CodeError{Code: 1002, Reason: err.Error()}
}
