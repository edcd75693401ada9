package jsonrpc

import (
	"bytes"

	"github.com/limpet-go/limpet/wire"
)

// waiting are notifications that came before the answer with their id.
type waiting struct {
	payloads [][]byte
	lost     uint64 // not kept
}

// keepEarly keeps a notification with an unknown id while a subscription waits for its
// answer, which may have the id. Otherwise the client counts it.
func (c *codec) keepEarly(name string, payload []byte, out *wire.Events) {
	if c.asks.Len() > 0 && payload != nil {
		w := c.early[name]
		switch fits := c.earlyCount < maxEarly && c.earlyBytes+len(payload) <= maxEarlyBytes; {
		case fits && w == nil:
			w = &waiting{}
			c.early[name] = w
			fallthrough
		case fits && w.lost == 0:
			c.earlyCount++
			c.earlyBytes += len(payload)
			w.payloads = append(w.payloads, bytes.Clone(payload))
			return
		case w == nil:
			c.lostEarly = true
		default:
			w.lost++
		}
	}
	out.Append(wire.EventData).Name = name[1:]
}

// dropEarly forgets and returns what was kept under name.
func (c *codec) dropEarly(name string) waiting {
	w := c.early[name]
	if w == nil {
		return waiting{}
	}
	delete(c.early, name)
	c.earlyCount -= len(w.payloads)
	for _, payload := range w.payloads {
		c.earlyBytes -= len(payload)
	}
	return *w
}

// giveUpEarly lets the client count what was kept, once no answer can bring its id.
func (c *codec) giveUpEarly(out *wire.Events) {
	if c.asks.Len() > 0 {
		return
	}
	for name := range c.early {
		for range c.dropEarly(name).payloads {
			out.Append(wire.EventData).Name = name[1:]
		}
	}
	c.lostEarly = false
}
