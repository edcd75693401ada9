package limpet

import (
	"time"

	"github.com/limpet-go/limpet/wire"
)

// peerIsSilent reports whether the peer is dead. If this process itself stood
// still, for example while the machine slept, the peer gets one more interval.
func (l *loop) peerIsSilent(k *link) bool {
	if !k.ready || l.now.Before(k.silentAt()) {
		return false
	}
	if late := l.now.Sub(l.timerAt); k.graceUntil.IsZero() && !l.timerAt.IsZero() && late > k.heartbeat/2 {
		k.graceUntil = l.now.Add(k.heartbeat)
		k.pingAt = l.now
		return false
	}
	return true
}

// silentAt is when the peer counts as dead if it gives no sign of life before.
func (k *link) silentAt() time.Time {
	k.noteProgress()
	lastSign := later(k.conn.LastRead(), k.moved)
	return later(lastSign.Add(silenceAllowed(k.heartbeat, k.silences)), k.graceUntil)
}

// peerWasSilent makes the next connection write less at once and, if this one carried
// no message, wait longer for a sign of life: the peer of a slow link may be alive.
func (l *loop) peerWasSilent(k *link) {
	if k.writing {
		l.writeBytes = max(l.writeBytes/4, minWriteBytes)
	}
	if !k.proved && !l.hasReceived(k) {
		l.silences++
	}
}

// silenceAllowed is how long a peer may give no sign of life after a number of
// connections in a row that ended in silence.
func silenceAllowed(heartbeat time.Duration, silences int) time.Duration {
	d := time.Duration(silentIntervals * float64(heartbeat))
	longest := max(d, maxSilence)
	for range silences {
		if d = d * 8 / 5; d >= longest {
			return longest
		}
	}
	return d
}

// noteProgress takes bytes that the write in progress has moved after a while for a
// sign of life: the peer has taken what filled the socket before. A write that does not
// wait is none, since a socket accepts bytes for a peer that is gone.
func (k *link) noteProgress() {
	if at := k.conn.LastWrote(); k.writing && at.Sub(k.writeStarted) >= min(k.heartbeat/10, 100*time.Millisecond) {
		k.moved = at
	}
}

// stalledAt is when the write in progress counts as stalled if no byte is written
// before.
func (k *link) stalledAt() time.Time {
	return later(k.conn.LastWrote(), k.writeStarted).Add(stallTimeout)
}

// sendHeartbeat asks the peer for a sign of life when a heartbeat is due.
func (l *loop) sendHeartbeat(k *link) {
	if !k.pingSent.IsZero() {
		if pong := k.conn.FirstPong(); !pong.IsZero() {
			l.c.counters.pinged(&k.pingSent, pong)
		}
	}
	if !due(k.pingAt, l.now) {
		return
	}
	k.pingAt = l.now.Add(k.heartbeat)
	switch l.howToPing(k) {
	case wire.PingOp:
		if !k.pingQueued { // one is enough while a write takes long
			k.pingQueued, k.pingSent = true, l.now
			k.replies = append(k.replies, wire.Op{Kind: wire.OpPing, N: k.conn.gen})
		}
	case wire.PingControl:
		if k.pinging || !l.roomForPing(k) {
			return
		}
		k.pinging, k.pingSent = true, l.now
		k.conn.ExpectPong()
		l.c.goroutines.Go(func() {
			_ = k.conn.Ping() // the reader reports its failure
			l.c.inbox.post(ponged{k.conn})
		})
	}
}
