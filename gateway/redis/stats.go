package redis

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/limpet-go/limpet/gateway/internal/pending"
	"github.com/limpet-go/limpet/server"
)

// Stats are the current state of a Store and its counters since Open. Counters never decrease.
type Stats struct {
	Commits       uint64        // Commits that were done
	CommitEntries uint64        // messages in them
	CommitBytes   uint64        // bytes of messages and records in them
	CommitTime    time.Duration // of all Commits, whatever their result
	CommitCalls   uint64        // all Commits, whatever their result
	Conflicts     uint64        // Commits that met another version
	KnownIDs      uint64        // message ids that Commits met again
	Unknown       uint64        // Commits whose answer was lost at least once
	Resolved      uint64        // of them, those that a later try has found done, or has done
	Failed        uint64        // Commits that failed for a reason of Redis

	RingHits    uint64 // reads of messages that were in memory, the newest
	HistoryHits uint64 // reads of messages that were in memory, older ones
	Reads       uint64 // reads of older messages from Redis
	Waiting     int    // of them, those in progress or waiting for their turn

	Syncs    uint64        // calls of Sync
	SyncTime time.Duration // of all of them

	Pending     int           // calls of Load, Known, Commit and Sync in progress
	PendingTime time.Duration // for how long they have been, on average

	Divergences uint64 // damages of the log that this Store was the first to see: each has changed the epoch
	Epochs      uint64 // changes of the epoch that this Store has seen

	Head   uint64        // offset of the newest message here
	Behind uint64        // how many messages Redis had more when it was last read
	Silent time.Duration // since Redis last answered
}

type counters struct {
	pending pending.Calls // of Load, Known, Commit and Sync

	commits, commitEntries, commitBytes, commitCalls         atomic.Uint64
	conflicts, knownIDs, unknown, resolved, failed           atomic.Uint64
	ringHits, historyHits, reads, syncs, divergences, epochs atomic.Uint64
	commitTime, syncTime, waiting                            atomic.Int64
}

func (n *counters) committed(c *server.Change, size int, took time.Duration, err error) {
	n.commitCalls.Add(1)
	n.commitTime.Add(int64(took))
	var known *server.KnownError
	switch {
	case err == nil:
		n.commits.Add(1)
		n.commitEntries.Add(uint64(len(c.Entries)))
		n.commitBytes.Add(uint64(size))
	case errors.Is(err, server.ErrConflict):
		n.conflicts.Add(1)
	case errors.As(err, &known):
		n.knownIDs.Add(uint64(len(known.IDs)))
	case errors.Is(err, server.ErrForgotten):
	default:
		n.failed.Add(1)
	}
}

// Stats returns a snapshot. It does not block.
func (s *Store) Stats() Stats {
	n := &s.stats
	s.mu.Lock()
	head, engine, heard := s.tail.head, s.tail.engine, s.tail.heard
	s.mu.Unlock()
	pending, age := n.pending.Now(time.Now())
	return Stats{
		Commits: n.commits.Load(), CommitEntries: n.commitEntries.Load(), CommitBytes: n.commitBytes.Load(),
		CommitTime: time.Duration(n.commitTime.Load()), CommitCalls: n.commitCalls.Load(),
		Conflicts: n.conflicts.Load(), KnownIDs: n.knownIDs.Load(), Unknown: n.unknown.Load(), Resolved: n.resolved.Load(), Failed: n.failed.Load(),
		RingHits: n.ringHits.Load(), HistoryHits: n.historyHits.Load(), Reads: n.reads.Load(), Waiting: int(n.waiting.Load()),
		Syncs: n.syncs.Load(), SyncTime: time.Duration(n.syncTime.Load()), Pending: pending, PendingTime: age,
		Divergences: n.divergences.Load(), Epochs: n.epochs.Load(),
		Head: head, Behind: max(engine, head) - head, Silent: time.Since(heard),
	}
}
