package feed

import (
	"fmt"
	"slices"
	"strconv"

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

// reportUnknown reports a type, or a channel, that is not in the table, once for each: it
// may be data that does not reach any subscription.
func (c *codec) reportUnknown(at locus, typ []byte, out *wire.Events) {
	what, name := "of type", typ
	if len(at.name) > 0 {
		what, name = "of the channel", at.name
	}
	text := what + " " + shorten(strconv.Quote(shorten(string(name))))
	if len(c.unknownTypes) == maxUnknownTypes || slices.Contains(c.unknownTypes, text) {
		return
	}
	c.unknownTypes = append(c.unknownTypes, text)
	e := out.Append(wire.EventError) // with code 0: it refuses nothing
	e.Reason = fmt.Sprintf("messages %s are not in the feed's table", text)
}
