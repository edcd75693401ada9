package server

import (
	"context"
	"slices"
	"sync"

	"github.com/limpet-go/limpet/wire/native"
)

// readable is the log as one connection reads it: reads fail once the connection has
// ended, so that a long search ends.
type readable struct {
	ctx   context.Context // of the connection
	store Store
}

func (r readable) Read(from uint64, dst []*Entry) (int, uint64, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, 0, err
	}
	return r.store.Read(r.ctx, from, dst)
}

func (r readable) View() View { return r.store.View() }

func (r readable) Sync() error { return r.store.Sync(r.ctx) }

// tagAt returns the tag with which a client can prove offset later.
func (r readable) tagAt(v View, offset uint64) ([]byte, error) {
	tag, held, err := r.store.Tag(r.ctx, offset)
	if err == nil && !held {
		tag = v.Base
	}
	return tag, err
}

// search finds the position before the newest entries of a topic.
type search struct {
	sub  *subscription // what is searched for; only its writer reads or changes the rest of it
	view View          // of the log when the subscribe was read: newer entries do not count
	left uint64        // matching entries still to be found

	found uint64 // offset of the oldest matching entry so far; 0: none
	tag   []byte // of the position before it
	err   error  // the log could not be read
}

// at returns the result.
func (s *search) at() uint64 {
	if s.found != 0 {
		return s.found - 1
	}
	return s.view.Head
}

// searcher runs the searches of one connection aside from its writer, because the
// log may be long and slow. All searches that wait share one walk through the log.
// A server has at most searchLimit walks at a time.
//
// A walk is bounded by the log; its memory by the subscriptions of the session.
type searcher struct {
	p     *peer
	ended sync.WaitGroup

	mu      sync.Mutex // leaf
	waiting []*search
	results []*search
	running bool
}

// add queues a search and starts a goroutine if there is none.
func (s *searcher) add(q *search) {
	s.mu.Lock()
	s.waiting = append(s.waiting, q)
	start := !s.running
	s.running = true
	s.mu.Unlock()
	if start {
		s.ended.Add(1)
		go s.run()
	}
}

// take returns the searches that have ended since the last call.
func (s *searcher) take() []*search {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.results
	s.results = nil
	return r
}

// run ends when no search waits or when the connection has ended.
func (s *searcher) run() {
	defer s.ended.Done()
	for {
		select {
		case s.p.server.searches <- struct{}{}:
		case <-s.p.ctx.Done():
			return
		}
		s.mu.Lock()
		batch := s.waiting
		s.waiting = nil
		s.running = len(batch) > 0
		s.mu.Unlock()
		if len(batch) == 0 {
			<-s.p.server.searches
			return
		}
		s.search(batch)
	}
}

// search searches for batch and gives back the slot, also if the log ends this
// goroutine.
func (s *searcher) search(batch []*search) {
	err := errGoexit
	defer func() {
		for _, q := range batch {
			q.err = err
		}
		<-s.p.server.searches
		s.mu.Lock()
		s.results = append(s.results, batch...)
		s.mu.Unlock()
		s.p.poke()
	}()
	err = s.walk(batch)
}

// walk reads the log backwards until every search has what it wants, or to its
// oldest entry.
func (s *searcher) walk(batch []*search) (err error) {
	defer recovered(s.p.log, &err)
	log := s.p.messages
	exact := map[string][]*search{}
	var wild []*search
	end, first := uint64(0), ^uint64(0)
	for _, q := range batch {
		if q.sub.wild {
			wild = append(wild, q)
		} else {
			exact[q.sub.pattern] = append(exact[q.sub.pattern], q)
		}
		end, first = max(end, q.view.Head+1), min(first, q.view.First)
	}
	buf := make([]*Entry, readChunk)
	for open := len(batch); end > first && open > 0; {
		from := max(first, end-min(end, readChunk))
		n, _, err := log.Read(from, buf[:min(end-from, readChunk)])
		if err != nil {
			return err
		}
		for _, e := range slices.Backward(buf[:n]) {
			if e.Offset >= end {
				continue
			}
			for _, q := range exact[e.Topic] {
				open -= q.take(e)
			}
			for _, q := range wild {
				if native.Match(q.sub.pattern, e.Topic) {
					open -= q.take(e)
				}
			}
		}
		end = from
	}
	for _, q := range batch {
		if q.tag, err = log.tagAt(q.view, q.at()); err != nil {
			return err
		}
	}
	return nil
}

// take counts a matching entry and returns 1 if it was the last one wanted.
func (s *search) take(e *Entry) int {
	if s.left == 0 || e.Offset > s.view.Head || e.Offset < s.view.First {
		return 0
	}
	s.found = e.Offset
	if s.left--; s.left == 0 {
		return 1
	}
	return 0
}
