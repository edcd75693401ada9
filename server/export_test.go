package server

import (
	"context"
	"strings"
	"unsafe"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// RecordSize is the memory of an idle session with an empty window.
const RecordSize = unsafe.Sizeof(record{})

// Plant marks seqs as accepted in the record of a session, as if a store had
// accepted them in another order.
func (s *Server) Plant(sid string, id func(seq uint64) wire.ID, seqs ...uint64) {
	r, version, err := s.load(context.Background(), sid)
	if err != nil {
		panic(err)
	}
	for _, seq := range seqs {
		r.mark(seq, id(seq), 0, false)
	}
	if _, err := s.store.Commit(context.Background(), &Change{Session: sid, Version: version, Record: r.append(nil), TTL: r.ttl, Bound: r.bound}); err != nil {
		panic(err)
	}
}

// BeginsAfterTheEnd reports whether a peer whose connection is ending begins to apply a batch.
func BeginsAfterTheEnd() bool {
	p := &peer{end: &ending{code: native.CloseGoingAway}}
	return p.beginBatch()
}

// LimitFeeds bounds what the feeds hold. It must be called before the first connection.
func (s *Server) LimitFeeds(entries, bytes int) { s.feedLimit = feedLimit{entries, bytes} }

// Wakes returns how often the follower of the log has woken a connection, 0 if none runs.
func (s *Server) Wakes() uint64 {
	s.mu.Lock()
	f := s.follower
	s.mu.Unlock()
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wakes
}

// Following returns how many followers run, and how many entries and bytes the feeds hold.
func (s *Server) Following() (followers, entries, bytes int) {
	s.mu.Lock()
	f := s.follower
	followers = s.following
	s.mu.Unlock()
	if f != nil {
		f.mu.Lock()
		entries, bytes = f.order.Len(), f.bytes
		f.mu.Unlock()
	}
	return followers, entries, bytes
}

// Patterns is the index of the feeds.
type Patterns struct{ feeds feeds }

// Add adds a pattern.
func (p *Patterns) Add(pattern string) { p.feeds.get(pattern, strings.Contains(pattern, "*")) }

// Remove removes a pattern.
func (p *Patterns) Remove(pattern string) { p.feeds.remove(p.feeds.all[pattern]) }

// Match returns the patterns that match topic.
func (p *Patterns) Match(topic string) (patterns []string) {
	for _, d := range p.feeds.match(topic, nil) {
		patterns = append(patterns, d.pattern)
	}
	return patterns
}

// Empty reports whether nothing is left.
func (p *Patterns) Empty() bool { return len(p.feeds.all) == 0 && p.feeds.wild.useless() }
