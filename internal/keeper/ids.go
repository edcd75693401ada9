package keeper

import (
	"hash/maphash"

	"github.com/limpet-go/limpet/outbox"
)

// IDs knows what an outbox holds by id. It belongs to one goroutine. Use NewIDs.
type IDs[R comparable] struct {
	seed maphash.Seed
	of   map[outbox.ID]identified[R]
}

type identified[R any] struct {
	item R
	sum  uint64 // of the content, which need not be kept for as long as the id
}

// NewIDs returns IDs without any.
func NewIDs[R comparable]() *IDs[R] {
	return &IDs[R]{maphash.MakeSeed(), map[outbox.ID]identified[R]{}}
}

// sum returns a checksum of the content of a message.
func (x *IDs[R]) sum(topic string, payload []byte) uint64 {
	return maphash.String(x.seed, topic) ^ 3*maphash.Bytes(x.seed, payload)
}

// Add adds an item.
func (x *IDs[R]) Add(id outbox.ID, r R, topic string, payload []byte) {
	x.of[id] = identified[R]{r, x.sum(topic, payload)}
}

// Find returns the item with an id, whether there is one, and whether it has this content.
func (x *IDs[R]) Find(id outbox.ID, topic string, payload []byte) (r R, found, same bool) {
	if len(x.of) == 0 {
		return r, false, false
	}
	i, found := x.of[id]
	return i.item, found, found && i.sum == x.sum(topic, payload)
}

// Remove removes r.
func (x *IDs[R]) Remove(id outbox.ID, r R) {
	if i, found := x.of[id]; found && i.item == r {
		delete(x.of, id)
	}
}
