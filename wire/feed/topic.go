package feed

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxTopic bounds a topic, in bytes.
const maxTopic = 255

// TopicError says why a topic cannot be subscribed to.
type TopicError struct {
	Topic   string // at most 255 bytes; a longer one is cut
	Problem string
}

// Error returns the topic and the problem.
func (e *TopicError) Error() string {
	return fmt.Sprintf("feed: topic %q: %s", e.Topic, e.Problem)
}

// pattern is a name in which one '*' stands for a parameter.
type pattern struct {
	before, after string
	param         bool
}

func newPattern(s string) (p pattern) {
	p.before, p.after, p.param = strings.Cut(s, "*")
	return p
}

// fill returns the name with that parameter.
func (p pattern) fill(param string) string {
	if !p.param {
		return p.before
	}
	return p.before + param + p.after
}

// match returns the parameter in a name.
func (p pattern) match(name string) (param string, ok bool) {
	if !p.param {
		return "", name == p.before
	}
	rest, ok1 := strings.CutPrefix(name, p.before)
	param, ok2 := strings.CutSuffix(rest, p.after)
	return param, ok1 && ok2 && param != ""
}

// stream says how the names of channel and product make one name.
type stream struct {
	separator    string
	productFirst bool
}

// newStream compiles Table.StreamName.
func newStream(s string) (st stream, ok bool) {
	rest, productFirst := strings.CutPrefix(s, "product")
	if productFirst {
		st.separator, ok = strings.CutSuffix(rest, "channel")
	} else if rest, ok = strings.CutPrefix(s, "channel"); ok {
		st.separator, ok = strings.CutSuffix(rest, "product")
	}
	st.productFirst = productFirst
	return st, ok && st.separator != ""
}

func (st stream) join(channel, product string) string {
	if st.productFirst {
		return product + st.separator + channel
	}
	return channel + st.separator + product
}

func (st stream) split(name string) (channel, product string, ok bool) {
	if st.productFirst {
		product, channel, ok = strings.Cut(name, st.separator)
		return channel, product, ok
	}
	i := strings.LastIndex(name, st.separator)
	if i < 0 {
		return "", "", false
	}
	return name[:i], name[i+len(st.separator):], true
}

// place is what a topic names.
type place struct {
	topic   string
	channel *channel
	param   string
	product string // as topics have it
}

// split splits a topic. The error is a *TopicError.
func (d *dialect) split(topic string) (place, error) {
	if len(topic) > maxTopic {
		return place{}, badTopic(topic[:32]+"...", "is longer than 255 bytes")
	}
	name, product, _ := strings.Cut(topic, "/")
	p := place{topic: topic, product: product}
	for _, c := range d.channels {
		if param, ok := c.name.match(name); ok && (p.channel == nil || !c.name.param && p.channel.name.param) {
			p.channel, p.param = c, param
		}
	}
	if p.channel == nil {
		return p, badTopic(topic, fmt.Sprintf("the feed has no channel %q", name))
	}
	if p.channel.name.param {
		if err := checkName(p.param); err != nil {
			return p, badTopic(topic, "the channel's parameter "+err.Error())
		}
		if _, ok := parseCount([]byte(p.param)); p.channel.numericParam && (!ok || p.param != "0" && p.param[0] == '0') {
			return p, badTopic(topic, "the channel's parameter is not a whole number")
		}
	}
	if err := checkProduct(product); err != nil {
		return p, badTopic(topic, "the product "+err.Error())
	}
	if d.lower && strings.ToUpper(strings.ToLower(product)) != product {
		return p, badTopic(topic, "the product is not in upper case")
	}
	return p, nil
}

// badTopic returns the error of a topic of a table.
func badTopic(topic, problem string) *TopicError {
	return &TopicError{topic, problem + "; want channel/product"}
}

// appendTopic appends a topic to b. product is as the server has it.
func (d *dialect) appendTopic(b []byte, c *channel, param string, product []byte) []byte {
	b = append(b, c.name.before...)
	if c.name.param {
		b = append(append(b, param...), c.name.after...)
	}
	b = append(b, '/')
	if !d.lower {
		return append(b, product...)
	}
	for i, r := range product {
		if r >= utf8.RuneSelf {
			return append(b[:len(b)-i], bytes.ToUpper(product)...)
		}
		if 'a' <= r && r <= 'z' {
			r -= 'a' - 'A'
		}
		b = append(b, r)
	}
	return b
}

// wireProduct returns a product as messages have it.
func (d *dialect) wireProduct(product string) string {
	if d.lower {
		return strings.ToLower(product)
	}
	return product
}

// named returns the channel that the server calls by that name and the parameter in
// the name; nil if there is none. A table has few channels, so a linear search is
// fast enough.
func (d *dialect) named(name string) (*channel, string) {
	var found *channel
	var param string
	for _, c := range d.channels {
		for _, n := range c.names {
			if p, ok := n.match(name); ok {
				if !n.param {
					return c, ""
				}
				if found == nil {
					found, param = c, p
				}
			}
		}
	}
	return found, param
}

// checkName returns nil if s is valid as a channel or as the rest of a topic.
func checkName(s string) error {
	switch {
	case s == "":
		return errors.New("is empty")
	case len(s) > maxTopic:
		return errors.New("is longer than 255 bytes")
	case !utf8.ValidString(s):
		return errors.New("is not UTF-8")
	case strings.Contains(s, "*"):
		return errors.New("has a '*', and a feed has no wildcards: subscribe to each topic")
	case strings.ContainsFunc(s, unicode.IsControl):
		return errors.New("has a control character")
	}
	return nil
}

// checkProduct is checkName for a product, whose levels may not be empty.
func checkProduct(s string) error {
	if err := checkName(s); err != nil {
		return err
	}
	if s[0] == '/' || s[len(s)-1] == '/' || strings.Contains(s, "//") {
		return errors.New("has an empty level")
	}
	return nil
}
