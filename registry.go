package limpet

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// registry holds the subscriptions in order of registration. It belongs to the
// loop, which publishes an immutable snapshot for the reader before it hands
// over any frame that names a new subscription.
type registry struct {
	traits  *wire.Traits
	lastKey uint64
	subs    []*Subscription
	changed bool // subs changed since the last snapshot
	routes  *atomic.Pointer[routes]
	closed  *closedNames
}

func (r *registry) add(s *Subscription) {
	r.lastKey++
	s.key = r.lastKey
	s.queue.expectKey(s.key)
	r.subs = append(r.subs, s)
	r.changed = true
}

// renewKey gives s a new key: what is addressed to the old one counts no more.
func (r *registry) renewKey(s *Subscription) {
	r.lastKey++
	s.key, s.wireName = r.lastKey, ""
	s.queue.expectKey(s.key)
	r.changed = true
}

func (r *registry) remove(s *Subscription) {
	for i, other := range r.subs {
		if other == s {
			r.subs = append(r.subs[:i:i], r.subs[i+1:]...)
			r.changed = true
			if r.traits.ByName {
				r.closed.add(s.topic)
			}
			return
		}
	}
}

func (r *registry) named(topic string) *Subscription {
	for _, s := range r.subs {
		if s.topic == topic {
			return s
		}
	}
	return nil
}

// startConnection prepares every subscription for connection gen, which fences
// earlier ones, and returns those that the handshake carries.
func (r *registry) startConnection(gen uint64, now time.Time) []wire.Subscribe {
	var carried []wire.Subscribe
	size := 0
	for _, s := range r.subs {
		if s.timeouts == 0 && !s.mustWait(now) {
			size += s.startSize()
		}
		fits := len(carried) < r.traits.StartSubs && (r.traits.StartBytes == 0 || size <= r.traits.StartBytes)
		if fits && s.timeouts == 0 && !s.mustWait(now) {
			carried = append(carried, s.request(gen))
			s.askedGeneration = gen
		} else {
			s.queue.startConnection(gen)
		}
	}
	return carried
}

// startSize is what s counts for wire.Traits.StartBytes.
func (s *Subscription) startSize() int {
	last, _ := s.queue.resumePosition()
	return 96 + len(s.topic) + len(s.token.reveal()) + len(last.Epoch) + len(last.Tag)
}

// positions returns the subscriptions with their positions, for a cursor in the
// URL. No connection can move the positions, because the last one was fenced.
func (r *registry) positions(now time.Time) []wire.Subscribe {
	var subs []wire.Subscribe
	for _, s := range r.subs {
		if s.mustWait(now) {
			continue
		}
		last, based := s.queue.resumePosition()
		subs = append(subs, s.wireSubscribe(last, based, wire.Credit{}))
	}
	return subs
}

// request prepares s for connection gen and returns how to ask for it: after the
// position that it has reached or, without one, from where the caller chose.
func (s *Subscription) request(gen uint64) wire.Subscribe {
	last, based, credit := s.queue.startConnection(gen)
	return s.wireSubscribe(last, based, credit)
}

func (s *Subscription) wireSubscribe(last Position, based bool, credit wire.Credit) wire.Subscribe {
	w := wire.Subscribe{Key: s.key, Topic: s.topic, From: s.from, Credit: credit, Token: s.token.reveal()}
	if based {
		w.From, w.Position = FromResume, last
	}
	return w
}

// routes maps what a codec names to subscriptions. It is immutable.
type routes struct {
	few    []*Subscription          // all of them, if they are few
	byKey  map[uint64]*Subscription // otherwise
	byName map[string]*Subscription // if the dialect routes by name

	lastKey uint64       // of the client so far
	closed  *closedNames // of the client
}

const fewSubs = 8 // a slice is searched faster than a map, and is smaller

// publishRoutes makes a snapshot for the reader.
func (r *registry) publishRoutes() {
	r.changed = false
	next := &routes{lastKey: r.lastKey, closed: r.closed}
	if len(r.subs) <= fewSubs {
		next.few = slices.Clone(r.subs)
	} else {
		next.byKey = make(map[uint64]*Subscription, len(r.subs))
		for _, s := range r.subs {
			next.byKey[s.key] = s
		}
	}
	if r.traits.ByName {
		next.byName = make(map[string]*Subscription, len(r.subs))
		for _, s := range r.subs {
			next.byName[s.topic] = s
		}
	}
	r.routes.Store(next)
}

// find returns the subscription that an event belongs to, nil if it has ended.
func (r *routes) find(ev *wire.Event) *Subscription {
	switch {
	case r == nil:
		return nil
	case ev.Key != 0:
		return r.keyed(ev.Key)
	}
	return r.byName[ev.Name]
}

func (r *routes) keyed(key uint64) *Subscription {
	for _, s := range r.few {
		if s.key == key {
			return s
		}
	}
	return r.byKey[key]
}

// wasKnown reports whether the subscription that ev names existed once: for a while
// after it was closed, the server may still send for it. It is the answer of a
// snapshot in which find found nothing.
func (r *routes) wasKnown(ev *wire.Event) bool {
	switch {
	case r == nil:
		return false
	case ev.Key != 0:
		return ev.Key <= r.lastKey
	}
	return r.closed.has(ev.Name)
}

// closedNames are the topics of the subscriptions that were closed last, for dialects
// that route by name. The loop adds, the reader looks up. Its lock is a leaf.
type closedNames struct {
	mu     sync.Mutex
	known  map[string]int // how often it is in order
	order  []string
	oldest int // index in order, once it is full
}

const maxClosedNames = 1024

func (n *closedNames) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil {
		n.known = make(map[string]int)
	}
	n.known[name]++
	if len(n.order) < maxClosedNames {
		n.order = append(n.order, name)
		return
	}
	old := n.order[n.oldest]
	n.order[n.oldest], n.oldest = name, (n.oldest+1)%maxClosedNames
	if n.known[old]--; n.known[old] == 0 {
		delete(n.known, old)
	}
}

func (n *closedNames) has(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known[name] > 0
}
