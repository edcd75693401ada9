package native_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
	"github.com/limpet-go/limpet/wire/wiretest"
)

// nativePeer is the server's half of limpet.v1.
type nativePeer struct{ enc native.Encoding }

func (p *nativePeer) Open() []wire.Frame { return nil }

func (p *nativePeer) Decode(f wire.Frame) (requests []wiretest.Request, err error) {
	frames, err := native.Decode(nil, p.enc, native.FromClient, f.Data, native.DecodeLimits{})
	if err != nil {
		return nil, err
	}
	for _, f := range frames {
		q := wiretest.Request{}
		switch f.Type {
		case native.TypeHello:
			h := f.Hello
			q.Hello = &wire.Resume{Conn: h.CN, Session: wire.Session{ID: h.SID, Key: h.Key, Epoch: h.SE}, Token: h.Tok}
			if h.Up != nil {
				q.Hello.Uplink = wire.Uplink{Lo: h.Up.Lo, Hi: h.Up.Hi, Tag: h.Up.Tag}
			}
			for _, s := range h.Subs {
				q.Hello.Subs = append(q.Hello.Subs, *subscribeOf(&s))
			}
		case native.TypeSub:
			q.Op = wire.Op{Kind: wire.OpSubscribe, Key: f.Sub.Ch, Topic: f.Sub.Topic, Subscribe: subscribeOf(f.Sub)}
		case native.TypeUnsub:
			q.Op = wire.Op{Kind: wire.OpUnsubscribe, Key: f.Unsub.Ch}
		case native.TypeMsg:
			m := &f.Msg
			q.Op = wire.Op{Kind: wire.OpPublish, Message: &wire.Message{Seq: m.S, ID: m.ID, Topic: m.Topic,
				Payload: m.Payload, Void: m.Flags&native.FlagVoid != 0}}
		case native.TypePing:
			q.Op = wire.Op{Kind: wire.OpPing, N: f.N}
		case native.TypeAuth:
			q.Op = wire.Op{Kind: wire.OpAuth, Token: f.Auth.Tok}
		case native.TypeCall:
			q.Op = wire.Op{Kind: wire.OpCall, N: f.Call.N, Topic: f.Call.Topic, Message: &wire.Message{Topic: f.Call.Topic, Payload: f.Call.Payload}}
		case native.TypePong:
			q.Op = wire.Op{Kind: wire.OpPong, N: f.N}
		}
		requests = append(requests, q)
	}
	return requests, nil
}

func subscribeOf(s *native.Sub) *wire.Subscribe {
	from := map[native.From]wire.From{native.FromResume: wire.FromResume, native.FromNew: wire.FromNew,
		native.FromFirst: wire.FromFirst, native.FromLast: wire.FromLast}[s.From]
	return &wire.Subscribe{Key: s.Ch, Topic: s.Topic, From: from, Position: wire.Position{Epoch: s.Epoch, Offset: s.O, Tag: string(s.Tag)}}
}

func (p *nativePeer) Encode(e wire.Event) []wire.Frame {
	var f native.Frame
	switch e.Kind {
	case wire.EventReady:
		r := e.Ready
		f = native.Frame{Type: native.TypeWelcome, Welcome: &native.Welcome{CN: r.Conn, SID: r.Session.ID, Key: r.Session.Key,
			SE: r.Session.Epoch, Res: r.Resumed, Ack: r.Ack.To, Tag: r.Tag, HasTag: r.Tag != wire.ID{},
			Cr: native.Credit{N: r.Ack.Credit.N, B: r.Ack.Credit.Bytes}, HB: 2000,
			Feat: []string{native.FeatureCall}}}
	case wire.EventSubscribed:
		f = native.Frame{Type: native.TypeSubOK, SubOK: &native.SubOK{Ch: e.Key, Epoch: e.Position.Epoch, O: e.Position.Offset,
			Tag: tagOf(e.Position), Head: e.Head, Rec: e.Continuity == wire.ContinuityProved}}
	case wire.EventUnsubscribed:
		f = native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{Ch: e.Key, Code: uint64(e.Code), Msg: e.Reason}}
	case wire.EventData:
		f = native.Frame{Type: native.TypeMsg, Msg: native.Msg{Ch: e.Key, S: e.Position.Offset, P: e.Prev, HasP: true,
			ID: e.Message.ID, Payload: e.Message.Payload, Tag: tagOf(e.Position)}}
	case wire.EventAck:
		a := &native.Ack{To: e.Ack.To, HasTo: true}
		for _, r := range e.Ack.Rejects {
			a.Nak = append(a.Nak, native.Reject{S: r.Seq, Code: uint64(r.Code)})
		}
		if e.Ack.HasCredit {
			a.Cr = &native.Credit{N: e.Ack.Credit.N, B: e.Ack.Credit.Bytes}
		}
		f = native.Frame{Type: native.TypeAck, Ack: a}
	case wire.EventPing:
		f = native.Frame{Type: native.TypePing, N: e.N}
	case wire.EventAuth:
		a := &native.Auth{Exp: uint64(e.Expires / time.Millisecond)}
		if e.Wanted {
			a.Need = 60_000
		}
		f = native.Frame{Type: native.TypeAuth, Auth: a}
	case wire.EventReply:
		f = native.Frame{Type: native.TypeReply, Reply: &native.Reply{N: e.N, Code: uint64(e.Code), Msg: e.Reason, Payload: e.Message.Payload}}
	case wire.EventPong:
		f = native.Frame{Type: native.TypePong, N: e.N}
	default:
		return nil
	}
	return p.frames(f)
}

func (p *nativePeer) frames(f native.Frame) []wire.Frame {
	data, err := native.Append(nil, p.enc, []native.Frame{f})
	if err != nil {
		panic(err)
	}
	typ := wire.Text
	if p.enc == native.Binary {
		typ = wire.Binary
	}
	return []wire.Frame{{Type: typ, Data: data}}
}

func tagOf(p wire.Position) []byte {
	if p.Tag == "" {
		return nil
	}
	return []byte(p.Tag)
}

func TestConformance(t *testing.T) {
	for name, enc := range map[string]native.Encoding{"json": native.JSON, "binary": native.Binary} {
		t.Run(name, func(t *testing.T) {
			refused := (&nativePeer{enc}).frames(native.Frame{Type: native.TypeErr, Err: &native.Err{Code: 4100, Msg: "no", Fatal: true}})
			wiretest.Run(t, wiretest.Subject{
				Dialect: native.New(&native.Options{Encoding: enc}),
				Peer:    func(*http.Request) wiretest.Peer { return &nativePeer{enc} },
				Topics:  [2]string{"a", "b"},
				Refusal: &wiretest.Refusal{Frames: refused, Code: 4100},
				Allocs:  16,
				Strict:  true, // docs/protocol.md, section 7
			})
		})
	}
}
