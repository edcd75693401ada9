package feed

import (
	"github.com/limpet-go/limpet/wire"
)

// locus is where a message belongs. Either sub is set, or channel and param.
type locus struct {
	channel *channel
	param   string
	sub     *sub
	name    []byte // the server's name for the channel, if it is not in the table
}

// locate returns where the message that was just scanned belongs, as far as the
// message as a whole shows it.
func (c *codec) locate() (at locus, err error) {
	d, s := c.dialect, &c.scan
	switch {
	case d.streamed >= 0:
		name, err := s.text(d.streamed)
		if err != nil {
			return at, err
		}
		if at.sub = c.streams[string(name)]; at.sub != nil {
			at.channel = at.sub.channel
			return at, nil
		}
		return c.locateStream(string(name))
	case d.chann >= 0:
		name, err := s.text(d.chann)
		if err != nil {
			return at, err
		}
		if known, ok := c.names[string(name)]; ok {
			return known, nil
		}
		if at.channel, at.param = d.named(string(name)); at.channel == nil {
			at.name = name
		} else if len(c.names) < maxNames && len(name) <= maxTopic {
			c.names[string(name)] = at
		}
	}
	return at, nil
}

// locateStream is locate for a stream whose name is new.
func (c *codec) locateStream(name string) (at locus, err error) {
	d := c.dialect
	channel, product, ok := d.stream.split(name)
	if ok {
		at.channel, at.param = d.named(channel)
	}
	if at.channel == nil {
		at.name = []byte(name)
		return at, nil
	}
	at.sub, err = c.subOf(at, []byte(product))
	if err != nil {
		return at, err
	}
	if len(c.streams) < maxTopics && at.channel.paramFrom < 0 {
		c.streams[name] = at.sub
	}
	return at, nil
}

// unnamed is a type or a channel that is not in the table.
type unnamed struct {
	name    string
	channel bool
}

// unnamedError says that a message is of no type, or of no channel, that the table names.
type unnamedError struct {
	*wire.CodeError
	name string
}

func (e *unnamedError) Error() string { return e.CodeError.Error() + ": " + e.name }
func (e *unnamedError) Unwrap() error { return e.CodeError }

var (
	errType    = &wire.CodeError{Code: 1002, Reason: "a message of a type that is not in the feed's table"}
	errNoType  = &wire.CodeError{Code: 1002, Reason: "a message without a type, which no match of the feed's table takes"}
	errChannel = &wire.CodeError{Code: 1002, Reason: "a message of a channel that is not in the feed's table"}
)

// notInTable returns the error for a message that no match of the table takes: it may be
// data that does not reach any subscription. The first types and channels are named.
func (c *codec) notInTable(at locus, typ []byte) error {
	u, reason := unnamed{name: string(typ)}, errType
	if len(at.name) > 0 {
		u, reason = unnamed{string(at.name), true}, errChannel
	} else if len(typ) == 0 {
		return errNoType
	}
	u.name = shorten(u.name)
	if known := c.unnamed[u]; known != nil {
		return known
	}
	if len(c.unnamed) == maxUnnamed {
		return reason
	}
	if c.unnamed == nil {
		c.unnamed = map[unnamed]*unnamedError{}
	}
	c.unnamed[u] = &unnamedError{reason, u.name}
	return c.unnamed[u]
}
