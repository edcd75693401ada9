package feed

import "sync"

// maxOpen bounds the requests of one connection that wait for their answer. Beyond it
// the oldest is forgotten: the client asks again for what has no answer.
const maxOpen = 4096

// pendingRequest is a request without an answer.
type pendingRequest struct {
	topics []string
	end    bool // it unsubscribes
}

// ledger holds the requests of one connection by id. Encode writes on the client's
// loop what Decode takes on its reader.
type ledger struct {
	mu    sync.Mutex
	open  map[uint64]pendingRequest
	order []uint64 // ids, the oldest first; some were taken already
}

// put notes a request with a new id.
func (l *ledger) put(id uint64, p pendingRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[uint64]pendingRequest{}
	}
	if len(l.order) == 2*maxOpen { // as many were taken at least
		kept := l.order[:0]
		for _, old := range l.order {
			if _, ok := l.open[old]; ok {
				kept = append(kept, old)
			}
		}
		l.order = kept
	}
	for len(l.open) >= maxOpen {
		delete(l.open, l.order[0])
		l.order = l.order[1:]
	}
	l.open[id] = p
	l.order = append(l.order, id)
}

// take removes a request and returns it.
func (l *ledger) take(id uint64) (pendingRequest, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.open[id]
	delete(l.open, id)
	return p, ok
}
