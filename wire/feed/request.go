package feed

import (
	"errors"
	"slices"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// defaultMax is the default of Request.Max.
const defaultMax = 100

// batching is which topics may share a request.
type batching uint8

const (
	batchNone     batching = iota // one topic a message
	batchTopics                   // any topics
	batchProducts                 // the products of one channel
	batchGroups                   // the products of several channels
)

// request is a compiled Request.
type request struct {
	*template
	batching batching
	max      int // products in one message
}

var (
	errNotUTF8   = errors.New("is not UTF-8")
	errNamesNone = errors.New(`names no topic: want "$stream", or "$product" with "$channel" if the table has several channels`)
	errOutside   = errors.New(`has a name outside of its list that depends on the topic`)
)

// newRequest compiles the JSON of r, for a table with one channel or several.
func newRequest(r *Request, several bool) (*request, error) {
	if !utf8.ValidString(r.JSON) {
		return nil, errNotUTF8
	}
	t, err := newTemplate(r.JSON, words)
	if err != nil {
		return nil, err
	}
	q := &request{template: t, max: r.Max}
	if q.max == 0 {
		q.max = defaultMax
	}
	names := map[word]bool{}
	for w := range t.has {
		names[w] = true
	}
	onlyOf := func(list map[word]bool, w word) bool { return len(list) == 1 && list[w] }
	channels, products := 0, 0
	for _, list := range t.lists {
		for w := range list {
			names[w] = true
		}
		switch {
		case len(list) == 0:
			return nil, errors.New(`has a list with "..." whose element is the same for each topic`)
		case onlyOf(list, wordChannel):
			channels++
		case onlyOf(list, wordProduct):
			products++
		}
	}
	outside := t.has[wordProduct] || t.has[wordStream] || t.has[wordCursor]
	switch {
	case len(t.lists) == 0:
		q.batching = batchNone
	case channels+products < len(t.lists):
		q.batching = batchTopics
		outside = outside || t.has[wordChannel] || t.has[wordParam] || channels+products > 0
	case channels == 0:
		q.batching = batchProducts
	default:
		q.batching = batchGroups
		outside = outside || t.has[wordChannel] || t.has[wordParam] || products == 0
	}
	switch {
	case q.batching != batchNone && outside:
		return nil, errOutside
	case !names[wordStream] && (!names[wordProduct] || several && !names[wordChannel]):
		return nil, errNamesNone
	}
	return q, nil
}

// asked is one topic of a request.
type asked struct {
	place
	cursor string
}

// target returns how requests name a topic.
func (d *dialect) target(a *asked) target {
	product := d.wireProduct(a.product)
	channel := a.channel.request.fill(a.param)
	return target{channel: channel, product: product, stream: d.stream.join(channel, product), param: a.param, cursor: a.cursor}
}

// requestOf returns the compiled request for topics of c; nil if there is none.
func (d *dialect) requestOf(c *channel, end bool) *request {
	switch {
	case end && c.unsubscribe != nil:
		return c.unsubscribe
	case end:
		return d.unsubscribe
	case c.subscribe != nil:
		return c.subscribe
	}
	return d.subscribe
}

// maxPending bounds the requests of one connection that may be answered by their id.
const maxPending = maxTopics

// requests are those of one connection that may be answered by their id. Many servers do
// not, or only to refuse one: beyond maxPending the oldest is forgotten.
type requests struct {
	*wire.Ledger[uint64, pendingRequest]
	oldest uint64 // no request with a lower id is known; of Encode
}

func newRequests() requests {
	return requests{Ledger: wire.NewLedger[uint64, pendingRequest](maxPending)}
}

// expect adds a request. Its id is the highest so far.
func (r *requests) expect(id uint64, p pendingRequest) {
	for r.Put(id, p) != nil {
		r.Take(r.oldest)
		r.oldest++
	}
}

// pendingRequest is a request without an answer.
type pendingRequest struct {
	topics []string
	end    bool // it unsubscribes
}

// ask appends the messages that subscribe to topics, or end them. All of them have a
// request.
func (c *codec) ask(topics []asked, end bool, out *wire.Frames) {
	c.dialect.divide(topics, end, func(q *request, of []asked, v *values) { c.send(q, of, v, end, out) })
}

// CountFrames implements wire.Packer.
func (c *codec) CountFrames(ops []wire.Op) (n int) {
	for len(ops) > 0 {
		kind := ops[0].Kind
		if kind != wire.OpSubscribe && kind != wire.OpUnsubscribe {
			n, ops = n+1, ops[1:]
			continue
		}
		var run []asked
		for len(ops) > 0 && ops[0].Kind == kind {
			if a, err := c.asked(&ops[0]); err == nil {
				run = append(run, a)
			}
			ops = ops[1:]
		}
		c.dialect.divide(run, kind == wire.OpUnsubscribe, func(*request, []asked, *values) { n++ })
	}
	return n
}

// divide calls each for every message that it takes to subscribe to topics, or to end
// them. All of them have a request.
func (d *dialect) divide(topics []asked, end bool, each func(q *request, of []asked, v *values)) {
	for len(topics) > 0 {
		q := d.requestOf(topics[0].channel, end)
		n := 1
		for n < len(topics) && d.requestOf(topics[n].channel, end) == q {
			n++
		}
		d.divideAmong(q, topics[:n], each)
		topics = topics[n:]
	}
}

// divideAmong calls each for every message of q that it takes for topics.
func (d *dialect) divideAmong(q *request, topics []asked, each func(q *request, of []asked, v *values)) {
	targets := make([]target, len(topics))
	for i := range topics {
		targets[i] = d.target(&topics[i])
	}
	switch q.batching {
	case batchNone:
		for i := range topics {
			each(q, topics[i:i+1], &values{one: targets[i]})
		}
	case batchTopics:
		for len(topics) > 0 {
			n := min(q.max, len(topics))
			each(q, topics[:n], &values{lists: targets[:n]})
			topics, targets = topics[n:], targets[n:]
		}
	default:
		for _, g := range groups(targets, q.batching == batchGroups) {
			for from := 0; from < len(g[0]); from += q.max {
				v := &values{one: targets[g[0][from]]}
				var of []asked
				for k, members := range g {
					v.channels = append(v.channels, targets[members[0]])
					for _, i := range members[from:min(from+q.max, len(members))] {
						of = append(of, topics[i])
						if k == 0 {
							v.products = append(v.products, targets[i])
						}
					}
				}
				each(q, of, v)
			}
		}
	}
}

// group is a set of channels that are requested with the same products: for each
// channel the indices of its targets.
type group [][]int

// groups collects the targets of each channel, in order of appearance, and joins
// channels with the same products if one message may name several.
func groups(targets []target, join bool) []group {
	places := map[string]int{}
	var byChannel group
	for i := range targets {
		k, ok := places[targets[i].channel]
		if !ok {
			k = len(byChannel)
			places[targets[i].channel] = k
			byChannel = append(byChannel, nil)
		}
		byChannel[k] = append(byChannel[k], i)
	}
	sameProduct := func(a, b int) bool { return targets[a].product == targets[b].product }
	var joined []group
	for _, members := range byChannel {
		same := -1
		if join {
			same = slices.IndexFunc(joined, func(g group) bool { return slices.EqualFunc(g[0], members, sameProduct) })
		}
		if same < 0 {
			joined = append(joined, group{members})
		} else {
			joined[same] = append(joined[same], members)
		}
	}
	return joined
}

// send appends one request for topics.
func (c *codec) send(q *request, topics []asked, v *values, end bool, out *wire.Frames) {
	if q.has[wordID] {
		c.lastID++
		v.id = c.lastID
		if c.dialect.id != nil {
			names := make([]string, len(topics))
			for i := range topics {
				names[i] = topics[i].topic
			}
			c.pending.expect(v.id, pendingRequest{names, end})
		}
	}
	out.Append(wire.Text, q.write(nil, v))
}
