package jsonrpc

import (
	"encoding/json"
	"strings"

	"github.com/limpet-go/limpet/wire"
)

// batch is an array of requests without an answer: the ids from first to last.
type batch struct{ first, last uint64 }

// apart is the Step for requests of an array that the server has refused as a whole: each
// is sent again by itself.
type apart struct {
	asks []ask
	ends []request
}

// nextBatch returns the number of the array that the next request is in; 0: of none.
func (c *codec) nextBatch() uint64 {
	if c.firstID == 0 {
		c.firstID = c.lastID
	}
	if c.options.Batch < 2 || c.single {
		return 0
	}
	return c.batches + 1
}

// refusesBatch reports whether an error for the request with id n refuses the array that it
// was in: it is the only answer to the array, and names its first request, as Geth does.
func (c *codec) refusesBatch(n uint64, failure []byte) (b batch, ok bool) {
	number := uint64(0)
	if a, found := c.asks.Get(n); found {
		number = a.batch
	} else if r, found := c.requests.Get(n); found {
		number = r.batch
	}
	b, ok = c.open.Get(number)
	if failure == nil || !ok || b.first != n || !c.alone && !ofBatches(readError(failure)) {
		return b, false
	}
	c.open.Take(number)
	return b, true
}

// refusedBatch takes the oldest array that has no answer, if an error that names no
// request refuses it: it is about arrays, or about a request that is none.
func (c *codec) refusedBatch(e Error) (b batch, ok bool) {
	const invalid, limited, tooBig = -32600, -32005, -32010
	if !ofBatches(e) && e.Code != invalid && e.Code != limited && e.Code != tooBig {
		return b, false
	}
	for n := max(c.oldest, 1); c.open.Len() > 0; n++ { // numbers only grow
		if b, ok = c.open.Take(n); ok {
			c.oldest = n
			return b, true
		}
	}
	return b, false
}

// ofBatches reports whether an error is about arrays of requests.
func ofBatches(e Error) bool { return strings.Contains(strings.ToLower(e.Message), "batch") }

// refuseBatch follows when the server has refused b: nothing in it was executed.
func (c *codec) refuseBatch(b batch, e Error, out *wire.Events) {
	var again apart
	for id := b.first; id <= b.last; id++ {
		if a, ok := c.asks.Take(id); ok {
			again.asks = append(again.asks, a)
			continue
		}
		switch r, ok := c.requests.Take(id); {
		case !ok:
		case r.kind == wire.OpPublish:
			out.Append(wire.EventAck).Ack = &wire.Ack{Rejects: []wire.Reject{c.rejectOf(r.seq, e)}}
		case r.kind == wire.OpCall:
			reply := out.Append(wire.EventReply)
			reply.N, reply.Reason = r.seq, e.reason()
			reply.Code, reply.PeerCode = e.wireCodes()
		case r.kind == wire.OpPing:
			out.Append(wire.EventPong).N = r.cmd
		default:
			again.ends = append(again.ends, r)
		}
	}
	out.Append(wire.EventStep).Step = again
}

// sendApart sends again what was in an array, and makes no arrays any more.
func (c *codec) sendApart(s *apart, out *wire.Frames) error {
	c.flush(out)
	c.single = true
	for _, a := range s.asks {
		if _, left := c.leaving.Take(a.key); left {
			continue // it was closed in the meantime
		}
		call, err := c.options.Subscribe(a.topic)
		if err != nil {
			return err
		}
		c.lastID++
		a.batch = 0
		if err := c.asks.Put(c.lastID, a); err != nil {
			return err
		}
		c.add(call.object(c.lastID), out)
	}
	for _, r := range s.ends {
		id := r.name[1:]
		if r.name[0] == 's' {
			text, _ := json.Marshal(id) // a string
			id = string(text)
		}
		if err := c.end(r.key, r.topic, id, out); err != nil {
			return err
		}
	}
	return nil
}
