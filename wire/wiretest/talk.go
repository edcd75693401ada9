package wiretest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"

	"github.com/limpet-go/limpet/wire"
)

// talk is a conversation between a codec and a peer, without a client.
type talk struct {
	s      *Subject
	codec  wire.Codec
	peer   Peer
	traits wire.Traits
	down   []wire.Frame // that the codec has decoded
	hasMsg []bool       // of each of them: it has a message
	up     []wire.Frame // that it has encoded
	events []wire.Event // of down
	kept   []string     // what is wrong with the memory of events
	hello  bool
	seq    uint64
}

var errHTTP = errors.New("the dialect makes an HTTP request before the dial")

// open makes a codec and a peer, as for the first connection, and the greeting.
func (s *Subject) open() (*talk, error) {
	a := &wire.Attempt{Number: 1, Token: "token", URL: "ws://127.0.0.1:1/path", Header: http.Header{}}
	if err := s.Dialect.Attempt(a); err != nil {
		return nil, fmt.Errorf("dialect: Attempt: %w", err)
	}
	if !a.Dial {
		if a.Request == nil {
			return nil, errors.New("dialect: Attempt sets neither Dial nor Request")
		}
		return nil, errHTTP
	}
	r := wire.Resume{Conn: 1, Token: "token", ReadLimit: 4 << 20, Heartbeat: beat, State: a.State, Uplink: wire.Uplink{Lo: 1}}
	request := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:1/path", nil)
	request.Header = a.Header
	if len(a.Subprotocols) > 0 {
		r.Subprotocol = a.Subprotocols[0]
		request.Header.Set("Sec-WebSocket-Protocol", r.Subprotocol)
	}
	codec, err := s.Dialect.Open(r)
	if err != nil {
		return nil, fmt.Errorf("dialect: Open: %w", err)
	}
	if codec == nil {
		return nil, errors.New("Open returns neither a codec nor an error")
	}
	k := &talk{s: s, codec: codec, peer: s.peer(request), traits: s.Dialect.Traits()}
	var out wire.Frames
	if err := codec.Start(&out); err != nil {
		return nil, fmt.Errorf("codec: Start: %w", err)
	}
	if err := errors.Join(k.receive(k.peer.Open()), k.write(&out)); err != nil {
		return nil, err
	}
	if k.traits.Greeting && !k.hello {
		return nil, errors.New("the trait Greeting is set, and the peer has found no Hello")
	}
	return k, nil
}

// say makes the peer say e, and the codec decode it. It reports whether the protocol has
// a form for it.
func (k *talk) say(e wire.Event) (bool, error) {
	frames := k.peer.Encode(e)
	return len(frames) > 0, k.receive(frames)
}

// receive decodes what the peer says, and writes the steps that it asks for.
func (k *talk) receive(frames []wire.Frame) error {
	for _, f := range frames {
		k.down = append(k.down, wire.Frame{Type: f.Type, Data: bytes.Clone(f.Data)})
		var events wire.Events
		lent := wire.Frame{Type: f.Type, Data: bytes.Clone(f.Data)} // a Peer may keep its own
		if err := k.codec.Decode(lent, &events); err != nil {
			return fmt.Errorf("codec: Decode of %q: %w", cut(f.Data), err)
		}
		k.reuse(lent, &events)
		k.events = append(k.events, events.List...)
		k.hasMsg = append(k.hasMsg, slices.ContainsFunc(events.List, func(e wire.Event) bool { return e.Kind == wire.EventData }))
		for _, e := range events.List {
			var op wire.Op
			switch e.Kind {
			case wire.EventStep:
				op = wire.Op{Kind: wire.OpStep, Step: e.Step}
			case wire.EventPing:
				op = wire.Op{Kind: wire.OpPong, N: e.N, Step: e.Step}
			default:
				continue
			}
			if err := k.encode(op); err != nil {
				return err
			}
		}
	}
	return nil
}

// reuse uses the memory of a frame again, as the client does after Decode.
func (k *talk) reuse(f wire.Frame, events *wire.Events) {
	var before []string
	var borrowed [][]byte
	for i := range events.List {
		e := &events.List[i]
		if e.Borrowed {
			borrowed = append(borrowed, e.Message.Payload)
			e.OwnPayload()
		}
		before = append(before, snapshot(*e))
	}
	for i := range f.Data {
		f.Data[i] = 'X'
	}
	for _, payload := range borrowed {
		if len(bytes.Trim(payload, "X")) > 0 {
			k.kept = append(k.kept, fmt.Sprintf("a payload that is Borrowed lies outside its frame: %q; leave Borrowed out", cut(payload)))
		}
	}
	for i, e := range events.List {
		if now := snapshot(e); now != before[i] {
			k.kept = append(k.kept, fmt.Sprintf("an event keeps the memory of its frame, which the client uses again: %s became %s", before[i], now))
		}
	}
}

// encode encodes ops, and makes the peer read them.
func (k *talk) encode(ops ...wire.Op) error {
	if k.traits.Silent {
		return nil
	}
	var out wire.Frames
	if err := k.codec.Encode(ops, &out); err != nil {
		return fmt.Errorf("codec: Encode of op kind %d: %w", ops[0].Kind, err)
	}
	return k.write(&out)
}

func (k *talk) write(out *wire.Frames) error {
	for _, f := range out.List {
		k.up = append(k.up, wire.Frame{Type: f.Type, Data: bytes.Clone(f.Data)})
		requests, err := k.peer.Decode(f)
		if err != nil {
			return fmt.Errorf("the peer cannot read %q: %w", cut(f.Data), err)
		}
		for _, q := range requests {
			err := k.receive(q.Reply)
			if q.Hello != nil {
				k.hello = true
				_, err2 := k.say(wire.Event{Kind: wire.EventReady, Ready: &wire.Ready{Conn: q.Hello.Conn,
					Session: wire.Session{ID: "session-1", Key: []byte("key"), Epoch: 1},
					Ack:     wire.Ack{HasCredit: true, Credit: wire.Credit{N: 1000, Bytes: 1 << 30}}}})
				err = errors.Join(err, err2)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// subscribe asks for a topic, if the dialect asks for topics, and confirms it.
func (k *talk) subscribe(key uint64, topic string) error {
	if topic == "" {
		return nil
	}
	err := k.encode(k.subscribeOp(key, topic))
	if err != nil || k.s.Pushes {
		return err
	}
	said, err := k.say(wire.Event{Kind: wire.EventSubscribed, Key: key, Name: topic, Continuity: wire.ContinuityByNumber,
		Position: wire.Position{Epoch: epoch}})
	if err == nil && !said && k.traits.Confirms && !slices.Contains(k.kinds(), wire.EventSubscribed) {
		return nil // the dialect may confirm by Frames.Confirm
	}
	return err
}

func (k *talk) subscribeOp(key uint64, topic string) wire.Op {
	return wire.Op{Kind: wire.OpSubscribe, Key: key, Name: topic, Topic: topic, Cmd: key*4 + 1,
		Subscribe: &wire.Subscribe{Key: key, Topic: topic, Credit: wire.Credit{N: 1000, Bytes: 1 << 30}}}
}

// data is message n of a topic.
func (k *talk) data(key uint64, topic string, n int) wire.Event {
	number := uint64(n)
	return wire.Event{Kind: wire.EventData, Key: key, Name: topic, Numbered: true, Prev: number - 1,
		Position: wire.Position{Epoch: epoch, Offset: number, Tag: strconv.FormatUint(number, 10)},
		Message:  wire.Message{ID: messageID(n), Topic: topic, Payload: payloadOf(n)}}
}

// publishOp is the next publish.
func (k *talk) publishOp(payload []byte) wire.Op {
	k.seq++
	return wire.Op{Kind: wire.OpPublish, Cmd: k.seq*4 + 3, Topic: k.s.Publish, Name: k.s.Publish,
		Message: &wire.Message{Seq: k.seq, ID: messageID(int(k.seq)), Topic: k.s.Publish, Payload: payload}}
}

// whole holds the usual conversation: the greeting, two topics, messages, publishes.
func (k *talk) whole() error {
	if err := errors.Join(k.subscribe(1, k.s.Topics[0]), k.subscribe(2, k.s.Topics[1])); err != nil {
		return err
	}
	for n := 1; n <= 4; n++ {
		key := uint64(1)
		topic := k.s.Topics[0]
		if n%2 == 0 && k.s.Topics[1] != "" {
			key, topic = 2, k.s.Topics[1]
		}
		if _, err := k.say(k.data(key, topic, (n+1)/2)); err != nil {
			return err
		}
	}
	if k.traits.Publish {
		for n := 1; n <= 2; n++ {
			op := k.publishOp(payloadOf(n))
			if err := k.encode(op); err != nil {
				return err
			}
			if !k.traits.Acks {
				continue
			}
			ack := &wire.Ack{To: op.Message.Seq, Cmd: op.Cmd}
			if n == 2 {
				ack.Rejects = []wire.Reject{{Seq: op.Message.Seq, Code: 1, Reason: "no"}}
			}
			if _, err := k.say(wire.Event{Kind: wire.EventAck, Ack: ack}); err != nil {
				return err
			}
		}
	}
	_, err1 := k.say(wire.Event{Kind: wire.EventPing, N: 1})
	err2 := k.encode(wire.Op{Kind: wire.OpPing, N: 2})
	if k.traits.Ping != wire.PingOp {
		err2 = nil
	}
	_, err3 := k.say(wire.Event{Kind: wire.EventPong, N: 2})
	return errors.Join(err1, err2, err3)
}

func (k *talk) kinds() (kinds []wire.EventKind) {
	for _, e := range k.events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// numbered reports whether the messages of the dialect have numbers.
func (s *Subject) numbered() bool {
	k, err := s.open()
	if err != nil || k.whole() != nil {
		return false
	}
	for _, e := range k.events {
		if e.Kind == wire.EventData && e.Numbered {
			return true
		}
	}
	return false
}

// can reports whether the server can say e on a connection with a subscription.
func (s *Subject) can(e wire.Event) bool {
	k, err := s.open()
	if err != nil || k.whole() != nil {
		return false
	}
	return len(k.peer.Encode(e)) > 0
}

// snapshot is the content of e, without its Step.
func snapshot(e wire.Event) string {
	e.Step = nil
	b, err := json.Marshal(e)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
