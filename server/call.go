package server

import (
	"context"
	"errors"
	"time"
	"unicode/utf8"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// maxCalls is how many calls of one connection OnCall serves at a time. A client that keeps to the
// protocol has at most 64 callers that wait; the others have left, and their hooks may still run.
const maxCalls = 256

// Reply is what OnCall answers to a call.
type Reply struct {
	Payload []byte // at most 256 KiB; it belongs to the server from then on
	Type    string // content type: UTF-8, at most 8 KiB
}

// call refuses a call, or serves it on a goroutine of its own.
func (p *peer) call(c *native.Call) error {
	if p.server.opt.Hooks.OnCall == nil {
		return protocolError("call to a server without the feature %s", native.FeatureCall)
	}
	size := int64(len(c.Payload))
	code, reason := p.mayCall(c)
	if code == 0 && (p.calls.Load() >= maxCalls || p.callBytes.Load() > 0 && p.callBytes.Load()+size > int64(p.server.opt.WindowBytes)) {
		code, reason = native.CodeRateLimited, "too many calls at a time"
	}
	if code != 0 {
		p.reply(&native.Reply{N: c.N, Code: code, Msg: cut(reason, native.MaxReason)})
		return nil
	}
	who := p.who // owned by this goroutine
	p.calls.Add(1)
	p.callBytes.Add(size)
	p.calling.Go(func() {
		p.reply(p.onCall(who, c)) // which waits while the client does not read
		p.calls.Add(-1)
		p.callBytes.Add(-size)
	})
	return nil
}

// mayCall returns why a call is refused without asking OnCall, or 0.
func (p *peer) mayCall(c *native.Call) (code uint64, reason string) {
	if native.CheckTopic(wire.UsePublish, c.Topic) != nil {
		return native.CodeBadRequest, "not a valid topic"
	}
	err := p.authorize(VerbCall, c.Topic)
	if err == nil {
		return 0, ""
	}
	if p.undecided(err) != nil {
		return native.CodeUnavailable, ""
	}
	code, reason, _ = codeOf(err, native.CodeForbidden)
	return code, reason
}

// onCall asks the hook. Its context ends with the time that the client waits, and with the connection.
func (p *peer) onCall(who Principal, c *native.Call) *native.Reply {
	ctx, cancel := context.WithCancel(p.hooks)
	defer cancel()
	if wait := time.Duration(min(c.DL, uint64(maxCallTime/time.Millisecond))) * time.Millisecond; wait > 0 {
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	defer context.AfterFunc(p.ctx, cancel)()
	r, err := p.callHook(ctx, who, Message{Topic: c.Topic, Payload: c.Payload, Type: c.Type, Header: c.Header, TTL: time.Duration(min(c.DL, uint64(maxCallTime/time.Millisecond))) * time.Millisecond})
	reply := &native.Reply{N: c.N}
	switch {
	case err == nil && (len(r.Payload) > native.MaxPayload || len(r.Type) > native.MaxHeaderSize):
		p.log.Error("a reply of OnCall is too big", "payload", len(r.Payload), "type", len(r.Type))
		reply.Code = native.CodeTooBig
	case err == nil && !utf8.ValidString(r.Type):
		p.log.Error("a reply of OnCall has a content type that is not UTF-8")
		reply.Code = native.CodeInternal
	case err == nil:
		reply.Payload, reply.Type = r.Payload, r.Type
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		reply.Code = native.CodeExpired
	case ctx.Err() == nil && p.undecided(err) == nil:
		reply.Code, reply.Msg, _ = codeOf(err, native.CodeBadRequest)
		reply.Msg = cut(reply.Msg, native.MaxReason)
	default:
		reply.Code = native.CodeUnavailable
	}
	return reply
}

const maxCallTime = 366 * 24 * time.Hour

func (p *peer) callHook(ctx context.Context, who Principal, m Message) (r Reply, err error) {
	defer recovered(p.log, &err)
	r, err = p.server.opt.Hooks.OnCall(ctx, who, m)
	return r, usable(err)
}

func (p *peer) reply(r *native.Reply) { p.send(native.Frame{Type: native.TypeReply, Reply: r}) }

// readable returns f, or in place of a reply that is longer than the client reads that it is too big.
func (w *writer) readable(f *native.Frame) *native.Frame {
	if f.Type != native.TypeReply || w.reads == 0 || uint64(native.Size(w.p.enc, f)) <= w.reads {
		return f
	}
	return &native.Frame{Type: native.TypeReply, Reply: &native.Reply{N: f.Reply.N, Code: native.CodeTooBig}}
}
