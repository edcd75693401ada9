package redis

import (
	"context"
	"slices"
	"sync"

	"github.com/limpet-go/limpet/server"
)

const (
	maxReaders = 8  // reads of older messages at a time
	maxChunks  = 16 // of older messages that are kept, each of readBytes about
)

// history has messages that are older than the ring: those that were read last.
type history struct {
	store *Store
	slots chan struct{} // holds a value for each read in progress

	mu      sync.Mutex          // leaf
	chunks  []*chunk            // the one that was read last at the end
	loading map[uint64]*loading // by the first offset
}

// chunk is messages without a gap.
type chunk struct {
	epoch   string // "": the log was repaired
	first   uint64 // of the log
	from    uint64
	entries []*server.Entry
}

// loading is a read for all who want it.
type loading struct {
	done chan struct{}
	c    *chunk
	err  error
}

// read returns messages that begin at or before from, or the first ones after it.
func (h *history) read(ctx context.Context, epoch string, from uint64) (*chunk, error) {
	h.mu.Lock()
	for _, c := range slices.Backward(h.chunks) {
		if c.epoch == epoch && c.from <= from && from < c.from+uint64(len(c.entries)) {
			h.mu.Unlock()
			h.store.stats.historyHits.Add(1)
			return c, nil
		}
	}
	l := h.loading[from]
	first := l == nil
	if first {
		l = &loading{done: make(chan struct{})}
		h.loading[from] = l
	}
	h.mu.Unlock()
	if first {
		if !h.store.enter() {
			h.end(l, from, nil, ErrClosed)
		} else {
			go h.load(l, from)
		}
	}
	select {
	case <-l.done:
		return l.c, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// load reads for all who wait for l. It ends at the latest when the store is closed.
func (h *history) load(l *loading, from uint64) {
	s := h.store
	defer s.calls.Done()
	s.stats.waiting.Add(1)
	defer s.stats.waiting.Add(-1)
	select {
	case h.slots <- struct{}{}:
	case <-s.ctx.Done():
		h.end(l, from, nil, ErrClosed)
		return
	}
	s.stats.reads.Add(1)
	c, err := call(s.ctx, s, func(ctx context.Context) (*chunk, error) {
		r, err := s.read(ctx, from, readCount, readBytes)
		if err != nil || r.repaired {
			return &chunk{}, err
		}
		entries, err := decodeAll(&r)
		return &chunk{epoch: r.epoch, first: r.first, from: r.from, entries: entries}, err
	})
	<-h.slots
	h.end(l, from, c, err)
}

// end gives the result to all who wait for l.
func (h *history) end(l *loading, from uint64, c *chunk, err error) {
	l.c, l.err = c, err
	h.mu.Lock()
	delete(h.loading, from)
	if err == nil && len(c.entries) > 0 {
		h.chunks = append(h.chunks, c)
		if len(h.chunks) > maxChunks {
			h.chunks = slices.Delete(h.chunks, 0, 1)
		}
	}
	h.mu.Unlock()
	close(l.done)
}
