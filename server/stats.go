package server

import "sync/atomic"

// Stats are the current state of a server and its counters since New. Counters
// never decrease.
type Stats struct {
	Conns         int // connections, before and after WELCOME, with those being upgraded
	Fallback      int // of Conns, those that plain HTTP requests carry
	Pending       int // connections before WELCOME
	Sessions      int // sessions, detached ones included; with an Options.Store that does not implement Counter, those that have a connection here
	Subscriptions int // live subscriptions
	IDs           int // message ids remembered; 0 with an Options.Store that does not implement Counter

	Refused         uint64 // upgrades answered with an HTTP error: the sum of the next three
	RefusedOrigin   uint64 // host or origin is not allowed
	RefusedBusy     uint64 // too many connections, or the server is closing
	RefusedRequest  uint64 // no WebSocket upgrade, no subprotocol of limpet.v1, or it could not be hijacked; a POST of the fallback
	NoHello         uint64 // connections without a HELLO in time
	Unauthenticated uint64 // HELLOs and new credentials that were refused
	Evicted         uint64 // connections superseded by a newer one of their session
	Dead            uint64 // connections removed because nothing was received
	Slow            uint64 // connections removed because the peer did not read

	Accepted   uint64 // uplink messages appended to the log
	Duplicates uint64 // uplink messages that were already known
	Rejected   uint64 // uplink messages refused
	UplinkGaps uint64 // uplink messages that clients gave up
	Delivered  uint64 // messages sent to subscriptions
	Gaps       uint64 // gaps sent to subscriptions
	Resets     uint64 // resets sent to subscriptions

	Epoch string // epoch of the log
	First uint64 // offset of the oldest entry in the log
	Head  uint64 // offset of the newest entry in the log
}

type counters struct {
	refusedOrigin, refusedBusy, refusedRequest    atomic.Uint64
	noHello, unauthenticated, evicted, dead, slow atomic.Uint64
	accepted, duplicates, rejected, uplinkGaps    atomic.Uint64
	delivered, gaps, resets                       atomic.Uint64
	subscriptions                                 atomic.Int64
}

// Counter is what a Store implements if it can count without asking elsewhere: Stats has what it returns. *MemoryStore and
// the Store of package server/file do.
type Counter interface {
	// Counts returns how many sessions and message ids are kept, of all servers on the store. It must not block.
	Counts() (sessions, ids int)
}

// Stats returns a snapshot. It does not block.
func (s *Server) Stats() Stats {
	c, v := &s.stats, s.store.View()
	sessions, ids := s.sessions.len(), 0
	if store, ok := s.store.(safely).Store.(Counter); ok {
		sessions, ids = store.Counts()
	}
	s.mu.Lock()
	origin, busy, request := c.refusedOrigin.Load(), c.refusedBusy.Load(), c.refusedRequest.Load()
	conns, carried, pending := len(s.peers)+s.joining, s.plain, s.pending
	s.mu.Unlock()
	return Stats{
		Conns: conns, Fallback: carried, Pending: pending, Sessions: sessions,
		Subscriptions: int(c.subscriptions.Load()), IDs: ids,
		Refused: origin + busy + request, RefusedOrigin: origin, RefusedBusy: busy, RefusedRequest: request,
		NoHello: c.noHello.Load(), Unauthenticated: c.unauthenticated.Load(), Evicted: c.evicted.Load(),
		Dead: c.dead.Load(), Slow: c.slow.Load(),
		Accepted: c.accepted.Load(), Duplicates: c.duplicates.Load(), Rejected: c.rejected.Load(),
		UplinkGaps: c.uplinkGaps.Load(), Delivered: c.delivered.Load(), Gaps: c.gaps.Load(), Resets: c.resets.Load(),
		Epoch: v.Epoch, First: v.First, Head: v.Head,
	}
}
