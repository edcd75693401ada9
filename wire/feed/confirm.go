package feed

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// confirmation says where a confirmation names topics.
type confirmation struct {
	list                       path // nil: the message is the only entry
	channel, products, streams path // in an entry

	endedProducts, endedStreams path // in that of an end; nil: as above
}

// of returns where a confirmation, or an end, names products and streams.
func (c *confirmation) of(ended bool) (products, streams path) {
	products, streams = c.products, c.streams
	if ended && c.endedProducts != nil {
		products = c.endedProducts
	}
	if ended && c.endedStreams != nil {
		streams = c.endedStreams
	}
	return products, streams
}

// namesTopics reports whether a confirmation is to name topics, and does not only repeat an id.
func (c *confirmation) namesTopics() bool { return c.products != nil || c.streams != nil }

var (
	errNames   = &wire.CodeError{Code: 1002, Reason: "a confirmation that names a channel without a product"}
	errUnnamed = &wire.CodeError{Code: 1007, Reason: "a confirmation, or the end of a subscription, that names no topic: it has nothing where Table.Confirm says"}
)

// complaint says where an error holds what.
type complaint struct {
	text, detail, code, channel, product, retry path
	unit                                        time.Duration // of retry
}

// retryAfter returns when an error says to ask again, 0 if it does not.
func (c *complaint) retryAfter(message []byte) time.Duration {
	n, err := strconv.ParseFloat(humanText(c.retry.of(message)), 64)
	switch after := n * float64(c.unit); {
	case err != nil || !(after > 0): // it may be NaN
		return 0
	default:
		return time.Duration(min(after, float64(maxRetry)))
	}
}

// maxRetry is the longest time that a client keeps to (docs/reconnect.md, section 4).
const maxRetry = 15 * time.Minute

// confirm decodes the confirmation of a subscribe or of an unsubscribe. Only what
// it names is confirmed, or else what the request with its id named.
func (c *codec) confirm(k *kind, message []byte, out *wire.Events) error {
	ended := k.role == roleEnded
	topics, named, incomplete, err := c.topicsIn(message, ended)
	if id, p, ok := c.answered(message); ok {
		taken := p.topics
		if among := p.among(topics, true); len(among) > 0 || c.namesNone(message, ended) {
			taken = among
		}
		c.keepOpen(id, p, taken)
		for _, topic := range taken {
			c.answer(topic, ended || p.end, nil, out)
		}
		return nil
	}
	if errors.Is(err, errTopics) {
		return err
	}
	if err != nil {
		return &wire.CodeError{Code: 1007, Reason: fmt.Sprintf("a message of type %q does not have the shape that the table describes", k.name)}
	}
	if len(topics) == 0 && incomplete && !c.dialect.complete {
		return errNames
	}
	if !named && c.dialect.confirm.namesTopics() && !c.namesNone(message, ended) {
		return errUnnamed
	}
	listed := map[*sub]struct{}{}
	for _, topic := range topics {
		if err := c.answer(topic, ended, listed, out); err != nil {
			return err
		}
	}
	if !ended && c.dialect.complete {
		c.replaceList(listed, out)
	}
	return nil
}

// answered takes the request that a message answers by its id.
func (c *codec) answered(message []byte) (id uint64, p pendingRequest, ok bool) {
	if id, ok = parseCount([]byte(humanText(c.dialect.id.of(message)))); ok {
		p, ok = c.pending.Take(id)
	}
	return id, p, ok
}

// keepOpen keeps what p asked for and was not answered: a server may answer a request in
// parts, or name only what it takes.
func (c *codec) keepOpen(id uint64, p pendingRequest, answered []string) {
	if p.topics = p.among(answered, false); len(p.topics) > 0 {
		_ = c.pending.Put(id, p) // in its place, unless more than maxPending have followed
	}
}

// among returns the topics of p that are in names, or those that are not.
func (p *pendingRequest) among(names []string, in bool) (topics []string) {
	named := make(map[string]bool, len(names))
	for _, name := range names {
		named[name] = true
	}
	for _, topic := range p.topics {
		if named[topic] == in {
			topics = append(topics, topic)
		}
	}
	return topics
}

// namesNone reports whether a confirmation has an empty list where it names topics.
func (c *codec) namesNone(message []byte, ended bool) bool {
	products, streams := c.dialect.confirm.of(ended)
	return slices.ContainsFunc([]path{c.dialect.confirm.list, products, streams}, func(p path) bool {
		var list []json.RawMessage
		return json.Unmarshal(p.of(message), &list) == nil && list != nil && len(list) == 0
	})
}

// answer follows when the server has begun or ended a topic. With listed, which gets
// it, a topic counts once, and not if the last complete list held it.
func (c *codec) answer(topic string, ended bool, listed map[*sub]struct{}, out *wire.Events) error {
	u := c.sub(topic)
	if u == nil {
		if len(c.subs) >= maxTopics {
			return errTopics
		}
		return nil
	}
	if ended {
		c.ended(u, out)
		return nil
	}
	_, before := c.listed[u]
	if _, again := listed[u]; !again && !before {
		c.subscribed(u, out)
	}
	if listed != nil {
		listed[u] = struct{}{}
	}
	return nil
}

// replaceList makes listed what the server has subscribed, and ends what an earlier
// list held and this one does not. The same list again may answer a request for any
// topic in it.
func (c *codec) replaceList(listed map[*sub]struct{}, out *wire.Events) {
	var gone, same []*sub
	for u := range c.listed {
		if _, ok := listed[u]; ok {
			same = append(same, u)
		} else {
			gone = append(gone, u)
		}
	}
	begun := len(listed) > len(same)
	c.listed = listed
	for _, u := range byTopic(gone) {
		c.ended(u, out)
	}
	if len(gone) > 0 || begun {
		return
	}
	for _, u := range byTopic(same) {
		c.subscribed(u, out)
	}
}

// subscribed appends EventSubscribed for u.
func (c *codec) subscribed(u *sub, out *wire.Events) {
	e := out.Append(wire.EventSubscribed)
	e.Name = u.topic
	if u.channel.number >= 0 || u.channel.cursor >= 0 {
		e.Continuity = wire.ContinuityByNumber
	}
	c.watchSequence(u)
	c.watchWhole(u)
}

// ended appends EventUnsubscribed for u.
func (c *codec) ended(u *sub, out *wire.Events) {
	c.forget(u)
	out.Append(wire.EventUnsubscribed).Name = u.topic
}

// forget resets u, which the server serves no more.
func (c *codec) forget(u *sub) {
	delete(c.unbroken, u)
	*u = sub{topic: u.topic, channel: u.channel}
}

// complain decodes an error message.
func (c *codec) complain(message []byte, out *wire.Events) {
	d := c.dialect
	reason := humanText(d.complaint.text.of(message))
	if detail := humanText(d.complaint.detail.of(message)); detail != "" {
		if reason != "" {
			reason += ": "
		}
		reason += detail
	}
	if reason == "" {
		reason = "the server reports an error"
	}
	reason = shorten(reason)
	code, err := strconv.ParseInt(humanText(d.complaint.code.of(message)), 10, 64)
	if err != nil {
		code = 0 // none, or no number
	}
	retry := d.complaint.retryAfter(message)
	if d.login.Message != nil && !c.accepted {
		e := out.Append(wire.EventError)
		e.Fatal, e.Code, e.PeerCode, e.Reason, e.Retry = true, wire.CodeRefused, code, reason, retry
		return
	}
	id, p, byID := c.answered(message)
	topic := c.complaintTopic(message)
	if topic == "" && byID && len(p.topics) == 1 && !p.end {
		topic = p.topics[0]
	}
	if u := c.sub(topic); u != nil {
		c.keepOpen(id, p, []string{topic})
		c.forget(u)
		delete(c.listed, u)
		e := out.Append(wire.EventUnsubscribed)
		e.Name = u.topic
		e.Code, e.PeerCode = wire.CodeRefused, code
		e.Reason, e.Retry = reason, retry
		return
	}
	e := out.Append(wire.EventError)
	e.Reason, e.PeerCode = reason, code
	if !byID && c.hasID(message) || p.end {
		return // it answers no subscribe, and refuses nothing
	}
	e.Code, e.Retry = wire.CodeRefused, retry
}

// hasID reports whether a message answers a request by its id, known or not.
func (c *codec) hasID(message []byte) bool {
	_, ok := parseCount([]byte(humanText(c.dialect.id.of(message))))
	return ok
}

// complaintTopic returns the topic that an error names, empty if it names none.
func (c *codec) complaintTopic(message []byte) string {
	channel := humanText(c.dialect.complaint.channel.of(message))
	product := humanText(c.dialect.complaint.product.of(message))
	if only := c.dialect.only; c.dialect.complaint.channel == nil && only != nil && product != "" {
		return string(c.dialect.appendTopic(nil, only, "", []byte(product)))
	}
	if channel == "" || product == "" {
		return ""
	}
	topic, _ := c.topicOf(channel, product)
	return topic
}

// topicOf returns the topic of a channel and a product, as the server names them.
func (c *codec) topicOf(channel, product string) (topic string, ok bool) {
	ch, param := c.dialect.named(channel)
	if ch == nil || ch.paramFrom >= 0 {
		return "", false
	}
	return string(c.dialect.appendTopic(nil, ch, param, []byte(product))), true
}

// topicsIn returns the topics that a confirmation names, whether it names anything, also
// what is not in the table, and whether it names a channel of the table without a product.
func (c *codec) topicsIn(message []byte, ended bool) (topics []string, named, incomplete bool, err error) {
	shape := &c.dialect.confirm
	atProducts, atStreams := shape.of(ended)
	entries := []json.RawMessage{message}
	if shape.list != nil {
		entries = nil
		if err := json.Unmarshal(shape.list.follow(message), &entries); err != nil {
			return nil, false, false, err
		}
	}
	add := func(channel, product string) {
		if topic, ok := c.topicOf(channel, product); ok {
			topics = append(topics, topic)
		}
	}
	for _, entry := range entries {
		if len(entry) == 0 || shape.list != nil && entry[0] != '{' && entry[0] != '[' {
			return nil, false, false, errObject
		}
		streams, err := oneOrMany(atStreams.of(entry))
		if err != nil {
			return nil, false, false, err
		}
		named = named || len(streams) > 0
		for _, name := range streams {
			if channel, product, ok := c.dialect.stream.split(name); ok {
				add(channel, product)
			}
		}
		channels, err := oneOrMany(shape.channel.of(entry))
		if err != nil {
			return nil, false, false, err
		}
		products, err := oneOrMany(atProducts.of(entry))
		if err != nil {
			return nil, false, false, err
		}
		named = named || len(channels)+len(products) > 0
		if only := c.dialect.only; shape.channel == nil && only != nil {
			for _, product := range products {
				topics = append(topics, string(c.dialect.appendTopic(nil, only, "", []byte(product))))
			}
		}
		if len(topics)+len(channels)*len(products) > maxTopics {
			return nil, false, false, errTopics
		}
		for _, channel := range channels {
			known, _ := c.dialect.named(channel)
			incomplete = incomplete || known != nil && len(products) == 0
			for _, product := range products {
				add(channel, product)
			}
		}
	}
	return topics, named, incomplete, nil
}

// of returns the value at p; nil if p is not set.
func (p path) of(raw []byte) []byte {
	if p == nil {
		return nil
	}
	return p.follow(raw)
}

// oneOrMany reads a string or a list of them. An absent member holds none.
func oneOrMany(raw []byte) ([]string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if raw[0] == '[' {
		var many []string
		err := json.Unmarshal(raw, &many)
		return many, err
	}
	var one string
	err := json.Unmarshal(raw, &one)
	return []string{one}, err
}

// humanText returns a value as a text for people: the content of a string, or any
// other value as JSON.
func humanText(raw []byte) string {
	var text string
	if len(raw) > 0 && json.Unmarshal(raw, &text) != nil {
		text = string(raw)
	}
	return text
}

// shorten cuts s to maxReason bytes at a character boundary.
func shorten(s string) string {
	if len(s) <= maxReason {
		return s
	}
	n := maxReason - len("...")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}
