package server

import (
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// accept gives an uplink message its outcome, exactly once (docs/protocol.md,
// section 3). Between begin and finish nothing may block or run user code, except
// the append itself.
func (p *peer) accept(m *native.Msg) error {
	if err := p.useCredit(m); err != nil {
		return err
	}
	s := p.session
	at := s.standingOf(p, m.S)
	switch {
	case !at.current:
		return errSuperseded
	case at.known:
		return p.repeated(m, at)
	case !at.next:
		return protocolError("message %d is not the next sequence number", m.S)
	case m.Flags&native.FlagVoid != 0:
		return p.consume(m, 0)
	}
	ids := p.server.ids
	k := idKey{id: m.ID, who: p.who.ID}
	o, known, err := ids.reserve(p.ctx, k)
	if err != nil {
		return errSuperseded // p.ctx ended: so did the connection
	}
	if known {
		p.server.stats.duplicates.Add(1)
		return p.consume(m, o.code)
	}
	begun, resolved := false, false
	defer func() { // even if a hook or the log ends this goroutine
		if begun && !resolved {
			s.giveBack()
		}
		if !resolved {
			ids.release(k)
		}
	}()
	code, remember, err := p.decide(m, at)
	if err != nil {
		return err
	}
	if code != 0 {
		if remember && !retryable(code) {
			ids.resolve(k, outcome{code: code})
			resolved = true
		}
		return p.consume(m, code)
	}
	if begun = s.begin(p); !begun {
		return errSuperseded
	}
	offset, err := p.append(m)
	if err != nil {
		return err
	}
	ids.resolve(k, outcome{offset: offset})
	resolved = true
	s.finish(m.S, m.ID, 0)
	p.server.stats.accepted.Add(1)
	return nil
}

// append stores m.
func (p *peer) append(m *native.Msg) (offset uint64, err error) {
	offset, err = p.server.append(p.server.ctx, Entry{
		Time: time.Now(), ID: m.ID, Topic: m.Topic, Payload: m.Payload,
		Type: m.Type, Header: m.Header, TTL: milliseconds(m.TTL),
	})
	if err != nil {
		p.log.Error("the log refused a message", "error", err)
		return 0, &fault{code: native.CloseBackendUnavailable, reason: "the log is not available"}
	}
	return offset, nil
}

// useCredit counts m, for which the client must have credit.
func (p *peer) useCredit(m *native.Msg) error {
	if m.Ch != 0 {
		return protocolError("messages from a client must use channel 0")
	}
	overdrawn := len(m.Payload) > 0 && p.received.Load() > p.creditB.Load()
	if m.S == 0 || m.S > p.creditN.Load() || overdrawn {
		return protocolError("message %d exceeds the credit", m.S)
	}
	p.received.Add(uint64(len(m.Payload)))
	return nil
}

var errSuperseded = &fault{code: native.CloseSuperseded, reason: "superseded by a newer connection"}

// consume gives m an outcome without an append: code 0 for acceptance.
func (p *peer) consume(m *native.Msg, code uint64) error {
	if !p.session.begin(p) {
		return errSuperseded
	}
	if code != 0 {
		// Before the record changes: writer.acks reads the record first and takes
		// the rejections after it, so it cannot miss this one.
		p.reject(m.S, code)
		p.server.stats.rejected.Add(1)
	}
	p.session.finish(m.S, m.ID, code)
	return nil
}

// repeated handles a message whose number already has an outcome. A correct client
// sends none (docs/protocol.md, I10). Unless the ids show that it is the same
// message, it counts as another one: acknowledging it could be false.
func (p *peer) repeated(m *native.Msg, at standing) error {
	if !at.hasID || at.id != m.ID {
		return &fault{code: native.CloseRolledBack, reason: "a sequence number was used for two message ids",
			say: &native.Err{Code: native.CodeIDConflict, Msg: "this sequence number was used with another id", S: m.S, HasS: true}}
	}
	if at.code != 0 {
		p.reject(m.S, at.code)
	}
	p.server.stats.duplicates.Add(1)
	return nil
}

// horizon refuses a retransmission if the server no longer knows whether it was
// accepted before (docs/protocol.md, D6).
func (p *peer) horizon(m *native.Msg, at standing) uint64 {
	if !m.HasAge {
		return 0
	}
	if m.Age >= uint64(p.server.opt.Dedup.Milliseconds()) { // AgeUnknown is the greatest age
		return native.CodeUnknownOutcome
	}
	// Ids that were forgotten early, for lack of room, matter only to a message
	// that may come from another session: in its own the record decides.
	if at.carried && !p.server.ids.remembers(milliseconds(m.Age)) {
		return native.CodeUnknownOutcome
	}
	return 0
}

// decide returns 0 if a message may be accepted, otherwise the code of the rejection
// and whether it is remembered under the message's id. An error means that there is
// no decision: the client sends the message again on the next connection.
func (p *peer) decide(m *native.Msg, at standing) (code uint64, remember bool, err error) {
	if code = p.horizon(m, at); code != 0 {
		return code, false, nil
	}
	if code, err = p.permit(m); code == 0 && err == nil {
		remember = true // a client that may not publish must not fill the memory of ids
		code, err = p.judge(m)
	}
	if code != 0 && m.HasAge && at.carried && !p.server.ids.certain(milliseconds(m.Age)) {
		// An earlier server may have accepted it: "rejected" could be untrue.
		code = native.CodeUnknownOutcome
	}
	return code, remember, err
}

// permit decides whether the client may publish to this topic. It returns 0 or a
// code.
func (p *peer) permit(m *native.Msg) (uint64, error) {
	if native.CheckTopic(wire.UsePublish, m.Topic) != nil || m.ID == (wire.ID{}) {
		return native.CodeBadRequest, nil
	}
	return p.codeOf(p.authorize(VerbPublish, m.Topic), native.CodeForbidden)
}

// judge decides on the message itself: its lifetime and OnPublish. It returns 0 or a
// code.
func (p *peer) judge(m *native.Msg) (uint64, error) {
	if m.TTL != 0 && m.HasAge && m.Age >= m.TTL {
		return native.CodeExpired, nil
	}
	err := p.onPublish(Message{
		ID: m.ID, Topic: m.Topic, Payload: m.Payload, Type: m.Type, Header: m.Header, TTL: milliseconds(m.TTL),
	})
	return p.codeOf(err, native.CodeBadRequest)
}

// codeOf returns the code for the result of a hook, or the fault that ends the
// connection if the hook could not decide.
func (p *peer) codeOf(err error, fallback uint64) (uint64, error) {
	if err == nil {
		return 0, nil
	}
	if f := p.undecided(err); f != nil {
		return 0, f
	}
	code, _, _ := codeOf(err, fallback)
	return code, nil
}

// milliseconds returns a duration from the wire, at most 290 years.
func milliseconds(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(1<<63-1)/uint64(time.Millisecond))) * time.Millisecond
}
