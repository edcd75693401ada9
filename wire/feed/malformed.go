package feed

import (
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

var (
	errSyntax = errors.New("syntax")
	errRest   = errors.New("the rest of the frame cannot be read") // and was reported

	errBinary = &wire.CodeError{Code: 1003, Reason: "a binary message from a JSON feed"}
	errText   = &wire.CodeError{Code: 1007, Reason: "text that is not UTF-8"}
	errObject = &wire.CodeError{Code: 1007, Reason: `not a JSON object, or nested too deep; a text such as pong belongs in Table.Heartbeats, as "=pong"`}
	errLoose  = &wire.CodeError{Code: 1007, Reason: "a value that is not JSON"}
)

// invalid returns the error for data that is not well formed: close code 1007 (RFC
// 6455, section 7.4.1).
func invalid(reason string) error { return &wire.CodeError{Code: 1007, Reason: reason} }

// isMalformed reports whether err is about one message, which can be skipped.
func isMalformed(err error) bool {
	var ce *wire.CodeError
	return errors.Is(err, errSyntax) || errors.As(err, &ce) && ce.Code != errTopics.Code
}

// skip reports a message that cannot be read or placed. ch is its channel, nil if that
// is not known. If the table is strict, or err is about more than one message, skip
// returns err instead.
func (c *codec) skip(err error, ch *channel, out *wire.Events) error {
	if c.dialect.strict || !isMalformed(err) {
		return err
	}
	var ce *wire.CodeError
	if !errors.As(err, &ce) {
		ce = errObject
	}
	detail := ""
	if named := (*unnamedError)(nil); errors.As(err, &named) {
		detail = named.name
	}
	if last := lastOf(out); last != nil && last.Kind == wire.EventMalformed && last.Reason == ce.Reason && last.Detail == detail {
		last.Count++
	} else {
		e := out.Append(wire.EventMalformed)
		e.Reason, e.Detail, e.Count = ce.Reason, detail, 1
	}
	if ch == nil {
		return nil
	}
	if _, ok, err := c.scan.count(c.dialect.sequence); err != nil || !ok {
		c.reported++
	}
	if topic := c.skippedTopic(ch); topic != "" {
		c.gap(ch, topic, 1, out)
		return nil
	}
	c.gapOfChannel(ch, out)
	return nil
}

// lastOf returns the last event; nil if there is none.
func lastOf(out *wire.Events) *wire.Event {
	if len(out.List) == 0 {
		return nil
	}
	return &out.List[len(out.List)-1]
}

// skippedTopic returns the topic that a skipped message of ch was for; empty if it may
// have been for several.
func (c *codec) skippedTopic(ch *channel) string {
	d, s := c.dialect, &c.scan
	if !c.inEntry && s.first != (span{}) && slices.Contains(d.layout.inEntry, ch.product) {
		return "" // each entry has a product of its own
	}
	at, err := c.locate()
	if err != nil || at.channel != nil && at.channel != ch {
		return ""
	}
	if at.sub != nil {
		return at.sub.topic
	}
	param := at.param
	if ch.paramFrom >= 0 {
		text, err := s.text(ch.paramFrom)
		if err != nil {
			return ""
		}
		param = string(text)
	}
	product, err := s.text(ch.product)
	if err != nil || len(product) == 0 {
		return ""
	}
	topic := string(d.appendTopic(nil, ch, param, product))
	if p, err := d.split(topic); err != nil || p.channel != ch {
		return ""
	}
	return topic
}

// gap reports that a message of topic was skipped. Where the channel has numbers the
// next one shows its place.
func (c *codec) gap(ch *channel, topic string, count uint64, out *wire.Events) {
	e := out.Append(wire.EventGap)
	e.Name, e.Count, e.Cause = topic, count, wire.CauseMalformed
	e.Numbered = ch.number >= 0
}

// gapOfChannel does so for every subscription of ch, as it may have been for any of
// them, but only once until that subscription's next message: a server must not
// cause many events with few bytes.
func (c *codec) gapOfChannel(ch *channel, out *wire.Events) {
	var hit []string
	for u := range c.whole[ch.index] {
		if u.whole {
			u.whole = false
			hit = append(hit, u.topic)
		}
	}
	c.whole[ch.index] = nil // not cleared: a map that was large stays slow
	slices.SortFunc(hit, strings.Compare)
	for _, topic := range hit {
		c.gap(ch, topic, 0, out)
	}
}

// watchWhole makes the next skipped message of its channel count for u.
func (c *codec) watchWhole(u *sub) {
	if u.whole {
		return
	}
	u.whole = true
	whole := &c.whole[u.channel.index]
	if *whole == nil {
		*whole = map[*sub]struct{}{}
	}
	(*whole)[u] = struct{}{}
}

// loose skips a value that is not JSON, such as NaN, so that the members after it can
// be read.
func (s *scanner) loose(from int) int {
	at := from
	for wordByte(s.byteAt(at)) {
		at++
	}
	if at == from {
		return s.fail(at)
	}
	if s.fault == nil {
		s.fault = errLoose
	}
	return at
}

func wordByte(c byte) bool {
	return digit(c) || 'a' <= c|0x20 && c|0x20 <= 'z' || c == '-' || c == '+' || c == '.' || c == '_'
}

// twice follows when a wanted value occurs again: readers differ on which one counts.
func (s *scanner) twice(slot int) {
	if s.repeated == nil {
		s.repeated = make([]bool, len(s.found))
	}
	s.repeated[slot] = true
	s.fault = s.twoMembers(slot)
}

// faultOf returns why the message that was just scanned must not be used, or nil. Outside
// of strings a byte above 0x7f is an error of syntax.
func (s *scanner) faultOf(message []byte) error {
	if s.fault == nil && s.all&tops != 0 && !utf8.Valid(message) {
		return errText
	}
	return s.fault
}
