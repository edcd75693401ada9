package feed

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// codeBadRequest stands for every error of a feed: exchanges send texts, not codes
// (docs/protocol.md, section 7).
const codeBadRequest = 1

// entry is one part of a confirmation.
type entry struct{ channels, products []string }

// confirm decodes the confirmation of a subscribe or of an unsubscribe. Only what
// it names is confirmed.
func (c *codec) confirm(k *kind, out *wire.Events) error {
	entries, err := c.entries()
	if err != nil {
		return &wire.CodeError{Code: 1007, Reason: fmt.Sprintf("a message of type %q does not have the shape that the table describes", k.name)}
	}
	listed := map[*sub]struct{}{}
	type kept struct {
		sub     *sub
		channel *channel
	}
	var same []kept // held by the last complete list too
	changed := false
	for _, en := range entries {
		for _, name := range en.channels {
			ch := c.dialect.channel(name)
			if ch == nil {
				continue
			}
			for _, product := range en.products {
				u := c.sub(ch, []byte(product))
				if u == nil {
					if c.count >= maxTopics {
						return errTopics
					}
					continue
				}
				if k.role == roleEnded {
					c.ended(u, out)
					continue
				}
				_, before := c.listed[u]
				if _, again := listed[u]; !again && !before {
					c.subscribed(u, ch, out)
					changed = true
				} else if !again {
					same = append(same, kept{u, ch})
				}
				listed[u] = struct{}{}
			}
		}
	}
	if k.role == roleConfirm && c.dialect.confirm.Complete {
		changed = c.endOthers(listed, out) || changed
		for _, s := range same {
			if !changed { // it may answer a request for any of them
				c.subscribed(s.sub, s.channel, out)
			}
		}
	}
	return nil
}

// endOthers makes listed what the server has subscribed, and ends what an earlier
// list held and this one does not. It reports whether there was any.
func (c *codec) endOthers(listed map[*sub]struct{}, out *wire.Events) bool {
	var gone []*sub
	for u := range c.listed {
		if _, ok := listed[u]; !ok {
			gone = append(gone, u)
		}
	}
	c.listed = listed
	for _, u := range byTopic(gone) {
		c.ended(u, out)
	}
	return len(gone) > 0
}

// ended appends EventUnsubscribed for u.
func (c *codec) ended(u *sub, out *wire.Events) {
	c.forget(u)
	out.Append(wire.EventUnsubscribed).Name = u.topic
}

// forget resets u, which the server serves no more.
func (c *codec) forget(u *sub) {
	delete(c.unbroken, u)
	*u = sub{topic: u.topic}
}

// complain decodes an error message.
func (c *codec) complain(out *wire.Events) error {
	d, s := c.dialect, &c.scan
	reason := humanText(s.raw(d.text))
	if detail := humanText(s.raw(d.detail)); detail != "" {
		if reason != "" {
			reason += ": "
		}
		reason += detail
	}
	if reason == "" {
		reason = "the server reports an error"
	}
	reason = shorten(reason)
	channel, err := s.text(d.errorChannel)
	if err != nil {
		return err
	}
	product, err := s.text(d.errorProduct)
	if err != nil {
		return err
	}
	if ch := d.channel(string(channel)); ch != nil && len(product) > 0 {
		if u := c.sub(ch, product); u != nil {
			c.forget(u)
			delete(c.listed, u)
			e := out.Append(wire.EventUnsubscribed)
			e.Name = u.topic
			e.Code = codeBadRequest
			e.Reason = reason
			return nil
		}
	}
	e := out.Append(wire.EventError)
	e.Code = codeBadRequest
	e.Reason = reason
	return nil
}

// entries reads the parts of a confirmation. Confirmations are rare, so
// encoding/json is fast enough.
func (c *codec) entries() ([]entry, error) {
	d, s := c.dialect, &c.scan
	if d.list < 0 {
		en, err := newEntry(s.raw(d.confirmChannel), s.raw(d.confirmProducts))
		return []entry{en}, err
	}
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(s.raw(d.list), &list); err != nil {
		return nil, err
	}
	entries := make([]entry, 0, len(list))
	for _, m := range list {
		en, err := newEntry(m[d.confirm.Channel], m[d.confirm.Products])
		if err != nil {
			return nil, err
		}
		entries = append(entries, en)
	}
	return entries, nil
}

func newEntry(channels, products []byte) (en entry, err error) {
	if en.channels, err = oneOrMany(channels); err != nil {
		return en, err
	}
	en.products, err = oneOrMany(products)
	return en, err
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
