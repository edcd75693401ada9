package feed

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

var (
	errSyntax = errors.New("syntax")
	errRest   = errors.New("the rest of the frame cannot be read") // and was reported

	errBinary = &wire.CodeError{Code: 1003, Reason: "a binary message from a JSON feed"}
	errText   = &wire.CodeError{Code: 1007, Reason: "text that is not UTF-8"}
	errObject = &wire.CodeError{Code: 1007, Reason: "not a JSON object, or nested too deep"}
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
	if n := len(out.List); n > 0 && out.List[n-1].Kind == wire.EventMalformed && out.List[n-1].Reason == ce.Reason {
		out.List[n-1].Count++
	} else {
		e := out.Append(wire.EventMalformed)
		e.Reason, e.Count = ce.Reason, 1
	}
	if ch == nil {
		return nil
	}
	if _, ok, err := c.scan.count(c.dialect.sequence); err != nil || !ok {
		c.reported++
	}
	product, err := c.scan.text(c.dialect.product)
	if err == nil && len(product) > 0 && validTopic(ch, product) {
		c.gap(ch, ch.name+"/"+string(product), 1, out)
		return nil
	}
	c.gapOfChannel(ch, out)
	return nil
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

// watchWhole makes the next skipped message of ch count for u.
func (c *codec) watchWhole(u *sub, ch *channel) {
	if u.whole {
		return
	}
	u.whole = true
	if c.whole[ch.index] == nil {
		c.whole[ch.index] = map[*sub]struct{}{}
	}
	c.whole[ch.index][u] = struct{}{}
}

// loose skips a value that is not JSON, such as NaN, so that the members after it can
// be read.
func (s *scanner) loose(from int) error {
	s.at = from
	for s.at < len(s.data) && wordByte(s.data[s.at]) {
		s.at++
	}
	if s.at == from {
		return errSyntax
	}
	if s.fault == nil {
		s.fault = errLoose
	}
	return nil
}

func wordByte(c byte) bool {
	return digit(c) || 'a' <= c|0x20 && c|0x20 <= 'z' || c == '-' || c == '+' || c == '.' || c == '_'
}

// twice follows when wanted member i occurs again: readers differ on which value
// counts.
func (s *scanner) twice(i int) {
	if s.repeated == nil {
		s.repeated = make([]bool, len(s.wanted))
	}
	s.repeated[i] = true
	s.fault = s.twoMembers(i)
}

func (s *scanner) twoMembers(i int) error {
	return invalid("a message with two members " + strconv.Quote(s.wanted[i]))
}

// validTopic reports whether product makes a topic of ch.
func validTopic(ch *channel, product []byte) bool {
	return len(ch.name)+1+len(product) <= maxTopic && checkProduct(string(product)) == nil
}

// faultOf returns why the object that was just scanned must not be used, or nil.
func (s *scanner) faultOf(object []byte) error {
	if s.fault == nil && s.notText && !utf8.Valid(object) {
		return errText
	}
	return s.fault
}
