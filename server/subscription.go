package server

import (
	"bytes"
	"strings"

	"github.com/limpet-go/limpet/wire/native"
)

// subscription is one filter on the log with its own read position. It belongs to
// the goroutine that writes to its connection.
type subscription struct {
	ch      uint64
	pattern string
	wild    bool          // pattern has a wildcard
	epoch   string        // of next and last
	next    uint64        // offset from which the log is read
	last    uint64        // position of the client once it has received everything sent
	credit  native.Credit // granted
	sent    native.Credit // used
	starved bool          // an entry at next matches and there is no credit for it
	search  *search       // it finds last; nil if last is known
	place   int           // in writer.subs
	due     bool          // in writer.due
	at      at            // in the feed of the pattern
}

// start decides where a subscription starts and which frames the client is sent
// first (docs/protocol.md, section 4). It belongs to the goroutine that reads the
// connection: what follows in the same batch must not change the decision. If it
// takes a search, s.search is set, and the writer sends the answer later.
func start(l readable, q *native.Sub) (s *subscription, first []native.Frame, err error) {
	v := l.View()
	if q.From != native.FromResume || q.O > v.Head || q.Epoch != v.Epoch {
		// Another server may have more, and the client may have seen it there.
		if err := l.Sync(); err != nil {
			return nil, nil, err
		}
		v = l.View()
	}
	s = &subscription{
		ch: q.Ch, pattern: q.Topic, wild: strings.Contains(q.Topic, "*"),
		epoch: v.Epoch, credit: q.Cr,
	}
	resumed := false
	switch q.From {
	case native.FromResume:
		why, ok, err := continuity(l, v, q)
		if err != nil {
			return nil, nil, err
		}
		if !ok {
			return s, []native.Frame{s.restart(v, why)}, nil
		}
		s.last, resumed = q.O, true
	case native.FromFirst:
		s.last = v.First - 1
	case native.FromLast:
		s.search = &search{sub: s, view: v, left: max(q.N, 1)}
		return s, nil, nil
	default:
		s.last = v.Head
	}
	tag := q.Tag
	if !resumed {
		if tag, err = l.tagAt(v, s.last); err != nil {
			return nil, nil, err
		}
	}
	first = append(first, s.begin(v, s.last, tag, resumed))
	if s.next < v.First {
		first = append(first, s.gap(v))
	}
	return s, first, nil
}

// begin starts delivery after the offset at and returns the subok.
func (s *subscription) begin(v View, at uint64, tag []byte, resumed bool) native.Frame {
	s.last, s.next = at, at+1
	return native.Frame{Type: native.TypeSubOK, SubOK: &native.SubOK{
		Ch: s.ch, Epoch: v.Epoch, O: at, Tag: tag, Head: v.Head, Rec: resumed,
	}}
}

// continuity applies the resume rule (docs/protocol.md, section 4): whether it is
// proved that the client has everything up to q.O, and if not, why.
func continuity(l readable, v View, q *native.Sub) (why native.ResetWhy, ok bool, err error) {
	switch {
	case q.Epoch == "" || q.Epoch != v.Epoch:
		return native.ResetEpoch, false, nil
	case q.O > v.Head:
		return native.ResetAhead, false, nil
	case q.O == 0 || len(q.Tag) > 0 && bytes.Equal(q.Tag, v.Base): // no tag proves nothing, whatever Base is
		return 0, true, nil
	}
	if q.O >= v.First {
		tag, held, err := l.store.Tag(l.ctx, q.O)
		switch {
		case err != nil:
			return 0, false, err // not "not held": the position may be good
		case held && len(q.Tag) == 0:
			return native.ResetUnverifiable, false, nil
		case held && !bytes.Equal(tag, q.Tag):
			return native.ResetDiverged, false, nil
		case held:
			return 0, true, nil
		}
	}
	return native.ResetUnverifiable, v.NoRewind, nil
}

// restart moves to the oldest entry and returns the reset.
func (s *subscription) restart(v View, why native.ResetWhy) native.Frame {
	s.epoch, s.last, s.next, s.starved = v.Epoch, v.First-1, v.First, false
	return native.Frame{Type: native.TypeReset, Reset: &native.Reset{
		Ch: s.ch, Epoch: v.Epoch, O: s.last, Tag: v.Base, Why: why,
	}}
}

// gap skips what the log no longer holds and returns the gap.
func (s *subscription) gap(v View) native.Frame {
	f := native.Frame{Type: native.TypeGap, Gap: &native.Gap{
		Ch: s.ch, P: s.last, To: v.First - 1, Why: native.GapExpired, Tag: v.Base,
	}}
	s.last, s.next = v.First-1, v.First
	return f
}

// gapFor returns the gap in the place of e, which the client cannot read.
func (s *subscription) gapFor(e *Entry) native.Frame {
	return native.Frame{Type: native.TypeGap, Gap: &native.Gap{
		Ch: s.ch, P: s.last, To: e.Offset, Why: native.GapTooBig, N: 1, Tag: e.ID[:],
	}}
}

// grant raises the credit. A smaller value is ignored.
func (s *subscription) grant(c native.Credit) {
	s.credit.N = max(s.credit.N, c.N)
	s.credit.B = max(s.credit.B, c.B)
	s.starved = s.starved && s.sent.N >= s.credit.N // the next message may need no bytes
}

// hasCredit reports whether a message with size bytes of payload may be sent. The
// last one may overdraw the bytes; one without payload needs none.
func (s *subscription) hasCredit(size int) bool {
	return s.sent.N < s.credit.N && (s.sent.B < s.credit.B || size == 0)
}

// fill offers w what may be sent on the subscription, at most one turn. It returns
// true if there is more to send at once: the batch is full or the turn is over.
func (s *subscription) fill(l readable, v View, buf []*Entry, w *writer) (more bool, err error) {
	if v.Epoch != s.epoch {
		f := s.restart(v, native.ResetEpoch)
		if !w.offer(&f) {
			s.epoch = "" // offer the reset again with the next batch
			return true, nil
		}
	}
	if s.starved {
		return false, nil
	}
	for scanned, messages := 0, 0; ; {
		n, to, fed, err := s.read(l, &v, buf)
		if err != nil {
			return false, err
		}
		if !fed && l.View().Epoch != s.epoch { // the entries may belong to another one
			return true, nil
		}
		if v.First > s.next && (!fed || n > 0 && buf[0].Offset < v.First) {
			if offered, full := s.offerGap(v, w); !offered {
				return full, nil
			}
		}
		for _, e := range buf[:n] {
			if e.Offset < s.next {
				continue
			}
			if fed || native.Match(s.pattern, e.Topic) {
				s.next = e.Offset // what is before it does not match
				if !s.hasCredit(len(e.Payload)) {
					s.starved = true
					return false, nil
				}
				f := s.message(e)
				tooBig := w.exceeds(&f)
				if tooBig {
					f = s.gapFor(e)
				}
				if messages == turnLimit || !w.offer(&f) {
					return true, nil
				}
				messages++
				s.last = e.Offset
				if !tooBig { // a gap uses no credit
					s.sent.N++
					s.sent.B += uint64(len(e.Payload))
				}
			}
			s.next = e.Offset + 1
		}
		s.next = max(s.next, to+1)
		if n == 0 || fed && n < len(buf) {
			return false, nil
		}
		if scanned += n; scanned >= scanLimit || w.late() {
			return true, nil
		}
	}
}

// read reads the next entries: those of the feed, or of the log if the feed does not have
// all. Up to the offset to, nothing else matches. If the log no longer has what would be
// read, v.First is behind s.next.
func (s *subscription) read(l readable, v *View, buf []*Entry) (n int, to uint64, fed bool, err error) {
	if n, to, fed = s.take(buf); fed {
		return n, to, true, nil
	}
	if s.next > v.Head && s.next >= v.First {
		// From now on the follower wakes it for what the log shows later.
		if *v = l.View(); s.next > v.Head && s.next >= v.First {
			return 0, 0, false, nil
		}
	}
	n, first, err := l.Read(s.next, buf)
	v.First = first
	return n, 0, false, err
}

// offerGap offers the gap before v.First. If it could not, full says that the batch is full;
// otherwise the client has no credit.
func (s *subscription) offerGap(v View, w *writer) (offered, full bool) {
	// A gap uses no credit but waits for it: a stopped consumer must not be
	// sent a gap for every message that retention removes.
	if !s.hasCredit(1) {
		s.starved = true
		return false, false
	}
	last, next := s.last, s.next
	f := s.gap(v)
	if !w.offer(&f) {
		s.last, s.next = last, next
		return false, true
	}
	return true, false
}

// message returns the frame for e. It carries the topic only for a pattern.
func (s *subscription) message(e *Entry) native.Frame {
	f := native.Frame{Type: native.TypeMsg, Msg: native.Msg{
		Ch: s.ch, S: e.Offset, P: s.last, HasP: true, ID: e.ID,
		Payload: e.Payload, Type: e.Type, Header: e.Header, TTL: wholeMillis(e.TTL),
	}}
	if s.wild {
		f.Msg.Topic = e.Topic
	}
	return f
}
