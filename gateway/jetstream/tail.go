package jetstream

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

const (
	tailDepth   = 20_000 // messages of the stream that a new tail begins before the newest one
	ackPrefix   = "$JS.ACK."
	tailPending = 32_768 // messages that may wait for the tail; more are found missing and read again
)

// Reasons for which a tail begins again. What was delivered stays.
var (
	errHole   = errors.New("a message of the consumer is missing")
	errSilent = errors.New("nothing heard from the consumer")
	errMoved  = errors.New("the epoch has changed")
)

// tail follows the stream, from Open to Close, with one consumer after the other.
func (s *Store) tail() {
	for try := 0; s.ctx.Err() == nil; try++ {
		delivered, err := s.follow()
		if delivered {
			try = 0
		}
		if errors.Is(err, errHole) {
			s.counts.holes.Add(1)
		}
		s.counts.tails.Add(1)
		if pause(s.ctx, try) != nil {
			return
		}
	}
}

// follow creates a consumer and reads what it delivers until that is not certain to be complete. A message is
// delivered once, in order: consumers begin after the last one, and each numbers what it delivers.
func (s *Store) follow() (delivered bool, err error) {
	ctx, cancel := s.bounded(s.ctx)
	defer cancel()
	seen, err := s.look(ctx, true)
	if err != nil {
		return false, err
	}
	select { // the epoch is compared next
	case <-s.moved:
	default:
	}
	newest, err := s.newestEntry(ctx, seen)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	if s.epoch != seen.epoch {
		s.mu.Unlock()
		return false, errMoved
	}
	from := s.at + 1
	if s.at == 0 { // a new epoch
		from = seen.last + 1 - min(seen.last, tailDepth)
		if newest != 0 {
			from = min(from, newest)
		}
		from = max(from, seen.first)
		s.ring.from = from
	}
	s.mu.Unlock()
	arriving := make(chan *nats.Msg, tailPending)
	inbox := s.conn.NewInbox()
	sub, err := s.conn.ChanSubscribe(inbox, arriving)
	if err != nil {
		return false, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only without a connection
	name := nuid.Next()
	q := struct {
		Stream string                   `json:"stream_name"`
		Config jetstream.ConsumerConfig `json:"config"`
		Action string                   `json:"action"`
	}{s.opt.Log, jetstream.ConsumerConfig{
		Name: name, DeliverSubject: inbox, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, IdleHeartbeat: heartbeat, FlowControl: true,
		InactiveThreshold: 2 * staleTime, FilterSubjects: []string{messages(s.opt.Log) + ">", s.opt.Log + ".r.*"},
	}, "create"}
	var created struct{}
	if err := s.call(ctx, "CONSUMER.CREATE."+s.opt.Log+"."+name, q, &created); err != nil {
		return false, err
	}
	defer s.forget(name)
	return s.receive(arriving, seen.epoch)
}

// newestEntry returns the sequence of the newest entry that seen has shown, if the tail has delivered nothing in this epoch yet: without
// it the log would look empty. 0: there is none, or it is not needed. What is left out may follow the newest entry.
func (s *Store) newestEntry(ctx context.Context, seen *seen) (uint64, error) {
	s.mu.Lock()
	begun := s.at != 0
	s.mu.Unlock()
	if begun || seen.newest == nil {
		return 0, nil
	}
	end := seen.newest.seq
	if _, _, e, err := seen.newest.outcome(&s.opt); err == nil && e != nil {
		return end, nil
	}
	for width := uint64(readCount); end > seen.first; width *= 2 {
		begin, found := end-min(width, end-seen.first), uint64(0)
		for from := begin; from < end; {
			all, err := s.direct(ctx, from, readCount, readSize)
			if err != nil {
				return 0, err
			}
			if len(all) == 0 {
				break
			}
			for _, m := range all {
				if _, _, e, err := m.outcome(&s.opt); err == nil && e != nil && m.seq < end {
					found = m.seq
				}
			}
			from = all[len(all)-1].seq + 1
		}
		if found != 0 {
			return found, nil
		}
		end = begin
	}
	return 0, nil
}

// forget removes a consumer, which the servers do later if this fails.
func (s *Store) forget(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), tryTime/4)
	defer cancel()
	var done struct{}
	_ = s.call(ctx, "CONSUMER.DELETE."+s.opt.Log+"."+name, nil, &done)
}

// receive reads what a consumer delivers, as long as epoch is that of the store.
func (s *Store) receive(arriving <-chan *nats.Msg, epoch string) (delivered bool, err error) {
	silence := time.NewTimer(waitTime)
	defer silence.Stop()
	for last := uint64(0); ; {
		var m *nats.Msg
		select {
		case m = <-arriving:
		case <-silence.C:
			return delivered, errSilent
		case <-s.moved:
			return delivered, errMoved
		case <-s.ctx.Done():
			return delivered, s.ended()
		}
		silence.Reset(waitTime)
		// A plain publisher may set any header, so that one alone makes no heartbeat.
		if len(m.Data) == 0 && m.Header.Get("Status") == "100" && !strings.HasPrefix(m.Reply, ackPrefix) {
			s.mu.Lock()
			s.heard = time.Now()
			s.mu.Unlock()
			if beat := m.Header.Get("Nats-Last-Consumer"); beat != "" && beat != strconv.FormatUint(last, 10) {
				return delivered, errHole
			}
			if stalled := m.Header.Get("Nats-Consumer-Stalled"); stalled != "" {
				_ = s.conn.Publish(stalled, nil) // fails only without a connection
			} else if m.Reply != "" {
				_ = m.Respond(nil)
			}
			continue
		}
		number, one, err := parse(m)
		switch {
		case err != nil:
			return delivered, err
		case number != last+1:
			return delivered, errHole
		}
		last = number
		if !s.deliver(one, epoch) {
			return delivered, errMoved
		}
		delivered = true
	}
}

// parse returns a message of a consumer, and the number that the consumer has given it.
func parse(m *nats.Msg) (number uint64, one *stored, err error) {
	// $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<number>.<time>.<pending>, or the same with the
	// domain and the account after ACK, and a token at the end.
	t := strings.Split(m.Reply, ".")
	switch {
	case len(t) >= 11:
		t = t[4:]
	case len(t) == 9:
		t = t[2:]
	default:
		return 0, nil, errDamaged
	}
	one = &stored{subject: m.Subject, header: m.Header, data: m.Data}
	var at int64
	if one.seq, err = strconv.ParseUint(t[3], 10, 64); err == nil {
		if number, err = strconv.ParseUint(t[4], 10, 64); err == nil {
			at, err = strconv.ParseInt(t[5], 10, 64)
		}
	}
	if err != nil {
		return 0, nil, errDamaged
	}
	one.at = time.Unix(0, at)
	return number, one, nil
}

// deliver adds a message to what the store shows, and returns false if the store has another epoch. A message that neither a store nor
// a plain publisher has written, and one that cannot be an entry, is left out: the store goes on after it.
func (s *Store) deliver(m *stored, epoch string) bool {
	k, known, e, err := m.outcome(&s.opt)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != epoch {
		return false
	}
	s.heard = time.Now()
	if m.seq <= s.at {
		return true
	}
	s.at, s.known = m.seq, max(s.known, m.seq)
	s.reached()
	switch {
	case errors.Is(err, errRefused):
		s.counts.refused.Add(1)
		s.refused = err
		return true
	case err != nil:
		s.counts.foreign.Add(1)
		return true
	case e != nil:
		s.ring.add(e)
		s.wake()
	}
	if e != nil && m.plain(s.opt.Log) {
		s.counts.plain.Add(1) // the ids of plain publishers are the stream's business
		return true
	}
	s.ids.add(k, known, m.at)
	return true
}

// Health returns nil if the stream answers and the newest messages arrive; else ErrStale, ErrGone, or what the newest look at
// the stream has returned. A server should take no new connections then. It does not block.
func (s *Store) Health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ctx.Err() != nil:
		return s.ended()
	case s.failed != nil:
		return s.failed
	case time.Since(s.heard) > staleTime:
		return ErrStale
	}
	return nil
}
