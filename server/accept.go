package server

import (
	"bytes"
	"errors"
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// runTime is how long hooks may decide on messages of a run before it is committed.
const runTime = 10 * time.Millisecond

// decision is what becomes of a message of a run.
type decision struct {
	m        *native.Msg
	code     uint64 // of a rejection; 0: accepted, now or before
	known    bool   // its id had an outcome: this one
	told     bool   // a rejection or a duplicate: reported in ack and in WELCOME
	remember bool   // under its id: append the message, or keep the rejection
	hash     uint64 // HashOf the message, if remember
	doubt    bool   // it may have been accepted before, in another session
}

// run is a number of consecutive messages that are committed together. It is an amendment.
type run struct {
	p         *peer
	messages  []native.Frame // the whole of it
	decisions []decision     // on those that are not committed yet
	last      uint64         // sequence number of the newest one with a decision
	highest   wire.ID        // of their ids: most rise, and then no two are the same
	began     time.Time      // when the first of them was looked at
	known     []KnownID      // those of messages that have an outcome, if asked is set
	asked     bool
	part      []decision // what update commits
}

// accept gives consecutive messages of one batch their outcomes, each exactly once
// (docs/protocol.md, section 3). It decides on them one by one, and one Commit makes
// that true. While it waits for that the connection is not read: one Commit at a
// time keeps the order, and holds up a client that is too fast.
func (p *peer) accept(messages []native.Frame) error {
	r := &p.run
	r.p, r.messages, r.last = p, messages, 0
	defer func() {
		clear(r.decisions[:cap(r.decisions)])
		*r = run{decisions: r.decisions[:0]}
	}()
	var failure error
	for i := range messages {
		if p.hooks.Err() != nil {
			break // the connection ended long ago: a slow hook must not see all of the batch
		}
		m := &messages[i].Msg
		if r.mustCommitBefore(m) {
			if err := r.commit(); err != nil {
				return err
			}
		}
		if failure = r.decide(m); failure != nil {
			break
		}
	}
	if err := r.commit(); err != nil {
		return err
	}
	return failure
}

// mustCommitBefore reports whether the run cannot go on with m.
func (r *run) mustCommitBefore(m *native.Msg) bool {
	switch n := len(r.decisions); {
	case n == 0:
		if r.p.server.opt.Hooks.OnPublish != nil {
			r.began = time.Now()
		}
		return false
	case n >= r.p.server.runLimit || m.S <= r.last:
		return true
	case r.p.server.opt.Hooks.OnPublish != nil && time.Since(r.began) > runTime:
		return true
	}
	if bytes.Compare(m.ID[:], r.highest[:]) > 0 {
		return false
	}
	for i := range r.decisions {
		if r.decisions[i].m.ID == m.ID {
			return true
		}
	}
	return false
}

// decide decides on m. An error means that there is no decision, and that the connection ends.
func (r *run) decide(m *native.Msg) error {
	p := r.p
	if err := p.useCredit(m); err != nil {
		return err
	}
	at := p.session.standingOf(m.S, r.last)
	switch {
	case !at.current:
		return errSuperseded
	case at.known:
		return p.repeated(m, at)
	case !at.next:
		return protocolError("message %d is not the next sequence number", m.S)
	}
	d := decision{m: m}
	if m.Flags&native.FlagVoid == 0 {
		d.doubt, d.hash, d.remember = m.HasAge && at.carried, HashOf(m.Topic, m.Payload), true
		if p.hasHooks() {
			if known, err := r.isKnown(&d); known || err != nil {
				return err
			}
		}
		code, remember, err := p.decide(m, at)
		if err != nil {
			return err
		}
		if code != 0 {
			if known, err := r.isKnown(&d); known || err != nil {
				return err
			}
			d.code, d.told, d.remember = code, true, remember && !retryable(code)
		}
	}
	r.add(d)
	return nil
}

func (r *run) add(d decision) {
	r.decisions = append(r.decisions, d)
	r.last = d.m.S
	if bytes.Compare(d.m.ID[:], r.highest[:]) > 0 {
		r.highest = d.m.ID
	}
}

// hasHooks reports whether the program decides on messages.
func (p *peer) hasHooks() bool {
	return p.server.opt.Hooks.OnPublish != nil || p.server.opt.Hooks.Authorize != nil
}

// isKnown adds d with the outcome of its id, if that is known already.
func (r *run) isKnown(d *decision) (bool, error) {
	if !r.asked {
		ids := make([]wire.ID, 0, len(r.messages))
		for i := range r.messages {
			ids = append(ids, r.messages[i].Msg.ID)
		}
		known, err := r.p.server.store.Known(r.p.ctx, r.p.who.ID, ids)
		if err != nil {
			return false, r.p.storeFailed(err)
		}
		r.known, r.asked = known, true
	}
	for _, k := range r.known {
		if k.ID == d.m.ID {
			d.repeat(k)
			r.add(*d)
			return true, nil
		}
	}
	return false, nil
}

// repeat gives d the outcome that its id has. Another message under the same id is refused.
func (d *decision) repeat(k KnownID) {
	d.code, d.known, d.told, d.remember, d.doubt = k.Code, true, true, false, false
	if k.Hash != 0 && k.Hash != d.hash {
		d.code = native.CodeIDReused
	}
}

// commit makes the decisions true.
func (r *run) commit() error {
	all := r.decisions
	r.decisions, r.known, r.asked = r.decisions[:0], nil, false
	return r.commitAll(all)
}

func (r *run) commitAll(all []decision) error {
	for len(all) > 0 {
		r.part = all
		err := r.p.session.update(r.p.server.ctx, r)
		if err == nil {
			r.p.countOutcomes(all)
			return nil
		}
		again, err := r.decideAgain(all, err)
		if !again || err != nil {
			return err
		}
	}
	return nil
}

// decideAgain follows a Commit of all that has done nothing because of ids. It reports whether
// the decisions have changed, so that they are to be committed again.
func (r *run) decideAgain(all []decision, err error) (bool, error) {
	var known *KnownError
	switch {
	case errors.As(err, &known):
		if !repeatKnown(all, known.IDs) {
			return false, r.p.storeFailed(err)
		}
	case errors.Is(err, ErrForgotten) && len(all) > 1:
		for i := range all { // which of them is it
			if err := r.commitAll(all[i : i+1]); err != nil {
				return false, err
			}
		}
		return false, nil
	case errors.Is(err, ErrForgotten) && all[0].doubt:
		d := &all[0]
		d.code, d.told, d.remember, d.doubt = native.CodeUnknownOutcome, true, false, false
	default:
		return false, r.p.storeFailed(err)
	}
	return true, nil
}

// told queues what is reported besides the acknowledgement.
func (r *run) told() {
	for i := range r.part {
		if d := &r.part[i]; d.told {
			r.p.reject(d.m.S, d.code)
		}
	}
}

// amend makes the decisions a part of the record and of the change.
func (r *run) amend(next *record, c *Change, now time.Time) {
	for i := range r.part {
		d := &r.part[i]
		m := d.m
		next.mark(m.S, m.ID, d.code, d.told)
		switch {
		case d.remember && d.code != 0:
			c.Refused = append(c.Refused, Refusal{ID: m.ID, Hash: d.hash, Code: d.code})
		case d.remember:
			if c.Entries == nil {
				c.Entries = make([]Entry, 0, len(r.part)-i)
			}
			c.Entries = append(c.Entries, Entry{
				Time: now, ID: m.ID, Topic: m.Topic, Payload: m.Payload,
				Type: m.Type, Header: m.Header, TTL: milliseconds(m.TTL), Hash: d.hash,
			})
		}
		// The margin is for the time in which the message was in transit.
		if sent := now.Add(-milliseconds(m.Age) - idMargin); d.doubt && (c.Oldest.IsZero() || sent.Before(c.Oldest)) {
			c.Oldest = sent
		}
	}
}

// repeatKnown gives the outcomes of known ids to the messages, and reports whether there are any.
func repeatKnown(all []decision, known []KnownID) (found bool) {
	for _, k := range known {
		for i := range all {
			if d := &all[i]; d.remember && d.m.ID == k.ID {
				d.repeat(k)
				found = true
			}
		}
	}
	return found
}

func (p *peer) countOutcomes(all []decision) {
	st := &p.server.stats
	for i := range all {
		d := &all[i]
		if d.known {
			st.duplicates.Add(1)
		}
		switch {
		case d.code != 0:
			st.rejected.Add(1)
		case d.remember:
			st.accepted.Add(1)
		}
	}
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
func (p *peer) horizon(m *native.Msg) uint64 {
	if !m.HasAge {
		return 0
	}
	if m.Age >= uint64(p.server.opt.Dedup.Milliseconds()) { // AgeUnknown is the greatest age
		return native.CodeUnknownOutcome
	}
	return 0 // ids that were forgotten early are the store's to know: Change.Oldest
}

// decide returns 0 if a message may be accepted, otherwise the code of the rejection
// and whether it is remembered under the message's id. An error means that there is
// no decision: the client sends the message again on the next connection.
func (p *peer) decide(m *native.Msg, at standing) (code uint64, remember bool, err error) {
	if code = p.horizon(m); code != 0 {
		return code, false, nil
	}
	if code, err = p.permit(m); code == 0 && err == nil {
		remember = true // a client that may not publish must not fill the memory of ids
		code, err = p.judge(m)
	}
	if code != 0 && m.HasAge && at.carried && !p.server.certain(milliseconds(m.Age)) {
		// An earlier server may have accepted it: "rejected" could be untrue.
		code = native.CodeUnknownOutcome
	}
	return code, remember, err
}

// certain reports whether a message with an unknown id that was first sent age ago, and
// would still be remembered, was certainly not accepted before the store's memory begins.
func (s *Server) certain(age time.Duration) bool {
	begins := s.store.View().Since
	return begins.IsZero() || time.Since(begins)-age-idMargin > 0
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
