package server

import "sync/atomic"

// Stats are counters since New and the present state. Counters never decrease.
type Stats struct {
	Conns         int // welcomed ones and those before WELCOME
	Pending       int // before WELCOME
	Sessions      int // detached ones included
	Subscriptions int
	IDs           int // message ids known

	Refused         uint64 // upgrades answered with an HTTP error
	Unauthenticated uint64 // HELLOs that Authenticate refused
	Evicted         uint64 // connections superseded by a newer one of their session
	Dead            uint64 // connections removed because nothing was received
	Slow            uint64 // connections removed because the peer did not read

	Accepted   uint64 // uplink messages appended to the log
	Duplicates uint64 // uplink messages known already
	Rejected   uint64 // uplink messages refused
	UplinkGaps uint64 // uplink messages that clients gave up
	Delivered  uint64 // messages sent to subscriptions
	Gaps       uint64
	Resets     uint64

	Epoch string // of the log
	First uint64
	Head  uint64
}

type counters struct {
	refused, unauthenticated, evicted, dead, slow atomic.Uint64
	accepted, duplicates, rejected, uplinkGaps    atomic.Uint64
	delivered, gaps, resets                       atomic.Uint64
	subscriptions                                 atomic.Int64
}

// Stats returns a snapshot. It does not block.
func (s *Server) Stats() Stats {
	c, v := &s.stats, s.opt.Log.View()
	s.mu.Lock()
	conns, pending := len(s.peers), s.pending
	s.mu.Unlock()
	return Stats{
		Conns: conns, Pending: pending, Sessions: s.sessions.len(),
		Subscriptions: int(c.subscriptions.Load()), IDs: s.ids.len(),
		Refused: c.refused.Load(), Unauthenticated: c.unauthenticated.Load(), Evicted: c.evicted.Load(),
		Dead: c.dead.Load(), Slow: c.slow.Load(),
		Accepted: c.accepted.Load(), Duplicates: c.duplicates.Load(), Rejected: c.rejected.Load(),
		UplinkGaps: c.uplinkGaps.Load(), Delivered: c.delivered.Load(), Gaps: c.gaps.Load(), Resets: c.resets.Load(),
		Epoch: v.Epoch, First: v.First, Head: v.Head,
	}
}
