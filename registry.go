package limpet

import (
	"slices"
	"sync/atomic"

	"github.com/limpet-go/limpet/wire"
)

// routes maps what a codec names to delivery queues. It is immutable.
type routes struct {
	few    []*Subscription          // if there are only a few
	byKey  map[uint64]*Subscription // else
	byName map[string]*Subscription
}

const fewSubs = 8 // looked through faster than a map, and smaller

// find is nil for a subscription that is no more.
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

// registry holds the subscriptions in order of registration. It belongs to the
// loop, which publishes an immutable snapshot for the reader before it hands
// over any frame that names a new subscription.
type registry struct {
	traits *wire.Traits
	nextID uint64
	subs   []*Subscription
	dirty  bool // subs changed since the last publish
	routes *atomic.Pointer[routes]
}

func (r *registry) add(s *Subscription) {
	r.subs = append(r.subs, s)
	r.dirty = true
}

func (r *registry) remove(s *Subscription) {
	for i, other := range r.subs {
		if other == s {
			r.subs = append(r.subs[:i:i], r.subs[i+1:]...)
			r.dirty = true
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

func (r *registry) publish() {
	if !r.dirty {
		return
	}
	r.dirty = false
	next := new(routes)
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

// request is how s is asked for on connection gen: from the last message
// received, or as the caller wished if there was none.
func (s *Subscription) request(gen uint64) wire.Subscribe {
	last, based, credit := s.queue.begin(gen)
	return s.spell(last, based, credit)
}

// positions is what a cursor in a URL is made of: no connection can move it,
// since the last one was fenced.
func (r *registry) positions() []wire.Subscribe {
	var subs []wire.Subscribe
	for _, s := range r.subs {
		last, based := s.queue.position()
		subs = append(subs, s.spell(last, based, wire.Credit{}))
	}
	return subs
}

func (s *Subscription) spell(last Position, based bool, credit wire.Credit) wire.Subscribe {
	w := wire.Subscribe{Key: s.key, Topic: s.topic, From: s.from, Credit: credit, Token: s.token.reveal()}
	if based {
		w.From, w.Position = FromResume, last
	}
	return w
}

// begin readies every subscription for connection gen, which fences the
// earlier ones, and returns those that the handshake carries.
func (r *registry) begin(gen uint64) []wire.Subscribe {
	var first []wire.Subscribe
	for _, s := range r.subs {
		s.asked = false
		if len(first) < r.traits.StartSubs {
			first = append(first, s.request(gen))
			s.asked = true
		} else {
			s.queue.begin(gen)
		}
	}
	return first
}
