package wiretest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
)

// toy is a dialect of lines of text, or one that is broken in a way that has a name:
//
//	client  HI token             server  HI session
//	client  SUB topic after      server  OK topic after, or NO topic
//	client  UNSUB topic          server  END topic
//	client  PUB cmd topic body   server  ACK cmd, or REJ cmd
//	client  PING n, PONG n       server  PONG n, PING n
//	client  DONE topic n         server  MSG topic n body, or AGAIN topic n body; - in place of n: no number
//	client  BACK topic n         server  DENIED
type toy struct {
	broken string
	broker bool
	lock   *sync.Mutex // that is never free
}

func (d toy) Name() string {
	if d.broken == "a name that is no word" {
		return "The Toy"
	}
	return "toy"
}

var calls int // of Traits, for a dialect that is broken so

func (d toy) Traits() wire.Traits {
	t := wire.Traits{Publish: true, Acks: true, Resume: true, Unsubscribe: true, Greeting: true, Confirms: true,
		ConfirmsEnd: true, Ping: wire.PingOp, ErrorStaysOpen: true, Refresh: true}
	if d.broker {
		t.Resume, t.Processed, t.Release = false, wire.ProcessedEach, true
	}
	switch d.broken {
	case "traits that change":
		calls++
		t.MaxPayload = calls
	case "a stream in an envelope":
		t.Acks, t.Streams = false, true
	case "a resume that is no resume":
		t.LookBack = 0
	case "traits that contradict each other":
		t.Acks, t.Publish = true, false
	}
	return t
}

func (d toy) CheckTopic(_ wire.Use, topic string) error {
	if topic == "" || strings.ContainsAny(topic, " \n") {
		if d.broken == "an error that repeats a long topic" {
			return fmt.Errorf("toy: topic %q", topic)
		}
		return errors.New("toy: a topic is a word")
	}
	if d.broken == "an error that repeats a long topic" && len(topic) > 1000 {
		return fmt.Errorf("toy: topic %q", topic)
	}
	return nil
}

func (d toy) Attempt(a *wire.Attempt) error {
	a.Dial = d.broken != "an attempt that never dials"
	return nil
}

func (d toy) Open(r wire.Resume) (wire.Codec, error) {
	if d.broken == "no codec" {
		return nil, nil
	}
	return &toyCodec{toy: d, r: r}, nil
}

var lastTopic atomic.Value // of a dialect that is broken so

var onePing = []byte("PING 3")

func (d toy) Verdict(f wire.Failure) wire.Verdict {
	if d.broken == "a verdict that panics" && f.Code == 4321 {
		panic("no verdict")
	}
	if f.Code == 7 && d.broken != "a refusal without a verdict" {
		return wire.Verdict{Action: wire.ActionRefresh, Class: "auth"}
	}
	return wire.Verdict{}
}

type toyCodec struct {
	toy
	r         wire.Resume
	events    int
	published []uint64
	counts    int
	kept      [][]byte
}

func (c *toyCodec) line(out *wire.Frames, format string, args ...any) {
	out.Append(wire.Text, fmt.Appendf(nil, format, args...))
}

func (c *toyCodec) Start(out *wire.Frames) error {
	if c.broken != "no greeting" {
		token := c.r.Token
		if c.broken == "a token that is not sent" {
			token = ""
		}
		c.line(out, "HI %s", token)
	}
	return nil
}

func (c *toyCodec) CountFrames(ops []wire.Op) int {
	switch c.broken {
	case "frames that are not counted":
		return len(ops) - 1
	case "frames that are counted in another way each time":
		c.counts++
		return len(ops) + c.counts
	}
	return len(ops)
}

func (c *toyCodec) Encode(ops []wire.Op, out *wire.Frames) error {
	switch {
	case c.broken == "frames in another order":
		ops = slices.Clone(ops)
		slices.Reverse(ops)
	case c.broken == "an op that is left out of a batch":
		ops = ops[:1]
	}
	for i, op := range ops {
		switch op.Kind {
		case wire.OpSubscribe:
			after := op.Subscribe.Position.Offset
			switch {
			case c.broken == "a subscription that is not restored" && c.r.Conn > 1:
				continue
			case c.broken == "a resume that is no resume":
				after = 0
			}
			if from := op.Subscribe.From; (from == wire.FromFirst || from == wire.FromLast) && c.broken != "a beginning that is ignored" {
				return &wire.OpError{Index: i, Err: errors.New("toy: begins after a number or now")}
			}
			from := "new"
			if op.Subscribe.From == wire.FromResume {
				from = strconv.FormatUint(after, 10)
			}
			lastTopic.Store(op.Topic)
			c.line(out, "SUB %s %s", op.Topic, from)
		case wire.OpUnsubscribe:
			if c.broken == "an end that waits" {
				c.lock.Lock()
			}
			if c.broken != "an end that is not sent" {
				c.line(out, "UNSUB %s", op.Name)
			}
		case wire.OpPublish:
			if c.broken == "a frame with the memory of the payload" {
				out.Append(wire.Text, op.Message.Payload)
				continue
			}
			if !utf8.Valid(op.Message.Payload) && c.broken != "a text that is not UTF-8" {
				switch c.broken {
				case "an index of another op":
					i = 0
				case "frames from a refused op on":
					c.line(out, "PUB %d %s nothing", op.Cmd, op.Topic)
				}
				return &wire.OpError{Index: i, Err: errors.New("toy: not UTF-8")}
			}
			payload := op.Message.Payload
			if c.broken == "a publish that is cut" {
				payload = payload[:min(len(payload), 65535)]
			}
			c.line(out, "PUB %d %s %s", op.Cmd, op.Topic, payload)
			if c.broken == "a payload that Encode changes" {
				clear(op.Message.Payload)
			}
			if c.broken == "a publish that is sent twice" {
				c.line(out, "PUB %d %s %s", op.Cmd, op.Topic, op.Message.Payload)
			}
			if len(c.published) < 100 {
				c.published = append(c.published, op.Cmd)
			}
		case wire.OpAuth:
			switch c.broken {
			case "a new credential that is not sent":
			case "another credential":
				c.line(out, "AUTH %s", c.r.Token)
			case "an error that repeats the credential":
				if len(op.Token) > 1000 {
					return &wire.OpError{Index: i, Err: errors.New(op.Token)}
				}
				fallthrough
			default:
				c.line(out, "AUTH %s", op.Token)
			}
		case wire.OpPing:
			switch c.broken {
			case "a ping that waits":
				c.lock.Lock()
			case "a ping that is one variable":
				out.Append(wire.Text, onePing)
			case "an unreadable ping":
				c.line(out, "PNIG %d", op.N)
			default:
				c.line(out, "PING %d", op.N)
			}
		case wire.OpPong:
			if c.broken == "an answer to another ping" {
				op.N++
			}
			if c.broken != "a ping that is not answered" {
				c.line(out, "PONG %d", op.N)
			}
		case wire.OpAck:
			if c.broken != "a processed message that is not acknowledged" {
				c.line(out, "DONE %s %s", op.Name, op.Position.Tag)
			}
		case wire.OpRelease:
			if c.broken == "a release that acknowledges" {
				c.line(out, "DONE %s %s", op.Name, op.Position.Tag)
			} else {
				c.line(out, "BACK %s %s", op.Name, op.Position.Tag)
			}
		}
	}
	return nil
}

func (c *toyCodec) Decode(f wire.Frame, out *wire.Events) error {
	if c.broken == "a panic on an empty frame" {
		_ = f.Data[0]
	}
	verb, rest, _ := strings.Cut(string(f.Data), " ")
	word, rest, _ := strings.Cut(rest, " ")
	number, err := strconv.ParseUint(word, 10, 64)
	switch {
	case verb == "HI":
		out.Append(wire.EventReady).Ready = &wire.Ready{}
	case verb == "DENIED":
		e := out.Append(wire.EventError)
		e.Code, e.Fatal, e.Reason = 7, true, "denied"
		if c.broken == "a refusal that counts as a greeting" {
			*e = wire.Event{Kind: wire.EventReady, Ready: &wire.Ready{}}
		}
	case word == "" && c.broken == "an event without a name":
		out.Append(wire.EventData)
	case word == "":
		out.Append(wire.EventMalformed).Reason = "a line without words"
	case verb == "OK":
		e := out.Append(wire.EventSubscribed)
		e.Name, e.Continuity = word, wire.ContinuityByNumber
		if c.broken == "a confirmation that is lost" {
			out.List = out.List[:len(out.List)-1]
		}
	case verb == "NO":
		e := out.Append(wire.EventUnsubscribed)
		e.Name, e.Code, e.Reason = word, 1, "no"
		if c.broken == "a refusal that confirms" {
			e.Kind, e.Code = wire.EventSubscribed, 0
		}
	case verb == "END" && c.broken == "an end by the server that is ignored":
	case verb == "END":
		out.Append(wire.EventUnsubscribed).Name = word
	case (verb == "ACK" || verb == "REJ") && err == nil:
		ack := &wire.Ack{Cmd: number}
		if verb == "REJ" && c.broken != "a rejection that acknowledges" {
			ack.Rejects = []wire.Reject{{Seq: number / 4, Code: 1}}
		}
		if c.broken == "an answer with the memory of its frame" {
			ack.Reply = f.Data
		}
		ack.HasCredit = c.broken == "credit without sequence numbers"
		out.Append(wire.EventAck).Ack = ack
	case verb == "LASTS" && err == nil:
		e := out.Append(wire.EventAuth)
		e.Expires, e.Wanted = time.Duration(number)*time.Second, number == 0
		if c.broken == "a wish that is ignored" {
			e.Wanted = false
		}
	case verb == "PING" && err == nil:
		out.Append(wire.EventPing).N = number
	case verb == "PONG" && err == nil:
		out.Append(wire.EventPong).N = number
		if c.broken == "an acknowledgement of its own making" && len(c.published) > 0 {
			out.Append(wire.EventAck).Ack = &wire.Ack{Cmd: c.published[0]}
			c.published = c.published[1:]
		}
	case verb == "MSG" || verb == "AGAIN":
		c.message(verb, word, rest, f, out)
	default:
		if c.broken == "an error for a line that is not known" {
			return errors.New("toy: an unknown line")
		}
		if c.broken == "an error that repeats the line" {
			return &wire.CodeError{Code: 1002, Reason: string(f.Data)}
		}
		out.Append(wire.EventMalformed).Reason = "an unknown line"
		if c.broken == "a reason that repeats the line" {
			out.List[len(out.List)-1].Reason = verb
		}
	}
	switch c.broken {
	case "events without bound":
		if strings.HasPrefix(verb, "M") {
			for range 1000 {
				out.Append(wire.EventMalformed).Reason = "again"
			}
		}
	case "memory without bound":
		if len(f.Data) > 1000 {
			c.r.Session.Key = make([]byte, 64<<20)
		}
	}
	return nil
}

func (c *toyCodec) message(verb, topic, rest string, f wire.Frame, out *wire.Events) {
	number, body, _ := strings.Cut(rest, " ")
	plain := number == "-"
	if plain {
		number = "0"
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		out.Append(wire.EventMalformed).Reason = "a message without a number"
		return
	}
	c.events++
	e := out.Append(wire.EventData)
	e.Name, e.Message.Payload, e.Message.Redelivered = topic, []byte(body), verb == "AGAIN"
	e.Position.Offset, e.Numbered = n, true
	if plain && c.broken != "a number of its own" {
		e.Numbered = false
	}
	if c.broker {
		e.Position, e.Numbered = wire.Position{Tag: number}, false
	}
	switch c.broken {
	case "a number that is a float":
		e.Position.Offset = uint64(float64(n))
	case "a payload that is cut":
		e.Message.Payload = e.Message.Payload[:min(len(body), 65535)]
	case "a payload that is read as JSON":
		var v any
		if json.Unmarshal([]byte(body), &v) == nil {
			e.Message.Payload, _ = json.Marshal(v)
		}
	case "a topic that all connections share":
		e.Name, _ = lastTopic.Load().(string)
	case "memory that grows with each message":
		c.kept = append(c.kept, make([]byte, 1024))
	case "an acknowledgement with a message":
		if len(c.published) > 0 {
			out.Append(wire.EventAck).Ack = &wire.Ack{Cmd: c.published[0]}
			c.published = c.published[1:]
		}
	case "a message that is lost":
		if c.events%7 == 0 {
			out.List = out.List[:len(out.List)-1]
		}
	case "a loss that is hidden":
		e.Prev = 1
		if c.events%7 == 0 {
			out.List = out.List[:len(out.List)-1]
		}
	case "a message that comes twice":
		e.Numbered = false
		out.Append(wire.EventData)
		out.List[len(out.List)-1] = out.List[len(out.List)-2]
	case "a message of the wrong topic":
		if c.events%5 == 0 {
			e.Name = "a"
		}
	case "a payload that is changed":
		e.Message.Payload = []byte(strings.ReplaceAll(body, `"n"`, `"m"`))
	case "an event with the memory of its frame":
		e.Message.Payload = f.Data[len(f.Data)-len(body):]
	case "a payload that is borrowed from elsewhere":
		e.Borrowed = true
	case "a redelivery that is not marked":
		e.Message.Redelivered = false
	case "many allocations":
		for i := range 500 {
			e.Message.Type = strings.Repeat("x", i)
		}
		e.Message.Type = ""
	case "numbers that are ignored":
		e.Numbered = n < 1000
	}
}

// toyPeer is the server's half.
type toyPeer struct{}

func toySubject(d toy) Subject {
	return Subject{
		Dialect: d,
		Peer:    func(*http.Request) Peer { return toyPeer{} },
		Topics:  [2]string{"a", "b"},
		Refusal: &Refusal{Frames: toyLine("DENIED")},
	}
}

func toyLine(format string, args ...any) []wire.Frame {
	return []wire.Frame{{Type: wire.Text, Data: fmt.Appendf(nil, format, args...)}}
}

func (toyPeer) Open() []wire.Frame { return nil }

func (toyPeer) Decode(f wire.Frame) ([]Request, error) {
	verb, rest, _ := strings.Cut(string(f.Data), " ")
	word, rest, _ := strings.Cut(rest, " ")
	n, _ := strconv.ParseUint(word, 10, 64)
	var op wire.Op
	switch verb {
	case "HI":
		return []Request{{Hello: &wire.Resume{Token: word}}}, nil
	case "SUB":
		op = wire.Op{Kind: wire.OpSubscribe, Topic: word, Name: word, Subscribe: &wire.Subscribe{Topic: word}}
		if rest != "new" {
			op.Subscribe.From = wire.FromResume
			op.Subscribe.Position.Offset, _ = strconv.ParseUint(rest, 10, 64)
		}
	case "UNSUB":
		op = wire.Op{Kind: wire.OpUnsubscribe, Name: word}
	case "PUB":
		topic, body, _ := strings.Cut(rest, " ")
		op = wire.Op{Kind: wire.OpPublish, Cmd: n, Topic: topic, Message: &wire.Message{Payload: []byte(body)}}
	case "PING":
		op = wire.Op{Kind: wire.OpPing, N: n}
	case "AUTH":
		op = wire.Op{Kind: wire.OpAuth, Token: word}
	case "PONG":
		op = wire.Op{Kind: wire.OpPong, N: n}
	case "DONE", "BACK":
		op = wire.Op{Kind: wire.OpAck, Name: word}
		if verb == "BACK" {
			op.Kind = wire.OpRelease
		}
		op.Position.Offset, _ = strconv.ParseUint(rest, 10, 64)
	default:
		return nil, fmt.Errorf("verb %q", verb)
	}
	return []Request{{Op: op}}, nil
}

func (toyPeer) Encode(e wire.Event) []wire.Frame {
	switch e.Kind {
	case wire.EventReady:
		return toyLine("HI %s", e.Ready.Session.ID)
	case wire.EventSubscribed:
		return toyLine("OK %s %d", e.Name, e.Position.Offset)
	case wire.EventUnsubscribed:
		if e.Code == 0 {
			return toyLine("END %s", e.Name)
		}
		return toyLine("NO %s", e.Name)
	case wire.EventData:
		verb := "MSG"
		if e.Message.Redelivered {
			verb = "AGAIN"
		}
		if !e.Numbered && e.Position.Tag == "" {
			return toyLine("%s %s - %s", verb, e.Name, e.Message.Payload)
		}
		return toyLine("%s %s %d %s", verb, e.Name, e.Position.Offset, e.Message.Payload)
	case wire.EventAck:
		if len(e.Ack.Rejects) > 0 {
			return toyLine("REJ %d", e.Ack.Cmd)
		}
		return toyLine("ACK %d", e.Ack.Cmd)
	case wire.EventPing:
		return toyLine("PING %d", e.N)
	case wire.EventAuth:
		return toyLine("LASTS %d", e.Expires/time.Second)
	case wire.EventPong:
		return toyLine("PONG %d", e.N)
	}
	return nil
}
