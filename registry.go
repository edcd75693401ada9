package limpet

import (
	"cmp"
	"iter"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/names"
	"github.com/limpet-go/limpet/internal/schedule"
	"github.com/limpet-go/limpet/wire"
)

// registry holds the subscriptions in order of registration. It belongs to the loop. What
// concerns one costs the same however many there are.
type registry struct {
	traits      *wire.Traits
	lastKey     uint64
	subs        []*Subscription              // nil: removed
	removed     int                          // how many of subs are nil
	prioritized bool                         // one has, or had, another priority than 0
	waiting     schedule.List[*Subscription] // those that are asked for again later
	routes      *routes
	overlap     bool // the connection before still delivers
}

func newRegistry(t *wire.Traits, r *routes) registry {
	return registry{traits: t, routes: r, waiting: schedule.New(func(s *Subscription) *schedule.Slot { return &s.askAgain })}
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

// topics returns the topics of those that are on the wire.
func (r *registry) topics() iter.Seq[string] {
	return func(yield func(string) bool) {
		for s := range r.all() {
			if !yield(s.topic) {
				return
			}
		}
	}
}

// users returns those with a user: each of a shared topic, and not one that is only on the wire.
func (r *registry) users() iter.Seq[*Subscription] {
	return func(yield func(*Subscription) bool) {
		for s := range r.all() {
			for u := range s.users {
				if !yield(u) {
					return
				}
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
	for q := range s.queues {
		q.expectKey(s.key)
	}
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
		r.routes.share(s, nil, false)
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

// postpone makes s be asked for not before at; zero: at any time.
func (r *registry) postpone(s *Subscription, at time.Time) { r.waiting.Set(s, at) }

// takeDue returns the subscriptions that are due to be asked for, in order of registration.
func (r *registry) takeDue(now time.Time) []*Subscription {
	taken := r.waiting.Take(now)
	slices.SortFunc(taken, func(a, b *Subscription) int { return a.place - b.place })
	return taken
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
			continue
		}
		s.askedGeneration = 0 // an attempt that has failed may have carried it
		if !r.overlap {
			for q := range s.queues {
				q.startConnection(gen)
			}
		}
	}
	return carried
}

// startSize is what s counts for wire.Traits.StartBytes.
func (s *Subscription) startSize() int {
	last, _ := s.resumePosition()
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
		last, based := s.resumePosition()
		subs = append(subs, s.wireSubscribe(last, based, wire.Credit{}))
	}
	return subs
}

// request prepares s for connection gen and returns how to ask for it: after the position that
// it has reached, or from where the caller chose. With hold, only what follows the answer counts.
func (r *registry) request(s *Subscription, gen uint64, hold bool) wire.Subscribe {
	s.held = hold
	var last Position
	var credit wire.Credit
	based := false
	for q := range s.queues {
		var p Position
		var known bool
		if r.overlap {
			p, known = q.expectConnection(gen, hold)
		} else {
			p, known, credit = q.startRequest(gen, hold)
		}
		if known {
			last, based = p, true
		}
	}
	return s.wireSubscribe(last, based, credit)
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
	byName map[string]*Subscription   // if the dialect routes by name
	shared map[*Subscription][]*queue // those that get what comes for one on the wire, if it shares its topic; replaced

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

// find returns the subscription that an event belongs to, nil if it has ended, and the queues that
// get the event if the topic is shared. snapshot says that the events at hand have a part of a
// snapshot.
func (r *routes) find(ev *wire.Event, snapshot bool) (s *Subscription, shared []*queue) {
	r.mu.Lock()
	if ev.Key == 0 {
		s = r.byName[ev.Name]
	} else {
		s = r.byKey[ev.Key]
	}
	if snapshot && s != nil {
		s.snapshots = true
	}
	if len(r.shared) > 0 {
		shared = r.shared[s]
	}
	r.mu.Unlock()
	return s, shared
}

// share makes queues get what comes for s; without any, its own does. The reader may have the list
// before, so this one is new. With joins there is one more than before: share changes nothing and reports
// false once a snapshot has begun, which that one would not see.
func (r *routes) share(s *Subscription, queues []*queue, joins bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case joins && s.snapshots:
		return false
	case len(queues) == 0, len(queues) == 1 && queues[0] == s.queue:
		delete(r.shared, s)
	case r.shared == nil:
		r.shared = map[*Subscription][]*queue{s: queues}
	default:
		r.shared[s] = queues
	}
	return true
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

// exceedsPlaces reports whether the server has no place for s, now or later on the
// connection: what was closed and cannot be ended at the server keeps its place.
func (l *loop) exceedsPlaces(s *Subscription) bool {
	limit := l.c.cfg.traits.Connection.Subscriptions
	if limit == 0 {
		return false
	}
	used := len(l.registry.subs) - l.registry.removed
	if k := l.link; k != nil {
		used += k.abandoned
		if n := k.namedTopics; n != nil {
			for u := range n.served {
				if u.topic != s.topic && l.registry.named(u.topic) == nil {
					used++
				}
			}
		}
	}
	return used >= limit
}

// freePlaces returns how many more subscriptions the server takes on k. One that was
// closed has its place until the server has finished with it.
func (l *loop) freePlaces(k *link) int {
	limit := l.c.cfg.traits.Connection.Subscriptions
	if limit == 0 || len(k.toAsk)+len(k.crowded) == 0 {
		return math.MaxInt
	}
	if n := k.namedTopics; n != nil {
		return max(0, limit-n.holding)
	}
	used := k.abandoned
	for s := range l.registry.all() {
		if k.hasPlace(s) {
			used++
		}
	}
	for i := range k.leaving {
		if !k.leaving[i].ended {
			used++
		}
	}
	return max(0, limit-used)
}

// hasPlace reports whether s counts among the subscriptions of k already.
func (k *link) hasPlace(s *Subscription) bool {
	if k.namedTopics == nil {
		return s.askedGeneration == k.conn.gen
	}
	u := k.usedTopic(s.topic)
	return u != nil && (u.sub == s || u.served)
}

// abandon follows when the client leaves a subscription that it cannot end at the server.
// Where topics are the names of subscriptions, topicUse knows it.
func (k *link) abandon() {
	if k.namedTopics == nil {
		k.abandoned++
	}
}

// waitForPlace makes s wait until the server has a place for it. Where none becomes free, one
// that was not answered ends as if it was not answered again.
func (l *loop) waitForPlace(k *link, s *Subscription) {
	if s.failedAsks > 0 && !k.traits.Unsubscribe {
		l.askFailed(s, &Error{Op: "Subscribe", Field: "topic", Class: ClassTimeout, Err: ErrUnanswered}, 0)
		return
	}
	k.crowded = append(k.crowded, s)
}

// byPriority returns the subscriptions in the order in which the server is asked for them.
func (r *registry) byPriority() iter.Seq[*Subscription] {
	if !r.prioritized {
		return r.all()
	}
	return slices.Values(slices.SortedStableFunc(r.all(), func(a, b *Subscription) int { return cmp.Compare(b.priority, a.priority) }))
}

// queueRequest puts s among those to ask for, before those with a lower priority.
func (k *link) queueRequest(s *Subscription) {
	i := len(k.toAsk)
	for i > 0 && k.toAsk[i-1].priority < s.priority {
		i--
	}
	k.toAsk = slices.Insert(k.toAsk, i, s)
}

const maxKept = 1024 // more closed subscriptions are left to the end of the session

// keepClosed remembers a closed subscription that the server keeps in the session: its
// end is owed until the server confirms it or, if it confirms none, until it is written.
func (l *loop) keepClosed(s *Subscription) {
	here := s.keptIn != 0 && s.keptIn == l.sessions
	if l.c.cfg.traits.KeepsSubs && here && len(l.kept) < maxKept {
		l.kept = append(l.kept, s)
	}
}

// forgetKept follows when the server has confirmed the end of a subscription.
func (l *loop) forgetKept(ev *wire.Event) {
	if ev.Kind == wire.EventUnsubscribed && ev.Key != 0 {
		l.kept = slices.DeleteFunc(l.kept, func(s *Subscription) bool { return s.key == ev.Key })
	}
}

// forgetWritten follows when the ends of subscriptions were written.
func (l *loop) forgetWritten(k *link) {
	if !l.c.cfg.traits.ConfirmsEnd {
		l.kept = slices.DeleteFunc(l.kept, func(s *Subscription) bool { return slices.Contains(k.endsInWrite, s.key) })
	}
	k.endsInWrite = nil
}

// resumeKept ends at the server the subscriptions that it has kept in a resumed session
// and that were closed in the meantime, and goes on with the others. Where they are a part
// of Start, the dialect does so.
func (l *loop) resumeKept(k *link, resumed bool) {
	closed := l.kept
	l.kept = nil
	if !resumed || !k.traits.KeepsSubs {
		return
	}
	for _, s := range closed {
		if s.askedGeneration != k.conn.gen { // otherwise it was closed before the welcome
			if s.keptIn != l.sessions || !k.traits.Unsubscribe || k.usedTopic(s.topic) != nil {
				continue // the topic has another subscription by now
			}
			s.askedGeneration = k.conn.gen
			k.unsubscribe(s)
		}
		l.kept = append(l.kept, s)
	}
	if k.traits.StartSubs > 0 {
		return
	}
	for s := range l.registry.all() {
		if s.keptIn != l.sessions || s.failedAsks > 0 {
			continue
		}
		s.askedGeneration = k.conn.gen // its queue knows it from the reader
		l.enterLive(k, s, true)
	}
}

// resumePosition returns how far what comes for s has been received.
func (s *Subscription) resumePosition() (last Position, known bool) {
	for q := range s.queues { // its own falls behind when its user has closed it
		if p, ok := q.resumePosition(); ok {
			last, known = p, true
		}
	}
	return last, known
}

// hasReceivedOn reports whether a message for s came on connection gen.
func (s *Subscription) hasReceivedOn(gen uint64) bool {
	for q := range s.queues {
		if q.hasReceivedOn(gen) {
			return true
		}
	}
	return false
}

// assumeLive follows when s counts as live without a confirmation.
func (s *Subscription) assumeLive() {
	for q := range s.queues {
		q.assumeLive()
	}
}

// holdNoLonger takes what comes for messages of s.
func (s *Subscription) holdNoLonger() {
	s.held = false
	for q := range s.queues {
		q.holdNoLonger()
	}
}
