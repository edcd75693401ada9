package limpet

import (
	"container/heap"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/limpet-go/limpet/internal/fifo"
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
			carried = append(carried, s.request(gen, false))
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
func (s *Subscription) request(gen uint64, hold bool) wire.Subscribe {
	last, based, credit := s.queue.startRequest(gen, hold)
	s.held = hold
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
	byName map[string]*Subscription // if the dialect routes by name

	lastKey uint64 // that a subscription ever had
	closed  recentNames
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
		r.closed.add(topic)
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
	return r.byName[ev.Name] != nil || r.closed.count[ev.Name] > 0
}

// topicTable is what one connection knows of its topics, where the dialect routes by name.
type topicTable struct {
	topics      map[string]*topicUse
	holding     int                    // topics that have a place at the server
	served      map[*topicUse]struct{} // those that the server goes on with
	left        []*topicUse            // whose subscriptions have ended: the end is to be written
	leftInWrite []*topicUse            // the end is being written
	freed       fifo.Queue[topicDeadline]

	// A request that the server refused as a whole is made again in parts.
	suspects [][]*Subscription // the parts that are left
	trial    []*Subscription   // of the part that was asked for last: those not answered yet
	mute     bool              // a request was not answered in time
	partly   uint64            // the last write of which one topic was refused by name, plus 1
}

// usedTopic returns what k knows of a topic, nil if it knows nothing.
func (k *link) usedTopic(name string) *topicUse {
	if k.namedTopics == nil {
		return nil
	}
	return k.namedTopics.topics[name]
}

// topicUse is what one connection knows of a topic of a dialect that routes by
// name. The client asks for a topic again only when the server has finished with
// the earlier subscription to it: see wire.Traits.ByKey.
type topicUse struct {
	topic   string
	sub     *Subscription // that asked last, until it ends
	waiting *Subscription // asks once the topic is free

	owed      int       // answers to requests
	owedUntil time.Time // after it they do not count; zero: the last request is not written
	again     int       // of owed: answers to requests for what the server serves already

	closing   bool      // sub was closed, and its end is to be written when consumers have finished
	leaving   bool      // the server has not finished with the subscription that ended
	awaitsEnd bool      // because it has to confirm the end; otherwise it owes an answer
	tail      bool      // messages of that subscription may still come
	recent    bool      // a refusal may concern that subscription
	until     time.Time // all three end at the latest; zero: the end is not written
	served    bool      // the server goes on with it: the client cannot end it
	holds     bool      // in topicTable.holding
}

// count follows when u has changed.
func (n *topicTable) count(u *topicUse) {
	if holds := u.sub != nil || u.leaving || u.served; holds != u.holds {
		if u.holds = holds; holds {
			n.holding++
		} else {
			n.holding--
		}
	}
	if !u.served {
		delete(n.served, u)
	} else if n.served == nil {
		n.served = map[*topicUse]struct{}{u: {}}
	} else {
		n.served[u] = struct{}{}
	}
}

// useTopic is usedTopic for one that is asked for.
func (k *link) useTopic(topic string) *topicUse {
	u := k.namedTopics.topics[topic]
	if u == nil {
		if k.namedTopics.topics == nil {
			k.namedTopics.topics = make(map[string]*topicUse)
		}
		u = &topicUse{topic: topic}
		k.namedTopics.topics[topic] = u
	}
	return u
}

// mustWaitForTopic makes s wait if the server has not finished with an earlier
// subscription to the same topic.
func (k *link) mustWaitForTopic(s *Subscription) bool {
	u := k.usedTopic(s.topic)
	if u == nil || !u.leaving && !u.closing {
		return false
	}
	u.waiting = s
	return true
}

// leaveTopic follows when s has ended. With closing, an OpUnsubscribe ends it at the server too.
func (l *loop) leaveTopic(s *Subscription, closing bool) {
	traits, k := &l.c.cfg.traits, l.link
	if k == nil {
		return
	}
	u := k.usedTopic(s.topic)
	if u == nil || u.sub != s {
		return
	}
	u.sub, u.tail, u.closing = nil, closing, false
	u.served = !k.traits.Unsubscribe && s.state.Load().Phase == SubLive
	owed := u.owed > 0 && !due(u.owedUntil, l.now) && !u.served
	u.awaitsEnd = closing && (traits.ConfirmsEnd || !traits.Confirms)
	u.leaving = owed || u.awaitsEnd
	if u.leaving || u.tail {
		u.recent, u.until = true, time.Time{}
		k.namedTopics.left = append(k.namedTopics.left, u)
	}
	if !u.leaving {
		k.askForWaiting(u)
	}
	k.forget(u)
}

// forget follows when a topic has changed: it drops one of which nothing needs to be known.
func (k *link) forget(u *topicUse) {
	k.namedTopics.count(u)
	if u.sub == nil && u.waiting == nil && !u.leaving && !u.tail && !u.served && !u.recent {
		delete(k.namedTopics.topics, u.topic)
	}
}

// free follows when the server has finished with the subscription to a topic that
// ended. With tail its messages may still come.
func (k *link) free(u *topicUse, tail bool) {
	u.leaving, u.tail = false, tail
	k.askForWaiting(u)
	k.forget(u)
}

// askForWaiting asks for the subscription that has waited for its topic.
func (k *link) askForWaiting(u *topicUse) {
	if u.waiting != nil {
		k.queueRequest(u.waiting)
		u.waiting = nil
	}
}

// noteLeft follows when the ends of subscriptions were written: their time begins.
func (k *link) noteLeft(now time.Time) {
	n := k.namedTopics
	if n == nil {
		return
	}
	for _, u := range n.leftInWrite {
		u.until = now.Add(answerTimeout)
		n.freed.Push(topicDeadline{u, u.until})
	}
	n.leftInWrite = nil
}

// topicDeadline is the moment at which the time of a topicUse ends, unless that has
// changed.
type topicDeadline struct {
	use *topicUse
	at  time.Time
}

// freeTopics frees the topics whose time has ended.
func (l *loop) freeTopics(k *link) {
	for n := k.namedTopics; n != nil && n.freed.Len() > 0 && due(n.freed.At(0).at, l.now); {
		d := *n.freed.At(0)
		n.freed.Drop(1)
		switch {
		case !d.use.until.Equal(d.at):
		case l.now.Sub(d.at) > answerTimeout/2: // this process stood still: what the server has sent may wait
			d.use.until = l.now.Add(answerTimeout)
			n.freed.Push(topicDeadline{d.use, d.use.until})
		default:
			d.use.recent, d.use.until = false, time.Time{}
			k.free(d.use, false)
		}
	}
}

// handleNamed handles what the server says of a topic. s is the subscription to
// which the reader has routed it, nil if there is none. Only a subscription that was
// asked for can be meant.
func (l *loop) handleNamed(k *link, s *Subscription, ev *wire.Event) {
	name := ev.Name
	if s != nil {
		name = s.topic // losses that a queue has found have no name
	}
	u := k.usedTopic(name)
	if u == nil {
		return
	}
	ended := ev.Kind == wire.EventUnsubscribed && ev.Code == 0
	answer := ev.Kind == wire.EventSubscribed || ev.Kind == wire.EventUnsubscribed
	if answer && !ended && u.owed > 0 {
		u.owed--
	}
	refused := answer && ev.Code != 0
	refusedAgain := refused && u.again > 0
	switch {
	case refusedAgain:
		u.again-- // a server answers in order: the request before was not refused
	case ev.Kind == wire.EventSubscribed:
		u.again = u.owed
	case ended:
		u.again = 0
	}
	switch {
	case u.leaving:
		if ended || refused && !refusedAgain && u.owed == 0 {
			k.free(u, false)
		} else if answer && u.owed == 0 && !u.awaitsEnd {
			u.served = !k.traits.Unsubscribe
			k.free(u, u.tail)
		}
	case u.sub == nil:
		if answer {
			u.tail, u.served = u.tail && !ended, u.served && !ended
			k.forget(u)
		}
	case u.sub != s || s.state.Load().Phase == SubEnded:
	case refusedAgain:
		l.c.notify.post(ServerNotice{shownCode(ev.Code, ev.PeerCode), peerText(ev.Reason)})
	default:
		l.handleSubscription(k, s, ev)
	}
}
