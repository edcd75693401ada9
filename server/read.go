package server

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// read applies the client's frames until the connection ends.
func (p *peer) read() {
	lim := native.DefaultLimits
	lim.Payload = p.server.opt.MaxPayload
	for {
		p.sock.raw.touch()
		p.working.Store(false)
		typ, data, err := p.sock.read()
		p.working.Store(true)
		if err != nil {
			p.stop(0, "the connection was closed or lost", true)
			return
		}
		if !p.beginBatch() {
			return
		}
		if err := p.batch(typ, data, lim); err != nil {
			p.fail(err)
			return
		}
		if p.ended() {
			return
		}
	}
}

// greet applies the HELLO of the upgrade request. It reports whether the connection goes on.
func (p *peer) greet() bool {
	p.working.Store(true)
	if !p.beginBatch() {
		return false
	}
	defer p.endBatch()
	h := p.early
	p.early, p.repeats = nil, true
	if err := p.hello(h); err != nil {
		p.fail(err)
		return false
	}
	return !p.ended()
}

// withoutHello takes the HELLO that the client sends again out of the first batch. It proves
// nothing about the resume key: the client may have written it before WELCOME came.
func (p *peer) withoutHello(frames []native.Frame) ([]native.Frame, error) {
	switch first := &frames[0]; {
	case first.Type != native.TypeHello:
		return nil, errNoHello
	case first.Hello.CN != p.number:
		return nil, protocolError("hello is not that of the upgrade request")
	}
	p.repeats = false
	return frames[1:], nil
}

var errNoHello = protocolError("the first frame is not hello")

// batch applies one WebSocket message. Nothing of it is applied if it cannot be
// decoded (docs/protocol.md, section 1).
func (p *peer) batch(typ wire.FrameType, data []byte, lim native.DecodeLimits) error {
	defer p.endBatch()
	if typ != p.enc.FrameType() {
		return &fault{code: native.CloseBadFrame, reason: "wrong type of WebSocket message for the subprotocol"}
	}
	frames, err := native.Decode(p.frames[:0], p.enc, native.FromClient, data, lim)
	if err != nil {
		var code *wire.CodeError
		if errors.As(err, &code) {
			return &fault{code: code.Code, reason: code.Reason}
		}
		return &fault{code: native.CloseBadFrame, reason: "not a batch"}
	}
	p.frames = frames
	defer p.forgetFrames()
	if p.repeats && len(frames) > 0 {
		if frames, err = p.withoutHello(frames); err != nil {
			return err
		}
	}
	if p.session != nil && len(frames) > 0 {
		p.session.proved()
	}
	published := false
	for i := 0; i < len(frames) && err == nil && p.hooks.Err() == nil; { // see accept
		n := 1
		switch {
		case p.session == nil && frames[i].Type != native.TypeHello:
			err = errNoHello
		case frames[i].Type == native.TypeMsg:
			published = true
			for i+n < len(frames) && frames[i+n].Type == native.TypeMsg {
				n++
			}
			err = p.accept(frames[i : i+n])
		default:
			err = p.apply(&frames[i])
		}
		i += n
	}
	if published {
		p.acknowledge()
	}
	return err
}

// forgetFrames follows when a batch was applied.
func (p *peer) forgetFrames() {
	clear(p.frames) // the payloads now belong to the log
	if cap(p.frames) > 256 {
		p.frames = nil
	}
}

// apply applies one frame other than a message. An error ends the connection.
func (p *peer) apply(f *native.Frame) error {
	switch f.Type {
	case native.TypeAck:
		for _, c := range f.Ack.Dcr {
			if _, ok := p.live[c.Ch]; ok {
				p.post(order{kind: orderCredit, credit: c})
			}
		}
	case native.TypeHello:
		if p.session != nil {
			return protocolError("a second hello")
		}
		return p.hello(f.Hello)
	case native.TypeSub:
		return p.subscribe(f.Sub)
	case native.TypeUnsub:
		if _, ok := p.live[f.Unsub.Ch]; ok {
			delete(p.live, f.Unsub.Ch)
			p.post(order{kind: orderUnsubscribe, credit: native.ChCredit{Ch: f.Unsub.Ch}})
		}
	case native.TypePing:
		p.send(native.Frame{Type: native.TypePong, N: f.N})
	case native.TypeAuth:
		return p.refresh(f.Auth.Tok)
	case native.TypeCall:
		return p.call(f.Call)
	case native.TypeGoAway:
		if f.GoAway.Fin {
			p.session.forget()
		}
	case native.TypeErr:
		if !p.errLogged { // once per connection: a peer must not fill the log
			p.errLogged = true
			p.log.Warn("client reports an error", "code", f.Err.Code, "text", quote(f.Err.Msg), "fatal", f.Err.Fatal)
		}
	}
	return nil
}

// hello authenticates the client, binds its session and answers with WELCOME, or
// returns why the connection is refused.
func (p *peer) hello(h *native.Hello) error {
	p.greeted.Store(true)
	if h.CN == 0 {
		return protocolError("connection numbers begin at 1")
	}
	if up := h.Up; up != nil {
		if up.Lo == 0 && up.Hi == 0 {
			up.Lo = 1
		}
		if up.Lo == 0 || up.Lo-1 > up.Hi || up.Hi > maxSeq {
			return protocolError("hello.up is not a valid range")
		}
	}
	if h.RL > 0 && h.RL < batchLimit {
		return protocolError("hello.rl is below %d", batchLimit)
	}
	who, err := p.authenticate(h.Tok)
	if h.Tok = ""; !p.asksAgain() {
		p.request = nil // no longer needed
	}
	if err != nil {
		p.server.stats.unauthenticated.Add(1)
		if f := p.undecided(err); f != nil {
			return f
		}
		return refusal(err)
	}
	p.who, p.number = who, h.CN
	p.principal.Store(&who.ID)

	o := p.server.opt
	ttl := o.SessionTTL
	if wanted := time.Duration(min(h.TTL, uint64(ttl/time.Second))) * time.Second; wanted > 0 {
		ttl = wanted
	}
	ctx, cancel := context.WithTimeout(p.ctx, authTimeout)
	defer cancel()
	s, w, err := p.server.sessions.bind(ctx, p, h, who.ID, ttl)
	p.session = s // sessions.leave checks whether it is bound
	if err != nil {
		return err
	}
	p.server.complete(w, ttl, who)
	p.creditN.Store(w.Cr.N)
	p.creditB.Store(w.Cr.B)
	p.server.welcomed(p)
	p.post(order{kind: orderWelcome, session: s, expires: who.Expires, beat: o.beat(h), limit: h.RL,
		frame: native.Frame{Type: native.TypeWelcome, Welcome: w}})
	for i := range h.Subs {
		if err := p.subscribe(&h.Subs[i]); err != nil {
			return err
		}
	}
	return nil
}

// refusal returns the fault for a HELLO that Authenticate refused.
func refusal(err error) error {
	f := &fault{code: native.CloseAuthInvalid, reason: "not authenticated"}
	var e *Error
	var p *panicError
	switch {
	case errors.As(err, &p):
		f.code, f.reason = native.CloseInternal, "internal error"
	case errors.As(err, &e) && closeCode(e.Code) != 0:
		f.code, f.reason = closeCode(e.Code), strings.ToValidUTF8(e.Reason, "\uFFFD")
		if e.Retry != 0 {
			f.say = &native.Err{Code: native.CodeUnavailable, Msg: cut(f.reason, native.MaxReason), Retry: wholeMillis(e.Retry)}
		}
	}
	return f
}

// closeCode returns the close code for the code that Authenticate has chosen: that itself,
// or the one with the meaning of a code inside frames that says nothing of the credential;
// otherwise 0.
func closeCode(code uint64) uint16 {
	switch {
	case code >= 4000 && code < 5000:
		return uint16(code)
	case code == native.CodeRateLimited:
		return native.CloseRateLimited
	case code == native.CodeUnavailable:
		return native.CloseBackendUnavailable
	case code == native.CodeInternal:
		return native.CloseInternal
	}
	return 0
}

// subscribe checks a subscription and passes it to write, or refuses it.
func (p *peer) subscribe(q *native.Sub) error {
	if q.Ch == 0 {
		return protocolError("channel 0 is reserved; subscriptions begin at channel 1")
	}
	if _, ok := p.live[q.Ch]; ok {
		return protocolError("channel %d is already in use", q.Ch)
	}
	refuse := func(code uint64, why string, retry time.Duration) error {
		p.send(native.Frame{Type: native.TypeUnsub, Unsub: &native.Unsub{
			Ch: q.Ch, Code: code, Msg: cut(why, native.MaxReason), Retry: wholeMillis(retry),
		}})
		return nil
	}
	if len(p.live) >= p.server.opt.MaxSubs {
		return refuse(native.CodeQuota, "too many subscriptions", 0)
	}
	if native.CheckTopic(wire.UseSubscribe, q.Topic) != nil {
		return refuse(native.CodeBadRequest, "not a valid topic", 0)
	}
	if code, why, retry := p.maySubscribe(q.Topic, native.CodeForbidden); code != 0 {
		return refuse(code, why, retry)
	}
	s, first, err := p.start(q)
	if err != nil {
		return p.storeFailed(err)
	}
	p.live[q.Ch] = q.Topic
	p.post(order{kind: orderSubscribe, sub: s, first: first})
	return nil
}

// start is the function start on the log. A panic of the log becomes an error.
func (p *peer) start(q *native.Sub) (s *subscription, first []native.Frame, err error) {
	defer recovered(p.log, &err)
	return start(p.messages, q)
}

// fail ends the connection because of an error of read.
func (p *peer) fail(err error) {
	var f fault
	if shared := (*fault)(nil); errors.As(err, &shared) {
		f = *shared
	} else {
		f = fault{code: native.CloseInternal, reason: "internal error"}
		p.log.Error("connection failed", "error", err)
	}
	if f.say == nil {
		switch f.code { // for a client behind a proxy that drops close codes
		case native.CloseProtocolError, native.CloseBadFrame:
			f.say = &native.Err{Code: native.CodeBadRequest, Msg: cut(f.reason, native.MaxReason)}
		case native.CloseFrameTooBig:
			f.say = &native.Err{Code: native.CodeTooBig, Msg: cut(f.reason, native.MaxReason)}
		}
	}
	if f.say != nil {
		p.send(native.Frame{Type: native.TypeErr, Err: f.say})
	}
	p.stop(f.code, f.reason, f.code == native.CloseSuperseded && f.say == nil)
}
