// Package outbox is where a client keeps what it has not yet handed over, so
// that it survives the process. It holds the interface that a store implements.
package outbox

import "time"

// Record is one message that has no outcome yet.
type Record struct {
	Seq       uint64
	ID        [16]byte
	Topic     string
	Type      string
	Header    map[string]string
	Payload   []byte
	FirstSent time.Time // wall clock of the first transmission attempt; zero if there was none
	Expires   time.Time // zero: never
}

// Store keeps records in the order of Append. One goroutine calls it; a Store
// belongs to one client at a time.
type Store interface {
	// Append makes records durable before it returns, in one commit.
	Append(records []Record) error

	// Remove forgets the records with these sequence numbers.
	Remove(seqs []uint64) error

	// Each calls f for every record, oldest first, until f returns false.
	Each(f func(Record) bool) error

	// Close releases the store; its records stay.
	Close() error
}
