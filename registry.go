package limpet

import (
	"container/heap"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/names"
	"github.com/limpet-go/limpet/wire"
)

// registry holds the subscriptions in order of registration. It belongs to the loop. What
// concerns one costs the same however many there are.
type registry struct {
	traits      *wire.Traits
	lastKey     uint64
	subs        []*Subscription // nil: removed
	removed     int             // how many of subs are nil
	prioritized bool            // one has, or had, another priority than 0
	waiting     []*Subscription // those with askAgainAt, as a heap: the first is due first
	routes      *routes
	overlap     bool // the connection before still delivers
}

// all returns the subscriptions in order of registration. While it iterates, only
// the current one may be removed.
func (r *registry) all() iter.Seq[*Subscription] {
	return func(yield func(*Subscription) bool) {
		for _, s := range r.subs {
			if s != nil && !yield(s) {
				return
			}
		}
	}
}

func (r *registry) add(s *Subscription) {
	r.subs = append(r.subs, s)
	s.place, r.prioritized = len(r.subs), r.prioritized || s.priority != 0
	r.giveKey(s)
	if !r.traits.ByKey {
		r.routes.setName(s.topic, s)
	}
}

// renewKey gives s a new key: what is addressed to the old one counts no more.
func (r *registry) renewKey(s *Subscription) {
	r.routes.setKey(s.key, nil)
	r.giveKey(s)
}

func (r *registry) giveKey(s *Subscription) {
	r.lastKey++
	s.key = r.lastKey
	if s.wireName = ""; !r.traits.ByKey { // with ByKey the server may give one
		s.wireName = s.topic
	}
	s.queue.expectKey(s.key)
	r.routes.setKey(s.key, s)
}

func (r *registry) remove(s *Subscription) {
	if s.place == 0 {
		return
	}
	r.subs[s.place-1] = nil
	s.place = 0
	r.removed++
	r.postpone(s, time.Time{})
	r.routes.setKey(s.key, nil)
	if !r.traits.ByKey {
		r.routes.setName(s.topic, nil)
	}
	if r.removed <= len(r.subs)/2 {
		return
	}
	left := make([]*Subscription, 0, len(r.subs)-r.removed) // not in place: all may be at work
	for s := range r.all() {
		left = append(left, s)
		s.place = len(left)
	}
	r.subs, r.removed = left, 0
}

func (r *registry) named(topic string) *Subscription { return r.routes.named(topic) }

// postpone sets s.askAgainAt.
func (r *registry) postpone(s *Subscription, at time.Time) {
	h := (*askHeap)(r)
	s.askAgainAt = at
	switch {
	case at.IsZero() && s.waitPlace > 0:
		heap.Remove(h, s.waitPlace-1)
	case at.IsZero():
	case s.waitPlace > 0:
		heap.Fix(h, s.waitPlace-1)
	default:
		heap.Push(h, s)
	}
}

// nextDue returns the earliest askAgainAt, zero if there is none.
func (r *registry) nextDue() time.Time {
	if len(r.waiting) == 0 {
		return time.Time{}
	}
	return r.waiting[0].askAgainAt
}

// takeDue returns the subscriptions whose askAgainAt has come, in order of
// registration, and clears it.
func (r *registry) takeDue(now time.Time) []*Subscription {
	var taken []*Subscription
	for due(r.nextDue(), now) {
		s := r.waiting[0]
		r.postpone(s, time.Time{})
		taken = append(taken, s)
	}
	slices.SortFunc(taken, func(a, b *Subscription) int { return a.place - b.place })
	return taken
}

// askHeap is registry.waiting as a heap.
type askHeap registry

func (h *askHeap) Len() int           { return len(h.waiting) }
func (h *askHeap) Less(i, j int) bool { return h.waiting[i].askAgainAt.Before(h.waiting[j].askAgainAt) }

func (h *askHeap) Swap(i, j int) {
	w := h.waiting
	w[i], w[j] = w[j], w[i]
	w[i].waitPlace, w[j].waitPlace = i+1, j+1
}

func (h *askHeap) Push(x any) {
	s := x.(*Subscription)
	h.waiting = append(h.waiting, s)
	s.waitPlace = len(h.waiting)
}

func (h *askHeap) Pop() any {
	last := len(h.waiting) - 1
	s := h.waiting[last]
	h.waiting[last] = nil
	h.waiting, s.waitPlace = h.waiting[:last], 0
	return s
}

// startConnection prepares every subscription for connection gen, which fences
// earlier ones, and returns those that the handshake carries.
func (r *registry) startConnection(gen uint64, now time.Time) []wire.Subscribe {
	var carried []wire.Subscribe
	size := 0
	for s := range r.byPriority() {
		if s.failedAsks == 0 && !s.mustWait(now) {
			size += s.startSize()
		}
		fits := len(carried) < r.traits.StartSubs && (r.traits.StartBytes == 0 || size <= r.traits.StartBytes)
		if fits && s.failedAsks == 0 && !s.mustWait(now) {
			carried = append(carried, r.request(s, gen, false))
			s.askedGeneration = gen
		} else if !r.overlap {
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
	for s := range r.byPriority() {
		if s.mustWait(now) {
			continue
		}
		last, based := s.queue.resumePosition()
		subs = append(subs, s.wireSubscribe(last, based, wire.Credit{}))
	}
	return subs
}

// request prepares s for connection gen and returns how to ask for it: after the position that
// it has reached, or from where the caller chose. With hold, only what follows the answer counts.
func (r *registry) request(s *Subscription, gen uint64, hold bool) wire.Subscribe {
	s.held = hold
	if r.overlap {
		last, based := s.queue.expectConnection(gen, hold)
		return s.wireSubscribe(last, based, wire.Credit{})
	}
	return s.wireSubscribe(s.queue.startRequest(gen, hold))
}

func (s *Subscription) wireSubscribe(last Position, based bool, credit wire.Credit) wire.Subscribe {
	w := wire.Subscribe{Key: s.key, Topic: s.topic, From: s.from, Credit: credit, Token: s.token.reveal()}
	if based {
		w.From, w.Position = FromResume, last
	}
	return w
}

// routes maps what a codec names to subscriptions. The loop changes it before it
// hands over a frame that names a new subscription; the reader searches it. Its lock
// is a leaf.
type routes struct {
	mu     sync.Mutex
	byKey  map[uint64]*Subscription
	byName map[string]*Subscription // if the dialect routes by name

	lastKey uint64       // that a subscription ever had
	closed  names.Recent // the topics of those that ended last, of a dialect that routes by name
}

// setKey makes key stand for s, or for nothing if s is nil.
func (r *routes) setKey(key uint64, s *Subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	setRoute(&r.byKey, key, s)
	r.lastKey = max(r.lastKey, key)
}

// setName makes a topic stand for s, or for nothing if s is nil.
func (r *routes) setName(topic string, s *Subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	setRoute(&r.byName, topic, s)
	if s == nil {
		r.closed.Add(topic)
	}
}

func setRoute[K comparable](m *map[K]*Subscription, k K, s *Subscription) {
	switch {
	case s == nil:
		delete(*m, k)
	case *m == nil:
		*m = map[K]*Subscription{k: s}
	default:
		(*m)[k] = s
	}
}

// find returns the subscription that an event belongs to, nil if it has ended.
func (r *routes) find(ev *wire.Event) *Subscription {
	if ev.Key == 0 {
		return r.named(ev.Name)
	}
	return r.keyed(ev.Key)
}

func (r *routes) keyed(key uint64) *Subscription {
	r.mu.Lock()
	s := r.byKey[key]
	r.mu.Unlock()
	return s
}

func (r *routes) named(topic string) *Subscription {
	r.mu.Lock()
	s := r.byName[topic]
	r.mu.Unlock()
	return s
}

// wasKnown reports whether the subscription that ev names existed once: for a while
// after it was closed, the server may still send for it.
func (r *routes) wasKnown(ev *wire.Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ev.Key != 0 {
		return ev.Key <= r.lastKey
	}
	return r.byName[ev.Name] != nil || r.closed.Has(ev.Name)
}
