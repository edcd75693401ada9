package server

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"math/bits"
	"slices"
	"time"

	"github.com/limpet-go/limpet/wire"
	"github.com/limpet-go/limpet/wire/native"
)

// recentIDs is for how many of the newest messages a record knows the id.
const recentIDs = 16

// record is what the server knows about a session (docs/protocol.md, section 3). It
// is independent of connections, locks and clocks.
type record struct {
	sid       string
	principal string
	key       keyHash // of the newest resume key
	prev      keyHash // of the key before it, until the client has proved to have the newest; zero: none
	cn        uint64  // number of the newest connection
	se        uint64  // session epoch
	carried   uint64  // sequence numbers up to it may hold messages first sent in an earlier epoch
	ttl       time.Duration
	bound     bool                 // a connection has the session
	conflicts [conflictCount]int64 // last evictions of a live connection, the oldest first: ms since 1970; 0: none

	ack      uint64          // every sequence number up to it has an outcome
	tag      wire.ID         // id of message ack
	hasTag   bool            // false at 0 and after messages that the client gave up
	bitmap   []uint64        // outcomes above ack: bit (s mod window) of sequence number s; nil while there are none
	window   uint64          // a multiple of 64
	rejected []native.Reject // by sequence number; code 0: accepted before, under the same id
	recent   recentMessages  // the newest ones
}

// recentMessages are the ids of messages as they are stored: at the place sequence number mod
// recentIDs, the number (big-endian) and the id.
type recentMessages [recentIDs * recentSize]byte

const recentSize = 8 + 16

func (r *recentMessages) set(seq uint64, id wire.ID) {
	place := r[seq%recentIDs*recentSize:][:recentSize]
	binary.BigEndian.PutUint64(place, seq)
	copy(place[8:], id[:])
}

// idOf returns the id of message seq, if that is one of them.
func (r *recentMessages) idOf(seq uint64) (id wire.ID, found bool) {
	place := r[seq%recentIDs*recentSize:][:recentSize]
	copy(id[:], place[8:])
	return id, seq != 0 && binary.BigEndian.Uint64(place) == seq
}

// has reports whether seq has an outcome.
func (r *record) has(seq uint64) bool {
	if seq <= r.ack {
		return true
	}
	if r.bitmap == nil || seq-r.ack > r.window {
		return false
	}
	i := seq % r.window
	return r.bitmap[i/64]&(1<<(i%64)) != 0
}

// after returns the lowest seq above the given one without an outcome.
func (r *record) after(seq uint64) uint64 {
	seq++
	for r.has(seq) {
		seq++
	}
	return seq
}

// mark records the outcome of seq, which must be in the window and have none. Code 0
// means accepted: now, or before under the same id if told is set. Then WELCOME repeats it.
func (r *record) mark(seq uint64, id wire.ID, code uint64, told bool) {
	r.recent.set(seq, id)
	if told {
		i, _ := r.findRejection(seq)
		r.rejected = slices.Insert(r.rejected, i, native.Reject{S: seq, Code: code})
	}
	if seq != r.ack+1 {
		if r.bitmap == nil {
			r.bitmap = make([]uint64, r.window/64)
		}
		i := seq % r.window
		r.bitmap[i/64] |= 1 << (i % 64)
		return
	}
	r.ack = seq
	for r.bitmap != nil && r.has(r.ack+1) {
		i := (r.ack + 1) % r.window
		r.bitmap[i/64] &^= 1 << (i % 64)
		r.ack++
	}
	r.tag, r.hasTag = r.idOf(r.ack)
	if !slices.ContainsFunc(r.bitmap, func(w uint64) bool { return w != 0 }) {
		r.bitmap = nil
	}
	r.prune()
}

// prune forgets outcomes that the client has received for certain: it could send
// seq s only after the credit that travels with all outcomes up to s-window.
func (r *record) prune() {
	n := 0
	for n < len(r.rejected) && uint64(len(r.rejected)-n) > r.window && r.rejected[n].S+r.window <= r.ack {
		n++
	}
	r.rejected = slices.Delete(r.rejected, 0, n)
}

// idOf returns the id of message seq if the record still knows it.
func (r *record) idOf(seq uint64) (wire.ID, bool) {
	if id, found := r.recent.idOf(seq); found {
		return id, true
	}
	if seq == r.ack && r.hasTag {
		return r.tag, true
	}
	return wire.ID{}, false
}

// outcomeOf returns the code with which seq was rejected, or 0 if it was not.
func (r *record) outcomeOf(seq uint64) uint64 {
	if i, found := r.findRejection(seq); found {
		return r.rejected[i].Code
	}
	return 0
}

// findRejection returns the place of seq in rejected, and whether it is there.
func (r *record) findRejection(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(r.rejected, seq, func(n native.Reject, s uint64) int { return cmp.Compare(n.S, s) })
}

// sack returns the ranges above ack that have an outcome, at most n of them.
func (r *record) sack(n int) []wire.Range {
	if r.bitmap == nil {
		return nil
	}
	left := 0
	for _, w := range r.bitmap {
		left += bits.OnesCount64(w)
	}
	var out []wire.Range
	for s := r.ack + 2; left > 0 && len(out) < n; s++ {
		if !r.has(s) {
			continue
		}
		lo := s
		for r.has(s) {
			s++
			left--
		}
		out = append(out, wire.Range{Lo: lo, Hi: s - 1})
	}
	return out
}

// giveUp records that the client will never send the sequence numbers below lo.
func (r *record) giveUp(lo uint64, up *native.Uplink) {
	for r.ack < lo-1 && r.bitmap != nil && lo-1-r.ack <= r.window {
		i := (r.ack + 1) % r.window
		r.bitmap[i/64] &^= 1 << (i % 64)
		r.ack++
	}
	if r.ack < lo-1 {
		r.ack, r.bitmap = lo-1, nil
	}
	r.tag, r.hasTag = up.Tag, up.HasTag
	for r.bitmap != nil && r.has(r.ack+1) {
		i := (r.ack + 1) % r.window
		r.bitmap[i/64] &^= 1 << (i % 64)
		r.ack++
		r.tag, r.hasTag = r.idOf(r.ack)
	}
}

// settled forgets the rejections below lo, which the client has processed.
func (r *record) settled(lo uint64) {
	r.rejected = slices.DeleteFunc(r.rejected, func(n native.Reject) bool { return n.S < lo })
}

// rolledBack reports whether up contradicts the record: the client must have been
// restored from an old copy.
func (r *record) rolledBack(up *native.Uplink) bool {
	if up == nil {
		return false
	}
	if up.Hi < r.ack {
		return true
	}
	if !up.HasTag || up.Lo == 0 {
		return false
	}
	id, ok := r.idOf(up.Lo - 1)
	return ok && id != up.Tag
}

// keyHash is the SHA-256 of a resume key.
type keyHash [sha256.Size]byte

// matches reports whether key is the newest resume key or the one before it.
func (r *record) matches(key []byte) bool {
	h := hashKey(key)
	ok := subtle.ConstantTimeCompare(h[:], r.key[:])
	old := subtle.ConstantTimeCompare(h[:], r.prev[:]) // no known key has the hash zero
	return ok|old == 1
}

// rotate returns a new resume key. The key that the client presented stays valid
// until the client proves that it has the new one.
func (r *record) rotate(presented []byte) []byte {
	key := make([]byte, 32)
	rand.Read(key) // never fails (crypto/rand)
	r.prev = keyHash{}
	if presented != nil {
		r.prev = hashKey(presented)
	}
	r.key = hashKey(key)
	return key
}

func hashKey(key []byte) keyHash { return sha256.Sum256(key) }
