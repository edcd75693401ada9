package limpet

import (
	"container/list"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/limpet-go/limpet/wire"
)

// admission admits messages to the window, in the order in which their
// publishers asked. Its lock is a leaf.
type admission struct {
	mu           sync.Mutex
	freeMessages int
	freeBytes    int
	waiters      list.List // *admissionWaiter
	closeErr     error     // set by close: why no message is admitted any more
}

type admissionWaiter struct {
	messages int
	bytes    int
	admitted chan struct{} // closed on admission, or by close
	err      error         // set by close before it closes admitted
}

func (a *admission) fits(messages, bytes int) bool {
	return messages <= a.freeMessages && bytes <= a.freeBytes
}

// acquire reserves room for a number of messages and their bytes, all of it or
// none. If there is not enough it returns ErrWindowFull or, with wait, blocks
// until there is, ctx ends (ctx's error, with ErrWindowFull) or admission is closed
// (close's error).
func (a *admission) acquire(ctx context.Context, messages, bytes int, wait bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a.mu.Lock()
	if a.closeErr != nil {
		defer a.mu.Unlock()
		return a.closeErr
	}
	if a.waiters.Len() == 0 && a.fits(messages, bytes) {
		a.freeMessages -= messages
		a.freeBytes -= bytes
		a.mu.Unlock()
		return nil
	}
	if !wait {
		a.mu.Unlock()
		return ErrWindowFull
	}
	w := &admissionWaiter{messages: messages, bytes: bytes, admitted: make(chan struct{})}
	place := a.waiters.PushBack(w)
	a.mu.Unlock()

	select {
	case <-w.admitted:
		return w.err
	case <-ctx.Done():
	}
	ctxErr := ctx.Err() // may be the caller's code: mu is not held
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-w.admitted: // at the moment at which ctx ended
		if w.err != nil {
			return w.err
		}
		a.freeMessages += messages
		a.freeBytes += bytes
	default:
		a.waiters.Remove(place)
	}
	a.admitWaiters() // a smaller request behind this one may fit
	return joinReason(ErrWindowFull, ctxErr)
}

// release returns room to the window and admits those who wait for it.
func (a *admission) release(messages, bytes int) {
	if messages == 0 && bytes == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.freeMessages += messages
	a.freeBytes += bytes
	a.admitWaiters()
}

// admitWaiters admits from the head of the list until a request does not fit.
// The caller holds the lock.
func (a *admission) admitWaiters() {
	for first := a.waiters.Front(); first != nil; first = a.waiters.Front() {
		w := first.Value.(*admissionWaiter)
		if !a.fits(w.messages, w.bytes) {
			return
		}
		a.waiters.Remove(first)
		a.freeMessages -= w.messages
		a.freeBytes -= w.bytes
		close(w.admitted)
	}
}

// closedBy returns the error of close, nil before it.
func (a *admission) closedBy() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.closeErr
}

// close makes every present and later acquire return err. The first error
// stays.
func (a *admission) close(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closeErr != nil {
		return
	}
	a.closeErr = err
	for e := a.waiters.Front(); e != nil; e = e.Next() {
		w := e.Value.(*admissionWaiter)
		w.err = err
		close(w.admitted)
	}
	a.waiters.Init()
}

// flushPoint is what calls of Flush wait for: that the messages up to seq have
// their outcomes. Calls without a message between them share one.
type flushPoint struct {
	seq       uint64
	waiters   int
	completed chan struct{}
}

// addFlushPoint returns the point that is completed when every message admitted so
// far has its outcome.
func (w *window) addFlushPoint() *flushPoint {
	if n := len(w.flushPoints); n == 0 || w.flushPoints[n-1].seq != w.lastSeq() {
		w.flushPoints = append(w.flushPoints, &flushPoint{seq: w.lastSeq(), completed: make(chan struct{})})
	}
	point := w.flushPoints[len(w.flushPoints)-1]
	point.waiters++
	w.completeFlushes()
	return point
}

// leaveFlushPoint removes a point for which nothing waits any more: the outcomes
// may take long.
func (w *window) leaveFlushPoint(point *flushPoint) {
	if point.waiters--; point.waiters > 0 {
		return
	}
	if i := slices.Index(w.flushPoints, point); i >= 0 {
		w.flushPoints = slices.Delete(w.flushPoints, i, i+1)
	}
}

func (w *window) completeFlushes() {
	for w.firstPending < w.slots.Len() && (*w.slots.At(w.firstPending)).decided != Pending {
		w.firstPending++
	}
	for len(w.flushPoints) > 0 && w.flushPoints[0].seq < w.firstSeq+uint64(w.firstPending) {
		close(w.flushPoints[0].completed)
		w.flushPoints = w.flushPoints[1:]
	}
	if len(w.flushPoints) == 0 {
		w.flushPoints = nil
	}
}

// oldestPending returns the moment of the admission of the oldest message without an
// outcome, as counters hold it; 0 without one.
func (w *window) oldestPending() int64 {
	if w.pending == 0 || w.firstPending >= w.admitted.Len() {
		return 0
	}
	return *w.admitted.At(w.firstPending)
}

// measure measures how long the messages that were resolved, [from, to), waited for their outcome.
func (w *window) measure(resolved []*Receipt) {
	h := w.counters.measured
	if h == nil {
		return
	}
	now := w.counters.moment(time.Now())
	for i, r := range resolved {
		if r.unpublished() {
			h.outcome.Add(time.Duration(now-*w.admitted.At(w.resolved[0] + i)), 1)
		}
	}
}

// sendAgain is a message that the server has not taken and that is to be sent again, for a
// dialect without sessions.
type sendAgain struct {
	seq uint64
	at  time.Time
}

// waitsAgain is the Receipt.sentIn of a message that waits for its time.
const waitsAgain = math.MaxUint32

// countBatch begins another batch.
func (w *window) countBatch() {
	if !w.sessions {
		w.batch = w.batch%(waitsAgain-1) + 1
	}
}

// rewind makes everything be sent on the next connection that was sent on this one.
func (w *window) rewind() {
	for _, r := range w.sentSlots() {
		if r.sentIn != waitsAgain {
			r.sentIn = 0
		}
	}
	w.nextToSend = 0
}

// sentSlots returns the slots that hold everything that was sent on this connection. One
// that is to be sent again takes nextToSend back.
func (w *window) sentSlots() []*Receipt {
	n := w.nextToSend
	if !w.sessions {
		n = max(n, min(int(w.highestSent+1-w.firstSeq), w.slots.Len()))
	}
	return w.slots.All()[:n]
}

// isInFlight reports whether r, one of sentSlots, was sent on this connection and is not
// settled.
func (w *window) isInFlight(r *Receipt) bool {
	return !r.settled && (w.sessions || r.sentIn != 0 && r.sentIn != waitsAgain)
}

// refusedForNow makes slot i wait until it may be sent again. It counts as never sent, unless
// an earlier connection may have carried it.
func (w *window) refusedForNow(i int, reject wire.Reject, now time.Time) {
	r := *w.slots.At(i)
	if r.settled || r.sentIn == 0 || r.sentIn == waitsAgain {
		return
	}
	r.sentIn = waitsAgain
	if !r.atLeastOnce {
		r.firstSent = 0
	}
	if d := r.details; d != nil && !d.expires.IsZero() && (w.nextExpiry.IsZero() || d.expires.Before(w.nextExpiry)) {
		w.nextExpiry = d.expires
	}
	next := sendAgain{reject.Seq, now.Add(min(reject.Retry, maxRetryAfter))}
	at, _ := slices.BinarySearchFunc(w.again, next, func(a, b sendAgain) int {
		if a.at.After(b.at) {
			return 1
		}
		return -1 // behind those of the same time
	})
	w.again = slices.Insert(w.again, at, next)
	if w.notify != nil {
		w.notify.post(ServerNotice{shownCode(reject.Code, reject.PeerCode), peerText(reject.Reason)})
	}
}

// takeAgain makes the messages be sent whose time has come.
func (w *window) takeAgain(now time.Time) {
	for len(w.again) > 0 && due(w.again[0].at, now) {
		if i, r := w.lookup(w.again[0].seq); r != nil && r.sentIn == waitsAgain {
			r.sentIn = 0
			w.nextToSend = min(w.nextToSend, i)
		}
		w.again = w.again[1:]
	}
	if len(w.again) == 0 {
		w.again = nil
	}
}

// nextAgain is when the next message is to be sent again; zero: none.
func (w *window) nextAgain() (at time.Time) {
	if len(w.again) > 0 {
		at = w.again[0].at
	}
	return at
}

// appendReused extends s by one element. The element is zero, or as
// encodeArgs.reset left it.
func appendReused[T any](s []T) ([]T, *T) {
	if len(s) == cap(s) {
		s = slices.Grow(s, 1)
	}
	s = s[:len(s)+1]
	return s, &s[len(s)-1]
}
