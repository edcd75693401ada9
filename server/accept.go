package server

import (
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// accept gives an uplink message its outcome: once, whatever was sent before
// (docs/protocol.md, section 3). The order of steps: nothing that may wait or
// run user code happens between begin and finish except the append itself.
func (p *peer) accept(m *native.Msg) error {
	if m.Ch != 0 {
		return protocolError("messages go up on channel 0")
	}
	if m.S == 0 || m.S > p.creditN.Load() || p.received.Load() > p.creditB.Load() {
		return protocolError("message %d is beyond the credit", m.S)
	}
	p.received.Add(uint64(len(m.Payload)))

	s := p.session
	at := s.place(p, m.S)
	switch {
	case !at.current:
		return errSuperseded
	case at.known:
		return p.again(m, at)
	case !at.next:
		return protocolError("message %d leaves a hole", m.S)
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
	defer func() { // also if a hook or the log ends this goroutine
		if begun && !resolved {
			s.giveBack()
		}
		if !resolved {
			ids.release(k)
		}
	}()
	code := p.horizon(m, at)
	if code == 0 {
		code = p.permit(m)
	}
	judged := code == 0
	if judged {
		code = p.judge(m)
	}
	if code != 0 {
		// Whoever may not publish must not fill the memory of ids.
		if judged && !retryable(code) {
			ids.resolve(k, outcome{code: code})
			resolved = true
		}
		return p.consume(m, code)
	}

	if begun = s.begin(p); !begun {
		return errSuperseded
	}
	offset, err := p.server.append(p.server.ctx, Entry{
		Time: time.Now(), ID: m.ID, Topic: m.Topic, Payload: m.Payload,
		Type: m.Type, Header: m.Header, TTL: milliseconds(m.TTL),
	})
	if err != nil {
		p.log.Error("the log refuses a message", "error", err)
		return &fault{code: native.CloseBackendUnavailable, reason: "the log is not available"}
	}
	ids.resolve(k, outcome{offset: offset})
	resolved = true
	s.finish(m.S, m.ID, 0)
	p.server.stats.accepted.Add(1)
	return nil
}

var errSuperseded = &fault{code: native.CloseSuperseded, reason: "superseded by a newer connection"}

// consume gives seq an outcome without an append.
func (p *peer) consume(m *native.Msg, code uint64) error {
	if !p.session.begin(p) {
		return errSuperseded
	}
	if code != 0 {
		// Before the record says so: whoever reads the record first and takes
		// the rejections then cannot miss this one.
		p.reject(m.S, code)
		p.server.stats.rejected.Add(1)
	}
	p.session.finish(m.S, m.ID, code)
	return nil
}

// again answers a message that has an outcome. A correct client sends none
// (docs/protocol.md, I10), so one that cannot be shown to be the same is taken
// for another: acknowledging it would be a lie.
func (p *peer) again(m *native.Msg, at standing) error {
	if !at.hasID || at.id != m.ID {
		return &fault{code: native.CloseRolledBack, reason: "a message id differs from the one known under its number",
			say: &native.Err{Code: native.CodeIDConflict, Msg: "same number, other id", S: m.S, HasS: true}}
	}
	if at.code != 0 {
		p.reject(m.S, at.code)
	}
	p.server.stats.duplicates.Add(1)
	return nil
}

// horizon refuses a retransmission of which nobody can say any more whether it
// was accepted before (docs/protocol.md, D6).
func (p *peer) horizon(m *native.Msg, at standing) uint64 {
	if !m.HasAge {
		return 0
	}
	if m.Age >= uint64(p.server.opt.Dedup.Milliseconds()) { // AgeUnknown is the greatest age
		return native.CodeUnknownOutcome
	}
	// Ids forgotten early, for want of room, matter only to a message that may
	// come from another session: in its own the record is the proof.
	if at.carried && !p.server.ids.remembers(milliseconds(m.Age)) {
		return native.CodeUnknownOutcome
	}
	return 0
}

// permit decides whether this client may publish such a message at all.
func (p *peer) permit(m *native.Msg) uint64 {
	if native.CheckTopic(wire.UsePublish, m.Topic) != nil || m.ID == (wire.ID{}) {
		return native.CodeBadRequest
	}
	if err := p.authorize(VerbPublish, m.Topic); err != nil {
		code, _, _ := codeOf(err, native.CodeForbidden)
		return code
	}
	return 0
}

// judge decides on the message itself.
func (p *peer) judge(m *native.Msg) uint64 {
	if m.TTL != 0 && m.HasAge && m.Age >= m.TTL {
		return native.CodeExpired
	}
	err := p.onPublish(Message{
		ID: m.ID, Topic: m.Topic, Payload: m.Payload, Type: m.Type, Header: m.Header, TTL: milliseconds(m.TTL),
	})
	if err != nil {
		code, _, _ := codeOf(err, native.CodeBadRequest)
		return code
	}
	return 0
}

// milliseconds is a duration from the wire; the longest one is 290 years.
func milliseconds(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(1<<63-1)/uint64(time.Millisecond))) * time.Millisecond
}
