package jsonrpc

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

var (
	errOp     = errors.New("jsonrpc: there is no request for this")
	errHeader = errors.New("jsonrpc: a request has no room for a header; remove PublishOptions.Header")
	errType   = errors.New("jsonrpc: params are JSON; remove PublishOptions.Type or set it to " + TypeJSON)
	errMethod = errors.New("has a call whose method is empty, too long or no UTF-8; use 1 to 255 bytes")
	errParams = errors.New("has params that are neither a JSON array nor a JSON object in UTF-8; use one, or nothing")
	errShared = errors.New("jsonrpc: there is a subscription to this topic already, and nothing tells two apart; share it")
)

// check returns why c cannot be sent.
func (c *Call) check() error {
	if !validName(c.Method, maxMethod) {
		return errMethod
	}
	params := skipSpace(c.Params)
	if len(params) > 0 && (params[0] != '[' && params[0] != '{' || !utf8.Valid(params) || !json.Valid(params)) {
		return errParams
	}
	return nil
}

// ask is a request for a subscription, from Encode to Decode.
type ask struct {
	key   uint64
	topic string
	last  wire.Position // of the last message on an earlier connection
	batch uint64        // the array that it was in: see nextBatch
}

// request is another request, from Encode to Decode.
type request struct {
	kind wire.OpKind // OpPublish, OpCall, OpPing or OpUnsubscribe
	cmd  uint64
	seq  uint64 // number of the message or call
	key  uint64 // of the subscription to end
	name string // of its id: see idName

	topic string // of that subscription
	batch uint64 // the array that it was in: see nextBatch
}

// ending is the Step for a subscription that ended before its id was known.
type ending struct {
	key   uint64
	topic string
}

// codec is the state of one connection. The ledgers are for both halves.
type codec struct {
	options *Options

	asks     *wire.Ledger[uint64, ask]     // by the id of the request
	requests *wire.Ledger[uint64, request] // by the id of the request
	ids      *wire.Ledger[uint64, string]  // the server's id, as JSON, by key
	leaving  *wire.Ledger[uint64, bool]    // keys that ended before their id was known
	open     *wire.Ledger[uint64, batch]   // arrays without an answer, by their number
	local    *wire.Ledger[string, uint64]  // keys of topics that no server is asked for

	// Of Encode.
	lastID  uint64
	batch   []byte // an array that is not complete
	count   int    // objects in it
	firstID uint64 // of the requests in it; 0: there is none
	batches uint64 // arrays and single objects so far
	single  bool   // the server has refused an array: none is made any more

	// Of Decode.
	routes     map[string]*route   // by idName
	early      map[string]*waiting // notifications whose id is not known yet, by idName
	earlyCount int
	earlyBytes int
	lostEarly  bool // one was not kept, and its id neither
	skipped    [reasons]uint64
	alone      bool   // the object at hand is the only one of an array
	oldest     uint64 // no array with a lower number is open
}

func (c *codec) Start(*wire.Frames) error { return nil }

func (c *codec) Encode(ops []wire.Op, out *wire.Frames) error {
	for i := range ops {
		err := c.encode(&ops[i], out)
		if full := (*wire.LedgerError)(nil); errors.As(err, &full) {
			return err // it ends the connection: the server owes too many answers
		}
		if err != nil {
			c.flush(out)
			return &wire.OpError{Index: i, Err: err}
		}
	}
	c.flush(out)
	return nil
}

func (c *codec) encode(op *wire.Op, out *wire.Frames) error {
	switch op.Kind {
	case wire.OpSubscribe:
		return c.subscribe(op, out)
	case wire.OpUnsubscribe:
		return c.unsubscribe(op, out)
	case wire.OpCall:
		call, err := callOf(op.Message)
		if err != nil {
			return err
		}
		return c.send(&call, &request{kind: wire.OpCall, seq: op.N}, out)
	case wire.OpPublish:
		return c.publish(op, out)
	case wire.OpPing:
		return c.send(&Call{Method: c.options.Ping}, &request{kind: wire.OpPing, cmd: op.N}, out)
	case wire.OpPong:
		if id, ok := op.Step.(string); ok { // a request of the server
			c.flush(out) // an array holds either requests or answers: JSON-RPC 2.0, section 6
			out.Append(wire.Text, append(append([]byte(`{"jsonrpc":"2.0","id":`), id...), `,"error":{"code":-32601,"message":"method not found"}}`...))
			return nil
		}
	case wire.OpStep:
		if s, ok := op.Step.(ending); ok {
			id, known := c.ids.Take(s.key)
			if !known {
				return nil // the server has ended it in the meantime
			}
			return c.end(s.key, s.topic, id, out)
		}
		if s, ok := op.Step.(apart); ok {
			return c.sendApart(&s, out)
		}
	case wire.OpAuth, wire.OpBye:
		return nil
	}
	return errOp
}

func (c *codec) subscribe(op *wire.Op, out *wire.Frames) error {
	var call Call
	if c.options.Subscribe != nil {
		var err error
		if call, err = c.options.Subscribe(op.Topic); err != nil {
			return err
		}
	}
	if call.Method == "" {
		if _, used := c.local.Get(op.Topic); used {
			return errShared
		}
		out.Confirm(op.Key)
		return c.local.Put(strings.Clone(op.Topic), op.Key)
	}
	if err := call.check(); err != nil {
		return err
	}
	a := ask{key: op.Key, topic: op.Topic}
	if s := op.Subscribe; s != nil && s.From == wire.FromResume {
		a.last = s.Position
	}
	c.lastID++
	a.batch = c.nextBatch()
	if err := c.asks.Put(c.lastID, a); err != nil {
		return err
	}
	c.add(call.object(c.lastID), out)
	return nil
}

func (c *codec) unsubscribe(op *wire.Op, out *wire.Frames) error {
	if key, ok := c.local.Get(op.Topic); ok && key == op.Key {
		c.local.Take(op.Topic)
		return nil
	}
	// Decode may learn the id at the same time: whoever takes the mark ends the
	// subscription, so exactly one does.
	if err := c.leaving.Put(op.Key, true); err != nil {
		return err
	}
	id, known := c.ids.Get(op.Key)
	if !known {
		return nil
	}
	if _, mine := c.leaving.Take(op.Key); !mine {
		return nil
	}
	c.ids.Take(op.Key)
	return c.end(op.Key, op.Topic, id, out)
}

// end sends the call that ends a subscription.
func (c *codec) end(key uint64, topic, id string, out *wire.Frames) error {
	call := c.options.Unsubscribe(topic, []byte(id))
	return c.send(&call, &request{kind: wire.OpUnsubscribe, key: key, name: idName([]byte(id)), topic: topic}, out)
}

func (c *codec) publish(op *wire.Op, out *wire.Frames) error {
	m := op.Message
	call, err := callOf(m)
	if err != nil {
		return err
	}
	if c.options.Notify {
		return c.send(&call, nil, out)
	}
	return c.send(&call, &request{kind: wire.OpPublish, cmd: op.Cmd, seq: m.Seq}, out)
}

// callOf returns the call that a message is.
func callOf(m *wire.Message) (Call, error) {
	switch {
	case m == nil:
		return Call{}, errOp
	case len(m.Header) > 0:
		return Call{}, errHeader
	case m.Type != "" && m.Type != TypeJSON:
		return Call{}, errType
	}
	return Call{m.Topic, m.Payload}, nil
}

// send sends a call: a request, or without r a notification.
func (c *codec) send(call *Call, r *request, out *wire.Frames) error {
	if err := call.check(); err != nil {
		return err
	}
	if r == nil {
		c.add(call.object(0), out)
		return nil
	}
	c.lastID++
	r.batch = c.nextBatch()
	if err := c.requests.Put(c.lastID, *r); err != nil {
		return err
	}
	c.add(call.object(c.lastID), out)
	return nil
}

// object returns the request object for c; without an id it is a notification.
func (c *Call) object(id uint64) []byte {
	b := append(make([]byte, 0, 64+len(c.Method)+len(c.Params)), `{"jsonrpc":"2.0"`...)
	if id != 0 {
		b = strconv.AppendUint(append(b, `,"id":`...), id, 10)
	}
	method, _ := json.Marshal(c.Method) // a string
	b = append(append(b, `,"method":`...), method...)
	if len(skipSpace(c.Params)) > 0 {
		b = append(append(b, `,"params":`...), c.Params...)
	}
	return append(b, '}')
}

// add appends an object to out, or to the array that flush appends.
func (c *codec) add(object []byte, out *wire.Frames) {
	if c.options.Batch < 2 || c.single {
		out.Append(wire.Text, object)
		return
	}
	if c.count++; c.count > 1 {
		c.batch = append(append(c.batch, ','), object...)
	} else {
		c.batch = append(append(out.Buffer(len(object)+2), '['), object...)
	}
	if c.count == c.options.Batch {
		c.flush(out)
	}
}

// flush appends the array. One object needs none.
func (c *codec) flush(out *wire.Frames) {
	switch {
	case c.count == 1:
		out.Append(wire.Text, append([]byte(nil), c.batch[1:]...))
	case c.count > 1:
		if c.firstID != 0 {
			_ = c.open.Put(c.batches+1, batch{c.firstID, c.lastID}) // there are no more of them than of requests
		}
		out.Append(wire.Text, append(c.batch, ']'))
	}
	if c.count > 0 {
		c.batches++
	}
	c.batch, c.count, c.firstID = nil, 0, 0
}
