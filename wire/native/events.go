package native

import (
	"slices"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// violation returns the error for a well-formed frame that breaks the protocol.
func violation(reason string) error {
	return &wire.CodeError{Code: CloseProtocolError, Reason: reason}
}

// event appends the event that f stands for. Before WELCOME only welcome, err and
// goaway are allowed (docs/protocol.md, section 1).
func (c *codec) event(f *Frame, out *wire.Events) error {
	if !c.welcomed && f.Type != TypeWelcome && f.Type != TypeErr && f.Type != TypeGoAway {
		return violation(f.Type.String() + " before welcome")
	}
	switch f.Type {
	case TypeMsg:
		return c.data(&f.Msg, out)
	case TypeWelcome:
		return c.welcome(f.Welcome, out)
	case TypeAck:
		a := &wire.Ack{To: f.Ack.To, Ranges: f.Ack.X, Rejects: rejectsOf(f.Ack.Nak), Duplicates: f.Ack.Dup}
		if cr := f.Ack.Cr; cr != nil {
			a.HasCredit, a.Credit = true, wire.Credit{N: cr.N, Bytes: cr.B}
		}
		out.Append(wire.EventAck).Ack = a
	case TypeSubOK, TypeUnsub, TypeGap, TypeReset:
		return subscription(f, out)
	case TypeAuth:
		auth(f.Auth, out)
	case TypeGoAway:
		e := out.Append(wire.EventGoAway)
		e.Code, e.Delay, e.Spread, e.Name = code16(f.GoAway.Code), millis(f.GoAway.After), millis(f.GoAway.Spread), f.GoAway.URL
		e.Retry = millis(f.GoAway.DL)
		e.Reason = codeWord(e.Code)
	case TypePing:
		out.Append(wire.EventPing).N = f.N
	case TypePong:
		out.Append(wire.EventPong).N = f.N
	case TypeErr:
		e := out.Append(wire.EventError)
		e.Code, e.Reason, e.Retry, e.Fatal = code16(f.Err.Code), f.Err.Msg, millis(f.Err.Retry), f.Err.Fatal
		e.Key, e.N = f.Err.Ch, f.Err.S
		if e.Reason == "" {
			e.Reason = codeWord(e.Code)
		}
		if f.Err.Code == CodeConflict && f.Err.HasS && !c.welcomed { // a refused hello: docs/protocol.md, section 4
			out.Append(wire.EventOutnumbered).N = f.Err.S
		}
	case TypeReply:
		e := out.Append(wire.EventReply)
		e.N, e.Code, e.Reason = f.Reply.N, code16(f.Reply.Code), f.Reply.Msg
		e.Message = wire.Message{Payload: f.Reply.Payload, Type: f.Reply.Type}
		if e.Reason == "" {
			e.Reason = codeWord(e.Code)
		}
	}
	return nil
}

// data appends the event of a message. Its position has no epoch: the epoch of
// the last subok or reset applies.
func (c *codec) data(m *Msg, out *wire.Events) error {
	if m.Ch == 0 {
		return errReserved
	}
	if m.Topic != "" && topicFault(wire.UsePublish, m.Topic) != "" {
		return &wire.CodeError{Code: CloseBadFrame, Reason: "a message with a malformed topic"}
	}
	e := out.Append(wire.EventData)
	e.Key = m.Ch
	e.Message = wire.Message{
		ID:          m.ID,
		Topic:       m.Topic,
		Payload:     m.Payload,
		Type:        m.Type,
		Header:      m.Header,
		TTL:         millis(m.TTL),
		Void:        m.Flags&FlagVoid != 0,
		Snapshot:    m.Flags&FlagSnapshot != 0,
		SnapshotEnd: m.Flags&FlagSnapshotEnd != 0,
		Redelivered: m.HasAge,
	}
	e.Position = wire.Position{Offset: m.S, Tag: string(m.Tag)}
	if len(m.Tag) == 0 {
		e.Position.Tag = c.tagOf(&m.ID)
	}
	e.Prev, e.Numbered = m.P, true
	return nil
}

var errReserved = violation("channel 0 is reserved in frames from the server")

// welcome checks that a welcome answers this connection's hello and appends
// EventReady.
func (c *codec) welcome(h *Welcome, out *wire.Events) error {
	switch {
	case c.welcomed:
		return violation("a second welcome")
	case h.CN != c.resume.Conn:
		return violation("a welcome for another connection")
	}
	c.welcomed = true
	ready := &wire.Ready{
		Conn:    h.CN,
		Session: wire.Session{ID: h.SID, Key: h.Key, Epoch: h.SE},
		Resumed: h.Res,
		Ack: wire.Ack{To: h.Ack, Ranges: h.Sack, Rejects: rejectsOf(h.Out), Duplicates: h.Dup,
			HasCredit: true, Credit: wire.Credit{N: h.Cr.N, Bytes: h.Cr.B}},
		Tag:       h.Tag,
		Heartbeat: millis(h.HB),
		Spread:    millis(h.Spread),
		Expires:   millis(h.Exp),
	}
	if l := h.Lim; l != nil {
		ready.Limits = wire.Limits{Batch: clamp(l.Batch), Payload: clamp(l.Payload), Headers: clamp(l.Headers), HeaderSize: clamp(l.HeaderSize)}
	}
	if !slices.Contains(h.Feat, FeatureCall) {
		ready.Traits = &withoutCalls
	}
	out.Append(wire.EventReady).Ready = ready
	return nil
}

// withoutCalls are the traits of a connection to a server that does not take calls.
var withoutCalls = func() wire.Traits {
	t := dialect{}.Traits()
	t.Calls = false
	return t
}()

// Causes by the numbers of gap.why and reset.why.
var (
	gapCauses   = [...]wire.Cause{wire.CauseExpired, wire.CauseTrimmed, wire.CauseDropped, wire.CauseForbidden, wire.CauseTooBig}
	resetCauses = [...]wire.Cause{wire.CauseEpoch, wire.CauseDiverged, wire.CauseAhead, wire.CauseUnverifiable}
)

// subscription appends the event of a frame about one subscription that is not a
// message.
func subscription(f *Frame, out *wire.Events) error {
	var e wire.Event
	switch f.Type {
	case TypeSubOK:
		b := f.SubOK
		e = wire.Event{Kind: wire.EventSubscribed, Key: b.Ch, Head: b.Head,
			Position: wire.Position{Epoch: b.Epoch, Offset: b.O, Tag: string(b.Tag)}}
		if b.Rec {
			e.Continuity = wire.ContinuityProved
		}
	case TypeUnsub:
		b := f.Unsub
		e = wire.Event{Kind: wire.EventUnsubscribed, Key: b.Ch, Code: code16(b.Code), Reason: b.Msg, Retry: millis(b.Retry)}
		if e.Reason == "" {
			e.Reason = codeWord(e.Code)
		}
		if e.Retry == 0 && retryable(e.Code) {
			e.Retry = time.Second
		}
	case TypeGap:
		g := f.Gap
		e = wire.Event{Kind: wire.EventGap, Key: g.Ch, Prev: g.P, Count: g.N, Cause: gapCauses[g.Why],
			Position: wire.Position{Offset: g.To, Tag: string(g.Tag)}}
	case TypeReset:
		b := f.Reset
		e = wire.Event{Kind: wire.EventReset, Key: b.Ch, Cause: resetCauses[b.Why],
			Position: wire.Position{Epoch: b.Epoch, Offset: b.O, Tag: string(b.Tag)}}
	}
	if e.Key == 0 {
		return errReserved
	}
	*out.Append(e.Kind) = e
	return nil
}

// retryable reports whether a request that was refused with code can succeed
// later: the column retry of docs/protocol.md, section 7.
func retryable(code uint16) bool {
	return code == CodeRateLimited || code == CodeUnavailable || code == CodeInternal
}

// auth appends the events of an auth: a refusal, or that the credential was taken, or that
// a new one is wanted, or both.
func auth(a *Auth, out *wire.Events) {
	if a.Code != 0 {
		e := out.Append(wire.EventAuth)
		e.Code = code16(a.Code)
		e.Reason = codeWord(e.Code)
		return
	}
	if a.Exp != 0 || a.Need == 0 {
		out.Append(wire.EventAuth).Expires = millis(a.Exp)
	}
	if a.Need != 0 {
		e := out.Append(wire.EventAuth)
		e.Expires, e.Wanted = millis(a.Need), true
	}
}

// rejectsOf translates rejections.
func rejectsOf(list []Reject) []wire.Reject {
	if len(list) == 0 {
		return nil
	}
	rs := make([]wire.Reject, len(list))
	for i, r := range list {
		code := code16(r.Code)
		rs[i] = wire.Reject{Seq: r.S, Code: code, Reason: codeWord(code), Unknown: code == CodeUnknownOutcome, Reused: code == CodeIDReused}
	}
	return rs
}
