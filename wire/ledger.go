package wire

import (
	"fmt"
	"sync"
)

// Ledger passes facts from Encode to Decode of one connection: what a reply that
// carries only a token answers. Encode puts a fact under the token before it appends
// the frame; Decode takes it when the reply comes. Make one in Open, with NewLedger:
// what one connection expects has no meaning on the next. A Ledger is safe for
// concurrent use and holds its lock only for a moment, so it is the one thing that the
// two halves of a Codec may share.
type Ledger[K comparable, V any] struct {
	limit int

	mu    sync.Mutex
	facts map[K]V
}

// NewLedger returns a Ledger that holds at most limit facts. A server that does not
// reply must not fill the memory.
func NewLedger[K comparable, V any](limit int) *Ledger[K, V] {
	return &Ledger[K, V]{limit: max(limit, 1), facts: map[K]V{}}
}

// Put remembers v under token, in place of an earlier fact. The error is a
// *LedgerError if limit facts wait for replies; return it from Encode in an *OpError,
// or as it is to end the connection.
func (l *Ledger[K, V]) Put(token K, v V) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, held := l.facts[token]; !held && len(l.facts) >= l.limit {
		return &LedgerError{l.limit}
	}
	l.facts[token] = v
	return nil
}

// Take returns the fact under token and forgets it, or reports false if there is none.
func (l *Ledger[K, V]) Take(token K) (v V, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok = l.facts[token]
	delete(l.facts, token)
	return v, ok
}

// Get returns the fact under token and keeps it, or reports false if there is none.
func (l *Ledger[K, V]) Get(token K) (v V, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok = l.facts[token]
	return v, ok
}

// Len returns how many facts are held.
func (l *Ledger[K, V]) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.facts)
}

// LedgerError means that a Ledger is full: the server has not replied to that many
// requests.
type LedgerError struct {
	Limit int // of the Ledger
}

// Error returns the limit.
func (e *LedgerError) Error() string {
	return fmt.Sprintf("wire: the server has not replied to %d requests", e.Limit)
}
