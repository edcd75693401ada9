package jetstream

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/gateway/internal/pending"
	"github.com/limpet-go/limpet/server"
)

// Stats are counts of a Store since Open. Those of time are sums: divide the growth of one by the growth of its count.
type Stats struct {
	Commits    uint64        // that were done
	CommitTime time.Duration // of all that were called
	Called     uint64        // Commits that were called
	Messages   uint64        // entries in those that were done
	Bytes      uint64        // payload and records in those that were done
	Conflicts  uint64        // Commits that found another version
	InProcess  uint64        // tries that found the session or an id in process, and came again
	Unknown    uint64        // Commits that ended with ErrUnknown
	Resolved   uint64        // Commits without an answer that were found done
	KnownIDs   uint64        // ids that had an outcome
	Failed     uint64        // Commits that ended with another error

	Lag      uint64        // sequences between the newest entry of the stream and that of the store, at the last look
	Heard    time.Duration // since the tail has last heard of its consumer
	Tails    uint64        // consumers of the tail that ended: connection lost, holes, silence
	Holes    uint64        // of them because a message was missing
	Plain    uint64        // messages of plain publishers that are entries
	Refused  uint64        // messages of plain publishers that were left out: their topic, payload or headers are not valid
	Foreign  uint64        // messages in the subjects of the log that neither a store nor a plain publisher has written
	Rewinds  uint64        // times that this store found that the stream has lost its newest messages
	Epochs   uint64        // changes of View.Epoch
	Hits     uint64        // calls of Read that were answered from memory
	Reads    uint64        // reads of older messages from the stream
	Syncs    uint64        // calls of Sync that have ended
	Flights  uint64        // runs that served them
	SyncTime time.Duration // of all calls of Sync

	Waiting     int           // reads of older messages in progress, or waiting for their turn
	Pending     int           // calls of Load, Commit and Sync in progress
	PendingTime time.Duration // for how long they have been, on average
}

// counters are what Stats are made of.
type counters struct {
	pending         pending.Calls // of Load, Commit and Sync
	failed, waiting atomic.Int64

	commits, commitTime, called, messages, bytes, conflicts, inProcess, unknown, resolved, knownIDs atomic.Int64

	lag                                                                                           atomic.Uint64
	tails, holes, plain, refused, foreign, rewinds, epochs, hits, reads, syncs, flights, syncTime atomic.Int64
}

// commit counts a Commit that has returned err.
func (n *counters) commit(c *server.Change, took time.Duration, err error) {
	n.called.Add(1)
	n.commitTime.Add(int64(took))
	var known *server.KnownError
	switch {
	case errors.Is(err, server.ErrConflict):
		n.conflicts.Add(1)
	case err == nil:
		size := len(c.Record)
		for i := range c.Entries {
			size += len(c.Entries[i].Payload)
		}
		n.commits.Add(1)
		n.messages.Add(int64(len(c.Entries)))
		n.bytes.Add(int64(size))
	case !errors.As(err, &known) && !errors.Is(err, server.ErrForgotten):
		n.failed.Add(1)
	}
}

// Stats returns the counts. It does not block.
func (s *Store) Stats() Stats {
	n := &s.counts
	s.mu.Lock()
	heard := s.heard
	s.mu.Unlock()
	pending, age := n.pending.Now(time.Now())
	of := func(v *atomic.Int64) uint64 { return uint64(v.Load()) }
	return Stats{
		Commits: of(&n.commits), CommitTime: time.Duration(n.commitTime.Load()), Called: of(&n.called), Messages: of(&n.messages),
		Bytes: of(&n.bytes), Conflicts: of(&n.conflicts), InProcess: of(&n.inProcess), Unknown: of(&n.unknown),
		Resolved: of(&n.resolved), KnownIDs: of(&n.knownIDs), Failed: of(&n.failed), Waiting: int(n.waiting.Load()),
		Pending: pending, PendingTime: age, Lag: n.lag.Load(), Heard: time.Since(heard), Tails: of(&n.tails),
		Holes: of(&n.holes), Plain: of(&n.plain), Refused: of(&n.refused), Foreign: of(&n.foreign), Rewinds: of(&n.rewinds), Epochs: of(&n.epochs), Hits: of(&n.hits),
		Reads: of(&n.reads), Syncs: of(&n.syncs), Flights: of(&n.flights), SyncTime: time.Duration(n.syncTime.Load()),
	}
}

// LastRefused returns why the newest of Stats.Refused was left out, with its sequence; nil if there was none. It does not block.
func (s *Store) LastRefused() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}
