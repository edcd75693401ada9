package sequence

import (
	"slices"

	"github.com/limpet-go/limpet/wire"
)

// recentIDs remembers the latest ids, for servers that may send a message again.
// With limit 0 it remembers none.
type recentIDs struct {
	limit  int
	known  map[wire.ID]struct{}
	order  []wire.ID
	oldest int // index in order, once there are limit ids
}

// holds reports whether id is among the latest.
func (r *recentIDs) holds(id wire.ID) bool {
	_, ok := r.known[id]
	return ok
}

// forget makes the next message with id no duplicate.
func (r *recentIDs) forget(id wire.ID) {
	if r.holds(id) {
		delete(r.known, id)
		r.order[slices.Index(r.order, id)] = wire.ID{}
	}
}

// add remembers the id of a message that was accepted. The limit is not 0.
func (r *recentIDs) add(id wire.ID) {
	if id == (wire.ID{}) || r.holds(id) {
		return
	}
	if r.known == nil {
		r.known = make(map[wire.ID]struct{})
	}
	if len(r.order) < r.limit {
		r.order = append(r.order, id)
	} else {
		delete(r.known, r.order[r.oldest])
		r.order[r.oldest] = id
		r.oldest = (r.oldest + 1) % r.limit
	}
	r.known[id] = struct{}{}
}
