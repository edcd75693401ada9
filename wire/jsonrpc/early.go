package jsonrpc

import (
	"bytes"

	"github.com/limpet-go/limpet/wire"
)

// waiting are notifications that came before the answer with their id.
type waiting struct {
	payloads [][]byte
	lost     uint64 // not kept
	failure  []byte // with which the server has ended the subscription behind them; nil: it has not
}

// keepEarly keeps a notification with an unknown id while a subscription waits for its
// answer, which may have the id. Otherwise the client counts it.
func (c *codec) keepEarly(name string, payload, failure []byte, out *wire.Events) {
	ends := payload == nil && !isNull(failure)
	if c.asks.Len() > 0 && (payload != nil || ends) {
		w := c.early[name]
		size := len(payload)
		if ends {
			size = len(failure)
		}
		fits := c.earlyCount < maxEarly && c.earlyBytes+size <= maxEarlyBytes
		if fits && w == nil {
			w = &waiting{}
			c.early[name] = w
		}
		switch {
		case fits && ends && w.failure == nil:
			w.failure = bytes.Clone(failure)
			c.earlyCount++
			c.earlyBytes += size
			return
		case fits && !ends && w.failure == nil && w.lost == 0:
			w.payloads = append(w.payloads, bytes.Clone(payload))
			c.earlyCount++
			c.earlyBytes += size
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
	c.earlyCount -= w.count()
	c.earlyBytes -= len(w.failure)
	for _, payload := range w.payloads {
		c.earlyBytes -= len(payload)
	}
	return *w
}

// count returns how many notifications wait.
func (w *waiting) count() int {
	if w.failure != nil {
		return len(w.payloads) + 1
	}
	return len(w.payloads)
}

// giveUpEarly lets the client count what was kept, once no answer can bring its id.
func (c *codec) giveUpEarly(out *wire.Events) {
	if c.asks.Len() > 0 {
		return
	}
	for name := range c.early {
		w := c.dropEarly(name)
		for range w.count() {
			out.Append(wire.EventData).Name = name[1:]
		}
	}
	c.lostEarly = false
}
